"""The delivery domain of Knox et al. 2022 (arXiv 2206.02231): a van on a fixed 10 x 10 board."""

from __future__ import annotations

import numpy as np

from prefrl.envs.core.backend import Backend

from .grid import GridDynamics

BOARD = np.array(
    [
        [0, 0, 5, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 4, 0, 0, 0, 0, 6],
        [0, 0, 3, 0, 0, 0, 0, 6, 6, 6],
        [4, 0, 5, 0, 2, 3, 3, 6, 6, 0],
        [6, 6, 0, 0, 0, 0, 0, 0, 0, 0],
        [6, 0, 4, 0, 0, 0, 0, 0, 0, 0],
        [6, 2, 0, 3, 5, 2, 0, 0, 0, 0],
        [0, 4, 0, 0, 0, 0, 0, 10, 6, 6],
        [0, 0, 5, 0, 0, 0, 0, 6, 6, 7],
        [0, 0, 0, 0, 0, 0, 5, 0, 0, 4],
    ]
)
"""The board of the human study; codes in ``prefrl.envs.grids.grid.CELL_NAMES``."""

WEIGHTS = np.array([-1.0, 50.0, -50.0, 1.0, -1.0, -2.0])
"""True reward weights of gas, goal, sheep, coin, roadblock and brick gas."""

BOARD.flags.writeable = WEIGHTS.flags.writeable = False  # every environment reads them


class DeliveryDynamics(GridDynamics):
    """Drive a van to the drop-off without meeting a sheep.

    ## Description
    The delivery domain in which people compared segments of driving in Knox et al., "Models of human
    preference for learning reward functions" (2022, arXiv 2206.02231). A van drives on a 10 x 10 board of
    white roads and brick roads with coins, roadblocks, houses, sheep and one goal.

    ## Action Space
    `Discrete(4)`: 0 up, 1 down, 2 left, 3 right. Moves are deterministic; a move into the board's edge or
    into a house leaves the van where it is.

    ## Observation Space
    `Discrete(100)`: the van's cell, `10 * row + column`.

    ## Rewards
    `weights . phi(s, a, s')` with the features and weights

    | feature | gas | goal | sheep | coin | roadblock | brick gas |
    |---|---|---|---|---|---|---|
    | weight | -1 | +50 | -50 | +1 | -1 | -2 |

    of the cell entered: white road pays gas, brick road brick gas; a coin or a roadblock adds its own, every
    time (they never disappear); goal and sheep pay only themselves. A blocked move pays the gas of the
    current cell alone (no coin, no roadblock).

    ## Starting State
    Uniform over the 92 cells that are neither goal, sheep nor house; or
    `reset(options={"cell": (row, column)})`.

    ## Episode End
    Terminates at the goal and at a sheep. `gym.make` truncates after 200 steps.

    ## Arguments
    `render_mode`: None, "rgb_array" or "human".

    ## Ground truth
    `tabular_model()`, `features(obs, actions, next_obs)`, `optimal_value(gamma)` and
    `true_value(policy, gamma)`, after `env.unwrapped` where `gym.make` has wrapped it.
    With gamma 0.999 the mean value over starts is 41.20794768831405 for the optimal policy and
    -71.25738281279433 for the uniform one.

    ## Version History
    - v0: first version. The feature semantics above hold everywhere; the reward table that accompanies the
      published data differs in one entry, bumping into the house right of cell (6, 0).
    """

    def __init__(self, backend: Backend | None = None) -> None:
        super().__init__(BOARD, WEIGHTS, backend=backend)
