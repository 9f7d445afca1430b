"""``prefrl label serve``: people answer in a browser, on this machine unless it is allowed otherwise."""

from __future__ import annotations

import ipaddress
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from prefrl.processes import Terminated, claimed, deferred_signals

from .records import escaped

if TYPE_CHECKING:
    from .store import LabelStore

LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")
"""What a server that is for this machine alone is called in requests."""

QUIET = 10.0
"""Seconds from one warning about clips to the next: each clip that fails changes the count."""

ONLY_ANNOTATOR = "annotator"
"""Who answers where nobody is named."""


@dataclass(frozen=True)
class ServeCommand:
    """Serve the page on which people answer; print a link for each of them. Ctrl-C ends it."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """Folder of a study, as `prefrl label make` makes it."""

    port: int = 8765
    """Port; 0 for one that is free."""

    host: str = "127.0.0.1"
    """Address to listen on. One that others can reach needs --allow-remote."""

    allow_remote: bool = False
    """Let other machines in. There is no TLS: whoever is on the way can read and change everything."""

    allowed_hosts: tuple[str, ...] = ()
    """Further names by which this machine is called, where other machines are let in."""

    annotators: Annotated[
        tuple[str, ...], tyro.conf.arg(help_behavior_hint="(default: everybody known, or one person)")
    ] = ()
    """Who answers: a link is printed for each."""

    render: bool = True
    """Draw clips that wait, in a process of its own."""

    def run(self) -> None:
        """Serve until a signal ends it."""
        try:
            from .web.app import make_app
            from .web.listening import Running, is_loopback, listening
        except ImportError as error:
            raise ImportError("the page needs Starlette and uvicorn: pip install 'prefrl[label]'") from error
        from .store import LabelStore

        if not 0 <= self.port <= 65_535:
            raise ValueError(f"port is {self.port}; it must lie in [0, 65535]")
        remote = not is_loopback(self.host)
        if remote and not self.allow_remote:
            raise ValueError(f"host {self.host} can be reached by other machines, and there is no TLS: keep "
                             "127.0.0.1 and use a tunnel, or give --allow-remote")  # fmt: skip
        with ExitStack() as stack:
            store = stack.enter_context(LabelStore.open(self.folder))
            stack.enter_context(alone(self.folder))
            listener = stack.enter_context(listening(self.host, self.port))
            names = host_names(self.host)
            tokens = self._tokens(store)
            asked = stack.enter_context(deferred_signals(all_of_them=True))
            app = make_app(store, allowed_hosts=(*names, *self.allowed_hosts))
            running = stack.enter_context(Running(app, listener))
            problem = stack.enter_context(rendering(self.folder)) if self.render else None
            greet(tokens, f"http://{names[0]}:{running.port}", remote=remote)
            told, quiet_until = None, 0.0
            while not asked:
                running.check(wait=0.2)
                found = problem() if problem is not None and time.monotonic() >= quiet_until else None
                if found is not None and found != told:
                    told, quiet_until = found, time.monotonic() + QUIET
                    print(f"warning: {escaped(found)}", file=sys.stderr, flush=True)
        raise Terminated(asked[0])

    def _tokens(self, store: LabelStore) -> dict[str, str]:
        """Return the secret of a new link for each person, by name."""
        names = self.annotators or [annotator.name for annotator in store.annotators()] or (ONLY_ANNOTATOR,)
        people = [store.add_annotator(name) for name in names]
        return {person.name: store.new_link(person) for person in dict.fromkeys(people)}


def greet(tokens: Mapping[str, str], address: str, *, remote: bool) -> None:
    """Print a link for each person, and how to stop."""
    if remote:
        print("warning: other machines are let in, and there is no TLS: whoever is on the way can read and "
              "change everything, links included", file=sys.stderr)  # fmt: skip
    for name, token in tokens.items():
        print(f"{escaped(name)}: {address}/?token={token}")
    print("Each link opens once, in one browser. Ctrl-C stops the server.", flush=True)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep a second server off a folder; BlockingIOError if there is one already."""
    stack = ExitStack()
    try:
        stack.enter_context(claimed(folder))
    except BlockingIOError:
        raise BlockingIOError(f"{folder} is served already: stop that server first") from None
    with stack:
        yield


@contextmanager
def rendering(folder: Path) -> Iterator[Callable[[], str | None]]:
    """Draw clips that wait, in a process of its own, until the end; yield what says why some cannot be."""
    from .clips import RenderWorker
    from .notes import note_rendering_error, rendering_error

    note_rendering_error(folder, None)  # of another time
    worker = RenderWorker(folder)
    worker.start()
    try:
        yield lambda: rendering_error(folder) or worker.fate
    finally:
        worker.stop()


def host_names(host: str) -> tuple[str, ...]:
    """Return what a server that listens on an address is called in requests, the best name first.

    Where it listens on all addresses of the machine, these are the machine's names and addresses. What a
    machine calls itself is always among them: no web site can have these names, and tunnels end there.
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return tuple(dict.fromkeys((host.lower(), *LOOPBACK_NAMES)))
    if not address.is_unspecified:
        return tuple(dict.fromkeys((_in_url(str(address)), *LOOPBACK_NAMES)))
    name = socket.gethostname()
    try:
        found = sorted({str(entry[4][0]) for entry in socket.getaddrinfo(name, None)})
    except OSError:  # a name that nobody knows
        found = []
    return tuple(
        dict.fromkeys((name.lower(), socket.getfqdn().lower(), *map(_in_url, found), *LOOPBACK_NAMES))
    )


def _in_url(address: str) -> str:
    return f"[{address}]" if ":" in address else address
