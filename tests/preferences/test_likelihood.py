"""Fitted scales and cross-validation, on synthetic answers and on the published human ones."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from prefrl.data.files import human
from prefrl.preferences.likelihood import (
    DESIGNS,
    accuracy,
    cross_entropy,
    cross_validated_cross_entropy,
    fit_scale,
)


def answers(
    weights: tuple[float, float, float], count: int = 4_000, *, seed: int = 0, ties: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Statistics, and labels drawn from logistic(weights . statistics)."""
    rng = np.random.default_rng(seed)
    statistics = rng.normal(size=(count, 3)) * 4.0
    labels = (rng.random(count) < 1.0 / (1.0 + np.exp(-statistics @ weights))).astype(float)
    labels[rng.random(count) < ties] = 0.5
    return torch.tensor(statistics), torch.tensor(labels)


def test_the_designs_are_the_models() -> None:
    statistics = torch.tensor([[2.0, 3.0, 7.0]], dtype=torch.float64)
    scores = {name: (statistics @ design)[0].tolist() for name, design in DESIGNS.items()}
    assert scores == {
        "uninformed": [], "partial_return": [2.0], "regret": [2.0 - 3.0 + 7.0], "expanded": [2.0, 3.0, 7.0]
    }  # fmt: skip


@pytest.mark.parametrize(
    ("model", "truth"),
    [("partial_return", (0.3, 0.0, 0.0)), ("regret", (0.2, -0.2, 0.2)), ("expanded", (0.3, -0.15, 0.3))],
)
def test_fitted_weights_are_those_that_answered(model: str, truth: tuple[float, float, float]) -> None:
    fitted = fit_scale(*answers(truth, 40_000), model)
    assert (DESIGNS[model] @ fitted - torch.tensor(truth, dtype=torch.float64)).abs().max() < 0.02


@pytest.mark.parametrize("model", ["partial_return", "regret", "expanded"])
def test_fitted_weights_maximise_the_likelihood(model: str) -> None:
    statistics, labels = answers((0.3, -0.1, 0.2), 500, ties=0.1)

    def loss(weights: np.ndarray) -> float:
        z = statistics.numpy() @ DESIGNS[model].numpy() @ weights
        return float((np.logaddexp(0.0, z) - labels.numpy() * z).mean())

    best = minimize(loss, np.zeros(DESIGNS[model].shape[1]), method="BFGS", options={"gtol": 1e-9})
    fitted = fit_scale(statistics, labels, model)
    assert cross_entropy(statistics, labels, model, fitted).mean().item() <= best.fun + 1e-10
    np.testing.assert_allclose(fitted.numpy(), best.x, atol=1e-5)


def test_uninformed_answers_cost_log_two() -> None:
    statistics, labels = answers((0.3, 0.0, 0.0), 200)
    assert fit_scale(statistics, labels, "uninformed").shape == (0,)
    entropy = cross_validated_cross_entropy(statistics, labels, "uninformed", repeats=2)
    assert entropy == pytest.approx(math.log(2.0), abs=1e-12)


@pytest.mark.parametrize("model", ["partial_return", "regret", "expanded"])
def test_cross_validation_equals_its_plain_twin(model: str) -> None:
    """Every row is predicted once per repeat, by a fit to the other folds; 43 rows make uneven folds."""
    statistics, labels = answers((0.1, -0.1, 0.1), 43, ties=0.1)
    rng, means = np.random.default_rng(5), []
    for _ in range(3):
        folds = rng.permutation(np.arange(43) % 4)
        for k in range(4):
            train, test = torch.tensor(folds != k), torch.tensor(folds == k)
            weights = fit_scale(statistics[train], labels[train], model)
            means.append(cross_entropy(statistics[test], labels[test], model, weights).mean().item())
    actual = cross_validated_cross_entropy(statistics, labels, model, folds=4, repeats=3, seed=5)
    assert actual == pytest.approx(np.mean(means), abs=1e-9)


