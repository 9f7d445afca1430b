"""Preference files: what goes in comes out, and a failing save leaves what was there."""

import json
import os
import re
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from prefrl.data import Preferences, Segments, load_preferences, save_preferences

Make = Callable[..., Preferences]


def assert_same(one: Preferences, other: Preferences) -> None:
    pairs = [(getattr(one, n), getattr(other, n)) for n in ("labels", "weights", "annotators", "offsets")]
    for a, b in ((one.first, other.first), (one.second, other.second)):
        pairs += [(getattr(a, f.name), getattr(b, f.name)) for f in fields(Segments)]
    for a, b in pairs:
        assert (a is None) == (b is None)
        if a is not None:
            assert a.dtype == b.dtype
            assert a.shape == b.shape
            assert a.numpy().tobytes() == b.numpy().tobytes()
    assert one.annotator_names == other.annotator_names
    assert one.metadata == other.metadata


# ---------------------------------------------------------------- what goes in comes out


@pytest.mark.parametrize(
    "kind",
    [
        {},
        {"num_features": None},
        {"obs_dtype": torch.uint8, "obs_shape": (5, 4, 3), "num_features": None},
        {"obs_dtype": torch.float32, "obs_shape": (3,), "action_dtype": torch.float64, "action_shape": (2,)},
        {"obs_dtype": torch.float16, "obs_shape": (2,), "action_dtype": torch.int8, "action_shape": (1, 2)},
        {"obs_dtype": torch.bool, "obs_shape": (2,), "action_dtype": torch.uint8},
        {"obs_dtype": torch.int16, "action_dtype": torch.int32},
        {"count": 0},
        {"count": 1, "longest": 1, "second_longest": 7},
        {"offsets": True},
        {"count": 0, "offsets": True},
    ],
)
def test_round_trip(make_preferences: Make, kind: dict[str, Any], tmp_path: Path) -> None:
    preferences = make_preferences(**kind)
    path = tmp_path / "preferences.npz"
    save_preferences(path, preferences)
    assert_same(load_preferences(path), preferences)
    assert [file.name for file in tmp_path.iterdir()] == ["preferences.npz"]


@given(
    count=st.integers(0, 5),
    longest=st.integers(1, 4),
    second_longest=st.integers(1, 4),
    seed=st.integers(0, 1000),
    numbers=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=10, max_size=10),
    names=st.lists(st.text(max_size=4), min_size=2, max_size=4),
    metadata=st.dictionaries(
        st.text(max_size=3),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
            | st.text(max_size=5),
            lambda inner: st.lists(inner, max_size=3)
            | st.dictionaries(st.text(max_size=3), inner, max_size=3),
            max_leaves=5,
        ),
        max_size=3,
    ),
)  # fmt: skip
@settings(max_examples=50)
def test_round_trip_of_anything_valid(
    make_preferences: Make,
    count: int,
    longest: int,
    second_longest: int,
    seed: int,
    numbers: list[float],
    names: list[str],
    metadata: dict[str, Any],
    session_path: Path,
) -> None:
    numbers_used = torch.tensor(numbers, dtype=torch.float64)
    preferences = replace(
        make_preferences(count, longest, second_longest),
        labels=numbers_used[:count],  # any real number, -0.0 and 5e-324 included
        weights=numbers_used[5 : 5 + count].abs(),
        annotator_names=tuple(names),
        metadata=metadata,
    )
    save_preferences(session_path, preferences)
    assert_same(load_preferences(session_path), preferences)


def test_views_gradients_and_odd_strides_are_saved_as_numbers(make_preferences: Make, tmp_path: Path) -> None:
    preferences = make_preferences()
    labels = torch.stack([preferences.labels, preferences.labels], 1)[:, 0].requires_grad_()
    turned = preferences.first.actions.t().contiguous().t()
    assert not turned.is_contiguous()
    odd = replace(preferences, labels=labels, first=replace(preferences.first, actions=turned))
    save_preferences(tmp_path / "odd.npz", odd)
    assert_same(load_preferences(tmp_path / "odd.npz"), preferences)


def test_what_is_loaded_can_be_written_to(make_preferences: Make, tmp_path: Path) -> None:
    save_preferences(tmp_path / "a.npz", make_preferences())
    loaded = load_preferences(tmp_path / "a.npz")
    loaded.labels[0] = 9.0  # torch warns about, and numpy refuses, memory that is not ours
    assert loaded.labels[0] == 9.0
    assert all(value.numpy().flags.writeable for value in (loaded.first.obs, loaded.weights))


def test_same_preferences_same_bytes(make_preferences: Make, tmp_path: Path) -> None:
    for name in ("a.npz", "b.npz"):
        save_preferences(tmp_path / name, make_preferences())
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_numpy_reads_the_file(make_preferences: Make, tmp_path: Path) -> None:
    preferences = make_preferences()
    save_preferences(tmp_path / "a.npz", preferences)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as content:
        assert set(content) == {
            *(f"{s}_{n.name}" for s in ("first", "second") for n in fields(Segments)),
            *("labels", "weights", "annotators", "schema"),
        }
        assert content["first_obs"].tolist() == preferences.first.obs.tolist()
        schema = json.loads(content["schema"].tobytes())
    assert schema["format"] == "prefrl-preferences"
    assert schema["version"] == 1
    assert schema["count"] == 4
    assert schema["arrays"]["second_obs"] == {"dtype": "int64", "shape": [4, 3]}
    assert schema["annotator_names"] == ["ann", "b√b"]
    assert schema["metadata"] == preferences.metadata


