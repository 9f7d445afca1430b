"""One process at a time works on a run."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

if sys.platform != "win32":
    import fcntl


@contextmanager
def claimed(run: Path, patience: float = 0.0) -> Iterator[None]:
    """Keep other processes off a run; ``worker.pid`` in its folder names the process at work.

    The kernel lifts the lock when the process ends, however it ends. (On Windows there is none.)

    Args:
        run: the run folder.
        patience: seconds to wait for another process to leave.

    Raises:
        BlockingIOError: if another process works on the run and does not leave.
    """
    path = run / "worker.pid"
    with path.open("a+", encoding="utf-8") as file:
        patience_ends = time.monotonic() + patience
        while not _locked(file.fileno()):
            if time.monotonic() > patience_ends:
                raise BlockingIOError(
                    f"process {path.read_text('utf-8')} works on {run}; stop it, or wait for it"
                )
            time.sleep(0.1)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def _locked(descriptor: int) -> bool:
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
