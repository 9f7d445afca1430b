"""What is refused: every attack is made on a server that listens, mostly byte by byte."""

import json
import re
import socket
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from labelling_server import (
    Person,
    Site,
    answer_body,
    clip,
    make_study,
    parsed,
    segment,
    serving,
)

from prefrl.label.store import LabelStore
from prefrl.label.web.security import HEADERS, MOST_BYTES, Refusal, parse_json

POST = "/api/answer"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelStore]:
    folder = tmp_path_factory.mktemp("labels") / "study"
    with make_study(folder, pairs=100, annotators_per_question=100) as made:
        yield made


@pytest.fixture(scope="module")
def site(store: LabelStore) -> Iterator[Site]:
    with serving(store) as found:
        yield found


@pytest.fixture(scope="module")
def secret(store: LabelStore, site: Site) -> str:
    return site.enter(store.new_link(store.add_annotator("anna")))


@pytest.fixture
def person(site: Site, secret: str) -> Iterator[Person]:
    with closing(Person(site, secret)) as found:
        yield found


@pytest.fixture(scope="module")
def showing(store: LabelStore, site: Site, secret: str) -> int:
    """What anna is asked."""
    anna = store.add_annotator("anna")
    found = store.next(anna.id)
    assert found is not None
    return found.id


@pytest.fixture
def unchanged(store: LabelStore) -> Iterator[None]:
    """Fail if a test leaves an answer behind."""
    before = store.current()
    yield
    assert store.current() == before


def refused(reply: Any, status: int) -> str:
    """Return the sentence of a refusal."""
    assert reply.status == status, reply
    assert reply.headers["content-type"] == "application/json"
    assert list(reply.json) == ["error"]
    return str(reply.json["error"])


def write_headers(site: Site, secret: str, **more: str) -> dict[str, str]:
    """Return the headers of a write that is allowed, but for some; an empty one is left out."""
    own = {
        "Cookie": f"{site.cookie}={secret}",
        "Origin": f"http://{site.host}",
        "Content-Type": "application/json",
    }
    return own | {name.replace("_", "-"): value for name, value in more.items()}


# Who asks ------------------------------------------------------------------------------------------------

PATHS = (
    "/page.js",
    "/page.css",
    "/api/study",
    f"/clip/{clip(0).digest}",
    "/nothing",
    "/clip/x",
    "/index.html",
)


@pytest.mark.parametrize("path", PATHS)
def test_nothing_is_shown_without_the_cookie(site: Site, path: str) -> None:
    assert "link" in refused(site.ask("GET", path), 403)


@pytest.mark.parametrize(
    "cookie",
    [
        "{name}=" + 22 * "A",  # as long as a secret
        "{name}=",
        "{name}",
        "other={secret}",
        "{name}={secret}x",
        "{name}={short}",
        "{name}='; DROP TABLE answer; --",
        pytest.param("{name}=" + 10_000 * "A", id="long"),
        "{name}=\xff\xfe",
    ],
)
def test_a_wrong_cookie_is_none(site: Site, secret: str, cookie: str) -> None:
    sent = cookie.replace("{name}", site.cookie).replace("{secret}", secret).replace("{short}", secret[:-1])
    refused(site.ask("GET", "/api/study", {"Cookie": sent}), 403)
    reply = site.ask("GET", "/", {"Cookie": sent})
    assert (reply.status, reply.headers["content-type"]) == (403, "text/html; charset=utf-8")


def test_of_two_cookies_neither_is_believed(site: Site, secret: str) -> None:
    """Another server of this host may have set one of them, for a part of the paths."""
    for letter in "ABCDEFGHIJ":
        two = [f"{site.cookie}={secret}", f"{site.cookie}={22 * letter}"]
        for sent in ("; ".join(two), "; ".join(reversed(two))):
            refused(site.ask("GET", "/api/study", {"Cookie": sent}), 403)
    lines = f"Host: {site.host}\r\nCookie: {two[0]}\r\nCookie: {two[1]}\r\nConnection: close\r\n\r\n"
    assert parsed(site.raw(f"GET /api/study HTTP/1.1\r\n{lines}".encode())).status == 403


def test_the_right_cookie_is_found_among_others(site: Site, secret: str) -> None:
    sent = f"a=b; {site.cookie}={secret};c"
    assert site.ask("GET", "/api/study", {"Cookie": sent}).status == 200


