"""Pictures of the classic control problems, of budgets, of diffusions, and of traffic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .boards import BARRIER, FINISH, FINISH_EDGE, GRASS, GRASS_EDGE, INK, WHITE
from .shapes import Canvas, Point
from .text import text_width, write
from .tiles import Colour, Image

PAPER: Colour = (247, 248, 250)
SKY: Colour = (226, 239, 248)
RAIL: Colour = (176, 182, 190)
SHADE: Colour = (222, 226, 231)
BODY: Colour = (36, 104, 196)
BODY_LIGHT: Colour = (96, 156, 230)
WOOD: Colour = (214, 150, 84)
WOOD_DARK: Colour = (160, 100, 46)
STEEL: Colour = (120, 128, 140)
ARROW: Colour = (234, 92, 40)
GREEN_LIGHT: Colour = (40, 168, 84)
RED_LIGHT: Colour = (214, 48, 44)


def _arrow(canvas: Canvas, points: list[Point], width: float) -> None:
    """Paint a line through the points with a head at its end."""
    canvas.stroke(points, width, ARROW)
    (x0, y0), (x1, y1) = points[-2], points[-1]
    length = max(math.hypot(x1 - x0, y1 - y0), 1e-9)
    dx, dy = (x1 - x0) / length, (y1 - y0) / length
    size = 2.6 * width
    head = [(x1 + 1.6 * size * dx, y1 + 1.6 * size * dy), (x1 - size * dy, y1 + size * dx),
            (x1 + size * dy, y1 - size * dx)]  # fmt: skip
    canvas.polygon(head, ARROW)


def _arc_arrow(canvas: Canvas, centre: Point, radius: float, middle: float, turn: float) -> None:
    """Paint an arrow round a centre over the angle ``turn``, in rad, counter-clockwise on the screen."""
    angles = np.linspace(middle - turn / 2.0, middle + turn / 2.0, 24)
    x, y = centre
    points = [(x + radius * math.cos(a), y - radius * math.sin(a)) for a in angles]
    _arrow(canvas, points, 5.0)


@lru_cache(maxsize=1)
def _track(rail: float) -> Canvas:
    """Return what a cart rolls on, which is copied for every picture."""
    canvas, ends = Canvas(600, 400, PAPER), (30.0, 570.0)
    canvas.stroke([(ends[0], rail), (ends[1], rail)], 6.0, RAIL)
    for end in ends:
        canvas.stroke([(end, rail - 22.0), (end, rail + 14.0)], 8.0, STEEL)
    canvas.stroke([(300.0, rail + 12.0), (300.0, rail + 24.0)], 3.0, RAIL)
    return canvas


def draw_cart_pole(x: float, theta: float, push: int, x_limit: float) -> Image:
    """Draw the cart at ``x`` with its pole at ``theta`` from upright.

    Args:
        x: metres from the middle.
        theta: rad, positive to the right.
        push: -1, 0 or 1: direction of the arrow, none for 0.
        x_limit: metres at which the track ends.

    Returns:
        A picture [400, 600, rgb].
    """
    rail, scale = 320.0, 270.0 / x_limit
    canvas = _track(rail).copy()
    middle, top = 300.0 + scale * x, rail - 46.0
    left, right = middle - 44.0, middle + 44.0
    body = [(left, top), (right, top), (right, rail - 14.0), (left, rail - 14.0)]
    canvas.polygon(body, BODY, rounding=4.0)
    canvas.stroke([(left + 4.0, top + 5.0), (right - 4.0, top + 5.0)], 5.0, BODY_LIGHT)
    for wheel in (middle - 26.0, middle + 26.0):
        canvas.disc(wheel, rail - 11.0, 11.0, INK)
        canvas.disc(wheel, rail - 11.0, 4.5, RAIL)
    hinge = (middle, top + 2.0)  # the pole is drawn longer than it is, to be seen better
    tip = (middle + scale * 1.7 * math.sin(theta), hinge[1] - scale * 1.7 * math.cos(theta))
    canvas.stroke([hinge, tip], 15.0, WOOD_DARK)
    canvas.stroke([hinge, tip], 11.0, WOOD)
    canvas.disc(*hinge, 8.0, INK)
    canvas.disc(*hinge, 4.0, WHITE)
    if push:
        start = middle + push * 58.0
        _arrow(canvas, [(start, rail - 28.0), (start + push * 26.0, rail - 28.0)], 5.0)
    return canvas.image()


def _surface(place: float, scale: float) -> float:
    """Return how far down the ground lies, in pixels."""
    return 235.0 - 0.42 * scale * math.sin(3.0 * place)


@lru_cache(maxsize=8)
def _valley(goal: float, low: float, high: float) -> Canvas:
    """Return the landscape that a car drives in, which is copied for every picture."""
    canvas, scale = Canvas(600, 400, SKY), 600.0 / (high - low)
    columns = low + (np.arange(600) + 0.5) / scale
    level = 235.0 - 0.42 * scale * np.sin(3.0 * columns)
    steepness = np.hypot(1.0, 3.0 * 0.42 * np.cos(3.0 * columns))  # makes the turf equally thick everywhere
    canvas.ground(level - 3.5 * steepness, GRASS_EDGE)
    canvas.ground(level + 3.5 * steepness, GRASS)
    foot_x, foot_y = (goal - low) * scale, _surface(goal, scale)
    canvas.stroke([(foot_x, foot_y), (foot_x, foot_y - 62.0)], 5.0, INK)
    flag = [(foot_x - 2.0, foot_y - 62.0), (foot_x - 38.0, foot_y - 49.0), (foot_x - 2.0, foot_y - 36.0)]
    canvas.polygon(flag, FINISH_EDGE, rounding=1.5)
    canvas.polygon(flag, FINISH, rounding=-1.0)
    return canvas


def draw_mountain_car(position: float, goal: float, low: float, high: float) -> Image:
    """Draw the car in its valley, whose hill is sin(3 position).

    Args:
        position: where the car stands.
        goal: where the flag stands.
        low: position at the left edge of the picture.
        high: position at the right edge.

    Returns:
        A picture [400, 600, rgb].
    """
    canvas, scale = _valley(goal, low, high).copy(), 600.0 / (high - low)
    x, y = (position - low) * scale, _surface(position, scale)
    slope = math.atan2(-3.0 * 0.42 * math.cos(3.0 * position), 1.0)  # on the screen, where y points down
    along, up = (math.cos(slope), math.sin(slope)), (math.sin(slope), -math.cos(slope))

    def car(forward: float, above: float) -> Point:
        return x + forward * along[0] + above * up[0], y + forward * along[1] + above * up[1]

    canvas.polygon([car(-13, 24), car(-8, 40), car(9, 40), car(17, 24)], BODY_LIGHT, rounding=2.0)
    canvas.polygon([car(-30, 14), car(-28, 26), car(26, 26), car(31, 20), car(31, 14)], BODY, rounding=3.0)
    for wheel in (-18.0, 18.0):
        canvas.disc(*car(wheel, 12.0), 9.5, INK)
        canvas.disc(*car(wheel, 12.0), 4.0, RAIL)
    return canvas.image()


@lru_cache(maxsize=1)
def _dial() -> Canvas:
    """Return what a pendulum swings before, which is copied for every picture."""
    canvas = Canvas(500, 500, PAPER)
    canvas.disc(250.0, 250.0, 200.0, SHADE)
    canvas.disc(250.0, 250.0, 197.0, WHITE)
    canvas.stroke([(250.0, 40.0), (250.0, 62.0)], 5.0, FINISH)
    return canvas


def draw_pendulum(theta: float, torque: float) -> Image:
    """Draw the rod at ``theta`` from upright, counter-clockwise.

    Args:
        theta: rad.
        torque: -1 to 1: sense and length of the arrow, none for 0.

    Returns:
        A picture [500, 500, rgb].
    """
    canvas = _dial().copy()
    centre, length = (250.0, 250.0), 178.0
    tip = (250.0 - length * math.sin(theta), 250.0 - length * math.cos(theta))
    canvas.stroke([centre, tip], 36.0, WOOD_DARK)
    canvas.stroke([centre, tip], 30.0, WOOD)
    canvas.disc(*centre, 12.0, INK)
    canvas.disc(*centre, 5.0, WHITE)
    if abs(torque) > 0.02:
        _arc_arrow(
            canvas, centre, 62.0, theta - math.pi / 2.0, math.copysign(0.3 + 2.0 * abs(torque), torque)
        )
    return canvas.image()


@lru_cache(maxsize=1)
def _bar(height: float, goal: float) -> Canvas:
    """Return what an acrobot hangs from, and the line that it is to reach."""
    canvas = Canvas(500, 500, PAPER)
    for start in range(14, 490, 28):
        canvas.stroke([(float(start), goal), (start + 14.0, goal)], 3.0, FINISH)
    canvas.stroke([(150.0, height), (350.0, height)], 5.0, RAIL)
    return canvas


def draw_acrobot(theta1: float, theta2: float, torque: int) -> Image:
    """Draw both links, hanging from the middle of the picture.

    Args:
        theta1: rad of the first link from hanging down, counter-clockwise.
        theta2: rad of the second link from the first one's direction.
        torque: -1, 0 or 1: sense of the arrow at the joint, none for 0.

    Returns:
        A picture [500, 500, rgb].
    """
    bar, length = (250.0, 250.0), 108.0
    canvas = _bar(bar[1], bar[1] - length).copy()
    angle = theta1 + theta2
    elbow = (bar[0] + length * math.sin(theta1), bar[1] + length * math.cos(theta1))
    hand = (elbow[0] + length * math.sin(angle), elbow[1] + length * math.cos(angle))
    for start_point, end_point, light, dark in (
        (bar, elbow, BODY_LIGHT, BODY),
        (elbow, hand, WOOD, WOOD_DARK),
    ):
        canvas.stroke([start_point, end_point], 26.0, dark)
        canvas.stroke([start_point, end_point], 20.0, light)
    for joint in (bar, elbow):
        canvas.disc(*joint, 9.0, INK)
        canvas.disc(*joint, 4.0, WHITE)
    if torque:
        _arc_arrow(canvas, elbow, 36.0, angle - math.pi / 2.0, torque * 2.2)
    return canvas.image()


TROUGHS = (40.0, 500.0, 50.0, 350.0)
"""Left, right, top and bottom of where budgets are drawn, in pixels."""


def _spans(count: int) -> list[tuple[float, float]]:
    """Return where each of so many bars begins and ends."""
    left, right, _, _ = TROUGHS
    pitch = (right - left) / count
    half = min(0.7 * pitch, 90.0) / 2.0
    return [(left + (bar + 0.5) * pitch - half, left + (bar + 0.5) * pitch + half) for bar in range(count)]


@lru_cache(maxsize=16)
def _troughs(count: int) -> Canvas:
    """Return what so many budgets stand in, and what the signs mean; it is copied for every picture."""
    canvas = Canvas(600, 400, PAPER)
    left, _, top, bottom = TROUGHS
    for x0, x1 in _spans(count):
        canvas.polygon([(x0, top), (x1, top), (x1, bottom), (x0, bottom)], SHADE, 4.0)
    canvas.polygon([(left, 14.0), (left + 14.0, 14.0), (left + 14.0, 24.0), (left, 24.0)], BODY)
    write(canvas, left + 22.0, 15.0, "budget left", 8.0, INK)
    canvas.stroke([(left + 150.0, 19.0), (left + 170.0, 19.0)], 3.0, ARROW)
    write(canvas, left + 180.0, 15.0, "left if spent evenly", 8.0, INK)
    return canvas


def draw_budgets(remaining: NDArray[np.float64], time: float, served: bool, rejected: bool) -> Image:
    """Draw a bar per budget, the share that even spending would leave, and how the last request fared.

    Args:
        remaining: [m] share of each budget that is left; of more than 16 budgets, 16 from all over are drawn.
        time: share of the requests that are gone.
        served: whether the last request consumed anything: a green dot, else a grey one (declined).
        rejected: whether a budget did not suffice for it: a red dot.

    Returns:
        A picture [400, 600, rgb].
    """
    shown = remaining[np.linspace(0, len(remaining) - 1, min(len(remaining), 16)).astype(int)]
    canvas = _troughs(len(shown)).copy()
    left, right, top, bottom = TROUGHS
    for (x0, x1), share in zip(_spans(len(shown)), shown, strict=True):
        level = bottom - float(share) * (bottom - top)
        if share > 0.0:
            canvas.polygon([(x0, level), (x1, level), (x1, bottom), (x0, bottom)], BODY)
    even = bottom - (1.0 - time) * (bottom - top)
    canvas.stroke([(left - 12.0, even), (right + 12.0, even)], 3.0, ARROW)
    fate, colour = (
        ("rejected", BARRIER) if rejected else ("served", FINISH) if served else ("declined", STEEL)
    )
    canvas.disc(552.0, 190.0, 22.0, colour)
    write(canvas, 552.0 - text_width(fate, 8.0) / 2.0, 224.0, fate, 8.0, INK)
    _bar_of_time(canvas, left, right, 372.0, time, "requests gone")
    return canvas.image()


AXES = (60.0, 540.0, 30.0, 340.0)
"""Left, right, top and bottom of what the axes of a diffusion span, in pixels."""


def ticks(low: float, high: float, most: int = 7) -> list[float]:
    """Return round numbers from ``low`` to ``high``, at most so many, evenly spaced."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(size * power for size in (1.0, 2.0, 5.0, 10.0) if size * power >= rough)
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


