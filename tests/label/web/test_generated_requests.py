"""Thousands of requests, good and bad, of several people at once: none fails, is lost, or is stored twice."""

import json
import random
import socket
import sqlite3
import threading
import uuid
from contextlib import closing
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from labelling_server import NAMES, Person, Reply, Site, answer_body, clip, enter_all, segment, serving

from prefrl.label.records import Item, NewQuestion, StudySettings
from prefrl.label.store import LabelStore

VALUES = ("left", "right", "tie", "skip")

REFUSALS = (400, 403, 404, 405, 411, 413, 415, 416, 421)


class Generated:
    """What one person sends, drawn by a seed, and a list of the answers that must stand by now."""

    def __init__(self, person: Person, seed: int, others: list[int]) -> None:
        self.person, self.others = person, others
        self.second = Person(person.site, person.secret)
        self.rng = random.Random(seed)
        self.tabs: list[list[dict[str, Any]]] = [[], []]
        self.standing: list[tuple[str, int, str]] = []
        self.answered: list[dict[str, Any]] = []
        self.undone: list[str] = []
        self.seen: set[int] = set()
        self.statuses: dict[int, int] = {}

    def act(self) -> None:
        """Send one request, or what belongs together."""
        actions = (self.ask, self.answer, self.send_again, self.answer_twice, self.undo, self.undo_again,
                   self.bad, self.look, self.hang_up, self.answer_for_another)  # fmt: skip
        self.rng.choices(actions, (20, 30, 6, 4, 10, 3, 20, 5, 4, 3))[0]()

    def noted(self, reply: Reply, *allowed: int) -> Any:
        self.statuses[reply.status] = self.statuses.get(reply.status, 0) + 1
        assert reply.status in allowed, reply
        return reply.json if reply.headers["content-type"] == "application/json" else None

    def ask(self) -> None:
        tab = self.rng.choice(self.tabs)
        found = self.noted(self.person.post("/api/next", {"held": [one["id"] for one in tab]}), 200)
        assert (found["showing"] is None) == (found["state"] != "ready")
        if found["showing"] is not None:
            self.show(tab, found["showing"])

    def show(self, tab: list[dict[str, Any]], showing: dict[str, Any]) -> None:
        assert showing["id"] not in self.seen  # a showing is somebody's, once
        self.seen.add(showing["id"])
        self.others.append(showing["id"])
        tab.append(showing)

    def drawn(self) -> dict[str, Any] | None:
        """Return the body of an answer to what one of the tabs shows."""
        tab = self.rng.choice(self.tabs)
        if not tab:
            return None
        showing = tab.pop(self.rng.randrange(len(tab)))
        return answer_body(showing["id"], self.rng.choice(VALUES), self.fresh())

    def fresh(self) -> str:
        """Return the id of a request."""
        return str(uuid.UUID(int=self.rng.getrandbits(128)))

    def stand(self, body: dict[str, Any]) -> None:
        self.standing.append((body["request"], body["showing"], body["value"]))
        self.answered.append(body)

    def answer(self) -> None:
        if (body := self.drawn()) is None:
            return self.ask()
        found = self.noted(self.person.post("/api/answer", body), 200)
        if found["stored"]:
            assert not found["duplicate"]
            self.stand(body)
        return None

    def send_again(self) -> None:
        """Send what was sent before, as it was, or with another value, or under another id."""
        if not self.answered:
            return
        body, how = self.rng.choice(self.answered[-30:]), self.rng.randrange(3)
        if how == 0:
            found = self.noted(self.person.post("/api/answer", body), 200)
            assert (found["stored"], found["duplicate"]) == (True, True)
        elif how == 1:
            value = self.rng.choice([value for value in VALUES if value != body["value"]])
            self.noted(self.person.post("/api/answer", {**body, "value": value}), 400)
        else:
            other = answer_body(body["showing"], self.rng.choice(VALUES))
            found = self.noted(self.person.post("/api/answer", other), 200)
            assert (found["stored"], found["duplicate"]) == (False, True)

    def answer_twice(self) -> None:
        """Send one answer on two connections at the same time."""
        if (body := self.drawn()) is None:
            return
        replies: list[Any] = []
        thread = threading.Thread(target=lambda: replies.append(self.second.post("/api/answer", body)))
        thread.start()
        replies.append(self.person.post("/api/answer", body))
        thread.join()
        found = [self.noted(reply, 200) for reply in replies]
        assert sum(reply["stored"] and not reply["duplicate"] for reply in found) <= 1
        if any(reply["stored"] for reply in found):
            assert all(reply["stored"] for reply in found)
            self.stand(body)

    def hang_up(self) -> None:
        """Send an answer and do not wait; send it again until it has arrived."""
        if (body := self.drawn()) is None:
            return
        text = json.dumps(body).encode()
        headers = {
            "Cookie": f"{self.person.site.cookie}={self.person.secret}",
            "Origin": f"http://{self.person.site.host}",
            "Content-Type": "application/json",
            "Content-Length": str(len(text)),
        }
        sent = self.person.site.head("POST", "/api/answer", headers) + text
        with socket.create_connection(("127.0.0.1", self.person.site.port)) as connection:
            connection.sendall(sent[: self.rng.choice((len(sent), len(sent) - 5))])
        if self.noted(self.person.post("/api/answer", body), 200)["stored"]:
            self.stand(body)

    def undo(self) -> None:
        request = self.fresh()
        found = self.noted(self.person.post("/api/undo", {"request": request}), 200)["showing"]
        if not self.standing:
            assert found is None
            return
        _, _, value = self.standing.pop()
        assert found["previous"] == value
        self.undone.append(request)
        self.show(self.rng.choice(self.tabs), found)

    def undo_again(self) -> None:
        if self.undone:
            self.noted(self.person.post("/api/undo", {"request": self.rng.choice(self.undone[-10:])}), 200)

    def look(self) -> None:
        paths = ("/", "/api/study", "/page.js", f"/clip/{clip(0).digest}")
        headers = self.rng.choice(({}, {"Range": f"bytes={self.rng.randrange(3_000)}-"}))
        self.noted(self.person.get(self.rng.choice(paths), **headers), 200, 206, 416)

    def answer_for_another(self) -> None:
        strange = [number for number in self.others[-50:] if number not in self.seen]
        if strange:
            body = answer_body(self.rng.choice(strange), "left")
            self.noted(self.person.post("/api/answer", body), 404)

    def bad(self) -> None:
        """Send something that is wrong: in one value, in its bytes, in a header, or in its address."""
        body: Any = self.drawn_but_kept() or answer_body(1, "left")
        how = self.rng.randrange(4)
        if how == 0:
            name = self.rng.choice(list(body))
            body[name] = self.rng.choice(
                (None, -1, 1e300, "", "x" * 99, [], {}, [[[]]], True, "'; DROP TABLE a")
            )
            if name == "value" or body[name] == [] or (name == "request" and body[name] == "x" * 99):
                body["more"] = 1  # whatever it is now: it has a name too many
            self.noted(self.person.post("/api/answer", body), 400, 404)
        elif how == 1:
            text = bytearray(json.dumps({**body, "request": "short"}).encode())
            for _ in range(self.rng.randrange(1, 6)):
                text[self.rng.randrange(len(text))] = self.rng.randrange(256)
            path = self.rng.choice(("/api/answer", "/api/next", "/api/hold", "/api/undo"))
            self.noted(self.person.ask("POST", path, bytes(text)), 400, 404)
        elif how == 2:
            wrong = self.rng.choice((
                {"Origin": "http://evil.example"}, {"Origin": None}, {"Host": "evil.example"},
                {"Content-Type": "text/plain"}, {"Content-Type": None}, {"Sec-Fetch-Site": "cross-site"},
                {"Cookie": None},
                {"Cookie": f"{self.person.site.cookie}=" + 22 * "B"},
            ))  # fmt: skip
            self.noted(self.person.ask("POST", "/api/answer", json.dumps(body).encode(), wrong), *REFUSALS)
        else:
            path = "/" + "".join(self.rng.choices("abc/.%2e05clip?&=~;:'\"", k=self.rng.randrange(1, 60)))
            method = self.rng.choice(("GET", "PUT", "DELETE", "OPTIONS"))
            reply = self.person.ask(method, path)
            self.noted(reply, 200 if path.startswith("/?") and method == "GET" else 404, *REFUSALS)

    def drawn_but_kept(self) -> dict[str, Any] | None:
        """Return the body of an answer that is not given."""
        shown = [showing for tab in self.tabs for showing in tab]
        return answer_body(self.rng.choice(shown)["id"], "left") if shown else None


