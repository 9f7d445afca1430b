"""The list of benchmarks, what is made of their numbers, and the page of them."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bench_all() -> ModuleType:
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        import bench_all
    finally:
        sys.path.remove(str(ROOT / "scripts"))
    return bench_all


PARSE = """
import json, runpy, sys
import prefrl.cli

class Parsed(BaseException):
    pass

def execute(parse):
    parse()
    raise Parsed

prefrl.cli.execute = execute
for script, flags in json.load(sys.stdin):
    sys.argv = [script, *flags, "--out", "new"]
    try:
        runpy.run_path(script, run_name="__main__")
    except Parsed:
        continue
    sys.exit(f"{script} was not parsed")
"""


def test_every_script_takes_its_flags(bench_all: ModuleType, tmp_path: Path) -> None:
    calls = [
        (str(ROOT / "scripts" / bench.script), list(flags))
        for bench in bench_all.BENCHES
        for flags in (bench.flags, bench.quick)
    ]
    done = subprocess.run(
        [sys.executable, "-c", PARSE], input=json.dumps(calls), cwd=tmp_path, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert not list(tmp_path.iterdir())


def test_the_list_names_scripts_peers_and_rows_once(bench_all: ModuleType) -> None:
    names = [bench.name for bench in bench_all.BENCHES]
    assert len(set(names)) == len(names)
    keys = [bench_all.key(bench, row) for bench in bench_all.BENCHES for row in bench.rows]
    assert len(set(keys)) == len(keys)
    assert {row.peer for bench in bench_all.BENCHES for row in bench.rows} - {""} <= set(bench_all.PEERS)
    listed = {bench.script for bench in bench_all.BENCHES}
    there = {path.name for path in (ROOT / "scripts").glob("bench_*.py")} - {"bench_all.py"}
    assert listed == there


def found(bench_all: ModuleType, rows: Mapping[str, Any], when: str) -> Any:
    run = {"finished": when, "command": "python x", "seconds": 90, "others": 0.1, "commit": "abcdef0123",
           "changed": False, "peers": {"Stable-Baselines3": {"stable-baselines3": "2.9.2"}},
           "machine": {"python": "3.11", "torch": "2.13", "numpy": "2.4"}}  # fmt: skip
    return bench_all.Found(dict(rows), {}, run)


def test_a_rerun_replaces_its_own_rows_only(bench_all: ModuleType) -> None:
    first, second = bench_all.BENCHES[0], bench_all.BENCHES[1]
    keys = [bench_all.key(bench, bench.rows[0]) for bench in (first, second)]
    data = bench_all.read_data(Path("nowhere"))
    numbers = {"median": 2.0, "min": 1.5, "max": 3.0}
    bench_all.merge(data, first, found(bench_all, {keys[0]: numbers}, "1"))
    bench_all.merge(data, second, found(bench_all, {keys[1]: numbers}, "1"))
    bench_all.merge(data, first, found(bench_all, {keys[0]: {**numbers, "median": 2.5}}, "2"))
    assert data["rows"][keys[0]] == {"median": 2.5, "min": 1.5, "max": 3.0, "run": f"{first.name}, 2"}
    assert data["rows"][keys[1]]["median"] == 2.0
    assert set(data["runs"]) == {f"{first.name}, 2", f"{second.name}, 1"}


def test_numbers_are_found_at_their_paths(bench_all: ModuleType) -> None:
    result = {"a": [{"median": 1.23456, "min": 1.0, "max": 2.0, "unit": "s"}], "b": [3.0, 1.0, 2.0]}
    assert bench_all.number_at(result, ("a", 0)) == {"median": 1.235, "min": 1.0, "max": 2.0}
    assert bench_all.number_at(result, ("b",)) == {"median": 2.0, "min": 1.0, "max": 3.0}
    assert bench_all.number_at(result, ("a", 1)) is None


def test_where_we_lose_is_said(bench_all: ModuleType) -> None:
    more, less = bench_all.Row("x", ("x",)), bench_all.Row("x", ("x",), more_is_better=False)
    slow, fast, even = ({"median": m, "min": m - 0.1, "max": m + 0.1} for m in (0.5, 2.0, 1.0))
    assert [bench_all.verdict(more, n) for n in (slow, fast, even)] == [
        "**behind**",
        "ahead",
        "no difference shown",
    ]
    assert [bench_all.verdict(less, n) for n in (slow, fast)] == ["ahead", "**behind**"]


def test_the_page_shows_what_was_measured_and_what_was_not(bench_all: ModuleType) -> None:
    bench, row = next((b, r) for b, r in bench_all.all_rows() if r.peer == "sb3")
    data = bench_all.read_data(Path("nowhere"))
    empty = bench_all.page_of(data)
    assert "None of the" in empty
    bench_all.merge(
        data,
        bench,
        found(bench_all, {bench_all.key(bench, row): {"median": 0.5, "min": 0.4, "max": 0.6}}, "1"),
    )
    page = bench_all.page_of(data)
    assert "0.5 (0.4 to 0.6)" in page
    assert "Stable-Baselines3 2.9.2" in page
    assert "`abcdef0`" in page
    assert page.count("not measured yet") == empty.count("not measured yet") - 1


def test_the_page_is_that_of_the_file(bench_all: ModuleType) -> None:
    page = ROOT / "docs" / "results" / "benchmarks.md"
    assert page.read_text() == bench_all.page_of(bench_all.read_data(bench_all.DATA))


@pytest.mark.slow
def test_a_quick_bench_goes_through(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "bench_all.py"), "--quick", "--out", str(tmp_path)]
    done = subprocess.run([*command, "--only", "search"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    data = json.loads((tmp_path / "benchmarks.json").read_text())
    assert any(name.startswith("search/") for name in data["rows"])
    assert "search" in (tmp_path / "benchmarks.md").read_text()
    again = subprocess.run([*command, "--only", "search"], capture_output=True, text=True, timeout=60)
    assert "search is finished" in again.stdout
