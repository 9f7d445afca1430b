"""D4RL's files: the rows that its qlearning_dataset keeps, clips within episodes, what is refused."""

import builtins
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from prefrl.data.files.d4rl import _counted_out, read_d4rl

h5py = pytest.importorskip("h5py")

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a file of rows [T] whose observations say which row they are of."""

    def write(count: int = 12, **arrays: Any) -> Path:
        path = tmp_path / "data.hdf5"
        found = {
            "observations": np.stack([np.arange(count), np.zeros(count)], 1),
            "actions": np.arange(count)[:, None] / 10.0,
            "rewards": np.zeros(count),
            "terminals": np.zeros(count, bool),
            "timeouts": np.zeros(count, bool),
            **arrays,
        }
        with h5py.File(path, "w") as file:
            for name, values in found.items():
                if values is not None:
                    file[name.replace("__", "/")] = values
        return path

    return write


def at(count: int, *rows: int) -> np.ndarray[Any, Any]:
    flags = np.zeros(count, bool)
    flags[list(rows)] = True
    return flags


def kept_by_hand(terminals: list[bool], timeouts: list[bool] | None, limit: int) -> list[int]:
    """The rule of qlearning_dataset, row by row."""
    kept, step = [], 0
    for row in range(len(terminals) - 1):
        final = step == limit - 1 if timeouts is None else timeouts[row]
        if final:
            step = 0
            continue
        if terminals[row]:
            step = 0
        kept.append(row)
        step += 1
    return kept


def test_rows_that_time_out_and_the_last_are_left_out(write: Write) -> None:
    rows = read_d4rl(write(timeouts=at(12, 3, 8)))
    assert rows.kept.tolist() == [0, 1, 2, 4, 5, 6, 7, 9, 10]
    assert len(rows) == 9


@given(st.lists(st.booleans(), min_size=2, max_size=40), st.integers(2, 6))
def test_rows_are_counted_as_d4rl_counts_them(terminals: list[bool], limit: int) -> None:
    out = _counted_out(np.array(terminals), limit)
    assert np.flatnonzero(~out[:-1]).tolist() == kept_by_hand(terminals, None, limit)


def test_a_limit_stands_in_for_timeouts(write: Write) -> None:
    rows = read_d4rl(write(timeouts=None, terminals=at(12, 4)), max_episode_steps=4)
    assert rows.kept.tolist() == [0, 1, 2, 4, 5, 6, 8, 9, 10]  # after a terminal row the count begins at 1
    assert rows.kept.tolist() == kept_by_hand(at(12, 4).tolist(), None, 4)


@pytest.mark.parametrize(
    ("timeouts", "limit", "problem"),
    [
        (None, None, "has no timeouts; give max_episode_steps"),
        (at(12), 5, "has timeouts; do not give max_episode_steps"),
        (None, 1, "max_episode_steps is 1"),
    ],
)
def test_timeouts_or_a_limit(write: Write, timeouts: Any, limit: int | None, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        read_d4rl(write(timeouts=timeouts), max_episode_steps=limit)


def test_clips_within_episodes(write: Write) -> None:
    rows = read_d4rl(write(timeouts=at(12, 3), terminals=at(12, 7)))
    assert rows.kept.tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 9, 10]
    starts = np.arange(8)
    assert not rows.outside(starts, 3).any()
    assert rows.outside(np.array([-1, 7, 8]), 3).tolist() == [True, False, True]
    # rows 2 4 5: over a timeout; 6 7 8 and 7 8 9: over a terminal row, as is 5 6 7, which ends in it, not
    assert rows.crossing(starts, 3).tolist() == [False, True, True, False, False, True, True, False]
    clips = rows.clips(np.array([0, 3, 7]), 3)
    assert clips.obs[..., 0].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert clips.actions[0, :, 0].tolist() == pytest.approx([0.0, 0.1, 0.2])
    assert clips.lengths.tolist() == [3, 3, 3]
    assert clips.obs.dtype == clips.actions.dtype == torch.float32
    clips.validate()


def test_after_a_terminal_row_comes_the_files_own_next_observation(write: Write) -> None:
    successors = np.full((12, 2), 70.0)
    path = write(terminals=at(12, 7), next_observations=successors)
    clips = read_d4rl(path).clips(np.array([5, 4]), 3)
    assert clips.obs[..., 0].tolist() == [[5, 6, 7, 70], [4, 5, 6, 7]]
    assert clips.terminated.tolist() == [True, False]
    assert clips.lengths.tolist() == [3, 3]


def test_without_next_observations_the_terminal_step_is_left_out(write: Write) -> None:
    rows = read_d4rl(write(terminals=at(12, 7)))
    clips = rows.clips(np.array([5, 4]), 3).validate()
    assert clips.obs[..., 0].tolist() == [[5, 6, 7, 7], [4, 5, 6, 7]]
    assert clips.actions[0, :, 0].tolist() == pytest.approx([0.5, 0.6, 0.0])
    assert clips.terminated.tolist() == [False, False]
    assert clips.lengths.tolist() == [2, 3]
    with pytest.raises(ValueError, match="clips of one step"):
        rows.clips(np.array([7]), 1)


def test_in_mazes_episodes_go_on_after_a_goal_and_end_where_it_changes(write: Write) -> None:
    goals = np.zeros((12, 2))
    goals[4:, 1] = -3.0  # the sum of the changes is negative
    obs = np.zeros((12, 2))
    obs[:, 0] = 0.2 * np.arange(12)
    obs[8:, 1] = 5.0
    rows = read_d4rl(write(terminals=at(12, 1, 2, 9), observations=obs, infos__goal=goals))
    assert np.flatnonzero(rows.ends).tolist() == [3, 7, 11]
    clips = rows.clips(np.array([1, 2]), 2)
    assert clips.lengths.tolist() == [2, 1]
    assert clips.terminated.tolist() == [False, False]


def test_flags_may_be_columns_and_numbers(write: Write) -> None:
    path = write(
        terminals=at(12, 2)[:, None].astype(np.float32), timeouts=at(12, 5)[:, None].astype(np.uint8)
    )
    rows = read_d4rl(path)
    assert np.flatnonzero(rows.terminals).tolist() == [2]
    assert 5 not in rows.kept.tolist()


# What is refused ------------------------------------------------------------------------------------------


def linked(file: Any, other: Path) -> None:
    del file["actions"]
    file["actions"] = h5py.ExternalLink(str(other), "secret")


def softly_linked(file: Any, other: Path) -> None:
    del file["actions"]
    file["actions"] = h5py.SoftLink("/observations")


def linked_by_a_group(file: Any, other: Path) -> None:
    file["infos"] = h5py.ExternalLink(str(other), "/")


def outside(file: Any, other: Path) -> None:
    del file["actions"]
    file.create_dataset("actions", (12, 1), "f8", external=[(str(other), 0, 96)])


def virtual(file: Any, other: Path) -> None:
    del file["actions"]
    layout = h5py.VirtualLayout((12,), "f8")
    layout[:] = h5py.VirtualSource(str(other), "secret", (12,))
    file.create_virtual_dataset("actions", layout)


def enormous(file: Any, other: Path) -> None:
    file.create_dataset("more", (1 << 34,), "f8")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (linked, "actions is a link"),
        (softly_linked, "actions is a link"),
        (linked_by_a_group, "infos is a link"),
        (outside, "actions lies in another file"),
        (virtual, "actions lies in another file"),
        (enormous, "promises arrays of"),
    ],
)
def test_what_lies_elsewhere_is_not_read(write: Write, tmp_path: Path, change: Any, problem: str) -> None:
    path, other = write(), tmp_path / "other.hdf5"
    with h5py.File(other, "w") as file:
        file["secret"] = np.arange(12.0)
        file["goal"] = np.zeros((12, 2))
    with h5py.File(path, "a") as file:
        change(file, other)
    with pytest.raises(ValueError, match=problem) as caught:
        read_d4rl(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ({"observations": None}, "observations"),
        ({"terminals": None}, "terminals"),
        ({"actions": None}, "actions"),
        ({"actions": np.zeros((11, 1))}, "actions have 11 rows; observations have 12"),
        ({"next_observations": np.zeros((13, 2))}, "next_observations have 13 rows"),
        ({"terminals": np.zeros((12, 2))}, r"terminals have shape \[12, 2\]"),
        ({"timeouts": np.zeros(11)}, "timeouts have 11 rows"),
        ({"actions": np.array([b"x"] * 12)}, "actions is no array of numbers"),
        ({"actions": 3.0}, "actions is no array of numbers with rows"),
        ({"observations__a": np.zeros(3), "observations": None}, "observations is no array of numbers"),
        ({"infos__goal": np.zeros((12, 2)), "observations": np.zeros(12)}, "begin with a place"),
        ({"observations": np.zeros((1, 2))}, "observations have 1 rows"),
    ],
)
def test_another_layout_is_refused(write: Write, arrays: Any, problem: str) -> None:
    path = write(**arrays)
    with pytest.raises(ValueError, match=problem) as caught:
        read_d4rl(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_damaged_and_missing_files(write: Write, tmp_path: Path) -> None:
    path = write()
    content = path.read_bytes()
    for damaged in (b"", b"nothing", content[: len(content) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="is damaged or no D4RL file"):
            read_d4rl(path)
    with pytest.raises(FileNotFoundError, match="there is no D4RL file"):
        read_d4rl(tmp_path / "none.hdf5")
    with pytest.raises(IsADirectoryError):
        read_d4rl(tmp_path)


def test_without_h5py_the_message_says_how_to_get_it(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path, real = write(), builtins.__import__

    def without(name: str, *arguments: Any) -> Any:
        if name == "h5py":
            raise ImportError(name)
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=re.escape('pip install ".[d4rl]"')):
        read_d4rl(path)