def test_the_start_page_tells_strangers_about_the_link_and_nothing_else(site: Site) -> None:
    reply = site.ask("GET", "/")
    assert reply.status == 403
    assert b"prefrl label serve" in reply.body
    assert b"page.js" not in reply.body
    assert site.ask("GET", "/favicon.svg").status == 200


def test_a_link_opens_once(store: LabelStore, site: Site) -> None:
    token = store.new_link(store.add_annotator("opens once"))
    reply = site.ask("GET", f"/?token={token}")
    assert (reply.status, reply.headers["location"], reply.body) == (303, "/", b"")
    name, *attributes = reply.headers["set-cookie"].split("; ")
    assert {text.lower() for text in attributes} >= {"httponly", "samesite=strict", "path=/"}
    assert token not in name  # what the address bar and the history hold opens nothing
    cookie = {"Cookie": name}
    assert site.ask("GET", "/api/study", cookie).json["name"] == "opens once"
    again = site.ask("GET", f"/?token={token}")
    assert again.status == 403
    assert "set-cookie" not in again.headers
    # In the browser that it let in it leads to the page.
    assert site.ask("GET", f"/?token={token}", cookie).status == 303


@pytest.mark.parametrize(
    "token",
    ["", "x", 22 * "A", pytest.param(10_000 * "A", id="long"), "%00", "%FF", "'OR'1'='1", "a&token=b"],
)
def test_a_wrong_link_opens_nothing(site: Site, token: str) -> None:
    reply = site.ask("GET", f"/?token={token}")
    assert reply.status == 403
    assert "set-cookie" not in reply.headers


@pytest.mark.parametrize("method", ["HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "BREW"])
def test_other_methods_do_nothing(store: LabelStore, site: Site, secret: str, method: str) -> None:
    token = store.new_link(store.add_annotator(f"by {method}"))
    for path in (f"/?token={token}", "/api/study", "/favicon.svg"):
        reply = site.ask(method, path, write_headers(site, secret))
        assert (reply.status, reply.headers["allow"]) == (405, "GET, POST")
    assert site.enter(token)  # the link is not used up


def test_addresses_are_asked_the_way_they_are_meant(person: Person) -> None:
    assert person.get("/api/next").status == 405
    assert person.post("/api/study", {}).status == 405
    assert person.post("/", {}).status == 405
    assert person.post("/nothing", {}).status == 404


# Where the request comes from ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:{port}",
        "127.0.0.1.evil.example",
        "localhost.evil.example:{port}",
        "evil.example@127.0.0.1",
        "127.0.0.1:{port}, evil.example",
        "127.0.0.1:{port}/evil.example",
        "127.0.0.1:port",
        "0.0.0.0:{port}",
        "127.1:{port}",
        "2130706433",
        "[::1",
        "::1",
        "\xff",
    ],
)
def test_a_foreign_host_is_refused(site: Site, secret: str, host: str) -> None:
    host = host.replace("{port}", str(site.port))
    for path in ("/", "/api/study", "/favicon.svg"):
        headers = {"Host": host, "Cookie": f"{site.cookie}={secret}"}
        refused(site.ask("GET", path, headers), 421)
    own = {**write_headers(site, secret), "Host": host, "Origin": f"http://{host}"}
    refused(site.ask("POST", "/api/next", own, b'{"held": []}'), 421)


def test_a_link_is_not_used_up_under_a_foreign_host(store: LabelStore, site: Site) -> None:
    token = store.new_link(store.add_annotator("rebound"))
    assert site.ask("GET", f"/?token={token}", {"Host": "evil.example"}).status == 421
    assert site.enter(token)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost:{port}", "LocalHost", "[::1]:{port}", "localhost:1"]
)
def test_names_of_this_machine_are_taken(site: Site, secret: str, host: str) -> None:
    host = host.replace("{port}", str(site.port))
    headers = {"Host": host, "Cookie": f"{site.cookie}={secret}"}
    assert site.ask("GET", "/api/study", headers).status == 200
    own = {**write_headers(site, secret), "Host": host, "Origin": f"http://{host}"}
    assert site.ask("POST", "/api/next", own, b'{"held": []}').status == 200


