"""The socket of the page's server, and what it must not write down."""

import logging
import socket
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from labelling_server import enter_all, make_study, serving

from prefrl.label.web.listening import Running, listening


def test_small_answers_are_not_kept_back() -> None:
    with listening("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        connection, _ = listener.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


def test_a_port_that_was_just_given_back_is_taken_again() -> None:
    with listening("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        client = socket.create_connection(("127.0.0.1", port))
        connection, _ = listener.accept()
        connection.close()  # it lingers on
    listening("127.0.0.1", port).close()
    client.close()


@pytest.mark.parametrize(
    ("host", "words"),
    [("192.0.2.1", "cannot listen on port 0 of 192.0.2.1"), ("no.such.invalid", "cannot listen")],
)
def test_addresses_that_are_not_of_this_machine(host: str, words: str) -> None:
    with pytest.raises(OSError, match=words):
        listening(host, 0)


def test_nothing_is_written_down_of_who_asks(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with make_study(tmp_path / "study") as store, serving(store) as site:
        for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "asyncio", "prefrl.label"):
            caplog.set_level(logging.DEBUG, logger=name)
        token = store.new_link(store.add_annotator("ben"))
        with closing(enter_all(store, site, ("anna",))[0]) as anna:
            assert anna.get(f"/?token={token}").status == 303
            assert anna.get("/nothing").status == 404
            said = "\n".join(record.getMessage() for record in caplog.records)
            assert token not in said
            assert anna.secret not in said


def test_a_server_that_ends_by_itself_is_noticed() -> None:
    app: Any = SimpleNamespace(state=SimpleNamespace(close=lambda: None))
    with listening("127.0.0.1", 0) as listener, Running(app, listener) as running:
        running.check(wait=0.01)
        running._server.should_exit = True
        running._thread.join(10.0)
        with pytest.raises(RuntimeError, match="ended by itself"):
            running.check()
