"""Normal numbers within a Box, cut to it or squashed into it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from prefrl.functional.actor_critic.squashed_gaussian import squashed_log_prob, squashed_sample
from prefrl.nn.mlp import StackedMLP
from prefrl.nn.torsos import Numbers

from .base import LikelihoodPolicy

LOG_STD_RANGE = (-5.0, 2.0)
"""What logarithms of spreads that no observation changes are cut to, as in implicit Q-learning's code."""


class GaussianPolicy(LikelihoodPolicy):
    """Independent normal numbers, within a Box.

    In units u of half a bounded Box around its middle (of an unbounded one in its own), with f a network:

    - gaussian: u ~ N(tanh(f(s)), diag sigma^2), without the tanh where there are no bounds; what is drawn is
      cut to the Box (arXiv 2110.06169 in its released form);
    - squashed: u = tanh(z), z ~ N(f_1(s), diag exp(f_2(s))^2) (arXiv 1801.01290).

    Args:
        learners: S.
        observation_space: Discrete, or a Box without pictures.
        action_space: a Box of floating-point numbers; with finite bounds where it is squashed.
        hidden: sizes of the hidden layers, ReLU.
        squashed: which of the two.
        log_std: logarithm of sigma at the start.
        device: torch device.

    Raises:
        ValueError: for another space.

    Attributes:
        free: [S, 1, A] log sigma; nothing of it where it is squashed.
    """

    def __init__(
        self, learners: int, observation_space: gym.Space[Any], action_space: gym.Space[Any],
        hidden: Sequence[int] = (256, 256), *, squashed: bool = False, log_std: float = 0.0,
        device: torch.device | str = "cpu",
    ) -> None:  # fmt: skip
        if not isinstance(action_space, gym.spaces.Box):
            raise ValueError(f"action_space is {action_space}; a GaussianPolicy takes a Box")
        super().__init__(learners, action_space, device)
        low, high = (np.asarray(side, np.float64) for side in (action_space.low, action_space.high))
        if squashed and not (np.isfinite(low) & np.isfinite(high) & (low < high)).all():
            raise ValueError(f"action_space is {action_space}; a squashed policy takes finite bounds, "
                             "the low ones below the high ones")  # fmt: skip
        self.squashed, size = squashed, self.distribution.outputs
        self.numbers = Numbers(observation_space, torch.device(device))
        with torch.device(device):
            outputs = 2 * size if squashed else size
            self.network = StackedMLP(learners, self.numbers.size, hidden, outputs)
            self.free = nn.Parameter(torch.full((learners, 1, 0 if squashed else size), log_std))

    def parameters_at(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Return means and log standard deviations at observations [S, N, ...], in the units of u (or z).

        Returns:
            [S, N, A], and [S, N, A] where they are squashed, else [S, 1, A].
        """
        outputs: Tensor = self.network(self.numbers(obs, self.free.dtype))
        if self.squashed:
            mean, log_std = outputs.chunk(2, -1)
            return mean, log_std
        return torch.where(self.actions.bounded, torch.tanh(outputs), outputs), self.free.clamp(
            *LOG_STD_RANGE
        )

    def log_prob(self, obs: Tensor, actions: Tensor) -> Tensor:
        """See :class:`LikelihoodPolicy`.

        Squashed, actions at the bounds are taken to be a millionth within, where the density is a number.
        """
        mean, log_std = self.parameters_at(obs)
        raw = self._raw(actions.to(mean.dtype))
        if self.squashed:
            return squashed_log_prob(mean, log_std, raw) - self.actions.log_unit
        return self.distribution.evaluate(mean, log_std, raw).log_probs - self.actions.log_unit

    def mode(self, obs: Tensor) -> Tensor:
        """See :class:`LikelihoodPolicy`: the mean; squashed, tanh of the mean."""
        mean, _ = self.parameters_at(obs)
        return self._to_env(torch.tanh(mean) if self.squashed else mean)

    def draw(self, obs: Tensor, noise: Tensor) -> Tensor:
        """See :class:`LikelihoodPolicy`; the noise is standard normal."""
        mean, log_std = self.parameters_at(obs)
        if self.squashed:
            return self._to_env(squashed_sample(mean, log_std, noise))
        return self._to_env(self.distribution.draw(mean, log_std, noise))
