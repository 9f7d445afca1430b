"""What benchmarks share: how long a call takes, and how measurements spread."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any


def seconds(function: Callable[[], Any]) -> float:
    """Return how long a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def clocked(function: Callable[[], Any]) -> tuple[float, float, Any]:
    """Return the seconds of a call on the clock and of the processor, and what it returns."""
    wall, processor = time.perf_counter(), time.process_time()
    found = function()
    return time.perf_counter() - wall, time.process_time() - processor, found


def spread(values: list[float]) -> dict[str, float]:
    """Return median, minimum and maximum."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}
