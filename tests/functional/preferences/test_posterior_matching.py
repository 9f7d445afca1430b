"""BRAIn's loss against scalar formulas, autograd, DPO as its limit; what its baseline saves in variance."""

import math

import pytest
import torch
from torch import Tensor

from prefrl.functional.preferences.pair_loss import pair_loss, pair_slopes
from prefrl.functional.preferences.posterior_matching import (
    policy_weights,
    posterior_kl,
    posterior_slopes,
    posterior_weights,
)


def draws(*shape: int, seed: int = 0) -> list[Tensor]:
    """Return log-likelihoods of policy, prior and proposal, and log-goodness between them."""
    generator = torch.Generator().manual_seed(seed)
    return [2.0 * torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(4)]


def by_hand(policy: list[float], prior: list[float], good: list[float], proposal: list[float]) -> float:
    """KL(alpha, beta) from the text of arXiv 2402.02479, in plain Python."""
    alphas = [math.exp(p) * math.exp(g) / math.exp(q) for p, g, q in zip(prior, good, proposal, strict=True)]
    betas = [math.exp(p) / math.exp(q) for p, q in zip(policy, proposal, strict=True)]
    a, b = sum(alphas), sum(betas)
    return sum(x / a * math.log((x / a) / (y / b)) for x, y in zip(alphas, betas, strict=True))


def test_values_and_slopes_are_those_of_the_formula() -> None:
    given = draws(5, 6)
    values, slopes = posterior_kl(*given), posterior_slopes(*given)
    step = 1e-5
    for row in range(5):
        policy, *others = (each[row].tolist() for each in given)
        assert float(values[row]) == pytest.approx(by_hand(policy, *others), abs=1e-12)
        for place in range(6):
            ends = []
            for sign in (1.0, -1.0):
                moved = list(policy)
                moved[place] += sign * step
                ends.append(by_hand(moved, *others))
            assert float(slopes[row, place]) == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=1e-8)


@pytest.mark.parametrize("baseline", [True, False])
def test_slopes_are_those_of_autograd(baseline: bool) -> None:
    policy, *others = draws(7, 5)
    mask = torch.ones(7, 5, dtype=torch.bool)
    mask[2, 3:] = mask[4, 1] = False
    policy.requires_grad_()
    (expected,) = torch.autograd.grad(posterior_kl(policy, *others, mask, baseline=baseline).sum(), policy)
    found = posterior_slopes(policy.detach(), *others, mask, baseline=baseline)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)
    assert bool((found[~mask] == 0.0).all())


def test_without_the_baseline_it_is_a_weighted_likelihood() -> None:
    policy, *others = draws(3, 4)
    expected = -(posterior_weights(*others[:2], others[2]) * policy).sum(1)
    torch.testing.assert_close(posterior_kl(policy, *others, baseline=False), expected, rtol=0, atol=1e-13)


def test_outputs_that_are_not_there_do_not_matter() -> None:
    given = draws(4, 6)
    mask = torch.arange(6) < 4
    few = [each[:, :4] for each in given]
    torch.testing.assert_close(posterior_kl(*given, mask), posterior_kl(*few), rtol=0, atol=1e-14)
    assert bool((policy_weights(given[0], given[3], mask)[:, 4:] == 0.0).all())
    torch.testing.assert_close(posterior_weights(*given[1:], mask)[:, :4], posterior_weights(*few[1:]))


def test_an_output_that_is_never_good_has_a_finite_loss_and_gradient() -> None:
    policy, prior, good, proposal = draws(3, 4)
    good[:, 1] = -torch.inf
    policy.requires_grad_()
    loss = posterior_kl(policy, prior, good, proposal)
    (slopes,) = torch.autograd.grad(loss.sum(), policy)
    assert bool(loss.isfinite().all())
    assert bool((slopes[:, 1] > 0.0).all()), "it is made less likely"