def make_store(folder: Path) -> LabelStore:
    """Return a study with all pairs of 60 segments, for two people each, with repeats and practice."""
    settings = StudySettings(annotators_per_question=2, repeat_every=7, practice=3, lease_seconds=3_600)
    store = LabelStore.create(folder, settings)
    segments = [segment(number) for number in range(60)]
    pairs = combinations([Item(segment=one.digest) for one in segments], 2)
    questions = [
        NewQuestion(pair, f"pair {number}", practice=number < 5) for number, pair in enumerate(pairs)
    ]
    store.post(segments, questions)
    for number, one in enumerate(segments):
        store.put_clip(one.digest, clip(number))
    return store


def check(store: LabelStore, generated: list[Generated]) -> None:
    """Compare the file with the lists."""
    with closing(sqlite3.connect(Path(store.folder) / "labels.sqlite3")) as connection:
        standing = {
            name: connection.execute(
                "SELECT request, showing, value FROM standing WHERE annotator = "
                "(SELECT id FROM annotator WHERE name = ?) ORDER BY id",
                (name,),
            ).fetchall()
            for name in NAMES
        }
        given = [row[0] for row in connection.execute("SELECT request FROM answer WHERE undoes IS NULL")]
        undone = [row[0] for row in connection.execute("SELECT request FROM answer WHERE undoes IS NOT NULL")]
        twice = connection.execute(
            "SELECT count(*) FROM standing GROUP BY annotator, question HAVING count(*) > 1"
        ).fetchall()
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    for one, name in zip(generated, NAMES, strict=True):
        assert standing[name] == one.standing
    assert sorted(given) == sorted(body["request"] for one in generated for body in one.answered)
    assert sorted(undone) == sorted(request for one in generated for request in one.undone)
    assert twice == []
    assert len(store.current()) == sum(len(one.standing) for one in generated)


