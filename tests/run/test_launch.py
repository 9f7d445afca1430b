"""Whole runs: their results, and that a run killed anywhere goes on as if nothing had happened."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from prefrl.agents import QLearning, QLearningConfig
from prefrl.processes import claimed
from prefrl.run.checkpoint import load_checkpoint, save_checkpoint
from prefrl.run.environments import make_training_env
from prefrl.run.folder import write_json
from prefrl.run.launch import evaluate_run, resume, train
from prefrl.run.logger import STEP, read_progress
from prefrl.run.recipes.preferences.regret import TrainRegret
from prefrl.run.recipes.value_based.q_learning import TrainQLearning

TIMING = {"time/fps", "time/time_elapsed", "seconds", "steps_per_second"}
QUICK = TrainQLearning(num_envs=64, total_timesteps=6400, eval_episodes=3, device="cpu")


def untimed(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in TIMING}


def test_train_writes_everything_and_prints_the_result_last(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = train("q_learning", QUICK, tmp_path / "run", quiet=True)
    printed = capsys.readouterr()
    assert printed.out == f"{tmp_path / 'run' / 'result.json'}\n"
    result = json.loads(path.read_text())
    assert set(result) == {"scaled_return", "final_return", "steps_per_second", "seconds", "num_timesteps"}
    assert result["num_timesteps"] == 6400
    assert result["steps_per_second"] == pytest.approx(6400 / result["seconds"])
    names = {entry.name for entry in path.parent.iterdir()}
    assert {
        "config.json",
        "versions.json",
        "progress.csv",
        "checkpoint.pt",
        "agent.pt",
        "result.json",
    } <= names
    assert len(read_progress(path.parent / "progress.csv")) == 100
    agent = QLearning.load(path.parent / "agent.pt", device="cpu")
    assert torch.equal(agent.q, load_checkpoint(path.parent / "checkpoint.pt")["agent"]["q"])


def test_train_prints_tables_unless_quiet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = train("q_learning", QUICK, tmp_path / "run")
    printed = capsys.readouterr().out
    assert printed.count("total_timesteps") == 10  # of 100 rows in progress.csv
    outcome = printed[printed.rindex("ep_rew_mean") :]
    assert f"{json.loads(path.read_text())['final_return']:.4g}" in outcome
    assert "final_return" in outcome
    assert printed.endswith(f"\n{path}\n")


def test_tensorboard_has_the_settings_and_the_outcome(tmp_path: Path) -> None:
    recipe = replace(QUICK, env_args=("layout_seed=3",), env_id="prefrl/RandomGrid-v0", total_timesteps=640)
    result = json.loads(train("q_learning", recipe, tmp_path / "run", quiet=True).read_text())
    events = EventAccumulator(str(tmp_path / "run")).Reload()
    (text,) = events.Tensors("config/text_summary")
    assert b'"layout_seed=3"' in text.tensor_proto.string_val[0]
    (scalar,) = events.Scalars("result/final_return")
    assert (scalar.step, scalar.value) == (640, pytest.approx(result["final_return"]))
    start = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    settings = HParamsPluginData.FromString(start).session_start_info.hparams
    assert settings["agent.gamma"].number_value == recipe.agent.gamma
    assert settings["env_args"].string_value == "layout_seed=3"
    assert settings["log_every"].string_value == "None"
    shown = events.SummaryMetadata("_hparams_/experiment").plugin_data.content
    metrics = {info.name.tag for info in HParamsPluginData.FromString(shown).experiment.metric_infos}
    assert {"result/final_return", "result/num_timesteps"} <= metrics
    assert metrics <= set(events.Tags()["scalars"])


def test_the_default_folder_is_named_after_recipe_and_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = train("q_learning", QUICK, quiet=True)
    assert path.parts[0] == "runs"
    assert path.parts[1].startswith("q_learning-0-2")


def test_delivery_is_learned_in_a_moment(tmp_path: Path) -> None:
    recipe = TrainQLearning(num_envs=4096, total_timesteps=1_000_000, seed=7, device="cpu")
    result = json.loads(train("q_learning", recipe, tmp_path / "run", quiet=True).read_text())
    assert result["scaled_return"] > 0.99
    assert result["final_return"] > 38.0
    again = json.loads(train("q_learning", recipe, tmp_path / "again", quiet=True).read_text())
    assert untimed(again) == untimed(result)


def test_environments_of_gymnasium(tmp_path: Path) -> None:
    recipe = TrainQLearning(
        env_id="FrozenLake-v1",
        env_args=("is_slippery=false",),
        num_envs=4,
        total_timesteps=4000,
        agent=QLearningConfig(learning_rate_decay=0.0),
        device="cpu",
    )
    result = json.loads(train("q_learning", recipe, tmp_path / "run", quiet=True).read_text())
    assert result["scaled_return"] is None
    assert result["final_return"] == 1.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"env_args": ("layout=3",)}, r"env_args \['layout=3'\] do not suit prefrl/Delivery-v0"),
        ({"env_args": ("autoreset_mode=NextStep",)}, "do not suit .*autoreset_mode"),
        ({"env_args": ("generator_device=foo",)}, "do not suit .*generator_device"),
        ({"env_id": "CartPole-v1"}, "takes Discrete"),
    ],
)
def test_refused_settings_leave_no_folder_behind(
    settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        train("q_learning", TrainQLearning(**settings, device="cpu"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_only_a_run_is_offered_to_be_resumed(tmp_path: Path) -> None:
    for recipe, hint in (("q_learning", ", or go on with `prefrl resume "), ("reproduce_regret", "$")):
        (tmp_path / recipe).mkdir()
        write_json(tmp_path / recipe / "config.json", {"recipe": recipe, "config": {}})
        with pytest.raises(FileExistsError, match=f"is not empty: choose another --out{hint}"):
            train("q_learning", QUICK, tmp_path / recipe, quiet=True)


def test_resume_of_a_finished_run_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = train("q_learning", QUICK, tmp_path / "run", quiet=True)
    before = path.read_bytes()
    capsys.readouterr()
    assert resume(tmp_path / "run") == path
    assert capsys.readouterr().out == f"{tmp_path / 'run'} is finished\n{path}\n"
    assert path.read_bytes() == before


def test_resume_refuses_a_damaged_run(tmp_path: Path) -> None:
    path = train("q_learning", QUICK, tmp_path / "run", quiet=True)
    path.unlink()
    for checkpoint in (tmp_path / "run").glob("checkpoint*.pt"):
        checkpoint.write_bytes(checkpoint.read_bytes()[:-500])
    with pytest.raises(ValueError, match=r"checkpoint\.pt is damaged"):
        resume(tmp_path / "run", quiet=True)
    config = tmp_path / "run" / "config.json"
    config.write_text(config.read_text().replace('"gamma"', '"gama"'))
    with pytest.raises(ValueError, match=r"config\.json: agent\.gama is unknown"):
        resume(tmp_path / "run", quiet=True)
    config.write_text('{"recipe": "sarsa", "config": {}}')
    with pytest.raises(ValueError, match=r"config\.json: there is no recipe 'sarsa'"):
        resume(tmp_path / "run", quiet=True)


def test_both_recipes_refuse_arguments_of_another_environment(tmp_path: Path) -> None:
    recipe = TrainRegret(env_args=("autoreset_mode=NextStep",), device="cpu")
    with pytest.raises(ValueError, match=r"do not suit .*autoreset_mode"):
        train("regret", recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_id_with_its_module_is_stepped_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    import prefrl.envs

    env = make_training_env("prefrl.envs:prefrl/Delivery-v0", (), 2, "cpu")
    assert isinstance(env.reset()[0], torch.Tensor)

    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr(prefrl.envs, "make_device", fails)
    with pytest.raises(ValueError, match=r"prefrl/Delivery-v0 cannot be made: first line$"):
        make_training_env("prefrl/Delivery-v0", (), 2, "cpu")


@pytest.fixture
def unfinished(tmp_path: Path) -> Path:
    run = tmp_path / "run"
    train("q_learning", QUICK, run, quiet=True).unlink()
    return run


@pytest.mark.parametrize(
    "change",
    [
        lambda state: {},
        lambda state: {**state, "target": "far"},
        lambda state: {**state, "agent": {"policy": torch.zeros(3)}},
        lambda state: {**state, "agent": {**state["agent"], "q": state["agent"]["q"][:4]}},
        lambda state: {**state, "agent": 3},
        lambda state: {**state, "stepper": {}},
    ],
)
def test_a_checkpoint_of_something_else_is_named(unfinished: Path, change: Any) -> None:
    path = unfinished / "checkpoint.pt"
    state = change(load_checkpoint(path))
    save_checkpoint(path, state)
    with pytest.raises(ValueError, match=r"checkpoint\.pt holds no state of this run's QLearning: "):
        resume(unfinished, quiet=True)
    if not isinstance(state.get("agent"), dict) or "q" not in state["agent"]:
        with pytest.raises(ValueError, match=r"checkpoint\.pt holds no state of this run's QLearning: "):
            evaluate_run(unfinished)


@pytest.mark.parametrize("text", ["a,b\n1,2\n", f"{STEP}\nabc\n", f"a,{STEP}\n1\n", "\udcff\n"])
def test_a_damaged_progress_file_is_set_aside(unfinished: Path, text: str) -> None:
    (unfinished / "progress.csv").write_text(text, "utf-8", errors="surrogateescape")
    with pytest.warns(UserWarning, match=r"progress\.csv.*set aside as progress\.damaged\.csv"):
        assert resume(unfinished, quiet=True).exists()
    assert (unfinished / "progress.damaged.csv").read_bytes() == text.encode("utf-8", "surrogateescape")


def test_two_processes_never_work_on_one_run(unfinished: Path) -> None:
    with (
        claimed(unfinished),
        pytest.raises(BlockingIOError, match=f"process {os.getpid()} works on {unfinished}"),
    ):
        resume(unfinished, quiet=True)
    (unfinished / "worker.pid").write_text("1")  # what a killed process leaves
    assert resume(unfinished, quiet=True).exists()


def test_training_claims_its_run(tmp_path: Path) -> None:
    process = start("train", "q_learning", *as_flags(LONG), "--out", tmp_path / "run", "--quiet")
    try:
        reached(tmp_path / "run", 1_600, process)
        with pytest.raises(BlockingIOError, match=f"process {process.pid} works on"):
            resume(tmp_path / "run", quiet=True)
    finally:
        process.kill()
        process.communicate()


def test_resume_clears_what_killed_processes_left(unfinished: Path) -> None:
    process = start("--help")
    process.communicate()
    left = unfinished / f".checkpoint.{process.pid}.tmp.pt"
    left.write_text("half")
    resume(unfinished, quiet=True)
    assert not left.exists()


def test_evaluate_run(tmp_path: Path) -> None:
    train("q_learning", QUICK, tmp_path / "run", quiet=True)
    path = evaluate_run(tmp_path / "run", episodes=5, seed=3)
    evaluation = json.loads(path.read_text())
    assert set(evaluation) == {
        "mean_return",
        "std_return",
        "mean_length",
        "episodes",
        "seed",
        "num_timesteps",
    }
    assert evaluation["episodes"] == 5
    assert evaluation["num_timesteps"] == 6400
    (tmp_path / "run" / "checkpoint.pt").unlink()
    again = json.loads(evaluate_run(tmp_path / "run", episodes=5, seed=3).read_text())
    assert again == evaluation  # by agent.pt
    for path in (tmp_path / "run").glob("*.pt"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match="holds no checkpoint yet"):
        evaluate_run(tmp_path / "run")


# Kills -------------------------------------------------------------------------------------------------

LONG = TrainQLearning(
    num_envs=16, total_timesteps=80_000, checkpoint_every=1_600, eval_episodes=3, device="cpu"
)


@pytest.fixture(autouse=True)
def ctrl_c() -> Iterator[None]:
    """Ctrl-C does what it usually does, even where the tests run in the background and it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "prefrl.cli", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def reached(run: Path, timestep: int, process: subprocess.Popen[str]) -> None:
    """Wait until the run has logged a timestep."""
    for _ in range(60_000):
        assert process.poll() is None, f"ended too early: {process.communicate()[1]}"
        rows = read_progress(run / "progress.csv")
        if rows and float(rows[-1][STEP]) >= timestep:
            return
        time.sleep(0.001)
    raise AssertionError("no progress")