def test_the_gradient_is_zero_only_where_the_policy_is_the_posterior_on_the_sample() -> None:
    policy, prior, good, proposal = draws(50, 8)
    shift = policy[:, :1]
    posterior = prior + good + shift
    slopes = posterior_slopes(posterior, prior, good, proposal)
    assert float(slopes.abs().max()) < 1e-14
    assert float(posterior_kl(posterior, prior, good, proposal).abs().max()) < 1e-13
    for place in range(8):
        moved = posterior.clone()
        moved[:, place] += 0.01
        norms = posterior_slopes(moved, prior, good, proposal).abs().amax(1)
        alpha = posterior_weights(prior, good, proposal)[:, place]
        assert bool((norms > 0.009 * alpha * (1.0 - alpha)).all())


def test_two_outputs_are_a_pair_and_certain_ones_are_dpo() -> None:
    """DPO-sft: n = 2, the target the better one (temperature near 0), the reference q'; and in between."""
    policy, _, _, proposal = draws(20, 2)
    rewards = draws(20, 2, seed=1)[0]
    shape, mask = (20, 2, 1), torch.ones(20, 2, 1, dtype=torch.bool)
    for temperature in (1e-3, 0.5):
        good = rewards / temperature
        labels = torch.sigmoid(good[:, 1] - good[:, 0])
        about = {"reference": proposal.view(shape), "beta": 1.0}
        expected = pair_slopes("dpo", policy.view(shape), mask, labels, **about)[..., 0]
        found = posterior_slopes(policy, proposal, good, proposal)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
        losses = pair_loss("dpo", policy.view(shape), mask, labels, **about)
        entropy = torch.special.entr(torch.stack([labels, 1.0 - labels])).sum(0)
        kl = posterior_kl(policy, proposal, good, proposal)
        torch.testing.assert_close(kl, losses - entropy, rtol=0, atol=1e-12)
    certain = rewards.argmax(1)
    assert bool((found[:, 0] != 0.0).all())
    limit = posterior_weights(proposal, rewards / 1e-3, proposal).argmax(1)
    assert torch.equal(certain, limit)


def estimates(way: float, temperature: float, *, baseline: bool, seed: int) -> Tensor:
    """Return gradients [4000, 10] in the logits of a bandit's policy, from 8 outputs of itself each.

    Ten arms of standard normal rewards, an even prior; the policy is a share ``way`` of the way to the
    posterior, in logits.
    """
    generator = torch.Generator().manual_seed(seed)
    rewards = torch.randn(10, generator=generator, dtype=torch.float64)
    log_policy = torch.log_softmax(way * rewards / temperature, 0)
    drawn = torch.multinomial(log_policy.exp().expand(4_000, -1), 8, True, generator=generator)
    log_probs = log_policy[drawn]
    slopes = posterior_slopes(log_probs, torch.zeros_like(log_probs), rewards[drawn] / temperature, log_probs,
                              baseline=baseline)  # fmt: skip
    scores = torch.eye(10, dtype=torch.float64)[drawn] - log_policy.exp()
    return (slopes[..., None] * scores).sum(1)


def variance_ratio(way: float, temperature: float, seed: int) -> float:
    """Return the variance of the gradient with the baseline over that without it."""
    both = (estimates(way, temperature, baseline=b, seed=seed).var(0).sum() for b in (True, False))
    with_it, without = (float(each) for each in both)
    return with_it / without


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_baseline_halves_the_variance_at_least(temperature: float, seed: int) -> None:
    """Half-way to the posterior, n = 8: .02 to .19 of it in the pilot; the bar was proposed beforehand."""
    assert variance_ratio(0.5, temperature, seed) <= 0.5
    with_it, without = (estimates(0.5, temperature, baseline=b, seed=seed) for b in (True, False))
    scale = without.norm(dim=1).mean() / math.sqrt(len(without))
    assert float((with_it.mean(0) - without.mean(0)).norm()) < 6 * float(scale), "the mean stays what it was"


def test_the_baseline_vanishes_with_the_gradient() -> None:
    assert float(estimates(1.0, 1.0, baseline=True, seed=0).abs().max()) < 1e-12
    assert float(estimates(1.0, 1.0, baseline=False, seed=0).var(0).sum()) > 0.05


def test_the_baseline_does_not_help_where_one_output_outweighs_all_others() -> None:
    """What did not come out, kept as it is: at a low temperature the variance may be far larger with it."""
    ratios = [variance_ratio(0.5, 0.25, seed) for seed in range(10)]
    assert sum(ratio > 0.5 for ratio in ratios) == 6
    assert max(ratios) > 10.0
