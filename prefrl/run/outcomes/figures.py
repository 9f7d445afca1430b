"""Pictures of policies."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from prefrl.envs.grids.grid import MOVES
from prefrl.envs.rendering.boards import draw_board


def draw_policy(
    axes: Axes,
    cells: NDArray[np.int64],
    policy: NDArray[np.float64],
    live: NDArray[np.bool_],
    *,
    title: str,
    tile: int = 48,
    paint: Callable[..., NDArray[np.uint8]] = draw_board,
) -> None:
    """Draw a grid world with an arrow for each action its policy takes.

    Args:
        axes: where to draw.
        cells: [height, width] codes of the board.
        policy: [S, A] action probabilities; arrows are as long as their square roots.
        live: [S] bool, states that need an action.
        title: printed above.
        tile: pixels per cell.
        paint: draws the cells, as :func:`draw_board` does.
    """
    height, width = cells.shape
    axes.imshow(paint(cells, tile=tile), extent=(0, width, height, 0), interpolation="lanczos", alpha=0.75)
    cell = np.flatnonzero(live[: height * width])
    origin = np.stack([cell % width + 0.5, cell // width + 0.5], 1)
    for action, (row, column) in enumerate(MOVES):
        length = 0.44 * np.sqrt(policy[cell, action])
        shown = length > 0.05
        axes.quiver(
            origin[shown, 0],
            origin[shown, 1],
            length[shown] * column,
            length[shown] * row,
            color="#0b2a5b",
            angles="xy",
            scale_units="xy",
            scale=1,
            width=0.007,
            headwidth=3.2,
            headlength=3.2,
            headaxislength=3,
        )
    axes.set_title(title, fontsize=10)
    axes.set_axis_off()
