"""Tables of comparisons: comma-separated text with a line for each answer, options and users by name.

``first,second,label`` are the columns, ``user`` and ``weight`` may be, in any order; others are left
alone. ``label`` is the probability that the SECOND option is preferred: 1, 0, .5 for a tie, or the share
of ``weight`` answers. Names are any text; 1 and 01 are two options.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prefrl.reading.errors import reading
from prefrl.reading.text import finite_number, read_text, table_of

NEEDED = ("first", "second", "label")
"""Columns that a table must have."""

MAY_HAVE = ("user", "weight")
"""Columns that it may have."""


@dataclass(frozen=True, eq=False)
class ComparisonTable:
    """N answers about K options by U users."""

    first: Tensor
    """[N] int64 place of the first option in ``option_names``."""
    second: Tensor
    """[N] int64 place of the second option, another one."""
    labels: Tensor
    """[N] float64 probability, or share of answers, that the SECOND is preferred, in [0, 1]."""
    weights: Tensor
    """[N] float64, positive: how many answers this is."""
    users: Tensor
    """[N] int64 place in ``user_names``."""
    option_names: tuple[str, ...]
    """Names of the options, in the order in which they come."""
    user_names: tuple[str, ...]
    """Names of the users; ``("unknown",)`` where there is no such column."""

    def __len__(self) -> int:
        return self.labels.shape[0]


def load_comparison_table(path: str | os.PathLike[str]) -> ComparisonTable:
    """Read a table of comparisons; see the module's text.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming the file, the line, what was found and what is allowed.
    """
    kind = "table of comparisons"
    text = read_text(path, kind)
    with reading(path, kind):
        return _table(table_of(text))


def _table(lines: Sequence[Sequence[str]]) -> ComparisonTable:
    """Return what lines say, the first of which names the columns."""
    if not lines:
        raise ValueError(f"it is empty; its first line must name the columns, as {','.join(NEEDED)}")
    names = [name.strip() for name in lines[0]]
    for name in (*NEEDED, *MAY_HAVE):
        if names.count(name) > 1:
            raise ValueError(f"its first line names the column {name!r} twice")
    missing = [name for name in NEEDED if name not in names]
    if missing:
        raise ValueError(f"its first line is {','.join(names)!r}, without {missing[0]!r}; it must name "
                         f"{', '.join(NEEDED)}, and may name {', '.join(MAY_HAVE)}")  # fmt: skip
    if len(lines) == 1:
        raise ValueError("it holds no comparison")
    place = {name: names.index(name) for name in (*NEEDED, *MAY_HAVE) if name in names}
    options: dict[str, int] = {}
    users: dict[str, int] = {} if "user" in place else {"unknown": 0}
    rows = []
    for row, line in enumerate(lines[1:], 1):
        if len(line) != len(names):
            raise ValueError(f"row {row} has {len(line)} entries; the first line names {len(names)}")
        cells = {name: line[at].strip() for name, at in place.items()}
        for name in ("first", "second", "user"):
            if cells.get(name) == "":
                raise ValueError(f"row {row} has no {name}")
        if cells["first"] == cells["second"]:
            raise ValueError(f"row {row} compares {cells['first']!r} with itself")
        label = finite_number(cells["label"], row, "label")
        if not 0.0 <= label <= 1.0:
            raise ValueError(f"row {row} has label {cells['label']}; a label is the probability that the "
                             "second is preferred, in 0 to 1")  # fmt: skip
        weight = finite_number(cells.get("weight", "1"), row, "weight")
        if weight <= 0.0:
            raise ValueError(f"row {row} has weight {cells['weight']}; a weight must be positive")
        rows.append((
            *(options.setdefault(cells[side], len(options)) for side in ("first", "second")),
            users.setdefault(cells.get("user", "unknown"), len(users)), label, weight,
        ))  # fmt: skip
    first, second, who = (torch.tensor([row[i] for row in rows], dtype=torch.int64) for i in range(3))
    labels, weights = (torch.tensor([row[i] for row in rows], dtype=torch.float64) for i in (3, 4))
    return ComparisonTable(first, second, labels, weights, who, tuple(options), tuple(users))
