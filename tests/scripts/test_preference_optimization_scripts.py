"""The study and the benchmark of preference optimisation, run as a person would run them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scripts import refused

SCRIPTS = Path(__file__).parents[2] / "scripts"
STUDY = "reproduce_preference_optimization.py"


def run(script: Path, out: Path, *arguments: object) -> tuple[dict[str, Any], str]:
    command = [sys.executable, str(script), *map(str, arguments), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    return json.loads((out / "result.json").read_text()), done.stdout


@pytest.mark.slow
def test_the_study_reports_every_seed_and_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "study"
    small = (
        "--seeds", 2, "--tree-seeds", 2, "--losses", "dpo", "orpo", "robust_dpo", "--noises", 0.0, 0.3,
        "--num-pairs", 30, "--length", 20, "--transitions", 2_000, "--steps", 20, "--offline-steps", 10,
        "--parts", "tree", "roads", "pendulum",
    )  # fmt: skip
    # Agents that learn online for two seconds instead of a minute.
    code = (SCRIPTS / STUDY).read_text().replace('("Pendulum-v1", 20_000)', '("Pendulum-v1", 400)')
    (tmp_path / STUDY).write_text(code)
    result, said = run(tmp_path / STUDY, out, *small)
    assert set(result) == {"tree", "roads", "pendulum"}
    assert set(result["tree"]) == {"dpo", "orpo", "robust_dpo"}
    assert set(result["pendulum"]) == {"dpo", "robust_dpo"}, "densities are no probabilities"
    assert all(len(seeds) == 2 for found in result["tree"].values() for seeds in found.values())
    assert len(result["roads"]) == 2
    assert {"online SAC", "cloning", "reward model, IQL", "CPL"} <= set(result["roads"][0])
    assert "noise 0.3" in said
    assert (out / "losses.png").stat().st_size > 10_000
    one = next((out / "tree").glob("dpo-0.3-1.json"))
    one.write_text('{"value": 7.5}')  # what is there is not done again
    (out / "result.json").unlink()
    again, _ = run(tmp_path / STUDY, out, *small)
    assert again["tree"]["dpo"]["0.3"] == [result["tree"]["dpo"]["0.3"][0], 7.5]
    assert again["roads"] == result["roads"]


@pytest.mark.slow
def test_the_benchmark_reports_ratios(tmp_path: Path) -> None:
    small = ("--pairs", 20, "--length", 4, "--hidden", 8, "--seeds", 2, "--steps", 2, "--repeats", 2)
    result, _ = run(SCRIPTS / "bench_preference_optimization.py", tmp_path / "bench", *small)
    for loss in ("cpl", "dpo"):
        for ratio in ("plain_over_ours", "plain_over_bf16", "stack_over_one", "comparisons_per_second"):
            assert 0.0 < result[loss][ratio]["min"] <= result[loss][ratio]["median"]


def test_what_no_study_can_be_is_refused(tmp_path: Path) -> None:
    assert "each must lie in [0, 0.5)" in refused(STUDY, "--noises", 0.5, "--out", tmp_path / "study")
    assert "seeds is 0" in refused(STUDY, "--seeds", 0, "--out", tmp_path / "study")
