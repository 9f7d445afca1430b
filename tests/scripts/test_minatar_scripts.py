"""The scripts that put MinAtar beside the package, on small settings."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prefrl.functional.statistics import interquartile_mean
from scripts import loaded, refused

pytest.importorskip("minatar")
SCRIPTS = Path(__file__).parents[2] / "scripts"


def result_of(script: str, out: Path, *flags: object) -> dict[str, Any]:
    command = [sys.executable, str(SCRIPTS / script), "--out", str(out), *map(str, flags)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads((out / "result.json").read_text())
    return found


def test_learners_are_scored_in_ours_and_in_the_package(tmp_path: Path) -> None:
    flags = ("--games", "Breakout", "SpaceInvaders", "--num-learners", 2, "--frames", 300, "--num-envs", 4,
             "--episodes", 3)  # fmt: skip
    result = result_of("reproduce_minatar_transfer.py", tmp_path / "run", *flags)
    assert set(result) >= {"Breakout", "SpaceInvaders"}
    with (tmp_path / "run" / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    for game in ("Breakout", "SpaceInvaders"):
        found = result[game]
        for name in ("ours", "package"):
            scores = found[name]["learners"]
            assert [float(row[name]) for row in rows if row["game"] == game] == scores
            assert found[name]["iqm"] == interquartile_mean(scores)
        differences = np.subtract(found["package"]["learners"], found["ours"]["learners"])
        assert found["difference"]["learners"] == differences.tolist()


def test_rows_of_the_package_rest_when_they_are_over() -> None:
    script = loaded("reproduce_minatar_transfer.py")
    rows = script.PackageRows("Breakout", 3, 0.0)
    first, _ = rows.reset(seed=[1, 2, 3])
    again, _ = rows.reset(seed=[1, 2, 3])
    np.testing.assert_array_equal(first, again)
    over, steps = np.zeros(3, bool), 0
    while not over.all() and steps < 200:
        before, obs = over.copy(), rows.obs
        _, earned, over, cut, _ = rows.step(np.zeros(3, int))
        np.testing.assert_array_equal(rows.obs[before], obs[before])
        assert not earned[before].any()
        assert not cut.any()
        steps += 1
    assert over.all()  # a paddle that stays lets the ball through
    rows.limit = 1
    rows.reset(seed=[1, 2, 3])
    assert rows.step(np.zeros(3, int))[3].all()


def test_speed(tmp_path: Path) -> None:
    flags = ("--games", "Seaquest", "--repeats", 2, "--num-envs", 8, "--steps", 2, "--package-steps", 20)
    found = result_of("bench_minatar.py", tmp_path / "run", *flags)["games"]["Seaquest"]
    sides = {"package", "package_gymnasium", "next_step", "same_step", "fill"}
    assert set(found["steps_per_second"]) == sides
    assert set(found["over_package"]) == sides - {"package", "package_gymnasium"}
    for spread in found["over_package"].values():
        assert 0 < spread["min"] <= spread["median"] <= spread["max"]


@pytest.mark.parametrize(
    ("script", "flags", "name"),
    [
        ("bench_minatar.py", ("--repeats", 0), "repeats"),
        ("bench_minatar.py", ("--games", "Pong"), "games"),
        ("reproduce_minatar_transfer.py", ("--games", "Pong"), "games"),
        ("reproduce_minatar_transfer.py", ("--num-learners", 1), "num_learners"),
        ("reproduce_minatar_transfer.py", ("--frames", 0), "frames"),
    ],
)
def test_wrong_settings_are_refused(
    script: str, flags: tuple[object, ...], name: str, tmp_path: Path
) -> None:
    errors = refused(script, *flags, "--out", tmp_path / "run")
    assert f"{name} is " in errors or f"{name} has " in errors
    assert not (tmp_path / "run").exists()
