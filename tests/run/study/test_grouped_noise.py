"""Exact noise of advantages of groups: against quadrature, enumeration, and densities that are no Beta's."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from prefrl.functional.actor_critic.grouped import Exponents, grouped_advantages, second_moment
from prefrl.run.study.values.grouped import (
    KINDS,
    MEASURED,
    exact,
    exact_noise,
    exact_ratio,
    group_noise,
    known,
)

A, B = (torch.tensor(value, dtype=torch.float64) for value in (2.5, 4.0))


def mean(of: Callable[[float], float]) -> float:
    """Mean over rates that are Beta(A, B)."""
    return float(integrate.quad(lambda p: stats.beta(A, B).pdf(p) * of(p), 0.0, 1.0, epsabs=1e-12)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_known_rates_by_quadrature(kind: str) -> None:
    exponents = known(kind, A, B)  # type: ignore[arg-type]
    f = stats.beta(*exponents).pdf
    moment = mean(lambda p: p * (1 - p) / f(p) ** 2)
    own = mean(lambda p: p * (1 - p) * (1 - 2 * p) ** 2 / f(p) ** 2)
    length = mean(lambda p: p * (1 - p) / f(p)) ** 2
    expected = {
        "moment": moment,
        "even": moment / mean(lambda p: 1 / f(p)) ** 2,
        "shared": own / length,
        "others": (own + moment) / length,
        "logits": own / mean(lambda p: (p * (1 - p) / f(p)) ** 2),
    }
    for sense, value in expected.items():
        assert float(exact_noise(sense, exponents, A, B)) == pytest.approx(value, rel=1e-7), sense


@pytest.mark.parametrize("kind", KINDS)
def test_groups_of_three_by_enumeration(kind: str) -> None:
    group, exponents = 3, known(kind, A, B)  # type: ignore[arg-type]
    rows = torch.tensor(list(itertools.product([0.0, 1.0], repeat=group)), dtype=torch.float64)
    advantages = grouped_advantages(rows, kind, exponents=exponents)  # type: ignore[arg-type]
    if kind == "grpo":
        advantages *= math.pi / 8.0  # so that it divides by a density
    ones = rows.sum(1)

    def over(p: float) -> tuple[float, float, float]:
        """Mean and variance of the gradient, and E A^2, at one rate."""
        chances = p**ones * (1 - p) ** (group - ones)
        gradients = (advantages * (rows - p)).mean(1)
        first, second = chances @ gradients, chances @ gradients.square()
        return float(first), float(second - first**2), float(chances @ advantages.square().mean(1))

    variance, length = mean(lambda p: over(p)[1]), mean(lambda p: over(p)[0]) ** 2
    moment = mean(lambda p: over(p)[2])
    expected = {
        "moment": moment,
        "shared": variance / length,
        "others": (variance + moment / group) / length,
        "logits": variance / mean(lambda p: over(p)[0] ** 2),
    }
    for sense, value in expected.items():
        assert float(group_noise(sense, exponents, A, B, group)) == pytest.approx(value, rel=1e-6), sense


def test_no_density_at_all_has_a_smaller_second_moment() -> None:
    least = float(second_moment(known("bnpo", A, B), A, B))
    points = (np.arange(20_000) + 0.5) / 20_000
    rates, rng = stats.beta(A, B).pdf(points) * points * (1 - points), np.random.default_rng(0)
    best = stats.beta(*known("bnpo", A, B)).pdf(points)
    for _ in range(20):
        other = best * np.exp(0.3 * np.cos(rng.uniform(1.0, 30.0) * points + rng.uniform(0.0, 6.0)))
        assert (rates / (other / other.mean()) ** 2).mean() > least
    assert exact(7)["moment_over_least"] == pytest.approx(1.0, abs=1e-12)


def test_where_bnpo_is_the_least_at_equal_length_too() -> None:
    """Scores that do not depend on the success: best are exponents (2, 2), which are its for Beta(3, 3)."""
    three = torch.tensor(3.0, dtype=torch.float64)
    best = exact_noise("even", Exponents(*torch.full((2,), 2.0, dtype=torch.float64)), A, B)
    assert float(best) == pytest.approx(1.0 / mean(lambda p: 1.0 / (p * (1.0 - p))), rel=1e-7)
    assert float(exact_ratio("even", three, three)) < 1.0
    assert float(exact_ratio("even", 0.7 * three, 1.7 * three)) > 1.0


def test_bnpo_is_noisier_at_equal_length_of_the_mean_gradient() -> None:
    a, b = torch.tensor(2.0, dtype=torch.float64), torch.tensor(5.0, dtype=torch.float64)
    assert [round(float(exact_ratio(sense, a, b, groups=True)), 2) for sense in MEASURED] == [
        0.74, 1.37, 1.49, 1.08,
    ]  # fmt: skip
