"""Smooth shapes on a picture of any size: discs, strokes, polygons, and the ground below a curve.

As in ``prefrl.envs.rendering.tiles``, every shape is a signed distance (negative inside), here in pixels,
and half a pixel either side of its zero line becomes partial coverage. Only the pixels around a shape are
computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from .tiles import Colour, Floats, Image

Point = tuple[float, float]
"""(x, y) in pixels: x to the right, y down, the top left corner of the picture at (0, 0)."""


class Canvas:
    """A picture to paint on.

    Args:
        width: pixels.
        height: pixels.
        colour: of the background.
    """

    def __init__(self, width: int, height: int, colour: Colour) -> None:
        self.width, self.height = width, height
        self._rgb: Floats = np.empty((height, width, 3))
        self._rgb[...] = colour

    def image(self) -> Image:
        """Return the picture [height, width, rgb]."""
        return np.round(self._rgb).astype(np.uint8)

    def disc(self, x: float, y: float, radius: float, colour: Colour) -> None:
        """Paint a disc."""
        box = (x - radius, y - radius, x + radius, y + radius)
        self._fill(box, lambda u, v: np.hypot(u - x, v - y) - radius, colour)

    def stroke(self, points: Sequence[Point], width: float, colour: Colour) -> None:
        """Paint a line with round ends and corners through at least two points."""
        for (x0, y0), (x1, y1) in pairwise(points):
            self._segment(x0, y0, x1, y1, width / 2.0, colour)

    def _segment(self, x0: float, y0: float, x1: float, y1: float, radius: float, colour: Colour) -> None:
        dx, dy = x1 - x0, y1 - y0
        square = max(dx * dx + dy * dy, 1e-12)

        def distance(u: Floats, v: Floats) -> Floats:
            along = np.clip(((u - x0) * dx + (v - y0) * dy) / square, 0.0, 1.0)
            return np.asarray(np.hypot(u - x0 - along * dx, v - y0 - along * dy) - radius)

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

        def distance(u: Floats, v: Floats) -> Floats:
            away = [
                (u - x) * side_y - (v - y) * side_x
                for (x, y), (side_x, side_y) in zip(points, sides, strict=True)
            ]
            return np.asarray(np.maximum.reduce(away) - rounding)

        (left, top), (right, bottom) = points.min(0) - rounding, points.max(0) + rounding
        self._fill((left, top, right, bottom), distance, colour)

    def ground(self, level: Floats, colour: Colour) -> None:
        """Paint everything below a curve, given as its y [width] in every column of pixels."""
        middle = np.arange(self.height)[:, None] + 0.5
        self._blend(slice(None), slice(None), level - middle, colour)

    def _fill(
        self,
        box: tuple[float, float, float, float],
        distance: Callable[[Floats, Floats], Floats],
        colour: Colour,
    ) -> None:
        left, top, right, bottom = box
        columns = slice(max(int(left) - 1, 0), max(min(int(right) + 2, self.width), 0))
        rows = slice(max(int(top) - 1, 0), max(min(int(bottom) + 2, self.height), 0))
        u = np.asarray(np.arange(self.width)[columns][None] + 0.5, dtype=np.float64)
        v = np.asarray(np.arange(self.height)[rows][:, None] + 0.5, dtype=np.float64)
        self._blend(rows, columns, distance(u, v), colour)

    def _blend(self, rows: slice, columns: slice, distance: Floats, colour: Colour) -> None:
        cover = np.clip(0.5 - distance, 0.0, 1.0)[..., None]
        part = self._rgb[rows, columns]
        part += cover * (np.array(colour) - part)
