"""Preference files: comparisons of segments as plain arrays and a JSON schema, without pickle.

A file is a zip of .npy arrays, as ``numpy.savez`` writes it: ``first_obs``, ``first_actions``,
``first_lengths``, ``first_terminated``, ``first_features`` (optional), the same for ``second``, ``labels``,
``weights``, ``annotators``, and ``schema``, the bytes of a JSON document that says what the arrays are.
The fields mean what they mean in :class:`prefrl.data.Preferences`.
"""

from __future__ import annotations

import errno
import json
import math
import os
import reprlib
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from .atomic import atomic_path
from .npy import DTYPES, MAX_AXES, ArrayHeader, check_size, read_header, read_numbers
from .segments import Preferences, Segments

FORMAT = "prefrl-preferences"
"""Name of the format, in every file's schema."""

VERSION = 1
"""Version of the format that is written and read."""

MAX_EXPANDED_BYTES = 1 << 30
"""A compressed file's arrays may take this much memory, 1 GiB; uncompressed ones as much as the file."""

MAX_SCHEMA_BYTES = 1 << 20
"""Longest JSON document, 1 MiB."""

MAX_EMPTY_AXIS = 1 << 20
"""Longest axis of an array without numbers, whose size nothing else bounds."""

# What zipfile raises, from Python 3.10 to 3.13, for bytes that are not what they should be; see _zip as well.
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError)
_SEGMENT_FIELDS = ("obs", "actions", "lengths", "terminated", "features")
_PAIR_FIELDS = ("labels", "weights", "annotators")
_ARRAYS = (
    *(f"first_{name}" for name in _SEGMENT_FIELDS),
    *(f"second_{name}" for name in _SEGMENT_FIELDS),
    *_PAIR_FIELDS,
)
_OPTIONAL = {"first_features", "second_features"}
_SCHEMA_KEYS = {"format", "version", "count", "arrays", "annotator_names", "metadata"}


def save_preferences(path: str | os.PathLike[str], preferences: Preferences) -> None:
    """Write comparisons to one file, whole or not at all; an existing file is replaced.

    Args:
        path: the file; ``.npz`` by convention.
        preferences: comparisons on any device; they are validated first.

    Raises:
        TypeError: if ``preferences`` are none.
        ValueError: naming the field that cannot be written, and why.
        FileNotFoundError: if the folder does not exist.
        IsADirectoryError: if ``path`` is a folder.
    """
    if not isinstance(preferences, Preferences):
        raise TypeError(f"preferences is a {type(preferences).__name__}; it must be Preferences")
    tensors = _tensors(preferences)
    for name, value in tensors.items():
        _check_storable(name, value)
    preferences.validate()
    arrays: dict[str, Any] = {name: np.ascontiguousarray(x.numpy(force=True)) for name, x in tensors.items()}
    schema = {
        "format": FORMAT,
        "version": VERSION,
        "count": len(preferences),
        "arrays": {name: _describe(array.dtype, array.shape) for name, array in arrays.items()},
        "annotator_names": list(preferences.annotator_names),
        "metadata": dict(preferences.metadata),
    }
    document = json.dumps(schema, allow_nan=False).encode()
    if len(document) > MAX_SCHEMA_BYTES:
        raise ValueError(
            f"annotator_names and metadata take {len(document)} bytes as JSON; "
            f"at most {MAX_SCHEMA_BYTES} are allowed"
        )
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, schema=np.frombuffer(document, np.uint8), **arrays)


def load_preferences(path: str | os.PathLike[str]) -> Preferences:
    """Read comparisons that :func:`save_preferences`, or another program, wrote.

    Everything is checked before use, and nothing in the file is ever executed. Compressed files
    (``numpy.savez_compressed``) are read too, up to :data:`MAX_EXPANDED_BYTES`.

    Args:
        path: the file.

    Returns:
        Validated comparisons on the CPU.

    Raises:
        ValueError: in one line, naming the file, the field, what was found and what is allowed.
        FileNotFoundError: if there is no such file.
        IsADirectoryError: if ``path`` is a folder.
        PermissionError: if the file may not be read.
    """
    file = Path(path)
    if file.is_dir():
        raise IsADirectoryError(f"{file} is a folder; give the path of a preference file")
    if not file.exists():
        raise FileNotFoundError(f"there is no preference file {file}")
    if not file.is_file():  # a pipe would never end
        raise ValueError(f"{file} is no regular file; give the path of a preference file")
    with file.open("rb") as stream:
        try:
            return _read(stream)
        except OSError as error:
            if error.errno not in (None, errno.EINVAL):  # EINVAL: an offset in the file points nowhere
                raise
            reason = _one_line(error)
        except _DAMAGED as error:
            reason = _one_line(error)
        except ValueError as error:
            raise ValueError(f"{file}: {_one_line(error)}") from error
    raise ValueError(f"{file}: damaged, or no preference file ({reason})")


