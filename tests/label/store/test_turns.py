"""Who is shown what, and what becomes of answers."""

import json
import math
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from labelling_study import Clock, clip, make_study, pair, render, request, segment

from prefrl.label.records import Item, NewQuestion, Progress, Receipt
from prefrl.label.store import LabelStore


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def answer(store: LabelStore, who: int, showing: int, value: Any = "left", **more: Any) -> Receipt:
    given = {"seconds": 1.5, "plays": 1, **more}
    return store.answer(who, given.pop("request", request()), showing, value, **given)


def shown(store: LabelStore, who: int, **more: Any) -> Any:
    found = store.next(who, **more)
    assert found is not None
    return found


def test_sides_are_as_shown_and_answers_in_stored_places(tmp_path: Path) -> None:
    store = make_study(tmp_path / "s", 40 // 2)
    anna = store.add_annotator("anna").id
    orders = set()
    for _ in range(20):
        showing = shown(store, anna)
        clips = [item.clip for item in showing.items]
        answer(store, anna, showing.id, "right")
        found = store.current()[-1]
        orders.add(found.places)
        stored = [item.segment for item in found.items]
        preferred = stored[int(found.label or 0)]
        # The clip on the right is the one of the preferred segment.
        with sqlite3.connect(store.folder / "labels.sqlite3") as connection:
            (digest,) = connection.execute(
                "SELECT clip.digest FROM segment JOIN clip ON clip.id = clip WHERE segment.digest = ?",
                (preferred,),
            ).fetchone()
        connection.close()
        assert digest == clips[1]
    assert orders == {(0, 1), (1, 0)}  # a coin: equal 20 times in 2 of a million runs


def test_labels_by_hand_also_in_the_view(tmp_path: Path) -> None:
    store = make_study(tmp_path / "s")
    anna = store.add_annotator("anna").id
    for value in ("left", "right", "tie", "skip"):
        answer(store, anna, shown(store, anna).id, value)
    for found in store.current():
        expected = {"tie": 0.5, "skip": None}.get(found.value, "side")
        if expected == "side":
            expected = float(found.places[0 if found.value == "left" else 1])
        assert found.label == expected
        assert found.skip == (found.value == "skip")
    connection = sqlite3.connect(store.folder / "labels.sqlite3")
    rows = connection.execute("SELECT id, label FROM current ORDER BY id").fetchall()
    connection.close()
    assert rows == [(found.id, found.label) for found in store.current()]
    assert store.progress(anna) == Progress(3, 1, 2, 0)
    assert store.progress(anna).total == 6


def test_nobody_is_shown_what_another_looks_at_until_the_lease_is_over(tmp_path: Path, clock: Clock) -> None:
    store = make_study(tmp_path / "s", 1, lease_seconds=60)
    anna, ben = (store.add_annotator(name).id for name in ("anna", "ben"))
    first = shown(store, anna)
    assert store.next(ben) is None
    assert store.next(anna) is None  # another tab
    clock.turn(59)
    assert store.next(anna, held=[first.id]) is None  # renews
    clock.turn(59)
    assert store.next(ben) is None
    clock.turn(2)
    second = shown(store, ben)
    assert second.question == first.question
    store.next(anna, held=[first.id])  # too late to renew: ben has it
    assert answer(store, anna, first.id) == Receipt(stored=True, duplicate=False, late=True)
    assert answer(store, ben, second.id) == Receipt(stored=True, duplicate=False, late=False)
    assert [(found.annotator, found.late) for found in store.current()] == [("anna", True), ("ben", False)]


def test_an_expired_lease_is_renewed_where_nobody_else_looks(tmp_path: Path, clock: Clock) -> None:
    store = make_study(tmp_path / "s", 1, lease_seconds=60)
    anna = store.add_annotator("anna").id
    first = shown(store, anna)
    clock.turn(100)
    assert store.next(anna, held=[first.id]) is None
    assert not answer(store, anna, first.id).late


def test_as_many_people_as_wanted_answer_a_question(tmp_path: Path) -> None:
    store = make_study(tmp_path / "s", 1, annotators_per_question=2)
    people = [store.add_annotator(name).id for name in ("anna", "ben", "carl")]
    showings = [shown(store, who) for who in people[:2]]
    assert store.next(people[2]) is None  # two look at it
    answer(store, people[0], showings[0].id)
    assert store.next(people[2]) is None
    assert store.progress(people[2]) == Progress(0, 0, 1, 0)  # ben might not answer
    answer(store, people[1], showings[1].id, "right")
    assert store.next(people[2]) is None
    assert store.progress(people[2]) == Progress(0, 0, 0, 0)
    store.undo(people[1], request())
    assert store.progress(people[2]).left == 1


def test_two_tabs_and_a_reload(tmp_path: Path) -> None:
    store = make_study(tmp_path / "s", 4)
    anna = store.add_annotator("anna").id
    one, other = shown(store, anna, tab="tab-00001"), shown(store, anna, tab="tab-00002")
    assert one.question != other.question
    ahead = shown(store, anna, held=[one.id], tab="tab-00001")
    # After a reload the tab holds nothing, and gets the same again, sides and all.
    assert shown(store, anna, tab="tab-00001") == one
    assert shown(store, anna, held=[one.id], tab="tab-00001") == ahead
    answer(store, anna, one.id)
    assert shown(store, anna, tab="tab-00001") == ahead
    assert shown(store, anna, tab="tab-00002") == other


def test_a_question_that_two_tabs_show_is_answered_once(tmp_path: Path, clock: Clock) -> None:
    store = make_study(tmp_path / "s", 1)
    anna = store.add_annotator("anna").id
    first = shown(store, anna)
    clock.turn(1000)
    second = shown(store, anna)
    assert second.question == first.question
    assert answer(store, anna, second.id).stored
    assert answer(store, anna, first.id, "right") == Receipt(stored=False, duplicate=True, late=True)
    assert [found.value for found in store.current()] == ["left"]


def test_a_request_counts_once(tmp_path: Path) -> None:
    store = make_study(tmp_path / "s")
    anna, ben = (store.add_annotator(name).id for name in ("anna", "ben"))
    one, other = shown(store, anna), shown(store, anna)
    assert answer(store, anna, one.id, request="double-click-1") == Receipt(True, False, False)
    assert answer(store, anna, one.id, request="double-click-1") == Receipt(True, True, False)
    assert answer(store, anna, one.id, request="double-click-2") == Receipt(False, True, False)
    for who, showing, value in ((anna, other.id, "left"), (anna, one.id, "right")):
        with pytest.raises(ValueError, match="was used for something else"):
            answer(store, who, showing, value, request="double-click-1")
    with pytest.raises(ValueError, match="was used for something else"):
        store.undo(anna, "double-click-1")
    his = shown(store, ben)
    with pytest.raises(ValueError, match="was used for something else"):
        answer(store, ben, his.id, request="double-click-1")
    assert len(store.current()) == 1


def test_undo_of_any_depth_brings_questions_back_as_they_were_shown(tmp_path: Path) -> None:
    store = make_study(tmp_path / "s", 3)
    anna = store.add_annotator("anna").id
    showings = []
    for value in ("left", "tie", "skip"):
        showings.append(shown(store, anna))
        answer(store, anna, showings[-1].id, value)
    before = list(store.current())
    for showing, value in zip(showings[::-1], ("skip", "tie", "left"), strict=True):
        again = store.undo(anna, request())
        assert again is not None
        assert (again.question, again.items, again.previous) == (showing.question, showing.items, value)
        assert again.id != showing.id
    assert store.undo(anna, request()) is None
    assert store.current() == []
    assert store.next(anna) is None  # all three are on the screen again
    assert answer(store, anna, again.id, "right").stored
    assert answer(store, anna, showings[0].id, "right").duplicate  # the old showing is over
    totals = store.totals()
    assert (totals.answers, totals.undone, totals.showings) == (len(before) + 1, 3, 6)


def test_an_undo_counts_once(tmp_path: Path) -> None:
    store = make_study(tmp_path / "s", 3)
    anna = store.add_annotator("anna").id
    for _ in range(2):
        answer(store, anna, shown(store, anna).id)
    again = store.undo(anna, "undo-00001")
    assert again is not None
    assert store.undo(anna, "undo-00001") == again
    assert len(store.current()) == 1
    answer(store, anna, again.id, "right")
    assert store.undo(anna, "undo-00001") is None  # it came before, and the question is answered since
    assert len(store.current()) == 2
    with pytest.raises(ValueError, match="was used for something else"):
        answer(store, anna, again.id, request="undo-00001")


def test_practice_comes_first_and_only_as_often_as_said(tmp_path: Path) -> None:
    questions = [pair(0), pair(1), *(pair(n, practice=True) for n in (2, 3, 4))]
    store = make_study(tmp_path / "s", questions, practice=2, annotators_per_question=1)
    for name in ("anna", "ben"):  # each of them, however many answers are wanted of a question
        who = store.add_annotator(name).id
        found = [shown(store, who) for _ in range(2)]
        assert [showing.practice for showing in found] == [True, True]
        for showing in found:
            answer(store, who, showing.id)
        assert store.progress(who).answered == 0
        real = shown(store, who)
        assert not real.practice
        answer(store, who, real.id)
    assert [found.practice for found in store.current()] == [True, True, False] * 2


def test_repeats_have_their_sides_swapped_and_come_when_due(tmp_path: Path) -> None:
    store = make_study(tmp_path / "s", 12, repeat_every=3)
    anna, ben = (store.add_annotator(name).id for name in ("anna", "ben"))
    answer(store, ben, shown(store, ben).id)  # counts for ben alone
    kinds = []
    for _ in range(11):
        showing = shown(store, anna)
        answer(store, anna, showing.id, "right")
        found = store.current()[-1]
        kinds.append(found.repeat_of)
        if found.repeat_of is not None:
            (first,) = [row for row in store.current()
                        if row.question == found.repeat_of and row.annotator == "anna"]  # fmt: skip
            assert found.places == first.places[::-1]
            assert found.key == first.key
            assert found.items == first.items
            assert found.label == 1.0 - (first.label or 0.0)
            assert first.id != found.id - 1  # not what was answered just before
    due = [place for place, repeat in enumerate(kinds) if repeat is not None]
    assert due == [3, 7]
    assert len({repeat for repeat in kinds if repeat is not None}) == 2
    assert store.totals().repeats == 2
    assert len(store.questions()) == 12
    assert store.progress(anna).answered == 9


def test_a_repeat_whose_lease_ended_comes_again_and_one_of_an_undone_answer_does_not(
    tmp_path: Path, clock: Clock
) -> None:
    store = make_study(tmp_path / "s", 8, repeat_every=1)
    anna = store.add_annotator("anna").id
    answer(store, anna, shown(store, anna).id)
    repeat = shown(store, anna)
    clock.turn(1000)
    again = shown(store, anna)
    assert again.question == repeat.question
    assert store.totals().repeats == 1
    clock.turn(1000)
    assert store.undo(anna, request()) is not None
    other = shown(store, anna)
    answer(store, anna, other.id)
    # A repeat is due, of this one: what the first repeats has no answer any more.
    another = shown(store, anna)
    assert another.question != repeat.question
    answer(store, anna, another.id)
    assert store.current()[-1].repeat_of == other.question


def test_checks_are_asked_of_everybody(tmp_path: Path) -> None:
    store = make_study(tmp_path / "s", [pair(0, check_answer="second")], annotators_per_question=1)
    for name, right in (("anna", True), ("ben", False)):
        who = store.add_annotator(name).id
        showing = shown(store, who)
        (row,) = store.questions()
        connection = sqlite3.connect(store.folder / "labels.sqlite3")
        (places,) = connection.execute("SELECT places FROM showing WHERE id = ?", (showing.id,)).fetchone()
        connection.close()
        side = ("left", "right")[json.loads(places).index(1)]
        answer(store, who, showing.id, side if right else "skip")
        assert row.check_answer == "second"
    assert [found.check for found in store.current()] == [True, False]


def test_rankings_and_ratings(tmp_path: Path) -> None:
    ranking = NewQuestion(tuple(Item(segment(n).digest) for n in range(4)), "r0")
    store = make_study(tmp_path / "r", [ranking], kind="ranking")
    anna = store.add_annotator("anna").id
    showing = shown(store, anna)
    for wrong in ([[0, 1], [2]], [[0], [1], [2], [3], []], [[0, 0], [1], [2, 3]], [[True], [0], [2], [3]],
                  [0, 1, 2, 3], "left", [[0, 1, 2, 4]], [[0.0, 1, 2, 3]], None, {},
                  [["0"], [1], [2], [3]]):  # fmt: skip
        with pytest.raises(ValueError, match="value is"):
            answer(store, anna, showing.id, wrong)
    answer(store, anna, showing.id, [[2], [0, 3], [1]])
    (found,) = store.current()
    places = found.places
    assert found.ranking == ((places[2],), tuple(sorted((places[0], places[3]))), (places[1],))
    assert found.label is None
    again = store.undo(anna, request())
    assert again is not None
    assert again.previous == [[2], [0, 3], [1]]

    rating = NewQuestion((Item(segment(0).digest),), "q", check_answer="4")
    store = make_study(tmp_path / "q", [rating], kind="rating", ratings=7)
    anna = store.add_annotator("anna").id
    showing = shown(store, anna)
    for wrong in (0, 8, 3.0, "3", True, None, [3], math.nan):
        with pytest.raises(ValueError, match="whole number from 1 to 7"):
            answer(store, anna, showing.id, wrong)
    answer(store, anna, showing.id, 4)
    assert (store.current()[0].rating, store.current()[0].check) == (4, True)


def test_factors_need_no_clips(tmp_path: Path) -> None:
    question = NewQuestion(tuple(Item(factor=name) for name in ("speed", "energy", "<b>")), "f")
    store = make_study(tmp_path / "s", [question], kind="ranking")
    anna = store.add_annotator("anna").id
    assert {item.factor for item in shown(store, anna).items} == {"speed", "energy", "<b>"}


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        *(("seconds", value) for value in (math.nan, math.inf, -0.1, 86_400.1, "1", None, True, 10**30, [1])),
        *(("plays", value) for value in (-1, 1.0, "1", None, True, 10**30)),
        *(("request", value) for value in ("", "short", "x" * 65, "a b c d e f", "'; DROP TABLE answer; --",
                                           None, 12345678, "ä" * 10, "request\n01")),
        *(("value", value) for value in ("LEFT", "undo", "", None, 0, True, [], {}, "left ", math.nan,
                                         "left'; --")),
        *(("events", value) for value in (None, {}, [1], [{"kind": "play"}], [{"kind": "jump", "at_ms": 1}],
                                          [{"kind": "play", "at_ms": -1}],
                                          [{"kind": "play", "at_ms": 10**30}],
                                          [{"kind": "play", "at_ms": 1.5}], [{"kind": [], "at_ms": 1}],
                                          [{"kind": "play", "at_ms": 1, "x": 1}],
                                          [{"kind": "play", "at_ms": 1}] * 2001)),
    ],
)  # fmt: skip
def test_wrong_answers_are_refused_and_leave_nothing(tmp_path: Path, name: str, wrong: Any) -> None:
    store = make_study(tmp_path / "s", 1)
    anna = store.add_annotator("anna").id
    showing = shown(store, anna)
    given = {"request": request(), "value": "left", "seconds": 1.0, "plays": 0, "events": (), name: wrong}
    with pytest.raises(ValueError, match=name):
        store.answer(anna, showing=showing.id, **given)
    assert store.totals().answers == 0
    assert answer(store, anna, showing.id).stored


