"""What is put into a study: segments, questions, clips."""

from __future__ import annotations

import math
import re
import reprlib
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefrl.label.records import MOST_ITEMS, MOST_NAME, Clip, Item, NewQuestion, StudySettings

from .packing import MOST_BYTES
from .values import check_answer_text

MOST_KEY = 200
"""Longest key of a question, or name of a session, in characters."""

_MIME = re.compile(r"[a-z]+/[a-z0-9.+-]+(; ?codecs=[\"a-zA-Z0-9., -]+)?")

SegmentColumns = tuple[str, bytes, bytes | None, bytes | None]
CheckedQuestion = tuple[NewQuestion, str | None]


def check_text(name: str, value: Any, most: int, *, least: int = 1) -> str:
    """Return a text that a database and a page can hold.

    Raises:
        ValueError: if it is none, too short or too long, or holds what is no character.
    """
    if not isinstance(value, str) or not least <= len(value) <= most:
        raise ValueError(
            f"{name} is {reprlib.repr(value)}; it must be a text of {least} to {most} characters"
        )
    if "\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value):
        raise ValueError(f"{name} is {reprlib.repr(value)}; it must hold no null and no half characters")
    return value


def check_question(question: NewQuestion, study: StudySettings) -> str | None:
    """Refuse a question that does not suit the study; return its known answer as it is stored.

    Raises:
        ValueError: naming what is wrong.
    """
    if not isinstance(question, NewQuestion):
        raise ValueError(f"a question is a {type(question).__name__}; it must be a NewQuestion")
    check_text("key", question.key, MOST_KEY)
    check_text("session", question.session, MOST_KEY, least=0)
    if type(question.priority) not in (int, float) or not math.isfinite(question.priority):
        raise ValueError(f"priority is {question.priority!r}; it must be a finite number")
    count, kind = len(question.items), study.kind
    low, high = {"pair": (2, 2), "ranking": (2, MOST_ITEMS), "rating": (1, 1)}[kind]
    if not low <= count <= high:
        raise ValueError(f"question {question.key!r} has {count} items; a {kind} has "
                         f"{low if low == high else f'{low} to {high}'}")  # fmt: skip
    _check_items(question, kind)
    if question.check_answer is None:
        return None
    return check_answer_text(kind, question.check_answer, count=count, ratings=study.ratings)


def _check_items(question: NewQuestion, kind: str) -> None:
    factors = [item.factor for item in question.items if item.factor is not None]
    if factors and (kind != "ranking" or len(factors) != len(question.items)):
        raise ValueError(f"question {question.key!r} has factors; only a ranking may, and then all its items "
                         "must be factors")  # fmt: skip
    for factor in factors:
        check_text("a factor", factor, MOST_NAME)
    if len(set(factors)) < len(factors):
        raise ValueError(f"question {question.key!r} names a factor twice: {', '.join(factors)}")


def post(
    connection: sqlite3.Connection,
    rows: Sequence[SegmentColumns],
    checked: Sequence[CheckedQuestion],
    now: int,
) -> int:
    """Store segments and questions with their known answers; return how many questions are new."""
    post_segments(connection, rows)
    return sum(post_question(connection, question, right, now) for question, right in checked)


def check_owner(connection: sqlite3.Connection, owner: str, folder: Path) -> None:
    """Raise ValueError for a study in which somebody else asks, practice and checks apart."""
    (others,) = connection.execute(
        "SELECT count(*) FROM question WHERE repeats IS NULL AND practice = 0 AND check_answer IS NULL "
        "AND session <> ?",
        (owner,),
    ).fetchone()
    if others:
        raise ValueError(f"{folder} holds {others} questions of another run or of nobody's; each run needs a "
                         "folder of its own")  # fmt: skip


def post_segments(connection: sqlite3.Connection, rows: Sequence[SegmentColumns]) -> None:
    """Store segments that are not there yet."""
    connection.executemany(
        "INSERT INTO segment (digest, arrays, states, frames) VALUES (?, ?, ?, ?) "
        "ON CONFLICT (digest) DO NOTHING",
        rows,
    )


