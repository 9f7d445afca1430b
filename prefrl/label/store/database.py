"""The file of a study: its tables, how it is made and opened, and connections to it."""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from prefrl.reading.errors import check_file, one_line, reading, refusal

FILE = "labels.sqlite3"
"""Name of the file in a study's folder."""

APPLICATION_ID = 0x70726C62
"""Number in the file that says whose it is: "prlb"."""

VERSION = 1
"""Version of the tables, in the file's ``user_version``."""

OLDEST = (3, 37)
"""First version of SQLite with strict tables."""

TIMEOUT = 10.0
"""Seconds that a write waits for another one."""

_SYSTEM = {
    "disk is full": (errno.ENOSPC, "the disk is full"),
    "disk I/O error": (errno.EIO, "the disk is full, or cannot be read or written"),
    "readonly database": (errno.EROFS, "the file, or its folder, may not be written; a study needs both"),
    "unable to open": (
        errno.EACCES,
        "the file, or its folder, may not be read and written; a study needs both",
    ),
    "database is locked": (errno.EBUSY, f"another program has kept the file for {TIMEOUT:g} seconds"),
}
"""What SQLite says of the machine rather than of the file, and how it is told."""

_SAME = {
    "answer": "id = NEW.id OR request = NEW.request OR undoes = NEW.undoes "
    "OR (showing = NEW.showing AND undoes IS NULL AND NEW.undoes IS NULL)",
    "event": "id = NEW.id",
}
"""Rows that INSERT OR REPLACE would take away, for which SQLite calls no trigger of DELETE by default."""

_APPEND_ONLY = "\n".join(f"""
CREATE TRIGGER {table}_stays BEFORE UPDATE ON {table} BEGIN SELECT RAISE(ABORT, '{table}s never change'); END;
CREATE TRIGGER {table}_is_kept BEFORE DELETE ON {table} BEGIN SELECT RAISE(ABORT, '{table}s are kept'); END;
CREATE TRIGGER {table}_is_new BEFORE INSERT ON {table} WHEN EXISTS (SELECT 1 FROM {table} WHERE {same})
  BEGIN SELECT RAISE(ABORT, '{table}s never change'); END;"""
    for table, same in _SAME.items())  # fmt: skip

SCHEMA = f"""
CREATE TABLE study (
  id INTEGER PRIMARY KEY CHECK (id = 1), settings TEXT NOT NULL, created_ns INTEGER NOT NULL
) STRICT;
CREATE TABLE clip (
  id INTEGER PRIMARY KEY, digest TEXT NOT NULL UNIQUE, media BLOB NOT NULL, mime TEXT NOT NULL,
  frames INTEGER NOT NULL CHECK (frames > 0), width INTEGER NOT NULL CHECK (width > 0),
  height INTEGER NOT NULL CHECK (height > 0), fps REAL NOT NULL CHECK (fps > 0), encoder TEXT NOT NULL
) STRICT;
CREATE TABLE segment (
  id INTEGER PRIMARY KEY, digest TEXT NOT NULL UNIQUE, arrays BLOB NOT NULL, states BLOB, frames BLOB,
  clip INTEGER REFERENCES clip
) STRICT;
CREATE TABLE annotator (
  id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, created_ns INTEGER NOT NULL
) STRICT;
CREATE TABLE link (
  id INTEGER PRIMARY KEY, annotator INTEGER NOT NULL REFERENCES annotator, token_hash BLOB NOT NULL UNIQUE,
  created_ns INTEGER NOT NULL, used_ns INTEGER
) STRICT;
CREATE TABLE cookie (
  id INTEGER PRIMARY KEY, annotator INTEGER NOT NULL REFERENCES annotator, secret_hash BLOB NOT NULL UNIQUE,
  created_ns INTEGER NOT NULL
) STRICT;
CREATE TABLE question (
  id INTEGER PRIMARY KEY, key TEXT UNIQUE, session TEXT NOT NULL, priority REAL NOT NULL,
  practice INTEGER NOT NULL CHECK (practice IN (0, 1)), check_answer TEXT,
  repeats INTEGER REFERENCES question, annotator INTEGER REFERENCES annotator,
  ready INTEGER NOT NULL CHECK (ready IN (0, 1)), answers INTEGER NOT NULL DEFAULT 0 CHECK (answers >= 0),
  open INTEGER NOT NULL CHECK (open IN (0, 1)), created_ns INTEGER NOT NULL,
  CHECK ((key IS NULL) = (repeats IS NOT NULL) AND (repeats IS NULL) = (annotator IS NULL))
) STRICT;
CREATE INDEX question_open ON question (practice, priority DESC, id) WHERE open = 1;
CREATE INDEX question_waiting ON question (practice DESC, priority DESC, id) WHERE ready = 0;
CREATE INDEX question_repeats ON question (annotator, repeats) WHERE repeats IS NOT NULL;
CREATE INDEX question_session ON question (session);
CREATE TABLE item (
  question INTEGER NOT NULL REFERENCES question, place INTEGER NOT NULL CHECK (place >= 0),
  segment INTEGER REFERENCES segment, factor TEXT,
  PRIMARY KEY (question, place), CHECK ((segment IS NULL) = (factor IS NOT NULL))
) STRICT, WITHOUT ROWID;
CREATE INDEX item_segment ON item (segment) WHERE segment IS NOT NULL;
CREATE TABLE showing (
  id INTEGER PRIMARY KEY, question INTEGER NOT NULL REFERENCES question,
  annotator INTEGER NOT NULL REFERENCES annotator, places TEXT NOT NULL, tab TEXT NOT NULL,
  again INTEGER UNIQUE REFERENCES answer, shown_ns INTEGER NOT NULL, lease_until_ns INTEGER NOT NULL
) STRICT;
CREATE INDEX showing_question ON showing (question, annotator);
CREATE INDEX showing_annotator ON showing (annotator, lease_until_ns);
CREATE TABLE answer (
  id INTEGER PRIMARY KEY, request TEXT NOT NULL UNIQUE, showing INTEGER NOT NULL REFERENCES showing,
  annotator INTEGER NOT NULL REFERENCES annotator, value TEXT NOT NULL,
  undoes INTEGER UNIQUE REFERENCES answer,
  seconds REAL NOT NULL CHECK (seconds BETWEEN 0 AND 86400), plays INTEGER NOT NULL CHECK (plays >= 0),
  late INTEGER NOT NULL CHECK (late IN (0, 1)), answered_ns INTEGER NOT NULL,
  CHECK ((value = 'undo') = (undoes IS NOT NULL))
) STRICT;
CREATE UNIQUE INDEX answer_showing ON answer (showing) WHERE undoes IS NULL;
CREATE INDEX answer_annotator ON answer (annotator, id) WHERE undoes IS NULL;
CREATE TABLE event (
  id INTEGER PRIMARY KEY, showing INTEGER NOT NULL REFERENCES showing, kind TEXT NOT NULL,
  at_ms INTEGER NOT NULL CHECK (at_ms >= 0)
) STRICT;
CREATE VIEW standing AS
  SELECT answer.id, answer.request, answer.value, answer.seconds, answer.plays, answer.late,
    answer.answered_ns, answer.annotator, answer.showing, showing.question, showing.places
  FROM answer JOIN showing ON showing.id = answer.showing
  WHERE answer.undoes IS NULL AND NOT EXISTS (SELECT 1 FROM answer AS undo WHERE undo.undoes = answer.id);
CREATE VIEW current AS
  SELECT standing.*, question.practice, question.repeats,
    CASE standing.value WHEN 'tie' THEN 0.5 WHEN 'left' THEN json_extract(standing.places, '$[0]') + 0.0
      WHEN 'right' THEN json_extract(standing.places, '$[1]') + 0.0 END AS label
  FROM standing JOIN question ON question.id = standing.question;
{_APPEND_ONLY}
"""
"""The tables. ``standing`` is what remains after undos; ``current`` also says what pairs' answers mean."""


