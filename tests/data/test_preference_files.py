"""Preference files: what goes in comes out, and nothing malformed gets in."""

import io
import json
import os
import struct
import zipfile
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from prefrl.data import Preferences, Segments, load_preferences, preference_files, save_preferences

Members = dict[str, bytes]
"""What stands in the zip, by member name."""


def random_segments(
    count: int,
    longest: int,
    *,
    seed: int,
    obs_shape: tuple[int, ...] = (),
    obs_dtype: torch.dtype = torch.int64,
    action_shape: tuple[int, ...] = (),
    action_dtype: torch.dtype = torch.int64,
    num_features: int | None = 2,
) -> Segments:
    """Canonically padded segments of numbers from 0 to 99 (floats: with a fraction)."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int, dtype: torch.dtype) -> Tensor:
        numbers = torch.rand(shape, generator=generator, dtype=torch.float64) * 100
        return (numbers > 50) if dtype == torch.bool else numbers.to(dtype)

    lengths = torch.randint(1, longest + 1, (count,), generator=generator)
    obs = draw(count, longest + 1, *obs_shape, dtype=obs_dtype)
    actions = draw(count, longest, *action_shape, dtype=action_dtype)
    features = None if num_features is None else draw(count, longest, num_features, dtype=torch.float64)
    for i in range(count):
        end = int(lengths[i])
        obs[i, end + 1 :] = obs[i, end].clone()
        actions[i, end:] = 0
        if features is not None:
            features[i, end:] = 0
    return Segments(obs, actions, lengths, lengths % 2 == 0, features)


def random_preferences(count: int = 4, longest: int = 3, second_longest: int = 2, **kind: Any) -> Preferences:
    return Preferences(
        random_segments(count, longest, seed=1, **kind),
        random_segments(count, second_longest, seed=2, **kind),
        torch.linspace(-0.5, 1.5, count, dtype=torch.float64),
        torch.arange(count, dtype=torch.float64) / 3,
        torch.arange(count) % 2,
        ("ann", "b√b"),
        {"environment": "prefrl/Delivery-v0", "nested": {"list": [1, 2.5, None, True, "é\n"]}},
    )


def assert_same(one: Preferences, other: Preferences) -> None:
    pairs = [(getattr(one, n), getattr(other, n)) for n in ("labels", "weights", "annotators")]
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


def write_zip(members: Members, compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def to_members(preferences: Preferences, folder: Path) -> Members:
    save_preferences(folder / "base.npz", preferences)
    with zipfile.ZipFile(folder / "base.npz") as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def read_schema(members: Members) -> dict[str, Any]:
    schema = json.loads(np.load(io.BytesIO(members["schema.npy"])).tobytes())
    assert isinstance(schema, dict)
    return schema


def with_schema(members: Members, schema: Any) -> Members:
    text = schema if isinstance(schema, bytes) else json.dumps(schema).encode()
    return {**members, "schema.npy": npy(np.frombuffer(text, np.uint8))}


def with_array(members: Members, name: str, array: Any) -> Members:
    """Replace an array, and tell the schema."""
    schema = read_schema(members)
    schema["arrays"][name] = {"dtype": array.dtype.name, "shape": list(array.shape)}
    return with_schema({**members, f"{name}.npy": npy(array)}, schema)


def array_of(members: Members, name: str) -> Any:
    return np.load(io.BytesIO(members[f"{name}.npy"]))


def forged_header(descr: str, shape: str, *, fortran: str = "False", version: int = 1) -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n".encode()
    size = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + size + text


@pytest.fixture(scope="session")
def members(tmp_path_factory: pytest.TempPathFactory) -> Members:
    """A valid file's members."""
    return to_members(random_preferences(), tmp_path_factory.mktemp("members"))


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
    ],
)
def test_round_trip(kind: dict[str, Any], tmp_path: Path) -> None:
    preferences = random_preferences(**kind)
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
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
            max_leaves=5,
        ),
        max_size=3,
    ),
)  # fmt: skip
@settings(max_examples=50)
def test_round_trip_of_anything_valid(
    count: int,
    longest: int,
    second_longest: int,
    seed: int,
    numbers: list[float],
    names: list[str],
    metadata: dict[str, Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.npz"
    numbers_used = torch.tensor(numbers, dtype=torch.float64)
    preferences = replace(
        random_preferences(count, longest, second_longest),
        labels=numbers_used[:count],  # any real number, -0.0 and 5e-324 included
        weights=numbers_used[5 : 5 + count].abs(),
        annotator_names=tuple(names),
        metadata=metadata,
    )
    save_preferences(path, preferences)
    assert_same(load_preferences(path), preferences)


def test_views_gradients_and_odd_strides_are_saved_as_numbers(tmp_path: Path) -> None:
    preferences = random_preferences()
    labels = torch.stack([preferences.labels, preferences.labels], 1)[:, 0].requires_grad_()
    turned = preferences.first.actions.t().contiguous().t()
    assert not turned.is_contiguous()
    odd = replace(preferences, labels=labels, first=replace(preferences.first, actions=turned))
    save_preferences(tmp_path / "odd.npz", odd)
    assert_same(load_preferences(tmp_path / "odd.npz"), preferences)


def test_what_is_loaded_can_be_written_to(tmp_path: Path) -> None:
    save_preferences(tmp_path / "a.npz", random_preferences())
    loaded = load_preferences(tmp_path / "a.npz")
    loaded.labels[0] = 9.0  # torch warns about, and numpy refuses, memory that is not ours
    assert loaded.labels[0] == 9.0
    assert all(value.numpy().flags.writeable for value in (loaded.first.obs, loaded.weights))


def test_same_preferences_same_bytes(tmp_path: Path) -> None:
    for name in ("a.npz", "b.npz"):
        save_preferences(tmp_path / name, random_preferences())
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_numpy_reads_the_file(tmp_path: Path) -> None:
    preferences = random_preferences()
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


def test_files_of_other_writers_are_read(members: Members, tmp_path: Path) -> None:
    """Compressed, column-major and big-endian arrays, as numpy may write them."""
    obs = np.asfortranarray(array_of(members, "first_obs"))
    assert obs.flags.f_contiguous
    other = {
        **members,
        "first_obs.npy": npy(obs),
        "labels.npy": npy(array_of(members, "labels").astype(">f8")),
    }
    assert b"'fortran_order': True" in other["first_obs.npy"]
    (tmp_path / "other.npz").write_bytes(write_zip(other, zipfile.ZIP_DEFLATED))
    assert_same(load_preferences(tmp_path / "other.npz"), random_preferences())


def test_header_of_version_2_is_read(members: Members, tmp_path: Path) -> None:
    labels = forged_header("'<f8'", "(4,)", version=2) + array_of(members, "labels").tobytes()
    (tmp_path / "v2.npz").write_bytes(write_zip({**members, "labels.npy": labels}))
    assert_same(load_preferences(tmp_path / "v2.npz"), random_preferences())


# ---------------------------------------------------------------- a failing save


BAD_TO_SAVE: list[tuple[Callable[[Preferences], Any], str]] = [
    (lambda p: None, "preferences is a NoneType; it must be Preferences"),
    (lambda p: p.first, "preferences is a Segments"),
    (lambda p: replace(p, labels=p.labels / 0), r"labels\[0\] hold NaN or infinity"),
    (lambda p: replace(p, weights=p.weights - 1), r"weights\[0\] is -1.0"),
    (lambda p: replace(p, metadata={"x": object()}), "metadata must hold JSON"),
    (lambda p: replace(p, metadata={"x": "y" * (1 << 20)}), "bytes as JSON; at most 1048576"),
    (lambda p: replace(p, annotators=p.annotators + 5), r"annotators\[0\] is 5"),
    (lambda p: p.to("meta"), "meta"),
    (lambda p: with_sides(p, obs=lambda x: x.to(torch.bfloat16)), "obs is a .* of torch.bfloat16; allowed"),
    (lambda p: with_sides(p, obs=lambda x: x.to(torch.complex64)), "obs is a .* of torch.complex64; allowed"),
    (lambda p: with_sides(p, actions=lambda x: x[..., None][..., :0]), r"actions has shape \[4, 3, 0\]"),
    (lambda p: with_sides(p, actions=lambda x: x.reshape(*x.shape, *[1] * 31)), "33 axes; at most 32"),
    (lambda p: with_sides(p[:0], obs=lambda x: x.new_zeros(0, 1 << 21), actions=lambda x: x.new_zeros(0, (1 << 21) - 1),
                          features=lambda x: x.new_zeros(0, (1 << 21) - 1, 1)), r"shape \[0, 2097152\]"),
]  # fmt: skip


def with_sides(preferences: Preferences, **changes: Callable[[Tensor], Tensor]) -> Preferences:
    """Change the arrays of both sides."""
    sides = [
        replace(side, **{name: change(getattr(side, name)) for name, change in changes.items()})
        for side in (preferences.first, preferences.second)
    ]
    return replace(preferences, first=sides[0], second=sides[1])


@pytest.mark.parametrize(("change", "message"), BAD_TO_SAVE)
def test_what_cannot_be_saved_leaves_the_former_file(
    change: Callable[[Preferences], Any], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "p.npz"
    save_preferences(path, random_preferences(3))
    before = path.read_bytes()
    with pytest.raises((TypeError, ValueError), match=message):
        save_preferences(path, change(random_preferences()))
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["p.npz"]


def test_a_write_error_at_any_byte_leaves_the_former_file(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")  # the system itself refuses to write more
    path = tmp_path / "p.npz"
    save_preferences(path, random_preferences(3))
    before = path.read_bytes()
    save_preferences(tmp_path / "size.npz", random_preferences(40))
    size = (tmp_path / "size.npz").stat().st_size
    (tmp_path / "size.npz").unlink()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in [*range(0, size, size // 40), size - 1]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises(OSError, match="File too large"):
                save_preferences(path, random_preferences(40))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert path.read_bytes() == before
        assert [file.name for file in tmp_path.iterdir()] == ["p.npz"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_an_error_after_writing_leaves_the_former_file(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "p.npz"
    save_preferences(path, random_preferences(3))
    before = path.read_bytes()

    def fail(*arguments: Any) -> Any:
        raise OSError("the disk is gone")

    monkeypatch.setattr(*((os, "fsync") if step == "fsync" else (Path, "replace")), fail)
    with pytest.raises(OSError, match="the disk is gone"):
        save_preferences(path, random_preferences())
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["p.npz"]


def test_places_that_hold_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match=r"no preference file .*missing\.npz"):
        load_preferences(tmp_path / "missing.npz")
    with pytest.raises(IsADirectoryError, match="is a folder"):
        load_preferences(tmp_path)
    with pytest.raises(IsADirectoryError, match="is a folder"):
        save_preferences(tmp_path, random_preferences())
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        save_preferences(tmp_path / "nowhere" / "a.npz", random_preferences())
    save_preferences(tmp_path / "a.npz", random_preferences())

    def forbidden(*arguments: Any, **options: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", forbidden)  # the superuser, who may run this, is refused nothing
    with pytest.raises(PermissionError):
        load_preferences(tmp_path / "a.npz")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_pipes_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="no regular file"):
        load_preferences(tmp_path / "pipe")
    with pytest.raises(ValueError, match="no regular file"):
        save_preferences(tmp_path / "pipe", random_preferences())


# ---------------------------------------------------------------- malformed files, one by one


def refused(path: Path, content: bytes) -> str:
    """Write the bytes, see them refused in one line that names the file, and return the rest of it."""
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"\A[^\n]*\Z") as caught:
        load_preferences(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    return text.removeprefix(f"{path}: ")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"hello", "damaged, or no preference file"),
        (npy(np.zeros(3)), "damaged, or no preference file"),
        (b"\x80\x04\x95", "damaged, or no preference file"),
        (write_zip({}), "there is no array 'schema'"),
        (write_zip({"labels.npy": npy(np.zeros(3))}), "there is no array 'schema'"),
        (write_zip({"schema.npy": b"{}"}), "'schema' cannot be read: it does not start with a .npy header"),
        (write_zip({"schema.npy": npy(np.zeros(3))}), r"schema is float64 \[3\]; it must be the uint8 bytes"),
        (write_zip({"schema.npy": npy(np.zeros((1 << 20) + 1, np.uint8))}), r"schema is uint8 \[1048577\]"),
        (write_zip({"schema.npy": npy(np.array(3, np.uint8))}), r"schema is uint8 \[\]"),
        (write_zip({"data.npy": npy(np.zeros(3))}, zipfile.ZIP_LZMA), "'data' has compression method 14"),
    ],
)
def test_what_is_no_preference_file(content: bytes, message: str, tmp_path: Path) -> None:
    assert pytest.raises(AssertionError, match="") is not None
    text = refused(tmp_path / "x.npz", content)
    assert __import__("re").search(message, text), text
