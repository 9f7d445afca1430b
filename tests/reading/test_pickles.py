"""The closed reader of pickles: equal to pickle.load for numbers; nothing else is read, run or imported."""

import os
import pickle
import random
import re
import sys
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable
from datetime import date
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mutating
import numpy as np
import pytest
from archives import unpack
from hypothesis import given, settings, strategies as st

from prefrl.reading import pickles
from prefrl.reading.pickles import parse_pickle, read_pickle

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
HERE = "PREFRL_HUMAN_ARCHIVES"
"""Environment variable: a folder with archives (.tar) or folders of published human comparisons."""

DTYPES = ("bool", "i1", "<i2", ">i4", "i8", "u1", "u2", ">u8", "f2", "f4", ">f8")


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal in every type, dtype, number and not-a-number."""
    if not (isinstance(one, type(other)) and isinstance(other, type(one))):
        return False
    if isinstance(one, np.ndarray):
        alike = one.dtype.newbyteorder("=") == other.dtype.newbyteorder("=") and one.shape == other.shape
        return alike and np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return list(one) == list(other) and all(map(same, one.values(), other.values()))
    return bool(one == other or (one != one and other != other))


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray[Any, Any]:
    """Arrays that NumPy writes in each of its ways: in C order, Fortran's, another one, or with gaps."""
    shape = draw(st.lists(st.integers(1, 4), max_size=3))
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    values = rng.integers(0, 256, [*shape, 16], dtype=np.uint8)
    if dtype.kind == "b":
        array = np.asarray(values[..., 0] > 99)
    else:
        array = np.ascontiguousarray(values[..., : dtype.itemsize]).view(dtype)[..., :1].reshape(shape)
    if array.ndim and draw(st.booleans()):
        array = array[::-1]
    if draw(st.booleans()):
        array = array.copy()
    return array.transpose(draw(st.permutations(range(array.ndim))))


NUMBERS = st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats()
VALUES = st.recursive(
    NUMBERS | arrays(),
    lambda part: st.lists(part) | st.lists(part).map(tuple) | st.dictionaries(st.text(), part),
    max_leaves=20,
)


