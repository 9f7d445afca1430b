"""Pairs of segments as policies read them, and the networks that say how likely their actions are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import gymnasium as gym
import torch
from torch import nn

from prefrl.data import Preferences, Segments, seeded_generator
from prefrl.data.devices import building
from prefrl.data.observations import ObservationLayout
from prefrl.functional.preferences.pair_loss import first_differing_step
from prefrl.nn.likelihood_policies import Actions
from prefrl.nn.mlp import StackedMLP
from prefrl.nn.policies import ActionDistribution


class Policy(nn.Module):
    """Policies of S learners: a stack of networks, and the parameters that hang on no observation.

    Args:
        inputs: D, numbers of an observation.
        distribution: what the outputs mean.
        hidden: sizes of the hidden layers; none: a table, for observations that are indicators.
        activation: after every hidden layer.
        log_std: what the free parameters start at.
        seeds: of the learners.
        device: torch device.
    """

    def __init__(
        self, inputs: int, distribution: ActionDistribution, hidden: Sequence[int],
        activation: Literal["relu", "tanh"], log_std: float, seeds: Sequence[int], device: torch.device,
    ) -> None:  # fmt: skip
        super().__init__()
        size = inputs, hidden, distribution.outputs, activation
        with building(device, 0):
            self.layers = StackedMLP(len(seeds), *size)
            self.free = nn.Parameter(torch.full((len(seeds), 1, distribution.width), log_std))
        with torch.no_grad():
            for learner, seed in enumerate(seeds):
                with building(device, seeded_generator(seed, "network").initial_seed()):
                    one = StackedMLP(1, *size)
                for mine, drawn in zip(self.layers.parameters(), one.parameters(), strict=True):
                    mine[learner] = drawn[0] if hidden else 0.0  # a table starts with uniform actions


class Pairs:
    """Comparisons as a policy reads them, on its device.

    Args:
        preferences: N comparisons.
        layout: of the observations.
        actions: of the space.
        device: torch device.
        dtype: of the policy's numbers.

    Attributes:
        obs: [N, 2, L, ...] as they are kept.
        raw: [N, 2, L, ...] actions as the policy's distribution has them.
        mask: [N, 2, L] bool.
        labels: [N].
        weights: [N], of mean 1.
        offsets: [N], or None.
        starts: [N] first step in which the two sides differ.
    """

    def __init__(
        self, preferences: Preferences, layout: ObservationLayout, actions: Actions, device: torch.device,
        dtype: torch.dtype,
    ) -> None:  # fmt: skip
        longest = max(preferences.first.max_length, preferences.second.max_length)
        sides = [side.padded(longest).to(device) for side in (preferences.first, preferences.second)]
        self.obs = torch.stack([layout.keep(side.obs[:, :-1]) for side in sides], 1)
        acted = torch.stack([side.actions for side in sides], 1)
        self.mask = torch.stack([side.mask for side in sides], 1)
        raw = actions.from_env(acted.flatten(0, 2)).view(*acted.shape[:3], -1)
        self.raw = torch.where(self.mask[..., None], raw, 0)  # padding need not be actions
        offsets, weights = preferences.offsets, preferences.weights
        self.labels = preferences.labels.to(device, dtype)
        self.weights = (weights / weights.mean()).to(device, dtype)
        self.offsets = None if offsets is None else offsets.to(device, dtype)
        differs = (self.raw[:, 0] != self.raw[:, 1]).any(-1)
        self.starts = first_differing_step(differs, torch.zeros_like(differs))

    def __len__(self) -> int:
        return len(self.labels)


def check_preferences(
    preferences: Preferences, observation_space: gym.Space[Any], action_space: gym.Space[Any]
) -> None:
    """Refuse comparisons that a policy of these spaces cannot learn from.

    Raises:
        ValueError: naming what is wrong.
    """
    if not len(preferences):
        raise ValueError("preferences hold no comparison")
    preferences.validate()
    if not bool((preferences.weights > 0).any()):
        raise ValueError("preferences have weight 0 only")
    for side, segments in (("first", preferences.first), ("second", preferences.second)):
        check_segments(f"the {side} segments", segments, observation_space, action_space)


def check_segments(
    whose: str, segments: Segments, observation_space: gym.Space[Any], action_space: gym.Space[Any]
) -> None:
    """Refuse segments of other spaces.

    Args:
        whose: what messages call them.
        segments: what was seen and done.
        observation_space: of the policy.
        action_space: of the policy.

    Raises:
        ValueError: naming what is wrong.
    """
    for name, values, space in (("obs", segments.obs, observation_space),
                                ("actions", segments.actions, action_space)):  # fmt: skip
        if isinstance(space, gym.spaces.Dict):
            continue  # parts side by side, as the layout keeps them
        shape = tuple(space.shape or ())
        if tuple(values.shape[2:]) != shape:
            raise ValueError(f"{name} of {whose} have shape {tuple(values.shape[2:])}; those of {space} "
                             f"have {shape}")  # fmt: skip
        if isinstance(space, gym.spaces.Discrete):
            used = values if name == "obs" else values[segments.mask]
            first, last = int(space.start), int(space.start + space.n - 1)
            if used.is_floating_point() or int(used.min()) < first or int(used.max()) > last:
                raise ValueError(f"{name} of {whose} are {used.dtype} from {used.min()} to {used.max()}; "
                                 f"those of {space} are whole numbers from {first} to {last}")  # fmt: skip
