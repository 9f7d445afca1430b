"""What the page is told, and what becomes of what it sends, over a server that listens."""

import errno
import sqlite3
import threading
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from labelling_server import Person, answer_body, clip, enter_all, make_study, segment, serving

from prefrl.label.records import Item, NewQuestion, StudySettings
from prefrl.label.store import LabelStore
from prefrl.label.web.app import page_files


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LabelStore]:
    with make_study(tmp_path / "study", pairs=4, instructions="Look <b>well</b>.") as made:
        yield made


@pytest.fixture
def people(store: LabelStore) -> Iterator[list[Person]]:
    with serving(store) as site:
        found = enter_all(store, site)
        yield found
        for person in found:
            person.close()


def counts(answered: int, left: int, *, skipped: int = 0, waiting: int = 0) -> dict[str, int]:
    total = answered + skipped + left + waiting
    return {"answered": answered, "skipped": skipped, "left": left, "waiting": waiting, "total": total}


def test_the_page_is_sent_with_its_kinds(people: list[Person]) -> None:
    kinds = {"css": "text/css", "html": "text/html", "js": "text/javascript", "svg": "image/svg+xml"}
    assert {"/", "/page.js", "/page.css", "/favicon.svg"} <= set(page_files())
    for path, (content, kind) in page_files().items():
        reply = people[0].get(path)
        assert (reply.status, reply.body, reply.headers["content-type"]) == (200, content, kind)
        assert kind.startswith(kinds["html" if path == "/" else path.rpartition(".")[2]])


def test_the_study_is_told(people: list[Person]) -> None:
    found = people[1].get("/api/study").json
    assert found.pop("study").isdigit()
    assert found == {
        "name": "ben",
        "lease_seconds": 120,
        "question": "Which of the two does better?",
        "instructions": "Look <b>well</b>.",
        "kind": "pair",
        "ratings": 5,
        "watch": "once",
        "total": 4,
    }


def test_a_question_is_asked_answered_and_counted(store: LabelStore, people: list[Person]) -> None:
    anna = people[0]
    found = anna.next()
    assert (found["state"], found["progress"]) == ("ready", counts(0, 4))
    showing = found["showing"]
    assert {key: showing[key] for key in ("kind", "practice", "previous")} == {
        "kind": "pair",
        "practice": False,
        "previous": None,
    }
    media = {clip(number).media for number in range(8)}
    for item in showing["items"]:
        assert anna.get(item["clip"]).body in media
        expected = {"mime": "video/webm", "frames": 3, "fps": 30.0, "width": 16, "height": 16}
        assert {name: item[name] for name in expected} == expected
    reply = anna.answer(showing["id"], "left").json
    said = {"stored": True, "duplicate": False, "late": False, "expected": None}
    assert reply == {**said, "progress": counts(1, 3)}
    (stored,) = store.current()
    assert (stored.annotator, stored.value, stored.seconds, stored.plays) == ("anna", "left", 1.5, 1)
    digests = [store.segment(str(item.segment)).digest for item in stored.items]
    shown_first = digests[stored.places[0]]
    assert showing["items"][0]["clip"] in {
        f"/clip/{clip(number).digest}" for number in range(8) if segment(number).digest == shown_first
    }


def test_a_request_that_is_sent_again_is_a_duplicate(store: LabelStore, people: list[Person]) -> None:
    showing = people[0].next()["showing"]["id"]
    body = answer_body(showing, "right")
    replies = [people[0].post("/api/answer", body).json for _ in range(3)]
    assert [reply["duplicate"] for reply in replies] == [False, True, True]
    assert all(reply["stored"] for reply in replies)
    again = (
        people[0].answer(showing, "left").json
    )  # another request for what is answered, as of a double click
    assert (again["stored"], again["duplicate"]) == (False, True)
    assert (
        people[0].post("/api/answer", {**body, "value": "left"}).status == 400
    )  # the request of another answer
    assert people[1].post("/api/answer", body).status == 404
    assert [answer.value for answer in store.current()] == ["right"]