def test_a_request_without_a_host_is_refused(site: Site) -> None:
    assert parsed(site.raw(b"GET / HTTP/1.1\r\n\r\n")).status == 400
    assert parsed(site.raw(b"GET / HTTP/1.0\r\n\r\n")).status == 421
    two = f"GET / HTTP/1.1\r\nHost: {site.host}\r\nHost: evil.example\r\n\r\n"
    assert parsed(site.raw(two.encode())).status == 400
    absolute = f"GET http://evil.example/ HTTP/1.1\r\nHost: {site.host}\r\nConnection: close\r\n\r\n"
    assert parsed(site.raw(absolute.encode())).status in (403, 404)


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    "origin",
    [
        "",
        "null",
        "http://evil.example",
        "http://127.0.0.1",  # another port of this machine
        "http://127.0.0.1:1",
        "http://localhost:{port}",  # the same server by another name than in Host
        "ftp://127.0.0.1:{port}",
        "http://127.0.0.1:{port}/",
        "http://127.0.0.1:{port}.evil.example",
        "http://127.0.0.1:{port} http://evil.example",
        "127.0.0.1:{port}",
    ],
)
def test_writes_of_other_origins_are_refused(site: Site, secret: str, origin: str) -> None:
    headers = write_headers(site, secret, Origin=origin.replace("{port}", str(site.port)))
    for path in ("/api/next", "/api/hold", POST, "/api/undo"):
        assert "own page" in refused(site.ask("POST", path, headers, b"{}"), 403)


@pytest.mark.parametrize("where", ["cross-site", "same-site"])
def test_pages_of_other_sites_may_not_even_read(site: Site, secret: str, where: str) -> None:
    headers = {"Cookie": f"{site.cookie}={secret}", "Sec-Fetch-Site": where}
    for path in ("/api/study", "/page.js", f"/clip/{clip(0).digest}"):
        refused(site.ask("GET", path, headers), 403)
    for own in ("same-origin", "none"):
        assert site.ask("GET", "/page.js", {**headers, "Sec-Fetch-Site": own}).status == 200


def test_who_comes_from_another_site_is_sent_on_by_the_page_itself(site: Site) -> None:
    """Such a browser keeps back cookies that are SameSite=Strict, right after the link too."""
    reply = site.ask("GET", "/", {"Sec-Fetch-Site": "cross-site"})
    assert reply.status == 200
    assert b'http-equiv="refresh" content="0;url=/"' in reply.body
    assert site.ask("GET", "/", {"Sec-Fetch-Site": "same-origin"}).status == 403  # and not in a circle


# Bodies --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    "kind",
    [
        "",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "text/plain",
        "text/json",
        "application/json-patch+json",
        "application/json; charset=utf-16",
        "application/json, text/plain",
    ],
)
def test_only_json_is_taken(site: Site, secret: str, kind: str) -> None:
    headers = write_headers(site, secret, Content_Type=kind)
    refused(site.ask("POST", POST, headers, b"request=1&showing=1&value=left"), 415)


def test_json_may_say_its_charset(site: Site, secret: str) -> None:
    headers = write_headers(site, secret, Content_Type="Application/JSON; charset=UTF-8")
    assert site.ask("POST", "/api/next", headers, b'{"held": []}').status == 200


@pytest.mark.usefixtures("unchanged")
def test_bodies_are_bounded(site: Site, secret: str, person: Person) -> None:
    headers = write_headers(site, secret, Content_Length=str(MOST_BYTES + 1))
    assert str(MOST_BYTES) in refused(site.ask("POST", POST, headers), 413)  # before a byte of it has come
    for size in (MOST_BYTES + 1, 3_000_000):
        refused(person.ask("POST", POST, b" " * size), 413)
    assert person.get("/api/study").status == 200
    refused(person.ask("POST", POST, b" " * MOST_BYTES), 400)  # it is read, and is no JSON
    huge = write_headers(site, secret, Content_Length=19 * "9")
    refused(site.ask("POST", POST, huge), 413)
    refused(site.ask("POST", POST, write_headers(site, secret)), 411)