@pytest.mark.parametrize("wrong", [0, -1, 10**30, 1 << 63, 1.0, "1", None, True, math.nan])
def test_wrong_showings_are_refused(tmp_path: Path, wrong: Any) -> None:
    store = make_study(tmp_path / "s", 1)
    anna = store.add_annotator("anna").id
    with pytest.raises(ValueError, match="showing"):
        answer(store, anna, wrong)
    with pytest.raises(ValueError, match="held"):
        store.next(anna, held=[wrong])


def test_what_is_somebody_elses_is_not_found(tmp_path: Path) -> None:
    store = make_study(tmp_path / "s", 2)
    anna, ben = (store.add_annotator(name).id for name in ("anna", "ben"))
    showing = shown(store, anna)
    with pytest.raises(LookupError, match="of this annotator"):
        answer(store, ben, showing.id)
    with pytest.raises(LookupError, match="of this annotator"):
        answer(store, ben, (1 << 63) - 1)
    store.next(ben, held=[showing.id])  # renews nothing of hers
    for stranger in (99, 0, 10**30, "1", None):
        with pytest.raises(LookupError, match="no annotator"):
            store.next(stranger)  # type: ignore[arg-type]
    for tab in (None, 1, "a", "x" * 65):
        with pytest.raises(ValueError, match="tab is"):
            store.next(anna, tab=tab)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="held must be"):
        store.next(anna, held=range(101))


