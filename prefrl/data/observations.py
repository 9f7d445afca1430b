"""Observations of any space as one tensor per step, and as the inputs of a network."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, TypeGuard

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor


class Inputs(NamedTuple):
    """What a network reads of N observations."""

    vectors: Tensor
    """[N, D] float32."""

    pictures: Tensor | None
    """[N, height, width, channels] uint8, where the space has one."""


class ObservationLayout:
    """Says how observations of a space are kept, and read by a network.

    Kept is one tensor for each step, as segments need it: of a Dict space its parts side by side as float32,
    of other spaces what the environment gives. Read are a vector (of a Discrete space an indicator, of
    MultiBinary and Box spaces the numbers) and at most one picture (uint8, three axes; transposed to channels
    last where they come first).

    Args:
        space: Box, Discrete, MultiBinary, MultiDiscrete, or a Dict of such.

    Raises:
        ValueError: for another space, or one with several pictures.

    Attributes:
        vector_size: D.
        numeric: [D] bool, True for numbers, False for indicators.
        picture: (height, width, channels), or None.
        picture_space: of the picture as the environment gives it, or None.
        kept_shape: of one step as it is kept.
    """

    def __init__(self, space: gym.Space[Any]) -> None:
        self.space = space
        self.is_dict = isinstance(space, gym.spaces.Dict)
        self.parts: list[tuple[str, gym.Space[Any]]] = (
            sorted(space.items()) if isinstance(space, gym.spaces.Dict) else [("", space)]
        )
        self._check(space)
        pictures = [part for _, part in self.parts if _is_picture(part)]
        if len(pictures) > 1:
            raise ValueError(f"observation_space {space} has {len(pictures)} pictures; one at most is read")
        self._channels_first = False
        self.picture: tuple[int, ...] | None = None
        self.picture_space = pictures[0] if pictures else None
        if pictures:
            shape = tuple(pictures[0].shape or ())
            self._channels_first = shape[0] < shape[2]
            self.picture = (shape[1], shape[2], shape[0]) if self._channels_first else shape
        kinds = [
            torch.full((_vector_size(part),), isinstance(part, gym.spaces.Box))
            for _, part in self.parts
            if not _is_picture(part)
        ]
        self.numeric = torch.cat([*kinds, torch.zeros(0, dtype=torch.bool)])
        self.vector_size = len(self.numeric)
        self._kept_sizes = [max(1, math.prod(part.shape or ())) for _, part in self.parts]
        self.kept_shape = (sum(self._kept_sizes),) if self.is_dict else tuple(space.shape or ())

    @staticmethod
    def _check(space: gym.Space[Any]) -> None:
        allowed = (gym.spaces.Box, gym.spaces.Discrete, gym.spaces.MultiBinary, gym.spaces.MultiDiscrete)
        parts = space.values() if isinstance(space, gym.spaces.Dict) else [space]
        for part in parts:
            if not isinstance(part, allowed):
                raise ValueError(f"space {space} is not supported; allowed are Box, Discrete, MultiBinary "
                                 "and MultiDiscrete spaces, and Dict spaces of these")  # fmt: skip

    def keep(self, obs: Any) -> Tensor:
        """Return observations [n, ...], or a dict of them, as the one tensor that is kept of them."""
        if not self.is_dict:
            return obs  # type: ignore[no-any-return]
        rows = [obs[name] for name, _ in self.parts]
        return torch.cat([row.reshape(row.shape[0], -1).to(torch.float32) for row in rows], 1)

    def unkeep(self, kept: Tensor) -> Any:
        """Return observations [n, ...], or a dict of them, that :meth:`keep` returned."""
        if not self.is_dict:
            return kept
        columns = torch.split(kept, self._kept_sizes, dim=1)
        return {
            name: values.reshape(-1, *(part.shape or ())).to(getattr(torch, str(part.dtype)))
            for (name, part), values in zip(self.parts, columns, strict=True)
        }

    def read(self, kept: Tensor) -> Inputs:
        """Return what a network reads of observations that were kept, [N, ...]."""
        vectors, pictures = self.split(kept)
        if pictures is not None and self._channels_first:
            pictures = pictures.permute(0, 2, 3, 1)
        return Inputs(vectors, pictures)

    def split(self, kept: Tensor) -> Inputs:
        """Return the same, but the picture with its axes as the space has them."""
        columns = list(torch.split(kept, self._kept_sizes, dim=1)) if self.is_dict else [kept]
        vectors: list[Tensor] = [torch.zeros(kept.shape[0], 0, device=kept.device)]
        pictures = None
        for (_, part), values in zip(self.parts, columns, strict=True):
            if _is_picture(part):
                shape = tuple(part.shape or ())
                if not self.is_dict and tuple(values.shape[1:]) != shape:
                    raise ValueError(f"pictures have shape {tuple(values.shape[1:])}; the space has {shape}")
                pictures = values.reshape(-1, *shape).to(torch.uint8)
            else:
                vectors.append(_vector(part, values))
        return Inputs(torch.cat(vectors, 1), pictures)


def _is_picture(space: gym.Space[Any]) -> TypeGuard[gym.spaces.Box]:
    return isinstance(space, gym.spaces.Box) and space.dtype == np.uint8 and len(space.shape) == 3


def _vector_size(space: gym.Space[Any]) -> int:
    if isinstance(space, gym.spaces.Discrete):
        return int(space.n)
    if isinstance(space, gym.spaces.MultiDiscrete):
        return int(space.nvec.sum())
    return max(1, math.prod(space.shape or ()))


def _vector(space: gym.Space[Any], values: Tensor) -> Tensor:
    """Return values [N, ...] of a space as [N, D] float32."""
    if isinstance(space, gym.spaces.Discrete):
        return _indicator(values.reshape(-1), int(space.n), int(space.start))
    if isinstance(space, gym.spaces.MultiDiscrete):
        columns = values.reshape(values.shape[0], -1).unbind(1)
        sizes, starts = space.nvec.ravel().tolist(), space.start.ravel().tolist()
        return torch.cat([_indicator(c, n, s) for c, n, s in zip(columns, sizes, starts, strict=True)], 1)
    return values.reshape(values.shape[0], -1).to(torch.float32)


def _indicator(values: Tensor, size: int, start: int) -> Tensor:
    places = torch.arange(size, device=values.device)
    return torch.eq(values[:, None] - start, places).to(torch.float32)


def as_batch(name: str, observation: Any, space: gym.Space[Any]) -> tuple[Any, bool]:
    """Return an observation [...], or a batch of them [n, ...], as a batch, and whether it was a single one.

    Raises:
        ValueError: if it is none of the space; ``name`` is what it is called there.
    """
    obs, shape = np.asarray(observation), space.shape or ()
    single = obs.shape == shape
    if not single and obs.shape[1:] != shape:
        raise ValueError(f"{name} has shape {obs.shape}; this agent takes {shape} or (n, *{shape})")
    if isinstance(space, gym.spaces.Discrete):
        obs = _check_discrete(obs, space)
    return (obs[None] if single else obs), single


def _check_discrete(obs: Any, space: gym.spaces.Discrete) -> Any:
    """Return observations of a Discrete space as int64; ValueError for anything else."""
    first, last = int(space.start), int(space.start + space.n - 1)
    if not np.issubdtype(obs.dtype, np.integer):
        raise ValueError(f"observation has dtype {obs.dtype}; this agent takes whole numbers from {first} "
                         f"to {last}")  # fmt: skip
    wrong = obs[(obs < first) | (obs > last)]
    if wrong.size:
        raise ValueError(f"observation is {wrong.flat[0]}; this agent takes {first} to {last}")
    return obs.astype(np.int64)  # torch takes uint8 for a mask, and does not know uint64
