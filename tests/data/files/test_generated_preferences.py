"""Malformed preference files and arguments by the thousand."""

import io
import json
import warnings
import zipfile
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
Refused = Callable[[bytes], str]

COMPRESSIONS = st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)

# ---- ways to spoil a file that must be refused


def drop(archive: Any, draw: st.DrawFn) -> bytes:
    gone = draw(st.sets(st.sampled_from(sorted(archive.members)), min_size=1))
    return bytes(archive.without(*gone).zip())


def rename(archive: Any, draw: st.DrawFn) -> bytes:
    name = draw(st.sampled_from(sorted(archive.members)))
    other = draw(st.text("abfirst_oslen./\\é", min_size=1, max_size=12))
    return bytes(archive.without(name).with_member(other, archive.members[name]).zip())


def duplicate(archive: Any, draw: st.DrawFn) -> bytes:
    names = st.sampled_from(sorted(archive.members))
    buffer = io.BytesIO(archive.zip())
    with zipfile.ZipFile(buffer, "a") as opened, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        opened.writestr(f"{draw(names)}.npy", archive.members[draw(names)])
    return buffer.getvalue()


def forge_header(archive: Any, draw: st.DrawFn) -> bytes:
    """A header that the schema believes and the bytes do not, or that describes nothing we take."""
    name = draw(st.sampled_from(archive.arrays))
    array = archive.array(name)
    sizes = st.sampled_from([1, 2, 5, 10**6, 2**31, 2**40, 2**63, 10**18])
    shape = draw(st.lists(sizes, max_size=4).filter(lambda s: np.prod(s, dtype=object) != array.size))
    strange = ["'|O'", "'<c16'", "'<U9'", "'<i3'", "[('a', '<i8')]", "1"]
    descr = draw(st.sampled_from([repr(array.dtype.str), *strange]))
    header = archive.header(descr, str(tuple(shape)), version=draw(st.sampled_from([1, 2])))
    forged = archive.with_member(name, header + array.tobytes())
    return bytes(forged.claiming(name, array.dtype.name, tuple(shape)).zip())


def change_dtype(archive: Any, draw: st.DrawFn) -> bytes:
    """A type that the array's field must not have."""
    free = ("obs", "actions")
    name = draw(st.sampled_from([name for name in archive.arrays if not name.endswith(free)]))
    array = archive.array(name)
    kinds = [
        "?",
        "u1",
        "i2",
        "i4",
        "i8",
        "u8",
        "f2",
        "f4",
        "f8",
        "c8",
        "O",
        "S3",
        "U4",
        "M8[D]",
        [("a", "i8")],
    ]
    kind = draw(st.sampled_from([kind for kind in kinds if np.dtype(kind) != array.dtype]))
    integers = array.astype("i8") if kind == "M8[D]" else array
    return bytes(archive.with_array(name, integers.astype(kind)).zip())


def change_value(archive: Any, draw: st.DrawFn) -> bytes:
    """One value that its field must not have."""
    not_finite = [np.nan, np.inf, -np.inf]
    wrong: dict[str, list[Any]] = {
        "first_lengths": [0, -1, 4, 2**62, -(2**63)],
        "second_lengths": [0, -3, 3, 2**31],
        "first_features": not_finite,
        "second_features": not_finite,
        "labels": not_finite,
        "weights": [*not_finite, -1.0, -1e-300],
        "annotators": [-1, 2, 2**40],
    }
    name = draw(st.sampled_from(sorted(wrong)))
    array = archive.array(name)
    array.reshape(-1)[draw(st.integers(0, array.size - 1))] = draw(st.sampled_from(wrong[name]))
    return bytes(archive.with_array(name, array).zip())


def change_shape(archive: Any, draw: st.DrawFn) -> bytes:
    """One array of another count or rank, on which it and the schema agree."""
    name = draw(st.sampled_from(archive.arrays))
    array = archive.array(name)
    others = [
        array[:-1],
        np.concatenate([array, array]),
        array[:0],
        array.reshape(-1)[0],
        array.reshape(2, 2, -1),
    ]
    return bytes(archive.with_array(name, np.asarray(draw(st.sampled_from(others)))).zip())


def change_schema(archive: Any, draw: st.DrawFn) -> bytes:
    schema = archive.schema
    key = draw(st.sampled_from([*sorted(schema), "another"]))
    value = draw(JSON)
    if key == "metadata" and isinstance(value, dict):  # any would do
        value = list(value)
    if key == "annotator_names" and isinstance(value, list):  # two would do
        value = value[:1]
    if key in schema and type(value) is type(schema[key]) and value == schema[key]:
        del schema[key]
    else:
        schema[key] = value
    return bytes(archive.with_schema(schema).zip())


def spoil_json(archive: Any, draw: st.DrawFn) -> bytes:
    text = json.dumps(archive.schema).encode()
    spoilt = [
        text[: draw(st.integers(0, len(text) - 1))],
        draw(st.binary(max_size=40)),
        text + text,
        b"\xff" + text,
        text.replace(b'"count": 4', b'"count": NaN'),
        text.replace(b'"count"', b'"version": 1, "count"'),
    ]
    return bytes(archive.with_schema(draw(st.sampled_from(spoilt))).zip())


def other_bytes(archive: Any, draw: st.DrawFn) -> bytes:
    return draw(st.binary(max_size=200))


