"""Spaces as JSON: Discrete, MultiDiscrete, MultiBinary, Box, and Dict of these."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from prefrl.reading.npy import DTYPES

KINDS = "Discrete, MultiDiscrete, MultiBinary, Box and Dict"

LARGEST = 1 << 26
"""Most entries of a MultiBinary space that a file may describe."""


def space_to_json(space: gym.Space[Any]) -> dict[str, Any]:
    """Describe a space in JSON (bounds may be infinite, which Python writes ``Infinity``).

    Raises:
        ValueError: for another space.
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
    if isinstance(space, gym.spaces.MultiBinary):
        return {"kind": "MultiBinary", "n": space.shape[0] if len(space.shape) == 1 else list(space.shape)}
    if isinstance(space, gym.spaces.MultiDiscrete):
        return {"kind": "MultiDiscrete", "nvec": space.nvec.tolist(), "start": space.start.tolist(),
                "dtype": str(space.dtype)}  # fmt: skip
    if isinstance(space, gym.spaces.Dict):
        return {"kind": "Dict", "spaces": {name: space_to_json(part) for name, part in space.items()}}
    raise ValueError(f"{space} is not supported; allowed are {KINDS} spaces")


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
            shape = description["n"] if isinstance(description["n"], list) else [description["n"]]
            sizes = [int(_discrete({"n": n, "start": 0}).n) for n in shape]
            if math.prod(sizes) > LARGEST:
                raise ValueError(f"it has {math.prod(sizes)} entries; allowed are {LARGEST}")
            return gym.spaces.MultiBinary(sizes[0] if len(sizes) == 1 else sizes)
        if kind == "MultiDiscrete":
            return _multi_discrete(description)
        if kind == "Dict":
            return gym.spaces.Dict(
                {str(name): space_from_json(part) for name, part in description["spaces"].items()}
            )
    except (KeyError, TypeError, AttributeError, OverflowError, ValueError) as error:
        raise ValueError(f"{reprlib.repr(description)} describes no {kind} space: {error}") from error
    raise ValueError(f"{reprlib.repr(description)} describes no space; allowed are {KINDS}")


def _discrete(description: Mapping[str, Any]) -> gym.spaces.Discrete:
    n, start = description["n"], description["start"]
    if type(n) is not int or type(start) is not int or not 1 <= n < 1 << 62 or abs(start) >= 1 << 62:
        raise ValueError("n must be a whole number of at least 1, start a whole number")
    return gym.spaces.Discrete(n, start=start)


def _multi_discrete(description: Mapping[str, Any]) -> gym.Space[Any]:
    nvec, start = (np.array(description[name]) for name in ("nvec", "start"))
    if nvec.shape != start.shape or not nvec.size or nvec.dtype.kind != "i" or start.dtype.kind != "i":
        raise ValueError("nvec and start must be whole numbers, as many of one as of the other")
    if (nvec < 1).any() or (nvec >= 1 << 31).any() or (abs(start) >= 1 << 31).any():
        raise ValueError("nvec must be at least 1 each, and below 2^31 as the start")
    if description["dtype"] not in ("int32", "int64"):
        raise ValueError("its dtype must be int32 or int64")
    dtype: Any = np.dtype(description["dtype"])
    return gym.spaces.MultiDiscrete(nvec.astype(dtype), dtype=dtype, start=start.astype(dtype))


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
