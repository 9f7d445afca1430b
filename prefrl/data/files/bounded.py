"""Bounds on what is built by the numbers of a file."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from prefrl.reading.archives import MAX_EXPANDED_BYTES

MAX_BUILT_BYTES = 1 << 30
"""Tensors that may be made for any file, 1 GiB; for a large one, :data:`BUILT_PER_BYTE` times its bytes."""

BUILT_PER_BYTE = 16
"""Networks, targets, moments of the optimiser, and what is made on the way, by bytes of a file."""

MOST_COMPRESSED = 16
"""Bytes of HDF5's arrays for each byte of a large file."""

MAX_ROWS = 1 << 20
"""Rows of steps that a file may name: nothing else that it holds is of that size."""

# Without eye and randint, of which no size is theirs alone: they, and linspace, would load a compiler on the
# meta device.
_MAKERS: frozenset[Callable[..., Any]] = frozenset(
    {torch.arange, torch.empty, torch.full, torch.ones, torch.rand, torch.randn, torch.randperm, torch.zeros}
)

_NOT_ON_META = ("generator", "pin_memory", "out", "steps")


class BoundedTensors(TorchFunctionMode):
    """Refuses tensors that together take more memory than a file can account for.

    A file's header may ask for networks that no memory holds. What it asks for cannot be compared with what
    the file holds number by number, since every agent has other numbers; so what is made is added up, on the
    meta device first, which takes no memory.

    Args:
        path: the file.

    Raises:
        ValueError: by the call, inside the context, that would make too much.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__()
        self.allowed = self.left = max(MAX_BUILT_BYTES, BUILT_PER_BYTE * Path(path).stat().st_size)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a function of torch, if what it makes is still allowed."""
        kwargs = dict(kwargs or {})
        if func is torch.linspace:
            self._count(torch.empty, (kwargs["steps"] if "steps" in kwargs else args[2],), kwargs)
        elif func in _MAKERS:
            self._count(func, args, kwargs)
        return func(*args, **kwargs)

    def _count(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Take what a call makes from what is left."""
        plain = {name: value for name, value in kwargs.items() if name not in _NOT_ON_META}
        try:
            made: Tensor = func(*args, **{**plain, "device": "meta"})
            self.left -= made.numel() * made.element_size()
        except RuntimeError:  # the size is beyond all numbers
            self.left = -1
        if self.left < 0:
            raise ValueError(f"what its numbers ask for takes more than {self.allowed} bytes")


def kept_rows(state: Mapping[str, Any]) -> int:
    """Return the rows of the steps that a saved agent was shown; ValueError for what nobody steps."""
    rows = state["rows"]
    if type(rows) is not int or not 1 <= rows <= MAX_ROWS:
        raise ValueError(f"rows is {reprlib.repr(rows)}; it must be a whole number from 1 to {MAX_ROWS}")
    return rows


def check_hdf5_promises(path: Path) -> None:
    """Raise ValueError where an HDF5 file promises much more than it has: arrays may stay unwritten."""
    import h5py

    promised = 0

    def add(_: str, entry: Any) -> None:
        nonlocal promised
        if isinstance(entry, h5py.Dataset):
            promised += entry.size * entry.dtype.itemsize

    with h5py.File(path, "r") as file:
        file.visititems(add)
    file_bytes = path.stat().st_size
    if promised > max(MAX_EXPANDED_BYTES, MOST_COMPRESSED * file_bytes):
        raise ValueError(f"{path} promises arrays of {promised} bytes and has {file_bytes}")