@pytest.mark.usefixtures("unchanged")
def test_chunked_bodies_are_refused(site: Site, secret: str) -> None:
    chunked = write_headers(site, secret, Transfer_Encoding="chunked")
    long = b"1000\r\n" + 4096 * b" " + b"\r\n"
    refused(site.ask("POST", POST, chunked, b"2\r\n{}\r\n0\r\n\r\n"), 411)
    ends = f"0\r\n\r\nGET /favicon.svg HTTP/1.1\r\nHost: {site.host}\r\nConnection: close\r\n\r\n"
    found = site.raw(site.head("POST", POST, {**chunked, "Connection": ""}) + 500 * long + ends.encode())
    assert re.findall(rb"HTTP/1\.1 (\d+) ", found) == [b"411", b"200"]
    both = {**chunked, "Content-Length": "2"}  # of which one would be another request
    assert site.ask("POST", POST, both, b"2\r\n{}\r\n0\r\n\r\n").status in (400, 411)
    reply = site.ask("POST", POST, chunked, b"no length\r\n")
    assert reply.status in (400, 411)
    odd = write_headers(site, secret, Transfer_Encoding="gzip, chunked")
    assert site.ask("POST", POST, odd, b"2\r\n{}\r\n0\r\n\r\n").status in (400, 411, 501)


@pytest.mark.parametrize("length", ["-1", "+2", "2, 2", "2, 3", "0x2", "two", "1e3", "٢"])
def test_lengths_that_are_none(site: Site, secret: str, length: str) -> None:
    raw = length.encode().decode("latin-1")
    reply = site.ask("POST", "/api/next", write_headers(site, secret, Content_Length=raw), b"{}")
    assert reply.status == 400


def test_a_get_has_no_body(site: Site, secret: str) -> None:
    cookie = {"Cookie": f"{site.cookie}={secret}"}
    refused(site.ask("GET", "/api/study", cookie, b"{}"), 400)
    refused(site.ask("GET", "/api/study", {**cookie, "Transfer-Encoding": "chunked"}, b"0\r\n\r\n"), 411)


def test_a_body_that_ends_early_changes_nothing(
    site: Site, secret: str, store: LabelStore, showing: int
) -> None:
    body = json.dumps(answer_body(showing, "left")).encode()
    before = store.current()
    head = site.head("POST", POST, write_headers(site, secret, Content_Length=str(len(body))))
    with socket.create_connection(("127.0.0.1", site.port)) as connection:
        connection.sendall(head + body[:-1])
    assert site.ask("GET", "/favicon.svg").status == 200
    assert store.current() == before


NUMBERS = ("showing", "seconds", "plays")


def variants() -> Iterator[tuple[str, str]]:
    """Yield names and bodies of answers that are wrong in one place."""
    good = answer_body(1, "left", str(uuid.UUID(int=1)))

    def put(name: str, text: str) -> str:
        return json.dumps({**good, name: "HERE"}).replace('"HERE"', text)

    for name in NUMBERS:
        for wrong in ("NaN", "Infinity", "-Infinity", "1e999", '"1"', "true", "null", "[1]", "{}", "-1"):
            yield f"{name} {wrong}", put(name, wrong)
        for digits in ("9" * 30, "-" + "9" * 30, "9" * 5_000, "1e30", "0x1", "01", "1_000", "٣"):
            yield f"{name} {digits[:9]}", put(name, digits)
    for name in ("showing", "plays"):
        yield f"{name} is no whole number", put(name, "1.5")
    yield "seconds above a day", put("seconds", "86401")
    for name in good:
        yield f"without {name}", json.dumps({key: value for key, value in good.items() if key != name})
        yield f"{name} twice", json.dumps(good)[:-1] + f', "{name}": {json.dumps(good[name])}}}'
    yield "one name more", json.dumps({**good, "annotator": 2})
    yield "a huge name", json.dumps({**good, "x" * 30_000: 1})
    yield "__proto__", json.dumps({**good, "__proto__": {}})
    for wrong in (
        "'; DROP TABLE answer; --",
        "left' OR '1'='1",
        "LEFT",
        "",
        "undo",
        "\ud800",
        "\0",
        "x" * 50_000,
    ):
        yield f"value {wrong[:20]!a}", json.dumps({**good, "value": wrong})
        yield f"request {wrong[:20]!a}", json.dumps({**good, "request": wrong})
    for other in (None, True, 1.5, 3, -1, {}, [], [[]], [[0], [1]], [[0, 0]], ["left"], [[["left"]]], 10**17):
        yield f"value {other}", json.dumps({**good, "value": other})
    events: list[Any] = [{}, 1, "play", [{}], [1], [["play", 1]], [{"kind": "play"}], 5_000 * [None]]
    event = {"kind": "play", "at_ms": 1}
    wrong_events = (
        {"kind": "x"},
        {"kind": 1},
        {"at_ms": "1"},
        {"at_ms": -1},
        {"at_ms": 0.5},
        {"at_ms": 10**12},
        {"more": 1},
    )
    events += [[{**event, **wrong}] for wrong in wrong_events]
    for number, found in enumerate(events):
        yield f"events {number}", json.dumps({**good, "events": found})
    for depth in (100, 10_000, 30_000):
        yield f"{depth} lists", put("value", "[" * depth + "]" * depth)
        yield f"{depth} lists alone", "[" * depth
    yield "deep objects", '{"a":' * 10_000 + "1" + "}" * 10_000
    for text in ("", "null", "[]", "1", '"text"', "{", "{}{}", "{'a': 1}", '{"a": 1,}', "\ufeff{}", "\x00"):
        yield f"text {text!a}", text


