"""Files of named arrays and a JSON document that says what they are, read without believing them.

A file is a zip of .npy arrays, as ``numpy.savez`` writes it, uncompressed or deflated. The array ``schema``
is the bytes of a JSON object with the keys ``format``, ``version``, ``count``, ``arrays`` (name -> dtype and
shape) and those of the format. Every other array has ``count`` as the length of its first axis.
"""

from __future__ import annotations

import json
import math
import os
import reprlib
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prefrl.reading.archives import arrays_of, member_header, member_numbers, opened
from prefrl.reading.errors import reading
from prefrl.reading.npy import DTYPES, MAX_AXES, ArrayHeader

from .atomic import atomic_path

MAX_EMPTY_AXIS = 1 << 20
"""Longest axis of an array without numbers, whose size nothing else bounds."""


@dataclass(frozen=True)
class ArrayFormat:
    """A kind of file."""

    name: str
    """Name of the format, in every file's schema."""
    version: int
    """Version that is written and read."""
    kind: str
    """What such a file is called in messages."""
    arrays: tuple[str, ...]
    """Names of the arrays."""
    keys: tuple[str, ...]
    """Keys of the JSON document that this format adds."""
    optional: frozenset[str] = frozenset()
    """Arrays that may be missing."""
    max_schema_bytes: int = 1 << 20
    """Longest JSON document."""
    may_be_empty: bool = False
    """Whether the count may be 0."""
    has_infinity: bool = False
    """Whether infinite numbers may stand in the JSON document."""


def write_arrays(
    path: str | os.PathLike[str],
    form: ArrayFormat,
    tensors: Mapping[str, Tensor],
    entries: Mapping[str, Any],
) -> None:
    """Write tensors to one file, whole or not at all; an existing file is replaced.

    Args:
        path: the file; ``.npz`` by convention.
        form: what kind of file it is.
        tensors: the format's arrays, each [count, ...], those that may be missing or not.
        entries: values of the format's own keys, as JSON takes them.

    Raises:
        ValueError: naming what cannot be written, and why.
        FileNotFoundError: if the folder does not exist.
        IsADirectoryError: if ``path`` is a folder.
    """
    arrays: dict[str, Any] = {}
    for name in form.arrays:
        if name in tensors or name not in form.optional:
            check_storable(form, name, tensors[name])
            arrays[name] = np.ascontiguousarray(tensors[name].numpy(force=True))
    schema = {
        "format": form.name,
        "version": form.version,
        "count": len(arrays[form.arrays[0]]),
        "arrays": {name: _describe(array.dtype, array.shape) for name, array in arrays.items()},
        **entries,
    }
    document = json.dumps(schema, allow_nan=form.has_infinity).encode()
    if len(document) > form.max_schema_bytes:
        raise ValueError(
            f"{' and '.join(form.keys)} take {len(document)} bytes as JSON; "
            f"at most {form.max_schema_bytes} are allowed"
        )
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, schema=np.frombuffer(document, np.uint8), **arrays)


