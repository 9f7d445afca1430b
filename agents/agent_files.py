"""What an agent's file holds: a header in JSON that says which agent it is, and its state."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Mapping
from typing import Any

from prefrl.data.files.tensor_file import read_tensor_file
from prefrl.reading.errors import reading
from prefrl.reading.text import parse_json

FILE_FORMAT = 1
"""Version of the files."""

HEADER = {
    "agent": str,
    "config": dict,
    "seed": int,
    "num_timesteps": int,
    "observation_space": dict,
    "action_space": dict,
}
"""What the header of an agent file holds besides its format."""

MAX_NUMBER = 1 << 63
"""Seeds and timesteps in files are below."""


def read_agent_file(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return header and state of a file that ``Agent.save`` wrote; ValueError for any other."""
    content = read_tensor_file(path, "agent file")
    with reading(path, "agent file of prefrl"):
        return checked_content(path, content)


def checked_content(
    place: str | os.PathLike[str], content: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return header and state of what ``Agent.content`` returned; messages call it by its ``place``."""
    header, state = parse_json(content["header"]), content["state"]
    if not isinstance(header, dict) or not isinstance(state, dict):
        raise ValueError(f"{place} is no agent file of prefrl")
    if header.get("format") != FILE_FORMAT:
        raise ValueError(f"{place} has format {header.get('format')}; this version reads {FILE_FORMAT}")
    for key, kind in HEADER.items():
        value = header.get(key)
        fits = not isinstance(value, int) or 0 <= value < MAX_NUMBER
        if not (isinstance(value, kind) and fits):
            raise ValueError(f"{place} is no agent file of prefrl: its {key} is {reprlib.repr(value)}")
    return header, state
