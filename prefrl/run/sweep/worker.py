"""Works on one trial of a sweep; the engines start it in processes of its own."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

PATIENCE = 60.0
"""Seconds to wait for another process that works on the run, and may be writing its last checkpoint."""


def work(run: Path) -> None:
    """Train in a run folder, from its last checkpoint if it has one; one thread, one process at a time.

    A stack is unpacked then.
    """
    import torch

    from prefrl.run.launch import resume

    from .stacks import is_stack, unpack

    torch.set_num_threads(1)
    resume(run, patience=PATIENCE)
    if is_stack(run):
        unpack(run)


def work_in_ray(run: str) -> None:
    """Do the same inside a worker of Ray, whose own output goes elsewhere."""
    log_path = Path(run, "trial.log")
    with log_path.open("a", encoding="utf-8", buffering=1) as log, redirect_stdout(log), redirect_stderr(log):
        try:
            work(Path(run))
        except BaseException:
            traceback.print_exc()
            raise


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
    except KeyboardInterrupt as stop:
        signum = getattr(stop, "signum", None)
        if signum is None:
            return 130
        signal.signal(signum, signal.SIG_DFL)  # not the sweep ended this process; it resumes what dies
        os.kill(os.getpid(), signum)
    return 0


if __name__ == "__main__":
    sys.exit(main())
