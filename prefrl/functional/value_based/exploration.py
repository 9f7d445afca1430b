"""Epsilon-greedy exploration: how often an action is a uniform one, and which actions then are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def linear_epsilon(start: float, end: float, timesteps: int, now: int) -> float:
    """Return what epsilon is at timestep ``now``: it falls linearly over ``timesteps``, then stays."""
    return start + min(1.0, now / max(1, timesteps)) * (end - start)


def epsilon_greedy(best: Tensor, num_actions: int, epsilon: float, noise: Tensor) -> Tensor:
    """Return actions [n]: the best ones [n], each replaced by a uniform one with probability epsilon.

    Args:
        best: counted from 0.
        num_actions: how many there are.
        epsilon: in [0, 1].
        noise: [2, n] uniform in [0, 1).
    """
    return torch.where(noise[1] < epsilon, (noise[0] * num_actions).long(), best)


def epsilon_greedy_alone(values: Sequence[float], epsilon: float, share: float, chance: float) -> int:
    """Return the same of a single row of values [A], of which the first best one counts, as plain numbers.

    Args:
        values: of the actions.
        epsilon: in [0, 1].
        share: uniform in [0, 1), which decides what a uniform action is.
        chance: uniform in [0, 1), which decides whether it is one.
    """
    return int(share * len(values)) if chance < epsilon else values.index(max(values))
