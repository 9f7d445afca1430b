"""Implicit Q-learning's formulas: numbers by hand, plain twins, and expectiles against a scalar root."""

import math

import pytest
import torch
from hypothesis import given, strategies as st
from scipy.optimize import brentq

from prefrl.functional.actor_critic.implicit_q_learning import advantage_weights, expectile_loss

reals = st.floats(-10.0, 10.0)


def doubles(values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_expectile_loss_by_hand() -> None:
    # above the prediction .7 counts, below it .3
    assert expectile_loss(doubles([2.0, -2.0, 0.0]), 0.7).tolist() == pytest.approx([2.8, 1.2, 0.0])


@given(st.lists(reals, min_size=1, max_size=9), st.floats(0.01, 0.99))
def test_expectile_loss_equals_a_plain_loop(errors: list[float], expectile: float) -> None:
    expected = [abs(expectile - (1.0 if u < 0.0 else 0.0)) * u * u for u in errors]
    assert expectile_loss(doubles(errors), expectile).tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("expectile", [0.1, 0.5, 0.7, 0.9, 0.999])
def test_the_least_mean_loss_is_at_the_expectile(expectile: float) -> None:
    """There tau sum_{y > m} (y - m) = (1 - tau) sum_{y < m} (m - y), whose root is found by bisection."""
    targets = [-3.0, 0.5, 0.5, 2.0, 7.0]

    def balance(m: float) -> float:
        above = sum(y - m for y in targets if y > m)
        return expectile * above - (1.0 - expectile) * sum(m - y for y in targets if y < m)

    root = float(brentq(balance, min(targets), max(targets), xtol=1e-13))
    prediction = doubles([root]).requires_grad_()
    loss = expectile_loss(doubles(targets) - prediction, expectile).mean()
    (slope,) = torch.autograd.grad(loss, prediction)
    assert abs(float(slope)) < 1e-11
    for other in (root - 1e-3, root + 1e-3):
        assert expectile_loss(doubles(targets) - other, expectile).mean() > loss.detach()
    if expectile == 0.5:
        assert root == pytest.approx(sum(targets) / 5)
    if expectile == 0.999:
        assert 6.9 < root < 7.0  # the largest


def test_its_gradient_is_that_of_finite_differences() -> None:
    errors = doubles([-2.0, -0.1, 0.3, 4.0]).requires_grad_()
    assert torch.autograd.gradcheck(lambda u: expectile_loss(u, 0.8), (errors,))


@given(st.lists(reals, min_size=1, max_size=9), st.floats(0.0, 9.0), st.floats(0.5, 500.0))
def test_advantage_weights_equal_a_plain_loop(
    values: list[float], temperature: float, largest: float
) -> None:
    expected = [min(math.exp(temperature * a), largest) for a in values]
    found = advantage_weights(doubles(values), temperature, largest).tolist()
    assert found == pytest.approx(expected, rel=1e-12)


def test_no_advantage_is_too_large() -> None:
    weights = advantage_weights(torch.tensor([1e6, -1e6, 0.0]), 3.0, 100.0)
    assert weights.tolist() == pytest.approx([100.0, 0.0, 1.0], rel=1e-6)


def test_at_temperature_0_all_weigh_alike() -> None:
    assert advantage_weights(doubles([-5.0, 0.0, 5.0]), 0.0, 100.0).tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("expectile", [0.0, 1.0, -0.1, math.nan])
def test_what_is_no_expectile_is_refused(expectile: float) -> None:
    with pytest.raises(ValueError, match=r"expectile is .*; it must lie in \(0, 1\)"):
        expectile_loss(doubles([1.0]), expectile)


def test_other_weights_are_refused() -> None:
    with pytest.raises(ValueError, match=r"temperature is -1.0; it must not be negative"):
        advantage_weights(doubles([1.0]), -1.0, 100.0)
    with pytest.raises(ValueError, match=r"largest is 0\.0; it must be above 0"):
        advantage_weights(doubles([1.0]), 1.0, 0.0)
