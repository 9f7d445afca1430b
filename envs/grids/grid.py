"""Grid worlds as tabular MDPs with linear reward features, after Knox et al. 2022 (arXiv 2206.02231).

A cell's code says what stands there (:data:`CELL_NAMES`). The reward of a transition is ``weights . phi``,
where ``phi`` counts what the step consumed and met. States are cells, row by row; where entering a sheep is
a lottery, each sheep cell has a second, terminal state for the winning outcome, so that ``phi`` stays a
function of ``(s, a, s')``.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from prefrl.envs.core.backend import Array, Backend, Noise, Random, State
from prefrl.envs.core.checks import reject_unknown_options
from prefrl.envs.core.dynamics import Dynamics

from .tabular_model import TabularModel as TabularModel

CELL_NAMES = (
    "road", "goal", "house", "sheep", "coin", "roadblock",
    "brick", "brick+goal", "brick+house", "brick+sheep", "brick+coin", "brick+roadblock",
)  # fmt: skip
"""Cell codes 0 to 11; 6 to 11 are 0 to 5 on bricks."""

GOAL, HOUSE, SHEEP, COIN, ROADBLOCK = 1, 2, 3, 4, 5
BRICKS = 6

FEATURE_NAMES = ("gas", "goal", "sheep", "coin", "roadblock", "brick gas")
"""Order of the reward features; the lottery family has a seventh, "sheep won"."""

MOVES = np.array([(-1, 0), (1, 0), (0, -1), (0, 1)])
"""(row, column) steps of the actions up, down, left, right."""


def grid_model(
    cells: NDArray[np.int64], weights: NDArray[np.float64], *, sheep_lottery: bool = False
) -> TabularModel:
    """Build the tabular MDP of a grid.

    Entering a cell pays: road gas or brick gas, plus coin or roadblock; a goal or a sheep pays only its own
    feature and ends the episode. A move into a wall or a house stays and pays the current cell's gas alone.
    Coins and roadblocks never disappear. The start is uniform over cells neither terminal nor houses.

    Args:
        cells: [height, width] codes 0 to 11.
        weights: [6], or [7] with ``sheep_lottery``: the last then is the reward of the winning outcome.
        sheep_lottery: entering a sheep loses (feature "sheep") or wins (feature "sheep won"), evenly.

    Raises:
        ValueError: if ``cells`` or ``weights`` is none of these, or no cell can be started from.
    """
    cells = _check_cells(cells)
    height, width = cells.shape
    base, num_cells = (cells % 6).ravel(), height * width
    sheep = np.flatnonzero(base == SHEEP)
    num_states = num_cells + (len(sheep) if sheep_lottery else 0)
    names = FEATURE_NAMES + (("sheep won",) if sheep_lottery else ())
    stay, enter = _cell_features(cells, num_states, names)
    terminal = np.ones(num_states, dtype=bool)
    terminal[:num_cells] = np.isin(base, (GOAL, HOUSE, SHEEP))

    position = np.stack(np.divmod(np.arange(num_cells), width), 1)
    target = position[:, None] + MOVES  # [cells, A, 2]
    inside = ((target >= 0) & (target < (height, width))).all(-1)
    entered = np.where(inside, target[..., 0] * width + target[..., 1], 0)
    blocked = ~inside | (base[entered] == HOUSE)

    here = np.arange(num_states)[:, None]
    outcomes = 2 if sheep_lottery else 1
    successors = np.broadcast_to(here[..., None], (num_states, 4, outcomes)).copy()
    successors[:num_cells] = np.where(blocked, here[:num_cells], entered)[..., None]
    successors[terminal] = here[terminal][..., None]
    features = np.where((successors == here[..., None])[..., None], stay[here[..., None]], enter[successors])
    features[terminal] = 0.0
    probabilities = np.zeros(successors.shape)
    probabilities[..., 0] = 1.0
    if sheep_lottery:
        won_state = np.full(num_states, -1)
        won_state[sheep] = num_cells + np.arange(len(sheep))
        lottery = (won_state[successors[..., 0]] >= 0) & ~terminal[:, None]
        probabilities[lottery] = 0.5
        successors[lottery, 1] = won_state[successors[lottery, 1]]
        features[lottery, 1] = np.eye(len(names))[names.index("sheep won")]
    start = (~terminal).astype(np.float64)
    return TabularModel(successors, probabilities, features, np.array(weights, dtype=np.float64), terminal,
                        start / start.sum(), names)  # fmt: skip


def _cell_features(
    cells: NDArray[np.int64], num_states: int, names: tuple[str, ...]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the features [S, F] of staying in each cell and of entering it; 0 beyond the cells."""
    base, brick = (cells % 6).ravel(), (cells >= 6).ravel()
    stay = np.zeros((num_states, len(names)))
    stay[: cells.size, names.index("gas")] = ~brick
    stay[: cells.size, names.index("brick gas")] = brick
    enter = stay.copy()
    enter[: cells.size][(base == GOAL) | (base == SHEEP)] = 0.0
    for code, name in ((GOAL, "goal"), (SHEEP, "sheep"), (COIN, "coin"), (ROADBLOCK, "roadblock")):
        enter[: cells.size][base == code, names.index(name)] = 1.0
    return stay, enter


