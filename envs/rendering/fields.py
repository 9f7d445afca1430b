"""Pictures of fields: what lies in their cells, who walks on them, and a legend that says what it is.

Fields are drawn as boards are (``prefrl.envs.rendering.boards``), with other things in their cells.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .boards import INK, VAN, WHITE, draw_vehicle, paint_goal
from .shapes import Canvas
from .text import text_width, write
from .tiles import Colour, Image, Tile

GROUND, GOAL, CLIFF, APPLE, BAD_APPLE, FOOD, WATER, SALT, MINE, GARDEN, MEADOW, STATE, RED_GOAL, BLUE_GOAL = (
    range(14)
)
"""What a cell shows."""

LAWN: Colour = (226, 238, 210)
LAWN_EDGE: Colour = (202, 218, 184)
LEAF: Colour = (84, 150, 62)
LEAF_DARK: Colour = (56, 112, 44)
APPLE_RED: Colour = (214, 52, 48)
APPLE_LIGHT: Colour = (244, 132, 118)
ROTTEN: Colour = (134, 104, 66)
ROTTEN_DARK: Colour = (84, 62, 38)
CRUST: Colour = (196, 132, 62)
CRUMB: Colour = (238, 200, 138)
SEA: Colour = (52, 132, 208)
SEA_LIGHT: Colour = (160, 208, 244)
STONE: Colour = (150, 154, 162)
STONE_DARK: Colour = (92, 96, 106)
EARTH: Colour = (150, 108, 70)
CARROT: Colour = (240, 138, 40)
NUGGET: Colour = (253, 208, 66)
PAPER: Colour = (247, 248, 250)
DEEP: tuple[Colour, ...] = ((168, 142, 108), (128, 104, 80), (84, 68, 56), (44, 38, 36))


def _ground(t: Tile) -> None:
    t.fill(t.box(-1, -1, 2, 2), LAWN_EDGE)
    t.fill(t.box(0.02, 0.02, 0.98, 0.98), LAWN)


def _cliff(t: Tile) -> None:
    for step, colour in enumerate(DEEP):  # the deeper the darker
        t.fill(t.box(-1, 0.22 * step - (0.0 if step else 1.0), 2, 2), colour)
    for left in (0.1, 0.42, 0.74):
        t.fill(t.polygon((left, -0.1), (left + 0.22, -0.1), (left + 0.1, 0.26)), DEEP[1])


def _round_apple(t: Tile, flesh: Colour) -> None:
    t.fill(t.ellipse(0.5, 0.86, 0.26, 0.05), INK, 0.2)
    t.fill(t.line(0.5, 0.36, 0.54, 0.18, 0.05), ROTTEN_DARK)
    halves = np.minimum(t.circle(0.4, 0.58, 0.25), t.circle(0.6, 0.58, 0.25))
    t.fill(halves - 0.025, INK)
    t.fill(halves, flesh)


def _apple(t: Tile) -> None:
    _round_apple(t, APPLE_RED)
    t.fill(t.ellipse(0.66, 0.24, 0.13, 0.07), LEAF)
    t.fill(t.ellipse(0.32, 0.5, 0.06, 0.09), APPLE_LIGHT)


def _bad_apple(t: Tile) -> None:
    _round_apple(t, ROTTEN)
    for x, y, radius in ((0.34, 0.52, 0.07), (0.6, 0.48, 0.05), (0.52, 0.68, 0.08), (0.7, 0.66, 0.04)):
        t.fill(t.circle(x, y, radius), ROTTEN_DARK)


def _food(t: Tile) -> None:
    t.fill(t.ellipse(0.5, 0.8, 0.38, 0.05), INK, 0.2)
    loaf = np.minimum(t.box(0.16, 0.46, 0.84, 0.78, 0.06), t.ellipse(0.5, 0.44, 0.4, 0.2))
    t.fill(loaf - 0.025, INK)
    t.fill(loaf, CRUST)
    for x in (0.3, 0.47, 0.64):
        t.fill(t.line(x, 0.44, x + 0.08, 0.32, 0.06), CRUMB)


def _water(t: Tile) -> None:
    drop = np.minimum(t.circle(0.5, 0.6, 0.26), t.polygon((0.5, 0.1), (0.73, 0.48), (0.27, 0.48)))
    t.fill(drop - 0.025, INK)
    t.fill(drop, SEA)
    t.fill(t.ellipse(0.41, 0.62, 0.06, 0.11), SEA_LIGHT)


def _salt(t: Tile) -> None:
    t.fill(t.box(0.3, 0.34, 0.7, 0.84, 0.06) - 0.025, INK)
    t.fill(t.box(0.3, 0.34, 0.7, 0.84, 0.06), WHITE)
    t.fill(t.box(0.32, 0.16, 0.68, 0.36, 0.1) - 0.02, INK)
    t.fill(t.box(0.32, 0.16, 0.68, 0.36, 0.1), STONE)
    for x in (0.4, 0.5, 0.6):
        t.fill(t.circle(x, 0.25, 0.025), INK)


def _mine(t: Tile) -> None:
    t.fill(t.polygon((0.5, 0.1), (0.94, 0.84), (0.06, 0.84)), STONE_DARK)
    t.fill(t.polygon((0.5, 0.16), (0.88, 0.81), (0.12, 0.81)), STONE)
    t.fill(np.minimum(t.circle(0.5, 0.62, 0.15), t.box(0.35, 0.62, 0.65, 0.82)), INK)
    t.fill(t.circle(0.5, 0.74, 0.07), NUGGET)


def _garden(t: Tile) -> None:
    t.fill(t.box(0.1, 0.4, 0.9, 0.9, 0.08), EARTH)
    for x in (0.28, 0.5, 0.72):
        t.fill(t.polygon((x - 0.09, 0.48), (x + 0.09, 0.48), (x, 0.82)), CARROT)
        for lean in (-0.09, 0.0, 0.09):
            t.fill(t.line(x, 0.46, x + lean, 0.2, 0.05), LEAF)


def _meadow(t: Tile) -> None:
    t.fill(t.box(0.02, 0.02, 0.98, 0.98), (150, 196, 116))
    for x, y in ((0.2, 0.3), (0.55, 0.2), (0.8, 0.45), (0.35, 0.65), (0.7, 0.8), (0.15, 0.85)):
        for lean in (-0.05, 0.05):
            t.fill(t.line(x, y, x + lean, y - 0.12, 0.035), LEAF_DARK)
    for x, y in ((0.4, 0.38), (0.82, 0.18), (0.55, 0.62)):
        t.fill(t.circle(x, y, 0.05), WHITE)
        t.fill(t.circle(x, y, 0.025), NUGGET)


def _state(t: Tile) -> None:
    t.fill(t.box(0.1, 0.1, 0.9, 0.9, 0.14), INK)
    t.fill(t.box(0.14, 0.14, 0.86, 0.86, 0.1), WHITE)


def _flag(t: Tile, colour: Colour) -> None:
    t.fill(t.ellipse(0.32, 0.84, 0.13, 0.04), INK, 0.3)
    t.fill(t.polygon((0.31, 0.12), (0.86, 0.34), (0.31, 0.56)) - 0.02, INK)
    t.fill(t.polygon((0.31, 0.12), (0.86, 0.34), (0.31, 0.56)), colour)
    t.fill(t.line(0.31, 0.13, 0.31, 0.83, 0.055), INK)


PAINTERS: dict[int, Callable[[Tile], None]] = {
    GOAL: paint_goal, CLIFF: _cliff, APPLE: _apple, BAD_APPLE: _bad_apple, FOOD: _food, WATER: _water,
    SALT: _salt, MINE: _mine, GARDEN: _garden, MEADOW: _meadow, STATE: _state,
    RED_GOAL: lambda t: _flag(t, APPLE_RED), BLUE_GOAL: lambda t: _flag(t, SEA),
}  # fmt: skip


def _walker(t: Tile) -> None:
    """Paint somebody seen from above, who looks to the right."""
    t.fill(t.ellipse(0.5, 0.5, 0.2, 0.36), INK)  # shoulders
    t.fill(t.ellipse(0.5, 0.5, 0.17, 0.33), VAN)
    t.fill(t.circle(0.54, 0.5, 0.21), INK)
    t.fill(t.circle(0.54, 0.5, 0.18), (244, 204, 164))
    t.fill(np.maximum(t.circle(0.54, 0.5, 0.18), t.box(0.0, 0.0, 0.5, 1.0)), ROTTEN_DARK)  # hair
    t.fill(t.polygon((0.68, 0.44), (0.82, 0.5), (0.68, 0.56)), (244, 204, 164))  # nose
    for y in (0.42, 0.58):
        t.fill(t.circle(0.64, y, 0.03), INK)


@lru_cache(maxsize=64)
def _tile_image(kind: int, tile: int) -> Image:
    """Return the picture of a kind of cell [tile, tile, rgb], read-only since it is shared."""
    canvas = Tile(tile)
    _ground(canvas)
    if kind != GROUND:
        PAINTERS[kind](canvas)
    image = np.round(canvas.rgba[..., :3]).astype(np.uint8)
    image.flags.writeable = False
    return image


def draw_field(cells: NDArray[np.int64], *, tile: int = 48) -> Image:
    """Return the picture [height * tile, width * tile, rgb] of cells [height, width], as named above."""
    rows = [np.concatenate([_tile_image(int(kind), tile) for kind in row], axis=1) for row in cells]
    return np.concatenate(rows)


def draw_walker(field: Image, row: int, col: int, *, heading: int | None, tile: int = 48) -> Image:
    """Return a copy of a field with somebody in a cell; the arguments are those of :func:`draw_vehicle`."""
    return draw_vehicle(field, row, col, tile=tile, heading=heading, paint=_walker)


def draw_legend(legend: Mapping[int, str], width: int, *, tile: int = 18) -> Image:
    """Return a picture [height, width, rgb] with a line for each kind of cell, and words for a bar below.

    Args:
        legend: what kinds of cells are, in capitals.
        width: pixels.
        tile: pixels of a kind's own picture.
    """
    pitch, height, margin = tile + 5, 7.0, 4
    canvas = Canvas(width, margin + pitch * len(legend) + 12, PAPER)
    left = float(margin + tile + 6)
    for line, label in enumerate(legend.values()):
        size = min(height, height * (width - left - margin) / max(1.0, text_width(label, height)))
        write(canvas, left, margin + pitch * line + (tile - size) / 2.0, label, size, INK)
    write(canvas, float(margin), margin + pitch * len(legend) + 1.0, "time gone:", height, INK)
    image = canvas.image()
    for line, kind in enumerate(legend):
        top = margin + pitch * line
        image[top : top + tile, margin : margin + tile] = _tile_image(kind, tile)
    return image
