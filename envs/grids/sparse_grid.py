"""A small grid with walls and one goal, which is all that pays."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prefrl.envs.core.backend import Backend
from prefrl.envs.core.checks import check_count

from .grid import GOAL, HOUSE, MOVES, GridDynamics

TRIES = 10_000
"""Grids that are drawn until one has a goal that every free cell reaches."""


def draw_cells(layout_seed: int, size: int, walls: int) -> NDArray[np.int64]:
    """Draw cells [size, size]: ``walls`` houses and one goal, that every other cell reaches.

    Raises:
        ValueError: if so many walls leave no such grid.
    """
    rng = np.random.default_rng(layout_seed)
    for _ in range(TRIES):
        flat = np.zeros(size * size, dtype=np.int64)
        places = rng.permutation(size * size)
        flat[places[0]], flat[places[1 : walls + 1]] = GOAL, HOUSE
        cells = flat.reshape(size, size)
        if (distances(cells) >= 0).sum() == size * size - walls:
            return cells
    raise ValueError(f"walls is {walls}; no {size} x {size} grid was found whose goal is reached from all "
                     "other cells")  # fmt: skip


def distances(cells: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the least number of steps to the goal [height, width]; -1 in walls and where no way is."""
    found = np.where(cells == GOAL, 0, -1)
    border, steps = [tuple(cell) for cell in np.argwhere(cells == GOAL)], 0
    while border:
        steps += 1
        around = {(row + down, column + right) for row, column in border for down, right in MOVES.tolist()}
        border = [
            (row, column) for row, column in around
            if 0 <= row < cells.shape[0] and 0 <= column < cells.shape[1]
            and found[row, column] < 0 and cells[row, column] != HOUSE
        ]  # fmt: skip
        for cell in border:
            found[cell] = steps
    return found


class SparseGridDynamics(GridDynamics):
    """A small maze with one goal, the only thing that pays: uniform actions seldom find it in time.

    ## Description
    A grid of `size` x `size` cells with `walls` walls and a goal, drawn from a seed so that the goal is
    reached from every cell. Made for methods that look ahead: the model is deterministic and known.

    ## Action Space
    `Discrete(4)`: 0 up, 1 down, 2 left, 3 right. A move into a wall or the edge stays.

    ## Observation Space
    `Discrete(size * size)`: the cell, `size * row + column`.

    ## Rewards
    1 for entering the goal, else 0.

    ## Starting State
    Uniform over the free cells; or `reset(options={"cell": (row, column)})`.

    ## Episode End
    Terminates at the goal. `gym.make` truncates after 12 steps.

    ## Arguments
    `layout_seed` (int, 0): which grid. The same seed always gives the same grid; `reset(seed=...)` changes
    only the start. `size` (int, 5), `walls` (int, 6), `render_mode`.

    ## Ground truth
    `tabular_model()`, `features(obs, actions, next_obs)`, `optimal_value(gamma)` and
    `true_value(policy, gamma)`, as of `prefrl/RandomGrid-v0`; `success_rate(policy, steps)`, the probability
    to reach the goal in so many steps. After `env.unwrapped` where `gym.make` has wrapped it.

    ## Version History
    - v0: first version.
    """

    def __init__(
        self, layout_seed: int = 0, size: int = 5, walls: int = 6, backend: Backend | None = None
    ) -> None:
        if isinstance(layout_seed, bool) or not isinstance(layout_seed, (int, np.integer)) or layout_seed < 0:
            raise ValueError(f"layout_seed is {layout_seed!r}; it must be a whole number, not negative")
        size = check_count("size", size)
        if (
            isinstance(walls, bool)
            or not isinstance(walls, (int, np.integer))
            or not 0 <= walls < size**2 - 1
        ):
            raise ValueError(f"walls is {walls!r}; it must be a whole number from 0 to {size**2 - 2}")
        cells = draw_cells(layout_seed, size, int(walls))
        super().__init__(cells, np.array([0.0, 1.0, 0.0, 0.0, 0.0, 0.0]), backend=backend)

    def success_rate(self, policy: ArrayLike, steps: int = 12) -> float:
        """Return the probability that a policy [S, A] reaches the goal within ``steps``, exactly."""
        table, model = np.asarray(policy, dtype=np.float64), self.model
        if table.shape != model.successors.shape[:2]:
            raise ValueError(f"policy has shape {table.shape}; it must be {model.successors.shape[:2]}")
        here = model.start.copy()
        for _ in range(check_count("steps", steps)):
            going = np.where(model.terminal, 0.0, here)
            here = np.where(model.terminal, here, 0.0)
            np.add.at(here, model.successors[..., 0], going[:, None] * table)
        return float(here[model.terminal].sum())
