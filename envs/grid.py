"""Grid worlds as tabular MDPs with linear reward features (delivery domain, Knox et al. 2022, arXiv 2206.02231).

A cell's code says what stands there (:data:`CELL_NAMES`). The reward of a transition is ``weights . phi``,
where ``phi`` counts what the step consumed and met. States are cells, row by row; where entering a sheep is
a lottery, each sheep cell has a second, terminal state for the winning outcome, so that ``phi`` stays a
function of ``(s, a, s')``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from .core import Array, Backend, Dynamics, Noise, NumpyBackend, Random, State, reject_unknown_options

CELL_NAMES = (
    "road", "goal", "house", "sheep", "coin", "roadblock",
    "brick", "brick+goal", "brick+house", "brick+sheep", "brick+coin", "brick+roadblock",
)  # fmt: skip
"""Cell codes 0 to 11; 6 to 11 are 0 to 5 on bricks."""

GOAL, HOUSE, SHEEP, COIN, ROADBLOCK = 1, 2, 3, 4, 5

FEATURE_NAMES = ("gas", "goal", "sheep", "coin", "roadblock", "brick gas")
"""Order of the reward features; the lottery family has a seventh, "sheep won"."""

MOVES = np.array([(-1, 0), (1, 0), (0, -1), (0, 1)])
"""(row, column) steps of the actions up, down, left, right."""


@dataclass(frozen=True)
class TabularModel:
    """A finite MDP with linear reward features, in numpy; what an environment tells a solver.

    S states, A actions, at most K successors of a pair, F features. Rows of terminal states lead to
    themselves with zero features.
    """

    successors: NDArray[np.int64]
    """[S, A, K] next states."""
    probabilities: NDArray[np.float64]
    """[S, A, K] their probabilities; unused places hold 0."""
    features: NDArray[np.float64]
    """[S, A, K, F] features of each transition."""
    weights: NDArray[np.float64]
    """[F] true reward weights."""
    terminal: NDArray[np.bool_]
    """[S] absorbing states: episode ends, and cells that cannot be entered."""
    start: NDArray[np.float64]
    """[S] start distribution."""
    feature_names: tuple[str, ...]
    """[F] names."""

    @property
    def rewards(self) -> NDArray[np.float64]:
        """[S, A, K] true rewards."""
        return self.features @ self.weights

    def true_value(self, policy: NDArray[np.float64], gamma: float) -> NDArray[np.float64]:
        """Return V [S] of a policy [S, A] under the true reward, by a linear solve."""
        size = len(self.terminal)
        transition = np.zeros((size, size))
        weight = policy[:, :, None] * self.probabilities * ~self.terminal[:, None, None]
        np.add.at(transition, (np.arange(size)[:, None, None], self.successors), weight)
        reward: NDArray[np.float64] = (weight * self.rewards).sum((1, 2))
        value: NDArray[np.float64] = np.linalg.solve(np.eye(size) - gamma * transition, reward)
        return value

    def optimal_value(self, gamma: float) -> NDArray[np.float64]:
        """Return V* [S] under the true reward, by policy iteration from the policy that seeks an end.

        Starting there keeps every evaluated policy proper at ``gamma = 1`` when all rewards on the way are
        negative, as in the delivery domain.
        """
        policy = np.eye(self.successors.shape[1])[self._towards_an_end()]
        for _ in range(10_000):
            value = self.true_value(policy, gamma)
            quality = (self.probabilities * (self.rewards + gamma * value[self.successors])).sum(2)
            better = quality.max(1) > value + 1e-9 * (1.0 + np.abs(value))
            better &= ~self.terminal
            if not better.any():
                return value
            policy[better] = np.eye(policy.shape[1])[quality[better].argmax(1)]
        raise RuntimeError("policy iteration did not settle")

    def _towards_an_end(self) -> NDArray[np.intp]:
        """Return actions [S] that reach a terminal state soon."""
        value = np.zeros(len(self.terminal))
        quality = np.zeros(self.successors.shape[:2])
        for _ in range(len(value) + 1):
            quality = (self.probabilities * value[self.successors]).sum(2)
            value = np.where(self.terminal, 0.0, quality.max(1) - 1.0)
        return quality.argmax(1)


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
    """
    height, width = cells.shape
    base, brick = (cells % 6).ravel(), (cells >= 6).ravel()
    num_cells = height * width
    sheep = np.flatnonzero(base == SHEEP)
    num_states = num_cells + (len(sheep) if sheep_lottery else 0)
    names = FEATURE_NAMES + (("sheep won",) if sheep_lottery else ())
    stay = np.zeros((num_states, len(names)))
    stay[:num_cells][~brick, 0] = 1.0
    stay[:num_cells][brick, 5] = 1.0
    enter = stay.copy()
    ends = (base == GOAL) | (base == SHEEP)
    enter[:num_cells][ends] = 0.0
    for code, name in ((GOAL, "goal"), (SHEEP, "sheep"), (COIN, "coin"), (ROADBLOCK, "roadblock")):
        enter[:num_cells][base == code, names.index(name)] = 1.0
    terminal = np.ones(num_states, dtype=bool)
    terminal[:num_cells] = ends | (base == HOUSE)

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
        features[lottery, 1] = np.eye(len(names))[6]
    start = (~terminal).astype(np.float64)
    return TabularModel(successors, probabilities, features, np.asarray(weights, dtype=np.float64), terminal,
                        start / start.sum(), names)  # fmt: skip


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
        super().__init__(backend or NumpyBackend())
        self.cells = cells
        self.model = model = grid_model(cells, weights, sheep_lottery=sheep_lottery)
        num_states, self._num_actions, self._num_outcomes = model.successors.shape
        self.single_observation_space = gym.spaces.Discrete(num_states)
        self.single_action_space = gym.spaces.Discrete(self._num_actions)
        asarray, real = self.backend.asarray, self.backend.float_dtype
        self._successors = asarray(model.successors.ravel())
        self._rewards = asarray(model.rewards.ravel(), real)
        thresholds = model.probabilities.cumsum(-1)[..., :-1]
        self._thresholds = asarray(thresholds.reshape(num_states * self._num_actions, -1), real)
        self._terminal = asarray(model.terminal)
        self._starts = asarray(np.flatnonzero(model.start))
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
        if options and options.get("cell") is not None:
            fixed = self.state_of_cell(*options["cell"])
            return {"state": xp.zeros_like(self._pick(uniform)) + fixed}
        return {"state": self._pick(uniform)}

    def _pick(self, uniform: Array) -> Array:
        count = len(self._starts)
        # The product can round up to `count` in float32.
        index = self.xp.clip(self.xp.astype(uniform * count, self._starts.dtype), max=count - 1)
        return self.xp.take(self._starts, index, axis=0)

    def state_of_cell(self, row: int, col: int) -> int:
        """Return the state of a cell an episode can start in; raise ValueError for any other."""
        height, width = (int(size) for size in self.cells.shape)
        if not (0 <= row < height and 0 <= col < width):
            raise ValueError(f"cell ({row}, {col}) is outside the {height} x {width} grid")
        state = int(row) * width + int(col)
        if self.model.terminal[state]:
            raise ValueError(
                f"cell ({row}, {col}) is a {CELL_NAMES[self.cells[row, col]]}: no episode starts there"
            )
        return state

    def observe(self, state: State) -> Array:
        """See :meth:`Dynamics.observe`: the state's number."""
        return state["state"]

    def step(self, state: State, actions: Array, noise: Noise) -> tuple[State, Array, Array]:
        """See :meth:`Dynamics.step`."""
        take = self.xp.take
        pair = state["state"] * self._num_actions + actions
        if self._num_outcomes > 1:
            drawn = noise["outcome"][:, None] >= take(self._thresholds, pair, axis=0)
            pair = pair * self._num_outcomes + self.xp.sum(self.xp.astype(drawn, pair.dtype), axis=1)
        next_state = take(self._successors, pair, axis=0)
        return (
            {"state": next_state},
            take(self._rewards, pair, axis=0),
            take(self._terminal, next_state, axis=0),
        )

    def features(self, obs: Any, actions: Any, next_obs: Any) -> NDArray[np.float64]:
        """Return phi(s, a, s') of transitions [...] as [..., F]; ValueError for one that cannot happen."""
        obs, actions, next_obs = np.asarray(obs), np.asarray(actions), np.asarray(next_obs)
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
        from .drawing import draw_board, draw_vehicle

        if self._board is None:
            self._board = draw_board(self.cells)
        row, col = divmod(int(self._cell_of_state[int(state["state"][index])]), self.cells.shape[1])
        heading = 3 if last_action is None else int(last_action)
        return draw_vehicle(self._board, row, col, heading=heading)


class GridFace:
    """What every face of a grid world offers beside stepping (mixin; needs ``self.dynamics``)."""

    dynamics: Any

    @property
    def cells(self) -> NDArray[np.int64]:
        """[height, width] cell codes."""
        return self.dynamics.cells.copy()  # type: ignore[no-any-return]

    def tabular_model(self) -> TabularModel:
        """Return the exact MDP with its features and true weights."""
        return self.dynamics.model  # type: ignore[no-any-return]

    def features(self, obs: Any, actions: Any, next_obs: Any) -> NDArray[np.float64]:
        """Return the reward features phi(s, a, s') [..., F] of transitions."""
        return self.dynamics.features(obs, actions, next_obs)  # type: ignore[no-any-return]

    def true_value(self, policy: NDArray[np.float64], gamma: float = 0.999) -> NDArray[np.float64]:
        """Return V [S] of a policy [S, A] under the true reward."""
        return self.tabular_model().true_value(policy, gamma)

    def optimal_value(self, gamma: float = 0.999) -> NDArray[np.float64]:
        """Return V* [S] under the true reward."""
        return self.tabular_model().optimal_value(gamma)
