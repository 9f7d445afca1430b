"""What MinAtar's games share: sticky actions, observations out of rows and sprites, pictures."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from prefrl.envs.core.backend import Array, Backend, Noise, Random, State, select
from prefrl.envs.core.checks import check_number, reject_unknown_options
from prefrl.envs.core.dynamics import Dynamics

SIZE = 10
"""Rows and columns of every game."""

STAY, LEFT, UP, RIGHT, DOWN, FIRE = range(6)
"""Actions, by MinAtar's numbers."""

CELL_PIXELS = 32
"""Width of a cell in pictures."""

BACKGROUND, GRID = (16, 18, 26), (26, 29, 40)

Colour = tuple[int, int, int]
Sprites = tuple[str, Array]
"""A channel, and the cells (10 row + column) where it is seen: of one thing [n], or of several [k, n].

Cells below 0 are nowhere: the first of all sprites, which is always there, is painted once more instead.
"""


class MinAtarDynamics(Dynamics):
    """Base of the games. Each says how it starts and moves, and what is seen where.

    States are small whole numbers: in bytes, and chosen among by their bits, a step takes a tenth of the
    time. Inside the games what there are several of has these first, [k, n]: a number of each game [n] then
    broadcasts along memory. Outside they are [n, k], views of the same memory.

    An observation is put together from whole rows, copied out of a table (:meth:`row_table`) by their
    numbers, and from single cells; that writes its memory about once.
    """

    channels: ClassVar[tuple[str, ...]]
    """Kinds of object that observations tell apart."""

    minimal_actions: ClassVar[tuple[int, ...]]
    """The actions that do something in this game."""

    colours: ClassVar[Mapping[str, Colour]]
    """Colours of the channels, in the order in which they are painted: what matters lies on top."""

    render_fps = 15

    def __init__(
        self,
        sticky_action_prob: float = 0.1,
        minimal_action_set: bool = True,
        backend: Backend | None = None,
    ) -> None:
        super().__init__(backend)
        self.sticky_action_prob = check_number("sticky_action_prob", sticky_action_prob)
        if not 0.0 <= self.sticky_action_prob <= 1.0:
            raise ValueError(f"sticky_action_prob is {sticky_action_prob}; it must be a probability")
        self.actions = self.minimal_actions if minimal_action_set else tuple(range(6))
        boolean: Any = np.bool_  # which Box takes, but its types do not know
        self.single_observation_space = gym.spaces.Box(0, 1, (SIZE, SIZE, len(self.channels)), boolean)
        self.single_action_space = gym.spaces.Discrete(len(self.actions))
        self._numbers = self.backend.asarray(np.array(self.actions, np.int8))
        self._rows = self.backend.asarray(self.row_table().reshape(-1, SIZE * len(self.channels)))

    @abstractmethod
    def row_table(self) -> NDArray[np.bool_]:
        """Return the rows [codes, 10, channels] that :meth:`scene` may name."""

    @abstractmethod
    def scene(self, state: State) -> tuple[Array, list[Sprites]]:
        """Return the numbers [10, n] of the rows in the table, and what is seen besides."""

    @abstractmethod
    def start(self, noise: Noise, n: int) -> State:
        """Return ``n`` starts, but for the previous action."""

    @abstractmethod
    def play(self, state: State, actions: Array, noise: Noise) -> tuple[State, Array, Array]:
        """Return state, points won [n] and whether the game is over [n] after MinAtar's actions [n]."""

    def reset_noise(self, rng: Random, n: int) -> Noise:
        """See :meth:`Dynamics.reset_noise`: none, of ``n`` rows, unless a game has some."""
        return {"start": rng.uniform(n, 0)}

    def step_noise(self, rng: Random, n: int) -> Noise:
        """See :meth:`Dynamics.step_noise`: whether the previous action is repeated."""
        return {"sticky": rng.uniform(n)}

    def initial(self, noise: Noise, options: Mapping[str, Any] | None = None) -> State:
        """See :meth:`Dynamics.initial`; there are no options. An episode starts as if after "stay"."""
        reject_unknown_options(options, ())
        n = noise["start"].shape[0]
        return turned({**self.start(noise, n), "last_action": self.whole(n, STAY)})

    def step(self, state: State, actions: Array, noise: Noise) -> tuple[State, Array, Array]:
        """See :meth:`Dynamics.step`."""
        xp = self.xp
        repeats = noise["sticky"] < self.sticky_action_prob
        actions = select(repeats, state["last_action"], xp.take(self._numbers, actions, axis=0))
        after, points, over = self.play(turned(state), actions, noise)
        return turned({**after, "last_action": actions}), xp.astype(points, self.backend.float_dtype), over

    def observe(self, state: State) -> Array:
        """See :meth:`Dynamics.observe`: what is in each cell, bool [n, 10, 10, channels]."""
        xp, depth = self.xp, len(self.channels)
        codes, sprites = self.scene(turned(state))
        n = codes.shape[1]
        obs = xp.reshape(xp.take(self._rows, xp.reshape(codes.T, (-1,)), axis=0), (-1,))
        first = xp.arange(n, device=self.backend.device) * (SIZE * SIZE * depth)
        always = None
        for channel, cells in sprites:
            places = xp.astype(cells, xp.int16) * depth + self.channels.index(channel)
            always = places if always is None else always
            places = xp.astype(select(places < 0, always, places), xp.int64) + first
            self.backend.mark(obs, xp.reshape(places, (-1,)))
        return xp.reshape(obs, (n, SIZE, SIZE, depth))

    def with_nothing(self, rows: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return rows [..., 10, channels] as [codes, 10, channels], with code 0 for an empty one before."""
        flat = rows.reshape(-1, SIZE, len(self.channels))
        return np.concatenate([np.zeros_like(flat[:1]), flat])

    def whole(self, shape: int | tuple[int, ...], value: int, dtype: Any = None) -> Array:
        """Return an array full of a whole number, in bytes unless it says otherwise."""
        return self.xp.full(shape, value, dtype=dtype or self.xp.int8, device=self.backend.device)

    def small(self, values: Array) -> Array:
        """Return a mask, or numbers, as bytes."""
        return self.xp.astype(values, self.xp.int8)

    def equal(self, values: Array, number: int) -> Array:
        """Return ``values == number``; torch compares bytes [k, n] with a row of numbers 15 times as fast."""
        return values == self.whole(values.shape[-1], number)

    def inside(self, places: Array) -> Array:
        """Return which rows or columns are on the board."""
        return places == self.xp.clip(places, 0, SIZE - 1)

    def some(self, mask: Array) -> Array:
        """Return whether a mask [k, n] holds anywhere in each game [n]; many times as fast as ``any``."""
        return self.xp.max(self.small(mask), axis=0) > 0

    def sign(self, actions: Array, back: int, forth: int) -> Array:
        """Return -1 where the action is ``back``, 1 where it is ``forth``, else 0."""
        return self.small(actions == forth) - self.small(actions == back)

    def below(self, uniform: Array, limit: Array | int) -> Array:
        """Return whole numbers from 0 to ``limit`` - 1 out of uniform ones."""
        return self.small(self.xp.floor(uniform * limit))

    def draw(self, state: State, index: int, last_action: Any) -> NDArray[np.uint8]:
        """See :meth:`Dynamics.draw`: a square for each cell, in the colour of what lies on top."""
        row = {name: values[index : index + 1] for name, values in state.items()}
        obs: Any = self.observe(row)[0]
        seen = np.asarray(obs.cpu() if self.backend.on_device else obs)
        cells = np.empty((SIZE, SIZE, 3), np.uint8)
        cells[:] = BACKGROUND
        for name, colour in self.colours.items():
            cells[seen[:, :, self.channels.index(name)]] = colour
        frame = cells.repeat(CELL_PIXELS, 0).repeat(CELL_PIXELS, 1)
        frame[::CELL_PIXELS] = frame[:, ::CELL_PIXELS] = GRID
        return frame


def turned(state: State) -> State:
    """Return [n, k] for [k, n], and the other way round, by views."""
    return {name: value if value.ndim == 1 else value.T for name, value in state.items()}


def bits(count: int) -> NDArray[np.bool_]:
    """Return which of ``count`` cells each number below 2 ** ``count`` stands for [2 ** count, count]."""
    return (np.arange(2**count)[:, None] >> np.arange(count) & 1).astype(bool)
