"""What is read out of a study: answers that stand, questions, segments, counts."""

from __future__ import annotations

import json
import reprlib
import sqlite3
from collections import defaultdict
from typing import Any

from prefrl.label.records import (
    Clip,
    CurrentAnswer,
    Item,
    Kind,
    QuestionRow,
    Totals,
)

from .values import meaning


def current(connection: sqlite3.Connection, kind: Kind) -> list[CurrentAnswer]:
    """See :meth:`LabelStore.current`."""
    rows = connection.execute(
        """SELECT standing.id, standing.question, coalesce(question.key, first.key), question.session,
        annotator.name, standing.places, standing.value, standing.seconds, standing.plays, standing.late,
        question.repeats, question.check_answer, question.practice FROM standing
        JOIN question ON question.id = standing.question JOIN annotator ON annotator.id = standing.annotator
        LEFT JOIN question AS first ON first.id = question.repeats ORDER BY standing.id"""
    ).fetchall()
    items = _items(connection)
    found = []
    for number, question, key, session, name, places, value, *rest in rows:
        seconds, plays, late, repeats, right, practice = rest
        order = tuple(json.loads(places))
        says = meaning(kind, value, order)
        check = None if right is None else says.text() == right
        found.append(CurrentAnswer(
            number, question, key, session, kind, items[question], name, order, value, *says,
            seconds, plays, bool(late), repeats, check, bool(practice),
        ))  # fmt: skip
    return found


def _items(connection: sqlite3.Connection) -> dict[int, tuple[Item, ...]]:
    """Return the items of every question, in their places."""
    found: dict[int, list[Item]] = defaultdict(list)
    rows = connection.execute(
        """SELECT item.question, segment.digest, item.factor FROM item
        LEFT JOIN segment ON segment.id = item.segment ORDER BY item.question, item.place"""
    )
    for question, digest, factor in rows:
        found[question].append(Item(digest, factor))
    return {question: tuple(items) for question, items in found.items()}


def questions(connection: sqlite3.Connection, session: str | None) -> list[QuestionRow]:
    """See :meth:`LabelStore.questions`."""
    rows = connection.execute(
        """SELECT id, key, session, priority, ready, answers, check_answer, practice FROM question
        WHERE repeats IS NULL AND (?1 IS NULL OR session = ?1) ORDER BY id""",
        (session,),
    ).fetchall()
    items = _items(connection)
    return [
        QuestionRow(number, key, whose, items[number], priority, bool(ready), answers, right, bool(practice))
        for number, key, whose, priority, ready, answers, right, practice in rows
    ]


def segment_row(connection: sqlite3.Connection, digest: str) -> tuple[Any, ...]:
    """Return digest, arrays, states and frames of a segment.

    Raises:
        LookupError: if there is none.
    """
    row: tuple[Any, ...] | None = connection.execute(
        "SELECT digest, arrays, states, frames FROM segment WHERE digest = ?", (digest,)
    ).fetchone()
    if row is None:
        raise LookupError(f"there is no segment {reprlib.repr(digest)}")
    return row


def clip(connection: sqlite3.Connection, digest: str) -> Clip | None:
    """See :meth:`LabelStore.clip`."""
    row = connection.execute(
        "SELECT media, mime, frames, width, height, fps, encoder FROM clip WHERE digest = ?", (digest,)
    ).fetchone()
    return None if row is None else Clip(*row)


def totals(connection: sqlite3.Connection) -> Totals:
    """See :meth:`LabelStore.totals`."""
    row = connection.execute(
        """SELECT sum(repeats IS NULL), sum(repeats IS NULL AND ready), sum(repeats IS NULL AND practice),
        sum(check_answer IS NOT NULL AND NOT practice), sum(repeats IS NOT NULL),
        (SELECT count(*) FROM segment),
        (SELECT count(*) FROM clip), (SELECT count(*) FROM showing),
        (SELECT count(*) FROM answer WHERE undoes IS NULL),
        (SELECT count(*) FROM answer WHERE undoes IS NOT NULL)
        FROM question"""
    ).fetchone()
    return Totals(*(int(count or 0) for count in row))
