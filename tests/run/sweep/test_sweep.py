"""Sweeps with real workers: killed, interrupted, failing, on this machine and in Ray."""

import csv
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from prefrl.cli import main
from prefrl.run.checkpoint import load_checkpoint
from prefrl.run.launch import train
from prefrl.run.recipes.value_based.q_learning import TrainQLearning
from prefrl.run.sweep.sweep import parse_settings, sweep

TIMESTEPS = 40_000
SETTINGS = {
    "num_envs": ["16"],
    "total_timesteps": [str(TIMESTEPS)],
    "checkpoint_every": ["4000"],
    "log_every": ["1000"],
    "eval_episodes": ["5"],
    "device": ["cpu"],
}
TIMING = {"seconds", "steps_per_second"}


def run_of(folder: Path, seed: int) -> Path:
    (run,) = folder.glob(f"*,seed={seed}")
    return run


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{key: value for key, value in row.items() if key not in TIMING} for row in rows]


def logged_timesteps(run: Path) -> list[int]:
    """The timesteps of the tables that the workers of a run printed, one worker after the other."""
    return [int(found) for found in re.findall(r"total_timesteps +\| (\d+)", (run / "trial.log").read_text())]


def assert_resumed(run: Path, checkpoint: int) -> None:
    """Check that a run had two workers, and that the second went on from the checkpoint, or a later one."""
    # each worker opens one; hparams, at the end, another
    assert len(list(run.glob("events.out.tfevents.*"))) == 3
    steps = logged_timesteps(run)
    assert steps.count(steps[0]) == 1  # nobody started from the beginning again
    restarts = [after for before, after in itertools.pairwise(steps) if after <= before]
    assert len(restarts) <= 1
    assert all(TIMESTEPS > step > checkpoint >= 4000 for step in restarts)
    assert steps[-1] == TIMESTEPS


@contextmanager
def once_half_done(run: Callable[[], Path], act: Callable[[Path], None]) -> Iterator[dict[str, int]]:
    """Act, from another thread, when a run has a checkpoint; yields a dict that will hold its timestep."""
    seen: dict[str, int] = {}
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.01):
            try:
                path = run()
            except ValueError:
                continue
            if (path / "checkpoint.pt").exists():
                seen["checkpoint"] = load_checkpoint(path / "checkpoint.pt")["num_timesteps"]
                act(path)
                seen["finished"] = (path / "result.json").exists()
                return

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()


def kill_worker(run: Path) -> None:
    os.kill(int((run / "worker.pid").read_text()), signal.SIGKILL)


