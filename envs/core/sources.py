"""Where a vector environment's noise comes from: one generator for all rows, or one for each block."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from .backend import Noise, Random
from .dynamics import Dynamics

AHEAD = 4_096
"""Rows, about, whose noise each generator draws at a time."""


class Source(Protocol):
    """Gives the noise of all rows."""

    eager: bool
    """Whether starts are drawn in every step, needed or not: what one row draws must not hang on others."""

    def step_noise(self) -> Noise:
        """Return the randomness of one step."""

    def reset_noise(self) -> Noise:
        """Return the randomness of starts."""

    def get_state(self) -> dict[str, Any]:
        """Return plain numbers, strings and tensors."""

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continue from a state that :meth:`get_state` returned."""


class OneSource:
    """One generator for all rows.

    Args:
        dynamics: whose noise it is.
        rows: how many there are.
        rng: the generator.
    """

    eager = False

    def __init__(self, dynamics: Dynamics, rows: int, rng: Random) -> None:
        self.dynamics, self.rows, self.rng = dynamics, rows, rng

    def step_noise(self) -> Noise:
        """See :class:`Source`."""
        return self.dynamics.step_noise(self.rng, self.rows)

    def reset_noise(self) -> Noise:
        """See :class:`Source`."""
        return self.dynamics.reset_noise(self.rng, self.rows)

    def get_state(self) -> dict[str, Any]:
        """See :class:`Source`."""
        return self.rng.get_state()

    def set_state(self, state: Mapping[str, Any]) -> None:
        """See :class:`Source`."""
        self.rng.set_state(state)


class SourceOfStreams:
    """A generator for each of S blocks of rows, which draws what it would draw without the others.

    Each draws for many steps at a time, so that a step costs no more calls for more blocks.

    Args:
        dynamics: whose noise it is.
        rows: of one block.
        step_rngs: S generators for steps.
        reset_rngs: S generators for starts.
    """

    eager = True

    def __init__(
        self, dynamics: Dynamics, rows: int, step_rngs: Sequence[Random], reset_rngs: Sequence[Random]
    ) -> None:
        self._queues = {
            "steps": _Queue(dynamics, rows, step_rngs, dynamics.step_noise),
            "resets": _Queue(dynamics, rows, reset_rngs, dynamics.reset_noise),
        }

    def step_noise(self) -> Noise:
        """See :class:`Source`."""
        return self._queues["steps"].next()

    def reset_noise(self) -> Noise:
        """See :class:`Source`."""
        return self._queues["resets"].next()

    def get_state(self) -> dict[str, Any]:
        """See :class:`Source`."""
        return {name: queue.get_state() for name, queue in self._queues.items()}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """See :class:`Source`."""
        for name, queue in self._queues.items():
            queue.set_state(state[name])


class _Queue:
    """Noise of S blocks of rows, drawn ahead."""

    def __init__(
        self, dynamics: Dynamics, rows: int, rngs: Sequence[Random], draw: Callable[[Random, int], Noise]
    ) -> None:
        self.dynamics, self.rows, self.rngs, self.draw = dynamics, rows, rngs, draw
        self.length, self.used = max(1, AHEAD // rows), 0
        self.before: list[dict[str, Any]] = []  # the generators' states before what is drawn
        self.drawn: Noise | None = None

    def next(self) -> Noise:
        """Return the noise of the next step."""
        if self.drawn is None or self.used == self.length:
            self._draw_ahead()
        assert self.drawn is not None
        self.used += 1
        return {name: values[self.used - 1] for name, values in self.drawn.items()}

    def _draw_ahead(self) -> None:
        self.before = [rng.get_state() for rng in self.rngs]
        blocks = [self.draw(rng, self.length * self.rows) for rng in self.rngs]
        self.drawn, self.used = {}, 0
        for name in blocks[0]:
            shape = (self.length, self.rows, *blocks[0][name].shape[1:])
            parts = self.dynamics.xp.stack([block[name].reshape(shape) for block in blocks], axis=1)
            self.drawn[name] = parts.reshape((self.length, len(blocks) * self.rows, *shape[2:]))

    def get_state(self) -> dict[str, Any]:
        """Return the generators' states before what is drawn was drawn, and how much of it was used."""
        if self.drawn is None:
            return {"before": [rng.get_state() for rng in self.rngs], "used": 0}
        return {"before": self.before, "used": self.used}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`get_state` returned."""
        self.drawn = None
        for rng, before in zip(self.rngs, state["before"], strict=True):
            rng.set_state(before)
        if state["used"]:
            self._draw_ahead()
            self.used = int(state["used"])


def make_source(
    dynamics: Dynamics, num_envs: int, num_streams: int | None, seed: int | list[int] | None
) -> Source:
    """Return a freshly seeded source of noise for all rows.

    Args:
        dynamics: whose noise it is.
        num_envs: rows.
        num_streams: blocks of as many rows that each have generators of their own; None: one for all rows.
        seed: of all rows; or one for each, of which a block's generators take that of its first row.
    """
    backend = dynamics.backend
    if num_streams is None:
        return OneSource(dynamics, num_envs, backend.random(seed))
    rows = num_envs // num_streams
    seeds: list[int | None] = [None] * num_streams
    if isinstance(seed, list):
        seeds = [seed[block * rows] for block in range(num_streams)]
    elif seed is not None:
        seeds = [seed + block * rows for block in range(num_streams)]
    step_rngs, reset_rngs = (
        [backend.random(None if first is None else [first, kind]) for first in seeds] for kind in (0, 1)
    )
    return SourceOfStreams(dynamics, rows, step_rngs, reset_rngs)
