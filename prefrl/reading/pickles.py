"""Pickles of numbers, read without running anything: a closed reader of the few words that arrays need.

A pickle is a program, and ``pickle.load`` runs whatever it calls for. Here the operations are taken apart
by :mod:`pickletools` and replayed on plain Python values: lists, tuples and dicts with strings as keys, whole
and real numbers, truth values, and NumPy's arrays of them. Of the functions that a pickle can call, the five
that NumPy's arrays are written with have a meaning (:data:`NAMES`); they are understood, not called, and
nothing is ever imported. Everything else is a ValueError that names what was met.
"""

from __future__ import annotations

import math
import os
import pickletools
import re
import reprlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import reading

NAMES = ("_reconstruct", "ndarray", "dtype", "_frombuffer", "encode")
"""What a pickle may call for, of numpy (in its old and its new spelling) and of ``_codecs``."""

MAX_BYTES = 1 << 26
"""Longest pickle, 64 MiB."""

MAX_OPERATIONS = 1 << 20
"""Most operations: neither the stack nor the memo can hold more entries."""

MAX_DEPTH = 64
"""Deepest nesting."""

MAX_PROTOCOL = 5
"""Latest protocol."""

SMALL = 1 << 16
"""Values, and bytes of arrays, that any pickle may have; a longer one, as many as its bytes.

Each takes a byte at least, but where the pickle names what it has said before, again and again.
"""

_PLACES = {
    "numpy.core.multiarray _reconstruct": "_reconstruct",
    "numpy._core.multiarray _reconstruct": "_reconstruct",
    "numpy ndarray": "ndarray",
    "numpy dtype": "dtype",
    "numpy.core.numeric _frombuffer": "_frombuffer",
    "numpy._core.numeric _frombuffer": "_frombuffer",
    "_codecs encode": "encode",
}
_DTYPE = re.compile("[iu][1248]|f[248]|b1")
_ORDERS = ("<", ">", "|", "=")

