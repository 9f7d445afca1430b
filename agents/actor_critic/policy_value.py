"""Policy and value of an on-policy agent as networks side by side, for S learners at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from prefrl.data import seeded_generator
from prefrl.data.devices import building
from prefrl.nn.mlp import StackedMLP
from prefrl.nn.policies import ActionDistribution, Categoricals, DiagonalGaussian


class PolicyValue(nn.Module):
    """Multilayer perceptrons of policy and value; the first axis of every parameter is that of learners.

    They start as Stable-Baselines3's: orthogonal weights, of gain sqrt(2) in hidden layers, 0.01 in the
    policy's last one and 1 in the value's, and no biases.

    Args:
        inputs: D, numbers of an observation.
        distribution: what the policy's outputs mean.
        hidden: sizes of the hidden layers of each.
        activation: after every hidden layer.
        log_std: what the free parameters of the distribution start at.
        seeds: of the learners, S.
        device: torch device.
    """

    def __init__(
        self, inputs: int, distribution: ActionDistribution, hidden: Sequence[int],
        activation: Literal["relu", "tanh"], log_std: float, seeds: Sequence[int], device: torch.device,
    ) -> None:  # fmt: skip
        super().__init__()
        learners = len(seeds)
        with building(device, 0):  # what is drawn here is drawn anew below, by the seed of each
            self.policy = StackedMLP(learners, inputs, hidden, distribution.outputs, activation)
            self.value = StackedMLP(learners, inputs, hidden, None, activation)
            self.free = nn.Parameter(torch.full((learners, 1, distribution.width), log_std))
        for learner, seed in enumerate(seeds):
            with building(device, seeded_generator(seed, "network").initial_seed()), torch.no_grad():
                for network, last in ((self.policy, 0.01), (self.value, 1.0)):
                    weights, gains = network.weights(), [math.sqrt(2.0)] * len(hidden) + [last]
                    for weight, gain in zip(weights, gains, strict=True):
                        weight[learner].copy_(nn.init.orthogonal_(torch.empty(weight.shape[:0:-1]), gain).T)
        with torch.no_grad():
            for bias in [*self.policy.biases(), *self.value.biases()]:
                bias.zero_()


class Actions:
    """The actions of a space as a policy has them: raw ones that are drawn, and what the environment takes.

    Discrete and MultiDiscrete choices are counted from 0. Numbers of a bounded Box are in units of half its
    width around its middle, and cut to it; of an unbounded one they are as they are.

    Args:
        space: Discrete, MultiDiscrete, or a Box of floating-point numbers.
        device: torch device.

    Raises:
        ValueError: for another space.

    Attributes:
        distribution: the family of distributions over them.
    """

    def __init__(self, space: gym.Space[Any], device: torch.device) -> None:
        self.space = space
        self.distribution: ActionDistribution
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
            half = np.where(bounded, 0.5 * (high - low), 1.0)
            middle = np.where(bounded, low + half, 0.0)
            self.low, self.high, self.half, self.middle = (
                torch.stack([torch.full((), float(value), device=device) for value in values])
                for values in (low, high, half, middle)
            )
        else:
            raise ValueError(f"action_space is {space}; PPO takes Discrete and MultiDiscrete actions, and "
                             "Boxes of floating-point numbers")  # fmt: skip

    def to_env(self, raw: Tensor) -> Tensor:
        """Return raw actions [n, ...] as the environment takes them."""
        shape = (len(raw), *(self.space.shape or ()))
        if isinstance(self.space, gym.spaces.Box):
            numbers = torch.addcmul(self.middle, raw, self.half).nan_to_num_()  # a learner may have diverged
            return torch.clamp(numbers, self.low, self.high).view(shape)
        return (raw + self.start).view(shape)

    def from_env(self, actions: Tensor) -> Tensor:
        """Return actions of the environment [n, ...] as raw ones [n, choices or numbers]."""
        flat = actions.reshape(len(actions), -1)
        if isinstance(self.space, gym.spaces.Box):
            return (flat.to(self.half.dtype) - self.middle) / self.half
        return flat - self.start
