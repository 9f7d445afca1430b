"""Gradients through drawn units: exact expectations, biases that are there, and biases that are not."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from prefrl.functional.stochastic_units import (
    activity_slopes,
    bernoulli,
    exact_baseline,
    noisy_rectifier,
    optimal_baseline,
    reinforce,
    stochastic_times_smooth,
    straight_through,
)


def t(*values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def quadratic(h: Tensor) -> Tensor:
    """L(0) = 1, L(1) = 4."""
    return (1.0 + h).square()


def expected(a: float, loss: Any) -> float:
    """d E L / d a of one unit: the sigmoid's slope times L(1) - L(0)."""
    on = 1.0 / (1.0 + math.exp(-a))
    return float(on * (1.0 - on) * (loss(t(1.0)) - loss(t(0.0))))


def test_one_unit_says_the_same_for_both_outcomes() -> None:
    # sigmoid(.4) = .59869, its slope .24026; times L(1) - L(0) = 3.
    a, h = t(0.4), t(0.0, 1.0)
    found = reinforce(a, h, quadratic(h), exact_baseline(a, quadratic(t(0.0)), quadratic(t(1.0))))
    assert found.tolist() == pytest.approx([0.72078, 0.72078], abs=1e-5)
    assert found.tolist() == pytest.approx([expected(0.4, quadratic)] * 2, abs=1e-14)
    # Outcomes as often as they are drawn give the same baseline.
    often = torch.cat([torch.zeros(40_131), torch.ones(59_869)]).double()
    baseline = optimal_baseline(a, often, quadratic(often))
    assert float(baseline) == pytest.approx(0.59869 * 1.0 + 0.40131 * 4.0, abs=1e-4)


def test_best_baseline_has_the_least_variance() -> None:
    a = t(0.4, -1.0, 2.0).expand(100_000, 3)
    h = bernoulli(a, draws(100_000, 3))
    losses = (h @ t(1.0, -2.0, 0.5) + h[:, 0] * h[:, 1] + 3.0).square()
    best = optimal_baseline(a, h, losses)
    least = reinforce(a, h, losses, best).square().mean(0)
    for step in (-0.1, 0.1):
        assert (reinforce(a, h, losses, best + step).square().mean(0) > least).all()
    assert (reinforce(a, h, losses).square().mean(0) > 1.5 * least).all()
    assert optimal_baseline(t(0.4), torch.zeros(3).double() + torch.sigmoid(t(0.4)), t(1.0, 2.0, 3.0)) == 0.0


def test_reinforce_is_right_on_the_average() -> None:
    count, a = 1_000_000, 0.4
    h = bernoulli(t(a).expand(count), draws(count))
    assert float(h.mean()) == pytest.approx(1.0 / (1.0 + math.exp(-a)), abs=0.002)
    for baseline in (0.0, 2.0):
        found = reinforce(t(a), h, quadratic(h), baseline)
        error = abs(float(found.mean()) - expected(a, quadratic)) / float(found.std() / count**0.5)
        assert error < 3.0


def slope(a: float, unit: Any, loss: Any) -> float:
    """The mean of what goes back to a."""
    activations = torch.full((200_000,), a, dtype=torch.float64, requires_grad=True)
    loss(unit(activations)).sum().backward()
    assert activations.grad is not None
    return float(activations.grad.mean())


def test_straight_through_leans_but_for_linear_losses() -> None:
    def unit(keep: bool) -> Any:
        return lambda a: straight_through(a, bernoulli(a, draws(len(a))), keep_slope=keep)

    def linear(h: Tensor) -> Tensor:
        return 3.0 * h - 1.0

    a, on = 0.4, 1.0 / (1.0 + math.exp(-0.4))
    assert slope(a, unit(True), linear) == pytest.approx(expected(a, linear), abs=1e-12)
    assert slope(a, unit(False), linear) == 3.0  # not 3 times the slope
    # E 2 (1 + h) = 2 (1 + p), and not 3.
    found = slope(a, unit(True), quadratic)
    assert found == pytest.approx(on * (1.0 - on) * 2.0 * (1.0 + on), abs=0.01)
    assert found - expected(a, quadratic) > 0.03
    assert straight_through(t(0.4, 0.4), t(0.0, 1.0)).tolist() == [0.0, 1.0]


def test_smooth_and_stochastic_parts() -> None:
    for share in (0.25, 0.5, 1.0):
        units = stochastic_times_smooth(t(0.4).expand(400_000), draws(400_000), share)
        on = 1.0 / (1.0 + math.exp(-0.4))
        assert float(units.mean()) == pytest.approx(on, abs=0.002)
        assert sorted({round(float(value), 9) for value in units.unique()})[-1] == round(on**share, 9)
        plain = slope(0.4, lambda a, s=share: stochastic_times_smooth(a, draws(len(a)), s), lambda h: h)
        assert plain == pytest.approx(share * on * (1.0 - on), rel=0.01)
        right = slope(
            0.4, lambda a, s=share: stochastic_times_smooth(a, draws(len(a)), s, rescale=True), lambda h: h
        )
        assert right == pytest.approx(on * (1.0 - on), rel=0.01)
    assert float((units == 0.0).double().mean()) == 0.0
    with pytest.raises(ValueError, match=r"share is 0.0; it must lie in \(0, 1\]"):
        stochastic_times_smooth(t(0.4), t(0.5), 0.0)


def test_noisy_rectifier() -> None:
    noise = torch.randn(400_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    units = noisy_rectifier(t(-0.5).expand(400_000), noise, 2.0)
    below = 0.5 * (1.0 + math.erf(0.25 / math.sqrt(2.0)))
    assert float((units == 0.0).double().mean()) == pytest.approx(below, abs=0.003)
    # E max(0, x) of x ~ N(-.5, 2^2), and its slope P(x > 0).
    density = math.exp(-0.5 * 0.25**2) / math.sqrt(2.0 * math.pi)
    assert float(units.mean()) == pytest.approx(-0.5 * (1.0 - below) + 2.0 * density, abs=0.01)
    found = slope(-0.5, lambda a: noisy_rectifier(a, noise[: len(a)], 2.0), lambda h: h)
    assert found == pytest.approx(1.0 - below, abs=0.004)


def test_activity_slopes_are_autograds() -> None:
    activations = t(0.3, -0.2, 1.5, -2.0).view(2, 2).requires_grad_()
    units = (activations > 0.0).double()
    (straight_through(activations, units).mean() - 0.1).square().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(activity_slopes(activations.detach(), units, 0.1), activations.grad)
