"""Several processes at once, and one that is killed while it writes."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

from labelling_study import make_study, pair, request

from prefrl.label.store import LabelStore

WRITER = """
import sys
from prefrl.label.store import LabelStore
folder, who, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
with LabelStore.open(folder) as store:
    me = store.add_annotator(who).id
    for number in range(count):
        showing = store.next(me)
        events = [{"kind": "play", "at_ms": 1}]
        receipt = store.answer(me, f"{who}-{number:06d}", showing.id, "left", 0.1, 0, events)
        assert receipt.stored and not receipt.duplicate and not receipt.late, receipt
        print(f"{who}-{number:06d} {showing.question}", flush=True)
"""


def writer(folder: Path, who: str, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", WRITER, str(folder), who, str(count)],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # fmt: skip


def test_three_processes_lose_and_double_nothing(tmp_path: Path) -> None:
    store = make_study(tmp_path / "s", [pair(0)])
    # Questions about the same two segments, each to be answered once by whoever comes first.
    store.post([], [replace(pair(0), key=f"more {number}") for number in range(599)])
    store.close()
    writers = [writer(tmp_path / "s", who, 200) for who in ("anna", "ben", "carl")]
    outputs = [process.communicate(timeout=300) for process in writers]
    assert [process.returncode for process in writers] == [0, 0, 0], [error for _, error in outputs]
    lines = [line.split() for output, _ in outputs for line in output.splitlines()]
    with LabelStore.open(tmp_path / "s") as store:
        current = store.current()
        assert len(lines) == len(current) == 600
        assert len({found.question for found in current}) == 600  # nobody was shown what another looked at
        by_request = {name: int(question) for name, question in lines}
        assert len(by_request) == 600
        connection = sqlite3.connect(tmp_path / "s" / "labels.sqlite3")
        stored = dict(connection.execute("SELECT request, question FROM standing").fetchall())
        events = connection.execute("SELECT count(DISTINCT showing), count(*) FROM event").fetchone()
        connection.close()
        assert stored == by_request
        assert events == (600, 600)


def test_threads_share_a_store(tmp_path: Path) -> None:
    store = make_study(tmp_path / "s", 24)
    people = [store.add_annotator(f"thread {number}").id for number in range(4)]
    errors: list[BaseException] = []

    def work(who: int) -> None:
        try:
            while (showing := store.next(who)) is not None:
                assert store.answer(who, request(), showing.id, "tie", 0.0).stored
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(who,)) for who in people]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert sorted(found.question for found in store.current()) == [row.id for row in store.questions()]


def test_a_kill_in_the_middle_of_writing_loses_nothing_that_was_said(tmp_path: Path) -> None:
    store = make_study(tmp_path / "s", 1)
    store.post([], [replace(pair(0), key=f"more {number}") for number in range(2000)])
    store.close()
    said: list[str] = []
    for number in range(4):
        process = writer(tmp_path / "s", f"person-{number}", 2000)
        assert process.stdout is not None
        for _ in range(20 + 7 * number):
            said.append(process.stdout.readline().split()[0])
        time.sleep(0.003 * number)
        os.kill(process.pid, signal.SIGKILL)
        said += [line.split()[0] for line in process.communicate()[0].splitlines() if line.count(" ") == 1]
        with LabelStore.open(tmp_path / "s") as store:
            current = store.current()
        connection = sqlite3.connect(tmp_path / "s" / "labels.sqlite3")
        stored = [name for (name,) in connection.execute("SELECT request FROM standing ORDER BY id")]
        (answers,) = connection.execute("SELECT sum(answers) FROM question").fetchone()
        (events,) = connection.execute("SELECT count(*) FROM event").fetchone()
        connection.close()
        # Every answer that was reported, and of each killed process at most the one it was about to report.
        assert set(said) <= set(stored)
        assert len(stored) - len(said) <= number + 1
        assert len(current) == len(stored) == answers == events


def test_a_child_of_a_fork_has_connections_of_its_own(tmp_path: Path) -> None:
    script = """
import os, sys
from prefrl.label.store import LabelStore
store = LabelStore.open(sys.argv[1])
me = store.add_annotator("anna").id
first = store.next(me)
store.version()
parents = list(store._connections._idle)
assert parents
child = os.fork()
if child == 0:
    showing = store.next(me)
    store.answer(me, "of-the-child", showing.id, "left", 1.0)
    store.version()
    os._exit(any(mine is other for mine in parents for other in store._connections._idle))
assert os.waitpid(child, 0)[1] == 0
store.answer(me, "of-the-parent", first.id, "left", 1.0)
print([found.value for found in store.current()])
"""
    make_study(tmp_path / "s", 3).close()
    found = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "s")], capture_output=True, text=True
    )
    assert found.stdout == "['left', 'left']\n", found.stderr


def test_the_version_moves_with_every_write_of_anybody(tmp_path: Path) -> None:
    store = make_study(tmp_path / "s", 3)
    with LabelStore.open(tmp_path / "s") as other:
        versions = [store.version(), store.version()]
        assert versions[0] == versions[1]
        anna = other.add_annotator("anna").id
        versions.append(store.version())
        showing = store.next(anna)
        versions.append(store.version())
        assert showing is not None
        store.answer(anna, request(), showing.id, "left", 1.0)
        versions.append(store.version())
        store.current()
        assert store.version() == versions[-1]
        assert len(set(versions)) == 4
