"""Who may ask the page's server for what: a guard before all of its routes, and JSON that is read strictly.

The guard looks at a request in this order, and the first thing that is wrong decides the answer: the host
it was meant for, its method, how its body is framed, where the page that sent it came from, what the body is
said to be, the cookie, and the body itself. Whatever is answered carries :data:`HEADERS`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import re
import sqlite3
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "media-src 'self' blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",  # text stays text: a browser refuses innerHTML
        "trusted-types 'none'",
    )
)
"""What a browser lets the page load and do."""

HEADERS: Mapping[bytes, bytes] = {
    b"content-security-policy": POLICY.encode(),
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-embedder-policy": b"require-corp",
    b"cross-origin-resource-policy": b"same-origin",
    b"cache-control": b"no-store",
}
"""What every response carries; a response may have its own ``cache-control``."""

MOST_BYTES = 1 << 17
"""How long the body of a request may be."""

BODY_SECONDS = 10.0
"""How long a body may take to come."""

MOST_DIGITS = 18
"""Digits of a whole number in JSON: what SQLite holds."""

_HOST = re.compile(r"(?P<name>[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_SECRET = re.compile(r"[A-Za-z0-9_-]{16,128}")
_JSON = re.compile(r"application/json\s*(;\s*charset=\"?utf-8\"?\s*)?", re.IGNORECASE)

_log = logging.getLogger("prefrl.label")


class Refusal(Exception):
    """A request is refused.

    Attributes:
        status: the HTTP status.
        text: one sentence for whoever asked.
        headers: further headers of the answer.
    """

    def __init__(self, status: int, text: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.headers = dict(headers or {})


# What a request says of itself ---------------------------------------------------------------------------


def header(scope: Scope, name: bytes) -> str | None:
    """Return the value of a header, or None; Refusal where it comes twice."""
    found = [value for key, value in scope["headers"] if key == name]
    if len(found) > 1:
        raise Refusal(400, f"the header {name.decode()} comes {len(found)} times")
    return found[0].decode("latin-1").strip() if found else None


def check_host(scope: Scope, allowed: frozenset[str]) -> str:
    """Return the Host of a request; Refusal unless its name is allowed.

    A foreign name that leads here is how a web site reaches a server on its visitor's machine (DNS
    rebinding). Ports are not looked at: a tunnel may have another one at its near end.
    """
    host = header(scope, b"host") or ""
    match = _HOST.fullmatch(host)
    if match is None or match["name"].lower() not in allowed:
        raise Refusal(421, "this server is not the one that the request names as its host")
    return host


def check_framing(scope: Scope) -> int:
    """Return how many bytes the body of a request has; Refusal where it is not said, or too many."""
    if header(scope, b"transfer-encoding") is not None:
        raise Refusal(411, "the body must come with its length, not in chunks")
    said = header(scope, b"content-length")
    if scope["method"] == "GET":
        if said not in (None, "0"):
            raise Refusal(400, "a GET has no body")
        return 0
    if said is None:
        raise Refusal(411, "the body must come with its length")
    if not (said.isascii() and said.isdigit()):
        raise Refusal(400, "the length of the body is no number")
    if len(said) > MOST_DIGITS or int(said) > MOST_BYTES:
        raise Refusal(413, f"the body is longer than {MOST_BYTES} bytes")
    return int(said)


def check_origin(scope: Scope, host: str) -> None:
    """Refuse what pages of other sites send, and writes that do not say where they come from."""
    origins = (f"http://{host}", f"https://{host}")  # https: of a proxy before this server
    if scope["method"] == "POST" and header(scope, b"origin") not in origins:
        raise Refusal(403, "only this server's own page may write")
    if scope["path"] != "/" and header(scope, b"sec-fetch-site") not in (None, "same-origin", "none"):
        raise Refusal(403, "the page of another site may not ask")


def check_content_type(scope: Scope) -> None:
    """Refuse a body that is said to be something else than JSON: forms need nobody's leave to be sent."""
    if not _JSON.fullmatch(header(scope, b"content-type") or ""):
        raise Refusal(415, "the body must be application/json")


def cookie_name(scope: Scope) -> str:
    """Return the name of the cookie: browsers share cookies among all ports of a host."""
    return f"prefrl_label_{scope['server'][1]}"


def cookie_of(scope: Scope) -> str | None:
    """Return the secret in the cookie, or None: there is none, there are two, or it is none of ours."""
    name = cookie_name(scope)
    pairs = b"; ".join(value for key, value in scope["headers"] if key == b"cookie").decode("latin-1")
    parts = (pair.strip().partition("=") for pair in pairs.split(";"))
    secrets = {value for key, _, value in parts if key == name}
    if len(secrets) != 1:  # two: another server on this machine has set one of them
        return None
    secret = secrets.pop()
    return secret if is_secret(secret) else None


def is_secret(text: str) -> bool:
    """Whether a text may be a token or the secret of a cookie."""
    return _SECRET.fullmatch(text) is not None


# Bodies --------------------------------------------------------------------------------------------------


async def read_body(receive: Receive, length: int) -> bytes:
    """Return the body of a request, of a length that was said.

    Raises:
        Refusal: if it is late, or ends early.
    """
    parts: list[bytes] = []

    async def collect() -> None:
        more = True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                raise Refusal(400, "the body ended early")
            parts.append(message.get("body", b""))
            more = message.get("more_body", False)

    try:
        await asyncio.wait_for(collect(), BODY_SECONDS)
    except asyncio.TimeoutError:
        raise Refusal(408, f"the body took longer than {BODY_SECONDS:g} seconds") from None
    body = b"".join(parts)
    if len(body) != length:
        raise Refusal(400, "the body has another length than was said")
    return body


