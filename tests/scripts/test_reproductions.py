"""The acceptance experiments, at full size: minutes each."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SCRIPTS = Path(__file__).parents[2] / "scripts"


def result_of(out: Path, script: str, *arguments: object) -> dict:
    command = [sys.executable, str(SCRIPTS / script), *map(str, arguments), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1_800)
    assert done.returncode == 0, done.stderr
    return json.loads((out / "result.json").read_text())


@pytest.mark.needs_human_data
def test_rewards_learned_from_people(tmp_path, human_data):
    """Knox et al. 2022: regret explains people's answers better, and its rewards give better policies."""
    result = result_of(tmp_path / "run", "reproduce_human_preferences.py", "--data", human_data)
    assert result["n"] == 1793
    entropy, accuracy = result["cross_entropy"], result["accuracy"]
    assert entropy["partial_return"] == pytest.approx(0.620, abs=0.004)
    assert entropy["regret"] == pytest.approx(0.573, abs=0.004)
    assert entropy["regret"] <= entropy["partial_return"] - 0.04
    assert accuracy["partial_return"] == pytest.approx(0.600, abs=0.002)
    assert accuracy["regret"] == pytest.approx(0.719, abs=0.002)
    assert min(result["scaled_return"].values()) >= 0.95
    near, better = result["near_optimal_percent"], result["better_than_random_percent"]
    for parts in ("50", "100"):
        assert near["regret"][parts] >= near["partial_return"][parts] + 5.0
        assert better["regret"][parts] >= better["partial_return"][parts] + 10.0


@pytest.mark.needs_human_data
@pytest.mark.parametrize(
    ("condition", "scales"),
    [("Pr-Privileged", (0.5045, 0.5249)), ("Regret-Privileged", (0.5461, 0.4399))],
)
def test_likelihoods_of_the_other_conditions(human_data, condition, scales):
    import torch

    from prefrl.data import load_human_preferences, load_human_statistics
    from prefrl.preferences.likelihood import cross_entropy, fit_scale

    statistics = load_human_statistics(human_data, condition)
    labels = load_human_preferences(human_data, condition).labels
    for model, expected in zip(("partial_return", "regret"), scales, strict=True):
        fitted = cross_entropy(statistics, labels, model, fit_scale(statistics, labels, model))
        torch.testing.assert_close(fitted.mean().item(), expected, atol=0.002, rtol=0.0)


def test_rewards_learned_in_random_grids(tmp_path):
    result = result_of(tmp_path / "run", "reproduce_random_grids.py")
    assert result["num_mdps"] == 30
    assert result["near_optimal_percent"]["noiseless"]["regret"]["3000"] >= 90.0
    assert max(result["regret_beats_partial_return_p"].values()) < 0.05