def test_offsets_are_in_a_file_only_where_there_are_some(make_preferences: Make, tmp_path: Path) -> None:
    """Files without them are those of before, which older releases read."""
    for name, offsets in (("without.npz", False), ("with.npz", True)):
        save_preferences(tmp_path / name, make_preferences(offsets=offsets))
        with np.load(tmp_path / name) as content:
            assert ("offsets" in content) == offsets
            schema = json.loads(content["schema"].tobytes())
        assert ("offsets" in schema["arrays"]) == offsets
        assert schema["version"] == 1
    assert load_preferences(tmp_path / "without.npz").offsets is None


# ---------------------------------------------------------------- a failing save


def endless(more: int, *shape: int) -> Callable[[Tensor], Tensor]:
    """No segments of 2,097,152 steps each."""
    return lambda x: x.new_zeros(0, (1 << 21) - 1 + more, *shape)


BAD_TO_SAVE: list[tuple[Callable[[Preferences], Any], str]] = [
    (lambda p: None, "preferences is a NoneType; it must be Preferences"),
    (lambda p: p.first, "preferences is a Segments"),
    (lambda p: replace(p, labels=p.labels / 0), r"labels\[0\] hold NaN or infinity"),
    (lambda p: replace(p, offsets=p.labels / 0), r"offsets\[0\] hold NaN or infinity"),
    (lambda p: replace(p, offsets=p.labels.float()), "offsets have dtype torch.float32"),
    (lambda p: replace(p, weights=p.weights - 1), r"weights\[0\] is -1.0"),
    (lambda p: replace(p, metadata={"x": object()}), "metadata must hold JSON"),
    (lambda p: replace(p, metadata={"x": "y" * (1 << 20)}), "bytes as JSON; at most 1048576"),
    (lambda p: replace(p, annotators=p.annotators + 5), r"annotators\[0\] is 5"),
    (lambda p: p.to("meta"), "meta"),
    (lambda p: with_sides(p, obs=lambda x: x.to(torch.bfloat16)), "first_obs has dtype torch.bfloat16"),
    (lambda p: with_sides(p, obs=lambda x: x.to(torch.complex64)), "first_obs has dtype torch.complex64"),
    (lambda p: with_sides(p, actions=lambda x: x[..., None][..., :0]), r"actions has shape \[4, 3, 0\]"),
    (lambda p: with_sides(p, actions=lambda x: x.reshape(*x.shape, *[1] * 31)), "33 axes; at most 32"),
    (lambda p: with_sides(p[:0], obs=endless(1), actions=endless(0), features=endless(0, 1)), "0, 2097152"),
]


def with_sides(preferences: Preferences, **changes: Callable[[Tensor], Tensor]) -> Preferences:
    """Change the arrays of both sides."""
    sides = [
        replace(side, **{name: change(getattr(side, name)) for name, change in changes.items()})
        for side in (preferences.first, preferences.second)
    ]
    return replace(preferences, first=sides[0], second=sides[1])


@pytest.mark.parametrize(("change", "message"), BAD_TO_SAVE)
def test_what_cannot_be_saved_leaves_the_former_file(
    make_preferences: Make, change: Callable[[Preferences], Any], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "p.npz"
    save_preferences(path, make_preferences(3))
    before = path.read_bytes()
    with pytest.raises((TypeError, ValueError), match=message):
        save_preferences(path, change(make_preferences()))
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["p.npz"]


def test_a_write_error_at_any_byte_leaves_the_former_file(make_preferences: Make, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")  # the system itself refuses to write more
    path = tmp_path / "p.npz"
    save_preferences(path, make_preferences(3))
    before = path.read_bytes()
    save_preferences(tmp_path / "size.npz", make_preferences(40))
    size = (tmp_path / "size.npz").stat().st_size
    (tmp_path / "size.npz").unlink()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in [*range(0, size, size // 40), size - 1]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises(OSError, match="File too large"):
                save_preferences(path, make_preferences(40))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert path.read_bytes() == before
        assert [file.name for file in tmp_path.iterdir()] == ["p.npz"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_an_error_after_writing_leaves_the_former_file(
    make_preferences: Make, step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "p.npz"
    save_preferences(path, make_preferences(3))
    before = path.read_bytes()

    def fail(*arguments: Any) -> Any:
        raise OSError("the disk is gone")

    monkeypatch.setattr(*((os, "fsync") if step == "fsync" else (Path, "replace")), fail)
    with pytest.raises(OSError, match="the disk is gone"):
        save_preferences(path, make_preferences())
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["p.npz"]


def test_places_that_hold_no_file(
    make_preferences: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FileNotFoundError, match=r"no preference file .*missing\.npz"):
        load_preferences(tmp_path / "missing.npz")
    with pytest.raises(IsADirectoryError, match="is a folder"):
        load_preferences(tmp_path)
    with pytest.raises(IsADirectoryError, match="is a folder"):
        save_preferences(tmp_path, make_preferences())
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        save_preferences(tmp_path / "nowhere" / "a.npz", make_preferences())
    save_preferences(tmp_path / "a.npz", make_preferences())

    def forbidden(*arguments: Any, **options: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", forbidden)  # the superuser, who may run this, is refused nothing
    with pytest.raises(PermissionError):
        load_preferences(tmp_path / "a.npz")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_pipes_are_refused_at_once(make_preferences: Make, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="no regular file"):
        load_preferences(tmp_path / "pipe")
    with pytest.raises(ValueError, match="no regular file"):
        save_preferences(tmp_path / "pipe", make_preferences())


def test_the_page_on_the_format_runs(
    project_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (project_root / "docs" / "preferences" / "preference_files.md").read_text("utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)
    assert len(blocks) == 3
    monkeypatch.chdir(tmp_path)
    exec("\n".join(blocks), {})
    assert sorted(file.name for file in tmp_path.iterdir()) == ["clips.npz", "other.npz"]