def read_arrays(path: str | os.PathLike[str], form: ArrayFormat) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what :func:`write_arrays`, or another program, wrote; nothing in the file is ever executed.

    Returns:
        The format's arrays, on the CPU, and the JSON document. What they mean is the caller's to check.

    Raises:
        ValueError: in one line, naming the file, the array, what was found and what is allowed.
        FileNotFoundError: if there is no such file.
        IsADirectoryError: if ``path`` is a folder.
        PermissionError: if the file may not be read.
    """
    with reading(path, form.kind), opened(path) as archive:
        members = arrays_of(archive)
        if "schema" not in members:
            raise ValueError(f"there is no array 'schema', so this is no {form.kind}")
        schema = _read_schema(archive, members["schema"], form)
        headers = _read_headers(archive, members, schema, form)
        tensors = {
            name: torch.from_numpy(member_numbers(archive, members[name], name, header))
            for name, header in headers.items()
        }
    return tensors, schema


def _read_schema(archive: zipfile.ZipFile, member: zipfile.ZipInfo, form: ArrayFormat) -> dict[str, Any]:
    """Return the JSON document once its own fields are what they must be."""
    header = member_header(archive, member, "schema", DTYPES)
    if header.dtype != np.uint8 or len(header.shape) != 1 or header.nbytes > form.max_schema_bytes:
        raise ValueError(
            f"schema is {header.dtype.name} {list(header.shape)}; it must be the uint8 bytes of a JSON "
            f"document, at most {form.max_schema_bytes}"
        )
    document = member_numbers(archive, member, "schema", header).tobytes()
    try:
        schema = json.loads(
            document.decode(),
            object_pairs_hook=_unique_keys,
            parse_constant=_infinity if form.has_infinity else _refuse,
            parse_float=_finite,
        )
    except (ValueError, RecursionError) as error:
        raise ValueError(f"schema is no JSON document ({error})") from error
    if not isinstance(schema, dict) or schema.get("format") != form.name:
        found = schema.get("format") if isinstance(schema, dict) else schema
        raise ValueError(f"schema.format is {reprlib.repr(found)}; it must be {form.name!r}")
    version = schema.get("version")
    if type(version) is not int or version != form.version:
        raise ValueError(
            f"schema.version is {reprlib.repr(version)}; this release of prefrl reads version {form.version}"
        )
    _check_schema(schema, form)
    return schema


def _check_schema(schema: Mapping[str, Any], form: ArrayFormat) -> None:
    keys = {"format", "version", "count", "arrays", *form.keys}
    if schema.keys() != keys:
        raise ValueError(f"schema has the keys {reprlib.repr(sorted(schema))}; they must be {sorted(keys)}")
    count = schema["count"]
    least = 0 if form.may_be_empty else 1
    if type(count) is not int or count < least:
        raise ValueError(f"schema.count is {reprlib.repr(count)}; it must be at least {least}")
    if not isinstance(schema["arrays"], dict):
        raise ValueError(f"schema.arrays is {reprlib.repr(schema['arrays'])}; it must be a JSON object")


def _read_headers(
    archive: zipfile.ZipFile,
    members: Mapping[str, zipfile.ZipInfo],
    schema: Mapping[str, Any],
    form: ArrayFormat,
) -> dict[str, ArrayHeader]:
    """Return the headers of all arrays once they agree with the schema and with the bytes that are there."""
    present = members.keys() - {"schema"}
    if missing := sorted(set(form.arrays) - form.optional - present):
        raise ValueError(f"the array {missing[0]!r} is missing")
    if unknown := sorted(present - set(form.arrays)):
        raise ValueError(
            f"the array {reprlib.repr(unknown[0])} is unknown; allowed are {', '.join(form.arrays)}"
        )
    if schema["arrays"].keys() != present:
        raise ValueError(
            f"schema.arrays describes {reprlib.repr(sorted(schema['arrays']))}; "
            f"the file holds {sorted(present)}"
        )
    headers = {}
    for name in sorted(present):
        header = member_header(archive, members[name], name, DTYPES)
        said, found = schema["arrays"][name], _describe(header.dtype, header.shape)
        if said != found:
            raise ValueError(f"{name} is {found}; schema.arrays says {reprlib.repr(said)}")
        if header.shape[:1] != (schema["count"],):
            raise ValueError(
                f"{name} has shape {list(header.shape)}; schema.count is {schema['count']}, "
                "which must be its first number"
            )
        _check_axes(form, name, header.shape)
        headers[name] = header
    return headers


def check_storable(form: ArrayFormat, name: str, value: Tensor) -> None:
    """Raise ValueError for a tensor that a file of this format cannot hold."""
    if value.layout != torch.strided or value.is_meta:
        raise ValueError(
            f"{name} is a {value.layout} tensor on {value.device}; it must be a dense one with values"
        )
    if str(value.dtype).removeprefix("torch.") not in DTYPES:
        raise ValueError(f"{name} has dtype {value.dtype}; allowed are {', '.join(DTYPES)}")
    if value.ndim > MAX_AXES:
        raise ValueError(f"{name} has {value.ndim} axes; at most {MAX_AXES} are allowed")
    _check_axes(form, name, tuple(value.shape))


def _check_axes(form: ArrayFormat, name: str, shape: tuple[int, ...]) -> None:
    """Refuse shapes that promise much and cost nothing: no byte of the file stands behind them."""
    if 0 in shape and not form.may_be_empty:
        raise ValueError(f"{name} has shape {list(shape)}; every axis must be at least 1")
    if 0 in shape[1:] or (0 in shape and max(shape) > MAX_EMPTY_AXIS):
        raise ValueError(
            f"{name} has shape {list(shape)}; axes after the first must be at least 1, "
            f"and at most {MAX_EMPTY_AXIS} where the first is 0"
        )


def _describe(dtype: np.dtype[Any], shape: tuple[int, ...]) -> dict[str, Any]:
    return {"dtype": dtype.name, "shape": list(shape)}


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a key is there twice in one object")
    return content


def _infinity(constant: str) -> float:
    if constant == "NaN":
        _refuse(constant)
    return float(constant)


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:20]} is out of range")
    return value
