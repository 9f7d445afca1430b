"""The scripts of continuous time run as a person would run them, on small settings."""

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
def test_train_martingale(tmp_path):
    out = tmp_path / "run"
    flags = ("--env-id", "prefrl/BrownianSquare-v0", "--objective", "ctd", "--lam", 0.5, "--dt", 0.1,
             "--env.x0", 0.5, "--seed", 1, "--total-time", 5, "--quiet", "--out", out)  # fmt: skip
    result = result_of(out, run("train_martingale.py", *flags))
    assert {"parameters", "true_parameters", "sup_error", "seconds"} <= set(result)
    assert (set(result["parameters"]), result["true_parameters"]) == ({"theta"}, None)
    assert json.loads((out / "config.json").read_text())["config"]["env_args"] == ["x0=0.5"]


@pytest.mark.slow
def test_train_continuous_control(tmp_path):
    out = tmp_path / "run"
    flags = ("--agent", "actor_critic", "--env-id", "prefrl/MeanVariance-v0", "--env.mu", 0.1, "--dt", 0.25,
             "--multiplier-rate", 0.1, "--num-envs", 8, "--total-timesteps", 64, "--quiet",
             "--out", out)  # fmt: skip
    result = result_of(out, run("train_continuous_control.py", *flags))
    assert set(result["policy"]) == set(result["true_policy"]) == {"phi1", "phi2", "phi3", "w"}
    assert {"value", "terminal_mean", "terminal_variance", "seconds"} <= set(result)


@pytest.mark.slow
def test_reproduce_martingale_goes_on(tmp_path):
    out = tmp_path / "study"
    flags = ("--experiments", "misspecified", "rough", "control", "--seeds", 2, "--paths", 300,
             "--control-steps", 30, "--out", out)  # fmt: skip
    result = result_of(out, run("reproduce_martingale.py", *flags))
    assert len(result["misspecified"]) == 2
    assert result["misspecified"][0]["ctd(1)"] == pytest.approx(result["misspecified"][0]["martingale_loss"])
    assert result["rough"][0]["exact"]["mstde"]["dt 0.02"] == pytest.approx(-2.7746, abs=1e-4)
    assert set(result["control"][0]) == {
        "actor_critic", "q_learning", "q_learning, unknown", "exact", "seconds",
    }  # fmt: skip
    assert (out / "paths.png").stat().st_size > 10_000
    (out / "result.json").unlink()
    part = out / "parts" / "rough-1.json"
    kept = (out / "parts" / "rough-0.json").stat().st_mtime_ns
    part.unlink()
    again = result_of(out, run("reproduce_martingale.py", *flags))
    assert again["rough"][1]["dt 0.1"] == result["rough"][1]["dt 0.1"]
    assert (out / "parts" / "rough-0.json").stat().st_mtime_ns == kept


@pytest.mark.slow
def test_reproduce_sac(tmp_path):
    out = tmp_path / "study"
    flags = ("--experiments", "sac", "--seeds", 1, "--sac-steps", 120, "--out", out)
    result = result_of(out, run("reproduce_martingale.py", *flags))
    assert set(result["sac"][0]["dt 0.01"]) == {
        "sac, increment", "sac, rate", "q-learning, 1 chain", "q-learning, 256 chains", "seconds",
    }  # fmt: skip
    assert (out / "sac.png").stat().st_size > 10_000


@pytest.mark.slow
def test_bench_martingale_on_little_work(tmp_path):
    out = tmp_path / "run"
    flags = ("--repeats", 2, "--chains", 4, "--steps", 20, "--paths", 8, "--path-steps", 400,
             "--scalar-steps", 20, "--out", out)  # fmt: skip
    result = result_of(out, run("bench_martingale.py", *flags))
    spreads = [value for value in result.values() if isinstance(value, dict)]
    assert len(spreads) == 6
    assert all(0.0 < of["min"] <= of["median"] <= of["max"] for of in spreads)


def test_wrong_settings_are_refused(tmp_path):
    assert "lam is 2.0" in refused("train_martingale.py", "--lam", 2, "--out", tmp_path / "run")
