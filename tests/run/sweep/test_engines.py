"""The local engine, with a stand-in for the worker that does what the run's folder tells it."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from prefrl.processes import claimed
from prefrl.run.sweep import engines, worker
from prefrl.run.sweep.engines import MAX_RESTARTS, import_ray, last_line, run_in_ray, run_locally

STAND_IN = """
import os, pathlib, signal, sys, time
run = pathlib.Path(sys.argv[1])
plan = (run / "plan").read_text().split()
number = len(list(run.glob("start*")))
(run / f"start{number}").touch()
(run / "threads").write_text(os.environ["OMP_NUM_THREADS"] + os.environ["MKL_NUM_THREADS"])
others = sum(1 for each in run.parent.glob("*/busy"))
(run / "busy").touch()
print("start", number, others, flush=True)
action = plan[min(number, len(plan) - 1)]
if action == "wait":
    os.read(0, 1)
    (run / "checkpoint").touch()
    sys.exit(130)
if action == "hang":
    time.sleep(60)
time.sleep(0.15)
(run / "busy").unlink()
if action == "die":
    os.kill(os.getpid(), signal.SIGKILL)
if action == "fail":
    sys.exit("ValueError: no such luck\\n")
"""


@pytest.fixture
def make_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN)
    monkeypatch.setattr(engines, "WORKER", (sys.executable, "-S", str(script)))

    def make(name: str, plan: str) -> Path:
        (tmp_path / name).mkdir()
        (tmp_path / name / "plan").write_text(plan)
        return tmp_path / name

    return make


def starts(run: Path) -> int:
    return len(list(run.glob("start*")))


def nothing() -> None:
    pass


def test_deaths_are_mended_errors_reported_and_the_others_go_on(make_run) -> None:
    runs = {plan: make_run(plan.replace(" ", "-"), plan) for plan in ("fail", "die finish", "die", "finish")}
    told: list[str] = []
    ticks: list[None] = []
    failed = run_locally(list(runs.values()), 2, tell=told.append, tick=lambda: ticks.append(None))
    assert failed == {
        runs["fail"]: "ValueError: no such luck",
        runs["die"]: f"died of SIGKILL after {MAX_RESTARTS} restarts",
    }
    assert [starts(run) for run in runs.values()] == [1, 2, 1 + MAX_RESTARTS, 1]
    assert sorted(told) == sorted(
        [
            "fail failed: ValueError: no such luck",
            "die-finish died of SIGKILL; it is resumed",
            "die-finish finished",
            *["die died of SIGKILL; it is resumed"] * MAX_RESTARTS,
            f"die failed: died of SIGKILL after {MAX_RESTARTS} restarts",
            "finish finished",
        ]
    )
    assert ticks
    assert (runs["finish"] / "threads").read_text() == "11"
    log = (runs["die finish"] / "trial.log").read_text().splitlines()
    assert [line[:7] for line in log] == ["start 0", "start 1"]  # one log, whatever happens


def test_no_more_jobs_than_allowed_and_no_fewer(make_run) -> None:
    runs = [make_run(str(i), "finish") for i in range(4)]
    assert run_locally(runs, 2, tell=str, tick=nothing) == {}
    busy = [int((run / "trial.log").read_text().split()[-1]) for run in runs]
    assert max(busy) == 1  # each saw at most one other at work
    assert run_locally(runs[:2], 1, tell=str, tick=nothing) == {}
    assert {(run / "trial.log").read_text().split()[-1] for run in runs[:2]} == {"0"}


def interrupt_once(condition: Callable[[], bool]) -> Callable[[], None]:
    """Return a tick that does what Ctrl-C does, once the condition holds."""

    def tick() -> None:
        if condition():
            os.kill(os.getpid(), signal.SIGINT)

    return tick


def test_ctrl_c_lets_the_trials_write_their_checkpoints(make_run) -> None:
    runs = [make_run(name, "wait") for name in "abc"]
    told: list[str] = []
    tick = interrupt_once(lambda: all((run / "busy").exists() for run in runs[:2]))
    with pytest.raises(KeyboardInterrupt):
        run_locally(runs, 2, tell=told.append, tick=tick)
    assert [(run / "checkpoint").exists() for run in runs] == [True, True, False]
    assert [starts(run) for run in runs] == [1, 1, 0]
    assert "Ctrl-C again kills them" in told[-1]


def test_second_ctrl_c_kills(make_run) -> None:
    run = make_run("a", "hang")
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    tick = interrupt_once((run / "busy").exists)
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_locally([run], 1, tell=lambda text: timer.start(), tick=tick)
    assert time.monotonic() - started < 30  # the stand-in hangs for 60 seconds


def test_last_line(tmp_path: Path) -> None:
    log = tmp_path / "trial.log"
    assert last_line(log) == "it left no message"
    log.write_bytes(b"Traceback\n  ValueError: \xff no \n\n \n")
    assert last_line(log) == "ValueError: \N{REPLACEMENT CHARACTER} no"


# The worker ----------------------------------------------------------------------------------------------


def test_one_process_works_on_a_run(tmp_path: Path) -> None:
    with claimed(tmp_path):
        assert (tmp_path / "worker.pid").read_text() == str(os.getpid())
        with pytest.raises(BlockingIOError, match=f"process {os.getpid()} works on"), claimed(tmp_path, 0.2):
            pass
    assert (tmp_path / "worker.pid").read_text() == ""
    with claimed(tmp_path):
        pass


def test_the_next_process_waits_for_the_one_that_leaves(tmp_path: Path) -> None:
    left = []
    first = claimed(tmp_path)
    first.__enter__()
    timer = threading.Timer(0.3, lambda: (left.append(True), first.__exit__(None, None, None)))
    timer.start()
    with claimed(tmp_path, worker.PATIENCE):
        assert left


# Ray -----------------------------------------------------------------------------------------------------


def test_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r'pip install "\.\[ray\]"'):
        import_ray()


@pytest.mark.parametrize("address", ["cluster", "ray://head:10001", ":6379", "head:", "head:port"])
def test_malformed_address(address: str, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    with pytest.raises(ValueError, match="it must be HOST:PORT or auto"):
        run_in_ray([tmp_path], 1, address, tell=str, tick=nothing)


def test_nobody_answers_at_the_address(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    with pytest.raises(ConnectionError, match="no Ray cluster answers at 127"):
        run_in_ray([tmp_path], 1, "127.0.0.1:1", tell=str, tick=nothing)
