"""A server that listens: its socket, its thread, and what it says to bytes that are no request."""

from __future__ import annotations

import errno
import ipaddress
import json
import socket
import threading
import time
from types import TracebackType
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from .security import HEADERS

STARTING_SECONDS = 30.0
"""How long a server may take to be there."""

CLOSING_SECONDS = 5
"""How long answers that are under way may take when a server ends."""

IDLE_SECONDS = 75
"""How long a connection on which nothing is asked is kept."""

MOST_HEADER_BYTES = 1 << 14
"""How long the head of a request may be."""


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own; of names only ``localhost`` is."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Args:
        host: address or name of this machine.
        port: port; 0 for one that is free.

    Raises:
        OSError: if there is no such address here, or the port is taken or not allowed.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            text = f"port {port} of {host} is in use: choose another with --port, or 0 for one that is free"
        else:
            text = f"cannot listen on port {port} of {host}: {error.strerror or error}"
        raise OSError(text) from None
    # Connections inherit it; asyncio sets it only on sockets that were made with their protocol. Without it
    # an answer in two parts may take 40 ms: the second waits until the first is acknowledged.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


class Running:
    """A server at work in a thread, within a ``with``.

    Args:
        app: what answers; its ``state.close`` is called at the end.
        listener: where it listens.
    """

    def __init__(self, app: Any, listener: socket.socket) -> None:
        self._app, self._listener = app, listener
        config = uvicorn.Config(
            app,
            http=_Protocol,
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            log_level="error",
            access_log=False,  # its lines would hold tokens
            proxy_headers=False,  # a client must not say who it is
            server_header=False,
            timeout_keep_alive=IDLE_SECONDS,
            timeout_graceful_shutdown=CLOSING_SECONDS,
            h11_max_incomplete_event_size=MOST_HEADER_BYTES,
        )
        self._server = uvicorn.Server(config)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="label-server", daemon=True)

    def _run(self) -> None:
        try:
            self._server.run(sockets=[self._listener])
        except BaseException as error:
            self._error = error

    def __enter__(self) -> Running:
        """Start, and wait until requests are taken; RuntimeError if that fails."""
        self._thread.start()
        patience_ends = time.monotonic() + STARTING_SECONDS
        while not self._server.started:
            self.check()
            if time.monotonic() > patience_ends:
                raise RuntimeError(f"the server did not start within {STARTING_SECONDS:g} seconds")
            time.sleep(0.01)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take no more requests, and answer those that are under way."""
        self._server.should_exit = True
        self._thread.join()
        self._app.state.close()

    @property
    def port(self) -> int:
        """The port."""
        return int(self._listener.getsockname()[1])

    def check(self, wait: float = 0.0) -> None:
        """Wait; raise RuntimeError if the server has ended by itself."""
        self._thread.join(wait)
        if not self._thread.is_alive():
            raise RuntimeError(f"the server ended by itself: {self._error}") from self._error


class _Protocol(H11Protocol):
    """Uvicorn's, whose answer to what is no HTTP has the headers of all others."""

    def send_400_response(self, msg: str) -> None:
        """Say that this is no request, unless an answer has begun, and hang up."""
        if self.cycle is not None:
            self.cycle.disconnected = True  # what answers the request before must not write any more
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = json.dumps({"error": "this is no request of HTTP"}).encode()
            own = [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
                (b"connection", b"close"),
            ]
            head = h11.Response(status_code=400, headers=[*own, *HEADERS.items()], reason=b"Bad Request")
            for event in (head, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
