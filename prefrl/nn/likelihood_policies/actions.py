"""The actions of a space as a policy has them."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from prefrl.nn.policies import ActionDistribution, Categoricals, DiagonalGaussian


class Actions:
    """The actions of a space as a policy has them: raw ones that are drawn, and what the environment takes.

    Discrete and MultiDiscrete choices are counted from 0. Numbers of a bounded Box are in units of half its
    width around its middle, and cut to it; of an unbounded one they are as they are.

    Args:
        space: Discrete, MultiDiscrete, or a Box of floating-point numbers.
        device: torch device.
        name: of whoever takes them, for messages.

    Raises:
        ValueError: for another space.

    Attributes:
        distribution: the family of distributions over them.
        bounded: [A] bool, of a Box: which numbers have bounds.
        log_unit: what the logarithm of a density of raw actions is above that of the environment's own.
    """

    def __init__(self, space: gym.Space[Any], device: torch.device, name: str = "a policy") -> None:
        self.space = space
        self.distribution: ActionDistribution
        self.log_unit: float = 0.0
        if isinstance(space, gym.spaces.Discrete):
            self.distribution = Categoricals([int(space.n)])
            self.start = torch.full((1,), int(space.start), device=device)
        elif isinstance(space, gym.spaces.MultiDiscrete):
            self.distribution = Categoricals(space.nvec.ravel().tolist())
            self.start = torch.stack(
                [torch.full((), int(first), device=device) for first in space.start.flat]
            )
        elif isinstance(space, gym.spaces.Box) and np.issubdtype(space.dtype, np.floating):
            self.distribution = DiagonalGaussian(math.prod(space.shape))
            low, high = (bound.ravel().astype(np.float64) for bound in (space.low, space.high))
            with np.errstate(over="ignore"):
                bounded = np.isfinite(high - low) & (low < high)
            self.bounded = torch.stack([torch.full((), bool(each), device=device) for each in bounded])
            half = np.where(bounded, 0.5 * (high - low), 1.0)
            self.log_unit = float(np.log(half).sum())
            middle = np.where(bounded, low + half, 0.0)
            self.low, self.high, self.half, self.middle = (
                torch.stack([torch.full((), float(value), device=device) for value in values])
                for values in (low, high, half, middle)
            )
        else:
            raise ValueError(f"action_space is {space}; {name} takes Discrete and MultiDiscrete actions, and "
                             "Boxes of floating-point numbers")  # fmt: skip

    def to_env(self, raw: Tensor) -> Tensor:
        """Return raw actions [n, ...] as the environment takes them."""
        shape = (raw.shape[0], *(self.space.shape or ()))
        if isinstance(self.space, gym.spaces.Box):
            numbers = torch.addcmul(self.middle, raw, self.half).nan_to_num_()  # a learner may have diverged
            return torch.clamp(numbers, self.low, self.high).view(shape)
        return (raw + self.start).view(shape)

    def from_env(self, actions: Tensor) -> Tensor:
        """Return actions [n, ...] of the environment as raw ones [n, A]."""
        rows = actions.reshape(len(actions), -1)
        if isinstance(self.space, gym.spaces.Box):
            return (rows - self.middle) / self.half
        return rows - self.start
