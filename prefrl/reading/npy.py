"""Plain arrays in numpy's .npy encoding, read without believing what their headers claim.

``numpy.load`` allocates what a header asks for and evaluates it as Python; here a header must have the form
that numpy itself writes, name a plain number type, and agree with the bytes that are there.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

DTYPES = ("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64")
"""Names of the number types that are kept, read and written."""

NUMBERS = (*DTYPES[1:], "uint16", "uint32", "uint64")
"""Names of all types of real numbers, for arrays that become float64."""

MAX_HEADER_BYTES = 4096
"""Longest header that is read; numpy's have 128 bytes."""

MAX_AXES = 32
"""Most axes of an array, as in numpy 1."""

_HEADER = re.compile(
    r"\{'descr': ?(?P<descr>.+), ?'fortran_order': ?(?P<fortran>True|False), ?"
    r"'shape': ?\((?P<shape>(?:\d{1,19}, ?)*(?:\d{1,19})?)\),? ?\}\s*"
)
_DESCR = {
    repr(order + np.dtype(name).str[1:]): np.dtype(order + np.dtype(name).str[1:])
    for name in (*DTYPES, *NUMBERS)
    for order in ("|" if np.dtype(name).itemsize == 1 else "<>")
}
"""What headers call the number types, quotes included."""

_CHUNK = 1 << 20


@dataclass(frozen=True)
class ArrayHeader:
    """What the first bytes of a .npy stream say."""

    dtype: np.dtype[Any]
    """Number type, with the file's byte order."""
    shape: tuple[int, ...]
    """Shape."""
    fortran_order: bool
    """Whether the first axis runs fastest."""
    offset: int
    """Bytes before the numbers."""

    @property
    def nbytes(self) -> int:
        """Bytes of the numbers."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(stream: IO[bytes], dtypes: Collection[str] = DTYPES) -> ArrayHeader:
    """Read the header at a stream's position, which is left anywhere.

    Args:
        stream: a file, or an archive's entry.
        dtypes: names of the number types that are allowed.

    Raises:
        ValueError: if there is none, or it describes something else than an array of plain numbers.
    """
    head = stream.read(MAX_HEADER_BYTES)
    if len(head) < 12 or head[:6] != b"\x93NUMPY" or head[6] not in (1, 2):
        raise ValueError("it does not start with a .npy header of version 1 or 2")
    start = 10 if head[6] == 1 else 12
    offset = start + int.from_bytes(head[8:start], "little")
    if offset > len(head):
        raise ValueError(f"its .npy header claims {offset} bytes where at most {len(head)} can be")
    match = _HEADER.fullmatch(head[start:offset].decode("latin-1"))
    if match is None:
        raise ValueError("its .npy header is not of the form that numpy writes")
    dtype = _DESCR.get(match["descr"])
    if dtype is None or dtype.name not in dtypes:
        raise ValueError(f"its dtype is {match['descr'][:80]}; allowed are {', '.join(dtypes)}")
    shape = tuple(int(size) for size in re.findall(r"\d+", match["shape"]))
    if len(shape) > MAX_AXES:
        raise ValueError(f"it has {len(shape)} axes; at most {MAX_AXES} are allowed")
    return ArrayHeader(dtype, shape, match["fortran"] == "True", offset)


def check_size(header: ArrayHeader, available: int) -> None:
    """Raise ValueError unless header and numbers together take exactly ``available`` bytes."""
    if header.offset + header.nbytes != available:
        raise ValueError(
            f"its header says {header.dtype.name} {list(header.shape)}, {header.nbytes} bytes, "
            f"and {max(available - header.offset, 0)} are there"
        )


def read_numbers(stream: IO[bytes], header: ArrayHeader) -> NDArray[Any]:
    """Read the numbers of an array from a stream that stands at the start of its header.

    Returns:
        A writable array of native byte order whose last axis runs fastest.

    Raises:
        ValueError: if the stream ends early, or a truth value is neither 0 nor 1.
    """
    stream.read(header.offset)
    buffer = np.empty(header.nbytes, np.uint8)
    place = 0
    while place < header.nbytes:  # in pieces: a stream that ends early never fills what it claimed
        piece = stream.read(min(_CHUNK, header.nbytes - place))
        if not piece:
            raise ValueError(f"it ends after {place} of {header.nbytes} bytes")
        buffer[place : place + len(piece)] = np.frombuffer(piece, np.uint8)
        place += len(piece)
    if header.dtype == np.bool_ and bool((buffer > 1).any()):
        raise ValueError("it holds truth values other than 0 and 1")
    order = header.shape[::-1] if header.fortran_order else header.shape
    values = buffer.view(header.dtype).reshape(order)
    values = values.T if header.fortran_order else values
    return np.ascontiguousarray(values, dtype=header.dtype.newbyteorder("=")).reshape(header.shape)
