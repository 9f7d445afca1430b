"""Pictures of sequences: the choices so far, out of those there are."""

from __future__ import annotations

from collections.abc import Sequence

from .boards import INK, WHITE
from .scenes import BODY, GREEN_LIGHT, PAPER, RED_LIGHT, SHADE, STEEL
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


def draw_states(title: str, num_states: int, horizon: int, state: int, time: int) -> Image:
    """Return a picture: a column of states for each time, the one that is visited now marked.

    Args:
        title: what stands above it, in capitals.
        num_states: states; of more than 24 only the present one's number is written.
        horizon: steps until the end.
        state: the present one.
        time: steps so far.
    """
    pitch, top = 44.0, 34.0
    rows = num_states if num_states <= MAX_ROWS else 1
    width = max(pitch * (horizon + 1) + 12.0, text_width(title, 10.0) + 24.0)
    canvas = Canvas(int(width), int(top + pitch * rows + 8.0), PAPER)
    write(canvas, 12.0, 12.0, title, 10.0, INK)
    for step in range(horizon + 1):
        for row in range(rows):
            x, y = (step + 0.6) * pitch, top + (row + 0.5) * pitch
            here = step == time and row == state % rows
            canvas.disc(x, y, 16.0 if step >= time else 9.0, BODY if here else SHADE)
            label = "" if step < time else str(state if here else row) if here or rows > 1 else ""
            height = min(10.0, 26.0 * 10.0 / max(26.0, text_width(label, 10.0)))
            write(canvas, x - text_width(label, height) / 2.0, y - height / 2.0, label, height,
                  WHITE if here else INK)  # fmt: skip
    return canvas.image()


def draw_program(
    title: str, words: Sequence[str], depth: int, inputs: Sequence[int], wanted: Sequence[int],
    outputs: Sequence[int] | None,
) -> Image:  # fmt: skip
    """Return a picture: the words in their places, and below them a row of tests.

    Args:
        title: what the program is for.
        words: those so far.
        depth: places.
        inputs: of the tests.
        wanted: what is to come out.
        outputs: what comes out now; None: nothing, or the program is spoilt.
    """
    pitch, row = 52.0, 22.0
    columns = [text_width(str(max((*numbers, 0), key=lambda n: len(str(n)))), 10.0)
               for numbers in (inputs, wanted, outputs or ())]  # fmt: skip
    width = max(pitch * depth + 24.0, 3.0 * max(72.0, *columns) + 40.0)
    canvas = Canvas(int(width), int(104.0 + row * (len(inputs) + 1)), PAPER)
    write(canvas, 12.0, 12.0, title, 10.0, INK)
    for place in range(depth):
        left, there = 12.0 + place * pitch, place < len(words)
        box = [(left, 34.0), (left + 46.0, 34.0), (left + 46.0, 66.0), (left, 66.0)]
        canvas.polygon(box, BODY if there else SHADE)
        if there:
            write(canvas, left + 23.0 - text_width(words[place], 10.0) / 2.0, 45.0, words[place], 10.0, WHITE)
    shares = [12.0 + part * (width - 24.0) / 3.0 for part in range(3)]
    for x, label in zip(shares, ("x", "wanted", "program"), strict=True):
        write(canvas, x, 84.0, label, 10.0, STEEL)
    for test, (given, right) in enumerate(zip(inputs, wanted, strict=True)):
        y, found = 84.0 + row * (test + 1), None if outputs is None else outputs[test]
        write(canvas, shares[0], y, str(given), 10.0, INK)
        write(canvas, shares[1], y, str(right), 10.0, INK)
        colour = GREEN_LIGHT if found == right else RED_LIGHT
        write(canvas, shares[2], y, "-" if found is None else str(found), 10.0, colour)
    return canvas.image()
