"""Checkpoints: everything a run needs to go on, in one file that holds tensors and plain values only."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from prefrl.data.files.tensor_file import read_tensor_file, write_tensor_file
from prefrl.reading.errors import reading

FORMAT = 1
"""Version of the files that :func:`save_checkpoint` writes."""


def save_checkpoint(
    path: str | os.PathLike[str], state: Mapping[str, Any], *, previous: Path | None = None
) -> None:
    """Write tensors, numpy arrays and plain values; the previous file stays until the new one is whole.

    Args:
        path: the file.
        state: what to write.
        previous: where the file that was there goes (None: nowhere).
    """
    write_tensor_file(path, {"format": FORMAT, "state": dict(state)}, previous=previous)


def load_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what :func:`save_checkpoint` wrote, onto the CPU.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, no checkpoint, or of another version.
    """
    content = read_tensor_file(path, "checkpoint")
    with reading(path, "checkpoint"):
        if not isinstance(content, dict) or not isinstance(content.get("state"), dict):
            raise ValueError(f"{path} is no checkpoint of prefrl")
        if content.get("format") != FORMAT:
            raise ValueError(f"{path} has format {content.get('format')}; this version reads {FORMAT}")
        state: dict[str, Any] = content["state"]
        return state


def global_rng_state() -> dict[str, Any]:
    """Return the states of torch's own generators, for agents and callbacks that draw from them."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def set_global_rng_state(state: Mapping[str, Any]) -> None:
    """Continue from what :func:`global_rng_state` returned; devices that are gone are left out."""
    torch.set_rng_state(state["cpu"])
    for index, device_state in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(device_state, index)
