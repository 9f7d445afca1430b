"""Shapley values against orders gone through one by one, Bayes' worths, importances."""

import itertools

import gymnasium as gym
import numpy as np
import pytest
import torch

import prefrl.envs
from prefrl.functional.shapley import (
    fact_importance,
    item_worths,
    shapley_by_permutations,
    shapley_values,
    subsets,
)

assert prefrl.envs.REGISTRY


def drawn(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_values_are_means_over_all_orders() -> None:
    worths = drawn(2, 2**4)
    expected = torch.zeros(2, 4, dtype=torch.float64)
    for order in itertools.permutations(range(4)):
        before = 0
        for player in order:
            expected[:, player] += (worths[:, before | 1 << player] - worths[:, before]) / 24.0
            before |= 1 << player
    torch.testing.assert_close(shapley_values(worths), expected, rtol=0.0, atol=1e-14)


def test_values_sum_to_what_all_are_worth() -> None:
    worths = drawn(10, 2**8)
    gap = shapley_values(worths).sum(-1) - (worths[:, -1] - worths[:, 0])
    assert gap.abs().max() <= 1e-12


def test_drawn_orders_are_near_and_sum_up() -> None:
    worths, generator = drawn(3, 2**6), torch.Generator().manual_seed(0)

    def worth(members: torch.Tensor) -> torch.Tensor:
        return worths[:, (members * 2 ** torch.arange(6)).sum(-1)]

    found = shapley_by_permutations(worth, 6, 500, generator)
    assert (found - shapley_values(worths)).abs().mean() <= 0.03
    torch.testing.assert_close(found.sum(-1), worths[:, -1] - worths[:, 0], rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("error", [0.0, 0.2])
def test_worths_of_items_are_the_posterior_of_the_environment(error: float) -> None:
    env = gym.make("prefrl/TwentyQuestions-v0", items=7, features=4, error=error).unwrapped
    features, prior = torch.as_tensor(env.item_features()), torch.as_tensor(env.prior())  # type: ignore[attr-defined]
    members = subsets(4)
    found = item_worths(prior, features, members, error)
    for item in range(7):
        answers = np.where(env.item_features()[item], 1.0, -1.0) * members.numpy()  # type: ignore[attr-defined]
        posterior = env.posterior(np.concatenate([answers, np.zeros((16, 1))], 1))  # type: ignore[attr-defined]
        np.testing.assert_allclose(found[item].exp(), posterior[:, item], atol=1e-12)


def test_a_softmax_pays_facts_of_negative_value() -> None:
    values = torch.tensor([-3.1, 1.95], dtype=torch.float64)
    assert fact_importance(values)[0] == pytest.approx(0.074, abs=5e-4)
    assert fact_importance(values, "z_score").tolist() == pytest.approx([-1.0, 1.0])
    assert fact_importance(values, "none").tolist() == [-3.1, 1.95]
    assert fact_importance(torch.ones(3), "z_score").tolist() == [0.0, 0.0, 0.0]
    assert fact_importance(values, temperature=1e6).tolist() == pytest.approx([0.5, 0.5], abs=1e-5)


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="worths has 6 subsets"):
        shapley_values(torch.zeros(6))
    with pytest.raises(ValueError, match="players is 21"):
        subsets(21)
    with pytest.raises(ValueError, match="permutations 0"):
        shapley_by_permutations(lambda members: members, 3, 0, torch.Generator())
    with pytest.raises(ValueError, match="temperature is 0"):
        fact_importance(torch.ones(3), temperature=0.0)
    with pytest.raises(ValueError, match="normalisation is 'max'"):
        fact_importance(torch.ones(3), "max")  # type: ignore[arg-type]
