"""What goes wrong with a file is one ValueError; text and archives are judged before they are read."""

import errno
import gzip
import io
import json
import os
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prefrl.reading import archives
from prefrl.reading.archives import opened, read_npz
from prefrl.reading.errors import MAX_MESSAGE, reading, refusal, taking_over
from prefrl.reading.text import MAX_DEPTH, parse_json, read_json, read_table, read_text

ERRORS = (
    RecursionError("maximum recursion depth exceeded"),
    MemoryError(),
    OverflowError("too\nlarge"),
    KeyError("format"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"),
    zipfile.BadZipFile("x" * 5000),
    RuntimeError("a\nb\n" * 900),
    EOFError(),
    AssertionError(),
    struct.error("short"),
    OSError(errno.EINVAL, "points nowhere"),
    OSError("no gzip"),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "file").write_bytes(b"{}")
    return tmp_path / "file"


@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_whatever_goes_wrong_is_one_error(path: Path, error: Exception) -> None:
    with (
        pytest.raises(ValueError, match=r"\A[^\n]* is damaged or no thing \([^\n]+\)?\Z") as caught,
        reading(path, "thing"),
    ):
        raise error
    assert str(caught.value).startswith(str(path))
    assert len(str(caught.value)) < 500
    assert type(caught.value) is ValueError


def test_a_sentence_stays_one(path: Path) -> None:
    for sentence in ("w is 3;\nit must be 4", f"{path}: w is 3; it must be 4"):
        with pytest.raises(ValueError, match=rf"\A{path}: w is 3; it must be 4\Z"), reading(path, "thing"):
            raise ValueError(sentence)
    with pytest.raises(ValueError, match="is damaged or no thing"), reading(path, "thing", sentences=False):
        raise ValueError("w is 3")
    with (
        pytest.raises(ValueError, match=rf"\A{path} holds no state of it: 'w' is missing"),
        taking_over(path, "state of it"),
    ):
        raise KeyError("w")


def test_long_messages_are_cut_and_long_paths_are_not(tmp_path: Path) -> None:
    assert len(str(refusal("p", "x" * 9999))) == MAX_MESSAGE
    long = "/".join(["n" * 200] * 5)
    assert long in str(refusal(long, "x" * 9999))
    assert "xxx ..." in str(refusal(long, "x" * 9999))


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no thing"), reading(tmp_path / "none", "thing"):
        pass
    with (
        pytest.raises(IsADirectoryError, match="is a folder; give the path of a thing"),
        reading(tmp_path, "thing"),
    ):
        pass
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="is no regular file"), reading(tmp_path / "pipe", "thing"):
        pass


def test_trouble_with_the_disk_is_no_damage(path: Path) -> None:
    with pytest.raises(OSError, match="Input/output error"), reading(path, "thing"):
        raise OSError(errno.EIO, "Input/output error")


# Text ----------------------------------------------------------------------------------------------------


def test_text_is_bounded_and_utf8(path: Path) -> None:
    path.write_bytes("﻿é".encode())
    assert read_text(path, "text") == "é"
    with pytest.raises(ValueError, match="it has more than 4 bytes"):
        read_text(path, "text", most=4)
    path.write_bytes(b"\xff")
    with pytest.raises(ValueError, match="damaged or no text"):
        read_text(path, "text")


def test_json_is_an_object_that_can_be_walked_through(path: Path) -> None:
    for text in ("[1]", "3", "{", '{"a": ' * 60_000, "", "{'a': 1}"):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"\A[^\n]{1,499}\Z"):
            read_json(path)
    deep = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert parse_json(deep) == json.loads(deep)
    with pytest.raises(ValueError, match=f"nested more than {MAX_DEPTH} deep"):
        parse_json(f"[{deep}]")


@pytest.mark.parametrize("name", ["table.csv.gz", "table.csv.xz", "table.bz2"])
def test_a_name_decompresses_nothing(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(gzip.compress(b"a,b\n1,2\n" * 100))
    with pytest.raises(ValueError, match="damaged or no table"):
        read_table(tmp_path / name, "table")
    (tmp_path / name).write_bytes(b"a,b\n\n1,2\n")
    assert read_table(tmp_path / name, "table") == [["a", "b"], ["1", "2"]]


# Archives ------------------------------------------------------------------------------------------------


def archive(path: Path, entries: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        for name, content in entries.items():
            file.writestr(name, content)
    return path


def npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def test_arrays_of_numbers_are_read(path: Path) -> None:
    for dtype in ("float64", "float16", "uint8", "uint16", "int64", ">i4"):
        written = np.arange(6).reshape(2, 3).astype(dtype)
        np.savez_compressed(path.with_suffix(".npz"), a=written, b=written.T)
        found = read_npz(path.with_suffix(".npz"), "thing")
        assert (found["a"] == written).all()
        assert (found["b"] == written.T).all()
        assert found["a"].dtype == written.dtype.newbyteorder("=")


@pytest.mark.parametrize(
    "shape", ["(3000,)", "(1,)", "(18446744073709551616,)", "(True,)", "(-1,)", "(1.5,)", "(2"]
)
def test_a_header_says_what_is_there_or_is_refused(path: Path, shape: str) -> None:
    whole = npy(np.zeros(300))
    forged = whole.replace(b"(300,)", shape.encode().ljust(6))
    assert forged != whole
    with pytest.raises(ValueError, match="the array 'a' cannot be read: its"):
        read_npz(archive(path, {"a.npy": forged}), "thing")


def test_other_arrays_are_refused(path: Path) -> None:
    for array in (np.array(["a"]), np.array([True]), np.array([1j]), np.array([None])):
        with pytest.raises(ValueError, match="its dtype is"):
            read_npz(archive(path, {"a.npy": npy(array)}), "thing")
    with pytest.raises(ValueError, match=r"does not start with a \.npy header"):
        read_npz(archive(path, {"a.npy": b"text of some length"}), "thing")


def test_a_directory_is_judged_before_anything_is_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_EXPANDED_BYTES", 10_000)
    with pytest.raises(ValueError, match="the arrays expand to 20000 bytes from a file of"):
        read_npz(archive(path, {"a.npy": bytes(20_000)}, zipfile.ZIP_DEFLATED), "thing")
    archive(path, {"a.npy": bytes(20)}, zipfile.ZIP_DEFLATED)
    with (
        pytest.raises(ValueError, match=r"'a' has compression method 8; allowed are 0 \(none\)"),
        opened(path, stored=True),
    ):
        pass
    with pytest.raises(ValueError, match="'a' is there twice"):
        read_npz(archive(path, {"a.npy": b"", "a": b""}), "thing")


def test_stored_entries_have_together_no_more_than_the_file(path: Path) -> None:
    """Two entries of the directory may stand for the same bytes."""
    content = bytearray(archive(path, {"a": bytes(5000), "b": bytes(5000)}).read_bytes())
    first = content.index(b"PK\x01\x02")
    second = content.index(b"PK\x01\x02", first + 1)
    start = content.index(b"PK\x03\x04", 1)
    cut = content[:start] + content[first:second] + content[second:]  # the second entry's bytes are gone
    end = cut.index(b"PK\x05\x06")
    cut[end + 16 : end + 20] = struct.pack("<I", start)
    path.write_bytes(cut)
    with (
        pytest.raises(ValueError, match="the arrays expand to 10000 bytes from a file of"),
        opened(path, stored=True),
    ):
        pass