def check_new(folder: Path) -> None:
    """Raise FileExistsError or PermissionError unless a new study can be made in a folder."""
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; give a folder, new or empty")
    if (folder / FILE).exists():
        raise FileExistsError(f"there is a study in {folder} already")
    others = [entry.name for entry in folder.iterdir()] if folder.exists() else []
    if others := sorted(name for name in others if not name.startswith(".labels.")):
        raise FileExistsError(f"{folder} is not empty (it holds {others[0]}); give a folder, new or empty")
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(f"a study cannot be made in {folder}: {there} may not be written")


def create_database(
    path: Path, settings: str, now: int, fill: Callable[[sqlite3.Connection], object]
) -> None:
    """Make the file of a new study, whole or not at all, for its owner only.

    Args:
        path: the file; its folder exists.
        settings: of the study, as JSON.
        now: the time, in nanoseconds since 1970.
        fill: puts in what the study begins with.

    Raises:
        FileExistsError: if there is one.
        ImportError: if this Python's SQLite is too old.
    """
    check_sqlite()
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.{threading.get_ident()}.tmp{path.suffix}")
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        with _system_errors(path), closing(_connect(temporary)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("BEGIN IMMEDIATE")
            _make_tables(connection)
            connection.execute("INSERT INTO study VALUES (1, ?, ?)", (settings, now))
            fill(connection)
            connection.execute("COMMIT")
        try:
            os.link(temporary, path)  # refused if the name is taken, in one step
        except FileExistsError:
            raise FileExistsError(f"there is a study in {path.parent} already") from None
    finally:
        for ending in ("", "-wal", "-shm"):
            temporary.with_name(temporary.name + ending).unlink(missing_ok=True)


@contextmanager
def _system_errors(path: Path) -> Iterator[None]:
    """Turn what SQLite says of the machine (full, read-only, locked) into an OSError that names the file."""
    try:
        yield
    except sqlite3.OperationalError as error:
        for text, (number, told) in _SYSTEM.items():
            if text in str(error):
                raise OSError(number, told, str(path)) from error
        raise


def check_sqlite() -> None:
    """Raise ImportError if this Python's SQLite is too old."""
    if sqlite3.sqlite_version_info < OLDEST:
        raise ImportError(f"labelling needs SQLite {'.'.join(map(str, OLDEST))} or newer; this Python has "
                          f"{sqlite3.sqlite_version}")  # fmt: skip


def _make_tables(connection: sqlite3.Connection) -> None:
    statement = ""
    for line in SCHEMA.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            connection.execute(statement)
            statement = ""
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {VERSION}")


def _connect(path: Path) -> sqlite3.Connection:
    # By a URI, since a plain name would make a file where there is none.
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", timeout=TIMEOUT, isolation_level=None,
                                 check_same_thread=False, uri=True)  # fmt: skip
    for pragma in ("trusted_schema = OFF", "foreign_keys = ON", "synchronous = FULL", "cell_size_check = ON"):
        connection.execute(f"PRAGMA {pragma}")
    return connection


