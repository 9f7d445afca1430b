"""Tuning as learning: gaps by hand, their rate, and the report of a sweep."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prefrl.run.study.values.composers import lambda_utilities
from prefrl.run.sweep.sweep import sweep
from prefrl.run.sweep.trials import Trial
from prefrl.run.sweep.tuning import check_tuning, tuning_gap, utility_table


def test_gaps_by_hand() -> None:
    table = np.array([[0.0, 0.0, 0.0, 0.0], [3.0, -1.0, -1.0, -1.0]])
    found = tuning_gap(table, [1], draws=4_000, seed=0)
    # One task in four shows 3, then the second setting is chosen, which is worth -1 on the others.
    assert found["gap"][0] == pytest.approx(4.0 / 4.0, abs=0.1)
    assert found["optimism"][0] == pytest.approx(found["gap"][0])
    assert found["train"][0] == pytest.approx(3.0 / 4.0, abs=0.1)
    assert found["test"][0] == pytest.approx(-1.0 / 4.0, abs=0.05)
    assert found["regret"][0] == pytest.approx(1.0 / 4.0, abs=0.05)
    assert found["slope"] is None
    assert tuning_gap(table)["num_tasks"] == [1]


def test_nothing_is_overrated_where_tasks_are_alike() -> None:
    found = tuning_gap(np.array([[1.0] * 16, [2.0] * 16]))
    assert found["num_tasks"] == [1, 2, 4]
    assert found["gap"] == [0.0] * 3
    assert found["regret"] == [0.0] * 3
    assert found["test"] == [2.0] * 3
    assert found["slope"] is None


def test_the_gap_falls_as_a_root() -> None:
    table = np.random.default_rng(0).normal(size=(3, 2_048))
    found = tuning_gap(table, [4, 8, 16, 32, 64, 128])
    assert -0.6 < found["slope"] < -0.4
    expected = tuning_gap(table[:1].repeat(2, 0), [16], draws=2_000)  # both settings the same: no choice
    assert expected["gap"][0] == pytest.approx(np.sqrt(2.0 / np.pi / 16.0), rel=0.1)
    assert expected["optimism"][0] == pytest.approx(0.0, abs=0.03)


def test_utilities_of_the_study_are_errors_of_values() -> None:
    found = lambda_utilities(0, tasks=300)
    assert found.shape == (11, 300)
    assert (found < 0.0).all()
    assert len({round(value, 6) for value in found.mean(1).tolist()}) == 11


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
    with pytest.raises(ValueError, match=r"utilities have shape \(1, 4\)"):
        tuning_gap(np.zeros((1, 4)))
    with pytest.raises(ValueError, match="sizes has 3"):
        tuning_gap(np.zeros((2, 4)), [3])
    check_tuning(TRIALS, "env_args", "loss")
    check_tuning(TRIALS, None, None)


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