VARIANTS = dict(variants())


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("name", VARIANTS)
def test_answers_that_are_wrong_in_one_place(person: Person, showing: int, name: str) -> None:
    body = VARIANTS[name].replace('"showing": 1,', f'"showing": {showing},')
    refused(person.ask("POST", POST, body.encode()), 400)


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "latin-1", "utf-7"])
def test_other_encodings_are_refused(person: Person, encoding: str) -> None:
    body = json.dumps({**answer_body(1, "left"), "ä": 1}, ensure_ascii=False)
    refused(person.ask("POST", POST, body.encode(encoding)), 400)


@pytest.mark.usefixtures("unchanged")
def test_showings_of_others_are_not_there(store: LabelStore, person: Person) -> None:
    other = store.add_annotator("somebody else")
    showing = store.next(other.id)
    assert showing is not None
    for number in (showing.id, 10**9, 10**18 - 1):
        refused(person.answer(number, "left"), 404)


@pytest.mark.parametrize(
    "body",
    [{}, {"held": None}, {"held": 1}, {"held": ["1"]}, {"held": [True]}, {"held": [-1]}, {"held": [1.5]},
     {"held": [0]}, {"held": list(range(1, 102))}, {"held": [], "annotator": 1}, {"held": [[1]]}],
)  # fmt: skip
def test_what_is_held_is_checked(person: Person, body: Any) -> None:
    refused(person.post("/api/next", body), 400)


def test_showings_of_others_may_be_said_to_be_held(store: LabelStore, person: Person) -> None:
    other = store.add_annotator("holds one")
    showing = store.next(other.id)
    assert showing is not None
    assert person.next(held=(showing.id, 10**9))["showing"] is not None


@pytest.mark.parametrize("body", [{}, {"request": 1}, {"request": "x"}, {"request": None}, {"showing": 1}])
def test_undo_is_checked(person: Person, body: Any) -> None:
    refused(person.post("/api/undo", body), 400)


NO_JSON = (
    '{"a": NaN}',
    '{"a": [Infinity]}',
    '{"a": -Infinity}',
    '{"a": 1e400}',
    '{"a": -1e999}',
    '{"a": 1, "a": 1}',
    '{"a": {"b": 1, "b": 2}}',
    '{"a": 1234567890123456789}',
    '{"a": -1234567890123456789}',
    '{"a": ' + 5_000 * "1" + "}",
    "[" * 100_000,
    '{"a":' * 100_000,
    "[1]",
    "null",
    "{",
    "",
)


@pytest.mark.parametrize("text", NO_JSON, ids=range(len(NO_JSON)))
def test_json_that_is_none(text: str) -> None:
    with pytest.raises(Refusal) as stop:
        parse_json(text.encode())
    assert stop.value.status == 400


def test_json_is_read_as_it_is() -> None:
    text = '{"a": [1, -2.5e3, 123456789012345678, true, null, "\\ud83d\\ude00"], "b": {"a": {}}}'
    assert parse_json(text.encode()) == json.loads(text)


# Clips ---------------------------------------------------------------------------------------------------

