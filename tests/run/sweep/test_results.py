import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from prefrl.functional.statistics import bootstrap_interval, interquartile_mean
from prefrl.run.sweep.results import aggregate, result_table, write_results
from prefrl.run.sweep.trials import Trial


def trial(seed: int, **settings: object) -> Trial:
    return Trial(f"{settings.get('gamma')}-{seed}", seed, settings, {})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    outcomes = {
        "0.9-0": {"score": 1.5, "near": True, "by": {"kind": 7}, "note": "x", "curve": [1, 2]},
        "0.9-1": {"score": 2.5, "near": False, "by": {"kind": None}, "seed": 5},
        "0.5-0": {"score": -1.0, "near": True},
    }
    for name, outcome in outcomes.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text(json.dumps(outcome))
    return tmp_path


TRIALS = [trial(seed, gamma=gamma, sizes=[8, 4]) for gamma in (0.9, 0.5) for seed in (0, 1)]


def test_rows_and_aggregates(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_results(folder, "q_learning", TRIALS, {"0.5-1": "ValueError: no"})
    assert (folder / "results.csv").read_text() == (
        "trial,seed,gamma,sizes,by.kind,near,note,score\n"
        "0.9-0,0,0.9,8 4,7,True,x,1.5\n"
        "0.9-1,1,0.9,8 4,,False,,2.5\n"
        "0.5-0,0,0.5,8 4,,True,,-1.0\n"
        "0.5-1,1,0.5,8 4,,,,\n"
    )
    result = json.loads((folder / "result.json").read_text())
    assert result.pop("settings") == [
        {
            "settings": {"gamma": 0.9, "sizes": [8, 4]},
            "seeds": [0, 1],
            "metrics": {
                "score": {"iqm": 2.0, "low": 1.5, "high": 2.5, "n": 2},
                "near": {"share": 0.5, "low": 0.0, "high": 1.0, "n": 2},
                "by.kind": {"iqm": 7.0, "low": 7.0, "high": 7.0, "n": 1},
                "seed": {"iqm": 5.0, "low": 5.0, "high": 5.0, "n": 1},
            },
        },
        {
            "settings": {"gamma": 0.5, "sizes": [8, 4]},
            "seeds": [0],
            "metrics": {
                "score": {"iqm": -1.0, "low": -1.0, "high": -1.0, "n": 1},
                "near": {"share": 1.0, "low": 1.0, "high": 1.0, "n": 1},
            },
        },
    ]
    assert result == {
        "recipe": "q_learning", "trials": 4, "failed": {"0.5-1": "ValueError: no"}, "interval": 0.95,
    }  # fmt: skip
    printed = capsys.readouterr().out
    assert "q_learning, sizes = 8 4" in printed
    assert "[1.5, 2.5]" in printed


def test_aggregates_are_the_librarys_own() -> None:
    scores = np.random.default_rng(0).normal(size=9).tolist()
    trials = [trial(seed) for seed in range(9)]
    results = {each.name: {"score": score} for each, score in zip(trials, scores, strict=True)}
    (group,) = aggregate(trials, results)
    low, high = bootstrap_interval(scores)
    expected = {"iqm": float(interquartile_mean(scores)), "low": float(low), "high": float(high), "n": 9}
    assert group["metrics"]["score"] == expected


def test_nothing_finished(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_results(tmp_path, "q_learning", TRIALS[:1], {"0.9-0": "died"})
    assert (tmp_path / "results.csv").read_text() == "trial,seed,gamma,sizes\n0.9-0,0,0.9,8 4\n"
    assert json.loads((tmp_path / "result.json").read_text())["settings"][0]["metrics"] == {}
    assert "q_learning" in capsys.readouterr().out


@pytest.mark.parametrize("width", [50, 80, 200])
def test_table_fits(width: int) -> None:
    trials = [trial(seed, gamma=gamma) for gamma in (0.9, 0.99) for seed in range(3)]
    metrics = {f"metric_{i}": 12345.678 * i for i in range(12)}
    results = {each.name: {key: value + each.seed for key, value in metrics.items()} for each in trials}
    table = result_table("q_learning", aggregate(trials, results), width)
    console = Console(width=width, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(table)
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= width
    heads = [cell.strip() for cell in lines[2].strip("┃").split("┃")]
    assert heads[:3] == ["gamma", "n", "metric_0"]  # no name is broken over lines
    hidden = 12 - len(heads[2:])
    assert hidden == 0 or f"{hidden} more results are in results.csv" in " ".join(" ".join(lines).split())
