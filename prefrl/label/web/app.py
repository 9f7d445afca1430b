"""The page's server: what a browser asks for, answered out of the store.

The store is asked on threads of its own, so that the server answers others meanwhile: one thread that writes,
since SQLite lets one write at a time and threads that wait for their turn there poll, and a few that read.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from importlib.resources import files
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..records import Annotator, Progress, Receipt, Showing
from ..store import LabelStore
from .security import Guard, Refusal, cookie_name, fields, is_secret

Found = TypeVar("Found")

READERS = 4
"""Threads that read the store."""

COOKIE_SECONDS = 30 * 24 * 3600
"""How long a browser keeps the cookie."""

KINDS_OF_FILES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""What may lie in the folder of the page."""

ICON = "/favicon.svg"

LOCKED_OUT = """<!doctype html><html lang="en"><meta charset="utf-8"><title>prefrl label</title>
<h1>This page opens by a link</h1>
<p>The link is printed where <code>prefrl label serve</code> runs. It works once, in one browser;
a server that is started again prints new ones.</p></html>
"""

COME_AGAIN = """<!doctype html><html lang="en"><meta charset="utf-8"><title>prefrl label</title>
<meta http-equiv="refresh" content="0;url=/"><p><a href="/">On to the page</a></p></html>
"""
"""A browser that comes from another site keeps the cookie back until the page itself sends it on."""

_DIGEST = re.compile(r"[0-9a-f]{64}")
_RANGE = re.compile(r"bytes=(?P<first>[0-9]{0,15})-(?P<last>[0-9]{0,15})")


def page_files() -> dict[str, tuple[bytes, str]]:
    """Return the files of the page by the paths under which they are asked for, with their kinds."""
    folder = files("prefrl.label") / "page"
    found = {}
    for file in folder.iterdir():
        suffix = "." + file.name.rpartition(".")[2]
        if suffix in KINDS_OF_FILES:
            found[f"/{file.name}"] = (file.read_bytes(), KINDS_OF_FILES[suffix])
    found["/"] = found.pop("/index.html")
    return found


def make_app(store: LabelStore, *, allowed_hosts: Iterable[str]) -> Starlette:
    """Return the application that serves the page of a study.

    Args:
        store: what is asked, and where answers go.
        allowed_hosts: what this server is called in the header Host, without port, IPv6 in brackets.
    """
    server = _Server(store)
    routes = [
        Route("/", server.start),
        *(Route(path, server.file) for path in server.files if path != "/"),
        Route("/api/study", server.study),
        Route("/api/next", server.next, methods=["POST"]),
        Route("/api/hold", server.hold, methods=["POST"]),
        Route("/api/answer", server.answer, methods=["POST"]),
        Route("/api/undo", server.undo, methods=["POST"]),
        Route("/clip/{digest}", server.clip),
    ]
    guard = Middleware(
        Guard,
        allowed_hosts=frozenset(allowed_hosts),
        annotator_of=server.annotator_of,
        public=frozenset({"/", ICON}),
    )
    app = Starlette(routes=routes, middleware=[guard], exception_handlers={HTTPException: _not_routed})
    app.router.redirect_slashes = False
    app.state.close = server.close
    return app


def as_json(found: Mapping[str, Any]) -> Response:
    """Return an answer in JSON, whose text is ASCII."""
    return Response(json.dumps(found, allow_nan=False), media_type="application/json")


