"""Gaussian policies squashed into a box by tanh, as soft actor-critic has them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

LOG_STD_RANGE = (-20.0, 2.0)
"""What log standard deviations are cut to (Haarnoja et al. 2018, arXiv 1801.01290)."""


CONSTANT = 0.5 * math.log(2.0 * math.pi) + 2.0 * math.log(2.0)
"""What minus the log-density of an entry holds whatever the action is."""


def squashed_sample(mean: Tensor, log_std: Tensor, noise: Tensor) -> Tensor:
    """Return the actions [..., A] of :func:`squashed_gaussian` alone."""
    return torch.tanh(torch.addcmul(mean, log_std.clamp(*LOG_STD_RANGE).exp(), noise))


def squashed_gaussian(mean: Tensor, log_std: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Return actions a = tanh(u), u = mean + std * noise, and their log-densities.

        log pi(a) = log N(u; mean, std^2) - sum_i log(1 - tanh(u_i)^2)

    (Haarnoja et al. 2018, arXiv 1801.01290, appendix C), the last part as 2 log 2 - 2 log(e^u + e^-u) for
    each entry, which is exact where tanh is 1 to all digits. ``log_std`` is cut to :data:`LOG_STD_RANGE`.

    Args:
        mean: [..., A].
        log_std: [..., A].
        noise: [..., A] standard normal numbers.

    Returns:
        [..., A] actions within (-1, 1), and [...] log-densities.
    """
    log_std = log_std.clamp(*LOG_STD_RANGE)
    u = torch.addcmul(mean, log_std.exp(), noise)
    # -log pi(a) less a constant, in few calls: log_std + noise^2 / 2 - 2 log(e^u + e^-u)
    surprise = torch.addcmul(log_std, noise, noise, value=0.5).sub(torch.logaddexp(u, -u), alpha=2.0)
    return torch.tanh(u), -u.shape[-1] * CONSTANT - surprise.sum(-1)


LARGEST_ACTION = 1.0 - 1e-6
"""What given actions are cut to: of 1 itself, as float32 has it, the normal number would be infinite."""


def squashed_log_prob(mean: Tensor, log_std: Tensor, actions: Tensor) -> Tensor:
    """Return log pi(a) of given actions under the distribution of :func:`squashed_gaussian`.

    With u = artanh(a) it is sum_i log N(u_i; mean_i, std_i^2) - log(1 - a_i^2). Actions are cut to
    :data:`LARGEST_ACTION` in size, ``log_std`` to :data:`LOG_STD_RANGE`.

    Args:
        mean: [..., A].
        log_std: [..., A].
        actions: [..., A] in [-1, 1].

    Returns:
        [...].
    """
    log_std = log_std.clamp(*LOG_STD_RANGE)
    inside = actions.clamp(-LARGEST_ACTION, LARGEST_ACTION)
    scaled = (torch.atanh(inside) - mean) * (-log_std).exp()
    normal = -0.5 * scaled.square() - log_std - 0.5 * math.log(2.0 * math.pi)
    return (normal - torch.log1p(-inside.square())).sum(-1)


def squashed_gaussian_gradient(
    output: Tensor, noise: Tensor, actions: Tensor, of_actions: Tensor, of_log_density: Tensor
) -> Tensor:
    """Return the gradient of a loss of :func:`squashed_gaussian`'s results in mean and log_std.

    With du = dL/da (1 - a^2) + 2 a dL/dlog pi it is du for the mean and, within the range that it is cut to,
    du std noise - dL/dlog pi for log_std.

    Args:
        output: [..., 2A] mean and log_std side by side.
        noise: [..., A] as given there.
        actions: [..., A] as returned there.
        of_actions: [..., A] dL/da.
        of_log_density: [...] dL/dlog pi.

    Returns:
        [..., 2A].
    """
    _, raw = output.chunk(2, -1)
    density = of_log_density[..., None]
    # g (1 - a^2) + 2 a d = g - a (a g - 2 d)
    inner = (actions * of_actions).sub_(density, alpha=2.0)
    of_mean = torch.addcmul(of_actions, actions, inner, value=-1.0)
    log_std = raw.clamp(*LOG_STD_RANGE)
    within = raw == log_std
    of_log_std = torch.addcmul(-density, of_mean, log_std.exp_().mul_(noise))
    return torch.cat([of_mean, of_log_std.mul_(within)], -1)
