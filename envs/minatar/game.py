"""What MinAtar's games share: sticky actions, observations out of rows and sprites, pictures."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from prefrl.envs.core.backend import Array, Backend, Noise, Random, State
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
Sprites = tuple[str, Array, Array]
"""A channel, and rows and columns of what is seen there: one thing in each game [n], or several [n, k].

Rows of -1 are nowhere: the first of all sprites, which is always there, is painted once more instead.
"""


class MinAtarDynamics(Dynamics):
    """Base of the games. Each says how it starts and moves, and what is seen where.

    States are whole numbers only. An observation is put together from whole rows, copied out of a table
    (:meth:`row_table`) by their numbers, and from single cells; that writes its memory about once.
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
        self._numbers = self.backend.asarray(np.array(self.actions))
        self._rows = self.backend.asarray(self.row_table().reshape(-1, SIZE * len(self.channels)))

    @abstractmethod
    def row_table(self) -> NDArray[np.bool_]:
        """Return the rows [codes, 10, channels] that :meth:`scene` may name."""

    @abstractmethod
    def scene(self, state: State) -> tuple[Array, list[Sprites]]:
        """Return the numbers [n, 10] of the rows in the table, and what is seen besides."""

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
        return {**self.start(noise, n), "last_action": self.whole(n, STAY)}

    def step(self, state: State, actions: Array, noise: Noise) -> tuple[State, Array, Array]:
        """See :meth:`Dynamics.step`."""
        xp = self.xp
        repeats = noise["sticky"] < self.sticky_action_prob
        actions = xp.where(repeats, state["last_action"], xp.take(self._numbers, actions, axis=0))
        state, points, over = self.play(state, actions, noise)
        return {**state, "last_action": actions}, xp.astype(points, self.backend.float_dtype), over

    def observe(self, state: State) -> Array:
        """See :meth:`Dynamics.observe`: what is in each cell, bool [n, 10, 10, channels]."""
        xp, depth = self.xp, len(self.channels)
        codes, sprites = self.scene(state)
        n = codes.shape[0]
        cells = xp.reshape(xp.take(self._rows, xp.reshape(codes, (-1,)), axis=0), (-1,))
        first = xp.arange(n, device=self.backend.device) * (SIZE * SIZE * depth)
        places: list[Array] = []
        for channel, row, column in sprites:
            begin = first if row.ndim == 1 else first[:, None]
            place = begin + ((row * SIZE + column) * depth + self.channels.index(channel))
            if places:
                always = places[0] if row.ndim == 1 else places[0][:, None]
                place = xp.where(row < 0, always, place)
            places.append(place)
        cells[xp.concat([xp.reshape(place, (-1,)) for place in places])] = True
        return xp.reshape(cells, (n, SIZE, SIZE, depth))

    def with_nothing(self, rows: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return rows [..., 10, channels] as [codes, 10, channels], with code 0 for an empty one before."""
        flat = rows.reshape(-1, SIZE, len(self.channels))
        return np.concatenate([np.zeros_like(flat[:1]), flat])

    def whole(self, shape: int | tuple[int, ...], value: int, dtype: Any = None) -> Array:
        """Return an array full of a whole number, int64 unless it says otherwise, on the backend's device."""
        return self.xp.full(shape, value, dtype=dtype or self.xp.int64, device=self.backend.device)

    def sign(self, actions: Array, back: int, forth: int) -> Array:
        """Return -1 where the action is ``back``, 1 where it is ``forth``, else 0."""
        xp = self.xp
        return xp.astype(actions == forth, xp.int64) - xp.astype(actions == back, xp.int64)

    def below(self, uniform: Array, limit: Array | int) -> Array:
        """Return whole numbers from 0 to ``limit`` - 1 out of uniform ones."""
        return self.xp.astype(self.xp.floor(uniform * limit), self.xp.int64)

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


def bits(count: int) -> NDArray[np.bool_]:
    """Return which of ``count`` cells each number below 2 ** ``count`` stands for [2 ** count, count]."""
    return (np.arange(2**count)[:, None] >> np.arange(count) & 1).astype(bool)
