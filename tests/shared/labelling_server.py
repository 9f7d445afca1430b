"""A study with small clips, its server in this process, and people and raw sockets that ask it."""

import http.client
import io
import json
import random
import re
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from prefrl.label.records import Clip, Item, NewQuestion, StoredSegment, StudySettings
from prefrl.label.serve import LOOPBACK_NAMES
from prefrl.label.store import LabelStore
from prefrl.label.web.app import make_app
from prefrl.label.web.listening import Running, listening

NAMES = ("anna", "ben", "carl", "dora")


def segment(number: int) -> StoredSegment:
    """Return a segment of two transitions, another one for each number."""
    obs = np.full((3, 1), number, np.float32)
    arrays = {"obs": obs, "actions": np.zeros((2, 1), np.float32), "terminated": np.array(False)}
    return StoredSegment(arrays, frames=np.full((3, 16, 16, 3), number % 256, np.uint8))


def clip(number: int, size: int = 2_000) -> Clip:
    """Return a clip whose bytes are no film."""
    return Clip(random.Random(number).randbytes(size), "video/webm", 3, 16, 16, 30.0, "none")


def make_study(folder: Path, *, pairs: int = 6, ready: bool = True, **settings: Any) -> LabelStore:
    """Return the store of a new study of pairs, with clips."""
    store = LabelStore.create(folder, StudySettings(**settings))
    segments = [segment(number) for number in range(2 * pairs)]
    items = [Item(segment=found.digest) for found in segments]
    store.post(segments, [NewQuestion((items[2 * k], items[2 * k + 1]), f"pair {k}") for k in range(pairs)])
    for number, found in enumerate(segments):
        if ready:
            store.put_clip(found.digest, clip(number))
    return store


class Reply(NamedTuple):
    """An answer of HTTP."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """What is in the body."""
        return json.loads(self.body)


@dataclass
class Site:
    """Where a server can be asked."""

    port: int

    @property
    def host(self) -> str:
        """The header Host."""
        return f"127.0.0.1:{self.port}"

    @property
    def cookie(self) -> str:
        """Name of its cookie."""
        return f"prefrl_label_{self.port}"

    def raw(self, request: bytes, patience: float = 10.0) -> bytes:
        """Return all that is answered to some bytes until the server hangs up; the sending end is closed."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=patience) as connection:
            connection.sendall(request)
            parts = []
            while part := connection.recv(1 << 16):
                parts.append(part)
        return b"".join(parts)

    def ask(
        self, method: str, path: str, headers: dict[str, str] | None = None, body: bytes | None = None
    ) -> Reply:
        """Return what is answered to a request with just these headers, beside Host and its length."""
        given = dict(headers or {})
        if body is not None and "Transfer-Encoding" not in given:
            given.setdefault("Content-Length", str(len(body)))
        return parsed(self.raw(self.head(method, path, given) + (body or b"")), method)

    def head(self, method: str, path: str, headers: dict[str, str]) -> bytes:
        """Return the head of a request; a header without a value is left out."""
        given = {"Host": self.host, "Connection": "close", **headers}
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items() if value)]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    def enter(self, token: str) -> str:
        """Return the secret of the cookie that a link's token is exchanged for."""
        reply = self.ask("GET", f"/?token={token}")
        assert reply.status == 303, reply
        assert reply.headers["location"] == "/"
        found = re.match(rf"{self.cookie}=([A-Za-z0-9_-]+);", reply.headers["set-cookie"])
        assert found is not None
        return found[1]


def parsed(text: bytes, method: str = "GET") -> Reply:
    """Return the first answer in some bytes."""

    class _Once:
        def makefile(self, *_: Any) -> Any:
            return io.BytesIO(text)

    response = http.client.HTTPResponse(_Once(), method=method)  # type: ignore[arg-type]
    response.begin()
    headers = {name.lower(): value for name, value in response.getheaders()}
    return Reply(response.status, headers, response.read())


class Person:
    """Somebody with the cookie, on one connection that stays open."""

    def __init__(self, site: Site, secret: str) -> None:
        self.site, self.secret = site, secret
        self._connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=30)

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str | None] | None = None,
    ) -> Reply:
        """Return what is answered; headers replace what a page would send, None leaves one out."""
        given: dict[str, str | None] = {"Cookie": f"{self.site.cookie}={self.secret}"}
        if body is not None:
            given |= {"Origin": f"http://{self.site.host}", "Content-Type": "application/json"}
        given |= headers or {}
        sent = {name: value for name, value in given.items() if value is not None}
        self._connection.request(method, path, body, sent)
        response = self._connection.getresponse()
        found = {name.lower(): value for name, value in response.getheaders()}
        return Reply(response.status, found, response.read())

    def get(self, path: str, **headers: str) -> Reply:
        """Return what is answered to a GET."""
        return self.ask("GET", path, headers=dict(headers))

    def post(self, path: str, body: Any, **headers: str | None) -> Reply:
        """Return what is answered to JSON."""
        return self.ask("POST", path, json.dumps(body).encode(), dict(headers))

    def next(self, held: tuple[int, ...] = ()) -> Any:
        """Return what is asked next."""
        reply = self.post("/api/next", {"held": list(held)})
        assert reply.status == 200, reply
        return reply.json

    def answer(self, showing: int, value: Any, request: str | None = None) -> Reply:
        """Answer a showing."""
        return self.post("/api/answer", answer_body(showing, value, request))

    def close(self) -> None:
        """Hang up."""
        self._connection.close()


def answer_body(showing: int, value: Any, request: str | None = None) -> dict[str, Any]:
    """Return the body of an answer as a page sends it."""
    events = [{"kind": "play", "at_ms": 0}, {"kind": "pause", "at_ms": 250}]
    return {
        "request": request or str(uuid.uuid4()),
        "showing": showing,
        "value": value,
        "seconds": 1.5,
        "plays": 1,
        "events": events,
    }


@contextmanager
def serving(store: LabelStore) -> Iterator[Site]:
    """Serve a store in this process."""
    with listening("127.0.0.1", 0) as listener:
        app = make_app(store, allowed_hosts=LOOPBACK_NAMES)
        with Running(app, listener) as running:
            yield Site(running.port)


def enter_all(store: LabelStore, site: Site, names: tuple[str, ...] = NAMES) -> list[Person]:
    """Return people who have opened their links."""
    return [Person(site, site.enter(store.new_link(store.add_annotator(name)))) for name in names]
