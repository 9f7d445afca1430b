"""Internal variables that drain, and sources that restore them: hold a set-point."""

from __future__ import annotations

from itertools import product

import numpy as np

from prefrl.envs.core.backend import Backend
from prefrl.envs.core.checks import check_count, check_number
from prefrl.envs.rendering.fields import FOOD, SALT, WATER

from .tabular import HorizonModel, Outcome, TabularTask, board_coordinates, walk

SOURCES = (((1, 0), FOOD), ((1, 2), WATER), ((0, 1), SALT))
"""Where each variable is restored, and how that is drawn."""


class HomeostasisDynamics(TabularTask):
    """Keep internal variables at their set-point while they drain.

    ## Description
    A board of 3 x 3 cells. In every step each internal variable drains by 1 with probability 1/2, unseen.
    Entering a variable's source (middle left, middle right, with three variables also middle top) restores
    it by 1 or 3, evenly; a move into the edge stays and enters the cell anew. The aim is to end at the
    set-point: the deviation is the stock of a vector reward, and its norm what is to be small.

    ## Action Space
    `Discrete(4)`: 0 up, 1 down, 2 left, 3 right.

    ## Observation Space
    `Box(0, 1, (3,))`: row and column over their largest values, and the share of the horizon that is gone.

    ## Rewards
    `info["reward_vector"]`: the change of each variable. The reward itself is their sum.

    ## Starting State
    The middle, with the deviation `initial_deviation`.

    ## Episode End
    Terminates after `horizon` steps.

    ## Arguments
    `variables` (int, 2; or 3), `horizon` (int, 16), `drain` (float, 1/2), `meals` (two floats, (1, 3)),
    `initial_deviation` (floats, 0), `render_mode`.

    ## Ground truth
    `horizon_model()`, `initial_stock`. The least mean Euclidean deviation at the end is 1.3805, and 3.5584
    for policies that do not look at the stock.

    ## Version History
    - v0: first version.
    """

    def __init__(
        self,
        variables: int = 2,
        horizon: int = 16,
        drain: float = 0.5,
        meals: tuple[float, float] = (1.0, 3.0),
        initial_deviation: tuple[float, ...] | None = None,
        backend: Backend | None = None,
    ) -> None:
        if check_count("variables", variables) not in (2, 3):
            raise ValueError(f"variables is {variables}; it must be 2 or 3")
        drain = check_number("drain", drain)
        if not 0.0 <= drain <= 1.0:
            raise ValueError(f"drain is {drain}; it must lie in [0, 1]")
        if len(meals) != 2 or not np.isfinite(meals).all():
            raise ValueError(f"meals is {meals}; it must be two finite numbers")
        deviation = tuple(map(float, (0.0,) * variables if initial_deviation is None else initial_deviation))
        if len(deviation) != variables or not np.isfinite(deviation).all():
            raise ValueError(
                f"initial_deviation is {initial_deviation}; it must be {variables} finite numbers"
            )
        drained = []
        for lost in product((0, 1), repeat=variables):
            chance = float(np.prod([drain if one else 1.0 - drain for one in lost]))
            if chance > 0.0:
                drained.append(Outcome(chance, tuple(-float(one) for one in lost)))
        entering = {}
        for variable, (cell, _) in enumerate(SOURCES[:variables]):
            entering[cell] = tuple(
                Outcome(
                    0.5 * out.probability, tuple(np.add(out.features, meal * np.eye(variables)[variable]))
                )
                for out in drained
                for meal in meals
            )
        names = ("energy", "water", "salt")[:variables]
        model = walk((3, 3), entering, tuple(drained), start=(1, 1), weights=(1.0,) * variables,
                     feature_names=names)  # fmt: skip
        cells = np.zeros((3, 3), dtype=np.int64)
        for cell, kind in SOURCES[:variables]:
            cells[cell] = kind
        legend = {kind: name for (_, kind), name in zip(SOURCES[:variables], names, strict=True)}
        world = HorizonModel(model, check_count("horizon", horizon), np.zeros((9, variables)))
        super().__init__(
            world, board_coordinates((3, 3)), cells, legend, backend=backend, initial_stock=deviation
        )
