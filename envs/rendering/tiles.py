"""One tile of a board, to paint shapes on.

Every shape is a signed distance (negative inside, in tile widths) over the pixel centres of one tile;
half a pixel either side of its zero line becomes partial coverage, which is what smooths the edges. So
the same few formulas serve every tile size, and the package ships no bitmap.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Colour = tuple[int, int, int]
Floats = NDArray[np.float64]
Image = NDArray[np.uint8]


class Tile:
    """A transparent square that shapes are painted on, with x to the right and y down, both in [0, 1]."""

    def __init__(self, tile: int) -> None:
        self.tile = tile
        centres = (np.arange(tile) + 0.5) / tile
        self.x: Floats = np.broadcast_to(centres, (tile, tile))
        self.y: Floats = np.broadcast_to(centres[:, None], (tile, tile))
        self.rgba: Floats = np.zeros((tile, tile, 4))  # colour multiplied by alpha: layers then just add up

    def fill(self, distance: Floats, colour: Colour, opacity: float = 1.0) -> None:
        """Lay ``colour`` over everything inside the shape ``distance`` [tile, tile]."""
        cover = opacity * np.clip(0.5 - distance * self.tile, 0.0, 1.0)[..., None]
        self.rgba = self.rgba * (1.0 - cover) + cover * np.array([*colour, 255.0])

    def circle(self, x: float, y: float, radius: float) -> Floats:
        """Return the distance to a circle."""
        return np.hypot(self.x - x, self.y - y) - radius

    def ellipse(self, x: float, y: float, radius_x: float, radius_y: float) -> Floats:
        """Return the distance to an ellipse."""
        # First-order distance: exact on the outline, which is all that anti-aliasing needs.
        u, v = (self.x - x) / radius_x, (self.y - y) / radius_y
        norm, slope = np.hypot(u, v), np.hypot(u / radius_x, v / radius_y)
        return np.asarray(norm * (norm - 1.0) / np.maximum(slope, 1e-9))

    def box(self, left: float, top: float, right: float, bottom: float, radius: float = 0.0) -> Floats:
        """Return the distance to a box whose corners are rounded."""
        u = np.abs(self.x - (left + right) / 2) - (right - left) / 2 + radius
        v = np.abs(self.y - (top + bottom) / 2) - (bottom - top) / 2 + radius
        outside = np.hypot(np.maximum(u, 0.0), np.maximum(v, 0.0))
        return np.asarray(outside + np.minimum(np.maximum(u, v), 0.0) - radius)

    def line(self, x0: float, y0: float, x1: float, y1: float, width: float) -> Floats:
        """Return the distance to a stroke of ``width`` with round ends."""
        dx, dy = x1 - x0, y1 - y0
        along = np.clip(((self.x - x0) * dx + (self.y - y0) * dy) / (dx * dx + dy * dy), 0.0, 1.0)
        return np.asarray(np.hypot(self.x - x0 - along * dx, self.y - y0 - along * dy) - width / 2)

    def polygon(self, *corners: tuple[float, float]) -> Floats:
        """Return the distance to a convex polygon whose corners run clockwise on the screen."""
        sides = []
        for (x0, y0), (x1, y1) in zip(corners, (*corners[1:], corners[0]), strict=True):
            length = float(np.hypot(x1 - x0, y1 - y0))
            sides.append(((self.x - x0) * (y1 - y0) - (self.y - y0) * (x1 - x0)) / length)
        return np.asarray(np.maximum.reduce(sides))

    def stripes(self, coordinate: Floats, period: float) -> Floats:
        """Return the distance to bands across ``coordinate``, each half a period wide."""
        return np.asarray(np.abs(np.mod(coordinate, period) - period / 2) - period / 4)