def test_questions_open_when_all_their_clips_are_there(tmp_path: Path) -> None:
    questions = [pair(0), pair(1, priority=2.0), pair(2, practice=True)]
    store = make_study(tmp_path / "s", questions, rendered=False, practice=1)
    anna = store.add_annotator("anna").id
    assert store.progress(anna) == Progress(0, 0, 0, 2)
    order = [segment(number).digest for number in (4, 5, 2, 3, 0, 1)]
    assert [found.digest for found in store.unrendered(10)] == order
    for number, digest in enumerate(order[:3]):
        assert number == 2 or store.next(anna) is None
        store.put_clip(digest, clip(number))
    store.put_clip(order[3], clip(0))  # the same film as another segment's
    assert [row.ready for row in store.questions()] == [False, True, True]
    first = shown(store, anna)
    assert first.practice
    answer(store, anna, first.id)
    found = shown(store, anna)
    assert [found.items[side].clip for side in (0, 1)].count(clip(0).digest) == 1
    render(store)
    assert store.progress(anna) == Progress(0, 0, 2, 0)


def test_leases_are_renewed_without_a_further_question(tmp_path: Path, clock: Clock) -> None:
    store = make_study(tmp_path / "s", 2, lease_seconds=60)
    anna, ben = (store.add_annotator(name).id for name in ("anna", "ben"))
    held = [shown(store, anna).id, shown(store, anna).id]
    for _ in range(3):
        clock.turn(50)
        store.renew(anna, held)
        assert store.next(ben) is None
    clock.turn(61)
    other = shown(store, ben)
    store.renew(anna, held)  # too late for the one that ben looks at, and not for the other
    assert store.next(ben, [other.id]) is None
    with pytest.raises(ValueError, match="held must be a list of at most 100 showings"):
        store.renew(anna, [1] * 101)
    with pytest.raises(ValueError, match="a showing that is held is '1'"):
        store.renew(anna, ["1"])  # type: ignore[list-item]


def test_practice_tells_afterwards_what_was_expected_and_checks_never_do(tmp_path: Path) -> None:
    asked = [
        pair(0, practice=True, check_answer="second"),
        pair(1, practice=True),
        pair(2, check_answer="second"),
    ]
    store = make_study(tmp_path / "s", asked, practice=2)
    expected = []
    for name, right in (("anna", True), ("ben", False)):
        who = store.add_annotator(name).id
        for _ in asked:
            found = shown(store, who)
            places = json.loads(store_places(store, found.id))
            value = "right" if (places[1] == 1) == right else "left"
            once = request()
            receipts = [answer(store, who, found.id, value, request=once) for _ in range(2)]
            assert receipts[0].expected == receipts[1].expected  # sent again
            expected.append(receipts[0].expected)
        undone = store.undo(who, request())
        assert undone is not None
    assert expected == [True, None, None, False, None, None]


def store_places(store: LabelStore, showing: int) -> str:
    with store._connections.reading() as connection:
        return str(connection.execute("SELECT places FROM showing WHERE id = ?", (showing,)).fetchone()[0])
