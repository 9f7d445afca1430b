"""Conjugates against their definition, losses against scalar Python and closed forms."""

import math
from typing import get_args

import pytest
import torch
from torch import Tensor

from prefrl.functional.actor_critic.divergence_cloning import (
    Divergence,
    best_value,
    conjugate,
    divergence_loss,
)

X = torch.linspace(0.0, 400.0, 4_000_001, dtype=torch.float64)
GENERATORS = {
    "total_variation": 0.5 * (X - 1.0).abs(),
    "chi_square": (X - 1.0).square(),
    "hellinger": (X.sqrt() - 1.0).square(),
}
"""f at the points X."""


def rewards(seed: int = 0, scale: float = 0.2) -> Tensor:
    """Return implicit rewards [40] within the domain of all conjugates."""
    return scale * torch.randn(40, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    ("divergence", "t"),
    [(kind, t) for kind in get_args(Divergence) for t in (-0.5, -0.2, 0.0, 0.3, 0.5)]
    + [("chi_square", 0.8), ("hellinger", 0.8)],
)
def test_conjugates_are_the_largest_gap_to_a_line(divergence: Divergence, t: float) -> None:
    """f*(t) = max_x t x - f(x) over x >= 0; the total variation's is t up to 1/2 only."""
    found = float(conjugate(torch.tensor(t, dtype=torch.float64), divergence))
    assert found == pytest.approx(float((t * X - GENERATORS[divergence]).max()), abs=1e-7)


def test_hellinger_goes_on_along_its_tangent() -> None:
    t = torch.tensor([0.9, 0.95, 1.0, 3.0], dtype=torch.float64, requires_grad=True)
    values = conjugate(t, "hellinger")
    torch.testing.assert_close(values, 9.0 + 100.0 * (t - 0.9))
    (slopes,) = torch.autograd.grad(values.sum(), t)
    torch.testing.assert_close(slopes, torch.full((4,), 100.0, dtype=torch.float64))


def by_hand(h: list[float], divergence: str, value: float) -> float:
    """E f*(-h - V) + V as the text has it, in plain Python."""
    if divergence == "total_variation":
        return -sum(h) / len(h)
    if divergence == "chi_square":
        return sum(-each + 0.25 * (each + value) ** 2 for each in h) / len(h)
    return -sum((each + value) / (1.0 + each + value) for each in h) / len(h) + value


@pytest.mark.parametrize("optimal", [True, False])
@pytest.mark.parametrize("divergence", get_args(Divergence))
def test_losses_and_gradients_are_those_of_the_formula(divergence: Divergence, optimal: bool) -> None:
    h = rewards().requires_grad_()
    value = float(best_value(h.detach(), divergence)) if optimal else 0.0
    loss = divergence_loss(h, divergence, optimal_value=optimal)
    assert loss.item() == pytest.approx(by_hand(h.tolist(), divergence, value), abs=1e-12)
    (gradient,) = torch.autograd.grad(loss, h)
    for place in range(0, 40, 7):
        ends = []
        for step in (1e-5, -1e-5):
            moved = h.tolist()
            moved[place] += step
            if optimal:  # sought anew: where V is best, that makes no difference
                value = float(best_value(torch.tensor(moved, dtype=torch.float64), divergence))
            ends.append(by_hand(moved, divergence, value))
        assert float(gradient[place]) == pytest.approx((ends[0] - ends[1]) / 2e-5, abs=1e-8)


@pytest.mark.parametrize("divergence", ["chi_square", "hellinger"])
@pytest.mark.parametrize("scale", [0.0, 0.2, 2.0])
def test_no_other_value_is_better(divergence: Divergence, scale: float) -> None:
    """Also where some rewards are in the range of Hellinger's tangent."""
    h = rewards(1, scale)
    value = best_value(h, divergence)

    def loss(at: Tensor) -> float:
        return float(conjugate(-h - at, divergence).mean() + at)

    assert all(loss(value) < loss(value + step) for step in (-0.1, -1e-3, 1e-3, 0.1))
    assert loss(value) == pytest.approx(float(divergence_loss(h, divergence)), abs=1e-14)


def test_chi_square_at_its_best_value_is_a_mean_and_a_variance() -> None:
    h = rewards(2, 3.0)
    expected = -h.mean() + 0.25 * h.var(correction=0)
    torch.testing.assert_close(divergence_loss(h, "chi_square"), expected, rtol=0, atol=1e-14)


def test_chi_square_without_a_value_is_least_at_two() -> None:
    at, step = torch.tensor([2.0], dtype=torch.float64), 0.01
    least = float(divergence_loss(at, "chi_square", optimal_value=False))
    assert least == pytest.approx(-1.0)
    for other in (at - step, at + step):
        rise = float(divergence_loss(other, "chi_square", optimal_value=False)) - least
        assert rise == pytest.approx(0.25 * step**2)


def test_total_variation_is_plain_cloning_whatever_the_value() -> None:
    log_ratios = rewards(3, 2.0).requires_grad_()
    for optimal in (True, False):
        loss = divergence_loss(0.5 * log_ratios, "total_variation", optimal_value=optimal)
        (gradient,) = torch.autograd.grad(loss, log_ratios)
        torch.testing.assert_close(gradient, torch.full_like(gradient, -0.5 / 40))
    assert math.isclose(loss.item(), -0.5 * log_ratios.mean().item())
