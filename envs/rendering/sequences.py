"""Pictures of sequences: the choices so far, out of those there are."""

from __future__ import annotations

from collections.abc import Sequence

from .boards import INK, WHITE
from .scenes import BODY, PAPER, SHADE
from .shapes import Canvas
from .text import text_width, write
from .tiles import Image

MAX_ROWS = 24
"""Choices drawn one below the other; where there are more, only the number of the one taken is."""


def draw_sequence(title: str, tokens: Sequence[int], vocabulary: int, depth: int) -> Image:
    """Return a picture: a column for each choice, its options below each other, those taken joined.

    Args:
        title: what the sequence follows, in capitals.
        tokens: choices so far.
        vocabulary: options of each choice.
        depth: choices until the end.
    """
    pitch, top = 44.0, 34.0
    rows = vocabulary if vocabulary <= MAX_ROWS else 1
    width = max(pitch * (depth + 1), text_width(title, 10.0) + 24.0)
    canvas = Canvas(int(width), int(top + pitch * rows + 8.0), PAPER)
    write(canvas, 12.0, 12.0, title, 10.0, INK)

    def place(step: int, token: int) -> tuple[float, float]:
        return (step + 1.0) * pitch, top + (token % rows + 0.5) * pitch

    path = [(14.0, top + rows * pitch / 2.0), *(place(step, token) for step, token in enumerate(tokens))]
    canvas.disc(*path[0], 7.0, BODY)
    if tokens:
        canvas.stroke(path, 5.0, BODY)
    for step in range(depth):
        taken = tokens[step] if step < len(tokens) else None
        for row in range(rows):
            x, y = place(step, row)
            chosen = taken is not None and taken % rows == row
            canvas.disc(x, y, 16.0, BODY if chosen else SHADE)
            label = str(row if rows == vocabulary else "" if taken is None else taken)
            height = min(10.0, 26.0 * 10.0 / max(26.0, text_width(label, 10.0)))
            left = x - text_width(label, height) / 2.0
            write(canvas, left, y - height / 2.0, label, height, WHITE if chosen else INK)
    return canvas.image()
