"""One process at a time works on a run, and signals that ask it to end wait for a whole step."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
                process = path.read_text("utf-8", "replace")[:20]
                raise BlockingIOError(f"process {process} works on {run}; stop it, or wait for it")
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


class Terminated(KeyboardInterrupt):
    """A signal asked the process to end.

    Attributes:
        signum: which.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


@contextmanager
def deferred_signals(*, all_of_them: bool) -> Iterator[list[int]]:
    """Yield a list to which the first Ctrl-C is added instead of interrupting; the second interrupts at once.

    An interrupt in the middle of an update would leave half-updated tensors behind.

    Args:
        all_of_them: whether SIGTERM and SIGHUP, by which batch systems and containers end a process, and
            terminals that are closed, wait too.
    """
    asked: list[int] = []
    names = ("SIGINT", "SIGTERM", "SIGHUP") if all_of_them else ("SIGINT",)
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    previous = {number: signal.getsignal(number) for number in numbers}
    if threading.current_thread() is not threading.main_thread():
        yield asked  # signals reach the main thread only
        return

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def ask(signum: int, frame: Any) -> None:
        asked.append(signum)
        restore()

    for number, handler in previous.items():
        if handler not in (signal.SIG_IGN, None):  # one that is ignored stays ignored
            signal.signal(number, ask)
    try:
        yield asked
    finally:
        restore()
