"""Gaussian policies squashed into a box by tanh, as soft actor-critic has them."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

LOG_STD_RANGE = (-20.0, 2.0)
"""What log standard deviations are cut to (Haarnoja et al. 2018, arXiv 1801.01290)."""


def squashed_gaussian(mean: Tensor, log_std: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Return actions a = tanh(u), u = mean + std * noise, and their log-densities.

        log pi(a) = log N(u; mean, std^2) - sum_i log(1 - tanh(u_i)^2)

    (Haarnoja et al. 2018, arXiv 1801.01290, appendix C), the last part as 2 (log 2 - u - softplus(-2 u)),
    which is exact where tanh is 1 to all digits. ``log_std`` is cut to :data:`LOG_STD_RANGE`.

    Args:
        mean: [..., A].
        log_std: [..., A].
        noise: [..., A] standard normal numbers.

    Returns:
        [..., A] actions within (-1, 1), and [...] log-densities.
    """
    log_std = log_std.clamp(*LOG_STD_RANGE)
    u = mean + log_std.exp() * noise
    of_normal = -0.5 * noise.square() - log_std - 0.5 * math.log(2.0 * math.pi)
    of_squashing = 2.0 * (math.log(2.0) - u - F.softplus(-2.0 * u))
    return torch.tanh(u), (of_normal - of_squashing).sum(-1)


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
    of_mean = of_actions * (1.0 - actions.square()) + 2.0 * density * actions
    low, high = LOG_STD_RANGE
    of_log_std = (of_mean * raw.clamp(low, high).exp() * noise - density) * ((raw >= low) & (raw <= high))
    return torch.cat([of_mean, of_log_std], -1)