def _contents(connection: sqlite3.Connection) -> set[tuple[str, str, str]]:
    rows = connection.execute("SELECT type, name, coalesce(sql, '') FROM sqlite_schema")
    return {
        (str(kind), str(name), str(sql)) for kind, name, sql in rows if not name.startswith("sqlite_stat")
    }


def check_database(path: Path) -> None:
    """Raise ValueError, in one sentence, for a file that is no study, of a newer version, or damaged.

    Raises:
        FileNotFoundError: if there is none.
    """
    check_sqlite()
    check_file(path, "file of a labelling study")
    with (
        reading(path, "file of a labelling study"),
        _system_errors(path),
        closing(_connect(path)) as connection,
    ):
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if application != APPLICATION_ID:
            raise ValueError(f"it is no labelling study, or another program's (application_id {application})")
        if version != VERSION:
            raise ValueError(f"its tables have version {version}; this release of prefrl reads version "
                             f"{VERSION}")  # fmt: skip
        with closing(sqlite3.connect(":memory:")) as twin:
            _make_tables(twin)
            differ = _contents(twin) ^ _contents(connection)
        if differ:
            raise ValueError(f"its tables differ from those of version {VERSION}: {sorted(differ)[0][1]}")
        (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise ValueError(f"it is damaged: {found}")


_OF_PARENTS: list[object] = []
"""Connections that a fork brought along: SQLite must neither use nor close them here."""


class Connections:
    """Connections to one file, as many as there are threads at work at the same time.

    A child of a fork gets its own.
    """

    def __init__(self, path: Path):
        self.path = path
        self._lock = threading.Lock()
        self._idle: list[sqlite3.Connection] = []
        self._watcher: sqlite3.Connection | None = None
        self._process = os.getpid()
        self._closed = False
        self._file: tuple[int, int] | None = None  # device and number of the file, once there is a connection

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection that sees the file as it is now, whatever others write meanwhile."""
        with self._transaction("BEGIN") as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection that alone may write; what it wrote is kept if no exception comes."""
        with self._transaction("BEGIN IMMEDIATE") as connection:
            yield connection

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        connection = self._take()
        try:
            with self._errors():
                connection.execute(begin)
                yield connection
                connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            self._give(connection)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn damage that comes to light later into the sentence that opening would have said.

        So with what the machine refuses.
        """
        try:
            with _system_errors(self.path):
                yield
        except sqlite3.DatabaseError as error:
            if type(error) is not sqlite3.DatabaseError:  # the others are about a statement, or locks
                raise
            raise refusal(self.path, f"{self.path} is damaged ({one_line(error)})") from error

    def version(self) -> int:
        """Return a number that changes whenever somebody has written to the file."""
        with self._lock, self._errors():
            self._check()
            if self._watcher is None:
                self._watcher = _connect(self.path)
            return int(self._watcher.execute("PRAGMA data_version").fetchone()[0])

    def close(self) -> None:
        """Close all connections."""
        with self._lock:
            if self._closed:
                return
            self._check_process()
            self._closed = True
            for connection in (*self._idle, *([self._watcher] if self._watcher else ())):
                connection.close()
            self._idle, self._watcher = [], None

    def _take(self) -> sqlite3.Connection:
        with self._lock:
            self._check()
            if self._idle:
                return self._idle.pop()
        with self._errors():
            return _connect(self.path)

    def _give(self, connection: sqlite3.Connection) -> None:
        with self._lock:
            if self._closed:
                connection.close()
            else:
                self._idle.append(connection)

    def _check(self) -> None:
        """Refuse a file that is gone: SQLite would go on with it, and what is written there is lost."""
        self._check_process()
        if self._closed:
            raise ValueError(f"the store of {self.path.parent} is closed")
        try:
            found = self.path.stat()
        except FileNotFoundError:
            raise FileNotFoundError(
                f"the study in {self.path.parent} is gone: it was deleted or moved"
            ) from None
        self._file = self._file or (found.st_dev, found.st_ino)
        if self._file != (found.st_dev, found.st_ino):
            raise FileNotFoundError(f"the study in {self.path.parent} is another one than before: the first "
                                    "was deleted or moved")  # fmt: skip

    def _check_process(self) -> None:
        if self._process != os.getpid():
            _OF_PARENTS.extend((*self._idle, self._watcher))
            self._idle, self._watcher, self._process = [], None, os.getpid()
