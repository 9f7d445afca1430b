"""The policy that suits spaces and settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import gymnasium as gym
import torch

from .choices import DiscretePolicy, TabularPolicy
from .gaussian import GaussianPolicy

GaussianKind = Literal["gaussian", "squashed"]
"""Normal numbers around a mean within the Box, which are cut to it, or numbers squashed into it by tanh."""

PolicyKind = Literal["auto", "table", "network"]
"""A table of logits, in float64, or a network; auto: a table where observations and actions are Discrete."""


def likelihood_policy(
    observation_space: gym.Space[Any], action_space: gym.Space[Any], *, learners: int = 1,
    hidden: Sequence[int] = (256, 256), kind: GaussianKind = "gaussian", device: torch.device | str = "cpu",
) -> DiscretePolicy | GaussianPolicy:  # fmt: skip
    """Return the policy by a network that suits a space of actions.

    Args:
        observation_space: Discrete, or a Box without pictures.
        action_space: Discrete, MultiDiscrete, or a Box of floating-point numbers.
        learners: S.
        hidden: sizes of the hidden layers.
        kind: of a Box' policy; see :class:`GaussianPolicy`.
        device: torch device.

    Raises:
        ValueError: for another space.
    """
    if isinstance(action_space, gym.spaces.Box):
        return GaussianPolicy(learners, observation_space, action_space, hidden, squashed=kind == "squashed",
                              device=device)  # fmt: skip
    return DiscretePolicy(learners, observation_space, action_space, hidden, device)


def table_or_network(
    observation_space: gym.Space[Any], action_space: gym.Space[Any], kind: PolicyKind, *,
    hidden: Sequence[int] = (256, 256), device: torch.device | str = "cpu",
) -> TabularPolicy | DiscretePolicy | GaussianPolicy:  # fmt: skip
    """Return one learner's policy: a table of logits in float64, or the network that suits the actions.

    Args:
        observation_space: Discrete, or for a network a Box without pictures.
        action_space: Discrete, or for a network also MultiDiscrete, or a Box of floating-point numbers.
        kind: which of the two.
        hidden: sizes of the network's hidden layers.
        device: torch device.

    Raises:
        ValueError: for another space.
    """
    spaces = observation_space, action_space
    discrete = all(isinstance(space, gym.spaces.Discrete) for space in spaces)
    if kind == "table" or (kind == "auto" and discrete):
        return TabularPolicy(1, *spaces, device, torch.float64)
    return likelihood_policy(*spaces, hidden=hidden, device=device)
