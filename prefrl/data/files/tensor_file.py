"""Files of tensors and plain values: written whole or not at all, read without unpickling objects."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .atomic import atomic_path


def write_tensor_file(path: str | os.PathLike[str], content: Any) -> None:
    """Write nested dicts and lists of tensors, numpy arrays, numbers, strings and None.

    Raises:
        TypeError: if ``content`` holds anything else; it names the place.
    """
    plain = _plain(content, "content")
    with atomic_path(path) as temporary:
        torch.save(plain, temporary)


def read_tensor_file(path: str | os.PathLike[str], kind: str) -> Any:
    """Return, on the CPU, what :func:`write_tensor_file` wrote; numpy arrays come back as tensors.

    Args:
        path: the file.
        kind: what the file should be, for the error's text ("checkpoint").

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged or something else.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no {kind} {path}")
    try:
        with zipfile.ZipFile(path) as archive:  # torch itself does not compare the checksums
            damaged = archive.testzip()
        if damaged is None:
            return torch.load(path, map_location="cpu", weights_only=True)
        reason = f"the checksum of {damaged} is wrong"
    except Exception as error:  # torch and zipfile name a dozen kinds for a file that is not one of theirs
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'unreadable'}"
    raise ValueError(f"{path} is damaged or no {kind} of prefrl ({reason})")


def _plain(value: Any, where: str) -> Any:
    """Return ``value`` with numpy converted and tensors detached; views become their own storage."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, np.ndarray):
        return torch.tensor(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        return {key: _plain(entry, f"{where}[{key!r}]") for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry, f"{where}[{index}]") for index, entry in enumerate(value)]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{where} is a {type(value).__name__}; allowed are tensors, arrays and plain values")
