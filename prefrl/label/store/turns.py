"""What is shown to whom, and what becomes of it: leases, answers, undo, repeats, progress."""

from __future__ import annotations

import json
import secrets
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prefrl.label.records import Progress, Receipt, Showing, ShownItem, StudySettings

from .values import (
    LARGEST,
    MOST_PLAYS,
    check_events,
    check_request,
    check_seconds,
    check_tab,
    check_whole,
    meaning,
    page_value,
    value_text,
)

MOST_HELD = 100
"""Showings that one tab may hold."""

UNANSWERED = "NOT EXISTS (SELECT 1 FROM answer WHERE answer.showing = showing.id AND answer.undoes IS NULL)"
"""Of a showing: nothing was answered to it, not even something that was undone."""

DONE = """EXISTS (SELECT 1 FROM showing AS mine CROSS JOIN answer ON answer.showing = mine.id
  WHERE mine.question = {question} AND mine.annotator = :me AND answer.undoes IS NULL
  AND NOT EXISTS (SELECT 1 FROM answer AS undo WHERE undo.undoes = answer.id))"""
"""Of a question: this person's answer stands. CROSS JOIN: by the question's few showings; SQLite would go
through all answers of the person, for every question."""

FREE = f"""(question.practice OR question.repeats IS NOT NULL OR question.check_answer IS NOT NULL
  OR question.answers + (SELECT count(DISTINCT showing.annotator) FROM showing
    WHERE showing.question = question.id AND showing.annotator <> :me AND showing.lease_until_ns > :now
    AND {UNANSWERED}) < :wanted)"""
"""Of a question: it needs one more answer, even if all who look at it now answer."""

LOOKED_AT = f"""EXISTS (SELECT 1 FROM showing WHERE showing.question = question.id
  AND showing.annotator = :me AND showing.lease_until_ns > :now AND {UNANSWERED})"""
"""Of a question: this person looks at it now, in this tab or in another."""

NEXT = f"""SELECT question.id FROM question WHERE question.open = 1 AND question.practice = :practice
  AND NOT {DONE.format(question="question.id")} AND NOT {LOOKED_AT} AND {FREE}
  ORDER BY question.priority DESC, question.id LIMIT 1"""

REPEAT = f"""SELECT question.id FROM question WHERE question.annotator = :me AND question.repeats IS NOT NULL
  AND NOT {DONE.format(question="question.id")} AND NOT {LOOKED_AT}
  AND {DONE.format(question="question.repeats")} ORDER BY question.id LIMIT 1"""

TAB = f"""SELECT showing.id FROM showing JOIN question ON question.id = showing.question
  WHERE showing.annotator = :me AND showing.tab = :tab AND {UNANSWERED}
  AND NOT {DONE.format(question="question.id")} AND (showing.lease_until_ns > :now OR {FREE})
  ORDER BY showing.again IS NULL, showing.id"""

RENEW = f"""UPDATE showing SET lease_until_ns = :until WHERE id = :id AND annotator = :me AND {UNANSWERED}
  AND (lease_until_ns > :now
    OR EXISTS (SELECT 1 FROM question WHERE question.id = showing.question AND {FREE}))"""


