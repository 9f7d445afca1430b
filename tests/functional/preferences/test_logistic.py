"""Batched logistic regression against scipy, and where the data leave the minimum open."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from scipy.optimize import minimize
from torch import Tensor

from prefrl.functional.preferences.logistic import logistic_regression

ones = torch.ones_like


def close(actual: Tensor, expected: Tensor, atol: float) -> None:
    torch.testing.assert_close(actual, expected, rtol=0.0, atol=atol)


def problem(
    seed: int, fits: int = 1, rows: int = 80, columns: int = 3, hard: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, labels drawn from a random model (or its probabilities), and weights."""
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(fits, rows, columns)) * rng.choice([0.1, 1.0, 5.0], size=columns)
    chances = 1.0 / (1.0 + np.exp(-inputs @ (0.5 * rng.normal(size=columns))))
    labels = rng.random(chances.shape) < chances if hard else chances
    weights = rng.random((fits, rows)) + 0.1
    return tuple(torch.tensor(a, dtype=torch.float64) for a in (inputs, labels, weights))  # type: ignore[return-value]


def reference(inputs: Tensor, labels: Tensor, weights: Tensor, ridge: float) -> tuple[np.ndarray, float]:
    """Minimise the loss of one fit with scipy, which shares no code with ours."""
    x, y, share = inputs.numpy(), labels.numpy(), (weights / weights.sum()).numpy()

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        z = x @ w
        p = 1.0 / (1.0 + np.exp(-z))
        value = share @ (np.logaddexp(0.0, z) - y * z) + ridge / 2.0 * w @ w
        return float(value), x.T @ (share * (p - y)) + ridge * w

    options = {"gtol": 1e-11, "maxiter": 10_000}
    best = minimize(loss, np.zeros(x.shape[1]), jac=True, method="BFGS", options=options)
    return best.x, float(best.fun)


def loss_of(inputs: Tensor, labels: Tensor, weights: Tensor, fit: Tensor, ridge: float = 0.0) -> Tensor:
    z = torch.einsum("bnk,bk->bn", inputs, fit)
    entropy = torch.logaddexp(z, torch.zeros_like(z)) - labels * z
    return (weights * entropy).sum(-1) / weights.sum(-1) + ridge / 2.0 * fit.square().sum(-1)


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 1e-3, 1.0]), st.integers(1, 5), st.booleans())
def test_agrees_with_scipy(seed: int, ridge: float, columns: int, hard: bool) -> None:
    inputs, labels, weights = problem(seed, columns=columns, hard=hard)
    fit = logistic_regression(inputs, labels, weights, ridge=ridge)
    _, best = reference(inputs[0], labels[0], weights[0], ridge)
    assert loss_of(inputs, labels, weights, fit, ridge).item() <= best + 1e-12
    p = torch.sigmoid(torch.einsum("bnk,bk->bn", inputs, fit))
    share = weights / weights.sum(-1, keepdim=True)
    gradient = torch.einsum("bn,bnk->bk", share * (p - labels), inputs) + ridge * fit
    assert gradient.abs().max() < 1e-5


def test_the_coefficients_agree_with_scipy() -> None:
    inputs, labels, weights = problem(0, rows=400)
    wanted, _ = reference(inputs[0], labels[0], weights[0], 0.0)
    close(logistic_regression(inputs, labels, weights)[0], torch.tensor(wanted), 1e-7)


def test_one_coefficient_by_hand() -> None:
    """Three of four prefer what one unit more of the input brings: logistic(w) = 3/4."""
    inputs = torch.ones(1, 4, 1, dtype=torch.float64)
    labels = torch.tensor([[1.0, 1.0, 1.0, 0.0]], dtype=torch.float64)
    fit = logistic_regression(inputs, labels, ones(labels))
    assert fit.item() == pytest.approx(math.log(3.0), abs=1e-9)
    # A weight of 3 on the one who does not makes it even; a weight of 0 leaves him out altogether.
    even = torch.tensor([[1.0, 1.0, 1.0, 3.0]], dtype=torch.float64)
    assert logistic_regression(inputs, labels, even).item() == pytest.approx(0.0, abs=1e-9)
    # Two equal answers of probability 3/4 are the same data.
    soft = torch.full((1, 4), 0.75, dtype=torch.float64)
    assert logistic_regression(inputs, soft, ones(soft)).item() == pytest.approx(math.log(3.0), abs=1e-9)


