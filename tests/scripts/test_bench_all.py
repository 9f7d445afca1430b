"""The list of benchmarks, what is made of their numbers, and the page of them."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from scripts import loaded, refused

ROOT = Path(__file__).parents[2]


SCRIPT = loaded("bench_all.py")


@pytest.fixture(scope="module")
def bench_all() -> ModuleType:
    return SCRIPT


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


def test_resumable_is_what_the_script_can(bench_all: ModuleType) -> None:
    for bench in bench_all.BENCHES:
        assert ("resumable=True" in (ROOT / "scripts" / bench.script).read_text()) == bench.resumable


def test_rows_without_a_number_say_why(bench_all: ModuleType) -> None:
    benches = {bench.name: bench for bench in bench_all.BENCHES}
    numbers = {"median": 2.0, "min": 1.5, "max": 3.0}
    result = {"two_actions": {"plain_over_ours": numbers}}
    rows, absent = bench_all.rows_of(benches["search"], result, {})
    assert rows == {"search/two_actions/plain_over_ours": numbers}
    assert absent["search/small_grid/plain_once_over_ours"] == "there are as many starts as roots"
    assert absent["search/grid/plain_over_ours"] == bench_all.NO_KEY
    rows, absent = bench_all.rows_of(benches["sbx"], {}, {"sb3": {}, "sbx": "SBX is left out"})
    assert not rows
    assert absent["sbx/dqn 64/sbx_over_ours"] == "SBX is left out"
    assert absent["sbx/dqn 64/sb3_over_ours"] == bench_all.NO_KEY


SMALL = """
import json, pathlib, sys
out = pathlib.Path(sys.argv[-1])
out.mkdir()
(out.parent / "calls").open("a").write("x")
if (out.parent / "fail").exists():
    sys.exit(3)
(out / "versions.json").write_text(json.dumps({"python": "3", "torch": "2", "numpy": "1", "commit": None}))
(out / "result.json").write_text(json.dumps({"a": [1.5, 2.5]}))
"""
"""A benchmark that fails while there is a file of that name."""


@pytest.fixture
def small(bench_all: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script with a list of one made-up benchmark."""
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "bench_small.py").write_text(SMALL)
    row = bench_all.Row
    rows = (row("a", ("a",)), row("b", ("b",), "sbx"), row("c", ("c",), absent="no c here"))
    bench = bench_all.Bench("small", "bench_small.py", 1, ("--fast",), (), "time", "Nothing.", rows)
    monkeypatch.setattr(bench_all, "BENCHES", (bench,))
    monkeypatch.setattr(bench_all, "ROOT", tmp_path)
    (tmp_path / "run").mkdir()
    return bench_all


def test_it_goes_on_where_it_was_stopped(small: ModuleType, tmp_path: Path) -> None:
    run = tmp_path / "run"
    places = {"out": run, "data": tmp_path / "data.json"}
    (run / "fail").touch()
    with pytest.raises(SystemExit, match="small did not end well"):
        small.BenchAll(**places).run()
    assert set(small.read_data(places["data"])["absent"].values()) == {"it ended with status 3"}
    (run / "fail").unlink()
    for _ in range(2):
        small.BenchAll(**places).run()
    assert (run / "calls").read_text() == "xx", "what is finished is not done again"
    data = small.read_data(places["data"])
    assert data["absent"] == {"small/b": "SBX is left out without --sbx-python", "small/c": "no c here"}
    ((name, made),) = data["runs"].items()
    assert data["rows"] == {"small/a": {"median": 2.0, "min": 1.5, "max": 2.5, "run": name}}
    assert made["command"] == "python scripts/bench_small.py --fast --out RUN"
    assert made["seconds"] >= 0
    assert made["others"] >= 0.0
    assert made["machine"]["processor"]
    assert data == small.read_data(run / "result.json")
    assert str(tmp_path) not in places["data"].read_text() + (tmp_path / "data.md").read_text()
    with pytest.raises(ValueError, match="was begun by python scripts/bench_small"):
        small.BenchAll(**places, quick=True).run()


def test_what_is_not_installed_is_listed(
    small: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    needy = dataclasses.replace(small.BENCHES[0], packages=("no-such-package",))
    monkeypatch.setattr(small, "BENCHES", (needy,))
    small.BenchAll(list=True).run()
    assert "no-such-package" in capsys.readouterr().out
    small.BenchAll(out=tmp_path / "run", data=tmp_path / "data.json").run()
    reasons = set(small.read_data(tmp_path / "data.json")["absent"].values())
    assert reasons == {"not installed: no-such-package"}
    assert not (tmp_path / "run" / "calls").exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--only", "nothing"), "only has 'nothing'; there are sbx"),
        (("--list", "--render"), "list and render are both given"),
        (("--quick", "--data", SCRIPT.DATA), "numbers of --quick do not go there"),
        (("--list", "--sbx-python", "nowhere"), "sbx_python is nowhere; there is no such file"),
        (("--list", "--sbx-python", "empty"), "empty is no Python that runs"),
        (("--render", "--data", "empty"), "must hold a JSON object"),
        (("--render", "--data", "other.json"), "is no file of benchmarks"),
    ],
)
def test_refusals(flags: tuple[Any, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").write_text("[]")
    Path("other.json").write_text("{}")
    assert said in " ".join(refused("bench_all.py", *flags).split())


@pytest.mark.slow
@pytest.mark.parametrize("bench", SCRIPT.BENCHES, ids=lambda bench: bench.name)
def test_every_row_is_a_number_of_its_script(bench: Any, bench_all: ModuleType, tmp_path: Path) -> None:
    """Every benchmark goes through, small; rows whose peer is elsewhere are listed, and the page stays."""
    command = [sys.executable, str(ROOT / "scripts" / "bench_all.py"), "--quick", "--only", bench.name]
    before = bench_all.DATA.read_bytes()
    for said in (str(tmp_path / "result.json"), f"{bench.name} is finished"):
        done = subprocess.run([*command, "--out", tmp_path], capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stderr
        assert said in done.stdout or "is not run" in done.stdout
    assert bench_all.DATA.read_bytes() == before
    data = json.loads((tmp_path / "benchmarks.json").read_text())
    names = {bench_all.key(bench, row): row for row in bench.rows}
    assert set(data["rows"]) | set(data["absent"]) == set(names)
    for name, reason in data["absent"].items():
        row = names[name]
        packages = bench.packages + (bench_all.PEERS[row.peer].packages if row.peer else ())
        left_out = "is left out without" in reason or (
            reason.startswith("not installed: ") and any(each in reason for each in packages)
        )
        assert left_out or reason == row.absent, (name, reason)
