"""Whether segments are of an agent's spaces."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import torch

from .observations import ObservationLayout
from .segments import Segments


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
        shape = ObservationLayout(space).kept_shape
        if tuple(values.shape[2:]) != shape:
            raise ValueError(f"{name} of {whose} have shape {tuple(values.shape[2:])}; those of {space} "
                             f"have {shape}")  # fmt: skip
        used = values if name == "obs" else values[segments.mask]
        if isinstance(space, gym.spaces.Discrete):
            first, last = int(space.start), int(space.start + space.n - 1)
            if used.is_floating_point() or int(used.min()) < first or int(used.max()) > last:
                raise ValueError(f"{name} of {whose} are {used.dtype} from {used.min()} to {used.max()}; "
                                 f"those of {space} are whole numbers from {first} to {last}")  # fmt: skip
        elif isinstance(space, gym.spaces.MultiDiscrete):
            start, sizes = (torch.as_tensor(each, device=used.device) for each in (space.start, space.nvec))
            outside = (used < start) | (used >= start + sizes)
            if used.is_floating_point() or bool(outside.any()):
                raise ValueError(f"{name} of {whose} are {used.dtype}, {int(outside.sum())} of them outside "
                                 f"of {space}")  # fmt: skip
