"""Works on one trial of a sweep; the engines start it in processes of its own."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

if sys.platform != "win32":
    import fcntl

PATIENCE = 60.0
"""Seconds to wait for another process that works on the run, and may be writing its last checkpoint."""


def work(run: Path) -> None:
    """Train in a run folder, from its last checkpoint if it has one; one thread, one process at a time."""
    import torch

    from prefrl.run.launch import resume

    torch.set_num_threads(1)
    resume(run, patience=PATIENCE)


def work_in_ray(run: str) -> None:
    """Do the same inside a worker of Ray, whose own output goes elsewhere."""
    log_path = Path(run, "trial.log")
    with log_path.open("a", encoding="utf-8", buffering=1) as log, redirect_stdout(log), redirect_stderr(log):
        try:
            work(Path(run))
        except BaseException:
            traceback.print_exc()
            raise


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


def interrupt_when_orphaned() -> None:
    """Wait until the other end of stdin is closed, then interrupt this process as Ctrl-C would.

    The sweep holds that end, so its trials checkpoint and leave with it, whatever ends it.
    """
    while os.read(0, 1):  # not sys.stdin, which the interpreter could not close while this thread reads it
        pass
    os.kill(os.getpid(), signal.SIGINT)


def main() -> int:
    """Work on the run that the first argument names; return the exit status."""
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored below nohup
        threading.Thread(target=interrupt_when_orphaned, daemon=True).start()
        work(Path(sys.argv[1]))
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