def parse_json(body: bytes) -> dict[str, Any]:
    """Return the object that JSON text holds.

    Raises:
        Refusal: if it is no JSON in UTF-8, no object, holds NaN, an infinite number or one of more than 18
            digits, a name twice, or is nested too deep.
    """
    try:
        found = json.loads(
            body.decode("utf-8"),
            parse_constant=_no_constant,
            parse_int=_whole,
            parse_float=_finite,
            object_pairs_hook=_once,
        )
    except RecursionError:
        raise Refusal(400, "the body is nested too deep") from None
    except UnicodeDecodeError:
        raise Refusal(400, "the body is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise Refusal(400, f"the body is not JSON: {error.msg} at character {error.pos}") from None
    if not isinstance(found, dict):
        raise Refusal(400, "the body must be an object")
    return found


def fields(
    body: Mapping[str, Any], needed: Sequence[str], others: Mapping[str, Any] | None = None
) -> tuple[Any, ...]:
    """Return the values of a body by their names; what they may be is for the store to say.

    Args:
        body: what was sent.
        needed: names that must be there.
        others: names that may be there, and what is taken where they are not.

    Raises:
        Refusal: if a name is missing, or unknown.
    """
    others = others or {}
    if missing := [name for name in needed if name not in body]:
        raise Refusal(400, f"the body has no {', '.join(missing)}")
    known = [*needed, *others]
    if unknown := [name for name in body if name not in known]:
        raise Refusal(400, f"the body has {unknown[0][:40]!r}; it may have {', '.join(known)}")
    return tuple(body.get(name, others.get(name)) for name in known)


def _no_constant(name: str) -> float:
    raise Refusal(400, f"{name} is no JSON")


def _whole(digits: str) -> int:
    if len(digits.lstrip("-")) > MOST_DIGITS:
        raise Refusal(400, f"a number has more than {MOST_DIGITS} digits")
    return int(digits)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise Refusal(400, "a number is too large")
    return number


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise Refusal(400, "a name comes twice in one object")
    return found


# The guard -----------------------------------------------------------------------------------------------


class Guard:
    """Stands before an application: refuses what it must not see, and puts the headers on every answer.

    What it finds is in the scope: ``prefrl.annotator`` (None only for the start page and the icon) and
    ``prefrl.body``.

    Args:
        app: the application.
        allowed_hosts: names in the header Host that mean this server, without port, IPv6 in brackets.
        annotator_of: returns whom a cookie's secret belongs to, or None.
        public: paths that need no cookie.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        allowed_hosts: frozenset[str],
        annotator_of: Callable[[str], Awaitable[Any]],
        public: frozenset[str],
    ) -> None:
        self._app = app
        self._allowed = frozenset(name.lower() for name in allowed_hosts)
        self._annotator_of = annotator_of
        self._public = public

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            raise RuntimeError(f"the server was asked for {scope['type']}, which it does not speak")
        begun = False

        async def send_with_headers(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                message = {**message, "headers": with_headers(message.get("headers", []))}
            await send(message)

        try:
            await self._check(scope, receive)
            await self._app(scope, receive, send_with_headers)
        except Exception as error:
            if begun:  # too late to say anything else
                raise
            await answer(send_with_headers, as_refusal(error, scope))

    async def _check(self, scope: Scope, receive: Receive) -> None:
        host = check_host(scope, self._allowed)
        if scope["method"] not in ("GET", "POST"):
            raise Refusal(405, "only GET and POST are answered", {"allow": "GET, POST"})
        length = check_framing(scope)
        check_origin(scope, host)
        if scope["method"] == "POST":
            check_content_type(scope)
        secret = cookie_of(scope)
        annotator = None if secret is None else await self._annotator_of(secret)
        if annotator is None and scope["path"] not in self._public:
            raise Refusal(403, "this page opens by the link that its server printed")
        scope["prefrl.annotator"] = annotator
        if scope["method"] == "POST":
            scope["prefrl.body"] = parse_json(await read_body(receive, length))


def with_headers(headers: Any) -> list[tuple[bytes, bytes]]:
    """Return the headers of an answer with those of :data:`HEADERS` that it does not have itself."""
    own = [(key.lower(), value) for key, value in headers]
    there = {key for key, _ in own}
    return [*own, *((key, value) for key, value in HEADERS.items() if key not in there)]


def as_refusal(error: Exception, scope: Scope) -> Refusal:
    """Return what is answered after an error; one that is our own mistake is written to the log."""
    if isinstance(error, Refusal):
        return error
    # Paths only: a query may hold a token.
    _log.error("%s %.200r failed", scope["method"], scope["path"], exc_info=error)
    if isinstance(error, (OSError, sqlite3.OperationalError)):  # locked for long, or the disk is full
        return Refusal(503, "the answers cannot be stored now; try again", {"retry-after": "1"})
    return Refusal(500, "the server made a mistake, which its log describes")


async def answer(send: Send, refusal: Refusal) -> None:
    """Send a refusal as JSON."""
    body = json.dumps({"error": refusal.text}).encode()
    more = [(key.encode(), value.encode()) for key, value in refusal.headers.items()]
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *more]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
