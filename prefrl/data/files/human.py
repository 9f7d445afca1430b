"""The published human comparisons of the delivery domain, read from a folder of the user's.

Layout, three plain arrays per condition:

- ``<CONDITION>_segment_pairs.npy``, signed integers [N, 2, L+1, 2]: per segment its start cell (row, column)
  and L action vectors: (-1, 0), (1, 0), (0, -1), (0, 1), or (0, 0) where the segment is already over;
- ``<CONDITION>_X.npy``, float64 [N, 3]: second minus first segment in partial return, V* of the first state
  and V* of the last, all undiscounted;
- ``<CONDITION>_Y.npy``, float64 [N]: 1 where the second segment was preferred, 0 the first, 0.5 neither.

Source: Knox et al. 2022 (arXiv 2206.02231) and "Influencing Humans to Conform to Preference Models for RLHF"
(arXiv 2501.06416). The data were published without a licence file, so they are no part of prefrl.
"""

from __future__ import annotations

import os
import reprlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prefrl.data.comparisons import Preferences
from prefrl.data.segments import Segments
from prefrl.envs.grids.delivery import DeliveryDynamics
from prefrl.envs.grids.grid import MOVES
from prefrl.reading.errors import reading
from prefrl.reading.npy import check_size, read_header, read_numbers

ENVIRONMENT = "prefrl/Delivery-v0"
"""The environment the comparisons were made in."""

MAX_STEPS = 10_000
"""Longest segments; those that were published have 3 steps."""

_PAIRS, _STATISTICS, _LABELS = "segment_pairs", "X", "Y"


def load_human_preferences(
    directory: str | os.PathLike[str], condition: str, *, check: bool = True
) -> Preferences:
    """Replay one condition's segments on the delivery board.

    A segment is over after the action that enters a terminal cell, or before its first (0, 0).

    Args:
        directory: the folder with the files.
        condition: the part of the file names before ``_segment_pairs.npy``.
        check: compare the replayed partial returns with the stored ones.

    Returns:
        Comparisons with state numbers [N, L+1], actions [N, L] and features [N, L, 6], all of weight 1.

    Raises:
        ValueError: for an unknown condition (it lists those that are there), a file that is not in the
            layout, a segment that cannot be driven, or a row whose replayed partial returns contradict the
            stored ones; it names the first such row.
        FileNotFoundError: if the folder, or one of the condition's files, does not exist.
        NotADirectoryError: if ``directory`` is a file.
    """
    path = _path(directory, condition, _PAIRS)
    pairs = _read(path)
    if pairs.dtype.kind != "i" or pairs.ndim != 4 or pairs.shape[1::2] != (2, 2) or pairs.shape[2] < 2:
        raise ValueError(
            f"{path} holds {pairs.dtype.name} {list(pairs.shape)}; it must be signed integers [N, 2, L+1, 2]"
        )
    if pairs.shape[2] > MAX_STEPS:  # which need not take a byte, where there are no rows
        raise ValueError(
            f"{path} holds segments of {pairs.shape[2] - 1} steps; they must have fewer than {MAX_STEPS}"
        )
    labels = _read_statistic(_path(directory, condition, _LABELS), (len(pairs),))
    pairs = pairs.astype(np.int64)
    preferences = Preferences.from_labels(
        _replay(path, "first", pairs[:, 0]),
        _replay(path, "second", pairs[:, 1]),
        torch.from_numpy(labels),
        metadata={"environment": ENVIRONMENT, "condition": condition},
    )
    if check:
        path = _path(directory, condition, _STATISTICS)
        _check_returns(path, preferences, _read_statistic(path, (len(pairs), 3))[:, 0])
    return preferences.validate()


def load_human_statistics(directory: str | os.PathLike[str], condition: str) -> Tensor:
    """Return one condition's stored statistics, float64 [N, 3].

    The columns are the differences, second segment minus first, of the partial return, of V*(first state)
    and of V*(last state), undiscounted.

    Raises:
        ValueError: for an unknown condition or a file that is not in the layout.
        FileNotFoundError: if the folder, or the condition's file, does not exist.
        NotADirectoryError: if ``directory`` is a file.
    """
    return torch.from_numpy(_read_statistic(_path(directory, condition, _STATISTICS), (None, 3)))