def _read(stream: IO[bytes]) -> Preferences:
    file_bytes = os.fstat(stream.fileno()).st_size
    if file_bytes == 0:
        raise ValueError("the file is empty; it must be a zip of .npy arrays")
    with _zip(zipfile.ZipFile, stream) as archive:
        members = _list_members(archive)
        schema = _read_schema(archive, members)
        headers = _read_headers(archive, members, schema)
        expanded = sum(header.nbytes for header in headers.values())
        if expanded > max(MAX_EXPANDED_BYTES, file_bytes):
            raise ValueError(
                f"the arrays expand to {expanded} bytes from a file of {file_bytes}; a compressed file may "
                f"expand to {MAX_EXPANDED_BYTES} (write larger ones uncompressed)"
            )
        tensors = {}
        for name, header in headers.items():
            with _zip(archive.open, members[name]) as member:
                tensors[name] = torch.from_numpy(_named(name, read_numbers, member, header))
    return _assemble(tensors, schema)


def _list_members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Return the arrays' places in the archive, by name."""
    members: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        name = info.filename.removesuffix(".npy")
        if name in members:
            raise ValueError(f"{reprlib.repr(name)} is there twice; every array must be there once")
        if info.flag_bits & 1:
            raise ValueError(f"{reprlib.repr(name)} is encrypted; it must not be")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(
                f"{reprlib.repr(name)} has compression method {info.compress_type}; "
                f"allowed are {zipfile.ZIP_STORED} (none) and {zipfile.ZIP_DEFLATED} (deflate)"
            )
        members[name] = info
    if "schema" not in members:
        raise ValueError("there is no array 'schema', so this is no preference file")
    return members


def _read_schema(archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo]) -> dict[str, Any]:
    """Return the JSON document once its own fields are what they must be."""
    with _zip(archive.open, members["schema"]) as member:
        header = _named("schema", read_header, member)
    _named("schema", check_size, header, members["schema"].file_size)
    if header.dtype != np.uint8 or len(header.shape) != 1 or header.nbytes > MAX_SCHEMA_BYTES:
        raise ValueError(
            f"schema is {header.dtype.name} {list(header.shape)}; it must be the uint8 bytes of a JSON "
            f"document, at most {MAX_SCHEMA_BYTES}"
        )
    with _zip(archive.open, members["schema"]) as member:
        document = _named("schema", read_numbers, member, header).tobytes()
    try:
        schema = json.loads(
            document.decode(), object_pairs_hook=_unique_keys, parse_constant=_refuse, parse_float=_finite
        )
    except (ValueError, RecursionError) as error:
        raise ValueError(f"schema is no JSON document ({_one_line(error)})") from error
    if not isinstance(schema, dict) or schema.get("format") != FORMAT:
        found = schema.get("format") if isinstance(schema, dict) else schema
        raise ValueError(f"schema.format is {reprlib.repr(found)}; it must be {FORMAT!r}")
    version = schema.get("version")
    if type(version) is not int or version != VERSION:
        raise ValueError(
            f"schema.version is {reprlib.repr(version)}; this release of prefrl reads version {VERSION}"
        )
    _check_schema(schema)
    return schema


def _check_schema(schema: Mapping[str, Any]) -> None:
    if schema.keys() != _SCHEMA_KEYS:
        raise ValueError(
            f"schema has the keys {reprlib.repr(sorted(schema))}; they must be {sorted(_SCHEMA_KEYS)}"
        )
    count, names = schema["count"], schema["annotator_names"]
    if type(count) is not int or count < 0:
        raise ValueError(f"schema.count is {reprlib.repr(count)}; it must be a number of comparisons")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"schema.annotator_names is {reprlib.repr(names)}; it must be a list of strings")
    for key in ("arrays", "metadata"):
        if not isinstance(schema[key], dict):
            raise ValueError(f"schema.{key} is {reprlib.repr(schema[key])}; it must be a JSON object")