@lru_cache(maxsize=16)
def _axes(low: float, high: float, plane: bool) -> Canvas:
    """Return the axis that a diffusion moves on, or both, which are copied for every picture."""
    canvas = Canvas(600, 400, PAPER)
    left, right, top, bottom = AXES
    canvas.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], WHITE, 6.0)
    for number in ticks(low, high):
        share, label, shade = (number - low) / (high - low), f"{number:g}", RAIL if number == 0.0 else SHADE
        x, y = left + share * (right - left), bottom - share * (bottom - top)
        canvas.stroke([(left, y), (right, y)], 1.5, shade)
        write(canvas, left - 12.0 - text_width(label, 8.0), y - 4.0, label, 8.0, INK)
        if plane:
            canvas.stroke([(x, top), (x, bottom)], 1.5, shade)
            write(canvas, x - text_width(label, 8.0) / 2.0, bottom + 10.0, label, 8.0, INK)
    write(canvas, left - 24.0, top - 20.0, "X2" if plane else "X", 10.0, INK)
    if plane:
        write(canvas, right + 12.0, bottom + 8.0, "X1", 10.0, INK)
    return canvas


def draw_diffusion(
    x: Sequence[float], span: tuple[float, float], action: float | None, gone: float | None
) -> Image:
    """Draw a dot on a vertical axis, or in the plane, the last action as an arrow, and the time gone.

    Args:
        x: one or two coordinates; beyond what is shown the dot stays at the edge.
        span: lowest and highest number that the axes show.
        action: its first number, which the arrow's length follows up to a limit; None: no arrow.
        gone: share of the horizon that is gone; None: there is none.

    Returns:
        A picture [400, 600, rgb].
    """
    plane, (low, high) = len(x) == 2, span
    canvas = _axes(low, high, plane).copy()
    left, right, top, bottom = AXES

    def across(number: float) -> float:
        return left + min(max((number - low) / (high - low), 0.0), 1.0) * (right - left)

    def up(number: float) -> float:
        return bottom - min(max((number - low) / (high - low), 0.0), 1.0) * (bottom - top)

    place = (across(x[0]), up(x[1])) if plane else (300.0, up(x[0]))
    if not plane:
        canvas.stroke([(place[0], top), (place[0], bottom)], 2.0, RAIL)
    canvas.disc(*place, 13.0, BODY)
    canvas.disc(*place, 6.0, BODY_LIGHT)
    if action is not None and abs(action) > 0.01:
        start = (place[0] + 28.0, place[1])
        end = place[1] - math.copysign(18.0 + 60.0 * (1.0 - math.exp(-abs(action))), action)
        _arrow(canvas, [start, (start[0], end)], 5.0)
        write(canvas, right - 190.0, top - 20.0, f"arrow: action {action:.2f}", 9.0, ARROW)
    if gone is not None:
        _bar_of_time(canvas, left, right, 372.0, gone, "time gone")
    return canvas.image()