def test_the_true_model_predicts_best() -> None:
    for truth, name in (((0.3, 0.0, 0.0), "partial_return"), ((0.2, -0.2, 0.2), "regret")):
        data = answers(truth, 1_000)
        entropy = {model: cross_validated_cross_entropy(*data, model, repeats=2) for model in DESIGNS}
        other = {"partial_return": "regret", "regret": "partial_return"}[name]
        assert entropy[name] < entropy[other] - 0.05
        assert entropy[name] < entropy["uninformed"] - 0.05
        assert entropy["expanded"] == pytest.approx(entropy[name], abs=0.01)


def test_test_rows_are_not_fitted() -> None:
    """Answers by chance: with many weights for few rows, the fit looks better than it is."""
    statistics, _ = answers((0.0, 0.0, 0.0), 30)
    labels = torch.tensor(np.random.default_rng(3).integers(0, 2, 30)).double()
    fitted = cross_entropy(statistics, labels, "expanded", fit_scale(statistics, labels, "expanded")).mean()
    assert fitted < math.log(2.0) < cross_validated_cross_entropy(statistics, labels, "expanded")


def test_the_split_is_seeded() -> None:
    data = answers((0.3, 0.0, 0.0), 100)
    runs = [cross_validated_cross_entropy(*data, "expanded", repeats=1, seed=seed) for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


def test_accuracy_by_hand() -> None:
    """Ties are left out; where the model is undecided, it is right half the time."""
    statistics = torch.tensor([[1.0, 0, 0], [-2.0, 0, 0], [3.0, 0, 5.0], [0.0, 0, 1.0], [9.0, 0, 0]]).double()
    labels = torch.tensor([1.0, 1.0, 0.0, 1.0, 0.5], dtype=torch.float64)
    assert accuracy(statistics, labels, "partial_return") == (1.0 + 0.0 + 0.0 + 0.5) / 4
    assert accuracy(statistics, labels, "regret") == (1.0 + 0.0 + 0.0 + 1.0) / 4
    with pytest.raises(ValueError, match="model is 'expanded'; accuracy needs one with a single scale"):
        accuracy(statistics, labels, "expanded")


def test_wrong_arguments_are_refused() -> None:
    statistics, labels = answers((0.1, 0.1, 0.1), 20)
    with pytest.raises(ValueError, match=r"statistics have shape \(20, 2\); they must be \[20, 3\]"):
        cross_validated_cross_entropy(statistics[:, :2], labels, "regret")
    for folds, repeats in ((1, 1), (21, 1), (5, 0)):
        with pytest.raises(ValueError, match=f"folds is {folds} and repeats {repeats}; there are 20 rows"):
            cross_validated_cross_entropy(statistics, labels, "regret", folds=folds, repeats=repeats)
    for function in (cross_validated_cross_entropy, fit_scale):
        with pytest.raises(ValueError, match="model is 'guess'; it must be one of"):
            function(statistics, labels, "guess")
    with pytest.raises(ValueError, match="model is 'guess'; it must be one of"):
        accuracy(statistics, labels, "guess")


@pytest.mark.needs_human_data
def test_the_published_accuracies(human_data: Path) -> None:
    published = {
        "Privileged-Control": (0.600, 0.719),
        "Pr-Privileged": (0.832, 0.755),
        "Regret-Privileged": (0.696, 0.843),
    }
    for condition, (returns, regret) in published.items():
        statistics = human.load_human_statistics(human_data, condition)
        labels = human.load_human_preferences(human_data, condition).labels
        assert accuracy(statistics, labels, "partial_return") == pytest.approx(returns, abs=0.002)
        assert accuracy(statistics, labels, "regret") == pytest.approx(regret, abs=0.002)


@pytest.mark.needs_human_data
@pytest.mark.parametrize(
    ("model", "published"),
    [("uninformed", 0.6931), ("partial_return", 0.620), ("regret", 0.573), ("expanded", 0.5486)],
)
def test_the_published_cross_entropies(human_data: Path, model: str, published: float) -> None:
    condition = "Privileged-Control"
    statistics = human.load_human_statistics(human_data, condition)
    labels = human.load_human_preferences(human_data, condition).labels
    assert len(labels) == 1793
    entropy = cross_validated_cross_entropy(statistics, labels, model)
    assert entropy == pytest.approx(published, abs=0.004)
