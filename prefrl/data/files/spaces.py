"""Spaces as JSON: Discrete, Box, MultiBinary, and Dict of these."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from prefrl.data.datasets import DTYPES


def space_to_json(space: gym.Space[Any]) -> dict[str, Any]:
    """Describe a space in JSON (bounds may be infinite, which Python writes ``Infinity``).

    Raises:
        ValueError: for a space that is neither Discrete, Box, MultiBinary [n], nor a Dict of such.
    """
    if isinstance(space, gym.spaces.Discrete):
        return {"kind": "Discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, gym.spaces.Box):
        return {
            "kind": "Box",
            "low": space.low.tolist(),
            "high": space.high.tolist(),
            "dtype": str(space.dtype),
        }
    if isinstance(space, gym.spaces.MultiBinary) and isinstance(space.n, (int, np.integer)):
        return {"kind": "MultiBinary", "n": int(space.n)}
    if isinstance(space, gym.spaces.Dict):
        return {"kind": "Dict", "spaces": {name: space_to_json(part) for name, part in space.items()}}
    raise ValueError(f"{space} is not supported; allowed are Discrete, Box, MultiBinary and Dict spaces")


def space_from_json(description: Mapping[str, Any]) -> gym.Space[Any]:
    """Return the space that :func:`space_to_json` described.

    Raises:
        ValueError: if the description is none.
    """
    kind = description.get("kind") if isinstance(description, Mapping) else None
    try:
        if kind == "Discrete":
            return _discrete(description)
        if kind == "Box":
            return _box(description)
        if kind == "MultiBinary":
            return gym.spaces.MultiBinary(int(_discrete({"n": description["n"], "start": 0}).n))
        if kind == "Dict":
            return gym.spaces.Dict(
                {str(name): space_from_json(part) for name, part in description["spaces"].items()}
            )
    except (KeyError, TypeError, AttributeError, OverflowError, ValueError) as error:
        raise ValueError(f"{reprlib.repr(description)} describes no {kind} space: {error}") from error
    raise ValueError(f"{reprlib.repr(description)} describes no space; allowed are Discrete, Box, "
                     "MultiBinary and Dict")  # fmt: skip


def _discrete(description: Mapping[str, Any]) -> gym.spaces.Discrete:
    n, start = description["n"], description["start"]
    if type(n) is not int or type(start) is not int or not 1 <= n < 1 << 62 or abs(start) >= 1 << 62:
        raise ValueError("n must be a whole number of at least 1, start a whole number")
    return gym.spaces.Discrete(n, start=start)


def _box(description: Mapping[str, Any]) -> gym.Space[Any]:
    if description["dtype"] not in DTYPES:
        raise ValueError(f"its dtype must be one of {', '.join(DTYPES)}")
    dtype: Any = np.dtype(description["dtype"])
    low, high = (np.array(description[name]) for name in ("low", "high"))
    if low.shape != high.shape or math.prod(low.shape) == 0:
        raise ValueError(f"low has shape {low.shape}, high {high.shape}; they must agree and not be empty")
    if low.dtype.kind not in "biuf" or high.dtype.kind not in "biuf" or not (low <= high).all():
        raise ValueError("low and high must be numbers, and low at most high")
    return gym.spaces.Box(low.astype(dtype), high.astype(dtype), dtype=dtype)