@given(VALUES, st.sampled_from(PROTOCOLS))
@settings(max_examples=300)
def test_what_is_read_equals_what_pickle_reads(value: Any, protocol: int) -> None:
    content = pickle.dumps(value, protocol)
    assert same(parse_pickle(content), pickle.loads(content))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_old_spelling_of_numpy_is_read(protocol: int) -> None:
    value = {"a": np.arange(6.0).reshape(2, 3), "b": [np.arange(4)[::2], -1, 10**12, (True, (), [], {})]}
    now = pickle.dumps(value, protocol)
    if protocol >= 4:  # strings with their lengths before them
        old = re.sub(rb"(.)numpy\._core\.", lambda found: bytes([found[1][0] - 1]) + b"numpy.core.", now)
        old = (
            old[:3]
            + (int.from_bytes(old[3:11], "little") - len(now) + len(old)).to_bytes(8, "little")
            + old[11:]
        )
    else:
        old = now.replace(b"numpy._core.", b"numpy.core.")
    assert old != now
    assert same(parse_pickle(old), value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        assert same(pickle.loads(old), value)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_long_arrays_are_read(protocol: int) -> None:
    value = [np.zeros(30_000), np.full((300, 300), -1, np.int64)]
    assert same(parse_pickle(pickle.dumps(value, protocol)), value)


def test_an_array_that_is_there_twice_is_read_twice() -> None:
    array = np.arange(3)
    first, second = parse_pickle(pickle.dumps([array, array]))
    assert same(first, array)
    assert same(second, array)


def test_arrays_can_be_written_to() -> None:
    parse_pickle(pickle.dumps(np.arange(3)))[0] = 7


# What is refused ------------------------------------------------------------------------------------------

called = []


def count(*arguments: Any) -> int:
    """What must never be called."""
    called.append(arguments)
    return len(called)


class Calls:
    """Calls a function when it is unpickled."""

    def __init__(self, *parts: Any) -> None:
        self.parts = parts

    def __reduce__(self) -> Any:
        return self.parts


class Built:
    """Sets its state by a function when it is unpickled."""

    def __setstate__(self, state: Any) -> None:
        count(state)

    def __getstate__(self) -> Any:
        return {"a": 1}


class Slotted(list[int]):
    """A list of another class."""


def itself() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


def tower(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def laughs() -> list[Any]:
    value: list[Any] = [0] * 10
    for _ in range(8):
        value = [value] * 10
    return value


OPENING = b"\x80\x04"
GLOBAL = f"c{__name__}\ncount\n".encode()
ARRAY = pickle.dumps(np.arange(3, dtype="<i4"), 4)

HOSTILE: dict[str, tuple[bytes, str]] = {
    "a function called": (pickle.dumps(Calls(count, (1,))), "it calls for .*count"),
    "the same by protocol 0": (pickle.dumps(Calls(count, (1,)), 0), "it calls for .*count"),
    "eval": (b"cbuiltins\neval\n(Vcount()\ntR.", "it calls for 'builtins.eval'"),
    "a name of a module inside a module": (b"cos\npath.join\n.", "it calls for 'os.path.join'"),
    "a name of numpy's that runs code": (b"cnumpy\nload\n(Vx\ntR.", "it calls for 'numpy.load'"),
    "a numpy scalar": (pickle.dumps(np.int64(3)), "it calls for .*scalar"),
    "an object with a state": (pickle.dumps(Built()), "it calls for .*Built"),
    "an object by protocol 0": (b"(i" + GLOBAL[1:] + b".", "the operation INST"),
    "a class called": (b"(" + GLOBAL + b"I1\no.", "it calls for .*count"),
    "OBJ of an allowed name": (b"(cnumpy\nndarray\nI1\no.", "the operation OBJ"),
    "NEWOBJ of an allowed name": (OPENING + b"cnumpy\nndarray\n(I1\nt\x81.", "the operation NEWOBJ"),
    "an extension": (OPENING + b"\x82\x01.", "the operation EXT1"),
    "a persistent name": (b"Pname\n.", "the operation PERSID"),
    "a persistent value": (b"I1\nQ.", "the operation BINPERSID"),
    "a buffer from outside": (b"\x80\x05\x97.", "the operation NEXT_BUFFER"),
    "a list of another class": (pickle.dumps(Slotted([1])), "it calls for .*Slotted"),
    "a list's state": (b"(l(dVa\nI1\nsb.", "the state"),
    "a function that is no name": (b"I1\n(tR.", "it calls 1"),
    "ndarray called": (b"cnumpy\nndarray\n(I3\ntR.", "as NumPy's arrays do not"),
    "an array of another class": (
        pickle.dumps(np.arange(3)[::2].view(np.matrix)), "it calls for .*matrix"),
    "a name in the place of ndarray": (
        b"cnumpy.core.multiarray\n_reconstruct\n(Vndarray\n(I0\nt\x43\x01btR.", "as NumPy's arrays do not"),
    "encode by another codec": (b"c_codecs\nencode\n(Vx\nVrot13\ntR.", "as NumPy's arrays do not"),
    "an array of objects": (pickle.dumps(np.array([Calls(count, (1,))])), "dtype 'O8'|calls for"),
    "an array of texts": (pickle.dumps(np.array(["a"])), "dtype 'U1'"),
    "an array of dates": (pickle.dumps(np.array(["2020"], "M8[D]")), "dtype 'M8'"),
    "an array of complex numbers": (pickle.dumps(np.array([1j])), "dtype 'c16'"),
    "an array of records": (pickle.dumps(np.zeros(2, "i4,f8")), "dtype 'V12'"),
    "an array without numbers": (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntC\x01btR.", "it holds array"),
    "a number type alone": (b"cnumpy\ndtype\n(Vi4\nI00\nI01\ntR.", "it holds dtype"),
    "more numbers than bytes": (ARRAY.replace(b"K\x03\x85", b"K\x04\x85"), r"int32 \[4\] and has 12 bytes"),
    "truth values of 7": (
        pickle.dumps(np.array([True, False]), 4).replace(b"C\x02\x01\x00", b"C\x02\x07\x00"), "truth values"),
    "a text": (pickle.dumps("text"), "it holds 'text'"),
    "bytes": (pickle.dumps(b"bytes"), "it holds b'bytes'"),
    "None": (pickle.dumps([1, None]), "it holds None"),
    "a set": (pickle.dumps({1, 2}), "the operation EMPTY_SET"),
    "a frozen set": (pickle.dumps(frozenset({1})), "the operation FROZENSET"),
    "a date": (pickle.dumps(date(2020, 1, 1)), "it calls for 'datetime.date'"),
    "a fraction": (pickle.dumps(Fraction(1, 3)), "it calls for 'fractions.Fraction'"),
    "a complex number": (pickle.dumps(1j), "it calls for 'builtins.complex'"),
    "an ordered dict": (pickle.dumps(OrderedDict(a=1)), "it calls for 'collections.OrderedDict'"),
    "a namespace": (pickle.dumps(SimpleNamespace(a=1)), "it calls for 'types.SimpleNamespace'"),
    "numbers as keys": (pickle.dumps({1: 2}), "keys must be strings"),
    "a function itself": (pickle.dumps(count), "it calls for .*count"),
    "a number of 4,000 bits": (pickle.dumps(1 << 4000), "a whole number of 4001 bits"),
    "a list in itself": (pickle.dumps(itself()), "nested more than 64 deep|repeats itself"),
    "a tower": (pickle.dumps(tower(200)), "nested more than 64 deep"),
    "a thousand million values in 300 bytes": (pickle.dumps(laughs()), "repeats itself into more values"),
    "a string made bytes a thousand times": (
        b"(V" + b"x" * 10_000 + b"\np0\n0"[:3] + b"\n" + b"c_codecs\nencode\n(g0\nVlatin1\ntR" * 1000 + b"l.",
        "repeats itself into more bytes"),
    "more operations than are done": (b"(" + b"N" * (1 << 20) + b"l.", "more than 1048576 operations"),
    "an entry that was never put away": (b"g7\n.", "never put away"),
    "an empty stack": (b"(t\x85R.", "."),
    "a mark that is not there": (b"I1\nt.", "was not begun"),
    "entries left over": (b"I1\nI2\n.", "1 entries are left over"),
    "bytes after the end": (pickle.dumps([1]) + b"x", "1 bytes follow"),
    "two pickles": (pickle.dumps([1]) * 2, "bytes follow"),
    "a key without a value": (b"(d(Va\nu.", "without a value"),
    "an entry set of a list": (b"(lVa\nI1\ns.", r"it sets an entry of \[\]"),
    "something appended to a dict": (b"(dI1\na.", r"it appends to \{\}"),
    "nothing": (b"", "."),
    "another file": (b"PK\x03\x04" + b"x" * 50, "."),
    "half an array": (ARRAY[:-20], "."),
    "a size that no file has": (b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f.", "."),
    "a later protocol": (b"\x80\x63I1\n.", "protocol 99"),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_everything_else_is_refused_and_nothing_is_run(what: str, tmp_path: Path) -> None:
    content, reason = HOSTILE[what]
    (tmp_path / "labels.pkl").write_bytes(content)
    b"".decode("raw_unicode_escape")  # Python's own codec for texts of protocol 0, loaded by its first use
    before = set(sys.modules)
    started = time.process_time()
    with pytest.raises(ValueError, match=reason) as caught:
        read_pickle(tmp_path / "labels.pkl")
    assert "labels.pkl" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not called
    assert set(sys.modules) == before
    assert time.process_time() - started < 20.0


def test_the_payload_would_have_been_called() -> None:
    try:
        assert pickle.loads(pickle.dumps(Calls(count, (1,)))) == 1
    finally:
        called.clear()


def test_nothing_is_imported() -> None:
    sys.modules.pop("antigravity", None)
    with pytest.raises(ValueError, match=r"it calls for 'antigravity\.geohash'"):
        parse_pickle(b"cantigravity\ngeohash\n.")
    assert "antigravity" not in sys.modules


def test_a_long_file_is_refused_by_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "long.pkl").write_bytes(pickle.dumps(np.zeros(200)))
    monkeypatch.setattr(pickles, "MAX_BYTES", 1000)
    with pytest.raises(ValueError, match="more than 1000 bytes"):
        read_pickle(tmp_path / "long.pkl", "file of labels")


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no file of labels"):
        read_pickle(tmp_path / "none", "file of labels")
    with pytest.raises(IsADirectoryError):
        read_pickle(tmp_path)


# Damage ---------------------------------------------------------------------------------------------------


def other_pickle(content: bytes, rng: random.Random) -> bytes:
    """A pickle with a few bytes changed, or two operations in each other's place."""
    if rng.random() < 0.7:
        return mutating.flipped(content, rng)
    return content.replace(*(bytes([rng.choice(content)]) for _ in range(2)))


def mutated(count: int, seed: int, read: Callable[[bytes], Any]) -> int:
    """Return how many of so many mutated pickles were refused; AssertionError for any other end."""
    rng = random.Random(seed)
    values = [[0, 1, -1] * 20, np.arange(40, dtype=np.int32), np.asfortranarray(np.ones((3, 4))),
              {"labels": [1, 0], "rows": np.arange(5), "length": (100, 0.5, True)}]  # fmt: skip
    contents = [pickle.dumps(value, protocol) for value in values for protocol in PROTOCOLS]
    refused = 0
    for number in range(count):
        try:
            read(other_pickle(contents[number % len(contents)], rng))
        except ValueError as error:
            text = str(error)
            assert "labels.pkl" in text, number
            assert len(text) < 600, number
            assert "\n" not in text, number
            refused += 1
        except Exception as error:
            raise AssertionError(f"mutation {number} of seed {seed}: {error!r}") from error
    return refused


@pytest.mark.filterwarnings("ignore:invalid escape sequence")
@pytest.mark.parametrize(("count", "seed"), [(200, 1), pytest.param(3000, 0, marks=pytest.mark.slow)])
def test_mutated_pickles_are_read_or_refused(count: int, seed: int, tmp_path: Path) -> None:
    path = tmp_path / "labels.pkl"

    def read(content: bytes) -> None:
        path.write_bytes(content)
        read_pickle(path)

    assert mutated(count, seed, read) > count // 3
    assert not called


# The published archives -----------------------------------------------------------------------------------


class Unpickler(pickle.Unpickler):
    """Python's own, which finds arrays and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        assert name in pickles.NAMES
        assert module.split(".")[0] in ("numpy", "_codecs")
        return super().find_class(module, name)


@pytest.mark.skipif(HERE not in os.environ, reason=f"{HERE} does not name a folder")
@pytest.mark.filterwarnings("ignore:numpy.core:DeprecationWarning")
def test_the_published_archives_are_read_as_pickle_reads_them(tmp_path: Path) -> None:
    folder, found = Path(os.environ[HERE]), 0
    for archive in folder.glob("*.tar"):
        unpack(archive, tmp_path)
    for place in (folder, tmp_path):
        for path in sorted(place.rglob("*")):
            if re.match(r"(human_)?label_human|human_label_|indices_", path.name) and path.is_file():
                with path.open("rb") as stream:
                    assert same(read_pickle(path), Unpickler(stream).load()), path
                found += 1
    assert found
