"""D4RL's HDF5 files, by the rows that ``d4rl.qlearning_dataset`` keeps of them.

Published labels name clips by their first rows in what that function returns, so its rule is followed to the
letter: rows that time out are left out, and so is the last one. Nothing is ever downloaded.

Source: Fu et al. 2020, "D4RL: Datasets for Deep Data-Driven Reinforcement Learning" (arXiv 2004.07219).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from prefrl.data.segments import Segments
from prefrl.reading.errors import reading

from .bounded import check_hdf5_promises

KIND = "D4RL file"

MAZE_STEP = 1.0
"""Distance in the plane, in a maze's units, that no body goes in a step and a reset goes beyond."""


@dataclass(frozen=True, eq=False)
class D4RLRows:
    """T rows of a file, and the M of them that are kept; all steps of an episode stand together."""

    obs: NDArray[np.float32]
    """[T, ...] observations."""
    actions: NDArray[np.float32]
    """[T, ...] actions."""
    terminals: NDArray[np.bool_]
    """[T] the file's flags."""
    ends: NDArray[np.bool_]
    """[T] the next row is another episode's, though this one did not time out."""
    kept: NDArray[np.int64]
    """[M] the rows that are kept, in order."""
    successors: NDArray[np.float32] | None
    """[T, ...] the true next observations, where the file has them."""

    def __len__(self) -> int:
        return len(self.kept)

    def outside(self, starts: NDArray[np.int64], length: int) -> NDArray[np.bool_]:
        """Return which clips [N] of kept rows do not lie within the data."""
        return np.asarray((starts < 0) | (starts > len(self) - length))

    def crossing(self, starts: NDArray[np.int64], length: int) -> NDArray[np.bool_]:
        """Return which clips [N] of kept rows, all within the data, do not lie within one episode."""
        breaks = (np.diff(self.kept) != 1) | self.ends[self.kept[:-1]]
        before = np.concatenate([[0], np.cumsum(breaks)])
        return np.asarray(before[starts + length - 1] > before[starts])

    def clips(self, starts: NDArray[np.int64], length: int) -> Segments:
        """Return clips that begin at kept rows [N] and lie within an episode each.

        After the last step of an episode that ended comes the file's own next observation; where it has none,
        that step is left out.

        Args:
            starts: first rows, as places among the kept ones.
            length: L, steps of a clip.

        Raises:
            ValueError: if a clip of one step would lose it.
        """
        first = self.kept[starts]
        last = first + length - 1
        obs = self.obs[first[:, None] + np.arange(length + 1)]
        actions = self.actions[first[:, None] + np.arange(length)]
        over, lengths = self.ends[last], np.full(len(first), length)
        terminated = over & self.terminals[last]
        if self.successors is not None:
            obs[over, length] = self.successors[last[over]]
        elif over.any():
            if length == 1:
                raise ValueError("clips of one step end where episodes do, after which the file has no "
                                 "next_observations")  # fmt: skip
            lengths[over], terminated[over] = length - 1, False
            obs[over, length] = obs[over, length - 1]
            actions[over, length - 1] = 0.0
        return Segments(*(torch.from_numpy(array) for array in (obs, actions, lengths, terminated)))


def read_d4rl(path: str | os.PathLike[str], *, max_episode_steps: int | None = None) -> D4RLRows:
    """Read the rows of a D4RL file that is on this machine.

    Where a file says what goals were (``infos/goal``: mazes), its terminal flags say that the goal was near,
    and the episode goes on; it then ends where the goal changes, or the body is put elsewhere.

    Args:
        path: the HDF5 file, as D4RL publishes it: ``observations``, ``actions``, ``terminals``, and where
            there are such ``timeouts``, ``next_observations``, ``infos/goal``.
        max_episode_steps: the environment's limit, for files without ``timeouts`` (280 in D4RL's kitchens).

    Returns:
        Observations and actions as float32, as D4RL makes them.

    Raises:
        ImportError: if h5py is not installed; it says how to install it.
        FileNotFoundError: if there is no such file.
        ValueError: if it is no such file, or promises much more than it holds; or if ``max_episode_steps`` is
            missing, or given where the file has ``timeouts``.
    """
    try:
        import h5py
    except ImportError as error:
        raise ImportError('h5py is not installed: pip install ".[d4rl]"') from error
    with reading(path, KIND):
        check_hdf5_promises(Path(path))
        with h5py.File(path, "r") as file:
            return _rows(h5py, file, max_episode_steps)


