"""Finite-horizon tasks stepped through the tables of a :class:`prefrl.envs.grids.grid.TabularModel`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from prefrl.envs.core.backend import Array, Backend, Noise, Random, State
from prefrl.envs.core.checks import check_count, reject_unknown_options
from prefrl.envs.core.dynamics import Dynamics
from prefrl.envs.grids.grid import MOVES, TabularModel

Cell = tuple[int, int]
"""(row, column)."""

TIME_BAR, TIME_COLOUR = 10, (66, 92, 148)
"""Height in pixels and colour (red, green, blue) of the bar that shows the time that is gone."""


@dataclass(frozen=True)
class HorizonModel:
    """A finite MDP for so many steps; what a finite-horizon task tells a solver.

    Raises:
        ValueError: if ``final_features`` does not fit the model, or terminal states pay any.
    """

    model: TabularModel
    """States, transitions, features of rewards and their weights."""

    horizon: int
    """Steps after which an episode ends."""

    final_features: NDArray[np.float64]
    """[S, F] features paid with the last reward where the horizon is reached in a state."""

    def __post_init__(self) -> None:
        expected = (len(self.model.terminal), len(self.model.weights))
        if self.final_features.shape != expected:
            raise ValueError(f"final_features has shape {self.final_features.shape}; it must be {expected}")
        if self.final_features[self.model.terminal].any():
            raise ValueError("final_features of terminal states must be 0")


@dataclass(frozen=True)
class Outcome:
    """What may happen when a cell is entered."""

    probability: float
    features: tuple[float, ...]


def walk(
    shape: tuple[int, int],
    entering: Mapping[Cell, tuple[Outcome, ...]],
    elsewhere: tuple[Outcome, ...],
    *,
    start: Cell,
    terminal: frozenset[Cell] = frozenset(),
    slip: float = 0.0,
    weights: tuple[float, ...],
    feature_names: tuple[str, ...],
) -> TabularModel:
    """Return the MDP of a walk on a board, in which entering a cell pays at random.

    Actions are those of ``prefrl.envs.grids.grid.MOVES``; a move into the edge stays, and enters the cell
    anew.

    Args:
        shape: rows and columns.
        entering: what may happen, by cell.
        elsewhere: what may happen in other cells.
        start: where episodes start.
        terminal: cells that end an episode.
        slip: probability of moving down a row instead.
        weights: [F] weights of the features in the reward.
        feature_names: [F].
    """
    height, width = shape
    position = np.stack(np.divmod(np.arange(height * width), width), 1)
    targets = np.clip(position[:, None] + MOVES, 0, (height - 1, width - 1))  # [S, A, 2]
    down = targets[:, 1:2].repeat(len(MOVES), 1)
    ways = [(1.0, targets)] if slip == 0.0 else [(1.0 - slip, targets), (slip, down)]
    most = max(map(len, (elsewhere, *entering.values())))
    size = (height * width, len(MOVES), most * len(ways))
    here = np.arange(height * width)[:, None, None]
    successors = np.broadcast_to(here, size).copy()
    probabilities, features = np.zeros(size), np.zeros((*size, len(weights)))
    for way, (chance, entered) in enumerate(ways):
        for state, action in np.ndindex(size[:2]):
            cell = (int(entered[state, action, 0]), int(entered[state, action, 1]))
            for place, outcome in enumerate(entering.get(cell, elsewhere), start=way * most):
                successors[state, action, place] = cell[0] * width + cell[1]
                probabilities[state, action, place] = chance * outcome.probability
                features[state, action, place] = outcome.features
    ends = np.array([tuple(cell) in terminal for cell in position.tolist()])
    successors[ends], features[ends] = here[ends], 0.0
    begin = np.zeros(height * width)
    begin[start[0] * width + start[1]] = 1.0
    return TabularModel(successors, probabilities, features, np.array(weights), ends, begin, feature_names)


def board_coordinates(shape: tuple[int, int]) -> NDArray[np.float64]:
    """Return row and column [S, 2] of the cells of a board, each from 0 to 1."""
    rows, columns = np.divmod(np.arange(shape[0] * shape[1]), shape[1])
    return np.stack([rows / max(1, shape[0] - 1), columns / max(1, shape[1] - 1)], 1)


class TabularTask(Dynamics):
    """Dynamics of a :class:`HorizonModel`, observed as coordinates and the share of time that is gone.

    Args:
        world: the model.
        coordinates: [S, d] what is observed of each state, from 0 to 1.
        cells: [height, width] kinds (``prefrl.envs.rendering.fields``) of cells to draw, one per state.
        legend: what kinds of cells stand for, in a few words.
        backend: where the arrays live.
        initial_stock: [k] where a stock of vector rewards starts by default (see
            ``prefrl.envs.StockAugmentation``).
    """

    def __init__(
        self,
        world: HorizonModel,
        coordinates: NDArray[np.float64],
        cells: NDArray[np.int64],
        legend: Mapping[int, str],
        *,
        backend: Backend | None = None,
        initial_stock: tuple[float, ...] | None = None,
    ) -> None:
        super().__init__(backend)
        self.world = world
        self.cells, self.legend = cells, legend
        self._board: NDArray[np.uint8] | None = None
        self._legend: NDArray[np.uint8] | None = None
        self.initial_stock = initial_stock
        """[k] where a stock of the vector rewards starts; None where rewards are numbers."""
        model = world.model
        num_states, self._num_actions, self._num_outcomes = model.successors.shape
        self.single_observation_space = gym.spaces.Box(0.0, 1.0, (coordinates.shape[1] + 1,))
        self.single_action_space = gym.spaces.Discrete(self._num_actions)
        # Copies throughout: what a user does to the model must not reach the running environment.
        asarray, real = self.backend.asarray, self.backend.float_dtype
        self._successors = asarray(model.successors.flatten())
        self._features = asarray(model.features.reshape(-1, len(model.weights)).copy(), real)
        self._final = asarray(world.final_features.copy(), real)
        self._weights = tuple(model.weights.tolist())
        # A single outcome is drawn against 1, which no draw reaches: some devices take no empty arrays.
        thresholds = model.probabilities.cumsum(-1)[..., : max(1, self._num_outcomes - 1)]
        thresholds = np.where(self._num_outcomes == 1, 1.0, thresholds)
        self._thresholds = asarray(thresholds.reshape(num_states * self._num_actions, -1).copy(), real)
        self._terminal = asarray(model.terminal.copy())
        self._coordinates = asarray(coordinates.copy(), real)
        self._start = asarray(model.start.cumsum()[:-1], real)

    def reset_noise(self, rng: Random, n: int) -> Noise:
        """See :meth:`Dynamics.reset_noise`."""
        return {"start": rng.uniform(n)}

    def step_noise(self, rng: Random, n: int) -> Noise:
        """See :meth:`Dynamics.step_noise`."""
        return {"outcome": rng.uniform(n)}

    def initial(self, noise: Noise, options: Mapping[str, Any] | None = None) -> State:
        """Start in a state drawn from the model's distribution."""
        reject_unknown_options(options, ())
        xp, uniform = self.xp, noise["start"]
        state = xp.sum(xp.astype(uniform[:, None] >= self._start, xp.int64), axis=1)
        size = (uniform.shape[0], len(self._weights))
        earned = xp.zeros(size, dtype=self.backend.float_dtype, device=self.backend.device)
        return {"state": state, "time": xp.zeros_like(state), "earned": earned}

    def observe(self, state: State) -> Array:
        """See :meth:`Dynamics.observe`: coordinates and the share of the horizon that is gone."""
        gone = self.xp.astype(state["time"], self.backend.float_dtype) / self.world.horizon
        return self.observation(*self._coordinates[state["state"]].T, gone)

    def step(self, state: State, actions: Array, noise: Noise) -> tuple[State, Array, Array]:
        """See :meth:`Dynamics.step`."""
        xp = self.xp
        pair = state["state"] * self._num_actions + actions
        drawn = noise["outcome"][:, None] >= self._thresholds[pair]
        place = pair * self._num_outcomes + xp.sum(xp.astype(drawn, pair.dtype), axis=1)
        next_state, time = self._successors[place], state["time"] + 1
        ended, over = self._terminal[next_state], time >= self.world.horizon
        late = xp.astype(over & ~ended, self.backend.float_dtype)
        earned = self._features[place] + late[:, None] * self._final[next_state]
        rewards = sum(weight * earned[:, i] for i, weight in enumerate(self._weights))
        return {"state": next_state, "time": time, "earned": earned}, rewards, ended | over

    def info(self, state: State) -> dict[str, Array]:
        """See :meth:`Dynamics.info`: the reward's components, where it has several."""
        if len(self._weights) == 1:
            return {}
        return {"reward_vector": self.xp.asarray(state["earned"], copy=True)}

    def tabular_model(self) -> TabularModel:
        """Return the exact MDP of one step, with its features and weights."""
        return self.world.model

    def horizon_model(self) -> HorizonModel:
        """Return the exact MDP with its horizon, and what is paid there."""
        return self.world

    def observations(self, time: int) -> NDArray[np.float32]:
        """Return what is observed [S, d + 1] in each state at a time."""
        coordinates = np.asarray(self.xp.asarray(self._coordinates), dtype=np.float32)
        gone = np.full((len(coordinates), 1), check_time(time, self.world.horizon), dtype=np.float32)
        return np.concatenate([coordinates, gone], axis=1)

    def draw(self, state: State, index: int, last_action: Any) -> NDArray[np.uint8]:
        """See :meth:`Dynamics.draw`: the board with who walks, a legend, and the time that is gone."""
        from prefrl.envs.rendering.fields import draw_field, draw_legend, draw_walker

        row, column = divmod(int(state["state"][index]), self.cells.shape[1])
        heading = 3 if last_action is None else int(last_action) % len(MOVES)
        if self._board is None:
            self._board = draw_field(self.cells)
            self._legend = draw_legend(self.legend, self._board.shape[1])
        board = draw_walker(self._board, row, column, heading=heading)
        bar = np.full((TIME_BAR, board.shape[1], 3), 228, dtype=np.uint8)
        gone = min(1.0, int(state["time"][index]) / self.world.horizon)
        bar[2:, : round(gone * board.shape[1])] = TIME_COLOUR
        return np.concatenate([board, self._legend, bar])


def check_time(time: int, horizon: int) -> float:
    """Return the share of the horizon that is gone; ValueError for a time outside it."""
    if time == 0:
        return 0.0
    if check_count("time", time) > horizon:
        raise ValueError(f"time is {time}; the horizon is {horizon}")
    return time / horizon
