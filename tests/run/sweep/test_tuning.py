"""Tuning as learning: gaps by hand, their rate, and the report of a sweep."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prefrl.run.sweep.sweep import sweep
from prefrl.run.sweep.trials import Trial
from prefrl.run.sweep.tuning import check_tuning, utility_table


def trial(task: str, rate: float, seed: int) -> Trial:
    return Trial(f"{task},{rate},{seed}", seed, {"env_args": [task], "rate": rate}, {})


TRIALS = [trial(task, rate, seed) for task in "abcd" for rate in (0.1, 0.2) for seed in (0, 1)]


def test_seeds_are_averaged_and_tasks_that_failed_are_left_out() -> None:
    results: dict[str, dict[str, Any]] = {t.name: {"loss": t.settings["rate"] * (1 + t.seed)} for t in TRIALS}
    results["b,0.2,0"] = results["b,0.2,1"] = {}
    results["c,0.1,1"] = {}
    settings, tasks, table = utility_table(TRIALS, results, "env_args", "-loss")
    assert settings == ['{"rate": 0.1}', '{"rate": 0.2}']
    assert tasks == ['["a"]', '["c"]', '["d"]']
    np.testing.assert_allclose(table, [[-0.15, -0.1, -0.15], [-0.3, -0.3, -0.3]])
    settings, tasks, table = utility_table(TRIALS[:4], results, "seed", "loss")
    assert tasks == ["0", "1"]
    np.testing.assert_allclose(table, [[0.1, 0.2], [0.2, 0.4]])
    with pytest.raises(ValueError, match=r"utility is 'score', which is no number .* there are loss"):
        utility_table(TRIALS, results, "env_args", "score")


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="give both or none"):
        check_tuning(TRIALS, "env_args", None)
    with pytest.raises(ValueError, match="tune_over is 'gamma'"):
        check_tuning(TRIALS, "gamma", "loss")
    with pytest.raises(ValueError, match="8 settings and 2 tasks"):
        check_tuning(TRIALS, "seed", "loss")
    check_tuning(TRIALS, "env_args", "loss")
    check_tuning(TRIALS, None, None)


@pytest.mark.slow
def test_a_sweep_reports_on_tuning(tmp_path: Path) -> None:
    tasks = [f"layout_seed={seed}" for seed in range(4)]
    settings = {
        "env_args": tasks,
        "num_choices": ["300"],
        "agent.pessimism": ["0.0", "50.0"],
        "device": ["cpu"],
    }
    names = {"tune_over": "env_args", "utility": "-suboptimality"}
    with pytest.raises(ValueError, match="tune_over is 'nothing'"):
        sweep(
            "dynamic_choice",
            tmp_path / "none",
            seeds=[0],
            settings=settings,
            tune_over="nothing",
            utility="x",
        )
    assert not (tmp_path / "none").exists()
    path, failed = sweep("dynamic_choice", tmp_path / "sweep", seeds=[0], settings=settings, jobs=1, **names)
    assert not failed
    found = json.loads(path.read_text())
    tuning = found["tuning"]
    assert (tuning["over"], tuning["utility"], tuning["tasks"]) == ("env_args", "-suboptimality", 4)
    assert tuning["num_tasks"] == [1]
    assert tuning["best"]["agent.pessimism"] in (0.0, 50.0)
    means = {group["settings"]["agent.pessimism"]: [] for group in found["settings"]}  # type: dict[float, list[float]]
    for group in found["settings"]:
        means[group["settings"]["agent.pessimism"]].append(-group["metrics"]["suboptimality"]["iqm"])
    assert tuning["best"]["agent.pessimism"] == max(means, key=lambda value: sum(means[value]))
    assert (tmp_path / "sweep" / "tuning.png").read_bytes().startswith(b"\x89PNG")
