"""A browser, and studies that are served to it."""

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from labelling_films import ServedStudy, by_number, make_film_study, served
from labelling_person import Complaints, ScriptedPerson, chromium
from labelling_server import serving

from prefrl.label.store import LabelStore

Visit = Callable[..., tuple[LabelStore, ScriptedPerson]]
Serve = Callable[..., ServedStudy]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture
def context(browser: Any) -> Iterator[Any]:
    found = browser.new_context(viewport={"width": 1280, "height": 800})
    yield found
    found.close()


@pytest.fixture
def complaints(context: Any) -> Iterator[Complaints]:
    found = Complaints(context)
    yield found
    found.check()


@pytest.fixture
def visit(tmp_path: Path, context: Any, complaints: Complaints) -> Iterator[Visit]:
    """Make a study, serve it within this process, and let somebody in."""
    with ExitStack() as stack:

        def made(
            groups: Any, *, choose: Any = by_number, speed: int = 6, **settings: Any
        ) -> tuple[LabelStore, ScriptedPerson]:
            store = stack.enter_context(make_film_study(tmp_path / "study", groups, **settings))
            site = stack.enter_context(serving(store))
            token = store.new_link(store.add_annotator("ada"))
            person = ScriptedPerson(context.new_page(), choose)
            person.enter(f"http://{site.host}/?token={token}", speed)
            return store, person

        yield made
        complaints.check()
        context.close()


@pytest.fixture
def study(tmp_path: Path) -> Iterator[Serve]:
    """Make a study, and serve it by the command in a process of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with served(tmp_path / "study", port) as server:

        def made(groups: Any, **settings: Any) -> ServedStudy:
            make_film_study(server.folder, groups, **settings).close()
            return server

        yield made
