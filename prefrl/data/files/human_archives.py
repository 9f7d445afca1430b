"""Published human comparisons of control tasks, read from the user's copies: labels here, clips from D4RL.

A folder holds three pickles of numbers, in one of two layouts:

- ``label_human``, ``indices_num<K>``, ``indices_2_num<K>`` (Preference Transformer, Kim et al. 2023, arXiv
  2303.00957; Direct Preference-based Policy Optimization, An et al. 2023, arXiv 2301.12842): clips have 100
  steps, or <L> where the names end in ``_q<L>``; there may be more indices than labels, and the first count;
- ``human_label_<TASK>.pkl``, ``indices_1_<TASK>.pkl``, ``indices_2_<TASK>.pkl`` (Uni-RLHF, Yuan et al. 2024,
  arXiv 2402.02423): the length is in the name, ``_len_<L>_``; labels of a crowd, who said what is not known.

An index is the first row of a clip in what ``d4rl.qlearning_dataset`` returns. A label is 0 where the first
clip was preferred, 1 the second, -1 neither. The licences name neither labels nor labellers, so nothing of
them is part of prefrl.
"""

from __future__ import annotations

import os
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from prefrl.data.comparisons import Preferences
from prefrl.reading.archives import MAX_EXPANDED_BYTES
from prefrl.reading.errors import refusal
from prefrl.reading.pickles import read_pickle

from .d4rl import D4RLRows, read_d4rl

Crossing = Literal["refuse", "leave_out"]
"""What happens to comparisons of clips that cross the end of an episode."""

USUAL_LENGTH = 100
"""Steps of a clip where the file names do not say."""

MANY_TIES = 0.9
"""Share of ties from which on a set says next to nothing."""

MOST_CROSSING = 0.01
"""Share of comparisons that may be left out; where more clips cross an episode, the rows are others'."""

_KIND = "pickle of labels"
_LAYOUTS = {
    "label_human": (r"label_human", r"indices_num(\d+)(?:_q(?P<length>\d{1,9}))?",
                    r"indices_2_num(\d+)(?:_q(?P<length>\d{1,9}))?"),
    "human_label_<TASK>.pkl": tuple(start + r"_(.+_len_(?P<length>\d{1,9})_.+)\.pkl"
                                    for start in ("human_label", "indices_1", "indices_2")),
}  # fmt: skip
"""The names of a folder's labels, first clips and second clips, by layout."""


@dataclass(frozen=True, eq=False)
class ClipLabels:
    """What a folder of labels says: N comparisons of clips by their first rows."""

    first: NDArray[np.int64]
    """[N] first rows of the first clips."""
    second: NDArray[np.int64]
    """[N] first rows of the second clips."""
    labels: NDArray[np.float64]
    """[N] 1 where the second clip was preferred, 0 the first, 0.5 neither."""
    length: int
    """Steps of a clip."""
    surplus: int
    """Pairs of indices that nobody labelled."""

    def __len__(self) -> int:
        return len(self.labels)


def read_clip_labels(directory: str | os.PathLike[str], *, length: int | None = None) -> ClipLabels:
    """Read a folder of published labels; nothing in it is ever run.

    Args:
        directory: the folder with the three files; others in it are left alone.
        length: steps of a clip, where the names of the files do not say (default 100).

    Raises:
        FileNotFoundError: if there is no such folder.
        NotADirectoryError: if ``directory`` is a file.
        ValueError: if the files are in no known layout, or hold something else; it says what.
    """
    folder = Path(directory)
    if not folder.exists():
        raise FileNotFoundError(f"there is no folder {folder}")
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file; give the folder that holds the labels and indices")
    paths, named = _files(folder)
    if length is not None and named is not None and length != named:
        raise ValueError(f"length is {length}; the names in {folder} say {named}")
    steps = next(steps for steps in (named, length, USUAL_LENGTH) if steps is not None)
    if steps < 1:
        raise ValueError(f"length is {steps}; it must be at least 1")
    labels, first, second = (_whole_numbers(path) for path in paths)
    for row in np.flatnonzero(~np.isin(labels, (-1, 0, 1)))[:1]:
        raise refusal(paths[0], f"label {row} is {labels[row]}; it must be 0 (the first clip is preferred), "
                      "1 (the second) or -1 (neither)")  # fmt: skip
    count = len(labels)
    if len(first) != len(second) or len(first) < count or count == 0:
        raise ValueError(f"{folder} has {count} labels, {len(first)} first and {len(second)} second indices; "
                         "there must be labels, and as many indices on both sides, or more")  # fmt: skip
    return ClipLabels(first[:count], second[:count], np.where(labels < 0, 0.5, labels), steps,
                      len(first) - count)  # fmt: skip


