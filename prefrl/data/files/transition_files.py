"""Files of transitions: arrays with a checked header, no pickles."""

from __future__ import annotations

import os
import reprlib

from prefrl.data.datasets import STORED, TransitionDataset, check_flags, shifted_actions
from prefrl.reading.errors import reading

from .array_file import ArrayFormat, read_arrays, write_arrays
from .spaces import space_from_json, space_to_json

FORMAT = ArrayFormat(
    name="prefrl-transitions",
    version=1,
    kind="transition file",
    arrays=STORED,
    keys=("env_id", "observation_space", "action_space"),
    max_schema_bytes=1 << 24,  # it may hold the bounds of an image space
    has_infinity=True,  # and those of other spaces
)
"""Files of :func:`save_transitions`."""


def save_transitions(path: str | os.PathLike[str], dataset: TransitionDataset) -> None:
    """Write a data set to one file, whole or not at all; an existing file is replaced.

    Args:
        path: the file; ``.npz`` by convention. It is a zip of plain arrays and JSON, without pickle.
        dataset: the data set.

    Raises:
        TypeError: if ``dataset`` is none.
        FileNotFoundError: if the folder does not exist.
        IsADirectoryError: if ``path`` is a folder.
    """
    if not isinstance(dataset, TransitionDataset):
        raise TypeError(f"dataset is a {type(dataset).__name__}; it must be a TransitionDataset")
    entries = {
        "env_id": dataset.env_id,
        "observation_space": space_to_json(dataset.observation_space),
        "action_space": space_to_json(dataset.action_space),
    }
    write_arrays(path, FORMAT, {name: getattr(dataset, name) for name in FORMAT.arrays}, entries)


def load_transitions(path: str | os.PathLike[str]) -> TransitionDataset:
    """Read a data set that :func:`save_transitions`, or another program, wrote.

    Everything is checked before use, and nothing in the file is ever executed.

    Raises:
        ValueError: in one line, naming the file, the array, what was found and what is allowed.
        FileNotFoundError: if there is no such file.
        IsADirectoryError: if ``path`` is a folder.
        PermissionError: if the file may not be read.
    """
    tensors, schema = read_arrays(path, FORMAT)
    with reading(path, FORMAT.kind):
        if schema["env_id"] is not None and not isinstance(schema["env_id"], str):
            raise ValueError(
                f"schema.env_id is {reprlib.repr(schema['env_id'])}; it must be a string or null"
            )
        check_flags("has_next_action", tensors["has_next_action"], schema["count"])
        return TransitionDataset(
            **tensors,
            next_actions=shifted_actions(tensors["actions"], tensors["has_next_action"]),
            observation_space=space_from_json(schema["observation_space"]),
            action_space=space_from_json(schema["action_space"]),
            env_id=schema["env_id"],
        )
