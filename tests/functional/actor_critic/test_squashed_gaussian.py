"""Squashed Gaussians against torch's own distributions and autograd."""

import math

import pytest
import torch
from torch.distributions import Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from prefrl.functional.actor_critic.squashed_gaussian import (
    squashed_gaussian,
    squashed_gaussian_gradient,
    squashed_log_prob,
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


def test_given_actions_are_as_likely_as_drawn_ones() -> None:
    generator = torch.Generator().manual_seed(3)
    draws = torch.randn(3, 50, 2, generator=generator, dtype=torch.float64)
    mean, log_std, noise = draws[0], 0.3 * draws[1], 0.5 * draws[2]
    log_std[0] = 5.0  # beyond the range of log standard deviations
    noise[0] = 0.1
    actions, log_density = squashed_gaussian(mean, log_std, noise)
    torch.testing.assert_close(squashed_log_prob(mean, log_std, actions), log_density, rtol=1e-9, atol=1e-9)


def test_actions_at_the_bounds_are_finite() -> None:
    mean, log_std = torch.zeros(2, 1, requires_grad=True), torch.zeros(2, 1, requires_grad=True)
    log_prob = squashed_log_prob(mean, log_std, torch.tensor([[1.0], [-1.0]]))
    inside = math.atanh(1.0 - 1e-6)
    expected = -0.5 * math.log(2.0 * math.pi) - 0.5 * inside**2 - math.log(1.0 - (1.0 - 1e-6) ** 2)
    assert log_prob.tolist() == pytest.approx([expected] * 2, abs=0.5)  # float32, a millionth from 1
    log_prob.sum().backward()
    assert mean.grad is not None
    assert mean.grad.isfinite().all()


def test_its_gradient_is_that_of_finite_differences() -> None:
    draws = torch.randn(2, 5, 2, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    actions = torch.tanh(torch.linspace(-1.5, 1.5, 10, dtype=torch.float64).view(5, 2))
    mean, log_std = draws[0].requires_grad_(), draws[1].requires_grad_()
    assert torch.autograd.gradcheck(lambda m, s: squashed_log_prob(m, s, actions), (mean, log_std))