def as_flags(recipe: TrainQLearning) -> list[str]:
    names = ("num_envs", "total_timesteps", "checkpoint_every", "eval_episodes", "device", "seed")
    return [part for name in names for part in (f"--{name.replace('_', '-')}", str(getattr(recipe, name)))]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("uninterrupted") / "run"
    train("q_learning", LONG, run, quiet=True)
    return run


def assert_same_run(run: Path, other: Path) -> None:
    ours, theirs = (load_checkpoint(folder / "checkpoint.pt") for folder in (run, other))
    for name in ("q", "visits", "generator"):
        assert torch.equal(ours["agent"][name], theirs["agent"][name]), name
    assert torch.equal(ours["stepper"]["obs"], theirs["stepper"]["obs"])
    rows, expected = ([untimed(row) for row in read_progress(f / "progress.csv")] for f in (run, other))
    assert rows == expected
    result, wanted = (untimed(json.loads((f / "result.json").read_text())) for f in (run, other))
    assert result == wanted


def kill_and_resume(run: Path, recipe: TrainQLearning, kills: int, seed: int) -> int:
    """Kill the run at random moments, resuming each time; return how many kills hit it before its end."""
    rng = random.Random(seed)
    moments = sorted(rng.uniform(0.02, 0.8) * recipe.total_timesteps for _ in range(kills))
    hits = 0
    for number, moment in enumerate(moments):
        arguments = ("resume", run) if number else ("train", "q_learning", *as_flags(recipe), "--out", run)
        process = start(*arguments, "--quiet")
        try:
            reached(run, int(moment), process)
            time.sleep(rng.uniform(0, 0.02))  # not always just after a row
        finally:
            process.kill()
        process.communicate()
        hits += process.returncode == -signal.SIGKILL and not (run / "result.json").exists()
    resume(run, quiet=True)
    return hits


