"""Random grid worlds for the synthetic preference study of Knox et al. 2022 (arXiv 2206.02231)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from prefrl.envs.core.backend import Backend

from .grid import COIN, GOAL, ROADBLOCK, SHEEP, GridDynamics


def generate_grid(layout_seed: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Draw cells [height, width] and weights [6] of one random grid.

    Height from {3, 6, 10, 15} and width from {5, 6, 10}; sheep on 0, 10 or 30 % of the cells, roadblocks on
    0, 10, 50 or 80 %, coins on 0, 10 or 20 % (redrawn until the shares leave room), then one goal on any
    cell. Gas costs 1; goal pays 0, 1, 5, 10 or 50, a sheep -5, -10, -50 or -100, a coin 1, a roadblock -2,
    -5 or -10; the unused brick weight is -1, -2 or -3.
    """
    rng = np.random.default_rng(layout_seed)
    height, width = int(rng.choice([3, 6, 10, 15])), int(rng.choice([5, 6, 10]))
    sheep = int(rng.choice([0, 1, 3]))  # shares in tenths, so that their sum is exact
    bad = int(rng.choice([0, 1, 5, 8]))
    while sheep + bad >= 10:
        bad = int(rng.choice([0, 1, 5, 8]))
    good = int(rng.choice([0, 1, 2]))
    while sheep + bad + good >= 10:
        good = int(rng.choice([0, 1, 2]))
    size = height * width
    cells = _scatter(
        rng, size, {SHEEP: sheep * size // 10, ROADBLOCK: bad * size // 10, COIN: good * size // 10}
    )
    weights = [-1, rng.choice([0, 1, 5, 10, 50]), rng.choice([-5, -10, -50, -100]), 1,
               rng.choice([-2, -5, -10]), rng.choice([-1, -2, -3])]  # fmt: skip
    return cells.reshape(height, width), np.array(weights, dtype=np.float64)


def generate_lottery_grid(
    layout_seed: int, win_reward: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Draw cells [5, 5] and weights [7] of one grid in which entering a sheep is a lottery.

    Sheep on 5, 10 or 30 % of the cells, one goal worth 50; gas costs 1; a sheep pays -50 or ``win_reward``.
    """
    rng = np.random.default_rng(layout_seed)
    share = int(rng.choice([5, 10, 30]))
    cells = _scatter(rng, 25, {SHEEP: share * 25 // 100})
    return cells.reshape(5, 5), np.array([-1.0, 50.0, -50.0, 1.0, -1.0, -2.0, win_reward])


def _scatter(rng: np.random.Generator, size: int, counts: dict[int, int]) -> NDArray[np.int64]:
    """Place objects on distinct cells, then one goal anywhere."""
    cells = np.zeros(size, dtype=np.int64)
    order, placed = rng.permutation(size), 0
    for code, count in counts.items():
        cells[order[placed : placed + count]] = code
        placed += count
    cells[rng.integers(size)] = GOAL
    return cells


class RandomGridDynamics(GridDynamics):
    """A grid world drawn from a seed, for studies over many MDPs.

    ## Description
    The generator of the synthetic study in Knox et al. 2022 (arXiv 2206.02231): grids of 3 to 15 by 5 to 10
    cells with sheep, roadblocks, coins and one goal, and random reward weights. With `stochastic=True`, the
    5 x 5 family in which entering a sheep pays -50 or `win_reward`, evenly, and ends the episode.

    ## Action Space
    `Discrete(4)`: 0 up, 1 down, 2 left, 3 right. A move into the edge leaves the van where it is.

    ## Observation Space
    `Discrete(height * width)`: the cell, `width * row + column`. In the stochastic family a sheep that wins
    is a state of its own: these follow the cells, one per sheep.

    ## Rewards
    `weights . phi(s, a, s')` as in `prefrl/Delivery-v0`, with weights drawn from the seed. The stochastic
    family has a seventh feature, "sheep won".

    ## Starting State
    Uniform over the cells that are neither goal nor sheep; or `reset(options={"cell": (row, column)})`.

    ## Episode End
    Terminates at the goal and at a sheep. `gym.make` truncates after 200 steps.

    ## Arguments
    `layout_seed` (int, 0): which grid. The same seed always gives the same grid; `reset(seed=...)` changes
    only the start. `stochastic` (bool, False), `win_reward` (float, 100), `render_mode`.

    ## Ground truth
    `tabular_model()`, `features(obs, actions, next_obs)`, `optimal_value(gamma)` and
    `true_value(policy, gamma)`, after `env.unwrapped` where `gym.make` has wrapped it.

    ## Version History
    - v0: first version.
    """

    def __init__(
        self,
        layout_seed: int = 0,
        stochastic: bool = False,
        win_reward: float = 100.0,
        backend: Backend | None = None,
    ) -> None:
        if isinstance(layout_seed, bool) or not isinstance(layout_seed, (int, np.integer)) or layout_seed < 0:
            raise ValueError(f"layout_seed is {layout_seed!r}; it must be a whole number, not negative")
        if not isinstance(stochastic, (bool, np.bool_)):  # any text would be true, "False" as well
            raise ValueError(f"stochastic is {stochastic!r}; it must be True or False")
        if not isinstance(win_reward, (int, float, np.number)) or not np.isfinite(win_reward):
            raise ValueError(f"win_reward is {win_reward!r}; it must be a finite number")
        layout = generate_lottery_grid(layout_seed, win_reward) if stochastic else generate_grid(layout_seed)
        super().__init__(*layout, sheep_lottery=stochastic, backend=backend)
