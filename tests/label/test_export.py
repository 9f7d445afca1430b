"""What becomes of answers: rows, labels, weights, what is left out and how it is counted."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from labelling_study import make_study, pair, request, segment

from prefrl import cli
from prefrl.data import load_preferences
from prefrl.label.export import ExportSettings, circle_pairs, export_preferences, export_ranking
from prefrl.label.records import Item, NewQuestion, Showing
from prefrl.label.store import LabelStore

SIDES = {0.0: 0, 1.0: 1}


def say(store: LabelStore, who: str, says: Any) -> None:
    """Let a person answer all there is: says(key, showing) gives a label, None to skip, or a value."""
    me = store.add_annotator(who).id
    while (showing := store.next(me)) is not None:
        row = next((row for row in store.questions() if row.id == showing.question), None)
        value = says(row.key if row else "repeat", showing)
        store.answer(me, request(), showing.id, value, 1.0)


def stored(store: LabelStore, showing: Showing, label: float | None) -> str:
    """What to press for a label in stored places."""
    if label is None:
        return "skip"
    if label == 0.5:
        return "tie"
    question = next(row for row in store.questions() if row.id == showing.question)
    wanted = clips_of(store)[question.items[int(label)].segment or ""]
    return ("left", "right")[[item.clip for item in showing.items].index(wanted)]


def clips_of(store: LabelStore) -> dict[str, str]:
    with store._connections.reading() as connection:
        query = "SELECT segment.digest, clip.digest FROM segment JOIN clip ON clip.id = segment.clip"
        return dict(connection.execute(query).fetchall())


LABELS = {"anna": {"q0": 0.0, "q1": 1.0, "q2": 0.5, "q3": None}, "ben": {"q0": 0.0, "q1": 0.0, "q2": 0.5,
          "q3": 1.0}}  # fmt: skip


def answered(tmp_path: Path, **settings: Any) -> LabelStore:
    store = make_study(tmp_path / "s", 4, annotators_per_question=2, **settings)
    for name, labels in LABELS.items():
        say(store, name, lambda key, showing, labels=labels: stored(store, showing, labels[key]))
    return store


def test_rows_by_hand(tmp_path: Path) -> None:
    found = export_preferences(answered(tmp_path))
    assert found.labels.tolist() == [0.0, 1.0, 0.5, 0.5, 0.0, 0.0, 0.5, 1.0]
    assert found.weights.tolist() == [1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0]
    assert found.annotators.tolist() == [0] * 4 + [1] * 4
    assert found.annotator_names == ("anna", "ben")
    for row in range(8):
        for side, segments in enumerate((found.first, found.second)):
            expected = torch.from_numpy(segment(2 * (row % 4) + side).arrays["obs"])
            assert torch.equal(segments.obs[row], expected)
    counted = found.metadata
    assert (counted["comparisons"], counted["questions"], counted["questions_answered"]) == (8, 4, 4)
    assert (counted["answers"], counted["answers_skipped"]) == (8, 1)


def test_agreement_and_exclusions_are_counted(tmp_path: Path) -> None:
    store = answered(tmp_path)
    found = export_preferences(store, ExportSettings(min_agreement=0.6))
    assert found.labels.tolist() == [0.0, 0.5, 0.5, 0.0, 0.5, 1.0]  # q1 is gone
    assert found.metadata["comparisons_without_agreement"] == 2
    assert found.metadata["questions_without_agreement"] == 1
    found = export_preferences(store, ExportSettings(min_agreement=0.6, exclude=("ben",)))
    assert found.labels.tolist() == [0.0, 1.0, 0.5, 0.5]  # who answers alone agrees
    assert found.annotator_names == ("anna",)
    assert found.metadata["answers_excluded"] == 4
    assert found.metadata["excluded"] == ["ben"]
    with pytest.raises(ValueError, match="exclude names 'dora'; the people are anna, ben"):
        export_preferences(store, ExportSettings(exclude=("dora",)))
    with pytest.raises(ValueError, match="holds no answers about clips"):
        export_preferences(store, ExportSettings(exclude=("anna", "ben")))


def test_what_is_undone_is_gone(tmp_path: Path) -> None:
    store = answered(tmp_path)
    store.undo(store.annotators()[0].id, request())
    found = export_preferences(store)
    assert len(found) == 7
    assert found.metadata["answers_undone_in_study"] == 1


def test_practice_repeats_and_checks_are_left_out(tmp_path: Path) -> None:
    questions = [pair(0, practice=True), pair(1, check_answer="second"), *map(pair, range(2, 6))]
    store = make_study(tmp_path / "s", questions, annotators_per_question=2, practice=1, repeat_every=2)
    for name, right in (("anna", 1.0), ("ben", 0.0)):
        say(
            store,
            name,
            lambda key, showing, right=right: stored(store, showing, right) if key == "q1" else "left",
        )
    found = export_preferences(store)
    assert len(found) == 8
    counted = found.metadata
    assert counted["answers_to_practice"] == counted["answers_to_checks"] == 2
    assert counted["answers_to_repeats"] == 4
    assert counted["checks_failed"] == 1
    strict = export_preferences(store, ExportSettings(min_checks=0.9))
    assert strict.annotator_names == ("anna",)
    assert strict.metadata["inattentive"] == ["ben"]
    assert strict.metadata["answers_of_failed_checks"] == 4


def test_sessions_are_apart(tmp_path: Path) -> None:
    store = make_study(tmp_path / "s", [pair(0, session="one"), pair(1, session="two"), pair(2)])
    say(store, "anna", lambda key, showing: "left")
    assert len(export_preferences(store)) == 3
    found = export_preferences(store, ExportSettings(session="two"))
    assert len(found) == found.metadata["questions"] == found.metadata["answers"] == 1


def test_rankings_become_their_pairs(tmp_path: Path) -> None:
    question = NewQuestion(tuple(Item(segment(number).digest) for number in range(3)), "r")
    store = make_study(tmp_path / "s", [question], kind="ranking", annotators_per_question=2)
    clips = clips_of(store)
    order = [clips[item.segment or ""] for item in question.items]

    def best_is_last(key: str, showing: Showing) -> list[list[int]]:
        place = {item.clip: number for number, item in enumerate(showing.items)}
        return [[place[order[2]]], [place[order[0]], place[order[1]]]]

    say(store, "anna", best_is_last)
    say(store, "ben", lambda key, showing: "skip")
    found = export_preferences(store)
    assert found.labels.tolist() == [0.5, 1.0, 1.0, 0.5, 0.5, 0.5]
    assert found.weights.tolist() == [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]


def test_ratings_are_compared_within_a_person(tmp_path: Path) -> None:
    questions = [NewQuestion((Item(segment(number).digest),), f"q{number}") for number in range(12)]
    store = make_study(tmp_path / "s", questions, kind="rating", annotators_per_question=2)
    say(store, "anna", lambda key, showing: 1 + int(key[1:]) // 3)
    say(store, "ben", lambda key, showing: "skip" if key == "q0" else 5)
    everything = ExportSettings(rating_pairs=50)
    found = export_preferences(store, everything)
    assert len(found) == 66 + 55
    assert found.metadata["answers_skipped"] == 1
    number = [[int(value) // 300 for value in side.obs[:, 0, 0]] for side in (found.first, found.second)]
    for first, second, label, who in zip(
        *number, found.labels.tolist(), found.annotators.tolist(), strict=True
    ):
        if who == 0:
            assert label == 0.5 + 0.5 * ((second > first) - (second < first))
        else:
            assert label == 0.5
    few = export_preferences(store, ExportSettings(rating_pairs=2))
    assert len(few) == 2 * 12 + 2 * 11
    again = export_preferences(store, ExportSettings(rating_pairs=2))
    assert torch.equal(few.first.obs, again.first.obs)
    with pytest.raises(ValueError, match="min_agreement is for pairs and rankings"):
        export_preferences(store, ExportSettings(min_agreement=0.5))


@pytest.mark.parametrize(
    ("count", "steps", "pairs"), [(1, 3, 0), (2, 1, 1), (3, 1, 3), (5, 2, 10), (9, 2, 18)]
)
def test_pairs_on_a_circle_are_different_and_even(count: int, steps: int, pairs: int) -> None:
    found = circle_pairs(count, steps)
    assert len(found) == len({frozenset(pair) for pair in found}) == pairs
    times = [sum(place in pair for pair in found) for place in range(count)]
    assert len(set(times)) == 1


def test_factors_become_the_flag_of_heron(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("speed", "energy", "upright")
    store = make_study(tmp_path / "s", [NewQuestion(tuple(Item(factor=name) for name in names), "f")],
                       kind="ranking", annotators_per_question=4)  # fmt: skip

    def ranks(*groups: str) -> Any:
        def value(key: str, showing: Showing) -> list[list[int]]:
            place = {item.factor: number for number, item in enumerate(showing.items)}
            return [[place[name] for name in group.split()] for group in groups]

        return value

    say(store, "anna", ranks("upright", "speed", "energy"))
    say(store, "ben", ranks("upright", "energy speed"))
    say(store, "carl", ranks("speed", "upright", "energy"))
    say(store, "dora", lambda key, showing: "skip")
    found = export_ranking(store)
    assert found.ranking == ("upright", "speed", "energy")
    assert found.flag == "--ranking upright,speed,energy"
    # anna agrees with all 3 statements, ben with 2 and a tie, carl with 2.
    assert (found.statements, found.agreeing, found.best_orders, found.skipped) == (9, 7.5, 1, 1)
    with pytest.raises(ValueError, match="no answers about clips"):
        export_preferences(store)
    store.close()
    out = tmp_path / "ranking.json"
    assert cli.main(["label", "export", str(tmp_path / "s"), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "--ranking upright,speed,energy" in printed
    assert printed.splitlines()[-1] == str(out)
    assert json.loads(out.read_text())["ranking"] == ["upright", "speed", "energy"]


def test_the_command_writes_a_file_that_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = make_study(tmp_path / "s", 3)
    say(store, "an\x1b[31mna\n", lambda key, showing: "left")
    store.close()
    out = tmp_path / "prefs.npz"
    assert cli.main(["label", "export", str(tmp_path / "s"), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] == str(out)
    assert "\x1b" not in printed
    found = load_preferences(out)
    assert found.annotator_names == ("an\\x1b[31mna",)  # blank ends of names are cut off
    assert found.metadata["source"] == "prefrl label"
    assert set(os.listdir(tmp_path)) == {"s", "prefs.npz"}  # noqa: PTH208


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "prefs.csv"], "must end in .npz"),
        (["--out", "no/prefs.npz"], "there is no folder no"),
        (["--out", "prefs.json"], "no rankings of factors"),
        (["--out", "prefs.npz", "--min-agreement", "1.5"], "min_agreement is 1.5; it must lie in [0, 1]"),
        (["--out", "prefs.npz", "--exclude", "x"], "exclude names 'x'"),
        (["--out", "prefs.npz", "--session", "x"], "no answers about clips"),
    ],
)
def test_the_command_refuses(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    store = make_study(tmp_path / "s", 1)
    say(store, "anna", lambda key, showing: "left")
    store.close()
    try:
        status = cli.main(["label", "export", "s", *arguments])
    except SystemExit as stop:  # tyro's
        status = int(stop.code or 0)
    assert status == 2
    assert message in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["s"]


def test_where_nothing_is_left_it_says_why_and_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    factors = NewQuestion(tuple(Item(factor=f"{name}_of_a_joint_that_is_far_away") for name in "abcd"), "f")
    store = make_study(tmp_path / "f", [factors], kind="ranking")
    say(store, "anna", lambda key, showing: [[0], [1], [2], [3]])
    with pytest.raises(
        ValueError, match=r"; rankings of factors are written as \.json \(questions 1, questions "
    ):
        export_preferences(store)
    store.close()
    with (
        make_study(tmp_path / "empty", []) as empty,
        pytest.raises(ValueError, match=r"export \(no questions\)"),
    ):
        export_preferences(empty)
    assert cli.main(["label", "export", str(tmp_path / "f"), "--out", str(tmp_path / "f.json")]) == 0
    flag = json.loads((tmp_path / "f.json").read_text())["flag"]
    assert f"for prefrl train heron: {flag}" in capsys.readouterr().out.splitlines()  # to be copied


def test_it_warns_where_nobody_could_tell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with make_study(tmp_path / "s", 2) as store:
        say(store, "anna", lambda key, showing: "skip")
    assert cli.main(["label", "export", str(tmp_path / "s"), "--out", str(tmp_path / "p.npz")]) == 0
    assert "warning: nobody could tell anything: all weights are 0" in capsys.readouterr().err
    assert not load_preferences(tmp_path / "p.npz").weights.any()