async def _not_routed(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    text = (
        "there is nothing at this address" if error.status_code == 404 else "this address is asked otherwise"
    )
    body = json.dumps({"error": text})
    return Response(body, error.status_code, headers=error.headers, media_type="application/json")


class _Server:
    """The answers to requests that the guard has let through."""

    def __init__(self, store: LabelStore) -> None:
        self._store = store
        self._writer = ThreadPoolExecutor(1, "label-writer")
        self._readers = ThreadPoolExecutor(READERS, "label-reader")
        self.files = page_files()

    def close(self) -> None:
        """Let threads finish what they do."""
        self._readers.shutdown()
        self._writer.shutdown()

    async def _read(self, work: Callable[..., Found], *arguments: Any) -> Found:
        return await asyncio.get_running_loop().run_in_executor(self._readers, work, *arguments)

    async def _write(self, work: Callable[..., Found], *arguments: Any) -> Found:
        """Return what the store returns; Refusal where it refuses what it was given."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._writer, work, *arguments)
        except LookupError as error:
            raise Refusal(404, _sentence(error)) from None
        except ValueError as error:
            if error.__cause__ is not None:  # the file is at fault, not what was sent
                raise
            raise Refusal(400, _sentence(error)) from None

    async def annotator_of(self, secret: str) -> Annotator | None:
        """Return whom the secret of a cookie belongs to, or None."""
        return await self._read(self._store.annotator_of, secret)

    async def start(self, request: Request) -> Response:
        """Answer ``/``: the page, or, with a token, the cookie and the way to the page."""
        annotator = request.scope["prefrl.annotator"]
        if (token := request.query_params.get("token")) is not None:
            secret = await self._write(self._store.exchange, token) if is_secret(token) else None
            if secret is not None:
                return _sent_on(request, secret)
            if annotator is not None:  # the link is opened again in the browser that it let in
                return Response(status_code=303, headers={"location": "/"})
        elif annotator is not None:
            return self._file("/")
        elif request.headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            return Response(COME_AGAIN, media_type="text/html")
        return Response(LOCKED_OUT, 403, media_type="text/html")

    async def file(self, request: Request) -> Response:
        """Answer a path that is one of the page's files."""
        return self._file(request.url.path)

    def _file(self, path: str) -> Response:
        content, kind = self.files[path]
        return Response(content, headers={"content-type": kind})

    async def study(self, request: Request) -> Response:
        """Answer ``/api/study``: what is asked, and of whom."""
        annotator = request.scope["prefrl.annotator"]
        study, progress = self._store.study, await self._read(self._store.progress, annotator.id)
        made = await self._read(self._store.made_ns)
        names = ("question", "instructions", "kind", "ratings", "watch", "lease_seconds")
        return as_json({"study": str(made), "name": annotator.name, "total": progress.total,
                        **{name: getattr(study, name) for name in names}})  # fmt: skip

    async def next(self, request: Request) -> Response:
        """Answer ``/api/next``: what to ask now."""
        held, tab = fields(request.scope["prefrl.body"], ("held",), {"tab": ""})
        annotator = request.scope["prefrl.annotator"].id

        def work() -> tuple[Showing | None, Progress]:
            return self._store.next(annotator, held, tab), self._store.progress(annotator)

        showing, progress = await self._write(work)
        state = "ready" if showing else "waiting" if progress.left or progress.waiting else "finished"
        return as_json({"showing": shown(showing), "progress": counts(progress), "state": state})

    async def hold(self, request: Request) -> Response:
        """Answer ``/api/hold``: what is on view stays this person's for another while."""
        (held,) = fields(request.scope["prefrl.body"], ("held",))
        await self._write(self._store.renew, request.scope["prefrl.annotator"].id, held)
        return as_json({})

    async def answer(self, request: Request) -> Response:
        """Answer ``/api/answer``: what became of an answer."""
        names = ("request", "showing", "value", "seconds", "plays", "events")
        given = fields(request.scope["prefrl.body"], names)
        annotator = request.scope["prefrl.annotator"].id

        def work() -> tuple[Receipt, Progress]:
            return self._store.answer(annotator, *given), self._store.progress(annotator)

        receipt, progress = await self._write(work)
        return as_json({**asdict(receipt), "progress": counts(progress)})

    async def undo(self, request: Request) -> Response:
        """Answer ``/api/undo``: the question that comes back."""
        given, tab = fields(request.scope["prefrl.body"], ("request",), {"tab": ""})
        annotator = request.scope["prefrl.annotator"].id

        def work() -> tuple[Showing | None, Progress]:
            return self._store.undo(annotator, given, tab), self._store.progress(annotator)

        showing, progress = await self._write(work)
        return as_json({"showing": shown(showing), "progress": counts(progress)})

    async def clip(self, request: Request) -> Response:
        """Answer ``/clip/DIGEST``: a clip, or a part of it."""
        digest = request.path_params["digest"]
        clip = await self._read(self._store.clip, digest) if _DIGEST.fullmatch(digest) else None
        if clip is None:
            raise Refusal(404, "there is no such clip")
        asked = None if "if-range" in request.headers else request.headers.get("range")
        headers = {"accept-ranges": "bytes", "cache-control": "private, max-age=86400, immutable"}
        first, last = wanted(asked, len(clip.media))
        if asked is None:
            return Response(clip.media, headers=headers, media_type=clip.mime)
        headers["content-range"] = f"bytes {first}-{last}/{len(clip.media)}"
        return Response(clip.media[first : last + 1], 206, headers=headers, media_type=clip.mime)


def _sent_on(request: Request, secret: str) -> Response:
    """Return the answer that gives a browser its cookie and sends it on to the page."""
    response = Response(status_code=303, headers={"location": "/"})
    response.set_cookie(
        cookie_name(request.scope), secret, max_age=COOKIE_SECONDS, httponly=True, samesite="strict"
    )
    return response


def _sentence(error: Exception) -> str:
    return " ".join(str(error.args[0] if error.args else error).split())[:500] or "this cannot be done"


def counts(progress: Progress) -> dict[str, int]:
    """Return how far somebody is as the page reads it."""
    return {**asdict(progress), "total": progress.total}


def shown(showing: Showing | None) -> dict[str, Any] | None:
    """Return a showing as the page reads it."""
    if showing is None:
        return None
    items = [
        {"factor": item.factor}
        if item.factor is not None
        else {
            "clip": f"/clip/{item.clip}",
            "mime": item.mime,
            "frames": item.frames,
            "fps": item.fps,
            "width": item.width,
            "height": item.height,
        }
        for item in showing.items
    ]
    return {
        "id": showing.id,
        "kind": showing.kind,
        "practice": showing.practice,
        "previous": showing.previous,
        "items": items,
    }


def wanted(asked: str | None, size: int) -> tuple[int, int]:
    """Return the first and the last byte that the header Range asks for; None asks for all.

    Raises:
        Refusal: if it asks for several ranges, for none, or for what lies behind the end.
    """
    if asked is None:
        return 0, size - 1
    match = _RANGE.fullmatch(asked.strip())
    if match is None or not (match["first"] or match["last"]):
        raise Refusal(416, "one range of bytes can be asked for", {"content-range": f"bytes */{size}"})
    if match["first"]:
        first, last = int(match["first"]), min(int(match["last"] or size - 1), size - 1)
    else:
        first, last = max(size - int(match["last"]), 0), size - 1
    if first > last:
        raise Refusal(416, "there are no such bytes", {"content-range": f"bytes */{size}"})
    return first, last
