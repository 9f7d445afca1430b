"""A board with two trees whose apples come or do not: returns of every size can be generated."""

from __future__ import annotations

import numpy as np

from prefrl.envs.core.backend import Backend
from prefrl.envs.core.checks import check_count, check_number
from prefrl.envs.rendering.fields import APPLE, BAD_APPLE

from .tabular import HorizonModel, Outcome, TabularTask, board_coordinates, walk


class StochasticApplesDynamics(TabularTask):
    """Collect apples that may or may not be there.

    ## Description
    A board of 4 x 4 cells. Entering the upper right corner pays 1 with probability 1/2 and else nothing;
    entering the lower left corner pays -1 with probability 1/2 and else nothing. A move into the edge stays
    and enters the cell anew. Made to *generate* a return: walk to a tree, and leave when the wanted number of
    apples is there, which takes a stock (`prefrl.envs.StockAugmentation`).

    ## Action Space
    `Discrete(4)`: 0 up, 1 down, 2 left, 3 right.

    ## Observation Space
    `Box(0, 1, (3,))`: row and column over their largest values, and the share of the horizon that is gone.

    ## Rewards
    As above.

    ## Starting State
    The upper left corner.

    ## Episode End
    Terminates after `horizon` steps.

    ## Arguments
    `size` (int, 4): rows and columns. `horizon` (int, 16). `probability` (float, 1/2) of an apple.
    `render_mode`.

    ## Ground truth
    `horizon_model()`. The mean of the least E|G - g| over g = -7, ..., 7 is .1655; of policies that do not
    look at the stock .9775.

    ## Version History
    - v0: first version.
    """

    def __init__(
        self, size: int = 4, horizon: int = 16, probability: float = 0.5, backend: Backend | None = None
    ) -> None:
        shape = (check_count("size", size), size)
        if size < 2:
            raise ValueError(f"size is {size}; it must be at least 2")
        p = check_number("probability", probability)
        if not 0.0 <= p <= 1.0:
            raise ValueError(f"probability is {probability}; it must lie in [0, 1]")
        good, bad = (0, size - 1), (size - 1, 0)
        entering = {
            cell: (Outcome(p, (reward,)), Outcome(1.0 - p, (0.0,)))
            for cell, reward in ((good, 1.0), (bad, -1.0))
        }
        model = walk(shape, entering, (Outcome(1.0, (0.0,)),), start=(0, 0), weights=(1.0,),
                     feature_names=("reward",))  # fmt: skip
        cells = np.zeros(shape, dtype=np.int64)
        cells[good], cells[bad] = APPLE, BAD_APPLE
        legend = {APPLE: "apple: 1 or 0", BAD_APPLE: "bad one: -1 or 0"}
        world = HorizonModel(model, check_count("horizon", horizon), np.zeros((size * size, 1)))
        super().__init__(world, board_coordinates(shape), cells, legend, backend=backend)