def test_ties_pull_to_zero() -> None:
    inputs, labels, weights = problem(1)
    tied = torch.full_like(labels, 0.5)
    assert logistic_regression(inputs, tied, weights).abs().max() < 1e-9


def test_whole_weights_are_repetitions() -> None:
    inputs, labels, _ = problem(2)
    counts = torch.tensor(np.random.default_rng(0).integers(0, 4, size=labels.shape[1]))
    weighted = logistic_regression(inputs, labels, counts[None].double())
    repeated = logistic_regression(
        inputs[:, torch.arange(80).repeat_interleave(counts)],
        labels[:, torch.arange(80).repeat_interleave(counts)],
        torch.ones(1, int(counts.sum()), dtype=torch.float64),
    )
    close(weighted, repeated, 1e-7)


def test_the_scale_of_the_weights_does_not_matter() -> None:
    inputs, labels, weights = problem(3)
    expected = logistic_regression(inputs, labels, weights, ridge=0.01)
    for factor in (1e-12, 1e9):
        close(logistic_regression(inputs, labels, factor * weights, ridge=0.01), expected, 1e-7)


def test_a_batch_equals_one_at_a_time_with_ragged_padding() -> None:
    fits = [problem(seed, rows=rows) for seed, rows in enumerate((80, 30, 55, 12))]
    inputs, labels, weights = torch.full((4, 80, 3), 7.0).double(), torch.ones(4, 80), torch.zeros(4, 80)
    labels, weights = labels.double(), weights.double()
    for b, (x, y, w) in enumerate(fits):
        n = y.shape[1]
        inputs[b, :n], labels[b, :n], weights[b, :n] = x[0], y[0], w[0]
    batch = logistic_regression(inputs, labels, weights, ridge=1e-4)
    for b, (x, y, w) in enumerate(fits):
        close(batch[b], logistic_regression(x, y, w, ridge=1e-4)[0], 1e-7)


def test_a_hard_fit_does_not_disturb_an_easy_one() -> None:
    """One fit of the batch needs many more steps than the other."""
    x, y, w = problem(4)
    separable = torch.where(x[..., :1] > 0.0, 1.0, 0.0)[..., 0]
    both = logistic_regression(x.expand(2, -1, -1), torch.cat([y, separable]), w.expand(2, -1))
    close(both[0], logistic_regression(x, y, w)[0], 1e-7)


def test_separable_data_end_finite_and_classify_everything() -> None:
    x, _, w = problem(5, rows=200)
    labels = (x[..., 0] - 0.3 * x[..., 1] > 0.0).double()
    for ridge in (0.0, 1e-10):
        fit = logistic_regression(x, labels, w, ridge=ridge)
        assert fit.isfinite().all()
        assert torch.equal((torch.einsum("bnk,bk->bn", x, fit) > 0.0).double(), labels)
        assert loss_of(x, labels, w, fit) < 1e-6