OUTSIDE = (
    "/clip/../labels.sqlite3",
    "/clip/..%2flabels.sqlite3",
    "/clip/%2e%2e/%2e%2e/etc/passwd",
    "/clip/..%5c..%5cetc%5cpasswd",
    "/clip//etc/passwd",
    "/clip/%2fetc%2fpasswd",
    "/clip/%00",
    "/clip/" + 64 * "0",
    "/clip/" + 64 * "z",
    "/clip/" + clip(0).digest.upper(),
    "/clip/" + clip(0).digest + "%00",
    "/clip/" + clip(0).digest + "%0a",
    "/clip/" + clip(0).digest + "/",
    "/clip/" + segment(0).digest,
    "/clip/1%20OR%201=1",
    "/clip/" + 200 * "a",
    "/../prefrl/label/web/app.py",
    "/page/index.html",
    "/index.html",
    "/page.js/",
    "/page.js%00.html",
    "//page.js",
    "/PAGE.JS",
    "/api/study/",
    "/labels.sqlite3",
    "/.git/config",
)


@pytest.mark.parametrize("path", OUTSIDE)
def test_nothing_lies_at_other_addresses(site: Site, secret: str, path: str) -> None:
    refused(site.ask("GET", path, {"Cookie": f"{site.cookie}={secret}"}), 404)


def test_clips_are_sent_whole_or_in_one_part(person: Person) -> None:
    media, path = clip(1).media, f"/clip/{clip(1).digest}"
    whole = person.get(path)
    assert (whole.status, whole.body, whole.headers["content-type"]) == (200, media, "video/webm")
    assert whole.headers["accept-ranges"] == "bytes"
    assert whole.headers["cache-control"] == "private, max-age=86400, immutable"
    size = len(media)
    for asked, first, last in (
        ("0-0", 0, 0),
        ("0-", 0, size - 1),
        ("5-9", 5, 9),
        ("-3", size - 3, size - 1),
        (f"{size - 1}-", size - 1, size - 1),
        ("7-999999999999999", 7, size - 1),
        ("-999999999999999", 0, size - 1),
    ):
        part = person.get(path, Range=f"bytes={asked}")
        assert (part.status, part.body) == (206, media[first : last + 1])
        assert part.headers["content-range"] == f"bytes {first}-{last}/{size}"
    assert person.ask("GET", path, headers={"Range": "bytes=0-0", "If-Range": '"x"'}).status == 200


@pytest.mark.parametrize(
    "asked",
    ["bytes=0-0,1-1", "bytes=" + ",".join(50 * ["0-"]), "bytes=5-4", "bytes=2000-", "bytes=-0", "bytes=-",
     "bytes=--1", "bytes=1-2-3", "bytes=0x0-1", "bytes=" + 30 * "9" + "-", "items=0-1", "0-1", "bytes=a-b",
     "bytes="],
)  # fmt: skip
def test_other_ranges_are_refused(person: Person, asked: str) -> None:
    reply = person.get(f"/clip/{clip(1).digest}", Range=asked)
    refused(reply, 416)
    assert reply.headers["content-range"] == "bytes */2000"


# What every answer carries -------------------------------------------------------------------------------


