"""Policy and value of an on-policy agent as networks side by side, for S learners at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

from prefrl.data import seeded_generator
from prefrl.data.devices import building
from prefrl.nn.mlp import StackedMLP
from prefrl.nn.policies import ActionDistribution


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
