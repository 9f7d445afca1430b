"""The benchmark of proximal policy optimisation, on small settings."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from scripts import SCRIPTS, refused

SMALL = [
    "--repeats", "1", "--num-envs", "4", "--solve-envs", "4", "--rollouts", "1", "--threads", "1",
    "--seeds", "1", "--solve-timesteps", "300", "--zoo-timesteps", "600", "--env-id", "Pendulum-v1",
    "--hopper-envs", "2", "--hopper-timesteps", "300",
]  # fmt: skip


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_ppo", SCRIPTS / "bench_ppo.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench_ppo"] = module  # where its dataclasses look for their annotations
    spec.loader.exec_module(module)
    return module


class Scripted:
    """An agent whose evaluations come out as they are told to."""

    num_timesteps = 0

    def __init__(self, returns: list[float]) -> None:
        self.returns = iter(returns)


def test_solved_is_twice_in_a_row(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "greedy_return", lambda agent, seed: next(agent.returns))
    agent = Scripted([480.0, 470.0, 475.0, 500.0])
    watch = script.Solving(agent, every=10)
    while watch({}, {}):
        agent.num_timesteps += 2
    assert agent.num_timesteps == 42, "asked at 12, 22, 32 and 42"
    assert watch.outcome() == {"solved": True, "cpu_seconds": watch.spent, "timesteps": 42}


def test_greedy_episodes_are_counted_to_their_ends(script: ModuleType) -> None:
    """Who always pushes one way falls after 8 to 11 steps."""

    class Left:
        def predict(self, obs: Any, deterministic: bool) -> tuple[Any, None]:
            return np.zeros(len(obs), dtype=np.int64), None

    assert 8.0 <= script.greedy_return(Left(), 0) <= 11.0


@pytest.mark.slow
def test_bench_ppo(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPTS / "bench_ppo.py"), "--out", str(tmp_path), *SMALL]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    result = json.loads((tmp_path / "result.json").read_text())
    assert set(result) == {"rates", "solve", "hopper"}
    assert set(result["rates"]) == {"relu_1_threads", "tanh_1_threads"}
    assert all(found["cpu"]["min"] > 0 for found in result["rates"].values())
    for name in ("ours", "sb3_zoo", "sb3_same_settings"):
        assert [run["solved"] for run in result["solve"][name]] == [False]
        assert 0.0 < result["solve"][name][0]["cpu_seconds"] < 60.0
    for kind in ("share_of_zoo_median", "share_of_same_median"):
        assert len(result["solve"][kind]) == 1
    assert all(-2_000.0 < result["hopper"][name]["returns"][0] < 0.0 for name in ("ours", "sb3"))
    (tmp_path / "result.json").unlink()
    subprocess.run(command, check=True, capture_output=True, timeout=60)  # everything was kept
    assert json.loads((tmp_path / "result.json").read_text()) == result


def test_refusals(tmp_path: Path) -> None:
    assert "seeds is 0" in refused("bench_ppo.py", "--seeds", "0", "--out", tmp_path / "run")
    assert "invalid choice" in refused("bench_ppo.py", "--parts", "curves", "--out", tmp_path / "run")
