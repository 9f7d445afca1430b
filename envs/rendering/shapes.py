"""Smooth shapes on a picture of any size: discs, strokes, polygons, and the ground below a curve.

As in ``prefrl.envs.rendering.tiles``, every shape is a signed distance (negative inside), here in pixels,
and half a pixel either side of its zero line becomes partial coverage. Only the pixels around a shape are
computed, in single precision, which is a thousand times finer than what is rounded to in the end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .tiles import Colour, Image

Floats = NDArray[np.floating[Any]]

Point = tuple[float, float]
"""(x, y) in pixels: x to the right, y down, the top left corner of the picture at (0, 0)."""


@lru_cache(maxsize=32)
def _middles(count: int) -> tuple[Floats, Floats]:
    """Return the middles of pixels along a side, as a row [1, count] and as a column [count, 1]."""
    middles = np.arange(count, dtype=np.float32) + np.float32(0.5)
    middles.flags.writeable = False
    return middles[None], middles[:, None]


class Canvas:
    """A picture to paint on.

    Args:
        width: pixels.
        height: pixels.
        colour: of the background.
    """

    def __init__(self, width: int, height: int, colour: Colour) -> None:
        self.width, self.height = width, height
        self._rgb: Floats = np.empty((height, width, 3), dtype=np.float32)
        self._rgb[...] = colour

    def copy(self) -> Canvas:
        """Return a canvas that looks the same: what never changes need not be painted for every picture."""
        twin = Canvas.__new__(Canvas)
        twin.width, twin.height, twin._rgb = self.width, self.height, self._rgb.copy()
        return twin

    def image(self) -> Image:
        """Return the picture [height, width, rgb]."""
        return (self._rgb + np.float32(0.5)).astype(np.uint8)

    def layer(self, channel: int) -> Floats:
        """Return a copy of one channel [height, width], before rounding."""
        return self._rgb[..., channel].copy()

    def disc(self, x: float, y: float, radius: float, colour: Colour) -> None:
        """Paint a disc."""
        box = (x - radius, y - radius, x + radius, y + radius)
        self._fill(box, lambda u, v: np.sqrt((u - x) ** 2 + (v - y) ** 2) - radius, colour)

    def stroke(self, points: Sequence[Point], width: float, colour: Colour) -> None:
        """Paint a line with round ends and corners through at least two points."""
        for (x0, y0), (x1, y1) in pairwise(points):
            self._segment(x0, y0, x1, y1, width / 2.0, colour)

    def _segment(self, x0: float, y0: float, x1: float, y1: float, radius: float, colour: Colour) -> None:
        dx, dy = x1 - x0, y1 - y0
        square = max(dx * dx + dy * dy, 1e-12)

        def distance(u: Floats, v: Floats) -> Floats:
            across, down = u - x0, v - y0
            along = across * (dx / square) + down * (dy / square)
            np.maximum(along, 0.0, out=along)
            np.minimum(along, 1.0, out=along)
            away = (across - along * dx) ** 2
            away += (down - along * dy) ** 2
            np.sqrt(away, out=away)
            away -= radius
            return away

        box = (min(x0, x1) - radius, min(y0, y1) - radius, max(x0, x1) + radius, max(y0, y1) + radius)
        self._fill(box, distance, colour)

    def polygon(self, corners: Sequence[Point], colour: Colour, rounding: float = 0.0) -> None:
        """Paint a convex polygon, its corners in either sense, grown by ``rounding`` pixels."""
        points = np.array(corners, dtype=np.float64)
        ahead = np.roll(points, -1, axis=0)
        turn = float(np.sum(points[:, 0] * ahead[:, 1] - points[:, 1] * ahead[:, 0]))
        if turn < 0.0:
            points, ahead = ahead[::-1], points[::-1]
        sides = ahead - points
        sides = sides / np.hypot(sides[:, 0], sides[:, 1])[:, None]
        walls = [(*corner, *side) for corner, side in zip(points.tolist(), sides.tolist(), strict=True)]

        def distance(u: Floats, v: Floats) -> Floats:
            away = None
            for x, y, side_x, side_y in walls:
                one = (u - x) * side_y - (v - y) * side_x
                away = one if away is None else np.maximum(away, one, out=away)
            return np.asarray(away) - rounding

        (left, top), (right, bottom) = points.min(0) - rounding, points.max(0) + rounding
        self._fill((float(left), float(top), float(right), float(bottom)), distance, colour)

    def ground(self, level: Floats, colour: Colour) -> None:
        """Paint everything below a curve, given as its y [width] in every column of pixels."""
        _, middle = _middles(self.height)
        self._blend(slice(None), slice(None), level.astype(np.float32) - middle, colour)

    def stamp(self, left: int, top: int, cover: Floats, colour: Colour) -> None:
        """Paint a shape given by how much of every pixel it covers.

        Args:
            left: column of its first pixels, which may lie outside the picture, as may others.
            top: row of its first pixels.
            cover: [rows, columns] from 0 to 1.
            colour: of the shape.
        """
        rows, columns = cover.shape
        first_row, first_column = max(-top, 0), max(-left, 0)
        last_row, last_column = min(rows, self.height - top), min(columns, self.width - left)
        if first_row < last_row and first_column < last_column:
            part = self._rgb[top + first_row : top + last_row, left + first_column : left + last_column]
            _lay(part, cover[first_row:last_row, first_column:last_column], colour)

    def _fill(
        self,
        box: tuple[float, float, float, float],
        distance: Callable[[Floats, Floats], Floats],
        colour: Colour,
    ) -> None:
        left, top, right, bottom = box
        columns = slice(max(int(left) - 1, 0), max(min(int(right) + 2, self.width), 0))
        rows = slice(max(int(top) - 1, 0), max(min(int(bottom) + 2, self.height), 0))
        u, v = _middles(self.width)[0][:, columns], _middles(self.height)[1][rows]
        self._blend(rows, columns, distance(u, v), colour)

    def _blend(self, rows: slice, columns: slice, distance: Floats, colour: Colour) -> None:
        cover = np.float32(0.5) - distance
        np.maximum(cover, 0.0, out=cover)
        np.minimum(cover, 1.0, out=cover)
        _lay(self._rgb[rows, columns], cover, colour)


def _lay(part: Floats, cover: Floats, colour: Colour) -> None:
    """Lay a colour over a part of a picture, [rows, columns, rgb], as far as it covers [rows, columns]."""
    if cover.size < 1000:
        part += cover[..., None] * (_numbers(colour) - part)
        return
    for channel, strength in enumerate(colour):  # one at a time is three times faster for many pixels
        layer = part[..., channel]
        layer += cover * (np.float32(strength) - layer)


@lru_cache(maxsize=256)
def _numbers(colour: Colour) -> Floats:
    return np.array(colour, dtype=np.float32)
