"""Why clips of a study cannot be made: a note in its folder, by the process that tried, for whoever looks."""

from __future__ import annotations

import os
from pathlib import Path

from prefrl.data.files.atomic import atomic_path

ERROR_FILE = "rendering_error.txt"
"""In a study's folder: why the last process that made clips could not make one."""


def rendering_error(folder: str | os.PathLike[str]) -> str | None:
    """Return why the last process that made a study's clips could not make one; None: it could."""
    try:
        return (Path(folder) / ERROR_FILE).read_text("utf-8", "replace").strip() or None
    except FileNotFoundError:
        return None


def note_rendering_error(folder: str | os.PathLike[str], problem: str | None) -> None:
    """Leave word of why a clip cannot be made; None: take the word away."""
    note = Path(folder) / ERROR_FILE
    if problem is None:
        note.unlink(missing_ok=True)
        return
    with atomic_path(note) as temporary:  # others read it meanwhile
        temporary.write_text(f"{problem}\n", "utf-8")
        temporary.chmod(0o600)
