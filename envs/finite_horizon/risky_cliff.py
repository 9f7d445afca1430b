"""A walk along a cliff, with slips and a deadline: how much risk of falling is worth being on time?"""

from __future__ import annotations

import numpy as np

from prefrl.envs.core.backend import Backend
from prefrl.envs.core.checks import check_count, check_number
from prefrl.envs.rendering.fields import CLIFF, GOAL

from .tabular import HorizonModel, Outcome, TabularTask, walk

MAX_CELLS = 4096
"""Most cells of a board: an observation has a number for each."""


class RiskyCliffDynamics(TabularTask):
    """Walk to the goal before the deadline, along a cliff into which one may slip.

    ## Description
    A board of 3 x 5 cells; the start is the lower left corner, the goal the lower right one,
    and the cells between them are the cliff. With probability 0.1 a move goes down a row instead (or stays,
    in the lowest). The short way runs beside the cliff, the safe one along the top. What is best depends on
    how much the worst outcomes count, and on what has happened so far.

    ## Action Space
    `Discrete(4)`: 0 up, 1 down, 2 left, 3 right. A move into the edge stays.

    ## Observation Space
    `Box(0, 1, (16,))`: an indicator of each cell, row by row, and the share of the horizon that is gone.

    ## Rewards
    -1 for each step, 0 for the one into the goal, -12 for the one into the cliff; -4 more in the last step
    where neither is reached.

    ## Starting State
    The lower left corner.

    ## Episode End
    Terminates at the goal, in the cliff, and after `horizon` steps.

    ## Arguments
    `height` (int, 3), `width` (int, 5), `horizon` (int, 16), `slip` (float, 0.1), `fall` (float, -12), `late`
    (float, -4), `render_mode`.

    ## Ground truth
    `horizon_model()`. The best CVaR is -12.52225, -12.26112, -10.88303, -9.22507 and -8.03668 at tau .05, .1,
    .25, .5 and 1.

    ## Version History
    - v0: first version.
    """

    def __init__(
        self,
        height: int = 3,
        width: int = 5,
        horizon: int = 16,
        slip: float = 0.1,
        fall: float = -12.0,
        late: float = -4.0,
        backend: Backend | None = None,
    ) -> None:
        shape = (check_count("height", height), check_count("width", width))
        if height < 2 or width < 3:
            raise ValueError(f"height is {height} and width {width}; they must be at least 2 and 3")
        if height * width > MAX_CELLS:
            raise ValueError(f"height is {height} and width {width}; there may be {MAX_CELLS} cells")
        slip, fall, late = (
            check_number(name, value) for name, value in (("slip", slip), ("fall", fall), ("late", late))
        )
        if not 0.0 <= slip < 1.0 or not np.isfinite([fall, late]).all():
            raise ValueError(f"slip is {slip}, fall {fall} and late {late}; slip must lie in [0, 1), the "
                             "others be finite")  # fmt: skip
        bottom = height - 1
        cliff, goal = [(bottom, column) for column in range(1, width - 1)], (bottom, width - 1)
        entering = {cell: (Outcome(1.0, (fall,)),) for cell in cliff} | {goal: (Outcome(1.0, (0.0,)),)}
        model = walk(shape, entering, (Outcome(1.0, (-1.0,)),), start=(bottom, 0),
                     terminal=frozenset((*cliff, goal)), slip=slip, weights=(1.0,),
                     feature_names=("reward",))  # fmt: skip
        final = np.where(model.terminal, 0.0, late)[:, None]
        cells = np.zeros(shape, dtype=np.int64)
        cells[bottom, 1:-1], cells[goal] = CLIFF, GOAL
        legend = {CLIFF: "cliff", GOAL: "goal"}
        world = HorizonModel(model, check_count("horizon", horizon), final)
        super().__init__(world, np.eye(height * width), cells, legend, backend=backend)
