"""Preference files: comparisons of segments as plain arrays and a JSON schema, without pickle.

A file is a zip of .npy arrays, as ``numpy.savez`` writes it: ``first_obs``, ``first_actions``,
``first_lengths``, ``first_terminated``, ``first_features`` (optional), the same for ``second``, ``labels``,
``weights``, ``annotators``, ``offsets`` (optional), and ``schema``, the bytes of a JSON document that says
what the arrays are.
The fields mean what they mean in :class:`prefrl.data.Preferences`.
"""

from __future__ import annotations

import os
import reprlib
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from prefrl.data.comparisons import Preferences
from prefrl.data.segments import Segments
from prefrl.reading.errors import reading

from .array_file import ArrayFormat, check_storable, read_arrays, write_arrays

_SEGMENT_FIELDS = ("obs", "actions", "lengths", "terminated", "features")
_PAIR_FIELDS = ("labels", "weights", "annotators", "offsets")

FORMAT = ArrayFormat(
    name="prefrl-preferences",
    version=1,
    kind="preference file",
    arrays=(*(f"{side}_{name}" for side in ("first", "second") for name in _SEGMENT_FIELDS), *_PAIR_FIELDS),
    keys=("annotator_names", "metadata"),
    optional=frozenset({"first_features", "second_features", "offsets"}),
    may_be_empty=True,
)
"""What a preference file is."""


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
    tensors = preference_tensors(preferences)
    for name, value in tensors.items():
        check_storable(FORMAT, name, value)
    preferences.validate()
    entries = {
        "annotator_names": list(preferences.annotator_names),
        "metadata": dict(preferences.metadata),
    }
    write_arrays(path, FORMAT, tensors, entries)


def load_preferences(path: str | os.PathLike[str]) -> Preferences:
    """Read comparisons that :func:`save_preferences`, or another program, wrote.

    Everything is checked before use, and nothing in the file is ever executed. Compressed files
    (``numpy.savez_compressed``) are read too, up to :data:`prefrl.reading.archives.MAX_EXPANDED_BYTES`.

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
    tensors, schema = read_arrays(path, FORMAT)
    with reading(path, FORMAT.kind):
        return _assemble(tensors, schema)


def _assemble(tensors: Mapping[str, Tensor], schema: Mapping[str, Any]) -> Preferences:
    names, metadata = schema["annotator_names"], schema["metadata"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"schema.annotator_names is {reprlib.repr(names)}; it must be a list of strings")
    if not isinstance(metadata, dict):
        raise ValueError(f"schema.metadata is {reprlib.repr(metadata)}; it must be a JSON object")
    return preferences_from_tensors(tensors, tuple(names), metadata).validate()


def preferences_from_tensors(
    tensors: Mapping[str, Tensor],
    names: tuple[str, ...] = ("unknown",),
    metadata: Mapping[str, Any] | None = None,
) -> Preferences:
    """Return comparisons of tensors that :func:`preference_tensors` named."""
    first, second = (
        Segments(*(tensors[f"{side}_{name}"] for name in _SEGMENT_FIELDS if f"{side}_{name}" in tensors))
        for side in ("first", "second")
    )
    columns = {name: tensors[name] for name in _PAIR_FIELDS if name in tensors}
    return Preferences(first, second, **columns, annotator_names=names, metadata=metadata or {})


def preference_tensors(preferences: Preferences) -> dict[str, Tensor]:
    """Return the tensors of comparisons by the names that they have in a file."""
    columns = {name: getattr(preferences, name) for name in _PAIR_FIELDS}
    found = {name: value for name, value in columns.items() if value is not None}
    for side in ("first", "second"):
        segments = getattr(preferences, side)
        for name in _SEGMENT_FIELDS:
            if getattr(segments, name) is not None:
                found[f"{side}_{name}"] = getattr(segments, name)
    return found
