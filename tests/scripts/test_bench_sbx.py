"""The benchmark on one core, without SBX."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import SCRIPTS, refused


@pytest.mark.slow
def test_bench_sbx(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPTS / "bench_sbx.py"), "--out", str(tmp_path), "--repeats", "1"]
    command += ["--cases", "dqn 64", "sac 64", "ppo 64"]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    result = json.loads((tmp_path / "result.json").read_text())
    assert set(result) == {"dqn 64", "sac 64", "ppo 64"}
    for found in result.values():
        assert set(found) == {"ours_per_second", "sb3_per_second", "sb3_over_ours"}
        assert all(numbers["min"] > 0 for numbers in found.values())
    (tmp_path / "result.json").unlink()
    subprocess.run(command, check=True, capture_output=True, timeout=60)  # everything was kept
    assert json.loads((tmp_path / "result.json").read_text()) == result


def test_refusals(tmp_path: Path) -> None:
    assert "cases has 'td3'; there are dqn 64" in refused("bench_sbx.py", "--cases", "td3")
    out = ["--out", str(tmp_path / "run"), "--cases", "dqn 64", "--sbx-python", str(tmp_path / "python")]
    before = os.sched_getaffinity(0)
    assert "sbx_python is" in refused("bench_sbx.py", *out)
    assert os.sched_getaffinity(0) == before
