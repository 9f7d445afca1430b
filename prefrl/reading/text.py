"""Text, JSON and tables: read whole, if they are not too long."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from pathlib import Path
from typing import Any

from .errors import reading

MAX_TEXT_BYTES = 1 << 26
"""Longest text, 64 MiB: as JSON it takes some twenty times as much memory."""

MAX_TABLE_BYTES = 1 << 28
"""Longest table, 256 MiB."""

MAX_DEPTH = 64
"""Deepest JSON: what walks through it calls itself."""


def read_text(path: str | os.PathLike[str], kind: str, most: int = MAX_TEXT_BYTES) -> str:
    """Return a file's text, which is UTF-8 whatever the file's name ends in; it may begin with a mark.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is longer than ``most`` bytes, or something else.
    """
    with reading(path, kind), Path(path).open("rb") as file:
        content = file.read(most + 1)
        if len(content) > most:
            raise ValueError(f"it has more than {most} bytes; a {kind} may have so many")
        return content.decode("utf-8-sig")


def finite_number(text: str, row: int, name: str) -> float:
    """Return the number in a cell of a table; ValueError that names the row and the column otherwise."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"row {row} has {name} {text!r}; it must be a finite number")
    return value


def parse_json(text: str) -> Any:
    """Return what a JSON text says; ValueError for one that is nested too deeply to be walked through."""
    content = json.loads(text)
    _check_depth(content, MAX_DEPTH)
    return content


def _check_depth(content: Any, left: int) -> None:
    if isinstance(content, (dict, list)):
        if left == 0:
            raise ValueError(f"its JSON is nested more than {MAX_DEPTH} deep")
        for entry in content.values() if isinstance(content, dict) else content:
            _check_depth(entry, left - 1)


def read_json(path: str | os.PathLike[str], kind: str = "JSON file") -> dict[str, Any]:
    """Return a JSON object; ValueError for anything else."""
    text = read_text(path, kind)
    with reading(path, kind):
        content = parse_json(text)
        if not isinstance(content, dict):
            raise ValueError("it must hold a JSON object")
        return content


def read_table(path: str | os.PathLike[str], kind: str) -> list[list[str]]:
    """Return the rows of a CSV file, without those that are empty.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no CSV file.
    """
    text = read_text(path, kind, MAX_TABLE_BYTES)
    with reading(path, kind):
        return table_of(text)


def table_of(text: str) -> list[list[str]]:
    """Return the rows of a CSV text, without those that are empty."""
    return [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row]
