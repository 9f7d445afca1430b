"""A softmax of logits, out of a table or a network."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import torch
from torch import Tensor, nn

from prefrl.nn.mlp import StackedMLP
from prefrl.nn.torsos import Numbers

from .base import LikelihoodPolicy


class _Choices(LikelihoodPolicy):
    """A softmax of logits, whatever gives them."""

    @abstractmethod
    def logits(self, obs: Tensor) -> Tensor:
        """Return the logits [S, N, K] at observations [S, N, ...]."""

    def log_prob(self, obs: Tensor, actions: Tensor) -> Tensor:
        """See :class:`LikelihoodPolicy`."""
        logits = self.logits(obs)  # twice: choices have no free parameters, and look at none
        return self.distribution.evaluate(logits, logits, self._raw(actions)).log_probs

    def mode(self, obs: Tensor) -> Tensor:
        """See :class:`LikelihoodPolicy`: the most likely ones."""
        return self._to_env(self.distribution.mode(self.logits(obs)))

    def draw(self, obs: Tensor, noise: Tensor) -> Tensor:
        """See :class:`LikelihoodPolicy`; the noise is Gumbel's."""
        logits = self.logits(obs)
        return self._to_env(self.distribution.draw(logits, logits, noise))


class TabularPolicy(_Choices):
    """A softmax of a table of logits, which are 0 at the start: all actions are as likely.

    Args:
        learners: S.
        observation_space: Discrete.
        action_space: Discrete.
        device: torch device.
        dtype: of the logits.

    Raises:
        ValueError: for another space.

    Attributes:
        table: [S, states, actions] the logits.
        first_state: the number that states are counted from.
    """

    def __init__(
        self, learners: int, observation_space: gym.Space[Any], action_space: gym.Space[Any],
        device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32,
    ) -> None:  # fmt: skip
        for name, space in (("observation_space", observation_space), ("action_space", action_space)):
            if not isinstance(space, gym.spaces.Discrete):
                raise ValueError(f"{name} is {space}; a table of logits is for Discrete spaces")
        super().__init__(learners, action_space, device)
        assert isinstance(observation_space, gym.spaces.Discrete)
        self.first_state = int(observation_space.start)
        shape = learners, int(observation_space.n), self.distribution.outputs
        self.table = nn.Parameter(torch.zeros(shape, device=device, dtype=dtype))

    def logits(self, obs: Tensor) -> Tensor:
        """Return the logits [S, N, actions] at states [S, N]."""
        places = (obs - self.first_state)[..., None].expand(-1, -1, self.table.shape[2])
        return self.table.gather(1, places)


class DiscretePolicy(_Choices):
    """A softmax of a network's outputs.

    Args:
        learners: S.
        observation_space: Discrete, or a Box without pictures.
        action_space: Discrete or MultiDiscrete, whose choices are independent.
        hidden: sizes of the hidden layers, ReLU.
        device: torch device.

    Raises:
        ValueError: for another space.
    """

    def __init__(
        self, learners: int, observation_space: gym.Space[Any], action_space: gym.Space[Any],
        hidden: Sequence[int] = (256, 256), device: torch.device | str = "cpu",
    ) -> None:  # fmt: skip
        if not isinstance(action_space, (gym.spaces.Discrete, gym.spaces.MultiDiscrete)):
            raise ValueError(f"action_space is {action_space}; a DiscretePolicy takes Discrete and "
                             "MultiDiscrete actions")  # fmt: skip
        super().__init__(learners, action_space, device)
        self.numbers = Numbers(observation_space, torch.device(device))
        with torch.device(device):
            self.network = StackedMLP(learners, self.numbers.size, hidden, self.distribution.outputs)

    def logits(self, obs: Tensor) -> Tensor:
        """See :class:`_Choices`."""
        logits: Tensor = self.network(self.numbers(obs, self.network.weights()[0].dtype))
        return logits


def policy_table(policy: LikelihoodPolicy, observation_space: gym.Space[Any]) -> Tensor:
    """Return pi(a | s) [states, actions] of a policy's first learner in Discrete spaces, float64.

    Args:
        policy: a table or a network.
        observation_space: what it was made for.

    Raises:
        ValueError: if a space is another.
    """
    spaces = observation_space, policy.actions.space
    if not all(isinstance(space, gym.spaces.Discrete) for space in spaces):
        raise ValueError(f"spaces are {spaces[0]} and {spaces[1]}; both must be Discrete: "
                         "there is no table of others")  # fmt: skip
    assert isinstance(policy, _Choices)
    assert isinstance(observation_space, gym.spaces.Discrete)
    device = next(policy.parameters()).device
    states = torch.arange(int(observation_space.n), device=device) + int(observation_space.start)
    return torch.softmax(policy.logits(states.expand(policy.learners, -1))[0].double(), -1)
