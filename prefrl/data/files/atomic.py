"""Files that are either whole or absent."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TEMPORARY = re.compile(r"\..+\.(\d+)\.tmp(\..+)?", re.DOTALL)
"""Names of the temporary siblings, with the process that writes them."""


@contextmanager
def atomic_path(path: str | os.PathLike[str], *, previous: Path | None = None) -> Iterator[Path]:
    """Yield a temporary sibling of ``path`` to write to; it takes the place of ``path`` only when whole.

    An exception, or a kill at any moment, leaves the previous file (or none) untouched. The sibling has the
    same suffix, since ``numpy.savez`` and Matplotlib look at it.

    Args:
        path: the file.
        previous: where the file that was there goes (None: nowhere).

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
        if previous is not None and target.exists():
            target.replace(previous)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def remove_stale_temporaries(folder: str | os.PathLike[str], *, of: str | None = None) -> None:
    """Delete what :func:`atomic_path`, or the making of a folder, left when its process was killed.

    Only for a folder that no other machine writes to: its processes are not seen from here.

    Args:
        folder: where to look; it need not exist.
        of: only what was to become this name (None: any file).
    """
    for path in Path(folder).iterdir() if Path(folder).is_dir() else ():
        match = TEMPORARY.fullmatch(path.name)
        if not match or _alive(int(match[1])) or not (of is None or path.name.startswith(f".{of}.")):
            continue
        if path.is_file():
            path.unlink(missing_ok=True)
        elif of is not None:
            shutil.rmtree(path, ignore_errors=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # it is another user's
        return True
    return True
