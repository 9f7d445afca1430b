"""Pictures of tours through cities with opening hours, of what answers leave possible, of modes on a ring."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .boards import GRASS, INK, WHITE
from .scenes import ARROW, BODY, BODY_LIGHT, GREEN_LIGHT, PAPER, RED_LIGHT, SHADE
from .shapes import Canvas, Point
from .text import text_width, write
from .tiles import Colour, Image

Floats = NDArray[np.float64]

MAP = 300.0
"""Pixels of a side of the map."""

PLANE = 360.0
"""Pixels of a side of the plane's square from -1 to 1."""

MARKS: dict[int, Colour] = {0: SHADE, 1: GREEN_LIGHT, -1: RED_LIGHT}
"""Not served yet, in time, too late."""


def draw_tour(
    places: Floats, windows: Floats, served: Sequence[int], here: int, clock: float, latest: float
) -> Image:
    """Return a picture: a map of the cities, and below it when each is open, with the time that it is.

    Args:
        places: [N + 1, 2] in the unit square, the depot last.
        windows: [N, 2] when each city opens and closes.
        served: of each city 1 if in time, -1 if too late, else 0.
        here: where the traveller is.
        clock: the time that it is.
        latest: the end of the scale of times.
    """
    pitch, edge = 18.0, 24.0
    left, top = 40.0, MAP + 34.0
    width = MAP + 2.0 * edge
    canvas = Canvas(int(width), int(top + pitch * len(windows) + 12.0), PAPER)
    for number, (x, y) in enumerate(places):
        at = edge + x * MAP, edge + (1.0 - y) * (MAP - edge)
        if number == here:
            canvas.disc(*at, 18.0, ARROW)
        colour = INK if number == len(windows) else MARKS[served[number]]
        canvas.disc(*at, 13.0, colour)
        label = "D" if number == len(windows) else str(number)
        dark = number < len(windows) and served[number] == 0
        write(canvas, at[0] - text_width(label, 9.0) / 2.0, at[1] - 4.5, label, 9.0, INK if dark else WHITE)
    scale = (width - left - 12.0) / latest
    for number, (opens, closes) in enumerate(windows):
        y = top + (number + 0.5) * pitch
        write(canvas, 12.0, y - 4.5, str(number), 9.0, INK)
        canvas.stroke([(left, y), (width - 12.0, y)], 1.5, SHADE)
        canvas.stroke([(left + opens * scale, y), (left + closes * scale, y)], 9.0,
                      MARKS[served[number]] if served[number] else BODY_LIGHT)  # fmt: skip
    now = left + clock * scale
    canvas.stroke([(now, top - 6.0), (now, top + pitch * len(windows) + 4.0)], 2.5, ARROW)
    return canvas.image()


def draw_answers(features: NDArray[np.bool_], answers: Sequence[int], chances: Floats, left: int) -> Image:
    """Return a picture: items with their features, what was answered, and how likely each item is now.

    Args:
        features: [M, F] whether an item has a feature.
        answers: of each feature 1 for yes, -1 for no, 0 where it was not asked.
        chances: [M] of each item.
        left: questions that are left.
    """
    items, count = features.shape
    pitch, side, top = 20.0, 34.0, 58.0
    bars = side + pitch * count + 14.0
    width = max(bars + 120.0, 260.0)
    canvas = Canvas(int(width), int(top + pitch * items + 10.0), PAPER)
    write(canvas, 12.0, 10.0, f"questions left {left}", 10.0, INK)
    for number, answer in enumerate(answers):
        x = side + (number + 0.5) * pitch
        canvas.disc(x, 42.0, 9.0, MARKS[answer])
        if answer:
            write(canvas, x - 3.0, 37.5, "+" if answer > 0 else "-", 9.0, WHITE)
    for item in range(items):
        y = top + (item + 0.5) * pitch
        write(canvas, 10.0, y - 4.5, str(item), 9.0, INK)
        for number in range(count):
            canvas.disc(side + (number + 0.5) * pitch, y, 6.0, BODY if features[item, number] else SHADE)
        if chances[item] > 0.0:
            canvas.stroke([(bars, y), (bars + 96.0 * float(chances[item]), y)], 8.0, ARROW)
    return canvas.image()


def draw_ring(
    centres: Floats, paying: NDArray[np.bool_], radius: float, width: float, action: Point | None
) -> Image:
    """Return a picture: the ring with its modes, each out to 1 and 2 widths, and the point that was chosen.

    Args:
        centres: [K, 2] of the modes.
        paying: [K] whether a mode is an expert's.
        radius: of the ring.
        width: standard deviation of a mode.
        action: the last point; None: none is drawn.
    """
    edge = 12.0
    half = PLANE / 2.0
    canvas = Canvas(int(PLANE + 2.0 * edge), int(PLANE + 2.0 * edge), PAPER)

    def place(x: float, y: float) -> Point:
        return edge + half * (1.0 + x), edge + half * (1.0 - y)

    corners = [place(-1.0, -1.0), place(1.0, -1.0), place(1.0, 1.0), place(-1.0, 1.0)]
    canvas.polygon(corners, WHITE)
    canvas.disc(*place(0.0, 0.0), half * radius + 1.0, SHADE)
    canvas.disc(*place(0.0, 0.0), half * radius - 1.0, WHITE)
    for outer in (True, False):
        for (x, y), pays in zip(centres, paying, strict=True):
            strong, pale = (GREEN_LIGHT, GRASS) if pays else (BODY_LIGHT, SHADE)
            canvas.disc(*place(x, y), half * width * (2.0 if outer else 1.0), pale if outer else strong)
    if action is not None:
        canvas.disc(*place(*action), 6.0, WHITE)
        canvas.disc(*place(*action), 4.5, ARROW)
    return canvas.image()


def draw_lotteries(chances: Floats, values: Floats) -> Image:
    """Return a picture of lotteries, a row of columns each: how likely prizes are, the best on the right.

    Args:
        chances: [L, K] of each prize in each lottery.
        values: [K] what prizes are worth; red below 0, green from there on.
    """
    order = np.argsort(values, kind="stable")
    pitch, tall, edge = 48.0, 110.0, 14.0
    width = max(2.0 * edge + pitch * len(values), 140.0)
    canvas = Canvas(int(width), int((tall + 40.0) * len(chances) + edge), PAPER)
    for row, lottery in enumerate(chances):
        ground = (tall + 40.0) * row + tall + edge
        canvas.stroke([(edge, ground), (width - edge, ground)], 1.5, SHADE)
        for place, prize in enumerate(order):
            x = edge + (place + 0.5) * pitch
            colour = RED_LIGHT if values[prize] < 0.0 else GREEN_LIGHT
            top = ground - max(1.0, float(lottery[prize]) * tall)
            canvas.polygon([(x - 11.0, top), (x + 11.0, top), (x + 11.0, ground), (x - 11.0, ground)], colour)
            label = f"{values[prize]:+.2f}"
            write(canvas, x - text_width(label, 8.0) / 2.0, ground + 6.0, label, 8.0, INK)
    return canvas.image()
