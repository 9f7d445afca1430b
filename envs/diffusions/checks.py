"""Arguments of diffusions, checked at the door."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from prefrl.envs.core.checks import check_number

Floats = NDArray[np.float64]

PLENTY = 100_000
"""Most steps of an episode; more would be a mistake of units."""


def check_between(name: str, value: Any, low: float, high: float, *, closed: bool = False) -> float:
    """Return ``value``; raise ValueError unless it is a number in (low, high), or [low, high) if closed."""
    number = check_number(name, value)
    if low < number < high or (closed and number == low):
        return number
    bounds = f"{'[' if closed else '('}{low:g}, {high:g})"
    raise ValueError(f"{name} is {value!r}; it must lie in {bounds}")


def check_time(name: str, value: Any) -> float:
    """Return ``value``; raise ValueError unless it is a length of time of which steps can be counted."""
    return check_between(name, value, 1e-12, 1e12)


def check_vector(name: str, value: Any, size: int) -> Floats:
    """Return ``value`` as [size], a single number repeated; raise ValueError unless it is finite."""
    array = check_array(name, value)
    if array.shape not in ((), (size,)):
        raise ValueError(f"{name} has shape {array.shape}; give one number, or {size}")
    return np.array(np.broadcast_to(array, (size,)))


def check_array(name: str, value: Any) -> Floats:
    """Return ``value`` as a float64 array; raise ValueError unless it holds finite numbers only."""
    try:
        array = np.asarray(value)
        if array.dtype.kind not in "iuf":
            raise TypeError(f"its entries are of type {array.dtype}")
        array = array.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} is {value!r}; it must hold numbers: {error}") from error
    if not np.isfinite(array).all():
        raise ValueError(f"{name} is {value!r}; its numbers must be finite")
    return array


def whole_steps(time: float, dt: float, name: str = "T") -> int:
    """Return time / dt; raise ValueError unless it is a whole number of steps, not too many."""
    steps = round(time / dt)
    if steps < 1 or abs(steps * dt - time) > 1e-9 * time:
        raise ValueError(f"{name} is {time:g} and dt {dt:g}; it must be a whole number of steps")
    if steps > PLENTY:
        raise ValueError(f"{name} / dt is {steps}; an episode must not have more than {PLENTY} steps")
    return steps


def check_discounted(beta: float, least: float, why: str) -> None:
    """Raise ValueError unless beta exceeds ``least``; ``why`` is the condition in symbols."""
    if not beta > least:
        raise ValueError(f"beta is {beta:g}; it must exceed {why} = {least:g}, or the value is infinite")