def truncate(archive: Any, draw: st.DrawFn) -> bytes:
    content = archive.zip(draw(COMPRESSIONS))
    return bytes(content[: draw(st.integers(0, len(content) - 1))])


MALFORMED = [drop, rename, duplicate, forge_header, change_dtype, change_value, change_shape, change_schema,
             spoil_json, other_bytes, truncate]  # fmt: skip

# ---- ways to damage a file that may leave it valid (a flipped bit of a date in the zip, another action)


def flip(archive: Any, draw: st.DrawFn) -> bytes:
    content = bytearray(archive.zip(draw(COMPRESSIONS)))
    for _ in range(draw(st.integers(1, 3))):
        content[draw(st.integers(0, len(content) - 1))] ^= draw(st.integers(1, 255))
    return bytes(content)


def flip_inside(archive: Any, draw: st.DrawFn) -> bytes:
    """A byte changed before it was zipped, so that every checksum is right."""
    name = draw(st.sampled_from(sorted(archive.members)))
    content = bytearray(archive.members[name])
    content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    return bytes(archive.with_member(name, bytes(content)).zip())


def cut_out(archive: Any, draw: st.DrawFn) -> bytes:
    content = archive.zip()
    start, end = sorted((draw(st.integers(0, len(content))), draw(st.integers(0, len(content)))))
    return bytes(content[:start] + draw(st.binary(max_size=20)) + content[end:])


DAMAGED = [flip, flip_inside, cut_out]


def spoil(data: st.DataObject, archive: Any, ways: list[Callable[[Any, st.DrawFn], bytes]]) -> bytes:
    return data.draw(st.sampled_from(ways))(archive, data.draw)


def check_damaged(data: st.DataObject, archive: Any, path: Path) -> None:
    path.write_bytes(spoil(data, archive, DAMAGED))
    text = ""
    try:
        load_preferences(path).validate()
    except ValueError as error:
        text = str(error)
    assert not text or text.startswith(str(path))
    assert "\n" not in text


@given(data=st.data())
@settings(max_examples=200)
def test_malformed_files_are_refused(data: st.DataObject, archive: Any, refused: Refused) -> None:
    refused(spoil(data, archive, MALFORMED))


@given(data=st.data())
@settings(max_examples=150)
def test_damaged_files_are_refused_or_valid(data: st.DataObject, archive: Any, session_path: Path) -> None:
    check_damaged(data, archive, session_path)


@pytest.mark.slow
@given(data=st.data())
@settings(max_examples=2000)
def test_two_thousand_malformed_files_are_refused(
    data: st.DataObject, archive: Any, refused: Refused
) -> None:
    refused(spoil(data, archive, MALFORMED))


@pytest.mark.slow
@given(data=st.data())
@settings(max_examples=2000)
def test_two_thousand_damaged_files_are_refused_or_valid(
    data: st.DataObject, archive: Any, session_path: Path
) -> None:
    check_damaged(data, archive, session_path)


# ---- arguments

ARGUMENT_CHANGES: dict[str, Callable[[Tensor], Any]] = {
    "shorter": lambda x: x[:-1],
    "longer": lambda x: torch.cat([x, x]),
    "one more axis": lambda x: x[None],
    "scalar": lambda x: x.reshape(-1)[0],
    "complex": lambda x: x + torch.tensor(1j),
    "bfloat16": lambda x: x.to(torch.bfloat16),
    "sparse": lambda x: x.to_sparse(),
    "without values": lambda x: x.to("meta"),
    "not finite": lambda x: x / torch.zeros(()),
    "list": lambda x: x.tolist(),
    "array": lambda x: x.numpy(),
    "text": lambda x: "labels",
}


def save_spoilt(
    path: Path, preferences: Preferences, owner: str | None, name: str, change: Callable[[Tensor], Any]
) -> None:
    """Change one field of the comparisons, or of one side, and save them."""
    if owner is None:
        spoilt = replace(preferences, **{name: change(getattr(preferences, name))})
    else:
        side = getattr(preferences, owner)
        spoilt = replace(preferences, **{owner: replace(side, **{name: change(getattr(side, name))})})
    save_preferences(path, spoilt)


def check_argument(data: st.DataObject, make_preferences: Make, path: Path) -> None:
    """One field is spoilt: building or saving refuses it, and the file that was there stays."""
    preferences = make_preferences(*(data.draw(st.integers(1, 6)) for _ in range(3)))
    save_preferences(path, preferences)
    before = path.read_bytes()
    change = ARGUMENT_CHANGES[data.draw(st.sampled_from(sorted(ARGUMENT_CHANGES)))]
    owner = data.draw(st.sampled_from(["first", "second", None]))
    names = ["labels", "weights", "annotators"] if owner is None else [f.name for f in fields(Segments)]
    name = data.draw(st.sampled_from(names))
    with pytest.raises((TypeError, ValueError), match=r"\A[^\n]+\Z"):
        save_spoilt(path, preferences, owner, name, change)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


@given(data=st.data())
@settings(max_examples=100)
def test_malformed_arguments_are_refused(
    data: st.DataObject, make_preferences: Make, session_path: Path
) -> None:
    check_argument(data, make_preferences, session_path)


@pytest.mark.slow
@given(data=st.data())
@settings(max_examples=1000)
def test_a_thousand_malformed_arguments_are_refused(
    data: st.DataObject, make_preferences: Make, session_path: Path
) -> None:
    check_argument(data, make_preferences, session_path)