def load_human_archive(
    directory: str | os.PathLike[str],
    d4rl_file: str | os.PathLike[str],
    *,
    length: int | None = None,
    max_episode_steps: int | None = None,
    crossing: Crossing = "refuse",
) -> Preferences:
    """Return the comparisons of a published folder, with the clips out of the user's own D4RL file.

    Args:
        directory: the folder with labels and indices.
        d4rl_file: the HDF5 file of the same task, as D4RL publishes it.
        length: as in :func:`read_clip_labels`.
        max_episode_steps: as in :func:`prefrl.data.files.d4rl.read_d4rl`.
        crossing: "refuse", or "leave_out" comparisons of which a clip crosses the end of an episode, if they
            are few: at most 1 %.

    Returns:
        Comparisons of weight 1 by one unknown annotator, with observations [N, L+1, ...] and actions
        [N, L, ...] float32. A clip that an episode's end cuts short may lack its last step; see
        :meth:`prefrl.data.files.d4rl.D4RLRows.clips`.

    Raises:
        FileNotFoundError: if the folder or the file does not exist.
        ImportError: if h5py is not installed.
        ValueError: if a file is damaged or in another layout, or the indices do not fit the file: a clip lies
            outside, or crosses the end of an episode; it says how many do, and the first.
    """
    if crossing not in ("refuse", "leave_out"):
        raise ValueError(f"crossing is {crossing!r}; allowed are 'refuse' and 'leave_out'")
    said = read_clip_labels(directory, length=length)
    rows = read_d4rl(d4rl_file, max_episode_steps=max_episode_steps)
    row_bytes = rows.obs[:1].nbytes + rows.actions[:1].nbytes
    if 2 * len(said) * (said.length + 1) * row_bytes > MAX_EXPANDED_BYTES:
        raise ValueError(f"{len(said)} pairs of clips of {said.length} steps take more than "
                         f"{MAX_EXPANDED_BYTES} bytes")  # fmt: skip
    kept = _within_episodes(said, rows, d4rl_file, crossing)
    labels = said.labels[kept]
    ties = int((labels == 0.5).sum())
    if ties >= MANY_TIES * len(labels):
        warnings.warn(f"{ties} of {len(labels)} labels in {directory} are ties; they say next to nothing "
                      "about what was preferred", stacklevel=2)  # fmt: skip
    metadata = {
        "labels": Path(directory).resolve().name,
        "transitions": Path(d4rl_file).name,
        "clip_length": said.length,
        "ties": ties,
        "surplus_indices": said.surplus,
        "left_out": len(said) - len(labels),
    }
    return Preferences.from_labels(
        rows.clips(said.first[kept], said.length),
        rows.clips(said.second[kept], said.length),
        torch.from_numpy(labels),
        metadata=metadata,
    ).validate()


def _within_episodes(
    said: ClipLabels, rows: D4RLRows, d4rl_file: str | os.PathLike[str], crossing: Crossing
) -> NDArray[np.bool_]:
    """Return which comparisons [N] are of clips within an episode; ValueError where others may not be."""
    starts = np.stack([said.first, said.second], 1)
    other = "these labels belong to another data set, or to clips of another length"
    outside = rows.outside(starts, said.length)
    if outside.any():
        raise refusal(d4rl_file, f"{_told(said, rows, starts, outside)} lie outside the data; {other}")
    crosses = rows.crossing(starts, said.length)
    share = crosses.any(1).mean()
    if share > MOST_CROSSING or (share > 0.0 and crossing == "refuse"):
        way_out = other if share > MOST_CROSSING else "crossing='leave_out' leaves these comparisons out"
        told = _told(said, rows, starts, crosses)
        raise refusal(d4rl_file, f"{told} cross the end of an episode; {way_out}")
    return np.asarray(~crosses.any(1))


def _told(said: ClipLabels, rows: D4RLRows, starts: NDArray[np.int64], bad: NDArray[np.bool_]) -> str:
    """Return how many clips [N, 2] are bad, and the first of them."""
    row, side = np.argwhere(bad)[0]
    start = int(starts[row, side])
    return (f"{int(bad.sum())} of {bad.size} clips (the first is the {('first', 'second')[side]} one of "
            f"comparison {row}, rows {start} to {start + said.length - 1} of the {len(rows)} that are kept)"
            )  # fmt: skip


def _files(folder: Path) -> tuple[list[Path], int | None]:
    """Return the paths of labels, first and second indices, and the length that their names say, if any."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    for patterns in _LAYOUTS.values():
        found = [[match for name in names if (match := re.fullmatch(pattern, name))] for pattern in patterns]
        if not found[0]:
            continue
        if any(len(matches) != 1 for matches in found):
            there = [match[0] for matches in found for match in matches[:2]]
            raise ValueError(f"{folder} holds {there}; it must hold one file of labels, one of first indices "
                             "and one of second indices")  # fmt: skip
        matches = [each[0] for each in found]
        if len({match.groups() for match in matches if match.groups()}) > 1:
            raise ValueError(f"{folder} holds {[match[0] for match in matches]}, of different sets")
        named = matches[1]["length"]
        return [folder / match[0] for match in matches], None if named is None else int(named)
    raise ValueError(
        f"{folder} holds neither {' nor '.join(_LAYOUTS)}; it must be a folder of published labels"
    )


def _whole_numbers(path: Path) -> NDArray[np.int64]:
    """Return a pickled list or array of whole numbers [N]."""
    found: Any = read_pickle(path, _KIND)
    if isinstance(found, list) and all(type(entry) is int for entry in found):
        found = np.asarray(found or np.zeros(0, np.int64))
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "iu" or found.ndim != 1:
        kind = f"{found.dtype} {list(found.shape)}" if isinstance(found, np.ndarray) else type(found).__name__
        raise refusal(path, f"it holds {kind}; it must hold a list or an array of whole numbers [N]")
    if len(found) and int(found.max()) > np.iinfo(np.int64).max:
        raise refusal(path, f"it holds {found.max()}; whole numbers may have 63 bits")
    return found.astype(np.int64)
