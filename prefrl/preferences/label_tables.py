"""Answers written down as a table: which segments were compared, and which was preferred."""

from __future__ import annotations

import math
import os

import torch

from prefrl.data import Preferences, Segments
from prefrl.reading.errors import reading
from prefrl.reading.text import read_table

COLUMNS = ("first", "second", "label")
"""Header of a table of labels."""


def read_label_table(path: str | os.PathLike[str], segments: Segments) -> Preferences:
    """Return comparisons of segments from a CSV file with the columns ``first,second,label``.

    ``first`` and ``second`` number the segments from 0; ``label`` is the probability that the second is
    preferred, 0.5 for a tie.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming the line that is wrong: a label of a segment that there is not, or no number.
    """
    lines = read_table(path, "table of labels")
    with reading(path, "table of labels"):
        return _label(path, lines, segments)


def _label(path: str | os.PathLike[str], lines: list[list[str]], segments: Segments) -> Preferences:
    """Return what the lines of a table say."""
    if not lines or tuple(name.strip() for name in lines[0]) != COLUMNS:
        begin = ",".join(lines[0]) if lines else ""
        raise ValueError(f"{path} begins with {begin!r}; it must begin with the header {','.join(COLUMNS)}")
    rows = [(n, _row(f"{path}, line {n}", line)) for n, line in enumerate(lines[1:], start=2) if line]
    if not rows:
        raise ValueError(f"{path} holds no labels")
    for number, row in rows:
        for place in row[:2]:
            if not 0 <= place < len(segments):
                raise ValueError(f"{path}, line {number} is of segment {int(place)}, which is missing: there "
                                 f"are {len(segments)} segments, numbered from 0")  # fmt: skip
    first, second = ([int(row[side]) for _, row in rows] for side in (0, 1))
    return label_segments(segments, first, second, [row[2] for _, row in rows])


def _row(where: str, line: list[str]) -> tuple[float, float, float]:
    try:
        first, second, label = (float(entry) for entry in line)
    except ValueError:
        raise ValueError(
            f"{where} is {','.join(line)!r}; it must be two numbers of segments and a label"
        ) from None
    if not (first.is_integer() and second.is_integer() and math.isfinite(label)):
        raise ValueError(f"{where} is {','.join(line)!r}; segments are whole numbers, labels finite")
    return first, second, label


def label_segments(
    segments: Segments, first: list[int], second: list[int], labels: list[float]
) -> Preferences:
    """Return comparisons of segments by their numbers.

    Raises:
        ValueError: if the lists differ in length, or a label is of a segment that there is not.
    """
    if not len(first) == len(second) == len(labels):
        raise ValueError(
            f"there are {len(first)} first and {len(second)} second segments, and {len(labels)} labels"
        )
    for row, pair in enumerate(zip(first, second, strict=True)):
        for place in pair:
            if not 0 <= place < len(segments):
                raise ValueError(f"label {row} is of segment {place}, which is missing: there are "
                                 f"{len(segments)} segments, numbered from 0")  # fmt: skip
    places = [torch.tensor(side) for side in (first, second)]
    return Preferences.from_labels(segments[places[0]], segments[places[1]], torch.tensor(labels))
