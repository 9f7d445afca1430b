"""The command line: help that reads well, one line per error, exit statuses, and the script beside it."""

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from prefrl import cli

QUICK = [
    "--num-envs",
    "64",
    "--total-timesteps",
    "6400",
    "--eval-episodes",
    "3",
    "--device",
    "cpu",
    "--quiet",
]


def run(*arguments: str | Path) -> int:
    """The exit status, whether returned or raised by tyro."""
    try:
        return cli.main([str(argument) for argument in arguments])
    except SystemExit as stop:
        return int(stop.code or 0)


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")


@pytest.fixture
def finished(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    assert run("train", "q_learning", *QUICK, "--out", tmp_path / "run") == 0
    capsys.readouterr()
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("given", "gathered"),
    [
        ([], []),
        (["--seed", "1"], ["--seed", "1"]),
        (["--env.rho", "0.3", "--seed", "1"], ["--seed", "1", "--env-args", "rho=0.3"]),
        (["--env-args=a=1", "--env.b", "2"], ["--env-args", "b=2", "a=1"]),
        (["--env_args", "a=1", "--env.b", "2"], ["--env-args", "b=2", "a=1"]),
        (["--env.input-model=drift", "--env.rho", "-1"], ["--env-args", "input_model=drift", "rho=-1"]),
        (
            ["--env.m", "2", "--env-args", "d=3", "--seed", "1"],
            ["--env-args", "m=2", "d=3", "--seed", "1"],
        ),
    ],
)
def test_flags_of_the_environment_are_gathered(given: list[str], gathered: list[str]) -> None:
    assert cli.gather_env_flags(given) == gathered


@pytest.mark.parametrize("given", [["--env.rho"], ["--env.rho", "--seed", "1"]])
def test_a_flag_of_the_environment_needs_a_value(given: list[str]) -> None:
    with pytest.raises(ValueError, match=r"--env.rho has no value"):
        cli.gather_env_flags(given)


@pytest.mark.parametrize("arguments", [["--help"], ["-h"]])
def test_help_names_every_command(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments) == 0
    printed = capsys.readouterr().out
    for name, command in cli.COMMANDS.items():
        assert re.search(rf"• {name} +{re.escape(command.summary)}", printed)


@pytest.mark.parametrize("command", list(cli.COMMANDS))
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command, "--help") == 0
    assert capsys.readouterr().out.startswith(f"usage: prefrl {command}")