def post_question(
    connection: sqlite3.Connection, question: NewQuestion, check_answer: str | None, now: int
) -> bool:
    """Store a question whose key is not there yet; return whether it is new.

    Raises:
        ValueError: if it is about a segment that is not there.
    """
    segments = [_segment(connection, item) for item in question.items]
    ready = all(clip for _, clip in segments)
    cursor = connection.execute(
        "INSERT INTO question (key, session, priority, practice, check_answer, ready, open, created_ns) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO NOTHING",
        (question.key, question.session, float(question.priority), int(question.practice), check_answer,
         int(ready), int(ready), now),
    )  # fmt: skip
    if not cursor.rowcount:
        return False
    number = cursor.lastrowid
    connection.executemany(
        "INSERT INTO item (question, place, segment, factor) VALUES (?, ?, ?, ?)",
        [(number, place, segment, item.factor)
         for place, (item, (segment, _)) in enumerate(zip(question.items, segments, strict=True))],
    )  # fmt: skip
    return True


def _segment(connection: sqlite3.Connection, item: Item) -> tuple[int | None, bool]:
    """Return the number of an item's segment, and whether what is to be shown is there."""
    if item.segment is None:
        return None, True
    row = connection.execute("SELECT id, clip FROM segment WHERE digest = ?", (item.segment,)).fetchone()
    if row is None:
        raise ValueError(f"a question is about the segment {reprlib.repr(item.segment)}, which is not there")
    return row[0], row[1] is not None


def waiting_rows(connection: sqlite3.Connection, limit: int) -> list[tuple[Any, ...]]:
    """Return digest, arrays, states and frames of segments that questions wait for, the most wanted first."""
    digests = connection.execute(
        "SELECT segment.id FROM question JOIN item ON item.question = question.id "
        "JOIN segment ON segment.id = item.segment WHERE question.ready = 0 AND segment.clip IS NULL "
        "GROUP BY segment.id ORDER BY max(question.practice) DESC, max(question.priority) DESC, "
        "min(question.id), item.place LIMIT ?",
        (limit,),
    ).fetchall()
    return [
        connection.execute("SELECT digest, arrays, states, frames FROM segment WHERE id = ?", row).fetchone()
        for row in digests
    ]


def check_clip(clip: Clip) -> None:
    """Refuse a clip that cannot be kept or sent.

    Raises:
        ValueError: naming what is wrong.
    """
    if not isinstance(clip.media, bytes) or not 0 < len(clip.media) <= MOST_BYTES:
        raise ValueError(f"media is {reprlib.repr(clip.media)}; it must be 1 to {MOST_BYTES} bytes")
    if not _MIME.fullmatch(clip.mime):
        raise ValueError(f"mime is {clip.mime!r}; it must be a type of media, as in 'video/webm'")
    for name in ("frames", "width", "height", "fps"):
        value = getattr(clip, name)
        if not 0 < value < 1_000_000:
            raise ValueError(f"{name} is {value}; it must be above 0 and below a million")


def put_clip(connection: sqlite3.Connection, segment_digest: str, clip: Clip) -> None:
    """Store the clip of a segment that has none yet, and open the questions that waited for it last.

    Raises:
        LookupError: if there is no such segment.
    """
    row = connection.execute("SELECT id, clip FROM segment WHERE digest = ?", (segment_digest,)).fetchone()
    if row is None:
        raise LookupError(f"there is no segment {reprlib.repr(segment_digest)}")
    segment, there = row
    if there is not None:
        return
    connection.execute(
        "INSERT INTO clip (digest, media, mime, frames, width, height, fps, encoder) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (digest) DO NOTHING",
        (clip.digest, clip.media, clip.mime, int(clip.frames), int(clip.width), int(clip.height),
         float(clip.fps), clip.encoder),
    )  # fmt: skip
    connection.execute("UPDATE segment SET clip = (SELECT id FROM clip WHERE digest = ?) WHERE id = ?",
                       (clip.digest, segment))  # fmt: skip
    connection.execute(
        "UPDATE question SET ready = 1, open = 1 WHERE ready = 0 "
        "AND id IN (SELECT question FROM item WHERE segment = ?) AND NOT EXISTS (SELECT 1 FROM item "
        "JOIN segment ON segment.id = item.segment WHERE item.question = question.id "
        "AND segment.clip IS NULL)",
        (segment,),
    )
