"""The scripts of return distributions run as a person would run them, on small settings."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import refused

SCRIPTS = Path(__file__).parents[2] / "scripts"


def run(script, *arguments):
    command = [sys.executable, str(SCRIPTS / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=500)


def result_of(out, done):
    assert done.returncode == 0, done.stderr
    assert str(out / "result.json") in done.stdout.splitlines()[-2:]
    return json.loads((out / "result.json").read_text())


@pytest.mark.slow
def test_train_distributional_dp(tmp_path):
    out = tmp_path / "run"
    flags = ("--env-id", "prefrl/RiskyCliff-v0", "--objective", "cvar", "--tau", 0.1, "--horizon", 9,
             "--env.slip", 0.2, "--quiet", "--out", out)  # fmt: skip
    result = result_of(out, run("train_distributional_dp.py", *flags))
    assert {"objective_value", "initial_stock", "risk_neutral_value", "naive_value", "seconds"} <= set(result)
    assert result["objective_value"] >= max(result["risk_neutral_value"], result["naive_value"]) - 1e-9
    assert json.loads((out / "config.json").read_text())["config"]["agent"]["tau"] == 0.1
    flags = ("--env-id", "prefrl/Delivery-v0", "--out", tmp_path / "other")
    assert "offers no horizon_model()" in refused("train_distributional_dp.py", *flags)
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_train_stock_dqn(tmp_path):
    out = tmp_path / "run"
    flags = ("--env-id", "prefrl/StochasticApples-v0", "--objective", "target_return", "--target", 2,
             "--horizon", 6, "--total-timesteps", 1500, "--hidden", 16, "--quantiles", 8, "--quiet",
             "--out", out)  # fmt: skip
    result = result_of(out, run("train_stock_dqn.py", *flags))
    assert {"objective_value", "exact_optimum", "seconds"} <= set(result)
    assert result["initial_stock"] == -2.0
    assert result["objective_value"] <= result["exact_optimum"] + 1e-9


@pytest.mark.slow
def test_the_study_goes_on(tmp_path):
    out = tmp_path / "study"
    flags = ("--experiments", "exact", "two_coins", "--seeds", 2, "--two-coins-updates", 40, "--no-compile",
             "--out", out)  # fmt: skip
    result = result_of(out, run("reproduce_return_distributions.py", *flags))
    assert result["exact"]["cliff"]["best"][2] == pytest.approx(-10.88303, abs=1e-5)
    assert len(result["two_coins"]["frozen"]) == 2
    assert {"returns_cliff.png", "policy_homeostasis.png", "deep_two_coins.png"} <= {
        path.name for path in out.glob("*.png")
    }
    (out / "result.json").unlink()
    kept = (out / "parts" / "exact.json").stat().st_mtime_ns
    (out / "parts" / "two_coins-naive-1.json").unlink()
    again = result_of(out, run("reproduce_return_distributions.py", *flags))
    assert (out / "parts" / "exact.json").stat().st_mtime_ns == kept
    final = [row["final"] for row in again["two_coins"]["naive"]]
    assert final == [row["final"] for row in result["two_coins"]["naive"]]


@pytest.mark.slow
def test_the_benchmark(tmp_path):
    out = tmp_path / "bench"
    flags = ("--repeats", 1, "--updates", 3, "--skip-compiled", "--skip-memory", "--out", out)
    result = result_of(out, run("bench_distributional_dp.py", *flags))
    assert all(entry["difference"] < 1e-9 for entry in result["plain_python"])
    assert set(result["scaling"]) == {"categorical", "quantile"}