def _rows(h5py: Any, file: Any, max_episode_steps: int | None) -> D4RLRows:
    """Return the rows of an open file."""
    obs = _numbers(h5py, file, "observations")
    count = len(obs)
    if count < 2:
        raise ValueError(f"observations have {count} rows; there must be 2 at least")
    timeouts = _flags(h5py, file, "timeouts", count) if _has(h5py, file, "timeouts") else None
    terminals = _flags(h5py, file, "terminals", count)
    if (timeouts is None) != (max_episode_steps is not None):
        problem = "has no timeouts; give" if timeouts is None else "has timeouts; do not give"
        raise ValueError(f"the file {problem} max_episode_steps")
    if max_episode_steps is not None and max_episode_steps < 2:
        raise ValueError(f"max_episode_steps is {max_episode_steps}; it must be at least 2")
    ends = terminals
    if _has(h5py, file, "infos/goal"):
        ends = _maze_ends(_numbers(h5py, file, "infos/goal", count), obs)
    times_out = _counted_out(terminals, max_episode_steps) if timeouts is None else timeouts
    return D4RLRows(
        obs,
        _numbers(h5py, file, "actions", count),
        terminals,
        ends,
        np.flatnonzero(~times_out[:-1]),
        _numbers(h5py, file, "next_observations", count) if _has(h5py, file, "next_observations") else None,
    )


def _maze_ends(goals: NDArray[np.float32], obs: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return after which rows [T] a maze's episode ends."""
    if obs.ndim != 2 or obs.shape[1] < 2:
        raise ValueError(
            f"observations have shape {list(obs.shape)}; those of a maze begin with a place in it"
        )
    other_goal = (goals[1:] != goals[:-1]).reshape(len(goals) - 1, -1).any(1)
    moved = np.linalg.norm(obs[1:, :2] - obs[:-1, :2], axis=1) > MAZE_STEP
    return np.append(other_goal | moved, True)


def _counted_out(terminals: NDArray[np.bool_], max_episode_steps: int | None) -> NDArray[np.bool_]:
    """Return which rows [T] D4RL takes for those that time out, in files that do not say.

    It counts from 0 in the first episode and after a row that timed out, but from 1 after a terminal row.
    """
    assert max_episode_steps is not None
    times_out = np.zeros(len(terminals), np.bool_)
    step = 0
    for row, terminal in enumerate(terminals.tolist()):
        if step == max_episode_steps - 1:
            times_out[row], step = True, 0
        else:
            step = 1 if terminal else step + 1
    return times_out


def _numbers(h5py: Any, file: Any, name: str, count: int | None = None) -> NDArray[np.float32]:
    """Return an array [T, ...] as float32."""
    found = _dataset(h5py, file, name, count)
    with np.errstate(over="ignore"):  # what is beyond float32 becomes infinite, which clips may not be
        return np.asarray(found[()], np.float32)


def _flags(h5py: Any, file: Any, name: str, count: int) -> NDArray[np.bool_]:
    """Return flags [T], which some files have as [T, 1]."""
    found = _dataset(h5py, file, name, count)
    if found.shape not in ((count,), (count, 1)):
        raise ValueError(f"{name} have shape {list(found.shape)}; it must be [{count}]")
    return np.asarray(found[()] != 0).reshape(count)


def _has(h5py: Any, file: Any, name: str) -> bool:
    """Return whether the file itself has an entry; ValueError for a link, which may lead to another file."""
    places = name.split("/")
    for depth in range(1, len(places) + 1):
        place = "/".join(places[:depth])
        link = file.get(place, getlink=True)
        if link is None:
            return False
        if not isinstance(link, h5py.HardLink):
            raise ValueError(f"{place} is a link; it must be in the file itself")
    return True


def _dataset(h5py: Any, file: Any, name: str, count: int | None) -> Any:
    """Return a file's own array of numbers: neither a link nor a view into another file."""
    if not _has(h5py, file, name):
        raise KeyError(name)
    found = file[name]
    if not isinstance(found, h5py.Dataset) or found.dtype.kind not in "biuf" or not found.shape:
        raise ValueError(f"{name} is no array of numbers with rows")
    if found.external or found.is_virtual:
        raise ValueError(f"{name} lies in another file; it must be in the file itself")
    if count is not None and len(found) != count:
        raise ValueError(f"{name} have {len(found)} rows; observations have {count}")
    return found
