"""Advantages of groups: the identities between them, the exponents' minimum, guards and traps."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from prefrl.functional.actor_critic.grouped import (
    LARGEST,
    Exponents,
    beta_density,
    fitted_exponents,
    grouped_advantages,
    second_moment,
)


def successes(rates: Any, group: int = 16, seed: int = 0) -> Tensor:
    """Rewards [Q, G], 1 at the rates."""
    rng = np.random.default_rng(seed)
    return torch.as_tensor((rng.random((len(rates), group)) < np.asarray(rates)[:, None]).astype(np.float64))


def exponents(alpha: float, beta: float) -> Exponents:
    return Exponents(*(torch.tensor(value, dtype=torch.float64) for value in (alpha, beta)))


REWARDS = successes(np.random.default_rng(1).beta(2.0, 5.0, 200))


def test_by_hand() -> None:
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0], [2.0, 2.0, 4.0, 4.0]], dtype=torch.float64)
    assert grouped_advantages(rewards, "centred").tolist() == [[0.75, -0.25, -0.25, -0.25], [-1, -1, 1, 1]]
    found = grouped_advantages(rewards, "grpo")
    assert found[1].tolist() == [-1.0, -1.0, 1.0, 1.0]
    assert found[0].tolist() == pytest.approx([math.sqrt(3.0)] + 3 * [-1.0 / math.sqrt(3.0)])
    # Rates 1/4 and 3/4: mu = 1/2, v = 1/8, a = b = (1/4 / (1/8) - 1) / 2 = 1/2, both exponents 7/6.
    two = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0]], dtype=torch.float64)
    assert [float(part) for part in fitted_exponents(two.mean(-1))] == pytest.approx([7 / 6, 7 / 6])
    size = math.gamma(7 / 3) / math.gamma(7 / 6) ** 2 * (3 / 16) ** (1 / 6)
    assert grouped_advantages(two, "bnpo")[0].tolist() == pytest.approx([0.75 / size] + 3 * [-0.25 / size])


def test_exponents_of_one_are_the_centred_reward() -> None:
    found = grouped_advantages(REWARDS, "bnpo", exponents=exponents(1.0, 1.0))
    assert (found - grouped_advantages(REWARDS, "centred")).abs().max() < 1e-10


def test_exponents_of_three_halves_are_grpo_but_for_a_factor() -> None:
    rates = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    density = beta_density(rates, exponents(1.5, 1.5))
    assert (density - 8.0 / math.pi * (rates * (1.0 - rates)).sqrt()).abs().max() < 4e-15
    found = grouped_advantages(REWARDS, "bnpo", exponents=exponents(1.5, 1.5))
    expected = grouped_advantages(REWARDS, "grpo")
    assert (8.0 / math.pi * found - expected).abs().max() < 1e-10
    assert expected.abs().max() > 1.0


def test_second_moment_is_the_integral_of_what_advantages_are() -> None:
    a, b, chosen = 2.0, 5.0, exponents(1.4, 2.1)
    # Midpoints of p, weighted by the density of Beta(2, 5); A is (1 - p) / f at rate p, else -p / f.
    rates = (torch.arange(400_000, dtype=torch.float64) + 0.5) / 400_000
    there = beta_density(rates, exponents(a, b))
    moment = (rates * (1.0 - rates) / beta_density(rates, chosen).square() * there).mean()
    found = second_moment(chosen, *exponents(a, b))
    assert float(found) == pytest.approx(float(moment), rel=1e-4)


def test_own_exponents_have_the_least_second_moment() -> None:
    a, b = exponents(2.0, 5.0)
    alphas, betas = (torch.arange(1.0, most, 0.01, dtype=torch.float64) for most in (2.7, 4.2))
    moments = second_moment(Exponents(alphas[:, None], betas[None]), a, b)
    row, column = divmod(int(moments.argmin()), len(betas))
    assert [float(alphas[row]), float(betas[column])] == pytest.approx([1.67, 2.67], abs=0.0051)
    own = second_moment(exponents(1.0 + 2.0 / 3.0, 1.0 + 5.0 / 3.0), a, b)
    assert float(own) <= float(moments.min())
    assert torch.isinf(moments[alphas >= 2.5]).all()  # (a + 3) / 2
    assert torch.isfinite(moments[alphas < 2.495][:, betas < 3.995]).all()


def test_fit_finds_the_distribution_of_rates() -> None:
    rates = torch.as_tensor(np.random.default_rng(3).beta(2.0, 5.0, 400_000))
    assert [float(part) for part in fitted_exponents(rates)] == pytest.approx([5 / 3, 8 / 3], abs=0.02)


@pytest.mark.parametrize("rates", [[0.3] * 5, [0.0] * 5, [1.0] * 5, [0.5]])
def test_nothing_to_fit(rates: list[float]) -> None:
    found = fitted_exponents(torch.tensor(rates, dtype=torch.float64))
    assert [float(part) for part in found] == [1.0, 1.0]
    # Rounding makes equal rates differ by little.
    noisy = torch.tensor(rates, dtype=torch.float64) + 1e-9 * torch.arange(len(rates))
    assert [float(part) for part in fitted_exponents(noisy.clamp(max=1.0))] == [1.0, 1.0]


def test_exponents_are_never_below_one() -> None:
    # v = 1/2 is more than mu (1 - mu) = 1/4: a + b would be below 0.
    found = fitted_exponents(torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert [float(part) for part in found] == [1.0, 1.0]


def test_groups_that_do_not_count() -> None:
    rates = torch.tensor([[0.25, 0.75, 0.9, 0.1]], dtype=torch.float64)
    found = fitted_exponents(rates, torch.tensor([[True, True, False, False]]))
    assert [float(part) for part in found] == pytest.approx([7 / 6, 7 / 6])
    found = fitted_exponents(rates, torch.zeros(1, 4, dtype=torch.bool))
    assert [float(part) for part in found] == [1.0, 1.0]


def test_all_or_none_succeeded() -> None:
    rewards = torch.tensor([[0.0] * 4, [1.0] * 4, [1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]])
    for kind in ("centred", "grpo", "bnpo"):
        found = grouped_advantages(rewards, kind)  # type: ignore[arg-type]
        assert found[:2].abs().max() == 0.0
        assert torch.isfinite(found).all()
    # Rates that round to their ends do not make weights infinite.
    steep = grouped_advantages(rewards, "bnpo", exponents=Exponents(*torch.full((2,), 60.0)))
    assert steep.abs().max() <= LARGEST
    assert steep[2].abs().max() == 0.75 * LARGEST
    equal = torch.full((1, 4), 0.1)  # whose mean is not .1 in float32
    assert grouped_advantages(equal, "grpo").abs().max() < 0.1


def test_several_rewards_have_exponents_of_their_own() -> None:
    many = torch.stack([REWARDS, successes(np.linspace(0.5, 0.95, 200), seed=5)])
    found = grouped_advantages(many, "bnpo").mean(0)
    apart = [grouped_advantages(rewards, "bnpo") for rewards in many]
    torch.testing.assert_close(found, (apart[0] + apart[1]) / 2.0, rtol=0.0, atol=1e-12)
    alphas = fitted_exponents(many.mean(-1)).alpha
    assert float(alphas[1]) > float(alphas[0]) + 0.5


def test_groups_of_one() -> None:
    rewards = torch.tensor([[1.0], [0.0]])
    with pytest.raises(ValueError, match=r"rewards have shape \[2, 1\]; the last axis must be of groups"):
        grouped_advantages(rewards, "bnpo")
    # Not the 1e6 that a rate of 0 and an exponent above 1 would make of a success.
    assert grouped_advantages(rewards, "bnpo", lonely="plain").tolist() == [[1.0], [0.0]]
    with pytest.raises(ValueError, match="kind is 'mean'; it must be"):
        grouped_advantages(REWARDS, "mean")  # type: ignore[arg-type]
