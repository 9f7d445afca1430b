"""``scripts/reproduce_units.py``: every case runs, and what does not mind the unit of rewards is told so."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import refused

SCRIPT = Path(__file__).parents[2] / "scripts" / "reproduce_units.py"


def table(out: Path, *arguments: object) -> dict:
    command = [sys.executable, str(SCRIPT), "--out", str(out), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].endswith("result.json") or str(out) in done.stdout
    return json.loads((out / "result.json").read_text())["agents"]


@pytest.mark.slow
def test_every_agent_has_a_row(tmp_path):
    rows = table(tmp_path / "run", "--share", 0.03)
    names = {name.split()[0] for name in rows}
    assert names == {
        "q_learning", "dqn", "ppo", "sac", "mbpo", "stock_dqn", "distributional_dp", "regret",
        "preference_rl", "heron", "self_play", "sb3", "dual_mirror_descent", "allocation_baseline",
        "martingale", "continuous",
    }  # fmt: skip
    for name in ("distributional_dp", "regret", "self_play", "dual_mirror_descent", "martingale"):
        assert rows[name]["returns"] == pytest.approx([rows[name]["returns"][1]] * 3)
    assert all(len(row["returns"]) == 3 for row in rows.values())
    assert sum(name.startswith("dqn ") for name in rows) == 7


@pytest.mark.slow
def test_factors_and_seeds(tmp_path):
    rows = table(
        tmp_path / "run", "--agents", "dual", "alloc", "--factors", 7.0, 1.0, "--seeds", 0, 1, "--share", 0.5
    )
    assert set(rows) == {"dual_mirror_descent", "allocation_baseline pid"}
    for row in rows.values():
        assert row["shares"] == pytest.approx([1.0, 1.0])
        assert row["returns"][0] > 1_000.0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--share", 0.0), "share is 0.0"),
        (("--factors", 2.0), "factors are (2.0,)"),
        (("--agents", "oracle"), "agents has 'oracle'; there are"),
    ],
)
def test_what_makes_no_table_is_refused(tmp_path, flags, message):
    assert message in refused("reproduce_units.py", "--out", tmp_path / "run", *flags)