def test_a_small_ridge_finds_the_widest_margin() -> None:
    """Rows (2, 0) and (0, 1) are both preferred: the widest margin has w1 : w2 = 1 : 2."""
    inputs = torch.tensor([[[2.0, 0.0], [0.0, 1.0]]], dtype=torch.float64)
    labels = torch.ones(1, 2, dtype=torch.float64)
    ratios = []
    for ridge in (1e-9, 1e-6, 1.0, 100.0):
        a, b = logistic_regression(inputs, labels, ones(labels), ridge=ridge)[0].tolist()
        assert 1.0 / (1.0 + math.exp(2.0 * a)) == pytest.approx(ridge * a, rel=1e-2)
        assert 0.5 / (1.0 + math.exp(b)) == pytest.approx(ridge * b, rel=1e-2)
        ratios.append(b / a)
    assert ratios == sorted(ratios, reverse=True)
    assert 1.8 < ratios[0] < 2.0
    assert ratios[-1] == pytest.approx(0.5, rel=0.05)  # too strong: along the sum of the rows


def test_columns_of_zeros_get_no_weight() -> None:
    x, y, w = problem(6)
    wide = torch.cat([x[..., :1], torch.zeros(1, 80, 1).double(), x[..., 1:]], -1)
    fit = logistic_regression(wide, y, w)
    assert fit[0, 1] == 0.0
    close(fit[:, [0, 2, 3]], logistic_regression(x, y, w), 1e-7)


def test_two_equal_columns_share_the_weight() -> None:
    x, y, w = problem(7)
    fit = logistic_regression(torch.cat([x, x[..., :1]], -1), y, w, ridge=1e-9)
    assert fit[0, 0].item() == pytest.approx(fit[0, 3].item(), abs=1e-5)
    single = logistic_regression(x, y, w)
    assert (fit[0, 0] + fit[0, 3]).item() == pytest.approx(single[0, 0].item(), abs=1e-5)


def test_ridge_shrinks() -> None:
    x, y, w = problem(8)
    sizes = [logistic_regression(x, y, w, ridge=r).square().sum().item() for r in (0.0, 0.01, 1.0, 100.0)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < 1e-3


def test_no_columns_no_weights() -> None:
    _, y, w = problem(9)
    assert logistic_regression(torch.zeros(1, 80, 0, dtype=torch.float64), y, w).shape == (1, 0)


def test_a_fit_without_data_stays_at_zero() -> None:
    x, y, w = problem(10)
    fit = logistic_regression(x.expand(2, -1, -1), y.expand(2, -1), torch.cat([w, 0.0 * w]), ridge=0.1)
    assert not fit[1].any()
    close(fit[0], logistic_regression(x, y, w, ridge=0.1)[0], 1e-9)


def test_labels_beyond_the_unit_interval_with_ridge() -> None:
    """Labels of some robust losses; the ridge alone bounds the minimum then."""
    inputs = torch.ones(1, 1, 1, dtype=torch.float64)
    labels = torch.tensor([[1.25]], dtype=torch.float64)
    fit = logistic_regression(inputs, labels, ones(labels), ridge=0.25).item()
    assert 1.0 / (1.0 + math.exp(-fit)) - 1.25 + 0.25 * fit == pytest.approx(0.0, abs=1e-7)


@pytest.mark.parametrize("size", [1e-8, 1e8])
def test_inputs_of_any_size(size: float) -> None:
    x, y, w = problem(11, rows=300)
    close(logistic_regression(size * x, y, w) * size, logistic_regression(x, y, w), 1e-4)


@pytest.mark.parametrize(
    ("inputs", "labels", "weights"),
    [((80, 3), (80,), (80,)), ((1, 80, 3), (1, 79), (1, 79)), ((1, 80, 3), (1, 80), (2, 80))],
)
def test_shapes_that_do_not_fit_are_refused(
    inputs: tuple[int, ...], labels: tuple[int, ...], weights: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=r"inputs \(.*must be \[B, N, k\], \[B, N\] and \[B, N\]"):
        logistic_regression(torch.zeros(inputs), torch.zeros(labels), torch.ones(weights))


@pytest.mark.parametrize("ridge", [-1e-3, math.nan])
def test_a_wrong_ridge_is_refused(ridge: float) -> None:
    with pytest.raises(ValueError, match=f"ridge is {ridge}; it must not be negative"):
        logistic_regression(*problem(0), ridge=ridge)