def test_help_of_a_recipe(wide: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", "q_learning", "--help") == 0
    printed = capsys.readouterr().out
    assert "usage: prefrl train q_learning" in printed
    for text in (
        "--out DIR",
        "(default: runs/RECIPE-SEED-TIME)",
        "--env-args [NAME=VALUE ...]",
        "--checkpoint-every INT Timesteps between two checkpoints. (default: 10 % of the run)",
        "--gamma FLOAT Discount per step, in [0, 1]",
        "--no-progress-bar Hide the progress bar",
    ):
        assert text in re.sub(r"[\s│]+", " ", printed)
    assert "None" not in printed
    assert "recipe." not in printed


def test_list(wide: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list") == 0
    printed = capsys.readouterr().out
    assert "prefrl train q_learning" in printed
    assert "Tabular Q-learning" in printed
    (delivery,) = [line for line in printed.splitlines() if "prefrl/Delivery-v0" in line]
    for text in ("Discrete(100)", "Discrete(4)", "200", "Drive a van"):
        assert text in delivery


def test_the_list_loads_neither_torch_nor_what_draws() -> None:
    """In a process of its own; afterwards all can be imported as ever."""
    code = """
import sys
from prefrl import cli
assert cli.main(["list"]) == 0
heavy = {"torch", "stable_baselines3", "scipy", "seaborn", "matplotlib"} & set(sys.modules)
assert not heavy, heavy
import matplotlib
from prefrl.envs.minatar import MinAtarEnv
MinAtarEnv("breakout")
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=120)


def test_an_endless_evaluation_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--env-id", "CliffWalking-v1", "--env.max_episode_steps", "60"]
    assert run("train", "q_learning", *QUICK, *flags, "--out", tmp_path / "run") == 0
    assert run("evaluate", tmp_path / "run", "--max-steps", "5") == 2
    assert "in CliffWalking-v1 is not over after 5 steps" in capsys.readouterr().err


def test_train_resume_and_evaluate(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert json.loads((finished / "result.json").read_text())["num_timesteps"] == 6400
    assert run("resume", finished) == 0
    assert capsys.readouterr().out == f"{finished} is finished\n{finished / 'result.json'}\n"
    assert run("evaluate", finished, "--episodes", "2", "--seed", "5") == 0
    assert capsys.readouterr().out == f"{finished / 'evaluation.json'}\n"
    evaluation = json.loads((finished / "evaluation.json").read_text())
    assert (evaluation["episodes"], evaluation["seed"]) == (2, 5)


def test_flags_reach_recipe_and_agent(tmp_path: Path) -> None:
    flags = ["--gamma", "0.9", "--seed", "4", "--env-id", "prefrl/RandomGrid-v0"]
    args = ["--env-args", "layout_seed=3", "stochastic=true"]
    assert run("train", "q_learning", *QUICK, *flags, *args, "--out", tmp_path / "run") == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["recipe"] == "q_learning"
    assert config["config"]["agent"]["gamma"] == 0.9
    assert config["config"]["seed"] == 4
    assert config["config"]["env_args"] == ["layout_seed=3", "stochastic=true"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resume", "nowhere"], "there is no run folder nowhere"),
        (["evaluate", "nowhere"], "there is no run folder nowhere"),
        (["train", "q_learning", "--num-envs", "0"], "num_envs is 0; it must be at least 1"),
        (["train", "q_learning", "--env-id", "Nothing-v3"], "Environment `Nothing` doesn't exist."),
        (["train", "q_learning", "--env-id", "CartPole-v1"], "observation_space is Box"),
        (["train", "q_learning", "--env-args", "x"], "env_args has 'x'; each must be NAME=VALUE"),
        (["train", "q_learning", "--device", "cuda:99"], "device is 'cuda:99', but torch finds"),
        (["train", "q_learning", "--out", "file/run"], "Not a directory"),
    ],
)
def test_errors_are_one_line_and_status_two(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    assert run(*arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert [entry.name for entry in tmp_path.rglob("*") if entry.is_file()] == ["file"]


def test_an_existing_run_is_not_overwritten(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (finished / "result.json").read_bytes()
    assert run("train", "q_learning", *QUICK, "--out", finished) == 2
    assert f"go on with `prefrl resume {finished}`" in capsys.readouterr().err
    assert (finished / "result.json").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "list, train, resume"),
        (["nonsense"], "nonsense"),
        (["resume"], "RUN"),
        (["train"], "q_learning"),
        (["train", "nonsense"], "nonsense"),
        (["train", "q_learning", "--num-envs", "many"], "--num-envs"),
        (["train", "q_learning", "--gamma", "2"], "gamma is 2.0; it must lie in [0, 1]"),
    ],
)
def test_what_cannot_be_parsed_is_status_two(
    arguments: list[str], message: str, wide: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert "Traceback" not in errors


def test_a_failed_run_is_status_one_and_an_interrupt_130(capsys: pytest.CaptureFixture[str]) -> None:
    class Command:
        def __init__(self, error: BaseException) -> None:
            self.error = error

        def run(self) -> None:
            raise self.error

    assert cli.execute(lambda: Command(FloatingPointError("train/loss is nan"))) == 1
    assert capsys.readouterr().err == "error: train/loss is nan\n"
    assert cli.execute(lambda: Command(KeyboardInterrupt())) == 130
    with pytest.raises(ZeroDivisionError):  # a bug shows its traceback
        cli.execute(lambda: Command(ZeroDivisionError()))


def test_the_script_takes_the_same_flags(
    project_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = project_root / "scripts" / "train_q_learning.py"
    monkeypatch.setattr(sys, "argv", [str(script), *QUICK, "--out", str(tmp_path / "run")])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(script), run_name="__main__")
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"{tmp_path / 'run' / 'result.json'}\n"
    helps = []
    for arguments in ([str(script), "--help"], None):
        monkeypatch.setattr(sys, "argv", arguments or ["prefrl", "train", "q_learning", "--help"])
        with pytest.raises(SystemExit):
            cli.train_main("q_learning") if arguments else cli.main()
        helps.append(capsys.readouterr().out.split("\n", 1)[1])
    assert helps[0] == helps[1]


def test_the_reader_may_go_away() -> None:
    """As in `prefrl list | head -1`."""
    command = [sys.executable, "-u", "-m", "prefrl.cli", "train", "q_learning", "--help"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    errors = process.stderr.read()
    process.wait(timeout=60)
    assert process.returncode == 1
    assert errors == b""
