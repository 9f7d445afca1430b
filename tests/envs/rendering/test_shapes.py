"""Shapes: a slow twin paints them over whole canvases in double precision; pictures are within one level."""

from itertools import pairwise

import numpy as np
import pytest

from prefrl.envs.rendering import scenes
from prefrl.envs.rendering.shapes import Canvas
from prefrl.envs.rendering.text import GLYPHS, write

SIZE = 90, 70


class Slow:
    """Paints as :class:`Canvas` does, every pixel of every shape."""

    def __init__(self, colour: tuple[int, int, int]) -> None:
        width, height = SIZE
        self.rgb = np.tile(np.array(colour, dtype=np.float64), (height, width, 1))
        self.y, self.x = np.mgrid[:height, :width] + 0.5

    def lay(self, distance: np.ndarray, colour: tuple[int, int, int]) -> None:
        cover = np.clip(0.5 - distance, 0.0, 1.0)[..., None]
        self.rgb = self.rgb * (1.0 - cover) + cover * np.array(colour)

    def disc(self, x: float, y: float, radius: float, colour: tuple[int, int, int]) -> None:
        self.lay(np.hypot(self.x - x, self.y - y) - radius, colour)

    def stroke(self, points: list, width: float, colour: tuple[int, int, int]) -> None:
        for (x0, y0), (x1, y1) in pairwise(points):
            ahead = np.array([x1 - x0, y1 - y0])
            share = ((self.x - x0) * ahead[0] + (self.y - y0) * ahead[1]) / max(ahead @ ahead, 1e-12)
            share = np.clip(share, 0.0, 1.0)
            away = np.hypot(self.x - x0 - share * ahead[0], self.y - y0 - share * ahead[1])
            self.lay(away - width / 2.0, colour)

    def polygon(self, corners: list, colour: tuple[int, int, int], rounding: float = 0.0) -> None:
        """Corners clockwise on the screen."""
        away = []
        for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
            length = np.hypot(x1 - x0, y1 - y0)
            away.append(((self.x - x0) * (y1 - y0) - (self.y - y0) * (x1 - x0)) / length)
        self.lay(np.max(away, axis=0) - rounding, colour)


def differences(one: np.ndarray, other: np.ndarray) -> int:
    return int(np.abs(one.astype(int) - np.round(other).astype(int)).max())


@pytest.mark.parametrize("seed", range(20))
def test_shapes_equal_a_slow_twins(seed: int) -> None:
    rng = np.random.default_rng(seed)
    fast, slow = Canvas(*SIZE, (250, 240, 10)), Slow((250, 240, 10))
    for _ in range(6):
        colour = tuple(int(part) for part in rng.integers(0, 256, 3))
        x, y = rng.uniform(-20, 110), rng.uniform(-20, 90)  # some reach across the edge, or lie beyond it
        radius, width = rng.uniform(0.5, 50), rng.uniform(0.5, 30)
        points = [(float(rng.uniform(-20, 110)), float(rng.uniform(-20, 90))) for _ in range(3)]
        corners = [(x, y), (x + width, y), (x + width, y + radius), (x, y + radius)]
        for canvas in (fast, slow):
            canvas.disc(x, y, radius / 2.0, colour)
            canvas.stroke(points, width, colour)
            canvas.polygon(corners, colour, 2.0)
    assert differences(fast.image(), slow.rgb) <= 1


def test_text_equals_its_strokes() -> None:
    letters, height = "".join(sorted(GLYPHS)), 13.0
    for letter in letters:
        for x, y in ((20.0, 30.0), (20.3, 29.6), (-3.2, -4.4), (84.5, 65.1)):
            fast, slow = Canvas(*SIZE, (255, 255, 255)), Slow((255, 255, 255))
            write(fast, x, y, letter, height, (10, 20, 200))
            for stroke in filter(None, GLYPHS[letter].split(",")):
                points = [
                    (x + int(at[0]) * height / 6.0, y + int(at[1]) * height / 6.0) for at in stroke.split()
                ]
                slow.stroke(points, 0.14 * height, (10, 20, 200))
            assert differences(fast.image(), slow.rgb) <= 1, letter


def test_what_is_copied_for_every_picture_stays_clean() -> None:
    first = scenes.draw_pendulum(0.3, 0.0)
    for angle in np.linspace(0.0, 6.0, 5):
        scenes.draw_pendulum(float(angle), 1.0)
    np.testing.assert_array_equal(scenes.draw_pendulum(0.3, 0.0), first)
    assert (first != scenes.draw_pendulum(0.31, 0.0)).any()