def test_one_answer_on_many_connections_at_once_is_stored_once(
    store: LabelStore, people: list[Person]
) -> None:
    showing = people[0].next()["showing"]["id"]
    body = answer_body(showing, "tie")
    clones = [Person(people[0].site, people[0].secret) for _ in range(8)]
    found: list[Any] = []
    threads = [
        threading.Thread(target=lambda one=one: found.append(one.post("/api/answer", body).json))
        for one in clones
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(reply["duplicate"] for reply in found) == [False] + 7 * [True]
    assert len(store.current()) == 1
    for clone in clones:
        clone.close()


def test_undo_brings_questions_back_one_by_one(store: LabelStore, people: list[Person]) -> None:
    anna = people[0]
    shown = []
    for value in ("left", "skip", "tie"):
        shown.append(anna.next()["showing"])
        anna.answer(shown[-1]["id"], value)
    request = str(uuid.uuid4())
    for expected, value in zip(reversed(shown), ("tie", "skip", "left"), strict=True):
        request = str(uuid.uuid4())
        reply = anna.post("/api/undo", {"request": request}).json
        assert reply["showing"]["items"] == expected["items"]
        assert reply["showing"]["previous"] == value
        assert anna.post("/api/undo", {"request": request}).json["showing"] == reply["showing"]
    assert reply["progress"] == counts(0, 4)
    assert anna.post("/api/undo", {"request": str(uuid.uuid4())}).json["showing"] is None
    assert store.current() == []


def test_tabs_get_different_questions_and_a_reload_the_same(people: list[Person]) -> None:
    anna = people[0]
    tabs = [str(uuid.uuid4()) for _ in range(2)]
    first, second = (anna.post("/api/next", {"held": [], "tab": tab}).json["showing"] for tab in tabs)
    assert first["id"] != second["id"]
    assert anna.post("/api/next", {"held": [], "tab": tabs[0]}).json["showing"] == first
    third = anna.post("/api/next", {"held": [first["id"]], "tab": tabs[0]}).json["showing"]
    assert third["id"] not in (first["id"], second["id"])
    assert anna.post("/api/next", {"held": [], "tab": "x"}).status == 400


def test_states_from_ready_over_waiting_to_finished(tmp_path: Path) -> None:
    with make_study(tmp_path / "study", pairs=2, ready=False) as store, serving(store) as site:
        anna, ben = enter_all(store, site, ("anna", "ben"))
        with closing(anna), closing(ben):
            found = anna.next()
            assert (found["showing"], found["state"]) == (None, "waiting")
            assert found["progress"] == counts(0, 0, waiting=2)
            for number in range(4):
                store.put_clip(segment(number).digest, clip(number))
            shown = [anna.next()["showing"], anna.next()["showing"]]
            assert ben.next()["state"] == "waiting"  # anna looks at them now, and may leave them
            for showing in shown:
                anna.answer(showing["id"], "left")
            for person in (anna, ben):
                found = person.next()
                assert (found["showing"], found["state"]) == (None, "finished")


RANKED = StudySettings(kind="ranking")


@pytest.mark.parametrize(
    ("settings", "items", "good", "bad"),
    [
        (StudySettings(kind="rating"), 1, (1, 5, "skip"), (0, 6, "left", 1.0, [1])),
        (RANKED, 3, ([[2], [0, 1]], [[0, 1, 2]], "skip"), ([[0], [1]], [[0], [0], [1]], [[0, 1, 3]], 1)),
    ],
)
def test_other_kinds(tmp_path: Path, settings: StudySettings, items: int, good: Any, bad: Any) -> None:
    with LabelStore.create(tmp_path / "study", settings) as store:
        segments = [segment(number) for number in range(items * len(good))]
        groups = [segments[start : start + items] for start in range(0, len(segments), items)]
        questions = [
            NewQuestion(tuple(Item(segment=one.digest) for one in group), f"q{number}")
            for number, group in enumerate(groups)
        ]
        store.post(segments, questions)
        for number, one in enumerate(segments):
            store.put_clip(one.digest, clip(number))
        with serving(store) as site, closing(enter_all(store, site, ("anna",))[0]) as anna:
            for value in good:
                showing = anna.next()["showing"]
                assert len(showing["items"]) == items
                assert [anna.answer(showing["id"], wrong).status for wrong in bad] == [400] * len(bad)
                assert anna.answer(showing["id"], value).status == 200
        assert len(store.current()) == len(good)


def test_factors_are_shown_by_name(tmp_path: Path) -> None:
    with LabelStore.create(tmp_path / "study", RANKED) as store:
        names = ("speed", "comfort <i>", "safety")
        store.post([], [NewQuestion(tuple(Item(factor=name) for name in names), "factors")])
        with serving(store) as site, closing(enter_all(store, site, ("anna",))[0]) as anna:
            showing = anna.next()["showing"]
            assert sorted(item["factor"] for item in showing["items"]) == sorted(names)
            assert all(list(item) == ["factor"] for item in showing["items"])


def test_others_are_answered_while_somebody_writes(store: LabelStore, people: list[Person]) -> None:
    """A write that waits for another process keeps up writes alone."""
    with store._connections.writing():
        waiting = threading.Thread(target=people[0].next)
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive()
        assert people[1].get("/api/study").status == 200
        assert people[1].get(f"/clip/{clip(0).digest}").status == 200
    waiting.join(10.0)
    assert not waiting.is_alive()


def test_our_own_mistakes_are_told_to_the_log_alone(
    store: LabelStore, people: list[Person], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise ZeroDivisionError("a secret")

    monkeypatch.setattr(store, "progress", broken)
    reply = people[0].get("/api/study?token=another-secret")
    assert reply.status == 500
    assert "secret" not in reply.body.decode()
    assert "default-src 'none'" in reply.headers["content-security-policy"]
    assert "ZeroDivisionError" in caplog.text
    assert "another-secret" not in caplog.text
    monkeypatch.undo()
    assert people[0].get("/api/study").status == 200


@pytest.mark.parametrize("error", [sqlite3.OperationalError("disk"), OSError(errno.ENOSPC, "full")], ids=repr)
def test_a_store_that_cannot_write_says_that_trying_again_may_help(
    error: Exception, store: LabelStore, people: list[Person], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> Any:
        raise error

    showing = people[0].next()["showing"]["id"]
    body = answer_body(showing, "left")
    monkeypatch.setattr(store, "answer", full)
    reply = people[0].post("/api/answer", body)
    assert (reply.status, reply.headers["retry-after"]) == (503, "1")
    monkeypatch.undo()
    assert people[0].post("/api/answer", body).json["stored"]


def test_what_is_on_view_is_held(people: list[Person]) -> None:
    anna, ben, *_ = people
    held = [anna.next()["showing"]["id"]]
    assert anna.post("/api/hold", {"held": held}).json == {}
    assert ben.post("/api/hold", {"held": held}).status == 200  # another's: nothing happens
    for body in ({}, {"held": 1}, {"held": ["1"]}, {"held": [1.5]}, {"held": held, "more": 1}):
        assert anna.post("/api/hold", body).status == 400