def _read_headers(
    archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo], schema: Mapping[str, Any]
) -> dict[str, ArrayHeader]:
    """Return the headers of all arrays once they agree with the schema and with the bytes that are there."""
    present = members.keys() - {"schema"}
    if missing := sorted(set(_ARRAYS) - _OPTIONAL - present):
        raise ValueError(f"the array {missing[0]!r} is missing")
    if unknown := sorted(present - set(_ARRAYS)):
        raise ValueError(f"the array {reprlib.repr(unknown[0])} is unknown; allowed are {', '.join(_ARRAYS)}")
    if schema["arrays"].keys() != present:
        raise ValueError(
            f"schema.arrays describes {reprlib.repr(sorted(schema['arrays']))}; "
            f"the file holds {sorted(present)}"
        )
    headers = {}
    for name in sorted(present):
        with _zip(archive.open, members[name]) as member:
            header = _named(name, read_header, member)
        _named(name, check_size, header, members[name].file_size)
        said, found = schema["arrays"][name], _describe(header.dtype, header.shape)
        if said != found:
            raise ValueError(f"{name} is {found}; schema.arrays says {reprlib.repr(said)}")
        if header.shape[:1] != (schema["count"],):
            raise ValueError(
                f"{name} has shape {list(header.shape)}; schema.count is {schema['count']}, "
                "which must be its first number"
            )
        _check_axes(name, header.shape)
        headers[name] = header
    return headers


def _assemble(tensors: Mapping[str, Tensor], schema: Mapping[str, Any]) -> Preferences:
    first, second = (
        Segments(*(tensors[f"{side}_{name}"] for name in _SEGMENT_FIELDS if f"{side}_{name}" in tensors))
        for side in ("first", "second")
    )
    return Preferences(
        first,
        second,
        tensors["labels"],
        tensors["weights"],
        tensors["annotators"],
        tuple(schema["annotator_names"]),
        schema["metadata"],
    ).validate()


def _tensors(preferences: Preferences) -> dict[str, Tensor]:
    """Return what a file holds, by name."""
    found = {name: getattr(preferences, name) for name in _PAIR_FIELDS}
    for side in ("first", "second"):
        segments = getattr(preferences, side)
        for name in _SEGMENT_FIELDS:
            if getattr(segments, name) is not None:
                found[f"{side}_{name}"] = getattr(segments, name)
    return found


def _check_storable(name: str, value: Tensor) -> None:
    if value.layout != torch.strided or value.is_meta:
        raise ValueError(
            f"{name} is a {value.layout} tensor on {value.device}; it must be a dense one with values"
        )
    if str(value.dtype).removeprefix("torch.") not in DTYPES:
        raise ValueError(f"{name} has dtype {value.dtype}; allowed are {', '.join(DTYPES)}")
    if value.ndim > MAX_AXES:
        raise ValueError(f"{name} has {value.ndim} axes; at most {MAX_AXES} are allowed")
    _check_axes(name, tuple(value.shape))


def _check_axes(name: str, shape: tuple[int, ...]) -> None:
    """Refuse shapes that promise much and cost nothing: no byte of the file stands behind them."""
    if 0 in shape[1:] or (0 in shape and max(shape) > MAX_EMPTY_AXIS):
        raise ValueError(
            f"{name} has shape {list(shape)}; axes after the first must be at least 1, "
            f"and at most {MAX_EMPTY_AXIS} where there are no comparisons"
        )


def _describe(dtype: np.dtype[Any], shape: tuple[int, ...]) -> dict[str, Any]:
    return {"dtype": dtype.name, "shape": list(shape)}


def _zip(function: Any, argument: Any) -> Any:
    """Call into zipfile, whose ValueErrors (names, offsets) are damage to the file like its other errors."""
    try:
        return function(argument)
    except ValueError as error:
        raise zipfile.BadZipFile(str(error)) from error


def _named(name: str, function: Any, *arguments: Any) -> Any:
    """Call a reader; its ValueErrors say what is wrong, and this says with which array."""
    try:
        return function(*arguments)
    except ValueError as error:
        raise ValueError(f"the array {name!r} cannot be read: {error}") from error


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a key is there twice in one object")
    return content


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:20]} is out of range")
    return value


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:500] or type(error).__name__
