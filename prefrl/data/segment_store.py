"""What happened lately, kept so that segments can be cut from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .replay import ReplayBuffer
from .segments import Segments
from .transitions import Transitions


class Excerpt(NamedTuple):
    """Segments cut from a store, with what the environment paid along them."""

    segments: Segments

    rewards: Tensor
    """[N, L] true rewards, 0 in the padding."""

    weights: Tensor
    """[N] 1, or 0 for rows that do not count: there were fewer whole segments than asked for."""


class SegmentStore:
    """The latest steps of ``num_envs`` environments with their true rewards, on the device.

    Args:
        capacity: transitions to keep, over all environments together.
        num_envs: rows of a step.
    """

    def __init__(self, capacity: int, num_envs: int) -> None:
        self.ring = ReplayBuffer(capacity, num_envs, gamma=1.0)

    def __len__(self) -> int:
        return len(self.ring)

    @property
    def steps(self) -> int:
        """Steps that it holds, of all environments together."""
        return len(self.ring) // self.ring.num_envs

    def add(
        self, transitions: Transitions, obs: Tensor, next_obs: Tensor, features: Tensor | None = None
    ) -> None:
        """Take in one step.

        Args:
            transitions: the step, with the true rewards.
            obs: [n, ...] its observations as they are kept (``prefrl.data.observations``).
            next_obs: [n, ...] likewise.
            features: [n, F] features of the transitions.
        """
        extras = {} if features is None else {"features": features}
        self.ring.add(replace(transitions, obs=obs, next_obs=next_obs), extras)

    def latest(self) -> dict[str, Tensor]:
        """Return everything that it holds, [steps, n, ...] by name, the newest last."""
        order = self.ring.latest(self.steps, self.ring.storage["rewards"].device)
        return {name: values[order] for name, values in self.ring.storage.items()}

    def sample(self, count: int, length: int, generator: torch.Generator, *, recent: float = 1.0) -> Excerpt:
        """Cut segments at random: of ``length`` transitions, or fewer where they end in a terminal state.

        Starts are drawn uniformly. Segments that a truncation, or the present, cuts short are taken only
        where there are not enough others.

        Args:
            count: N.
            length: L.
            generator: draws the starts, on its own device.
            recent: from this share of the latest steps only.

        Raises:
            ValueError: if the store is empty.
        """
        if not len(self):
            raise ValueError("the store is empty; there is nothing to cut segments from")
        storage, rows = self.ring.storage, self.ring.num_envs
        device = storage["rewards"].device
        nearest = min(length, self.steps) - 1  # the present cuts what starts later than that
        span = max(nearest + 1, round(recent * self.steps))
        drawn = torch.rand(2, 4 * count, generator=generator, device=generator.device).to(device)
        age = nearest + (drawn[0] * (span - nearest)).long()  # 0 is the newest step
        row = (drawn[1] * rows).long()
        step = (self.ring.added - 1 - age) % self.ring.steps
        places, taken, terminated = self._follow(step, row, age, length)
        lengths = taken.sum(1)
        real = storage["mask"][step, row]
        whole = real & ((lengths == length) | terminated)
        best = torch.argsort(whole.to(torch.int8) + real.to(torch.int8), descending=True, stable=True)[:count]
        counts = torch.where(whole.any(), whole, real)
        return self._excerpt(places[best], row[best], lengths[best], terminated[best], counts[best])

    def _follow(self, step: Tensor, row: Tensor, age: Tensor, length: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return places [N, L] on axis 0, which of them belong to the segment, and whether it terminates."""
        storage, offset = self.ring.storage, torch.arange(length, device=step.device)
        places = (step[:, None] + offset) % self.ring.steps
        terminal = storage["terminations"][places, row[:, None]]
        ended = terminal | storage["truncations"][places, row[:, None]]
        before = torch.cat([torch.zeros_like(ended[:, :1]), ended[:, :-1]], 1).to(torch.int32).cumsum(1)
        taken = (before == 0) & (offset <= age[:, None])
        return places, taken, (terminal & taken).any(1)

    def _excerpt(
        self, places: Tensor, row: Tensor, lengths: Tensor, terminated: Tensor, real: Tensor
    ) -> Excerpt:
        storage, rows = self.ring.storage, row[:, None]
        count, length = places.shape
        mask = torch.arange(length, device=places.device) < lengths[:, None]

        def along(name: str) -> Tensor:
            values = storage[name][places, rows]
            inside = mask.reshape(count, length, *(1,) * (values.ndim - 2))
            return torch.where(inside, values, torch.zeros((), dtype=values.dtype, device=values.device))

        last = (lengths - 1)[:, None]
        end = storage["next_obs"][places.gather(1, last), rows]  # [N, 1, ...]
        obs = torch.cat([storage["obs"][places, rows], end], 1)
        beyond = torch.arange(length + 1, device=places.device) >= lengths[:, None]
        obs = torch.where(beyond.reshape(count, length + 1, *(1,) * (obs.ndim - 2)), end, obs)
        features = along("features").to(torch.float64) if "features" in storage else None
        segments = Segments(obs, along("actions"), lengths, terminated, features)
        return Excerpt(segments, along("rewards"), real.to(torch.float64))

    def state_dict(self) -> dict[str, Any]:
        """Return what the store holds."""
        return {"num_envs": self.ring.num_envs, **self.ring.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Continue from what :meth:`state_dict` returned."""
        self.ring.load_state_dict(state, device)