def _path(directory: str | os.PathLike[str], condition: str, kind: str) -> Path:
    """Return the path of one of a condition's files."""
    folder = Path(directory)
    if not folder.exists():
        raise FileNotFoundError(f"there is no folder {folder}")
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file; give the folder that holds the conditions' files")
    ending = f"_{_PAIRS}.npy"
    conditions = sorted(file.name.removesuffix(ending) for file in folder.glob(f"*{ending}"))
    if condition not in conditions:
        raise ValueError(f"condition {condition!r} is not in {folder}; there are {conditions}")
    return folder / f"{condition}_{kind}.npy"


def _read(path: Path) -> NDArray[Any]:
    """Read a .npy file once its size is what its header says."""
    with reading(path, "file"), path.open("rb") as stream:
        header = read_header(stream)
        check_size(header, os.fstat(stream.fileno()).st_size)
        stream.seek(0)
        return read_numbers(stream, header)


def _read_statistic(path: Path, shape: tuple[int | None, ...]) -> NDArray[np.float64]:
    """Read finite float64 numbers of a shape, in which None stands for any number."""
    values = _read(path)
    fits = values.ndim == len(shape) and all(
        wanted in (None, found) for wanted, found in zip(shape, values.shape, strict=True)
    )
    if values.dtype != np.float64 or not fits:
        wanted = str(["N" if size is None else size for size in shape]).replace("'", "")
        raise ValueError(
            f"{path} holds {values.dtype.name} {list(values.shape)}; it must be float64 {wanted}"
        )
    for row in np.argwhere(~np.isfinite(values))[:1, 0]:
        raise ValueError(f"{path}: row {row} holds NaN or infinity; every number must be finite")
    return values


def _refuse(path: Path, side: str, segments: NDArray[np.int64], bad: NDArray[np.bool_], reason: str) -> None:
    """Raise ValueError for the first bad [N] row."""
    for row in np.flatnonzero(bad)[:1]:
        problem = f"row {row}, {side} segment is {reprlib.repr(segments[row].tolist())}: {reason}"
        raise ValueError(f"{path}: {problem}")


def _replay(path: Path, side: str, segments: NDArray[np.int64]) -> Segments:
    """Drive segments [N, L+1, 2] of start cell and action vectors on the board."""
    refuse = partial(_refuse, path, side, segments)
    dynamics = DeliveryDynamics()
    model, (height, width) = dynamics.model, dynamics.cells.shape
    row, col, vectors = segments[:, 0, 0], segments[:, 0, 1], segments[:, 1:]
    off_board = (row < 0) | (row >= height) | (col < 0) | (col >= width)
    refuse(off_board, f"its start cell is off the {height} x {width} board")
    state = row * width + col
    refuse(model.terminal[state], "it starts at the goal, at a sheep or in a house")
    matches = (vectors[:, :, None] == MOVES).all(3)  # [N, L, 4]
    none = (vectors == 0).all(2)
    refuse(~(matches.any(2) | none).all(1), "an action vector is neither a step to a neighbour nor (0, 0)")
    refuse(none[:, 0], "it has no transition; its first action vector must be a step")

    obs = np.empty(segments.shape[:2], dtype=np.int64)
    obs[:, 0] = state
    actions = matches.argmax(2)
    lengths = np.zeros(len(segments), dtype=np.int64)
    for t in range(actions.shape[1]):
        ended = model.terminal[obs[:, t]]
        refuse((lengths < t) & ~ended & ~none[:, t], "it goes on after (0, 0)")
        moves = ~(ended | none[:, t])
        obs[:, t + 1] = np.where(moves, model.successors[obs[:, t], actions[:, t], 0], obs[:, t])
        lengths += moves
    padding = np.arange(actions.shape[1]) >= lengths[:, None]
    actions[padding] = 0
    features = model.features[obs[:, :-1], actions, 0]
    features[padding] = 0.0
    arrays = (obs, actions, lengths, model.terminal[obs[:, -1]], features)
    return Segments(*(torch.from_numpy(array) for array in arrays))


def _check_returns(path: Path, preferences: Preferences, stored: NDArray[np.float64]) -> None:
    """Raise ValueError at the first row whose replayed partial returns contradict the stored ones."""
    first, second = preferences.first.features, preferences.second.features
    assert first is not None
    assert second is not None
    replayed = (second - first).sum(1).numpy() @ DeliveryDynamics().model.weights
    for row in np.flatnonzero(np.abs(replayed - stored) > 1e-6)[:1]:
        raise ValueError(
            f"{path}: row {row} says that the partial returns differ by {stored[row]}; replayed on the board "
            f"they differ by {replayed[row]} (check=False skips this comparison)"
        )
