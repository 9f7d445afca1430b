"""``prefrl label serve`` as people start it: links, the lock, ports, signals, kills, and what it prints."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from labelling_server import Person, Site, answer_body, make_study, segment

from prefrl.cli import main
from prefrl.label.records import Item, NewQuestion, StudySettings
from prefrl.label.serve import host_names
from prefrl.label.store import LabelStore
from prefrl.label.web.listening import Running, is_loopback


class Served:
    """A server in a process of its own."""

    def __init__(self, folder: Path, *flags: str, port: int = 0, render: bool = False) -> None:
        command = [sys.executable, "-m", "prefrl.cli", "label", "serve", str(folder), "--port", str(port)]
        command += [*flags, *(() if render else ("--no-render",))]
        self.errors = folder.parent / f"errors-{uuid.uuid4()}"
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        self.printed: list[str] = []
        assert self.process.stdout is not None
        line = ""
        for line in self.process.stdout:
            self.printed.append(line.strip())
            if line.startswith("Each link"):
                break
        assert line.startswith("Each link"), self.errors.read_text()
        link = re.compile(r"(.+): http://([^/]+):(\d+)/\?token=(\S+)")
        found = [link.fullmatch(line) for line in self.printed[:-1]]
        self.links = {match[1]: match[4] for match in found if match}
        self.hosts = {match[2] for match in found if match}
        self.site = Site(int(found[0][3])) if found[0] else Site(0)

    def ended(self, number: int) -> int:
        """Send a signal; return the exit status."""
        self.process.send_signal(number)
        return self.process.wait(30)

    def said(self) -> str:
        """Return all that was printed, by a server that has ended."""
        assert self.process.stdout is not None
        return "\n".join(self.printed) + self.process.stdout.read() + self.errors.read_text()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with make_study(tmp_path / "study", pairs=30) as store:
        return store.folder


@pytest.fixture
def served(folder: Path) -> Iterator[Served]:
    found = Served(folder, "--annotators", "anna", "ben", "anna")
    yield found
    if found.process.poll() is None:
        found.ended(signal.SIGKILL)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the one line with which the command ends; fail, instead of serving for ever, if it does not."""

    def served(*_: Any, **__: Any) -> None:
        raise AssertionError("it serves")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Running, "check", served)
        assert main(["label", "serve", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    return printed.err


def test_a_link_for_each_person_and_no_secret_in_what_is_printed_later(served: Served, folder: Path) -> None:
    assert list(served.links) == ["anna", "ben"]
    assert served.hosts == {"127.0.0.1"}
    secrets = [served.site.enter(token) for token in served.links.values()]
    with closing(Person(served.site, secrets[0])) as anna:
        assert anna.get("/api/study").json["name"] == "anna"
        assert anna.answer(anna.next()["showing"]["id"], "left").status == 200
        anna.ask("GET", "/?token=" + served.links["ben"])
        anna.ask("BREW", "/?token=" + served.links["ben"])
    served.site.raw(f"GET /?token={served.links['ben']} nonsense\r\n\r\n".encode())
    served.site.ask("GET", "/?token=" + served.links["ben"], {"Host": "evil.example"})
    assert served.ended(signal.SIGINT) == 130
    said = served.said()
    assert said.count(served.links["anna"]) == said.count(served.links["ben"]) == 1  # the link itself
    assert not [secret for secret in secrets if secret in said]
    assert served.errors.read_text() == ""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_it_quietly_and_the_port_and_the_folder_are_free_again(
    served: Served, folder: Path, number: int, status: int
) -> None:
    idle = socket.create_connection(("127.0.0.1", served.site.port))  # somebody whose tab stays open
    assert served.ended(number) == status
    idle.close()
    assert served.errors.read_text() == ""
    again = Served(folder, port=served.site.port)
    assert list(again.links) == ["anna", "ben"]  # who was known
    again.ended(signal.SIGKILL)


def test_one_server_for_a_folder_at_a_time(
    served: Served, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "is served already" in refused(capsys, str(folder), "--port", "0")
    served.ended(signal.SIGKILL)  # which leaves its lock file behind
    after = Served(folder)
    assert after.ended(signal.SIGINT) == 130


def test_a_port_in_use(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refused(capsys, str(folder), "--port", str(port))
    assert f"port {port} of 127.0.0.1 is in use: choose another with --port" in said
    assert main(["label", "status", str(folder)]) == 0  # nothing is locked


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--host", "0.0.0.0"), "there is no TLS"),
        (("--host", "::"), "--allow-remote"),
        (("--host", "192.0.2.1"), "--allow-remote"),
        (("--host", "example.org"), "--allow-remote"),
        (("--host", "127.0.0.1.example.org"), "--allow-remote"),
        (("--host", "192.0.2.1", "--allow-remote"), "cannot listen on port 0 of 192.0.2.1"),
        (("--host", "no such host", "--allow-remote"), "cannot listen"),
        (("--port", "65536"), "port is 65536; it must lie in [0, 65535]"),
        (("--port", "-1"), "port is -1"),
        (("--annotators", ""), "name"),
    ],
)
def test_what_is_refused_in_one_line(
    folder: Path, flags: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in refused(capsys, str(folder), "--no-render", "--port", "0", *flags)


def test_folders_that_are_no_studies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "there is no folder" in refused(capsys, str(tmp_path / "nothing"))
    refused(capsys, str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_other_machines_are_let_in_with_a_warning(folder: Path) -> None:
    server = Served(folder, "--host", "0.0.0.0", "--allow-remote", "--allowed-hosts", "Labels.Example")
    site = server.site
    (token,) = server.links.values()
    assert site.ask("GET", f"/?token={token}", {"Host": "evil.example"}).status == 421
    reply = site.ask("GET", f"/?token={token}", {"Host": f"labels.example:{site.port}"})
    assert reply.status == 303
    assert server.hosts == {socket.gethostname().lower()}
    assert server.ended(signal.SIGINT) == 130
    assert "warning: other machines are let in, and there is no TLS" in server.errors.read_text()


def test_what_a_server_is_called() -> None:
    own = ("127.0.0.1", "localhost", "[::1]")
    assert host_names("127.0.0.1") == own
    assert host_names("::1")[0] == "[::1]"
    assert host_names("192.0.2.7") == ("192.0.2.7", *own)
    assert host_names("Labels.Example") == ("labels.example", *own)
    assert host_names("0.0.0.0")[0] == socket.gethostname().lower()
    loopback = ("127.0.0.1", "127.1.2.3", "::1", "localhost")
    remote = ("0.0.0.0", "::", "192.168.0.1", "localhost.example", "127.0.0.1.example", "")
    assert [is_loopback(host) for host in (*loopback, *remote)] == 4 * [True] + 6 * [False]


def test_names_are_printed_without_what_would_steer_a_terminal(folder: Path) -> None:
    server = Served(folder, "--annotators", "a\x1b[2Jb\nc")
    assert list(server.links) == [r"a\x1b[2Jb\nc"]
    assert server.ended(signal.SIGINT) == 130


def test_ipv6(folder: Path) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    server = Served(folder, "--host", "::1")
    assert server.hosts == {"[::1]"}
    assert server.ended(signal.SIGINT) == 130


def test_without_the_extra_it_says_what_to_install(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("prefrl.label.web.app", "prefrl.label.web.listening"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert "pip install 'prefrl[label]'" in refused(capsys, str(folder))


def test_clips_are_drawn_while_people_are_served(tmp_path: Path) -> None:
    with make_study(tmp_path / "study", pairs=2, ready=False, width=16, height=16) as store:
        folder = store.folder
    server = Served(folder, render=True)
    (token,) = server.links.values()
    with closing(Person(server.site, server.site.enter(token))) as person:
        patience_ends = time.monotonic() + 60.0
        while (found := person.next())["showing"] is None:
            assert found["state"] == "waiting"
            assert time.monotonic() < patience_ends, server.errors.read_text()
            time.sleep(0.1)
        reply = person.get(found["showing"]["items"][0]["clip"])
    assert (reply.status, reply.headers["content-type"]) == (200, "video/webm")
    assert reply.body[:4] == b"\x1a\x45\xdf\xa3"
    assert server.ended(signal.SIGINT) == 130
    assert server.errors.read_text() == ""


def test_clips_that_cannot_be_drawn_are_told(tmp_path: Path) -> None:
    study = StudySettings(environment="NoSuchEnvironment-v0")
    bare = [replace(segment(number), frames=None, states=np.zeros((3, 1))) for number in range(2)]
    question = NewQuestion(tuple(Item(segment=one.digest) for one in bare), "pair")
    with LabelStore.create(tmp_path / "study", study) as store:
        store.post(bare, [question])
    server = Served(tmp_path / "study", render=True)
    patience_ends = time.monotonic() + 60.0
    while "NoSuchEnvironment" not in server.errors.read_text():
        assert time.monotonic() < patience_ends
        time.sleep(0.1)
    assert server.process.poll() is None
    assert server.ended(signal.SIGINT) == 130
    assert server.errors.read_text().count("\n") == 1  # told once


def test_a_process_that_makes_clips_and_dies_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "quits.py").write_text(
        "import os\nimport gymnasium as gym\ngym.register('Quits-v0', lambda **_: os._exit(7))\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    bare = [replace(segment(number), frames=None, states=np.zeros((3, 1))) for number in range(2)]
    question = NewQuestion(tuple(Item(segment=one.digest) for one in bare), "pair")
    study = StudySettings(environment="quits:Quits-v0")
    LabelStore.create(tmp_path / "study", study, bare, [question]).close()
    server = Served(tmp_path / "study", render=True)
    patience_ends = time.monotonic() + 60.0
    while "ended with exit status 7" not in server.errors.read_text():
        assert time.monotonic() < patience_ends, server.errors.read_text()
        time.sleep(0.1)
    assert server.ended(signal.SIGINT) == 130
    assert server.errors.read_text().count("\n") == 1


def test_answers_survive_a_server_that_is_killed_in_their_middle(folder: Path) -> None:
    """Whatever was acknowledged is there once; what was not is sent again, and is there once."""
    server = Served(folder, "--annotators", "anna", "ben", "carl")
    port = server.site.port
    secrets = [server.site.enter(token) for token in server.links.values()]
    people = [Labelling(Site(port), secret) for secret in secrets]
    for person in people:
        person.start()
    for _ in range(4):
        time.sleep(0.4)
        server.ended(signal.SIGKILL)
        server = Served(folder, port=port)
    for person in people:
        person.stop.set()
    for person in people:
        person.join(60)
        assert person.error is None
    server.ended(signal.SIGINT)
    with LabelStore.open(folder) as store:
        found = {(answer.annotator, answer.value, answer.seconds) for answer in store.current()}
        stored = len(store.current())
    sent = {
        (name, body["value"], body["seconds"])
        for name, person in zip(("anna", "ben", "carl"), people, strict=True)
        for body in person.acknowledged
    }
    assert stored == len(found) == len(sent)
    assert found == sent
    assert sum(person.again for person in people) >= 3  # the kills were felt


class Labelling(threading.Thread):
    """Somebody who answers, and insists until each answer is acknowledged."""

    def __init__(self, site: Site, secret: str) -> None:
        super().__init__(daemon=True)
        self.site, self.secret = site, secret
        self.stop = threading.Event()
        self.acknowledged: list[dict[str, Any]] = []
        self.again = 0
        self.error: BaseException | None = None

    def insist(self, path: str, body: Any) -> Any:
        """Send until an answer comes, each time on a new connection."""
        while True:
            try:
                with closing(Person(self.site, self.secret)) as person:
                    reply = person.post(path, body)
            except (OSError, HTTPException):
                self.again += 1
                time.sleep(0.02)
                continue
            assert reply.status == 200, reply
            return reply.json

    def run(self) -> None:
        """Ask and answer."""
        try:
            while not self.stop.is_set():
                showing = self.insist("/api/next", {"held": []})["showing"]
                if showing is None:
                    time.sleep(0.05)
                    continue
                number = len(self.acknowledged)
                body = {
                    **answer_body(showing["id"], ("left", "right", "tie")[number % 3]),
                    "seconds": number + 0.5,
                }
                if self.insist("/api/answer", body)["stored"]:
                    self.acknowledged.append(body)
        except BaseException as error:
            self.error = error
