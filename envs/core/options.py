"""Reset options that are numbers, checked at the door."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

from .dynamics import reject_unknown_options


def number_option(options: Mapping[str, Any] | None, name: str, default: float) -> float:
    """Return ``options[name]``, or the default where it is not given.

    Raises:
        ValueError: if it is no finite real number.
    """
    value = (options or {}).get(name, default)
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise ValueError(f"{name} is {value!r}; it must be a finite number")
    return float(value)


def reset_bounds(options: Mapping[str, Any] | None, low: float, high: float) -> tuple[float, float]:
    """Return the range of start states, ``options["low"]`` to ``options["high"]`` where these are given.

    Raises:
        ValueError: for other options, and if these are no finite numbers or low exceeds high.
    """
    reject_unknown_options(options, ("low", "high"))
    low, high = number_option(options, "low", low), number_option(options, "high", high)
    if low > high:
        raise ValueError(f"low is {low}, above high {high}; starts are drawn from [low, high]")
    return low, high
