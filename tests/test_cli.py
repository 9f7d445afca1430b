"""The command line: help that reads well, one line per error, exit statuses, and the script beside it."""

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import pytest

from prefrl import cli
from prefrl.run import flags
from prefrl.run.recipes import RECIPES, STACKED, load_recipe

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
    assert flags.gather_env_flags(given) == gathered


@pytest.mark.parametrize("given", [["--env.rho"], ["--env.rho", "--seed", "1"]])
def test_a_flag_of_the_environment_needs_a_value(given: list[str]) -> None:
    with pytest.raises(ValueError, match=r"--env.rho has no value"):
        flags.gather_env_flags(given)


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
        "--progress-bar, --no-progress-bar Show a progress bar",
    ):
        assert text in re.sub(r"[\s│]+", " ", printed)
    assert "None" not in printed
    assert "recipe." not in printed


def test_the_list_is_whole_and_fits(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run("list") == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    for name in (*RECIPES, *(env_id for env_id in gym.registry if env_id.startswith("prefrl/"))):
        assert re.search(rf"│ {name} +│ \w", printed), name


@pytest.mark.parametrize(
    ("env_id", "texts"),
    [
        ("prefrl/Delivery-v0", ["Discrete(100)", "Discrete(4)", "step limit    200", "## Rewards"]),
        ("prefrl.envs:prefrl/Meadow-v0", ["step limit    none", "Graze in a meadow"]),
        ("prefrl/MinAtar-Asterix-v0", ["(10, 10, 4), bool)", "5000"]),
        ("prefrl/MultiSecretary-v0", ["remaining: Box", "\n                request: Box", "Discrete(2)"]),
        ("prefrl/Distracted-v0", ["(18,), float32)", "Another environment"]),
        ("CartPole-v1", ["Discrete(2)", "500", "Barto"]),
    ],
)
def test_the_page_of_an_environment(
    env_id: str, texts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("list", env_id) == 0
    printed = capsys.readouterr().out
    assert [text for text in texts if text not in printed] == []


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [(["trian"], "train"), (["train", "dqm"], "dqn"), (["sweep", "q_lerning", "--out", "x"], "q_learning")],
)
def test_what_is_misspelt_is_guessed(
    arguments: list[str], meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 2
    errors = capsys.readouterr().err
    assert f"did you mean {meant}?" in errors
    assert errors.count("\n") == 1


@pytest.mark.parametrize("recipe", list(RECIPES))
def test_many_learners_are_for_some_recipes(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert (recipe in STACKED) == hasattr(load_recipe(recipe), "num_learners")
    if recipe not in STACKED:
        assert run("train", recipe, "--num-learners=3") == 2
        assert f"{recipe} trains one learner; --num-learners is for dqn" in capsys.readouterr().err


@pytest.mark.parametrize("recipe", list(RECIPES))
def test_every_flag_is_explained_without_files_of_the_checkout(recipe: str) -> None:
    known = flags.recipe_flags(load_recipe(recipe)())
    names = [flag.name for flag in known]
    assert len(set(names)) == len(names)
    for flag in known:
        assert flag.text, flag.path
        assert not re.search(r"\w/\w+\.(py|md)|:\w+:`", flag.text), flag.text


def test_options_are_grouped_by_what_they_belong_to() -> None:
    groups: dict[str, list[str]] = {}
    for flag in flags.recipe_flags(load_recipe("preference_rl")()):
        groups.setdefault(flag.group, []).append(flag.name)
    wanted = {"run", "environment", "learner", "preferences", "people", "reward_model", "agent"}
    assert set(groups) == wanted
    assert {"env_id", "env_args", "num_envs"} == set(groups["environment"])
    assert groups["learner"] == ["agent", "agent_args", "warmup_hold"]
    assert "members" in groups["reward_model"]


@pytest.mark.parametrize(
    ("text", "number"),
    [("12", 12), ("1e5", 100_000), ("2.5e3", 2500), ("1E3", 1000), ("-1e1", -10), ("1_000", 1000),
     ("1.0", 1)],
)  # fmt: skip
def test_whole_numbers(text: str, number: int) -> None:
    assert flags.whole_number(text) == number


@pytest.mark.parametrize("text", ["1.5", "1e-1", "inf", "nan", "many", "", "1e19", "1e999999999", "1.5e0"])
def test_what_is_no_whole_number(text: str) -> None:
    with pytest.raises(ValueError, match="is no whole number"):
        flags.whole_number(text)


def test_whole_numbers_on_the_command_line(wide: None, capsys: pytest.CaptureFixture[str]) -> None:
    command = cli.parse(["train", "dqn", "--total-timesteps", "1e5", "--hidden", "3.2e1", "64"])
    assert command.recipe.total_timesteps == 100_000
    assert command.recipe.agent.hidden == (32, 64)
    assert cli.parse(["evaluate", "run", "--episodes", "1e2"]).episodes == 100
    assert run("train", "dqn", "--num-envs", "1.5") == 2
    assert "'1.5' is no whole number" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "double", "compiled"),
    [
        ([], True, False),
        (["--no-double", "--compile"], False, True),
        (["--double", "--no-compile"], True, False),
        (["--double", "False", "--compile=True"], False, True),
    ],
)
def test_switches_are_written_one_way_and_read_as_before(
    given: list[str], double: bool, compiled: bool
) -> None:
    agent = cli.parse(["train", "dqn", *given]).recipe.agent
    assert (agent.double, agent.compile) == (double, compiled)


def test_switches_that_a_preset_sets_are_read_as_before() -> None:
    agent = cli.parse(["train", "mbpo", "--learn-temperature", "False", "--no-probabilistic"]).recipe.agent
    assert (agent.learn_temperature, agent.probabilistic) == (False, False)


def test_the_list_loads_neither_torch_nor_what_draws() -> None:
    """In a process of its own; afterwards all can be imported as ever."""
    code = """
import sys
from prefrl import cli
assert cli.main(["list"]) == 0
heavy = {"torch", "stable_baselines3", "scipy", "seaborn", "matplotlib"} & set(sys.modules)
assert not heavy, heavy
import matplotlib
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=120)


def test_training_loads_no_compiler(tmp_path: Path) -> None:
    """torch's takes over a second, and its optimisers load it."""
    code = """
import sys
from prefrl import cli
short = ["--total-timesteps", "20", "--learning-starts", "8", "--batch-size", "8"]
assert cli.main(["train", "dqn", *short, "--train-freq", "1", "--out", "dqn"]) == 0
assert cli.main(["train", "sac", "--env-id", "Pendulum-v1", *short, "--out", "sac"]) == 0
assert "torch._dynamo" not in sys.modules
"""
    subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, timeout=120, cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def test_an_endless_evaluation_is_cut_and_warned_of(tmp_path: Path) -> None:
    (cliff,) = [name for name in gym.registry if name.startswith("CliffWalking-")]
    flags = ["--env-id", cliff, "--env.max_episode_steps", "60"]
    assert run("train", "q_learning", *QUICK, *flags, "--out", tmp_path / "run") == 0
    command = [sys.executable, "-m", "prefrl.cli", "evaluate", tmp_path / "run", "--max-steps", "5"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    said = done.stderr.splitlines()
    assert [line.startswith(f"warning: an episode of an evaluation in {cliff} was cut") for line in said] == [
        True
    ]


def test_train_resume_and_evaluate(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert json.loads((finished / "result.json").read_text())["num_timesteps"] == 6400
    assert run("resume", finished) == 0
    assert capsys.readouterr().out == f"{finished} is finished\n{finished / 'result.json'}\n"
    assert run("evaluate", finished, "--episodes", "2", "--seed", "5") == 0
    printed = capsys.readouterr().out.splitlines()
    assert "mean_return" in printed[1]
    assert printed[-1] == str(finished / "evaluation.json")
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
        (["train", "q_learning", "--num-envs", "0"], "num_envs is 0; it must lie in [1, 16777216]"),
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
