"""What policies with a likelihood have in common, and what is done with any of them."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import gymnasium as gym
import torch
from torch import Tensor, nn

from prefrl.functional.streams import Streams
from prefrl.nn.mlp import StackedMLP
from prefrl.nn.policies import ActionDistribution

from .actions import Actions

if TYPE_CHECKING:
    from prefrl.data.segments import Segments

PolicyType = TypeVar("PolicyType", bound="LikelihoodPolicy")


class LikelihoodPolicy(nn.Module, ABC):
    """A policy that says how likely actions are; see the module's text.

    Args:
        learners: S.
        action_space: Discrete, MultiDiscrete, or a Box of floating-point numbers.
        device: torch device, where parameters are too.

    Raises:
        ValueError: for another space.

    Attributes:
        actions: what the space's actions are to the policy.
    """

    def __init__(self, learners: int, action_space: gym.Space[Any], device: torch.device | str) -> None:
        super().__init__()
        self.learners = learners
        self.actions = Actions(action_space, torch.device(device), "a policy with a likelihood")

    @property
    def distribution(self) -> ActionDistribution:
        """The family of distributions, of raw actions."""
        return self.actions.distribution

    @abstractmethod
    def log_prob(self, obs: Tensor, actions: Tensor) -> Tensor:
        """Return log pi(a | s) [S, N]; of Boxes the logarithm of a density.

        Args:
            obs: [S, N, ...] observations.
            actions: [S, N, ...] actions.
        """

    @abstractmethod
    def mode(self, obs: Tensor) -> Tensor:
        """Return the actions [S, N, ...] that a deterministic policy takes."""

    @abstractmethod
    def draw(self, obs: Tensor, noise: Tensor) -> Tensor:
        """Return actions [S, N, ...] drawn from the policy.

        Args:
            obs: [S, N, ...] observations.
            noise: [S, N, K] of :meth:`noise`.
        """

    def noise(self, streams: Streams, rows: int) -> Tensor:
        """Return what :meth:`draw` takes for a number of rows, [S, rows, K]."""
        return self.distribution.noise(streams, rows)

    def act(self, obs: Tensor, streams: Streams, *, deterministic: bool = False) -> Tensor:
        """Return the actions [N, ...] of a single learner at observations [N, ...].

        Args:
            obs: [N, ...] observations.
            streams: of its noise.
            deterministic: the :meth:`mode` instead of a draw.
        """
        if deterministic:
            return self.mode(obs[None])[0]
        return self.draw(obs[None], self.noise(streams, len(obs)))[0]

    def _raw(self, actions: Tensor) -> Tensor:
        """Return the environment's actions [S, N, ...] as raw ones [S, N, A]."""
        raw = self.actions.from_env(actions.flatten(0, 1))
        return raw.view(*actions.shape[:2], -1)

    def _to_env(self, raw: Tensor) -> Tensor:
        actions = self.actions.to_env(raw.flatten(0, 1))
        return actions.view(*raw.shape[:2], *actions.shape[1:])


def joined_policies(policies: Sequence[PolicyType]) -> PolicyType:
    """Return copies of policies of one shape as a single one, of all their learners in turn."""
    whole = copy.deepcopy(policies[0])
    whole.learners = sum(policy.learners for policy in policies)
    states = [policy.state_dict() for policy in policies]
    for name, parameter in whole.named_parameters():
        parameter.data = torch.cat([state[name] for state in states])
        parameter.grad = None
    for module in whole.modules():
        if isinstance(module, StackedMLP):
            module.members = whole.learners
    return whole


def segment_log_probs(policy: LikelihoodPolicy, segments: Segments) -> Tensor:
    """Return log pi(a_t | s_t) [S, N, L] of every step of N segments, 0 where a segment is padding.

    Args:
        policy: of S learners; each is asked about all segments.
        segments: on the policy's device.
    """
    mask, first = segments.mask, segments.actions[:, :1]
    # Padding is of zeros, which some spaces do not hold; what stands there instead does not matter.
    inside = mask.view(*mask.shape, *[1] * (segments.actions.ndim - 2))
    rows = (segments.obs[:, :-1].flatten(0, 1), torch.where(inside, segments.actions, first).flatten(0, 1))
    obs, actions = (values.expand(policy.learners, *values.shape) for values in rows)
    return torch.where(mask, policy.log_prob(obs, actions).view(-1, *mask.shape), 0.0)
