"""What is said of a study: numbers worked out by hand, and what the command prints."""

import json
import stat
from pathlib import Path
from typing import Any

import pytest
from labelling_study import make_study, pair, request
from scipy.stats import binomtest

from prefrl import cli
from prefrl.label.records import CurrentAnswer, Item, NewQuestion, Totals, escaped
from prefrl.label.status import PersonStatus, StudyStatus, ranking_pairs, status_of

NOTHING = Totals(0, 0, 0, 0, 0, 0, 0, 0, 0, 0)


def answer(who: str, question: int, value: str, swapped: bool = False, **more: Any) -> CurrentAnswer:
    """An answer to a pair, whose sides are as stored unless they are swapped."""
    label = {"tie": 0.5, "skip": None, "left": float(swapped), "right": float(not swapped)}[value]
    given: dict[str, Any] = {
        "id": 0, "key": f"q{question}", "session": "", "kind": "pair", "items": (Item("a"), Item("b")),
        "places": (1, 0) if swapped else (0, 1), "label": label, "ranking": None, "rating": None,
        "skip": value == "skip", "seconds": 2.0, "plays": 1, "late": False, "repeat_of": None, "check": None,
        "practice": False, **more,
    }  # fmt: skip
    return CurrentAnswer(question=question, annotator=who, value=value, **given)


def status(answers: list[CurrentAnswer], kind: Any = "pair") -> StudyStatus:
    return status_of("Which?", kind, 2, answers, [], NOTHING)


def test_a_person_by_hand() -> None:
    answers = [
        answer("anna", 1, "left", seconds=1.0),
        answer("anna", 2, "left", swapped=True, seconds=9.0, late=True),
        answer("anna", 3, "right", seconds=2.0),
        answer("anna", 4, "tie", seconds=3.0),
        answer("anna", 5, "skip", seconds=4.0),
        answer("anna", 6, "left", check=True, seconds=50.0),
        answer("anna", 7, "left", check=False, seconds=50.0),
        answer("anna", 8, "right", practice=True, check=False, seconds=50.0),
        answer("anna", 11, "left", swapped=True, repeat_of=1, seconds=50.0),  # the other one now
        answer("anna", 12, "right", repeat_of=2, seconds=50.0),  # the same one: it is on the other side
        answer("anna", 13, "tie", repeat_of=4, seconds=50.0),
        answer("anna", 14, "left", repeat_of=99, seconds=50.0),  # what it repeats was taken back
    ]
    (found,) = status(answers).people
    interval = binomtest(6, 8).proportion_ci(0.95)
    assert found == PersonStatus(
        name="anna", answers=5, median_seconds=3.0, left=6, right=2, left_share=0.75,
        left_interval=(interval.low, interval.high), left_p=pytest.approx(74 / 256), ties=1, skips=1, late=1,
        repeats=3, repeats_agreed=2, checks=2, checks_passed=1,
    )  # fmt: skip


def test_agreement_by_hand() -> None:
    mine = ["left", "left", "right", "tie", "left", "skip"]
    theirs = ["left", "right", "right", "tie", "left", "left"]
    answers = [
        found
        for question, (one, other) in enumerate(zip(mine, theirs, strict=True))
        # Sides as shown do not matter.
        for found in (
            answer("anna", question, one),
            answer("ben", question, {"left": "right", "right": "left"}.get(other, other), swapped=True),
        )
    ]
    answers.append(answer("carl", 99, "left"))
    found = status(answers)
    (both,) = found.pairs
    # Of five questions four alike; by chance 3/5 x 2/5 + 1/5 x 2/5 + 1/5 x 1/5 = 9/25.
    assert (both.names, both.questions, both.agreed) == (("anna", "ben"), 5, 0.8)
    assert both.kappa == pytest.approx((0.8 - 9 / 25) / (1 - 9 / 25))
    # Five questions of two answers: observed (0 + 1 + 0 + 0 + 0) / 5, expected 2 x 8 x .25 / 10.
    assert found.alpha == pytest.approx(1 - 0.2 / 0.4)


def test_nobody_and_one_alone() -> None:
    assert status([]).people == status([]).pairs == ()
    assert status([]).alpha is None
    (found,) = status([answer("anna", 1, "skip")]).people
    assert (found.left_share, found.left_interval, found.left_p) == (None, None, None)
    (found,) = status([answer("anna", 1, "left", check=True)]).people
    assert (found.answers, found.median_seconds, found.checks_passed) == (0, None, 1)


def test_pairs_of_a_ranking() -> None:
    assert ranking_pairs([[2], [0, 3], [1]]) == [
        (0, 1, 0.0), (0, 2, 1.0), (0, 3, 0.5), (1, 2, 1.0), (1, 3, 1.0), (2, 3, 0.0)
    ]  # fmt: skip


def test_rankings_and_ratings_agree_too() -> None:
    def ranked(who: str, ranking: Any) -> CurrentAnswer:
        return answer(who, 1, "skip", kind="ranking", skip=False, ranking=ranking)

    found = status([ranked("anna", ((0,), (1,), (2,))), ranked("ben", ((1,), (0,), (2,)))], "ranking")
    assert (found.pairs[0].questions, found.pairs[0].agreed) == (3, pytest.approx(2 / 3))
    ratings = {"anna": (1, 3, 5), "ben": (2, 3, 4)}
    rated = [answer(who, question, "skip", kind="rating", skip=False, rating=ratings[who][question])
             for who in ratings for question in range(3)]  # fmt: skip
    (both,) = status(rated, "rating").pairs
    # (1 + 0 + 1) / 3 over E (x - y)^2 = (8 + 2) / 3.
    assert (both.agreed, both.kappa) == (pytest.approx(1 / 3), pytest.approx(1 - 2 / 10))
    assert status(rated, "rating").alpha is None


def test_names_are_escaped_and_stay_apart() -> None:
    assert escaped("Zoë Ångström 山") == "Zoë Ångström 山"
    assert escaped("a\x1b[31m\n\u202eb\\") == "a\\x1b[31m\\n\\u202eb\\\\"
    assert escaped("\n") != escaped("\\n")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    questions = [pair(0, practice=True), pair(1, check_answer="second"), *map(pair, range(2, 6))]
    with make_study(tmp_path / "s", questions, annotators_per_question=2, practice=1) as store:
        for name in ("[bold]anna\x1b[31m", "ben"):
            me = store.add_annotator(name).id
            while (showing := store.next(me)) is not None:
                store.answer(me, request(), showing.id, "left", 1.0)
        store.undo(me, request())
    assert cli.main(["label", "status", str(tmp_path / "s")]) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] == str(tmp_path / "s" / "status.json")
    assert "\x1b" not in printed
    assert "[bold]anna\\x1" in printed  # the rest is in the next line
    assert "…" not in printed
    content = json.loads((tmp_path / "s" / "status.json").read_text())
    assert content["totals"]["undone"] == 1
    assert (content["answered"], content["finished"]) == (4, 3)
    assert [person["answers"] for person in content["people"]] == [4, 3]
    assert content["people"][0]["name"] == "[bold]anna\\x1b[31m"
    assert stat.S_IMODE((tmp_path / "s" / "status.json").stat().st_mode) == 0o600


def test_the_command_refuses_what_is_no_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["label", "status", str(tmp_path / "none")]) == 2
    assert "there is no folder" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_empty_study_has_a_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    factors = NewQuestion((Item(factor="a"), Item(factor="b")), "f")
    make_study(tmp_path / "s", [factors], kind="ranking").close()
    assert cli.main(["label", "status", str(tmp_path / "s")]) == 0
    assert "0 of 1" in capsys.readouterr().out
