"""Settings that check themselves."""

from __future__ import annotations

import dataclasses
import math
from typing import Any


def check_kinds(config: Any) -> None:
    """Check that the fields of a settings dataclass hold values of their kinds.

    Looks at fields annotated ``bool``, ``int`` and ``float``, the latter two also with ``| None``, and at
    tuples of ``int``.

    Raises:
        TypeError: for a value of another kind.
        ValueError: for a number that is NaN or infinite.
    """
    allowed: dict[str, tuple[type, ...]] = {"bool": (bool,), "int": (int,), "float": (int, float)}
    for field in dataclasses.fields(config):
        kind, _, optional = str(field.type).partition(" | ")
        value = getattr(config, field.name)
        if value is None and optional == "None":
            continue
        if kind.startswith("tuple[int"):  # a list, where it comes from JSON
            if not isinstance(value, (tuple, list)) or any(type(entry) is not int for entry in value):
                raise TypeError(f"{field.name} is {value!r}; it must be a tuple of whole numbers")
            continue
        if kind not in allowed:
            continue
        if not isinstance(value, allowed[kind]) or (isinstance(value, bool) and kind != "bool"):
            raise TypeError(f"{field.name} is {value!r}; it must be of type {kind}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{field.name} is {value}; it must be finite")
