"""People as the teacher of an agent: questions go into a labelling study, answers come out as they are given.

A run's questions have keys RUN/SESSION/NUMBER. A session whose questions are in the study already is not
posted again, so a run that is killed and goes on from an older checkpoint asks nothing twice: the study keeps
the segments that were shown, and the answers are about these.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch

from prefrl.config import to_json
from prefrl.data import Preferences, Segments
from prefrl.data.files.atomic import atomic_path
from prefrl.preferences.teachers import Answerer, Questions
from prefrl.reading.errors import reading
from prefrl.reading.text import read_json

from .records import CurrentAnswer, Item, NewQuestion, QuestionRow, StoredSegment, StudySettings
from .segments import segments_from, stacked
from .store import LabelStore
from .store.database import FILE

BELONGS = "labelling.json"
"""File in a run folder that says which study the run asks, and under what name."""

PAUSE = 0.05
"""Seconds between two looks at whether anybody wrote to the study: at each step they would be felt."""

SHARE = 0.02
"""Share of the time that looking into a busy study may take: after 1 ms of looking the next is due in 50."""


class HumanTeacher(Answerer):
    """People who answer an agent's questions in a labelling study, at their own pace.

    What :meth:`ask` returns stands for all answers to the run so far: people may take answers back, and
    several may answer one question. Who can't tell gives an answer of weight 0. Repeated questions, questions
    whose answer is known and practice are no answers to learn from.

    Args:
        folder: of the study.
        run: name of the run: the study holds its questions and no other run's.
        study: settings of the study, which is made where there is none; None: there must be one.

    Raises:
        FileNotFoundError: if there is no study, and none is to be made.
        FileExistsError: if one is to be made in a folder that holds something else.
        ValueError: if the study is not of pairs, has other settings, holds another run's questions, or is
            damaged.
    """

    revises: ClassVar[bool] = True
    needs_states: ClassVar[bool] = True

    def __init__(self, folder: str | os.PathLike[str], run: str, study: StudySettings | None = None) -> None:
        self.folder, self.run = Path(folder), run
        if study is not None and not (self.folder / FILE).exists():
            self.store = LabelStore.create(self.folder, study)
        else:
            self.store = LabelStore.open(self.folder)
        try:
            self._check_settings(study)
            self.store.post((), (), owner=run)
        except ValueError:
            self.store.close()
            raise
        self._segments: dict[str, StoredSegment] = {}
        self._taken: dict[tuple[str, str], int] = {}
        """Number of each answer, by question and annotator, when they were taken last."""
        self._version: int | None = None
        self._news = self._unanswered = 0
        self._look_again = 0.0

    @classmethod
    def of_run(cls, run: Path, folder: Path | None, study: StudySettings | None = None) -> HumanTeacher:
        """Return the teacher of a run folder; which study it is, and the run's name in it, is kept there.

        Args:
            run: the run folder.
            folder: of the study, for a run that begins; of one that goes on it is known.
            study: settings of a study that is to be made.

        Raises:
            ValueError: as above, or if the run folder's file is damaged.
        """
        path = run / BELONGS
        if path.exists():
            known = read_json(path)
            with reading(path, BELONGS):
                if not isinstance(known.get("run"), str) or not isinstance(known.get("folder"), str):
                    raise ValueError('it must hold {"folder": PATH, "run": NAME}')
            return cls(known["folder"], known["run"])
        if folder is None:
            raise ValueError(f"{run} says no study that it asks, and none is given")
        teacher = cls(folder, secrets.token_hex(8), study)
        content = {"folder": str(folder.absolute()), "run": teacher.run}
        with atomic_path(path) as temporary:  # after the study, which nobody owns before the first question
            temporary.write_text(json.dumps(content) + "\n", "utf-8")
        return teacher

    def _check_settings(self, study: StudySettings | None) -> None:
        """Raise ValueError for a study of something else than was to be made."""
        known = self.store.study
        if known.kind != "pair":
            raise ValueError(f"{self.folder} is a study of kind {known.kind!r}; an agent asks which of a "
                             "pair is better")  # fmt: skip
        for name, value in {} if study is None else to_json(study).items():
            if to_json(known)[name] != value:
                raise ValueError(f"{self.folder} is a study whose {name} is {to_json(known)[name]!r}, not "
                                 f"{value!r}; choose another folder")  # fmt: skip

    @property
    def identity(self) -> str:
        """See :attr:`Answerer.identity`: the study, wherever it lies, and the run."""
        return f"{self.store.made_ns()}/{self.run}"

    # Asking -----------------------------------------------------------------------------------------------

    def ask(self, questions: Questions) -> Preferences:
        """Post questions, if there are any, and return all answers that there are.

        Raises:
            ValueError: if the questions come without states, or the study is damaged.
        """
        if len(questions) and not self._posted(questions.session):
            self._post(questions)
        answers = self._answers()
        self._taken = {(answer.key, answer.annotator): answer.id for answer in answers}
        self.look()
        return self._preferences(answers, questions.first.segments[slice(0)].to("cpu"))

    def _posted(self, session: int) -> bool:
        start = f"{self.run}/{session}/"
        return any(row.key.startswith(start) for row in self.store.questions(self.run))

    def _post(self, questions: Questions) -> None:
        """Post questions of a session; later sessions come first, being about what the agent does now."""
        sides = []
        for name in ("first", "second"):
            excerpt = getattr(questions, name)
            if excerpt.states is None:
                raise ValueError(f"the {name} segments come without simulator states, which clips are drawn "
                                 "from; train in with_simulator_states(env)")  # fmt: skip
            states = excerpt.states.cpu().numpy()
            sides.append(segments_from(excerpt.segments.to("cpu"), states))
        real = (questions.first.weights * questions.second.weights).tolist()
        posted = [
            NewQuestion(
                (Item(first.digest), Item(second.digest)),
                key=f"{self.run}/{questions.session}/{number}",
                priority=float(questions.session),
                session=self.run,
            )
            for number, (first, second, counts) in enumerate(zip(*sides, real, strict=True)) if counts
        ]  # fmt: skip
        self.store.post([*sides[0], *sides[1]], posted, owner=self.run)  # others may have begun meanwhile

    # Answers ----------------------------------------------------------------------------------------------

    def _answers(self) -> list[CurrentAnswer]:
        """Return the answers to the run that stand, in the order of their coming."""
        return [
            answer
            for answer in self.store.current()
            if answer.session == self.run and answer.repeat_of is None and answer.check is None
            and not answer.practice
        ]  # fmt: skip

    def _preferences(self, answers: Sequence[CurrentAnswer], none: Segments) -> Preferences:
        """Return answers as comparisons; ``none`` is no segment, of the agent's kind."""
        names = tuple(annotator.name for annotator in self.store.annotators())
        first, second = (
            self._stacked([answer.items[side].segment or "" for answer in answers]) if answers else none
            for side in (0, 1)
        )
        labels = [0.5 if answer.label is None else answer.label for answer in answers]
        weights = [0.0 if answer.skip else 1.0 for answer in answers]
        return Preferences(
            first,
            second,
            torch.tensor(labels, dtype=torch.float64),
            torch.tensor(weights, dtype=torch.float64),
            torch.tensor([names.index(answer.annotator) for answer in answers], dtype=torch.int64),
            names,
            {"teacher": "people", "question": self.store.study.question},
        )

    def _stacked(self, digests: Sequence[str]) -> Segments:
        """Return segments by their digests; each is read once."""
        for digest in digests:
            if digest not in self._segments:
                self._segments[digest] = StoredSegment(self.store.segment(digest).arrays)  # without pictures
        return stacked([self._segments[digest] for digest in digests])

    # Looking ----------------------------------------------------------------------------------------------

    def news(self) -> int:
        """See :meth:`Answerer.news`; it may be behind by a moment, :meth:`look` is not."""
        self._look_if_due()
        return self._news

    def unanswered(self) -> int:
        """See :meth:`Answerer.unanswered`."""
        self._look_if_due()
        return self._unanswered

    def _look_if_due(self) -> None:
        now = time.monotonic()
        if now < self._look_again:
            return
        self._look_again = now + PAUSE
        if self._version != self.store.version():
            self.look()

    def look(self) -> None:
        """Look what there is now, also where the last look was only just now."""
        start = time.monotonic()
        self._version = self.store.version()  # before the look: what comes meanwhile is seen next time
        now = {(answer.key, answer.annotator): answer.id for answer in self._answers()}
        both = now.keys() | self._taken.keys()
        self._news = sum(now.get(each) != self._taken.get(each) for each in both)
        self._unanswered = sum(not row.answers for row in self.store.questions(self.run) if _counts(row))
        end = time.monotonic()
        self._look_again = end + max(PAUSE, (end - start) / SHARE)

    def summary(self) -> dict[str, Any]:
        """Return what became of the questions.

        Returns:
            ``answered_share`` of the questions, without those that nobody could tell (None of none), and how
            many answers each of the ``annotators`` gave.
        """
        answers = [answer for answer in self._answers() if not answer.skip]
        posted = sum(map(_counts, self.store.questions(self.run)))
        answered = len({answer.key for answer in answers})
        return {
            "answered_share": answered / posted if posted else None,
            "annotators": dict(sorted(Counter(answer.annotator for answer in answers).items())),
        }


def _counts(row: QuestionRow) -> bool:
    """Whether a question is one to learn from."""
    return not row.practice and row.check_answer is None
