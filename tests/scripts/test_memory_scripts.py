"""Scripts that measure memory and steps on pictures, on little work."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scripts import refused

SCRIPTS = Path(__file__).parents[2] / "scripts"


def result_of(script: str, out: Path, *arguments: object) -> dict[str, Any]:
    command = [sys.executable, str(SCRIPTS / script), *map(str, arguments), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert str(out / "result.json") in done.stdout.splitlines()[-1]
    found: dict[str, Any] = json.loads((out / "result.json").read_text())
    assert all(numbers["min"] <= numbers["median"] <= numbers["max"] for numbers in found.values())
    return found


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="it is Linux that says the peak")
def test_bench_memory_on_little_work(tmp_path: Path) -> None:
    sizes = ("--buffer-size", 500, "--timesteps", 40, "--full-size", 200_000, "--rows", 1_000)
    flags = ("--repeats", 1, "--env-id", "Pendulum-v1", *sizes)
    result = result_of("bench_memory.py", tmp_path / "run", *flags)
    assert 100 < result["peak_mib"]["min"] < 1_000
    assert 0.5 < result["peak_over_sb3"]["min"] < 1.5
    assert result["copies_while_written"]["median"] < 0.3
    assert 0.7 < result["copies_while_read"]["median"] < 1.6  # 9 MiB, beside which others count too
    assert 0.5 < result["start_cpu_seconds"]["median"] < 20.0
    assert not list((tmp_path / "run").glob("full.pt*"))


def test_bench_pictures_on_little_work(tmp_path: Path) -> None:
    flags = ("--repeats", 2, "--steps", 1, "--size", 36, "--batch-size", 4, "--transitions", 20)
    result = result_of("bench_pictures.py", tmp_path / "run", *flags)
    assert set(result) == {"steps_over_sb3", "sb3_milliseconds", "milliseconds"}
    assert result["steps_over_sb3"]["min"] > 0.0


def test_pictures_too_small_for_the_network_are_refused(tmp_path: Path) -> None:
    assert "size is 35; it must be at least 36" in refused(
        "bench_pictures.py", "--size", 35, "--out", tmp_path
    )
