"""The file: who may read it, what it refuses to change, and files that are no study, or damaged."""

import errno
import random
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from labelling_study import make_study, pair, request, segment
from mutating import flipped

from prefrl.label.records import StudySettings
from prefrl.label.store import LabelStore, database


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study with two answers, one of them taken back."""
    with make_study(tmp_path / "s", 3, instructions="Look twice.") as store:
        anna = store.add_annotator("anna").id
        for _ in range(2):
            showing = store.next(anna)
            assert showing is not None
            store.answer(anna, request(), showing.id, "left", 1.0, 1, [{"kind": "play", "at_ms": 5}])
        store.undo(anna, request())
    return tmp_path / "s" / "labels.sqlite3"


def test_only_the_owner_may_read(study: Path) -> None:
    assert stat.S_IMODE(study.parent.stat().st_mode) == 0o700
    with LabelStore.open(study.parent) as store:
        store.add_annotator("ben")
        files = list(study.parent.iterdir())
        assert {file.name for file in files} == {f"labels.sqlite3{end}" for end in ("", "-wal", "-shm")}
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert [file.name for file in study.parent.iterdir()] == ["labels.sqlite3"]


def test_a_full_disk_is_one_sentence_and_leaves_no_study(tmp_path: Path) -> None:
    code = (
        "import resource, sys; from prefrl.label.records import StudySettings; "
        "from prefrl.label.store import LabelStore; hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (9000, hard)); "
        "LabelStore.create(sys.argv[1], StudySettings())"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "s")]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.stderr.splitlines()[-1].startswith("OSError: [Errno ")
    assert "the disk is full" in found.stderr.splitlines()[-1]
    assert not list((tmp_path / "s").iterdir())


@pytest.mark.parametrize(
    ("pragma", "number", "told"),
    [("query_only = ON", errno.EROFS, "may not be written"), ("busy_timeout = 1", errno.EBUSY, "has kept")],
)
def test_what_the_machine_refuses_is_not_called_damage(
    study: Path, pragma: str, number: int, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = database._connect

    def hindered(path: Path) -> sqlite3.Connection:
        connection = connect(path)
        connection.execute(f"PRAGMA {pragma}")
        return connection

    with LabelStore.open(study.parent) as other, other._connections.writing():
        monkeypatch.setattr(database, "_connect", hindered)
        with LabelStore.open(study.parent) as store, pytest.raises(OSError, match=told) as caught:
            store.add_annotator("ben")
    assert (caught.value.errno, caught.value.filename) == (number, str(study))


def test_settings_come_back(tmp_path: Path) -> None:
    settings = StudySettings(question="Which?", kind="ranking", environment="Pendulum-v1",
                             env_args=("g=9.8",), width=64, fps=10, codec="h264",
                             instructions="Ünïcode", practice=3)  # fmt: skip
    LabelStore.create(tmp_path / "deep" / "s", settings).close()
    with LabelStore.open(tmp_path / "deep" / "s") as store:
        assert store.study == settings


def test_nothing_is_made_where_something_is(study: Path, tmp_path: Path) -> None:
    before = study.read_bytes()
    with pytest.raises(FileExistsError, match="there is a study in"):
        LabelStore.create(study.parent, StudySettings())
    assert study.read_bytes() == before
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    with pytest.raises(FileExistsError, match=r"is not empty \(it holds mine.txt\)"):
        LabelStore.create(tmp_path / "full", StudySettings())
    with pytest.raises(FileExistsError, match="is a file"):
        LabelStore.create(study, StudySettings())


@pytest.mark.parametrize("table", ["answer", "event"])
@pytest.mark.parametrize(
    "statement",
    ["UPDATE {0} SET id = 99", "DELETE FROM {0}", "INSERT OR REPLACE INTO {0} SELECT * FROM {0} LIMIT 1"],
)
def test_answers_are_only_ever_added(study: Path, table: str, statement: str) -> None:
    connection = sqlite3.connect(study)
    count = connection.execute(f"SELECT * FROM {table}").fetchall()
    with pytest.raises(sqlite3.IntegrityError, match=r"never change|are kept"):
        connection.execute(statement.format(table))
    assert connection.execute(f"SELECT * FROM {table}").fetchall() == count
    connection.close()


@pytest.mark.parametrize(
    "row",
    [
        "(99, 'request-new', 1, 1, 'tie', NULL, 1.0, 0, 0, 0)",
        "(99, (SELECT request FROM answer), 3, 1, 'tie', NULL, 1.0, 0, 0, 0)",
        "(99, 'request-new', 3, 1, 'undo', (SELECT max(undoes) FROM answer), 1.0, 0, 0, 0)",
    ],
)
def test_replacing_an_answer_is_refused_whatever_is_the_same(study: Path, row: str) -> None:
    connection = sqlite3.connect(study)
    with pytest.raises(sqlite3.IntegrityError, match="never change"):
        connection.execute(f"INSERT OR REPLACE INTO answer VALUES {row}")
    assert connection.execute("SELECT count(*) FROM answer").fetchone() == (3,)
    connection.close()


def test_tables_refuse_what_python_let_through(study: Path) -> None:
    connection = sqlite3.connect(study)
    row = "INSERT INTO answer (request, showing, annotator, value, seconds, plays, late, answered_ns) VALUES "
    for values in ("(NULL, 3, 1, 'left', 1.0, 0, 0, 0)", "('r-000001', 3, 1, 'left', NULL, 0, 0, 0)",
                   "('r-000001', 3, 1, 'left', 1e6, 0, 0, 0)",
                   "('r-000001', 3, 1, 'left', 'x', 0, 0, 0)", "('r-000001', 3, 1, 'undo', 1.0, 0, 0, 0)",
                   "('r-000001', 3, 1, 'left', 1.0, -1, 0, 0)",
                   "('r-000001', 1, 1, 'left', 1.0, 0, 0, 0)"):  # fmt: skip
        with pytest.raises(sqlite3.IntegrityError):
            connection.execute(row + values)
    connection.close()


def foreign(path: Path) -> None:
    path.unlink()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE answer (id INTEGER)")
    connection.commit()
    connection.close()


def edited(*statements: str) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        connection = sqlite3.connect(path)
        for statement in statements:
            connection.execute(statement)
        connection.commit()
        connection.close()

    return edit


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4096])


def spoilt(path: Path) -> None:
    """Overwrite all pages but the first two."""
    content = path.read_bytes()
    path.write_bytes(content[:8192] + b"\xff" * (len(content) - 8192))


BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "foreign": (foreign, "no labelling study, or another program's"),
    "newer": (edited("PRAGMA user_version = 2"), "version 2; this release of prefrl reads version 1"),
    "truncated": (cut, "damaged"),
    "one byte": (lambda path: path.write_bytes(b"S"), "no labelling study"),
    "empty": (lambda path: path.write_bytes(b""), "no labelling study"),
    "text": (lambda path: path.write_text("dear database\n" * 500), "damaged or no file"),
    "pages": (spoilt, "damaged"),
    "a trigger": (edited("CREATE TRIGGER t AFTER INSERT ON answer BEGIN DELETE FROM question; END"),
                  "tables differ from those of version 1: t"),
    "a table less": (edited("DROP VIEW current"), "tables differ from those of version 1: current"),
    "no study": (edited("DELETE FROM study"), "damaged or no file of a labelling study"),
    "no JSON": (edited("UPDATE study SET settings = '{'"), "labels.sqlite3"),
    "other settings": (edited("UPDATE study SET settings = '{\"kind\": \"poem\"}'"), "kind is 'poem'"),
    "a huge number": (edited("UPDATE study SET settings = '{\"fps\": 1e999}'"), "labels.sqlite3"),
}  # fmt: skip


@pytest.mark.parametrize("kind", list(BAD))
def test_a_bad_file_is_one_clear_error(study: Path, kind: str) -> None:
    spoil, message = BAD[kind]
    spoil(study)
    with pytest.raises(ValueError, match=message) as caught:
        LabelStore.open(study.parent)
    assert type(caught.value) is ValueError
    assert "\n" not in str(caught.value)
    assert str(study) in str(caught.value)


def test_a_missing_study(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        LabelStore.open(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="there is no file of a labelling study"):
        LabelStore.open(tmp_path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "labels.sqlite3").mkdir()
    with pytest.raises(IsADirectoryError):
        LabelStore.open(tmp_path)


def test_damaged_files_say_so_or_say_what_is_in_them(study: Path) -> None:
    content, rng = study.read_bytes(), random.Random(7)
    messages: list[str] = []
    for _ in range(150):
        study.write_bytes(flipped(content, rng))
        try:
            with LabelStore.open(study.parent) as store:
                store.current()
                store.questions()
                for number in range(6):
                    store.segment(segment(number).digest)
        except (ValueError, LookupError) as error:
            messages.append(str(error))
        for name in ("labels.sqlite3-wal", "labels.sqlite3-shm"):
            (study.parent / name).unlink(missing_ok=True)
    assert len(messages) > 40
    assert not any("\n" in message for message in messages)


def test_a_segment_that_is_not_what_its_digest_says(study: Path) -> None:
    edited("UPDATE segment SET arrays = (SELECT arrays FROM segment WHERE id = 2) WHERE id = 1")(study)
    with (
        LabelStore.open(study.parent) as store,
        pytest.raises(ValueError, match="something else than its digest"),
    ):
        store.segment(segment(0).digest)


def test_damage_after_opening_is_the_same_error(study: Path) -> None:
    store = LabelStore.open(study.parent)
    spoilt(study)
    with pytest.raises(ValueError, match=r"labels\.sqlite3 is damaged"):
        store.current()


def test_a_closed_store_says_so(study: Path) -> None:
    store = LabelStore.open(study.parent)
    store.close()
    store.close()
    with pytest.raises(ValueError, match="is closed"):
        store.current()


def test_an_old_sqlite_is_refused(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database.sqlite3, "sqlite_version_info", (3, 36, 0))
    with pytest.raises(ImportError, match=r"SQLite 3\.37 or newer"):
        LabelStore.open(study.parent)
    with pytest.raises(ImportError, match=r"SQLite 3\.37 or newer"):
        LabelStore.create(tmp_path / "other", StudySettings())


def test_the_store_needs_little() -> None:
    code = "import sys, prefrl.label.store, prefrl.label.records; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(found.stdout.split()) & {
        "torch",
        "gymnasium",
        "starlette",
        "uvicorn",
        "av",
        "tyro",
        "rich",
    }


def test_a_failed_post_leaves_nothing(study: Path) -> None:
    with LabelStore.open(study.parent) as store:
        before = store.totals()
        with pytest.raises(ValueError, match="which is not there"):
            store.post([segment(20), segment(21), segment(22)], [pair(10), pair(25)])
        assert store.totals() == before


@pytest.mark.parametrize("fate", ["deleted", "moved", "another"])
def test_a_study_that_is_gone_is_missed_at_once(study: Path, fate: str) -> None:
    """SQLite would go on with the file that has no name any more, and what is written there is lost."""
    with LabelStore.open(study.parent) as store:
        anna = store.annotators()[0].id
        showing = store.next(anna)
        assert showing is not None
        store.version()
        if fate == "moved":
            study.parent.rename(study.parent.with_name("moved"))
        else:
            study.unlink()
        if fate == "another":
            make_study(study.parent.with_name("twin"), 3).close()
            study.parent.with_name("twin").joinpath(study.name).rename(study)
        message = "is another one than before" if fate == "another" else "is gone: it was deleted or moved"
        for use in (
            store.version,
            store.current,
            lambda: store.answer(anna, request(), showing.id, "left", 1.0),
        ):
            with pytest.raises(FileNotFoundError, match=message):
                use()
