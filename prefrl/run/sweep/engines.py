"""What runs the trials of a sweep: processes of this machine, or Ray.

An engine takes run folders and finishes each; a trial whose process dies is resumed from its checkpoint, one
that fails is reported, and the others go on. After Ctrl-C every trial has checkpointed and every process has
left.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .worker import work_in_ray

MAX_RESTARTS = 3
"""How often a trial is resumed after its process died."""

WORKER = (sys.executable, "-m", "prefrl.run.sweep.worker")
"""The command that works on the run folder in its last argument."""

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
"""One thread for each worker; and its log is complete, however it ends."""

STOPPING = (
    "stopping: the trials write their checkpoints, and the same command goes on; Ctrl-C again kills them"
)

Tell = Callable[[str], None]
Tick = Callable[[], None]


def run_locally(runs: Sequence[Path], jobs: int, *, tell: Tell, tick: Tick) -> dict[Path, str]:
    """Finish run folders in processes of this machine, one thread each.

    Args:
        runs: the run folders.
        jobs: how many processes at once.
        tell: is told what happens.
        tick: is called several times a second.

    Returns:
        What went wrong, for each run that failed.

    Raises:
        KeyboardInterrupt: on Ctrl-C, once the trials have checkpointed.
    """
    waiting, running = deque(runs), dict[Path, "subprocess.Popen[bytes]"]()
    deaths: Counter[Path] = Counter()
    failed: dict[Path, str] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                run = waiting.popleft()
                running[run] = _start(run)
            for run, process in list(running.items()):
                if (status := process.poll()) is None:
                    continue
                _close_stdin(running.pop(run))
                if status < 0 and deaths[run] < MAX_RESTARTS:
                    deaths[run] += 1
                    waiting.appendleft(run)
                    tell(f"{run.name} died of {_signal_name(status)}; it is resumed")
                    continue
                if status != 0:
                    again = f"died of {_signal_name(status)} after {MAX_RESTARTS} restarts"
                    failed[run] = again if status < 0 else last_line(run / "trial.log")
                tell(f"{run.name} failed: {failed[run]}" if status else f"{run.name} finished")
            tick()
            time.sleep(0.1)
    finally:
        if running:
            tell(STOPPING)
            _stop(list(running.values()))
    return failed


def _start(run: Path) -> subprocess.Popen[bytes]:
    with (run / "trial.log").open("ab") as log:
        return subprocess.Popen(
            [*WORKER, str(run)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **ENVIRONMENT},
            start_new_session=True,  # the terminal's Ctrl-C is for the sweep, which then closes stdin
        )


def _close_stdin(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        process.stdin.close()


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Have the workers write their checkpoints and leave."""
    try:
        for process in processes:
            _close_stdin(process)
        for process in processes:
            process.wait()
    finally:  # nothing is left to kill, unless this was interrupted
        for process in processes:
            process.kill()
            process.wait()


def _signal_name(status: int) -> str:
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"


def last_line(log: Path) -> str:
    """Return the last line of a log that is not blank."""
    lines = log.read_text("utf-8", errors="replace").splitlines() if log.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "it left no message")


def run_in_ray(
    runs: Sequence[Path], jobs: int, address: str | None, *, tell: Tell, tick: Tick
) -> dict[Path, str]:
    """Finish run folders as tasks of Ray, one CPU each.

    Args:
        runs: the run folders; with a cluster, on storage that all its machines see at the same path.
        jobs: how many CPUs a Ray of our own has; a cluster runs as many tasks as it has CPUs.
        address: the cluster, as HOST:PORT, or "auto" for the one that runs on this machine; None starts Ray
            for as long as the sweep lasts.
        tell: is told what happens.
        tick: is called several times a second.

    Returns:
        What went wrong, for each run that failed.

    Raises:
        ImportError: if Ray is not installed.
        ValueError: if ``address`` is malformed.
        ConnectionError: if there is no cluster at ``address``.
        KeyboardInterrupt: on Ctrl-C, once the trials have checkpointed.
    """
    with connected(jobs, address) as ray:
        return finish_in_ray(ray, runs, tell=tell, tick=tick)


@contextmanager
def connected(jobs: int, address: str | None) -> Iterator[Any]:
    """Yield the module ``ray`` while it is connected; arguments and errors are as of :func:`run_in_ray`."""
    ray = _connect(jobs, address)
    try:
        yield ray
    finally:
        ray.shutdown()


def finish_in_ray(ray: Any, runs: Sequence[Path], *, tell: Tell, tick: Tick) -> dict[Path, str]:
    """Do what :func:`run_in_ray` does, where Ray is connected."""
    task = ray.remote(num_cpus=1, max_retries=MAX_RESTARTS)(work_in_ray)
    pending = {task.remote(str(run.resolve())): run for run in runs}
    failed: dict[Path, str] = {}
    try:
        while pending:
            done, _ = ray.wait(list(pending), num_returns=1, timeout=0.2)
            for reference in done:
                run = pending.pop(reference)
                if problem := _problem(ray, reference, run):
                    failed[run] = problem
                tell(f"{run.name} failed: {problem}" if problem else f"{run.name} finished")
            tick()
    finally:
        if pending:
            tell(STOPPING)
            for reference in pending:
                ray.cancel(reference)
            ray.wait(list(pending), num_returns=len(pending))
    return failed


def import_ray() -> Any:
    """Return the module ``ray``, told to report nothing to anyone; ImportError if it is not installed."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        import ray
    except ImportError as error:
        raise ImportError('the engine ray needs Ray: pip install ".[ray]"') from error
    return ray


def _connect(jobs: int, address: str | None) -> Any:
    """Return the module ``ray``, connected to a cluster or to a Ray of our own."""
    ray = import_ray()
    if address not in (None, "auto"):
        _knock(address)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    if address is None:
        # "local", or it would attach to what RAY_ADDRESS names.
        ray.init(address="local", num_cpus=jobs, include_dashboard=False, **quiet)
    else:
        ray.init(address=address, **quiet)
    return ray


def _knock(address: str) -> None:
    """Raise unless something answers at HOST:PORT; Ray itself would go on trying for many minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        raise ValueError(f"address is {address!r}; it must be HOST:PORT or auto")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise ConnectionError(f"no Ray cluster answers at {address}: {error}") from error


def _problem(ray: Any, reference: Any, run: Path) -> str | None:
    """Return what went wrong with a task that is over; None if nothing did."""
    try:
        ray.get(reference)
    except ray.exceptions.RayTaskError:
        return last_line(run / "trial.log")
    except ray.exceptions.RayError as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0]}"
    return None
