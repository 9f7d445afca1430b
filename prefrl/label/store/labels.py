"""The store of a labelling study: one SQLite file whose answers are only ever added to."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from prefrl.config import from_json, to_json
from prefrl.label.records import (
    Annotator,
    Clip,
    CurrentAnswer,
    NewQuestion,
    Progress,
    QuestionRow,
    Receipt,
    Showing,
    StoredSegment,
    StudySettings,
    Totals,
)
from prefrl.reading.errors import reading

from . import looking, people, posting, turns
from .database import FILE, Connections, check_database, check_new, create_database
from .packing import segment_columns, segment_of


class LabelStore:
    """Questions, clips and answers of one study, in one file; several threads and processes may use it.

    A kill at any moment leaves everything that a method returned from, and nothing half written.

    Attributes:
        folder: the study's folder.
        study: what is asked, and how.
    """

    def __init__(self, folder: Path, study: StudySettings):
        self.folder = folder
        self.study = study
        self._connections = Connections(folder / FILE)

    @classmethod
    def create(
        cls,
        folder: str | os.PathLike[str],
        study: StudySettings,
        segments: Iterable[StoredSegment] = (),
        questions: Iterable[NewQuestion] = (),
    ) -> LabelStore:
        """Make a new study in a folder, new or empty, which only its owner may read.

        Args:
            folder: where.
            study: what is asked, and how.
            segments: of the questions that it begins with.
            questions: these; the study is there with all of them, or not at all.

        Raises:
            FileExistsError: if there is something in the folder.
            ImportError: if this Python's SQLite is too old.
            OSError: if the folder cannot be written.
            ValueError: as :meth:`post` does.
        """
        place = Path(folder)
        check_new(place)
        rows, checked = _checked(segments, questions, study)
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        place.chmod(0o700)
        now = time.time_ns()
        create_database(place / FILE, json.dumps(to_json(study)), now,
                        lambda connection: posting.post(connection, rows, checked, now))  # fmt: skip
        return cls(place, study)

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> LabelStore:
        """Open a study.

        Raises:
            FileNotFoundError: if there is none.
            ValueError: in one sentence, if the file is another program's, of a newer version, or damaged.
            ImportError: if this Python's SQLite is too old.
        """
        place = Path(folder)
        if not place.is_dir():
            raise FileNotFoundError(f"there is no folder {place} of a labelling study")
        check_database(place / FILE)
        with reading(place / FILE, "file of a labelling study"):
            connections = Connections(place / FILE)
            try:
                with connections.reading() as connection:
                    (settings,) = connection.execute("SELECT settings FROM study").fetchone()
                study = from_json(StudySettings, json.loads(settings))
            finally:
                connections.close()
        return cls(place, study)

    def made_ns(self) -> int:
        """Return when the study was made, in nanoseconds since 1970, which tells it from others."""
        with self._connections.reading() as connection:
            (made,) = connection.execute("SELECT created_ns FROM study").fetchone()
        return int(made)

    def close(self) -> None:
        """Close the file."""
        self._connections.close()

    def __enter__(self) -> LabelStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Posting ---------------------------------------------------------------------------------------------

    def post(
        self, segments: Iterable[StoredSegment], questions: Iterable[NewQuestion], *, owner: str | None = None
    ) -> int:
        """Add segments and questions, all or none; what is there already is left as it is.

        Args:
            segments: what the questions are about.
            questions: what is asked.
            owner: session whose study it must be: the only one that asks, practice and checks apart.

        Returns:
            The number of questions whose keys are new.

        Raises:
            ValueError: if a question does not suit the study, or is about a segment that is not there, or the
                study is another owner's.
        """
        rows, checked = _checked(segments, questions, self.study)
        with self._connections.writing() as connection:
            if owner is not None:
                posting.check_owner(connection, owner, self.folder)
            return posting.post(connection, rows, checked, time.time_ns())

    def unrendered(self, limit: int = 1) -> list[StoredSegment]:
        """Return segments that questions wait for and that have no clip, the most wanted first."""
        with self._connections.reading() as connection:
            rows = posting.waiting_rows(connection, limit)
        with self._sound():
            return [segment_of(*row) for row in rows]

    def put_clip(self, segment_digest: str, clip: Clip) -> None:
        """Add the clip of a segment; the first one stays. A question is ready once all its clips are there.

        Raises:
            LookupError: if there is no such segment.
            ValueError: if it is no clip that can be sent.
        """
        posting.check_clip(clip)
        with self._connections.writing() as connection:
            posting.put_clip(connection, segment_digest, clip)

    def clip(self, digest: str) -> Clip | None:
        """Return a clip by its digest."""
        with self._connections.reading() as connection:
            return looking.clip(connection, digest)

    # People ----------------------------------------------------------------------------------------------

    def add_annotator(self, name: str) -> Annotator:
        """Return the person of a name, new or known.

        Raises:
            ValueError: if it is no name.
        """
        with self._connections.writing() as connection:
            return people.add_annotator(connection, name, time.time_ns())

    def annotators(self) -> list[Annotator]:
        """Return all people, in the order in which they came."""
        with self._connections.reading() as connection:
            rows = connection.execute("SELECT id, name FROM annotator ORDER BY id").fetchall()
        return [Annotator(*row) for row in rows]

    def new_link(self, annotator: int | Annotator) -> str:
        """Return a secret of 128 bits for a link that can be used once; only its hash is kept.

        Raises:
            LookupError: if there is no such person.
        """
        number = annotator.id if isinstance(annotator, Annotator) else annotator
        with self._connections.writing() as connection:
            return people.new_link(connection, number, time.time_ns())

    def exchange(self, token: str) -> str | None:
        """Return a fresh secret of 128 bits for a cookie in exchange for a link's.

        Returns:
            None if the link's secret is unknown, or used already.
        """
        with self._connections.writing() as connection:
            return people.exchange(connection, token, time.time_ns())

    def annotator_of(self, cookie: str) -> Annotator | None:
        """Return whose cookie it is; None: nobody's."""
        with self._connections.reading() as connection:
            return people.annotator_of(connection, cookie)

    # Answering -------------------------------------------------------------------------------------------

    def next(self, annotator_id: int, held: Sequence[int] = (), tab: str = "") -> Showing | None:
        """Return what to show a person next, with a lease.

        Practice comes first, then a repeat if one is due, then the question of the highest priority. What
        somebody else looks at, another tab of the same person shows, or this person has answered is left
        out. Sides are drawn by a coin; a repeat has them the other way round.

        Args:
            annotator_id: the person.
            held: showings that this tab holds already; their leases are renewed.
            tab: what a tab is known by, which survives that it is reloaded: what it was shown and does not
                hold any more comes again as it was. Empty: unknown.

        Returns:
            None if there is nothing, now or at all; :meth:`progress` tells which.

        Raises:
            LookupError: if there is no such person.
            ValueError: if ``held`` or ``tab`` are something else.
        """
        with self._connections.writing() as connection:
            return self._turn(connection, annotator_id).next(held, tab)

    def renew(self, annotator_id: int, held: Sequence[int]) -> None:
        """Go on keeping from others what a person looks at; a lease that is over begins again if nobody came.

        Args:
            annotator_id: the person.
            held: showings of theirs.

        Raises:
            LookupError: if there is no such person.
            ValueError: if ``held`` is something else.
        """
        with self._connections.writing() as connection:
            self._turn(connection, annotator_id).renew(held)

    def answer(
        self,
        annotator_id: int,
        request: str,
        showing: int,
        value: Any,
        seconds: float,
        plays: int = 0,
        events: Sequence[Mapping[str, Any]] = (),
    ) -> Receipt:
        """Store an answer, once: neither the same request nor another to an answered question changes it.

        Args:
            annotator_id: the person.
            request: what tells this answer from others, 8 to 64 letters, digits, hyphens and underscores.
            showing: what is answered.
            value: "left", "right" or "tie" of a pair; of a ranking lists of the places shown, best first,
                ties in one list; of a rating its number; "skip" of each.
            seconds: from showing to answer, 0 to a day.
            plays: how often the clips were played.
            events: how they were looked at, each ``{"kind": "pause", "at_ms": 1234}``.

        Raises:
            LookupError: if there is no such person, or no such showing of theirs.
            ValueError: naming the argument that is wrong.
        """
        with self._connections.writing() as connection:
            turn = self._turn(connection, annotator_id)
            return turn.answer(request, showing, value, seconds, plays, events)

    def undo(self, annotator_id: int, request: str, tab: str = "") -> Showing | None:
        """Take back a person's last answer that stands; any number of times.

        The answer stays in the file, and with it that it was taken back. The same request again changes
        nothing.

        Returns:
            The question as it was shown, with a new lease and what was answered; None if no answer stands,
            or the request came before and the question is answered since.

        Raises:
            LookupError: if there is no such person.
            ValueError: if ``request`` was used for an answer, or is no request.
        """
        with self._connections.writing() as connection:
            return self._turn(connection, annotator_id).undo(request, tab)

    def progress(self, annotator_id: int) -> Progress:
        """Return how far a person is."""
        with self._connections.reading() as connection:
            return turns.progress(connection, annotator_id)

    def _turn(self, connection: Any, annotator: int) -> turns.Turn:
        people.check_annotator(connection, annotator)
        return turns.Turn(connection, self.study, annotator, time.time_ns())

    # Looking ---------------------------------------------------------------------------------------------

    def version(self) -> int:
        """Return a number that is another one whenever the file was written to since; costs microseconds.

        Numbers of two stores cannot be compared.
        """
        return self._connections.version()

    def current(self) -> list[CurrentAnswer]:
        """Return the answers that stand, practice and repeats among them, in the order of their coming."""
        with self._connections.reading() as connection, self._sound():
            return looking.current(connection, self.study.kind)

    def questions(self, session: str | None = None) -> list[QuestionRow]:
        """Return the questions of a session, or all, without repeats, in the order of their coming."""
        with self._connections.reading() as connection, self._sound():
            return looking.questions(connection, session)

    def segment(self, digest: str) -> StoredSegment:
        """Return a segment by its digest.

        Raises:
            LookupError: if there is none.
        """
        with self._connections.reading() as connection:
            row = looking.segment_row(connection, digest)
        with self._sound():
            return segment_of(*row)

    def totals(self) -> Totals:
        """Return counts over the whole study."""
        with self._connections.reading() as connection:
            return looking.totals(connection)

    def _sound(self) -> Any:
        """Return a context in which whatever the file holds wrongly becomes one ValueError that names it."""
        return reading(self.folder / FILE, "file of a labelling study")


def _checked(
    segments: Iterable[StoredSegment], questions: Iterable[NewQuestion], study: StudySettings
) -> tuple[list[posting.SegmentColumns], list[posting.CheckedQuestion]]:
    """Return what is posted as it is stored; ValueError for a question that does not suit the study."""
    rows = [segment_columns(segment) for segment in segments]
    return rows, [(question, posting.check_question(question, study)) for question in questions]
