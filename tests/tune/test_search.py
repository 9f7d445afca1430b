"""The search by itself, on functions in place of runs."""

import math
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("optuna")

from prefrl.tune.search import (
    Constraint,
    Objective,
    Outcome,
    RunFailed,
    Search,
    parse_constraint,
)
from prefrl.tune.space import Choices, Range

SPACE = {
    "rate": Range(1e-5, 1e-1, log=True),
    "count": Range(1, 100),
    "loss": Choices({"a": "a", "b": "b", "c": "c"}),
}


def quality(settings):
    """1 at rate 1e-3, count 40 and loss b; less elsewhere."""
    away = (math.log10(settings["rate"]) + 3) ** 2 / 10 + ((settings["count"] - 40) / 160) ** 2
    return 1 - away - 0.05 * (settings["loss"] != "b")


def planted(number, settings, rung):
    return [{"x": quality(settings) + 0.002 * seed - 0.3 / rung} for seed in range(3)]


def search(folder, **given):
    given = {"space": SPACE, "objectives": [Objective("x")], "tell": lambda text: None, **given}
    return Search(folder / "journal.log", **given)


def test_a_planted_best_setting_is_found(tmp_path):
    found = 0
    for seed in range(5):
        folder = tmp_path / str(seed)
        folder.mkdir()
        searched = search(folder, seed=seed)
        best = searched.best(searched.run(30, planted), 1)[0]
        found += quality(best.settings) > 0.9
    assert found >= 4


def test_the_same_seed_asks_the_same_and_goes_on_alike(tmp_path):
    for name in ("one", "two", "other"):
        (tmp_path / name).mkdir()
    whole = search(tmp_path / "one").run(14, planted)
    search(tmp_path / "two").run(5, planted)
    parts = search(tmp_path / "two").run(14, planted)
    assert parts == whole
    assert search(tmp_path / "other", seed=1).run(3, planted)[0].settings != whole[0].settings


def test_what_is_in_the_lower_part_of_its_rung_stops(tmp_path):
    ran = []

    def run(number, settings, rung):
        ran.append((number, rung))
        return [{"x": [3.0, 1.0, 4.0, 3.5, 2.0][number]}]

    outcomes = search(tmp_path).run(5, run)
    # Of 1, 2 and 3 one goes on, of 4 and 5 two.
    assert [each.state for each in outcomes] == ["complete", "stopped", "complete", "stopped", "stopped"]
    assert [rung for number, rung in ran if number == 3] == [1, 2]  # second of four, then second of three
    assert [rung for number, rung in ran if number == 4] == [1]


def test_minimize_and_constraints(tmp_path):
    def run(number, settings, rung):
        return [{"x": float(settings["count"]), "cost": 60.0 - settings["count"]}]

    searched = search(
        tmp_path,
        objectives=[Objective("x", "minimize")],
        constraints=[Constraint("cost", at_most=True, bound=20.0)],
        rungs=1,
    )
    best = searched.best(searched.run(25, run), 3)
    assert [each.settings["count"] for each in best] == sorted(each.settings["count"] for each in best)
    assert 40 <= best[0].settings["count"] <= 48  # cost <= 20 is count >= 40


def test_two_objectives_have_a_front(tmp_path):
    def run(number, settings, rung):
        return [{"x": settings["rate"], "y": -settings["rate"] - (settings["loss"] != "b")}]

    searched = search(tmp_path, objectives=[Objective("x"), Objective("y")], rungs=2)
    outcomes = searched.run(15, run)
    best = searched.best(outcomes, 3)
    assert len(best) >= 2
    for one in best:
        assert not any(
            searched.beats(other.metrics, one.metrics) for other in outcomes if other.state == "complete"
        )
    assert [each.metrics["x"] for each in best] == sorted((each.metrics["x"] for each in best), reverse=True)


def test_a_failed_run_is_kept_and_the_others_go_on(tmp_path):
    def run(number, settings, rung):
        if number == 1:
            raise RunFailed("seed=0: it broke")
        return planted(number, settings, rung)

    outcomes = search(tmp_path).run(3, run)
    assert (outcomes[1].state, outcomes[1].problem) == ("failed", "seed=0: it broke")
    assert search(tmp_path).run(3, run) == outcomes


def test_a_metric_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match="metric 'y' is no number in the results; there are x"):
        search(tmp_path, objectives=[Objective("y")]).run(1, planted)


KILLED = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_search import planted, search
folder = Path(sys.argv[1])
def run(number, settings, rung):
    time.sleep(0.01)
    with (folder / "ran.txt").open("a") as file:
        file.write(f"{number} {rung} {settings}\\n")
    return planted(number, settings, rung)
search(folder).run(40, run)
"""


def test_kills_lose_no_trial_and_double_none(tmp_path):
    (tmp_path / "whole").mkdir()
    folder = tmp_path / "killed"
    folder.mkdir()
    whole = search(tmp_path / "whole").run(40, planted)
    kills = 0
    for pause in (0.05, 0.2, 0.35, 0.15, 0.4):
        seen = (folder / "ran.txt").stat().st_size if (folder / "ran.txt").exists() else 0
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(folder), str(Path(__file__).parent)])
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:  # until it has begun
            if (folder / "ran.txt").exists() and (folder / "ran.txt").stat().st_size > seen:
                break
            time.sleep(0.01)
        time.sleep(pause)
        kills += process.poll() is None
        process.kill()
        process.wait()
    assert kills >= 3
    with (folder / "journal.log").open("a") as file:
        file.write('{"op_code": 4, "half a li')  # as a machine that lost its power may leave it
    assert search(folder).run(40, planted) == whole
    lines = (folder / "ran.txt").read_text().splitlines()
    asked = {}
    for line in lines:
        number, _, settings = line.split(" ", 2)
        assert asked.setdefault(number, settings) == settings  # run again or not, it is the same trial


@pytest.mark.parametrize("state", ["complete", "failed"])
def test_a_kill_between_an_outcome_and_its_end_doubles_nothing(tmp_path, monkeypatch, state):
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()

    def run(number, settings, rung):
        if state == "failed" and number == 2:
            raise RunFailed("it broke")
        return planted(number, settings, rung)

    whole = search(tmp_path / "whole").run(6, run)
    close = Search._close

    def killed(self, optuna, study, number, outcome):
        if outcome.number == 2:
            raise KeyboardInterrupt
        close(self, optuna, study, number, outcome)

    with monkeypatch.context() as patched:
        patched.setattr(Search, "_close", killed)
        with pytest.raises(KeyboardInterrupt):
            search(tmp_path / "killed").run(6, run)
    assert search(tmp_path / "killed").run(4, run) == whole[:4]
    assert search(tmp_path / "killed").run(6, run) == whole  # it was closed, and counts once


@pytest.mark.parametrize("text", ["x", "x<", "<=3", "x<=y", "x=3"])
def test_constraints_that_say_nothing_are_refused(text):
    with pytest.raises(ValueError, match="each must be METRIC<=NUMBER"):
        parse_constraint(text)


def test_constraints_are_read():
    assert parse_constraint("cost<=3") == Constraint("cost", at_most=True, bound=3.0)
    assert parse_constraint("a.b>=-1").excess(-3.0) == 2.0
    assert Outcome(0, {}).metrics == {}