@dataclass(frozen=True)
class Turn:
    """One person at one moment, before one study, within one transaction that may write."""

    connection: sqlite3.Connection
    study: StudySettings
    annotator: int
    now: int
    """Nanoseconds since 1970."""

    @property
    def until(self) -> int:
        """When a lease of now ends."""
        return self.now + self.study.lease_seconds * 1_000_000_000

    def _one(self, query: str, **named: Any) -> Any:
        """Return the first column of the first row; None if there is none."""
        row = self.connection.execute(query, {"me": self.annotator, "now": self.now, "until": self.until,
            "wanted": self.study.annotators_per_question, **named}).fetchone()  # fmt: skip
        return None if row is None else row[0]

    # Showing ---------------------------------------------------------------------------------------------

    def next(self, held: Sequence[int], tab: str) -> Showing | None:
        """See :meth:`LabelStore.next`."""
        check_tab(tab)
        self.renew(held)
        if tab and (found := self._of_tab(tab, held)) is not None:
            return found
        question = self._practice_question()
        if question is None:
            question = self._repeat_question()
        if question is None:
            question = self._one(NEXT, practice=0)
        return None if question is None else self._show(question, self._places(question), tab)

    def renew(self, held: Sequence[int]) -> None:
        """See :meth:`LabelStore.renew`."""
        if not isinstance(held, (list, tuple)) or len(held) > MOST_HELD:
            raise ValueError(f"held must be a list of at most {MOST_HELD} showings")
        for number in [check_whole("a showing that is held", number, 1, LARGEST) for number in held]:
            self._one(RENEW, id=number)

    def _of_tab(self, tab: str, held: Sequence[int]) -> Showing | None:
        """Return what a tab was shown before it was reloaded, and lost sight of."""
        rows = self.connection.execute(TAB, {"me": self.annotator, "now": self.now, "tab": tab,
                                             "wanted": self.study.annotators_per_question})  # fmt: skip
        for (number,) in rows.fetchall():
            if number not in held:
                self.connection.execute("UPDATE showing SET lease_until_ns = ? WHERE id = ?",
                                        (self.until, number))  # fmt: skip
                return self.showing(number)
        return None

    def _practice_question(self) -> int | None:
        if not self.study.practice:
            return None
        begun = self._one(f"""SELECT count(DISTINCT question.id) FROM showing
            JOIN question ON question.id = showing.question WHERE showing.annotator = :me
            AND question.practice AND ({DONE.format(question="question.id")} OR {LOOKED_AT})""")
        return None if begun >= self.study.practice else self._one(NEXT, practice=1)

    def _repeat_question(self) -> int | None:
        """Return a question of this person's that comes again, if one is due."""
        every = self.study.repeat_every
        if not every:
            return None
        answered = self._one("""SELECT count(*) FROM standing JOIN question ON question.id = standing.question
            WHERE standing.annotator = :me AND NOT question.practice AND question.repeats IS NULL""")
        begun = self._one(f"""SELECT count(*) FROM question WHERE question.annotator = :me
            AND question.repeats IS NOT NULL AND {DONE.format(question="question.repeats")}
            AND ({DONE.format(question="question.id")} OR {LOOKED_AT})""")
        if answered // every <= begun:
            return None
        found = self._one(REPEAT)
        return self._make_repeat() if found is None else int(found)

    def _make_repeat(self) -> int | None:
        """Make a question that repeats one of this person's answers, not the last one if there are others."""
        rows = self.connection.execute(
            """SELECT standing.question FROM standing JOIN question ON question.id = standing.question
            WHERE standing.annotator = :me AND NOT question.practice AND question.repeats IS NULL
            AND question.check_answer IS NULL AND standing.value <> 'skip' AND NOT EXISTS (SELECT 1
            FROM question AS other WHERE other.annotator = :me AND other.repeats = question.id)
            ORDER BY standing.id""",
            {"me": self.annotator},
        ).fetchall()
        if not rows:
            return None
        (first,) = secrets.choice(rows[:-1] or rows)
        cursor = self.connection.execute(
            "INSERT INTO question (session, priority, practice, repeats, annotator, ready, open, created_ns) "
            "SELECT session, priority, 0, id, ?, 1, 0, ? FROM question WHERE id = ?",
            (self.annotator, self.now, first),
        )
        self.connection.execute(
            "INSERT INTO item SELECT ?, place, segment, factor FROM item WHERE question = ?",
            (cursor.lastrowid, first),
        )
        return cursor.lastrowid

    def _places(self, question: int) -> list[int]:
        """Return the stored places in an order to show: by a coin, or the reverse of what is repeated."""
        before = self._one("""SELECT standing.places FROM standing JOIN question
            ON question.repeats = standing.question WHERE question.id = :id AND standing.annotator = :me""",
                           id=question)  # fmt: skip
        if before is not None:
            return [int(place) for place in json.loads(before)][::-1]
        places = list(range(self._one("SELECT count(*) FROM item WHERE question = :id", id=question)))
        secrets.SystemRandom().shuffle(places)
        return places

    def _show(self, question: int, places: Sequence[int], tab: str, again: int | None = None) -> Showing:
        """Write down that a question is shown, with a lease."""
        cursor = self.connection.execute(
            "INSERT INTO showing (question, annotator, places, tab, again, shown_ns, lease_until_ns) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (question, self.annotator, json.dumps(list(places)), tab, again, self.now, self.until),
        )
        assert cursor.lastrowid is not None
        return self.showing(cursor.lastrowid)

    def showing(self, number: int) -> Showing:
        """Return a showing by its number."""
        question, places, practice, previous = self.connection.execute(
            """SELECT showing.question, showing.places, question.practice, before.value FROM showing
            JOIN question ON question.id = showing.question
            LEFT JOIN answer AS undo ON undo.id = showing.again
            LEFT JOIN answer AS before ON before.id = undo.undoes WHERE showing.id = ?""",
            (number,),
        ).fetchone()
        rows = self.connection.execute(
            """SELECT clip.digest, coalesce(clip.mime, ''), coalesce(clip.frames, 0), coalesce(clip.fps, 0.0),
            coalesce(clip.width, 0), coalesce(clip.height, 0), item.factor FROM item
            LEFT JOIN segment ON segment.id = item.segment LEFT JOIN clip ON clip.id = segment.clip
            WHERE item.question = ? ORDER BY item.place""",
            (question,),
        ).fetchall()
        items = tuple(ShownItem(*rows[place]) for place in json.loads(places))
        return Showing(number, question, self.study.kind, items, bool(practice),
                       None if previous is None else page_value(previous))  # fmt: skip

    # Answering -------------------------------------------------------------------------------------------

    def answer(
        self, request: Any, showing: Any, value: Any, seconds: Any, plays: Any, events: Any
    ) -> Receipt:
        """See :meth:`LabelStore.answer`."""
        check_request(request)
        showing = check_whole("showing", showing, 1, LARGEST)
        seconds, checked = check_seconds(seconds), check_events(events)
        plays = check_whole("plays", plays, 0, MOST_PLAYS)
        row = self.connection.execute(
            """SELECT question, lease_until_ns,
            (SELECT count(*) FROM item WHERE item.question = showing.question), showing.places,
            CASE WHEN question.practice THEN question.check_answer END FROM showing
            JOIN question ON question.id = showing.question WHERE showing.id = ? AND showing.annotator = ?""",
            (showing, self.annotator),
        ).fetchone()
        if row is None:
            raise LookupError(f"there is no showing {showing} of this annotator")
        question, lease_until, count, places, right = row
        text = value_text(self.study.kind, value, count=count, ratings=self.study.ratings)
        says = meaning(self.study.kind, text, json.loads(places))
        expected = None if right is None else says.text() == right
        if (before := self._request(request)) is not None:
            if before[1:4] != (self.annotator, showing, text):
                raise ValueError(
                    f"request {request!r} was used for something else; each answer needs its own"
                )
            return Receipt(stored=True, duplicate=True, late=bool(before[4]), expected=expected)
        late = self.now > lease_until
        taken = self._one(f"SELECT NOT ({UNANSWERED}) OR {DONE.format(question='showing.question')} "
                          "FROM showing WHERE id = :id", id=showing)  # fmt: skip
        if taken:
            return Receipt(stored=False, duplicate=True, late=late)
        self._write(request, showing, text, None, seconds, plays, late)
        self.connection.executemany("INSERT INTO event (showing, kind, at_ms) VALUES (?, ?, ?)",
                                    [(showing, kind, at_ms) for kind, at_ms in checked])  # fmt: skip
        self._count(question, 1)
        return Receipt(stored=True, duplicate=False, late=late, expected=expected)

    def undo(self, request: Any, tab: str) -> Showing | None:
        """See :meth:`LabelStore.undo`."""
        check_request(request)
        check_tab(tab)
        if (before := self._request(request)) is not None:
            if before[1] != self.annotator or before[3] != "undo":
                raise ValueError(f"request {request!r} was used for something else; each undo needs its own")
            found = self._one(f"SELECT id FROM showing WHERE again = :id AND {UNANSWERED}", id=before[0])
            return None if found is None else self.showing(found)
        last = self.connection.execute(
            "SELECT id, showing, question, places FROM standing WHERE annotator = ? ORDER BY id DESC LIMIT 1",
            (self.annotator,),
        ).fetchone()
        if last is None:
            return None
        answer, showing, question, places = last
        undo = self._write(request, showing, "undo", answer, 0.0, 0, False)
        self._count(question, -1)
        return self._show(question, json.loads(places), tab, undo)

    def _request(self, request: str) -> tuple[Any, ...] | None:
        """Return number, annotator, showing, value and lateness of what a request did before."""
        found: tuple[Any, ...] | None = self.connection.execute(
            "SELECT id, annotator, showing, value, late FROM answer WHERE request = ?", (request,)
        ).fetchone()
        return found

    def _write(
        self,
        request: str,
        showing: int,
        text: str,
        undoes: int | None,
        seconds: float,
        plays: int,
        late: bool,
    ) -> int:
        cursor = self.connection.execute(
            "INSERT INTO answer (request, showing, annotator, value, undoes, seconds, plays, late, "
            "answered_ns) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (request, showing, self.annotator, text, undoes, seconds, plays, int(late), self.now),
        )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def _count(self, question: int, change: int) -> None:
        """Keep count of the answers that stand, and whether more are wanted."""
        self.connection.execute("UPDATE question SET answers = answers + ? WHERE id = ?", (change, question))
        self.connection.execute(
            """UPDATE question SET open = ready AND repeats IS NULL
            AND (practice OR check_answer IS NOT NULL OR answers < ?) WHERE id = ?""",
            (self.study.annotators_per_question, question),
        )


def progress(connection: sqlite3.Connection, annotator: int) -> Progress:
    """See :meth:`LabelStore.progress`."""
    count, skipped, still_open = connection.execute(
        """SELECT count(*), coalesce(sum(standing.value = 'skip'), 0), coalesce(sum(question.open), 0)
        FROM standing JOIN question ON question.id = standing.question
        WHERE standing.annotator = ? AND NOT question.practice AND question.repeats IS NULL""",
        (annotator,),
    ).fetchone()
    (opened,) = connection.execute("SELECT count(*) FROM question WHERE open = 1 AND practice = 0").fetchone()
    (waiting,) = connection.execute(
        "SELECT count(*) FROM question WHERE ready = 0 AND practice = 0"
    ).fetchone()
    return Progress(count - skipped, skipped, opened - still_open, waiting)
