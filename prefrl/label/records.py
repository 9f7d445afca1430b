"""What the parts of a labelling study hand to each other: studies, segments, questions, clips, answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from prefrl.config import Bounds, Count, Natural, Settings

from .arrays import Clip as Clip, StoredSegment as StoredSegment

Kind = Literal["pair", "ranking", "rating"]
"""What is asked: which of two clips, an order of clips or of factors, or a number for one clip."""

MOST_ITEMS = 12
"""Items of a ranking: more than a person can put in order."""

MOST_NAME = 100
"""Longest name of a person or a factor, in characters."""

Pixels = Annotated[int, Bounds(low=16, high=2048)]
"""Width or height of a picture."""


def escaped(name: str) -> str:
    """Return a name with what would not print as letters, such as control characters, written out.

    Names that differ are still different.
    """
    return "".join(
        letter if letter.isprintable() and letter != "\\" else letter.encode("unicode_escape").decode()
        for letter in name
    )


@dataclass(frozen=True)
class StudySettings(Settings):
    """What is asked in a study, of whom, and how it is shown."""

    question: str = "Which of the two does better?"
    """What is asked, in one sentence."""

    kind: Kind = "pair"
    """Which of two clips is better, an order of several clips or factors, or a number for one clip."""

    environment: str | None = None
    """Id of the environment that draws clips out of simulator states; none where frames are given."""

    env_args: tuple[str, ...] = ()
    """Arguments of the environment, each NAME=VALUE."""

    width: Pixels = 320
    """Width of clips in pixels, even."""

    height: Pixels = 320
    """Height of clips in pixels, even."""

    fps: Annotated[int, Bounds(low=1, high=120)] = 30
    """Frames per second at speed 1."""

    codec: Literal["vp9", "h264"] = "vp9"
    """How clips are encoded."""

    instructions: str = ""
    """What people read before they begin."""

    annotators_per_question: Count = 1
    """How many people answer each question."""

    repeat_every: Natural = 0
    """After this many answers of a person one question comes again with its sides swapped; 0: never."""

    watch: Literal["once", "any"] = "once"
    """Whether answers are taken once all clips have played to their end, or at any time."""

    ratings: Annotated[int, Bounds(low=2, high=100)] = 5
    """Steps of the scale of ratings, from 1."""

    practice: Natural = 0
    """Practice questions that each person answers first; their answers never count."""

    lease_seconds: Annotated[int, Bounds(low=1, high=86_400)] = 120
    """For how long a question that somebody looks at is not shown to others."""

    def check(self) -> None:
        """See :meth:`prefrl.config.Settings.check`."""
        for name, longest in (("question", 500), ("instructions", 20_000)):
            text = getattr(self, name)
            if len(text) > longest:
                raise ValueError(f"{name} has {len(text)} characters; at most {longest} are allowed")
        if not self.question.strip():
            raise ValueError("question is empty; say what people are asked")
        for argument in self.env_args:
            if not argument.partition("=")[0] or "=" not in argument:
                raise ValueError(f"env_args has {argument!r}; each must be NAME=VALUE")
        for name in ("width", "height"):
            if getattr(self, name) % 2:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be even, as video needs it")


@dataclass(frozen=True)
class Item:
    """One of the things that a question is about: a segment, or a factor."""

    segment: str | None = None
    """Digest of a segment."""

    factor: str | None = None
    """Name of a factor."""

    def __post_init__(self) -> None:
        if (self.segment is None) == (self.factor is None):
            raise ValueError(f"an item is {self}; it must be either a segment or a factor")


@dataclass(frozen=True)
class NewQuestion:
    """A question to be asked."""

    items: tuple[Item, ...]
    """What it is about: two segments of a pair, several of a ranking (or factors), one of a rating."""

    key: str
    """What tells it from others: posting a key again does nothing."""

    priority: float = 0.0
    """Questions of higher priority are asked first."""

    session: str = ""
    """Who asks, such as a run."""

    check_answer: str | None = None
    """The right answer, in stored places ("first", "second" or "tie", or JSON of a ranking or rating): the
    question is asked of everybody, to see who looks."""

    practice: bool = False
    """Whether it is for practice: its answers never count."""


@dataclass(frozen=True)
class ShownItem:
    """What a person sees of an item: a clip, or a factor's name."""

    clip: str | None = None
    """Digest of the clip."""

    mime: str = ""
    """Type of the clip's file."""

    frames: int = 0
    """Number of its pictures."""

    fps: float = 0.0
    """Its pictures per second."""

    width: int = 0
    """In pixels."""

    height: int = 0
    """In pixels."""

    factor: str | None = None
    """Name of the factor."""


