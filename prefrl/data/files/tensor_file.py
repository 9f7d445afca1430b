"""Files of tensors and plain values: written whole or not at all, read without unpickling objects."""

from __future__ import annotations

import math
import os
import pickletools
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prefrl.reading.archives import opened
from prefrl.reading.errors import reading

from .atomic import atomic_path

INSTRUCTIONS = frozenset(
    {"PROTO", "STOP", "MARK", "GLOBAL", "REDUCE", "BINPERSID", "BINPUT", "LONG_BINPUT", "BINGET",
     "LONG_BINGET", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT",
     "BINUNICODE", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "APPEND", "APPENDS",
     "EMPTY_DICT", "SETITEM", "SETITEMS"}
)  # fmt: skip
"""What ``torch.save`` needs to write dicts, lists and tensors; others could build objects."""

_KINDS = ("Bool", "Byte", "Char", "Short", "Int", "Long", "Half", "BFloat16", "Float", "Double",
          "ComplexFloat", "ComplexDouble")  # fmt: skip

NAMES = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_tensor_v3",
    "torch.storage UntypedStorage",
    *(f"torch uint{bits}" for bits in (16, 32, 64)),
    *(f"torch {kind}Storage" for kind in _KINDS),
}
"""What such a file may refer to."""


def write_tensor_file(path: str | os.PathLike[str], content: Any, *, previous: Path | None = None) -> None:
    """Write nested dicts and lists of tensors, numpy arrays, numbers, strings and None.

    Tensors and arrays that are contiguous in the memory of the host are written from where they are, without
    a copy: nothing may change them meanwhile.

    Args:
        path: the file.
        content: what to write.
        previous: where the file that was there goes, once the new one is whole (None: nowhere).

    Raises:
        OSError: if the file cannot be written, as on a full disk; the one that was there stays.
        TypeError: if ``content`` holds anything else; it names the place.
    """
    plain = _plain(content, "content")
    with atomic_path(path, previous=previous) as temporary:
        try:
            torch.save(plain, temporary)
        except RuntimeError as error:  # torch's word for whatever keeps it from writing
            raise OSError(f"{path} cannot be written: {str(error).splitlines()[0]}") from error


def read_tensor_file(path: str | os.PathLike[str], kind: str) -> Any:
    """Return, on the CPU, what :func:`write_tensor_file` wrote; numpy arrays come back as tensors.

    Args:
        path: the file.
        kind: what the file should be, for the error's text ("checkpoint").

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged or something else.
    """
    with reading(path, f"{kind} of prefrl", sentences=False), opened(path, stored=True) as archive:
        if damaged := archive.testzip():  # torch itself does not compare the checksums
            raise ValueError(f"the checksum of {damaged} is wrong")
        pickled = next((name for name in archive.namelist() if name.endswith("data.pkl")), None)
        if pickled is None:
            raise ValueError(f"it holds no data.pkl, so it is no {kind}")
        document = archive.read(pickled)
        _check_instructions(document)
        with Path(path).open("rb") as file:
            if file.read(4) != b"PK\x03\x04":  # torch would take the beginning for one of its older kind
                raise ValueError("it does not begin as a zip")
        # Mapped: a tensor can then have no more numbers than the file, whatever it claims.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        found = _Found(len(document), Path(path).stat().st_size)
        found.visit(content)
        return _Taken(archive, found.entries_of(archive.infolist())).over(content)


def _check_instructions(document: bytes) -> None:
    """Raise ValueError for instructions that :func:`write_tensor_file` does not write."""
    for instruction, argument, _ in pickletools.genops(document):
        if instruction.name not in INSTRUCTIONS:
            raise ValueError(f"it holds the instruction {instruction.name}, which dicts, lists, tensors and "
                             "numbers do not need")  # fmt: skip
        if instruction.name == "GLOBAL" and argument not in NAMES:
            raise ValueError(f"it refers to {argument}; allowed are dicts, lists, tensors and numbers")


