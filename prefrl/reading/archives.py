"""Zips of arrays: judged by their directory, before anything in them is read.

An archive may claim to hold more than fits into memory, or expand to it. What is stored as it is takes as
much memory as the file has bytes; compressed files may expand to :data:`MAX_EXPANDED_BYTES`.
"""

from __future__ import annotations

import os
import reprlib
import zipfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from numpy.typing import NDArray

from .errors import reading
from .npy import NUMBERS, ArrayHeader, check_size, read_header, read_numbers

MAX_EXPANDED_BYTES = 1 << 30
"""A compressed file's arrays may take this much memory, 1 GiB; uncompressed ones as much as the file."""


@contextmanager
def opened(path: str | os.PathLike[str], *, stored: bool = False) -> Iterator[zipfile.ZipFile]:
    """Open an archive whose directory is sound: no entry is there twice, encrypted, or of unheard-of size.

    Args:
        path: the file.
        stored: allow no compressed entries; together they then have at most the file's bytes.

    Raises:
        ValueError: naming the entry.
        zipfile.BadZipFile: if it is no zip.
    """
    with Path(path).open("rb") as stream, opened_stream(stream, stored=stored) as archive:
        yield archive


@contextmanager
def opened_stream(stream: IO[bytes], *, stored: bool = False) -> Iterator[zipfile.ZipFile]:
    """Open an archive that is a stream, as :func:`opened` does."""
    file_bytes = stream.seek(0, os.SEEK_END)
    if file_bytes == 0:
        raise ValueError("the file is empty; it must be a zip of arrays")
    stream.seek(0)
    with zip_call(zipfile.ZipFile, stream) as archive:
        _check_directory(archive.infolist(), file_bytes, METHODS[:1] if stored else METHODS)
        yield archive


METHODS = ((zipfile.ZIP_STORED, "none"), (zipfile.ZIP_DEFLATED, "deflate"))
"""Methods of compression that are read."""


def _check_directory(
    entries: Sequence[zipfile.ZipInfo], file_bytes: int, methods: Sequence[tuple[int, str]]
) -> None:
    names: set[str] = set()
    for info in entries:
        stem = info.filename.removesuffix(".npy")
        name = reprlib.repr(stem)
        if stem in names:
            raise ValueError(f"{name} is there twice; every array must be there once")
        names.add(stem)
        if info.flag_bits & 1:
            raise ValueError(f"{name} is encrypted; it must not be")
        if info.compress_type not in dict(methods):
            allowed = " and ".join(f"{number} ({method})" for number, method in methods)
            raise ValueError(f"{name} has compression method {info.compress_type}; allowed are {allowed}")
    expanded = sum(info.file_size for info in entries)
    if expanded > (file_bytes if len(methods) == 1 else max(MAX_EXPANDED_BYTES, file_bytes)):
        raise ValueError(
            f"the arrays expand to {expanded} bytes from a file of {file_bytes}; a compressed file may "
            f"expand to {MAX_EXPANDED_BYTES} (write larger ones uncompressed)"
        )


def arrays_of(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Return the places of an archive's arrays by their names."""
    return {info.filename.removesuffix(".npy"): info for info in archive.infolist()}


def read_npz(path: str | os.PathLike[str], kind: str) -> dict[str, NDArray[Any]]:
    """Return the arrays of numbers of an .npz file, as ``numpy.savez`` writes it, compressed or not.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is something else, or claims more than it holds.
    """
    with reading(path, kind), opened(path) as archive:
        members = arrays_of(archive)
        headers = {name: member_header(archive, info, name, NUMBERS) for name, info in members.items()}
        return {name: member_numbers(archive, members[name], name, headers[name]) for name in members}


def member_header(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str, dtypes: Collection[str]
) -> ArrayHeader:
    """Return the header of an array that has exactly the bytes that the header says."""
    with zip_call(archive.open, info) as member:
        header = named(name, read_header, member, dtypes)
    named(name, check_size, header, info.file_size)
    return header  # type: ignore[no-any-return]


def member_numbers(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str, header: ArrayHeader
) -> NDArray[Any]:
    """Return the numbers of an array whose header was read."""
    with zip_call(archive.open, info) as member:
        return named(name, read_numbers, member, header)  # type: ignore[no-any-return]


def named(name: str, function: Any, *arguments: Any) -> Any:
    """Call a reader; its ValueErrors say what is wrong, and this says with which array."""
    try:
        return function(*arguments)
    except ValueError as error:
        raise ValueError(f"the array {reprlib.repr(name)} cannot be read: {error}") from error


def zip_call(function: Any, argument: zipfile.ZipInfo | IO[bytes]) -> Any:
    """Call into zipfile, whose ValueErrors (names, offsets) are damage to the file like its other errors."""
    try:
        return function(argument)
    except ValueError as error:
        raise zipfile.BadZipFile(str(error)) from error