@pytest.mark.slow
def test_a_run_killed_twice_equals_the_uninterrupted_one(uninterrupted: Path, tmp_path: Path) -> None:
    assert kill_and_resume(tmp_path / "run", LONG, 2, seed=0) == 2
    assert_same_run(tmp_path / "run", uninterrupted)


@pytest.mark.slow
def test_a_run_killed_twenty_times_equals_the_uninterrupted_one(tmp_path: Path) -> None:
    recipe = TrainQLearning(
        num_envs=64, total_timesteps=2_000_000, checkpoint_every=6_400, eval_episodes=3, seed=11, device="cpu"
    )
    train("q_learning", recipe, tmp_path / "whole", quiet=True)
    assert kill_and_resume(tmp_path / "run", recipe, 20, seed=time.time_ns()) == 20
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_ctrl_c_keeps_a_checkpoint_and_says_how_to_go_on(uninterrupted: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start("train", "q_learning", *as_flags(LONG), "--out", run)
    reached(run, 8_000, process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == f"stopped; go on with `prefrl resume {run}`\n"
    assert load_checkpoint(run / "checkpoint.pt")["num_timesteps"] >= 8_000
    assert not (run / "result.json").exists()
    resume(run, quiet=True)
    assert_same_run(run, uninterrupted)


def test_a_folder_killed_before_its_first_checkpoint_starts_over(uninterrupted: Path, tmp_path: Path) -> None:
    from prefrl.config import to_json
    from prefrl.run.folder import RunFolder

    RunFolder.create(tmp_path / "run", {"recipe": "q_learning", "config": to_json(LONG)})
    resume(tmp_path / "run", quiet=True)
    assert_same_run(tmp_path / "run", uninterrupted)