CARRIED = {
    "content-security-policy": HEADERS[b"content-security-policy"].decode(),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-embedder-policy": "require-corp",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


def test_every_answer_carries_the_headers(site: Site, secret: str, person: Person) -> None:
    cookie = {"Cookie": f"{site.cookie}={secret}"}
    replies = [
        site.ask("GET", "/"),
        site.ask("GET", "/", cookie),
        site.ask("GET", "/", {"Sec-Fetch-Site": "cross-site"}),
        site.ask("GET", "/?token=x", cookie),  # 303
        site.ask("GET", "/favicon.svg"),
        site.ask("GET", "/page.js"),
        site.ask("GET", "/page.js", cookie),
        site.ask("GET", "/nothing", cookie),
        site.ask("GET", "/", {"Host": "evil.example"}),
        site.ask("HEAD", "/"),
        person.get("/api/study"),
        person.get("/api/next"),
        person.post("/api/next", {"held": []}),
        person.post("/api/undo", {}),
        person.get(f"/clip/{clip(0).digest}"),
        person.get(f"/clip/{clip(0).digest}", Range="bytes=0-1"),
        person.get(f"/clip/{clip(0).digest}", Range="bytes=9999-"),
        parsed(site.raw(b"nonsense\r\n\r\n")),
        parsed(site.raw(b"GET / HTTP/1.1\r\nHost: x\r\n" + 40_000 * b"a" + b"\r\n\r\n")),
    ]
    assert {reply.status for reply in replies} == {200, 206, 303, 400, 403, 404, 405, 416, 421}
    for reply in replies:
        for name, value in CARRIED.items():
            found = reply.headers.get(name)
            assert found == value or (name == "cache-control" and found is not None), (name, reply)
        assert "server" not in reply.headers
        assert not [name for name in reply.headers if name.startswith("access-control")]


def test_the_policy_is_strict() -> None:
    policy = dict(part.split(" ", 1) for part in HEADERS[b"content-security-policy"].decode().split("; "))
    assert policy["default-src"] == "'none'"
    assert {policy[name] for name in ("script-src", "style-src", "img-src", "connect-src")} == {"'self'"}
    assert {policy[name] for name in ("base-uri", "form-action", "frame-ancestors")} == {"'none'"}
    assert "unsafe" not in "".join(policy.values())


def test_pages_have_nothing_inline_that_the_policy_would_stop(site: Site, secret: str) -> None:
    reply = site.ask("GET", "/", {"Cookie": f"{site.cookie}={secret}"})
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    text = reply.body.decode()
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:|https?://(?!www\.w3\.org)", text)
    assert not re.search(r"<script(?![^>]*\ssrc=)", text)


# Connections ---------------------------------------------------------------------------------------------


def test_pipelined_requests_are_answered_in_their_order(site: Site, secret: str) -> None:
    line = f"Host: {site.host}\r\nCookie: {site.cookie}={secret}\r\n"
    text = f"GET /favicon.svg HTTP/1.1\r\n{line}\r\nGET /nothing HTTP/1.1\r\n{line}\r\n" * 20
    text += f"GET /api/study HTTP/1.1\r\n{line}Connection: close\r\n\r\n"
    answered = re.findall(rb"HTTP/1\.1 (\d+) ", site.raw(text.encode()))
    assert answered == 20 * [b"200", b"404"] + [b"200"]


def test_a_second_request_in_a_refused_body_is_none(site: Site, secret: str, store: LabelStore) -> None:
    before = store.current()
    inner = f"POST {POST} HTTP/1.1\r\nHost: {site.host}\r\n\r\n".encode()
    outer = write_headers(
        site, secret, Content_Type="text/plain", Content_Length=str(len(inner)), Connection=""
    )
    last = f"GET /favicon.svg HTTP/1.1\r\nHost: {site.host}\r\nConnection: close\r\n\r\n"
    found = site.raw(site.head("POST", POST, outer) + inner + last.encode())
    assert re.findall(rb"HTTP/1\.1 (\d+) ", found) == [b"415", b"200"]
    assert store.current() == before


def test_what_is_no_http_is_refused(site: Site) -> None:
    for text in (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",  # TLS
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n",
        b"GET / HTTP/1.1\nHost: x\r\nX\r\n\r\n",
    ):
        found = site.raw(text + b"\r\n\r\n")
        assert parsed(found).status in (400, 421), (text, found)


def test_web_sockets_are_not_spoken(site: Site, secret: str) -> None:
    headers = {
        "Cookie": f"{site.cookie}={secret}",
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
        "Sec-WebSocket-Version": "13",
    }
    with socket.create_connection(("127.0.0.1", site.port), timeout=10) as connection:
        connection.sendall(site.head("GET", "/api/study", headers))
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200 ")


def test_the_file_is_the_owners_alone(store: LabelStore, site: Site) -> None:
    folder = Path(store.folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.glob("labels.sqlite3*")} == {0o600}


def test_secrets_are_not_in_the_file(store: LabelStore, site: Site, secret: str) -> None:
    token = store.new_link(store.add_annotator("whose token is looked for"))
    with closing(sqlite3.connect(Path(store.folder) / "labels.sqlite3")) as connection:
        dump = "\n".join(connection.iterdump())
    assert "whose token is looked for" in dump
    assert token not in dump
    assert secret not in dump
