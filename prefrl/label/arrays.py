"""What a labelling study keeps that is large: segments, and films of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prefrl.reading.npy import DTYPES

ARRAYS = ("obs", "actions", "terminated", "features")
"""Arrays of a segment; the last may be missing."""

SegmentArray = NDArray[Any]


@dataclass(frozen=True, eq=False)
class StoredSegment:
    """One segment of behaviour with what is needed to draw it.

    Raises:
        TypeError: if something is no array.
        ValueError: if an array is missing or unknown, or shapes contradict each other.
    """

    arrays: Mapping[str, SegmentArray]
    """obs [l+1, ...], actions [l, ...], terminated () bool, and perhaps features [l, F]; l transitions."""

    states: NDArray[np.float64] | None = None
    """[l+1, D] simulator states, if clips are drawn from them."""

    frames: NDArray[np.uint8] | None = None
    """[F, H, W, 3] pictures, if there are any already."""

    def __post_init__(self) -> None:
        arrays = {name: np.asarray(value) for name, value in sorted(self.arrays.items())}
        object.__setattr__(self, "arrays", arrays)
        if unknown := sorted(set(arrays) - set(ARRAYS)):
            raise ValueError(f"a segment has the array {unknown[0]!r}; allowed are {', '.join(ARRAYS)}")
        if missing := [name for name in ARRAYS[:3] if name not in arrays]:
            raise ValueError(f"a segment lacks the array {missing[0]!r}")
        for name, value in arrays.items():
            if value.dtype.name not in DTYPES:
                raise TypeError(f"{name} has dtype {value.dtype}; allowed are {', '.join(DTYPES)}")
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                raise ValueError(f"{name} holds NaN or infinity; every number must be finite")
        self._check_shapes()
        self._check_pictures()

    def _check_shapes(self) -> None:
        """Raise ValueError unless the arrays are about equally many transitions."""
        shapes = {name: value.shape for name, value in self.arrays.items()}
        length = shapes["actions"][0] if shapes["actions"] else 0
        features = shapes.get("features", (length, 0))
        if not length or shapes["obs"][:1] != (length + 1,):
            raise ValueError(f"obs have shape {shapes['obs']} and actions {shapes['actions']}; they must be "
                             "[l+1, ...] and [l, ...] of l transitions, at least one")  # fmt: skip
        if len(features) != 2 or features[0] != length:
            raise ValueError(f"features have shape {features}, not [{length}, F]")
        if shapes["terminated"] != () or self.arrays["terminated"].dtype != np.bool_:
            raise ValueError(f"terminated is {self.arrays['terminated'].dtype} of shape "
                             f"{shapes['terminated']}; it must be one bool")  # fmt: skip

    def _check_pictures(self) -> None:
        """Raise ValueError for states or frames of another shape."""
        for name, axes, dtype in (("states", 2, np.float64), ("frames", 4, np.uint8)):
            value = getattr(self, name)
            if value is None:
                continue
            if not isinstance(value, np.ndarray) or value.dtype != dtype:
                raise TypeError(f"{name} are {getattr(value, 'dtype', type(value).__name__)}; they must be "
                                f"an array of {np.dtype(dtype)}")  # fmt: skip
            if value.ndim != axes or 0 in value.shape or (axes == 4 and value.shape[3] != 3):
                allowed = "[l+1, D]" if axes == 2 else "[F, H, W, 3]"
                raise ValueError(f"{name} have shape {list(value.shape)}; it must be {allowed}")
        if self.states is not None and len(self.states) != self.length + 1:
            raise ValueError(f"there are {len(self.states)} states; {self.length} transitions have "
                             f"{self.length + 1}")  # fmt: skip

    @property
    def length(self) -> int:
        """Number of transitions."""
        return int(self.arrays["actions"].shape[0])

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all that is in it, in hexadecimal digits."""
        found = hashlib.sha256()
        named: dict[str, SegmentArray | None] = {**self.arrays, "states": self.states, "frames": self.frames}
        for name, value in named.items():
            if value is not None:
                plain = np.ascontiguousarray(value, value.dtype.newbyteorder("<"))
                found.update(f"{name} {plain.dtype.str} {value.shape}\n".encode())
                found.update(plain.tobytes())
        return found.hexdigest()


@dataclass(frozen=True)
class Clip:
    """A film of a segment."""

    media: bytes = field(repr=False)
    """The file."""

    mime: str
    """Its type, as in "video/webm"."""

    frames: int
    """Number of pictures."""

    width: int
    """In pixels."""

    height: int
    """In pixels."""

    fps: float
    """Pictures per second."""

    encoder: str
    """What made it, for the record."""

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the file, in hexadecimal digits."""
        return hashlib.sha256(self.media).hexdigest()
