"""Boards on which what is preferred is no sum of rewards: three goals, and a meadow to graze for a while."""

from __future__ import annotations

import numpy as np

from prefrl.envs.core.backend import Backend
from prefrl.envs.core.checks import check_count
from prefrl.envs.rendering.fields import BLUE_GOAL, GOAL, MEADOW, RED_GOAL

from .tabular import HorizonModel, Outcome, TabularTask, board_coordinates, walk


class ThreeGoalsDynamics(TabularTask):
    """Reach one of three goals, all equally far; which of them is for preferences to say.

    ## Description
    A board of 4 x 7 cells. The start is the middle of the lowest row; the goals are three steps away, to the
    left, to the top and to the right. Where left beats top, top beats right and right beats left, no reward
    of goals says which to go for: the minimax winner goes for all of them.

    ## Action Space
    `Discrete(4)`: 0 up, 1 down, 2 left, 3 right. A move into the edge stays.

    ## Observation Space
    `Box(0, 1, (3,))`: row and column over their largest values, and the share of the horizon that is gone.

    ## Rewards
    1 for entering a goal. `info["reward_vector"]`: that, and an indicator of each goal.

    ## Starting State
    The middle of the lowest row.

    ## Episode End
    Terminates in a goal, and after `horizon` steps.

    ## Arguments
    `horizon` (int, 12), `render_mode`.

    ## Ground truth
    `horizon_model()`.

    ## Version History
    - v0: first version.
    """

    def __init__(self, horizon: int = 12, backend: Backend | None = None) -> None:
        shape, goals = (4, 7), ((3, 0), (0, 3), (3, 6))
        indicators = np.eye(3)
        entering = {cell: (Outcome(1.0, (1.0, *indicators[i].tolist())),) for i, cell in enumerate(goals)}
        model = walk(shape, entering, (Outcome(1.0, (0.0,) * 4),), start=(3, 3), terminal=frozenset(goals),
                     weights=(1.0, 0.0, 0.0, 0.0),
                     feature_names=("reward", "left", "top", "right"))  # fmt: skip
        cells = np.zeros(shape, dtype=np.int64)
        for cell, kind in zip(goals, (RED_GOAL, GOAL, BLUE_GOAL), strict=True):
            cells[cell] = kind
        legend = {RED_GOAL: "left goal", GOAL: "top goal", BLUE_GOAL: "right goal"}
        world = HorizonModel(model, check_count("horizon", horizon), np.zeros((28, 4)))
        super().__init__(world, board_coordinates(shape), cells, legend, backend=backend)


class MeadowDynamics(TabularTask):
    """Graze in a meadow, but not for too long.

    ## Description
    A board of 4 x 4 cells whose right half is a meadow. A step that ends in it is
    worth 1. Preferences may want as much as possible, but no more than a share of all steps: then no reward
    of single steps says what is preferred, since what one more is worth depends on how many there were.

    ## Action Space
    `Discrete(4)`: 0 up, 1 down, 2 left, 3 right. A move into the edge stays.

    ## Observation Space
    `Box(0, 1, (3,))`: row and column over their largest values, and the share of the horizon that is gone.

    ## Rewards
    1 for a step that ends in the meadow. `info["reward_vector"]`: that, and an indicator of the meadow.

    ## Starting State
    The upper left corner, two steps from the meadow.

    ## Episode End
    Terminates after `horizon` steps.

    ## Arguments
    `horizon` (int, 16), `render_mode`.

    ## Ground truth
    `horizon_model()`. The most that can be had is `horizon - 1`; within a share q of the steps, q `horizon`
    rounded down.

    ## Version History
    - v0: first version.
    """

    def __init__(self, horizon: int = 16, backend: Backend | None = None) -> None:
        shape = (4, 4)
        meadow = [(row, column) for row in range(4) for column in (2, 3)]
        entering = {cell: (Outcome(1.0, (1.0, 1.0)),) for cell in meadow}
        model = walk(shape, entering, (Outcome(1.0, (0.0, 0.0)),), start=(0, 0), weights=(1.0, 0.0),
                     feature_names=("worth", "in_meadow"))  # fmt: skip
        cells = np.zeros(shape, dtype=np.int64)
        for cell in meadow:
            cells[cell] = MEADOW
        world = HorizonModel(model, check_count("horizon", horizon), np.zeros((16, 2)))
        super().__init__(
            world, board_coordinates(shape), cells, {MEADOW: "meadow: 1 a step"}, backend=backend
        )
