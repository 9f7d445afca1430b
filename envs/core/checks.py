"""Arguments, options and actions, checked at the door."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

import gymnasium as gym
import numpy as np

from .backend import Array, State
from .dynamics import Dynamics

MAX_COUNT = (1 << 63) - 1
"""Largest number that arrays count to."""


def reject_unknown_options(options: Mapping[str, Any] | None, allowed: tuple[str, ...]) -> None:
    """Raise ValueError for reset options outside ``allowed``."""
    unknown = sorted(set(options or ()) - set(allowed))
    if unknown:
        raise ValueError(f"reset options {unknown} are unknown; allowed are {list(allowed)}")


def check_render_mode(render_mode: str | None, allowed: list[str]) -> None:
    """Raise ValueError unless ``render_mode`` is None or one of ``allowed``."""
    if render_mode is not None and render_mode not in allowed:
        raise ValueError(f"render_mode is {render_mode!r}; allowed are None and {allowed}")


def check_count(name: str, value: Any) -> int:
    """Return ``value``; raise ValueError unless it is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"{name} is {value!r}; it must be a whole number of at least 1")
    if value > MAX_COUNT:
        raise ValueError(f"{name} is a whole number beyond {MAX_COUNT}, the largest that can be counted to")
    return int(value)


def check_number(name: str, value: Any) -> float:
    """Return ``value``; raise ValueError unless it is a real number, NaN and infinity included."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise ValueError(f"{name} is {value!r}; it must be a number")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name} is a whole number beyond all floats; it must be a number") from None


def check_layout_seed(layout_seed: Any) -> int:
    """Return a seed; raise ValueError unless it is a whole number, not negative."""
    if isinstance(layout_seed, bool) or not isinstance(layout_seed, (int, np.integer)) or layout_seed < 0:
        raise ValueError(f"layout_seed is {layout_seed!r}; it must be a whole number, not negative")
    return int(layout_seed)


def check_seed(seed: Any, num_envs: int) -> int | list[int] | None:
    """Return the seed, or the seeds given for ``num_envs`` rows (None if there are none).

    Raises:
        ValueError: if a seed is no non-negative whole number, or there is not one entry per row.
    """
    several = isinstance(seed, (list, tuple))
    if several and len(seed) != num_envs:
        raise ValueError(f"seed has {len(seed)} entries; give one number, or one for each of {num_envs} rows")
    given = [s for s in (seed if several else [seed]) if s is not None]
    for s in given:
        if isinstance(s, bool) or not isinstance(s, (int, np.integer)) or s < 0:
            raise ValueError(f"seed is {s!r}; it must be a whole number, not negative")
    if not given:
        return None
    return [int(s) for s in given] if several else int(given[0])


def check_actions(dynamics: Dynamics, actions: Any, space: gym.Space[Any], name: str) -> Array:
    """Return actions as an array of the dynamics' backend: int64, or its float for continuous ones.

    On a device their values are trusted, since looking at them would wait for it.

    Raises:
        ValueError: if they have the wrong shape or kind of number, or lie outside ``space``.
    """
    backend, xp = dynamics.backend, dynamics.xp
    try:
        actions = backend.asarray(actions)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name} is no array of numbers: {error}") from error
    if tuple(actions.shape) != space.shape:
        raise ValueError(f"{name} has shape {tuple(actions.shape)}; this environment takes {space.shape}")
    whole = np.issubdtype(space.dtype, np.integer)
    wanted = xp.int64 if whole else backend.float_dtype
    allowed: Any = "integral" if whole else ("integral", "real floating")
    if isinstance(dynamics.single_action_space, gym.spaces.MultiBinary):
        allowed = ("bool", "integral", "real floating")  # SB3's policies give zeros and ones as floats
    if actions.dtype != wanted and not xp.isdtype(actions.dtype, allowed):
        kind = "whole numbers" if whole else "numbers"
        raise ValueError(f"{name} has dtype {actions.dtype}; this environment takes {kind}")
    cast = None if backend.on_device else actions.astype(space.dtype)
    if cast is not None and not (space.contains(cast) and (not whole or (cast == actions).all())):
        raise ValueError(f"{name} must lie in {space}; got {actions}")
    return actions if actions.dtype == wanted else xp.astype(actions, wanted, copy=False)


def restored_state(dynamics: Dynamics, state: Mapping[str, Any], n: int) -> State:
    """Return a saved state of ``n`` rows as arrays of the backend; ValueError for that of another world."""
    like = dynamics.initial(dynamics.reset_noise(dynamics.backend.random(0), n))
    given = {name: tuple(value.shape) for name, value in state.items()}
    wanted = {name: tuple(value.shape) for name, value in like.items()}
    if given != wanted:
        raise ValueError(f"state holds arrays of shapes {given}; this environment's are {wanted}")
    return {name: dynamics.backend.asarray(value) for name, value in state.items()}


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