_CONSTANTS = frozenset(
    {"INT", "LONG", "LONG1", "LONG4", "BININT", "BININT1", "BININT2", "FLOAT", "BINFLOAT", "UNICODE",
     "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}
)  # fmt: skip
"""Operations that put what stands beside them on the stack."""

_FIXED: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Name(str):
    """A function that was called for: one of :data:`NAMES`."""


class _DType:
    """A number type; its byte order comes later."""

    def __init__(self, code: str) -> None:
        self.code, self.order = code, "="

    def numpy(self) -> np.dtype[Any]:
        return np.dtype(self.order + self.code)


class _Array:
    """An array; its numbers come later."""

    values: NDArray[Any] | None = None


class _Mark:
    """Where a list, tuple or dict of many entries begins on the stack."""


def read_pickle(path: str | os.PathLike[str], kind: str = "pickle of numbers") -> Any:
    """Return the numbers that a pickle file holds; nothing in it is ever run or imported.

    Args:
        path: the file.
        kind: what messages call it.

    Returns:
        An int, float or bool, an array of them, or lists, tuples and dicts of such values with strings as
        keys: what ``pickle.load`` returns for them, but arrays are of native byte order, and lists, tuples
        and dicts that are there twice are copies. (Empty arrays of protocols 0 to 2 call for a sixth name
        and are refused.)

    Raises:
        FileNotFoundError: if there is no such file.
        IsADirectoryError: if ``path`` is a folder.
        ValueError: for everything else that a pickle can be; it names the file and what was met.
    """
    with reading(path, kind), Path(path).open("rb") as file:
        content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ValueError(f"it has more than {MAX_BYTES} bytes; a {kind} may have so many")
        return parse_pickle(content)


def parse_pickle(content: bytes) -> Any:
    """Return the numbers that a pickle holds; see :func:`read_pickle`.

    Raises:
        ValueError: naming what was met; other Exceptions of :mod:`pickletools` for what is no pickle.
    """
    machine, end = _Machine(len(content)), 0
    for count, (operation, argument, place) in enumerate(pickletools.genops(content)):
        if count >= MAX_OPERATIONS:
            raise ValueError(f"it has more than {MAX_OPERATIONS} operations")
        machine.step(operation.name, argument, place or 0)
        end = (place or 0) + 1
    if end != len(content):
        raise ValueError(f"{len(content) - end} bytes follow where the pickle ends")
    return machine.result()


class _Machine:
    """Replays the operations of a pickle on plain values."""

    def __init__(self, size: int) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.values = max(SMALL, size)
        self.made = 2 * self.values  # text is made bytes, and bytes an array

    def step(self, name: str, argument: Any, place: int) -> None:
        """Do one operation; ValueError for one that plain values do not need."""
        if name in _CONSTANTS:
            self.stack.append(_bounded(argument))
        elif name in _FIXED:
            self.stack.append(_FIXED[name]())
        elif name in _TUPLES:
            self.stack.append(tuple(self._last(_TUPLES[name])))
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            self.stack.append(_called_for(argument if name == "GLOBAL" else self._spelt()))
        elif name == "MARK":
            self.stack.append(_Mark())
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memo[len(self.memo) if name == "MEMOIZE" else argument] = self._top()
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            if argument not in self.memo:
                raise ValueError(f"at byte {place} it takes entry {argument}, which was never put away")
            self.stack.append(self.memo[argument])
        elif name in _STEPS:
            _STEPS[name](self)
        elif name == "PROTO":
            if argument > MAX_PROTOCOL:
                raise ValueError(f"it is of protocol {argument}; protocols 0 to {MAX_PROTOCOL} are read")
        elif name not in ("FRAME", "STOP"):
            raise ValueError(f"at byte {place} it has the operation {name}; that is not needed for lists, "
                             "tuples, dicts and arrays of numbers, and is not done")  # fmt: skip

    def result(self) -> Any:
        """Return the one value that is left, with arrays in place of what stands for them."""
        (value,) = self._last(1)
        if self.stack:
            raise ValueError(f"{len(self.stack)} entries are left over where it ends")
        return self._finished(value, MAX_DEPTH)

    def _top(self) -> Any:
        if not self.stack or isinstance(self.stack[-1], _Mark):
            raise ValueError("it takes an entry from the stack where there is none")
        return self.stack[-1]

    def _last(self, count: int) -> list[Any]:
        """Return the last entries of the stack, which lose their places there."""
        taken = self.stack[len(self.stack) - count :] if len(self.stack) >= count else []
        if len(taken) < count or any(isinstance(entry, _Mark) for entry in taken):
            raise ValueError("it takes an entry from the stack where there is none")
        del self.stack[len(self.stack) - count :]
        return taken

    def _marked(self) -> list[Any]:
        """Return the entries after the last mark; they and the mark leave the stack."""
        for place in range(len(self.stack) - 1, -1, -1):
            if isinstance(self.stack[place], _Mark):
                taken = self.stack[place + 1 :]
                del self.stack[place:]
                return taken
        raise ValueError("it ends a list, tuple or dict that was not begun")

    def _spelt(self) -> str:
        module, name = self._last(2)
        return f"{module} {name}" if type(module) is type(name) is str else f"{module!r:.80} {name!r:.80}"

    def _append(self, entries: list[Any]) -> None:
        owner = self._top()
        if type(owner) is not list:
            raise ValueError(f"it appends to {_said(owner)}; it may append to lists")
        owner.extend(entries)

    def _set(self, entries: list[Any]) -> None:
        owner = self._top()
        if type(owner) is not dict:
            raise ValueError(f"it sets an entry of {_said(owner)}; it may set those of dicts")
        if len(entries) % 2:
            raise ValueError("it sets a key of a dict without a value")
        for key, value in zip(entries[::2], entries[1::2], strict=True):
            if type(key) is not str:
                raise ValueError(f"a dict has the key {_said(key)}; keys must be strings")
            owner[key] = value

    def _dict(self) -> None:
        entries = self._marked()
        self.stack.append({})
        self._set(entries)

    def _reduce(self) -> None:
        """Understand a call of one of the five functions."""
        function, arguments = self._last(2)
        if not isinstance(function, _Name) or type(arguments) is not tuple:
            raise ValueError(f"it calls {_said(function)}; it may call for {', '.join(NAMES)} only")
        match function, arguments:
            case "_reconstruct", ("ndarray", (0,), b"b") if isinstance(arguments[0], _Name):
                made: Any = _Array()
            case "dtype", (str(code), False | 0, True | 1):
                if not _DTYPE.fullmatch(code):
                    raise ValueError(f"an array has the dtype {_said(code)}; allowed are whole and real "
                                     "numbers and truth values: i, u, f, b")  # fmt: skip
                made = _DType(code)
            case "encode", (str(text), "latin1"):
                made = text.encode("latin1")
                self._count("made", len(made), "bytes")
            case "_frombuffer", (bytes() | bytearray() as data, _DType() as kind, tuple(shape), str(order)):
                made = _Array()
                made.values = self._numbers(kind, data, shape, order)
            case "_frombuffer", (
                bytes() | bytearray() as data,
                _DType() as kind,
                tuple(shape),
                "K",
                tuple(axes),
            ):
                if sorted(map(_plain, axes)) != list(range(len(shape))):
                    raise ValueError(f"an array of shape {_said(shape)} has the axes {_said(axes)}")
                made = _Array()
                made.values = self._numbers(kind, data, shape, "C").transpose(axes)
            case _:
                raise ValueError(f"it calls {function} with {_said(arguments)}, as NumPy's arrays do not")
        self.stack.append(made)

    def _build(self) -> None:
        """Give a number type its byte order, or an array its numbers."""
        (state,) = self._last(1)
        match self._top(), state:
            case _DType() as dtype, (3, str(order), None, None, None, -1, -1, 0) if order in _ORDERS:
                dtype.order = order
            case _Array() as array, (1, tuple(shape), _DType() as dtype, bool(fortran), bytes(data)):
                array.values = self._numbers(dtype, data, shape, "F" if fortran else "C")
            case owner, _:
                raise ValueError(f"it gives {_said(owner)} the state {_said(state)}; only arrays and their "
                                 "number types may have states, and those that NumPy gives them")  # fmt: skip

    def _numbers(
        self, dtype: _DType, data: bytes | bytearray, shape: tuple[Any, ...], order: str
    ) -> NDArray[Any]:
        """Return an array of its own; ValueError unless shape and bytes agree."""
        self._count("made", len(data), "bytes")
        kind, sizes = dtype.numpy(), [_plain(size) for size in shape]
        if len(sizes) > 32 or min(sizes, default=0) < 0 or order not in ("C", "F"):
            raise ValueError(f"an array has the shape {_said(shape)} and the order {_said(order)}")
        if math.prod(sizes) * kind.itemsize != len(data):
            raise ValueError(f"an array says {kind.name} {_said(sizes)} and has {len(data)} bytes")
        if kind.kind == "b" and any(byte > 1 for byte in data):
            raise ValueError("an array holds truth values other than 0 and 1")
        values = np.frombuffer(data, kind).reshape(sizes, order="F" if order == "F" else "C")
        return np.array(values, kind.newbyteorder("="), order="K")

    def _count(self, budget: str, used: int, what: str) -> None:
        """Take from what a pickle of this size may make: one that repeats itself could fill the memory."""
        left = getattr(self, budget) - used
        if left < 0:
            raise ValueError(f"it repeats itself into more {what} than its size accounts for")
        setattr(self, budget, left)

    def _finished(self, value: Any, left: int) -> Any:
        """Return a value whose parts are numbers and arrays, copied."""
        self._count("values", 1, "values")
        if left == 0:
            raise ValueError(f"it is nested more than {MAX_DEPTH} deep")
        if isinstance(value, _Array) and value.values is not None:
            return value.values
        if type(value) in (list, tuple):
            return type(value)(self._finished(part, left - 1) for part in value)
        if type(value) is dict:
            return {key: self._finished(part, left - 1) for key, part in value.items()}
        if type(value) in (bool, int, float):
            return value
        raise ValueError(f"it holds {_said(value)}; allowed are numbers, and lists, tuples, dicts and arrays "
                         "of them")  # fmt: skip


_STEPS: dict[str, Callable[[_Machine], None]] = {
    "LIST": lambda machine: machine.stack.append(machine._marked()),
    "TUPLE": lambda machine: machine.stack.append(tuple(machine._marked())),
    "DICT": _Machine._dict,
    "APPEND": lambda machine: machine._append(machine._last(1)),
    "APPENDS": lambda machine: machine._append(machine._marked()),
    "SETITEM": lambda machine: machine._set(machine._last(2)),
    "SETITEMS": lambda machine: machine._set(machine._marked()),
    "REDUCE": _Machine._reduce,
    "BUILD": _Machine._build,
}
"""Operations that take entries from the stack."""


def _called_for(place: str) -> _Name:
    """Return one of the five functions; ValueError for any other."""
    if place not in _PLACES:
        name = repr(place[:100].replace(" ", ".", 1))
        raise ValueError(f"it calls for {name}; a pickle is only read where it calls for nothing but "
                         f"{', '.join(NAMES)} of NumPy's arrays")  # fmt: skip
    return _Name(_PLACES[place])


def _bounded(value: Any) -> Any:
    """Return what stands beside an operation; ValueError for whole numbers of more than 64 bits."""
    if type(value) is int and not -(2**63) <= value < 2**64:
        raise ValueError(f"it holds a whole number of {value.bit_length()} bits; they may have 64")
    return value


def _plain(value: Any) -> int:
    """Return a whole number; ValueError for what else stands where an array's sizes should."""
    if type(value) is not int:
        raise ValueError(f"an array has {_said(value)} where its sizes should be")
    return value


def _said(value: Any) -> str:
    """Return a few words about a value, whatever it is."""
    if isinstance(value, (_Name, _DType, _Array, _Mark)):
        return str(value) if isinstance(value, _Name) else type(value).__name__.removeprefix("_").lower()
    return reprlib.repr(value)
