"""The benchmark of many learners, on small settings."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scripts import SCRIPTS, refused


def checked(result: dict[str, Any], names: list[str], learners: int) -> None:
    assert set(result["speed"]) == set(names)
    for found in result["speed"].values():
        assert found["over_alone"]["min"] > 0
        two, many = found["operations"].values()
        assert two == many > 50
    for found in result["steps"].values():
        assert max(found["differences"]) < 1e-3
    for found in result["curves"].values():
        assert len(found["stacked"]) == len(found["alone"]) == learners
        assert 0 <= found["p_of_equal_means"] <= 1


@pytest.mark.slow
def test_bench_learners(tmp_path: Path) -> None:
    names = ["dqn 32x32 quantile", "ppo 32x32, actions in a box", "sac 32x32"]
    settings = ["--learners", "3", "--repeats", "1", "--timesteps", "64", "--curve-timesteps", "64"]
    command = [sys.executable, str(SCRIPTS / "bench_learners.py"), "--out", str(tmp_path), "--cases", *names]
    subprocess.run([*command, *settings], check=True, capture_output=True, timeout=300)
    result = json.loads((tmp_path / "result.json").read_text())
    checked(result, names, 3)
    assert set(result["processes"]) == set(names)
    assert json.loads((tmp_path / "config.json").read_text())["recipe"] == "bench_learners"


def test_refusals() -> None:
    assert "cases has 'sarsa'; there are dqn 64x64" in refused("bench_learners.py", "--cases", "sarsa")
    assert "learners is 0" in refused("bench_learners.py", "--learners", "0")