def _bar_of_time(canvas: Canvas, left: float, right: float, top: float, gone: float, label: str) -> None:
    """Paint a bar of which a share is filled, and what it is below."""
    for end, colour in ((right, SHADE), (left + gone * (right - left), STEEL)):
        if end > left:
            corners = [(left, top), (end, top), (end, top + 6.0), (left, top + 6.0)]
            canvas.polygon(corners, colour, 2.0)
    write(canvas, left, top + 12.0, label, 8.0, INK)


def draw_traffic(queue: NDArray[np.float64], east_west: NDArray[np.bool_]) -> Image:
    """Return a picture of crossings with their lights, and a dot for every vehicle that waits.

    Args:
        queue: [rows, columns, 4] vehicles from north, south, west and east.
        east_west: [rows, columns] whether west and east have green.
    """
    rows, columns = east_west.shape
    block, street, lane, gap = 120.0, 34.0, 8.5, 7.0
    canvas = Canvas(int(columns * block), int(rows * block), GRASS)
    for row in range(rows):
        y = (row + 0.5) * block
        canvas.stroke([(0.0, y), (columns * block, y)], street, SHADE)
    for column in range(columns):
        x = (column + 0.5) * block
        canvas.stroke([(x, 0.0), (x, rows * block)], street, SHADE)
    for row, column in np.ndindex(rows, columns):
        x, y = (column + 0.5) * block, (row + 0.5) * block
        # Where vehicles from each approach wait: (across, along) the street, on the right-hand side.
        waits = (((-lane, -1.0), True), ((lane, 1.0), True), ((lane, -1.0), False), ((-lane, 1.0), False))
        for approach, ((across, away), vertical) in enumerate(waits):
            green = bool(east_west[row, column]) != vertical
            edge = away * (street / 2.0 + 4.0)
            for i in range(min(int(queue[row, column, approach]), 8)):
                along = edge + away * gap * (i + 0.6)
                place = (x + across, y + along) if vertical else (x + along, y + across)
                canvas.disc(*place, 3.0, BODY)
            light = (x + across, y + edge * 0.8) if vertical else (x + edge * 0.8, y + across)
            canvas.disc(*light, 4.2, GREEN_LIGHT if green else RED_LIGHT)
    return canvas.image()