def _check_cells(cells: Any) -> NDArray[np.int64]:
    cells = np.asarray(cells)
    if cells.ndim != 2 or not np.issubdtype(cells.dtype, np.integer):
        raise ValueError(f"cells have shape {cells.shape} and dtype {cells.dtype}; "
                         "they must be whole numbers [height, width]")  # fmt: skip
    if ((cells < 0) | (cells >= len(CELL_NAMES))).any():
        raise ValueError(f"cells hold codes from {cells.min()} to {cells.max()}; codes are 0 to 11")
    if np.isin(cells % 6, (GOAL, HOUSE, SHEEP)).all():
        raise ValueError("cells hold none that an episode could start in")
    return np.array(cells, dtype=np.int64)


class GridDynamics(Dynamics):
    """A grid world stepped through its tables.

    Args:
        cells: [height, width] codes.
        weights: true reward weights; see :func:`grid_model`.
        sheep_lottery: see :func:`grid_model`.
        backend: where the arrays live.
    """

    def __init__(
        self,
        cells: NDArray[np.int64],
        weights: NDArray[np.float64],
        *,
        sheep_lottery: bool = False,
        backend: Backend | None = None,
    ) -> None:
        super().__init__(backend)
        self._cells = cells = _check_cells(cells)
        self.model = model = grid_model(cells, weights, sheep_lottery=sheep_lottery)
        num_states, self._num_actions, self._num_outcomes = model.successors.shape
        self.single_observation_space = gym.spaces.Discrete(num_states)
        self.single_action_space = gym.spaces.Discrete(self._num_actions)
        # Copies throughout: what a user does to the model must not reach the running environment.
        asarray, real = self.backend.asarray, self.backend.float_dtype
        self._successors = asarray(model.successors.flatten())
        self._rewards = asarray(model.rewards.flatten(), real)
        if self._num_outcomes > 1:
            thresholds = model.probabilities.cumsum(-1)[..., :-1]
            self._thresholds = asarray(thresholds.reshape(num_states * self._num_actions, -1), real)
        self._terminal = asarray(model.terminal.copy())
        starts = np.flatnonzero(model.start)
        self._num_starts = len(starts)
        # The last one twice, since noise recorded in float64 can round up to 1 in float32.
        self._starts = asarray(np.append(starts, starts[-1]))
        sheep = np.flatnonzero((cells % 6).ravel() == SHEEP)
        self._cell_of_state = np.concatenate([np.arange(cells.size), sheep])[:num_states]
        self._board: NDArray[np.uint8] | None = None

    def reset_noise(self, rng: Random, n: int) -> Noise:
        """See :meth:`Dynamics.reset_noise`."""
        return {"start": rng.uniform(n)}

    def step_noise(self, rng: Random, n: int) -> Noise:
        """See :meth:`Dynamics.step_noise`; a grid without lotteries needs none."""
        return {"outcome": rng.uniform(n)} if self._num_outcomes > 1 else {}

    def initial(self, noise: Noise, options: Mapping[str, Any] | None = None) -> State:
        """Start uniformly, or in ``options["cell"]``, a (row, column) that can be started from."""
        reject_unknown_options(options, ("cell",))
        xp, uniform = self.xp, noise["start"]
        state = self._pick(uniform)
        if options and options.get("cell") is not None:
            state = xp.full_like(state, self.state_of_cell(options["cell"]))
        return {"state": state}

    def _pick(self, uniform: Array) -> Array:
        return self._starts[self.xp.astype(uniform * self._num_starts, self._starts.dtype)]

    def state_of_cell(self, cell: Any) -> int:
        """Return the state of a (row, column) an episode can start in; raise ValueError for any other."""
        try:
            row, col = (operator.index(value) for value in cell)
        except (TypeError, ValueError):
            raise ValueError(f"cell is {cell!r}; it must be a pair of whole numbers (row, column)") from None
        height, width = self._cells.shape
        if not (0 <= row < height and 0 <= col < width):
            raise ValueError(f"cell ({row}, {col}) is outside the {height} x {width} grid")
        state = int(row * width + col)
        if self.model.terminal[state]:
            raise ValueError(
                f"cell ({row}, {col}) is a {CELL_NAMES[self._cells[row, col]]}: no episode starts there"
            )
        return state

    def observe(self, state: State) -> Array:
        """See :meth:`Dynamics.observe`: the state's number."""
        return self.xp.asarray(state["state"], copy=True)

    def step(self, state: State, actions: Array, noise: Noise) -> tuple[State, Array, Array]:
        """See :meth:`Dynamics.step`."""
        pair = state["state"] * self._num_actions + actions
        if self._num_outcomes > 1:
            drawn = noise["outcome"][:, None] >= self._thresholds[pair]
            pair = pair * self._num_outcomes + self.xp.sum(self.xp.astype(drawn, pair.dtype), axis=1)
        next_state = self._successors[pair]
        return {"state": next_state}, self._rewards[pair], self._terminal[next_state]

    @property
    def cells(self) -> NDArray[np.int64]:
        """[height, width] cell codes."""
        return self._cells.copy()

    def tabular_model(self) -> TabularModel:
        """Return the exact MDP with its features and true weights."""
        return self.model

    def true_value(self, policy: NDArray[np.float64], gamma: float = 0.999) -> NDArray[np.float64]:
        """Return V [S] of a policy [S, A] under the true reward."""
        return self.model.true_value(policy, gamma)

    def optimal_value(self, gamma: float = 0.999) -> NDArray[np.float64]:
        """Return V* [S] under the true reward."""
        return self.model.optimal_value(gamma)

    def features(self, obs: Any, actions: Any, next_obs: Any) -> NDArray[np.float64]:
        """Return phi(s, a, s') of transitions [...] as [..., F]; ValueError for one that cannot happen."""
        obs, actions, next_obs = np.asarray(obs), np.asarray(actions), np.asarray(next_obs)
        for name, given, size in (("obs", obs, len(self.model.terminal)), ("actions", actions, 4)):
            if ((given < 0) | (given >= size)).any():
                raise ValueError(f"{name} must lie in [0, {size})")
        match = (self.model.successors[obs, actions] == next_obs[..., None]) & (
            self.model.probabilities[obs, actions] > 0
        )
        if not match.any(-1).all():
            raise ValueError("next_obs holds a state that does not follow obs and actions")
        phi: NDArray[np.float64] = np.take_along_axis(
            self.model.features[obs, actions], match.argmax(-1)[..., None, None], axis=-2
        )[..., 0, :]
        return phi

    def draw(self, state: State, index: int, last_action: Any) -> NDArray[np.uint8]:
        """See :meth:`Dynamics.draw`: the board with the vehicle."""
        from prefrl.envs.rendering.boards import draw_board, draw_vehicle

        if self._board is None:
            self._board = draw_board(self._cells)
        row, col = divmod(int(self._cell_of_state[int(state["state"][index])]), self._cells.shape[1])
        heading = 3 if last_action is None else int(last_action)
        return draw_vehicle(self._board, row, col, heading=heading)