class _Found:
    """Finds what a file's content is made of, and that it is no more than the file can account for.

    Entries may refer to each other and tensors be views of one storage: few bytes can stand for very much.

    Args:
        entries: how many there may be.
        nbytes: how many bytes all tensors may have together.

    Attributes:
        storages: bytes of each storage that tensors lie in, by its address in the mapped file.
    """

    def __init__(self, entries: int, nbytes: int) -> None:
        self.entries, self.nbytes = entries, nbytes
        self.storages: dict[int, int] = {}

    def visit(self, value: Any) -> None:
        """Go through ``value``; ValueError for what is too much, or of a kind that is not written."""
        self.entries -= 1
        if self.entries < 0:
            raise ValueError("it holds more entries than bytes")
        if isinstance(value, Tensor):
            self._visit_tensor(value)
        elif isinstance(value, dict):
            for key, entry in value.items():
                self.visit(key)
                self.visit(entry)
        elif isinstance(value, (list, tuple)):
            for entry in value:
                self.visit(entry)
        elif not (value is None or type(value) in (bool, int, float, str)):
            raise ValueError(f"it holds a {type(value).__name__}; allowed are dicts, lists, tensors and "
                             "numbers")  # fmt: skip

    def _visit_tensor(self, value: Tensor) -> None:
        if value.layout is not torch.strided or value.device.type != "cpu":
            raise ValueError(f"it holds a {value.layout} tensor on {value.device}; they must be dense")
        storage = value.untyped_storage()
        if storage.nbytes():
            self.storages[storage.data_ptr()] = storage.nbytes()
        self.nbytes -= math.prod(value.shape) * value.element_size()
        if self.nbytes < 0:
            raise ValueError("its tensors claim more bytes than it has")

    def entries_of(self, infos: list[zipfile.ZipInfo]) -> dict[int, zipfile.ZipInfo]:
        """Return the entry of each storage by its address: both lie in one order."""
        held = [info for info in infos if "/data/" in info.filename and info.file_size]
        held.sort(key=lambda info: info.header_offset)
        addresses = sorted(self.storages)
        if [self.storages[address] for address in addresses] != [info.file_size for info in held]:
            raise ValueError("a tensor has another number of bytes than its entry")
        return dict(zip(addresses, held, strict=True))


class _Taken:
    """Takes the content of a file over into memory of its own.

    What is mapped counts as memory once it is touched, so that a large tensor must not be copied from there:
    there would be two of it for a while.

    Args:
        archive: the file.
        entries: of each storage, by its address in the mapped file.
    """

    def __init__(self, archive: zipfile.ZipFile, entries: Mapping[int, zipfile.ZipInfo]) -> None:
        self.archive, self.entries = archive, entries

    def over(self, value: Any) -> Any:
        """Return a copy."""
        if isinstance(value, Tensor):
            storage = value.untyped_storage()
            # Strides too are as they were, also of axes of size 1: products round by how numbers lie.
            dense = torch.empty_like(value, device="meta").stride() == value.stride()
            if dense and 0 < value.nbytes == storage.nbytes():
                numbers = self._read(self.entries[storage.data_ptr()]).view(value.dtype)
                return numbers.as_strided(value.shape, value.stride())
            return value.detach().clone(memory_format=torch.contiguous_format)
        if isinstance(value, dict):
            return {self.over(key): self.over(entry) for key, entry in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(self.over(entry) for entry in value)
        return value

    def _read(self, entry: zipfile.ZipInfo) -> Tensor:
        """Return the bytes of an entry, read piece by piece."""
        whole = torch.empty(entry.file_size, dtype=torch.uint8)
        target, at = whole.numpy(), 0
        with self.archive.open(entry) as source:
            while piece := source.read(PIECE):
                target[at : at + len(piece)] = np.frombuffer(piece, np.uint8)
                at += len(piece)
        return whole


PIECE = 1 << 20
"""Bytes that are read at once."""


def _plain(value: Any, where: str) -> Any:
    """Return ``value`` with numpy converted and tensors detached, each with a storage of its own bytes."""
    if isinstance(value, Tensor):
        return _alone(value.detach())
    if isinstance(value, np.ndarray):
        forward = (
            value if min(value.strides, default=0) >= 0 else value.copy()
        )  # torch takes no mirrored ones
        return _alone(torch.from_numpy(np.require(forward, requirements="W")))
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        return {key: _plain(entry, f"{where}[{key!r}]") for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry, f"{where}[{index}]") for index, entry in enumerate(value)]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{where} is a {type(value).__name__}; allowed are tensors, arrays and plain values")


def _alone(value: Tensor) -> Tensor:
    """Return the same numbers in a storage of theirs alone, which torch writes whole: a view if possible."""
    in_place = value.device.type == "cpu" and value.layout is torch.strided and value.is_contiguous()
    if not in_place or not value.nbytes:
        return value.clone()
    start = value.storage_offset() * value.element_size()
    part = value.untyped_storage()[start : start + value.nbytes]
    return torch.empty(0, dtype=value.dtype).set_(part, 0, value.shape, value.stride())
