"""Settings that no memory holds, or no number can be: one line that names them, status 2, no folder."""

import gymnasium as gym
import pytest

from prefrl import cli
from prefrl.envs.diffusions.checks import check_time
from prefrl.run.environments import make_scalar_env
from prefrl.run.settings import enormous

HUGE = 10**15


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("dqn", "--num-envs", HUGE), "num_envs is 1000000000000000; it must lie in [1, 16777216]"),
        (("dqn", "--eval-episodes", HUGE), "eval_episodes is 1000000000000000; it must lie in"),
        (("dqn", "--final-episodes", HUGE), "final_episodes is 1000000000000000; it must lie in"),
        (("dqn", "--bins", HUGE), "with agent.bins = 1000000000000000: "),
        (("dqn", "--hidden", 8, HUGE), "with agent.hidden = 1000000000000000: "),
        (("dqn", "--buffer-size", HUGE), "with agent.buffer_size = 1000000000000000: "),
        (("dqn", "--v-max", 1e308), "with agent.v_max = 1e+308: "),
        (("q_learning", "--num-envs", HUGE), "num_envs is 1000000000000000"),
        (("martingale", "--dt", 1e308), "dt is 1e+308; it must lie in [1e-12, 1000000000000]"),
        (("martingale", "--env.dt", 1e308), "dt is 1e+308; it must lie in (1e-12, 1e+12)"),
        (("martingale", "--total-time", 1e308), "total_time is 1e+308; it must lie in"),
        (("continuous_control", "--dt", 1e-300), "dt is 1e-300; it must lie in"),
    ],
)
def test_what_cannot_be(arguments, message, tmp_path, capsys):
    assert cli.main(["train", *map(str, arguments), "--quiet", "--out", str(tmp_path / "run")]) == 2
    printed = capsys.readouterr()
    text = printed.err.removeprefix("error: ")
    assert message in " ".join(text.replace("│", " ").split())
    assert "Traceback" not in text
    assert not (tmp_path / "run").exists()
    assert list(tmp_path.iterdir()) == []


def test_enormous_settings_are_those_that_memory_or_floats_do_not_hold():
    settings = {
        "a": 1,
        "b": True,
        "c": "1e300",
        "d": None,
        "e": float("inf"),
        "agent": {"hidden": [8, 2**31], "rate": 1e38, "low": -1e300, "gamma": 0.9, "steps": 2**31 - 1},
    }
    assert enormous(settings) == ["agent.hidden = 2147483648", "agent.rate = 1e+38", "agent.low = -1e+300"]


class Command:
    """A command that fails."""

    def __init__(self, error):
        self.error = error

    def run(self):
        raise self.error


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to\nallocate"),
        OverflowError("too large"),
        RuntimeError("can't allocate"),
        MemoryError(),
    ],
)
def test_failures_without_enormous_settings_are_status_one(error, capsys):
    assert cli.execute(lambda: Command(error)) == 1
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        cli.execute(lambda: Command(RuntimeError("a mistake of ours")))


def test_times_of_which_steps_can_be_counted():
    assert check_time("T", 3) == 3.0
    for value in (0.0, -1.0, 1e-300, 1e300, float("inf"), float("nan")):
        with pytest.raises(ValueError, match=r"T is .*; it must lie in"):
            check_time("T", value)


@pytest.mark.parametrize(
    ("env_id", "arguments", "message"),
    [
        ("OrnsteinUhlenbeck", {"sigma": 10**400}, "sigma is a whole number beyond all floats"),
        ("MultiSecretary", {"horizon": 10**400}, "horizon is a whole number beyond 9223372036854775807"),
        ("MultiSecretary", {"rho": 10**400}, "rho is 1000.*; it must be a number"),
        ("RiskyCliff", {"width": 10**15}, "there may be 4096 cells"),
        ("OrnsteinUhlenbeck", {"dt": 1e308}, "dt is 1e"),
    ],
)
def test_arguments_of_environments_that_cannot_be(env_id, arguments, message):
    with pytest.raises(ValueError, match=message):
        gym.make(f"prefrl/{env_id}-v0", **arguments)


@pytest.mark.parametrize("argument", ["sigma=1e308", "sigma=1e-308"])
def test_what_an_environment_does_not_check_is_said_of_its_arguments(argument):
    with pytest.raises(ValueError, match=r"env_args \['.*'\] do not suit prefrl/MeanVariance-v0: "):
        make_scalar_env("prefrl/MeanVariance-v0", (argument,)).reset(seed=0)