@dataclass(frozen=True)
class Showing:
    """A question as it is shown to one person."""

    id: int
    """Number of the showing."""

    question: int
    """Number of the question."""

    kind: Kind
    """What is asked."""

    items: tuple[ShownItem, ...]
    """In the order in which they are shown."""

    practice: bool = False
    """Whether it is for practice."""

    previous: Any = None
    """What was answered before, as the page sent it, if the question comes back by undo."""


@dataclass(frozen=True)
class Receipt:
    """What became of an answer."""

    stored: bool
    """Whether this request's answer is in the file."""

    duplicate: bool
    """Whether the request came before, or the question is answered by this person already."""

    late: bool
    """Whether the lease was over."""

    expected: bool | None = None
    """Of practice whose answer is known: whether it is this one. None of all others: checks tell nobody."""


@dataclass(frozen=True)
class Progress:
    """How far one person is, without practice and repeated questions."""

    answered: int
    """Questions answered."""

    skipped: int
    """Questions answered by "can't tell"."""

    left: int
    """Questions that may still be asked, those on the screen included."""

    waiting: int
    """Questions whose clips are not ready yet."""

    @property
    def total(self) -> int:
        """All of these."""
        return self.answered + self.skipped + self.left + self.waiting


@dataclass(frozen=True)
class Annotator:
    """A person who answers."""

    id: int
    """Number."""

    name: str
    """Name, as it was given."""


@dataclass(frozen=True)
class CurrentAnswer:
    """An answer that stands, in the stored places of its question's items."""

    id: int
    """Number of the answer: later ones have higher numbers."""

    question: int
    """Number of the question."""

    key: str
    """Key of the question; of a repeated one, the first one's."""

    session: str
    """Who asked."""

    kind: Kind
    """What was asked."""

    items: tuple[Item, ...]
    """What it is about, as posted."""

    annotator: str
    """Name of who answered."""

    places: tuple[int, ...]
    """Stored places in the order shown: (1, 0) if the second was on the left."""

    value: str
    """What the page sent, as text: about places as shown."""

    label: float | None
    """Of pairs: 0 the first is better, 1 the second, 0.5 a tie; None for "can't tell"."""

    ranking: tuple[tuple[int, ...], ...] | None
    """Of rankings: groups of stored places, best first, ties in one group."""

    rating: int | None
    """Of ratings: the number."""

    skip: bool
    """Whether it is "can't tell"."""

    seconds: float
    """From showing to answer, as the page measured."""

    plays: int
    """How often the clips were played."""

    late: bool
    """Whether the lease was over."""

    repeat_of: int | None
    """Question that this one repeats."""

    check: bool | None
    """Of questions whose answer is known: whether it is right."""

    practice: bool
    """Whether it was practice."""


@dataclass(frozen=True)
class QuestionRow:
    """A question in the store."""

    id: int
    """Number."""

    key: str
    """What tells it from others."""

    session: str
    """Who asks."""

    items: tuple[Item, ...]
    """What it is about."""

    priority: float
    """Questions of higher priority are asked first."""

    ready: bool
    """Whether all its clips are there."""

    answers: int
    """How many answers stand."""

    check_answer: str | None
    """The right answer, if it is known."""

    practice: bool
    """Whether it is for practice."""


@dataclass(frozen=True)
class Totals:
    """Counts over a whole study."""

    questions: int
    """Questions posted, practice and checks included, repeats not."""

    ready: int
    """Those of them whose clips are there."""

    practice: int
    """Those of them that are for practice."""

    checks: int
    """Those of the others whose answer is known."""

    repeats: int
    """Questions made to repeat one of these."""

    segments: int
    """Segments."""

    clips: int
    """Clips."""

    showings: int
    """How often a question was shown."""

    answers: int
    """Answers ever given, without undos."""

    undone: int
    """Answers taken back."""