@pytest.mark.slow
def test_one_trial_is_killed_and_resumed_another_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "sweep"
    texts = [f"{name}={values[0]}" for name, values in SETTINGS.items()]
    command = ["sweep", "q_learning", "--out", str(folder), "--seeds", "0", "--set", *texts]
    command += ["--set", "env_id=prefrl/Delivery-v0,Missing-v0"]
    with (
        once_half_done(lambda: next(folder.glob("*Delivery*"), folder), kill_worker) as seen,
        pytest.raises(SystemExit) as left,
    ):
        main(command)
    assert left.value.code == 1
    good, bad = (folder / row["trial"] for row in table(folder))
    assert not seen["finished"]
    assert_resumed(good, seen["checkpoint"])
    output = capfd.readouterr()
    assert output.out.endswith(f"{folder / 'result.json'}\n")
    assert f"{good.name} died of SIGKILL; it is resumed\n" in output.err
    assert f"{good.name} finished\n" in output.err

    failed = json.loads((folder / "result.json").read_text())["failed"]
    assert list(failed) == [bad.name]
    assert "Missing" in failed[bad.name]
    assert f"{bad.name} failed: {failed[bad.name]}\n" in output.err
    rows = table(folder)
    assert rows[1]["num_timesteps"] == ""

    recipe = TrainQLearning(num_envs=16, total_timesteps=TIMESTEPS, log_every=1000, checkpoint_every=4000,
                            eval_episodes=5, device="cpu")  # fmt: skip
    direct = json.loads(train("q_learning", recipe, tmp_path / "direct", quiet=True).read_text())
    expected = {key: str(value) for key, value in direct.items() if key not in TIMING}
    assert {key: rows[0][key] for key in expected} == expected

    started: list[Path] = []
    monkeypatch.setattr(
        "prefrl.run.sweep.sweep.run_locally", lambda runs, jobs, **_: started.extend(runs) or {bad: "again"}
    )
    with pytest.raises(SystemExit):
        main(command)
    assert started == [bad]  # what is finished is not started again
    assert table(folder) == rows


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "gamma"], "set has 'gamma'; each must be FIELD=V1,V2,..."),
        (["--set", "gamma=1", "--set", "gamma=0.9"], "set names gamma twice"),
        (["--set", "gamma=0.9,2"], "gamma is 2.0; it must lie in [0, 1]"),
        (["--set", "colour=red"], "setting 'colour' of the recipe q_learning is unknown; it has agent."),
        (["--jobs", "0"], "jobs is 0"),
        (["--address", "auto"], "give --engine ray as well"),
    ],
)
def test_wrong_arguments_are_refused_at_the_door(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", "q_learning", "--out", str(tmp_path / "sweep"), *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "sweep").exists()


def test_missing_ray_is_said_at_the_door(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["sweep", "q_learning", "--out", str(tmp_path / "sweep"), "--engine", "ray"]) == 2
    assert 'pip install ".[ray]"' in capsys.readouterr().err
    assert not (tmp_path / "sweep").exists()


def test_parse_settings() -> None:
    assert parse_settings(["a=1,2", "b.c=x=y", "d="]) == {"a": ["1", "2"], "b.c": ["x=y"], "d": [""]}
    with pytest.raises(ValueError, match="set has '=1'"):
        parse_settings(["=1"])


# Slow ones -----------------------------------------------------------------------------------------------


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Ray keeps the password of its clusters in the home folder: one of its own for each test."""
    (tmp_path / "home").mkdir()
    return {**os.environ, "HOME": str(tmp_path / "home"), "RAY_AUTH_MODE": "token"}


def start_cli(folder: Path, environment: dict[str, str], *options: str) -> "subprocess.Popen[str]":
    settings = [f"{name}={values[0]}" for name, values in SETTINGS.items()]
    return subprocess.Popen(
        [sys.executable, "-m", "prefrl.cli", "sweep", "q_learning", "--out", str(folder), "--seeds", "0", "1",
         "--set", *settings, *options],
        start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip


def wait_for_checkpoints(folder: Path) -> None:
    deadline = time.monotonic() + 120
    while len(list(folder.glob("*/checkpoint.pt"))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def assert_gone(processes: list[psutil.Process], patience: float) -> None:
    _, alive = psutil.wait_procs(processes, timeout=patience)
    assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    folder = tmp_path_factory.mktemp("sweep")
    sweep("q_learning", folder, seeds=[0, 1], settings=SETTINGS)
    return table(folder)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["local", "ray"])
def test_ctrl_c_checkpoints_and_the_same_command_goes_on(
    engine: str, tmp_path: Path, environment: dict[str, str], uninterrupted: list[dict[str, str]]
) -> None:
    if engine == "ray":
        pytest.importorskip("ray")
    folder = tmp_path / "sweep"
    process = start_cli(folder, environment, "--engine", engine)
    wait_for_checkpoints(folder)
    children = psutil.Process(process.pid).children(recursive=True)
    workers = [int((run_of(folder, seed) / "worker.pid").read_text()) for seed in (0, 1)]
    assert {child.pid for child in children} >= set(workers)
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "the same command goes on" in errors
    assert_gone(children, 10)
    checkpoints = {}
    for seed in (0, 1):
        run = run_of(folder, seed)
        assert not (run / "result.json").exists()
        checkpoints[seed] = load_checkpoint(run / "checkpoint.pt")["num_timesteps"]
        assert checkpoints[seed] >= logged_timesteps(run)[-1]  # of the moment of the interrupt
    process = start_cli(folder, environment, "--engine", engine)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    for seed in (0, 1):
        assert_resumed(run_of(folder, seed), checkpoints[seed])
    assert table(folder) == uninterrupted


@pytest.mark.slow
def test_trials_checkpoint_and_leave_when_the_sweep_is_killed(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    process = start_cli(tmp_path / "sweep", environment)
    wait_for_checkpoints(tmp_path / "sweep")
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) == 2
    process.kill()
    process.communicate()
    assert_gone(children, 20)
    for seed in (0, 1):
        assert "stopped; go on with" in (run_of(tmp_path / "sweep", seed) / "trial.log").read_text()


@pytest.mark.slow
def test_worker_of_ray_is_killed_and_its_trial_resumed(
    tmp_path: Path, environment: dict[str, str], uninterrupted: list[dict[str, str]]
) -> None:
    pytest.importorskip("ray")
    folder = tmp_path / "sweep"
    process = start_cli(folder, environment, "--engine", "ray", "--jobs", "2")
    with once_half_done(lambda: run_of(folder, 0), kill_worker) as seen:
        wait_for_checkpoints(folder)
        children = psutil.Process(process.pid).children(recursive=True)
        workers = [child for child in children if child.name().startswith("ray::")]
        _, errors = process.communicate(timeout=120)
    assert len(workers) >= 2
    assert (process.returncode, seen["finished"]) == (0, False), errors
    assert_resumed(run_of(folder, 0), seen["checkpoint"])
    assert logged_timesteps(run_of(folder, 1)) == sorted(logged_timesteps(run_of(folder, 1)))
    assert table(folder) == uninterrupted
    assert_gone(children, 10)


@pytest.mark.slow
def test_sweep_on_a_cluster_leaves_it_running(tmp_path: Path, environment: dict[str, str]) -> None:
    pytest.importorskip("ray")
    code = (
        "import ray, sys; info = ray.init(address='local', num_cpus=1, include_dashboard=False);"
        "print(info.address_info['gcs_address'], flush=True); sys.stdin.read(); ray.shutdown()"
    )
    pipe = subprocess.PIPE
    cluster = subprocess.Popen(
        [sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True, env=environment
    )
    assert cluster.stdin is not None
    assert cluster.stdout is not None
    try:
        address = cluster.stdout.readline().strip()
        processes = psutil.Process(cluster.pid).children(recursive=True)
        servers = [process for process in processes if process.name() in {"raylet", "gcs_server"}]
        assert len(servers) == 2
        options = ["--engine", "ray", "--address", address, "--set", "env_id=prefrl/Delivery-v0,Missing-v0"]
        process = start_cli(tmp_path / "sweep", environment, *options)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 1, errors
        rows = table(tmp_path / "sweep")
        assert [row["num_timesteps"] for row in rows] == [str(TIMESTEPS)] * 2 + [""] * 2
        for row in rows[2:]:
            assert re.search(f"{row['trial']} failed: .*Missing", errors)
        assert all(server.is_running() for server in servers)
    finally:
        cluster.stdin.close()
        cluster.wait(60)
    assert_gone(processes, 60)
