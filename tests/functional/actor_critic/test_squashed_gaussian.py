"""Squashed Gaussians against torch's own distributions and autograd."""

import math

import pytest
import torch
from torch.distributions import Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from prefrl.functional.actor_critic.squashed_gaussian import (
    squashed_gaussian,
    squashed_gaussian_gradient,
    squashed_sample,
)


def test_density_of_hand() -> None:
    # mean 0, std 1, noise 0: a = 0, and the squashing has slope 1 there
    action, log_density = squashed_gaussian(torch.zeros(1), torch.zeros(1), torch.zeros(1))
    assert float(action) == 0.0
    assert float(log_density) == pytest.approx(-0.5 * math.log(2.0 * math.pi))


def test_density_of_a_distribution() -> None:
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(3, 50, 2, generator=generator, dtype=torch.float64)
    mean, log_std, noise = draws[0], 0.3 * draws[1], 0.5 * draws[2]  # torch's inverse fails far out
    action, log_density = squashed_gaussian(mean, log_std, noise)
    distribution = TransformedDistribution(Normal(mean, log_std.exp()), [TanhTransform(cache_size=1)])
    torch.testing.assert_close(log_density, distribution.log_prob(action).sum(-1), rtol=1e-6, atol=1e-6)


def test_far_out_the_density_is_finite() -> None:
    action, log_density = squashed_gaussian(torch.full((1,), 50.0), torch.zeros(1), torch.zeros(1))
    assert float(action) == 1.0
    # log N(u; u, 1) + log of the inverse slope, 2 u - 2 log 2
    assert float(log_density) == pytest.approx(-0.5 * math.log(2 * math.pi) + 100.0 - 2 * math.log(2.0))


def test_samples_are_its_actions() -> None:
    mean, log_std, noise = torch.randn(3, 50, 2, generator=torch.Generator().manual_seed(2))
    log_std[:2] = torch.tensor([[5.0], [-25.0]])  # beyond the range of log standard deviations
    assert torch.equal(squashed_sample(mean, log_std, noise), squashed_gaussian(mean, log_std, noise)[0])


def test_gradient_is_that_of_autograd() -> None:
    generator = torch.Generator().manual_seed(1)
    output = torch.randn(40, 6, generator=generator, dtype=torch.float64)
    output[0, 3:] = 5.0  # beyond the range of log standard deviations
    output[1, 3:] = -25.0
    output.requires_grad_()
    noise = torch.randn(40, 3, generator=generator, dtype=torch.float64)
    of_actions = torch.randn(40, 3, generator=generator, dtype=torch.float64)
    of_density = torch.randn(40, generator=generator, dtype=torch.float64)
    actions, log_density = squashed_gaussian(*output.chunk(2, -1), noise)
    loss = (actions * of_actions).sum() + (log_density * of_density).sum()
    (expected,) = torch.autograd.grad(loss, output)
    found = squashed_gaussian_gradient(output.detach(), noise, actions.detach(), of_actions, of_density)
    torch.testing.assert_close(found, expected)
    assert not found[:2, 3:].any()