def run_requests(store: LabelStore, site: Site, requests: int, seed: int) -> list[Generated]:
    """Let four people send so many requests, each on a thread; return what they did."""
    others: list[int] = []
    people = enter_all(store, site)
    generated = [Generated(person, seed + number, others) for number, person in enumerate(people)]
    errors: list[BaseException] = []

    def work(one: Generated) -> None:
        try:
            while sum(one.statuses.values()) < requests // len(people):
                one.act()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(one,)) for one in generated]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in generated:
        one.person.close()
        one.second.close()
    if errors:
        raise errors[0]
    return generated


@pytest.mark.parametrize("requests", [800, pytest.param(10_000, marks=pytest.mark.slow)])
def test_generated_requests(tmp_path: Path, requests: int, caplog: pytest.LogCaptureFixture) -> None:
    with make_store(tmp_path / "study") as store:
        with serving(store) as site:
            generated = run_requests(store, site, requests, seed=requests)
        check(store, generated)
    statuses: dict[int, int] = {}
    for one in generated:
        for status, count in one.statuses.items():
            statuses[status] = statuses.get(status, 0) + count
    assert sum(statuses.values()) >= requests
    assert max(statuses) < 500
    assert {200, 400, 403, 404, 405, 415, 421} <= set(statuses)
    assert sum(len(one.standing) for one in generated) > requests / 10
    assert sum(len(one.undone) for one in generated) > requests / 50
    assert caplog.text == ""  # no mistake of our own
