"""What happened lately, kept so that segments can be cut from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    """[N] 1, or 0 where there was no whole segment."""

    states: Tensor | None = None
    """[N, L+1, D] float64 states of the simulator along them, the last one repeated in the padding; None
    where the store keeps none."""

    def at(self, index: Tensor | slice) -> Excerpt:
        """Return the segments at some places, with all that belongs to them."""
        states = None if self.states is None else self.states[index]
        return Excerpt(self.segments[index], self.rewards[index], self.weights[index], states)


class _Starts(NamedTuple):
    """Where segments begin, [N] each."""

    step: Tensor
    """Place in the ring."""

    row: Tensor
    """Which environment."""

    real: Tensor
    """Whether a whole segment begins there."""


class SegmentStore:
    """The latest steps of ``num_envs`` environments with their true rewards, on the device.

    Args:
        capacity: transitions to keep, over all environments together.
        num_envs: rows of a step.
    """

    def __init__(self, capacity: int, num_envs: int) -> None:
        self.ring = ReplayBuffer(capacity, num_envs, gamma=1.0)
        self._counted: tuple[tuple[int, int], Tensor] | None = None

    def __len__(self) -> int:
        return len(self.ring)

    @property
    def steps(self) -> int:
        """Steps that it holds, of all environments together."""
        return len(self.ring) // self.ring.num_envs

    def add(
        self, transitions: Transitions, obs: Tensor, next_obs: Tensor, features: Tensor | None = None,
        states: Tensor | None = None,
    ) -> None:  # fmt: skip
        """Take in one step.

        Args:
            transitions: the step, with the true rewards.
            obs: [n, ...] its observations as they are kept (``prefrl.data.observations``).
            next_obs: [n, ...] likewise.
            features: [n, F] features of the transitions.
            states: [n, 2, D] float64 states of the simulator before the step and after it.

        Raises:
            ValueError: if states have another shape or dtype.
        """
        extras = {} if features is None else {"features": features}
        if states is not None:
            rows = transitions.rewards.shape[0]
            if states.ndim != 3 or states.shape[:2] != (rows, 2) or states.dtype != torch.float64:
                raise ValueError(f"states are {states.dtype} {list(states.shape)}; they must be float64 "
                                 f"[{rows}, 2, D], before the step and after it")  # fmt: skip
            extras["states"] = states
        self.ring.add(replace(transitions, obs=obs, next_obs=next_obs), extras)

    def cut(self) -> None:
        """Let no segment reach across the newest step."""
        self.ring.cut()
        self._counted = None

    def latest(self, steps: int | None = None) -> dict[str, Tensor]:
        """Return the latest steps that it holds, or all, [steps, n, ...] by name, the newest last."""
        held = self.steps if steps is None else min(steps, self.steps)
        order = self.ring.latest(held, self.ring.storage["rewards"].device)
        return {name: values[order] for name, values in self.ring.storage.items()}

    def sample(self, count: int, length: int, generator: torch.Generator, *, recent: float = 1.0) -> Excerpt:
        """Cut segments at random: of ``length`` transitions, or fewer where they end in a terminal state.

        Starts are drawn uniformly, with replacement, among those of whole segments: none that a truncation,
        or the present, cuts short.

        Args:
            count: N.
            length: L.
            generator: draws the starts, on its own device.
            recent: from this share of the latest steps only.

        Returns:
            N segments; all of weight 0 where there is no whole one.

        Raises:
            ValueError: if the store is empty.
        """
        return self._cut(self._draw(count, length, generator, recent)[:1], length)[0]

    def sample_pairs(
        self, count: int, length: int, generator: torch.Generator, *, recent: float = 1.0
    ) -> tuple[Excerpt, Excerpt]:
        """Cut pairs of different segments; arguments and errors are those of :meth:`sample`.

        Returns:
            First and second of N pairs; all of weight 0 where there are not two whole segments.
        """
        first, second = self._cut(self._draw(count, length, generator, recent), length)
        return first, second

    def _draw(self, count: int, length: int, generator: torch.Generator, recent: float) -> list[_Starts]:
        """Return starts of segments, and of as many others, each another one than the start at its place."""
        if not len(self):
            raise ValueError("the store is empty; there is nothing to cut segments from")
        device = self.ring.storage["rewards"].device
        draws = torch.rand(2, count, generator=generator, device=generator.device).to(device)
        rows, last = self.ring.num_envs, len(self) - 1
        # The k-th whole segment starts at the first place [T n] where the count of them exceeds k.
        reached = self._whole(length)
        latest = max(min(length, self.steps), round(recent * self.steps))
        older = (self.steps - latest) * rows
        passed = reached[older - 1] if older else torch.zeros_like(reached[0])
        number = reached[-1] - passed
        one = (draws[0] * number).long()
        other = (one + 1 + (draws[1] * (number - 1)).long()) % number.clamp(min=1)
        found = []
        for least, k in enumerate((one, other)):
            place = torch.searchsorted(reached, k + passed, right=True).clamp(max=last)
            step = (self.ring.added - self.steps + place // rows) % self.ring.steps
            found.append(_Starts(step, place % rows, (number > least).expand(count)))
        return found

    def _whole(self, length: int) -> Tensor:
        """Return how many whole segments start at each place [T n], oldest first, or before it."""
        if self._counted is None or self._counted[0] != (self.ring.added, length):
            self._counted = (self.ring.added, length), self.starts(length).flatten().cumsum(0)
        return self._counted[1]

    def starts(self, length: int) -> Tensor:
        """Return where whole segments start, bool [T, n], for the steps that are kept, oldest first."""
        storage, steps = self.ring.storage, self.steps
        order = self.ring.latest(steps, storage["rewards"].device)
        terminal = storage["terminations"][order]
        ended = terminal | storage["truncations"][order]
        time = torch.arange(steps, device=order.device)[:, None]
        ends = torch.where(ended, time, steps).flip(0).cummin(0).values.flip(0)  # [T, n], T: not yet
        over = terminal.gather(0, ends.clamp(max=steps - 1)) & (ends < steps)
        going_on = ends.clamp(max=steps - 1) - time >= length - 1
        return storage["mask"][order] & (going_on | over)

    def _cut(self, starts: Sequence[_Starts], length: int) -> list[Excerpt]:
        """Return the segments that begin at some starts."""
        return [self._excerpt(*self._follow(start.step, start.row, length), start) for start in starts]

    def _follow(self, step: Tensor, row: Tensor, length: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return places [N, L] on axis 0, the lengths [N] of segments, and whether they terminate."""
        storage, offset = self.ring.storage, torch.arange(length, device=step.device)
        places = (step[:, None] + offset) % self.ring.steps
        age = (self.ring.added - 1 - step) % self.ring.steps  # of whole segments no more counts than this
        terminal = storage["terminations"][places, row[:, None]]
        ended = terminal | storage["truncations"][places, row[:, None]]
        before = torch.cat([torch.zeros_like(ended[:, :1]), ended[:, :-1]], 1).to(torch.int32).cumsum(1)
        taken = (before == 0) & (offset <= age[:, None])
        return places, taken.sum(1), (terminal & taken).any(1)

    def _excerpt(self, places: Tensor, lengths: Tensor, terminated: Tensor, start: _Starts) -> Excerpt:
        storage, rows = self.ring.storage, start.row[:, None]
        count, length = places.shape
        mask = torch.arange(length, device=places.device) < lengths[:, None]

        def along(name: str) -> Tensor:
            values = storage[name][places, rows]
            inside = mask.reshape(count, length, *(1,) * (values.ndim - 2))
            return torch.where(inside, values, torch.zeros((), dtype=values.dtype, device=values.device))

        last = places.gather(1, (lengths - 1)[:, None])
        beyond = torch.arange(length + 1, device=places.device) >= lengths[:, None]

        def ended(values: Tensor, end: Tensor) -> Tensor:
            """Return values [N, L, ...] with the end [N, 1, ...] behind them and in the padding."""
            both = torch.cat([values, end], 1)
            return torch.where(beyond.reshape(count, length + 1, *(1,) * (both.ndim - 2)), end, both)

        obs = ended(storage["obs"][places, rows], storage["next_obs"][last, rows])
        features = along("features").to(torch.float64) if "features" in storage else None
        states = None
        if "states" in storage:
            states = ended(storage["states"][places, rows, 0], storage["states"][last, rows, 1])
        segments = Segments(obs, along("actions"), lengths, terminated, features)
        return Excerpt(segments, along("rewards"), start.real.to(torch.float64), states)

    def state_dict(self) -> dict[str, Any]:
        """Return what the store holds."""
        return {"num_envs": self.ring.num_envs, **self.ring.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Continue from what :meth:`state_dict` returned."""
        self.ring.load_state_dict(state, device)
        self._counted = None
