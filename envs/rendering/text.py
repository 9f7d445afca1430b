"""Words on pictures: capital letters, digits and some signs, written in strokes.

No font has to be there, and the package ships none. A glyph is polylines on a grid of 4 by 6, each point two
digits, x and y, with y down.
"""

from __future__ import annotations

import math
from functools import lru_cache

from .shapes import Canvas, Floats
from .tiles import Colour

GLYPHS = {
    "A": "06 02 20 42 46,04 44", "B": "06 00 30 41 42 33 03,33 44 45 36 06", "C": "41 30 10 01 05 16 36 45",
    "D": "00 20 42 44 26 06 00", "E": "40 00 06 46,03 33", "F": "40 00 06,03 33",
    "G": "41 30 10 01 05 16 36 45 43 23", "H": "00 06,40 46,03 43", "I": "10 30,20 26,16 36",
    "J": "40 45 36 16 05", "K": "00 06,40 03 46", "L": "00 06 46", "M": "06 00 23 40 46", "N": "06 00 46 40",
    "O": "10 30 41 45 36 16 05 01 10", "P": "06 00 30 41 42 33 03",
    "Q": "10 30 41 45 36 16 05 01 10,24 46", "R": "06 00 30 41 42 33 03,23 46",
    "S": "41 30 10 01 02 13 33 44 45 36 16 05", "T": "00 40,20 26", "U": "00 05 16 36 45 40", "V": "00 26 40",
    "W": "00 16 23 36 40", "X": "00 46,40 06", "Y": "00 23 40,23 26", "Z": "00 40 06 46",
    "0": "10 30 41 45 36 16 05 01 10", "1": "11 20 26,16 36", "2": "01 10 30 41 42 06 46",
    "3": "01 10 30 41 42 33 44 45 36 16 05,13 33", "4": "36 30 04 44", "5": "40 00 03 33 44 45 36 16 05",
    "6": "30 10 01 05 16 36 45 44 33 03", "7": "00 40 16",
    "8": "13 02 01 10 30 41 42 33 13 04 05 16 36 45 44 33", "9": "43 13 02 01 10 30 41 45 36 16",
    "+": "21 25,03 43", "-": "03 43", ".": "26 26", ",": "25 17", ":": "22 22,25 25", "/": "40 06",
    "(": "30 11 15 36", ")": "10 31 35 16", "=": "02 42,04 44", "%": "40 06,00 00,46 46", " ": "",
}  # fmt: skip

LOWEST = 7.0
"""Where the deepest stroke ends, that of a comma."""

ADVANCE = 6.0
"""From one glyph to the next, in steps of the grid."""


def text_width(text: str, height: float) -> float:
    """Return the pixels that a text takes in capitals of ``height`` pixels."""
    return max(0.0, len(text) * ADVANCE - 2.0) * height / 6.0


def write(canvas: Canvas, x: float, y: float, text: str, height: float, colour: Colour) -> None:
    """Write a text, in capitals, whose upper left corner is at (x, y); signs without a glyph are left out.

    Args:
        canvas: what to write on.
        x: pixels.
        y: pixels.
        text: one line.
        height: of the capitals, in pixels.
        colour: of the strokes.
    """
    pitch = ADVANCE * height / 6.0
    row = math.floor(y)
    for place, letter in enumerate(text.upper()):
        left = x + place * pitch
        column = math.floor(left)
        if strokes := GLYPHS.get(letter):
            edge, cover = _glyph(strokes, height, left - column, y - row)
            canvas.stamp(column - edge, row - edge, cover, colour)


@lru_cache(maxsize=4096)
def _glyph(strokes: str, height: float, left: float, top: float) -> tuple[int, Floats]:
    """Return how much a glyph covers of the pixels around it, and how many of them are left of it and above.

    Most of what is written is written again at the next picture, at the same place.
    """
    step, width = height / 6.0, max(1.1, 0.14 * height)
    edge = math.ceil(width / 2.0) + 1
    paper = Canvas(2 * edge + math.ceil(4.0 * step) + 1, 2 * edge + math.ceil(LOWEST * step) + 1, (0, 0, 0))
    for stroke in strokes.split(","):
        points = [(edge + left + int(at[0]) * step, edge + top + int(at[1]) * step) for at in stroke.split()]
        paper.stroke(points, width, (1, 1, 1))
    cover = paper.layer(0)
    cover.flags.writeable = False
    return edge, cover
