"""The benchmark of labelling, on little work."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import SCRIPTS, loaded, refused


def test_bench_label_asks_a_server(tmp_path: Path) -> None:
    flags = ["--parts", "server", "--repeats", "2", "--seconds", "1", "--people", "3", "--answered", "2"]
    command = [sys.executable, str(SCRIPTS / "bench_label.py"), *flags, "--out", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    names = ("p50_ms", "p99_ms", "max_ms", "requests_per_second")
    assert set(result) == {f"server_{name}" for name in names}
    assert (
        0.0
        < result["server_p50_ms"]["min"]
        <= result["server_p99_ms"]["min"]
        <= result["server_max_ms"]["min"]
    )
    assert 5.0 < result["server_requests_per_second"]["median"] < 60.0


def test_bench_label_lets_people_look_on_while_an_agent_learns(tmp_path: Path) -> None:
    script = loaded("bench_label.py")
    found = script.measure_trainer(script.Bench(asked=3, steps=40, stretches=2, clip_bytes=100))
    arms = ("idle_page_percent", "people_percent")
    assert set(found) == {*arms, *(f"processor_{arm}" for arm in arms), "steps_per_second"}
    assert found["steps_per_second"] > 1.0
    assert script.overhead([(3.0, 2.0), (1.1, 1.0), (1.0, 1.0)]) == pytest.approx(10.0)


def test_a_server_that_refuses_ends_the_benchmark(tmp_path: Path) -> None:
    script = loaded("bench_label.py")
    bench = script.Bench(seconds=1, people=1, answered=0, rate=5)
    script.make_study(bench, tmp_path / "study")
    with script.serving(tmp_path / "study", 1) as links:
        ((port, path),) = links
        person = script.Asking(bench, port, script.entered(port, path) + "x", 0.0, 0)
        person.run()
    assert "was answered with 403" in str(person.error)
    with pytest.raises(RuntimeError, match="the server ended with 2"), script.serving(tmp_path / "none", 1):
        pass


@pytest.mark.parametrize(("flags", "words"), [
    (("--rate", 0), "rate is 0; it must be at least 1"),
    (("--answered", -1), "answered is -1; it must not be negative"),
    (("--parts",), "parts is empty"),
])  # fmt: skip
def test_what_the_benchmark_refuses(tmp_path: Path, flags: tuple[object, ...], words: str) -> None:
    assert words in " ".join(refused("bench_label.py", "--out", tmp_path / "run", *flags).split())
