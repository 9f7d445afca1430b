"""A mine that pays well and costs at random, a garden that costs nothing, and a budget."""

from __future__ import annotations

import numpy as np

from prefrl.envs.core.backend import Backend
from prefrl.envs.core.checks import check_count, check_number
from prefrl.envs.rendering.fields import GARDEN, MINE

from .tabular import HorizonModel, Outcome, TabularTask, board_coordinates, walk


class BudgetedCollectionDynamics(TabularTask):
    """Collect as much as a budget allows.

    ## Description
    A board of 4 x 4 cells. Entering the mine (lower left) is worth 3 and costs 1, or after an accident 4;
    entering the garden (upper right) is worth 1 and costs nothing. A move into the edge stays and enters the
    cell anew. The aim is much worth without overdrawing the budget: when accidents have eaten it up, it is
    time to walk over to the garden.

    ## Action Space
    `Discrete(4)`: 0 up, 1 down, 2 left, 3 right.

    ## Observation Space
    `Box(0, 1, (3,))`: row and column over their largest values, and the share of the horizon that is gone.

    ## Rewards
    `info["reward_vector"]`: worth, and the change of the budget. The reward itself is the worth.

    ## Starting State
    The upper left corner.

    ## Episode End
    Terminates after `horizon` steps; an overdrawn budget ends nothing.

    ## Arguments
    `budget` (float, 12), `horizon` (int, 16), `accident` (float, 0.3): their probability, `render_mode`.

    ## Ground truth
    `horizon_model()`, `initial_stock`. Without ever overdrawing the budget the largest mean worth is 19.443
    with a stock, and 14 for policies that do not look at it.

    ## Version History
    - v0: first version.
    """

    def __init__(
        self, budget: float = 12.0, horizon: int = 16, accident: float = 0.3, backend: Backend | None = None
    ) -> None:
        budget, p = check_number("budget", budget), check_number("accident", accident)
        if not 0.0 <= p <= 1.0 or not np.isfinite(budget):
            raise ValueError(f"budget is {budget} and accident {accident}; they must be finite, and "
                             "accident lie in [0, 1]")  # fmt: skip
        garden, mine = (0, 3), (3, 0)
        entering = {
            garden: (Outcome(1.0, (1.0, 0.0)),),
            mine: (Outcome(1.0 - p, (3.0, -1.0)), Outcome(p, (3.0, -4.0))),
        }
        model = walk((4, 4), entering, (Outcome(1.0, (0.0, 0.0)),), start=(0, 0), weights=(1.0, 0.0),
                     feature_names=("worth", "budget"))  # fmt: skip
        cells = np.zeros((4, 4), dtype=np.int64)
        cells[garden], cells[mine] = GARDEN, MINE
        legend = {GARDEN: "garden: 1, free", MINE: "mine: 3, costs 1 or 4"}
        world = HorizonModel(model, check_count("horizon", horizon), np.zeros((16, 2)))
        super().__init__(
            world, board_coordinates((4, 4)), cells, legend, backend=backend, initial_stock=(0.0, budget)
        )
