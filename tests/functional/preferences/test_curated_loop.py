"""Curated loops: the exact map against all K-tuples, its bounds, and what happens without normalising."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from prefrl.functional.preferences.audits.curated_loop import (
    chosen_frequencies,
    curated_loop,
    curated_step,
    curation_factor,
    rounds_until,
)


def options(seed: int, count: int, spread: float = 1.0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    probs = torch.rand(count, generator=g, dtype=torch.float64) + 0.01
    return probs / probs.sum(), spread * torch.randn(count, generator=g, dtype=torch.float64)


def factor_by_tuples(probs: Tensor, rewards: Tensor, choices: int) -> Tensor:
    """H by all tuples of the other K - 1 samples."""
    worth = rewards.exp().tolist()
    found = []
    for mine in worth:
        total = 0.0
        for others in itertools.product(range(len(worth)), repeat=choices - 1):
            chance = math.prod(float(probs[j]) for j in others)
            total += chance * choices * mine / (mine + sum(worth[j] for j in others))
        found.append(total)
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize("choices", [1, 2, 3, 4])
@pytest.mark.parametrize("spread", [1.0, 20.0])
def test_the_map_is_that_of_all_tuples(choices: int, spread: float) -> None:
    probs, rewards = options(choices, 5, spread)
    found = curation_factor(probs, rewards, choices)
    torch.testing.assert_close(found, factor_by_tuples(probs, rewards, choices), rtol=1e-13, atol=0.0)
    torch.testing.assert_close(
        (probs * found).sum(), torch.ones((), dtype=torch.float64), rtol=1e-13, atol=0.0
    )


def test_two_options_by_hand() -> None:
    """p = (1/2, 1/2), e^r = (1, 3), K = 2: H = 2 (1/2 1/2 + 1/2 3/4) = 5/4 for the better."""
    half = torch.full((2,), 0.5, dtype=torch.float64)
    rewards = torch.tensor([0.0, math.log(3.0)], dtype=torch.float64)
    torch.testing.assert_close(
        curation_factor(half, rewards, 2), torch.tensor([0.75, 1.25], dtype=torch.float64)
    )
    torch.testing.assert_close(
        curated_step(half, rewards, None), torch.tensor([0.25, 0.75], dtype=torch.float64)
    )


def test_many_samples_tend_to_the_exponential_tilt() -> None:
    probs, rewards = options(0, 6)
    limit = curation_factor(probs, rewards, None)
    errors = [float((curation_factor(probs, rewards, k) - limit).abs().max()) for k in (10, 100, 1_000)]
    assert errors[0] > 5.0 * errors[1] > 25.0 * errors[2]


@pytest.mark.parametrize("choices", [2, 5, None])
def test_rewards_grow_by_the_bound_and_their_spread_vanishes(choices: int | None) -> None:
    for seed in range(3):
        probs, rewards = options(seed, 20)
        loop = curated_loop(probs, rewards, choices, 60)
        assert bool((loop.growth >= loop.least_growth - 1e-14).all())
        assert bool((loop.growth > -1e-14).all())
        assert float(loop.growth[0]) > float(loop.least_growth[0]) > 0.0
        means = loop.probs @ rewards
        variance = loop.probs @ rewards.square() - means.square()
        assert float(variance[-1]) < 0.01 * float(variance[0])


def test_a_clear_best_takes_all() -> None:
    probs, rewards = options(1, 10)
    best = int(rewards.argmax())
    rewards[best] += 1.0
    shares = curated_loop(probs, rewards, 2, 60).probs[:, best]
    assert float(shares[-1]) >= 0.99
    assert 0 < int(rounds_until(shares, 0.99)) < 60
    assert int(rounds_until(shares, 2.0)) == 61


def test_real_data_keep_every_option() -> None:
    """p / p_ref >= 1 / (1 + lambda) = 2/3 at lambda = 1/2; alone, most options vanish."""
    probs, rewards = options(2, 20)
    kept = curated_loop(probs, rewards, 2, 60, weight=0.5).probs / probs
    alone = curated_loop(probs, rewards, 2, 60).probs / probs
    assert 2.0 / 3.0 <= float(kept.min()) < 0.8
    assert float(alone.min()) < 1e-6


def test_what_correlates_with_the_reward_is_amplified() -> None:
    """A feature that nobody looks at, common among good options, becomes more than twice as common."""
    g = torch.Generator().manual_seed(0)
    rewards = torch.randn(200, generator=g, dtype=torch.float64)
    has = torch.bernoulli(torch.sigmoid(2.0 * (rewards - 1.0)), generator=g)
    probs = torch.full_like(rewards, 1.0 / 200)
    first = float(probs @ has)
    alone, with_data = (
        float(curated_loop(probs, rewards, 2, 10, weight=weight).probs[-1] @ has) for weight in (None, 1.0)
    )
    assert alone > 2.0 * first
    assert first < with_data < 2.0 * first


def test_without_normalising_the_map_explodes() -> None:
    """p H is of degree K: a sum of 1 + 1e-12 is (1 + 1e-12)^(2^60) after 60 rounds."""
    probs, rewards = options(3, 8)
    raw = probs * (1.0 + 1e-12)
    for _ in range(60):
        raw = raw * curation_factor(raw, rewards, 2)
    assert not float(raw.sum()) < 1e100
    kept = curated_loop(probs * 3.0, rewards, 2, 60).probs.sum(-1)
    torch.testing.assert_close(kept, torch.ones_like(kept), rtol=0.0, atol=1e-13)


def test_batches_are_rows() -> None:
    pairs = [options(seed, 6) for seed in range(3)]
    probs, rewards = (torch.stack(each) for each in zip(*pairs, strict=True))
    together = curated_loop(probs, rewards, 3, 5, weight=2.0).probs
    alone = [curated_loop(p, r, 3, 5, weight=2.0).probs for p, r in pairs]
    torch.testing.assert_close(together, torch.stack(alone, 1), rtol=1e-12, atol=1e-15)


def test_drawn_choices_have_the_frequencies_of_the_map() -> None:
    """400,000 choices of three samples: within 5 standard errors."""
    probs, rewards = options(4, 5)
    g = torch.Generator().manual_seed(0)
    drawn = torch.multinomial(probs, 1_200_000, replacement=True, generator=g).view(-1, 3)
    gumbel = -torch.log(-torch.log(torch.rand(drawn.shape, generator=g, dtype=torch.float64)))
    found = chosen_frequencies(drawn, rewards, gumbel)
    wanted = curated_step(probs, rewards, 3)
    assert bool(((found - wanted).abs() < 5.0 * (wanted * (1.0 - wanted) / 400_000).sqrt()).all())
    assert bool(((found - probs).abs() > 0.01).any())


@pytest.mark.parametrize("choices", [2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rewards_may_lie_far_apart(choices: int, dtype: torch.dtype) -> None:
    """As returns do: the best of those that are shown is chosen, an option is chosen beside itself alone."""
    probs = torch.tensor([0.5, 0.3, 0.2], dtype=dtype)
    rewards = torch.tensor([0.0, -1_700.0, -900.0], dtype=dtype)
    worse = torch.tensor([0.5, 0.0, 0.3], dtype=dtype)
    exact = (worse + probs) ** choices - worse**choices
    torch.testing.assert_close(curated_step(probs, rewards, choices), exact)
    loop = curated_loop(probs, rewards, choices, 60)
    assert bool(loop.probs.isfinite().all())
    assert float(loop.probs[-1, 0]) == pytest.approx(1.0)


@pytest.mark.parametrize("choices", [2, None])
def test_what_a_policy_never_does_is_never_chosen(choices: int | None) -> None:
    probs = torch.tensor([0.0, 0.5, 0.5], dtype=torch.float64)
    rewards = torch.tensor([5_000.0, 0.0, 1.0], dtype=torch.float64)
    found = curated_step(probs, rewards, choices)
    without = curated_step(probs[1:], rewards[1:], choices)
    assert found.tolist() == pytest.approx([0.0, *without.tolist()])
