"""Files that are either whole or absent."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary sibling of ``path`` to write to; it takes the place of ``path`` only when whole.

    An exception, or a kill at any moment, leaves the previous file (or none) untouched. The sibling has the
    same suffix, since ``numpy.savez`` and Matplotlib look at it.

    Raises:
        FileNotFoundError: if the folder does not exist.
        IsADirectoryError: if ``path`` is a folder.
        ValueError: if it is a device or a pipe, which a file must not take the place of.
    """
    target = Path(path)
    if target.is_dir():
        raise IsADirectoryError(f"{target} is a folder; give the path of a file")
    if target.exists() and not target.is_file():
        raise ValueError(f"{target} is no regular file; give the path of a file")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"the folder {target.parent} does not exist")
    temporary = target.with_name(f".{target.stem}.{os.getpid()}.tmp{target.suffix}")
    try:
        yield temporary
        with temporary.open("rb+") as file:  # on disk before the name points to it
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
