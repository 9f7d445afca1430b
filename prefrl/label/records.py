"""What the parts of a labelling study hand to each other: studies, segments, questions, clips, answers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray

from prefrl.config import Bounds, Count, Natural, Settings
from prefrl.reading.npy import DTYPES

Kind = Literal["pair", "ranking", "rating"]
"""What is asked: which of two clips, an order of clips or of factors, or a number for one clip."""

MOST_ITEMS = 12
"""Items of a ranking: more than a person can put in order."""

MOST_NAME = 100
"""Longest name of a person or a factor, in characters."""

ARRAYS = ("obs", "actions", "terminated", "features")
"""Arrays of a segment; the last may be missing."""

Pixels = Annotated[int, Bounds(low=16, high=2048)]
"""Width or height of a picture."""

SegmentArray = NDArray[Any]


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


@dataclass(frozen=True, eq=False)
class StoredSegment:
    """One segment of behaviour with what is needed to draw it.

    Raises:
        TypeError: if something is no array.
        ValueError: if an array is missing or unknown, or shapes contradict each other.
    """

    arrays: Mapping[str, SegmentArray]
    """obs [l+1, ...], actions [l, ...], terminated () bool, and perhaps features [l, F]; l transitions."""

    states: NDArray[np.float64] | None = None
    """[l+1, D] simulator states, if clips are drawn from them."""

    frames: NDArray[np.uint8] | None = None
    """[F, H, W, 3] pictures, if there are any already."""

    def __post_init__(self) -> None:
        arrays = {name: np.asarray(value) for name, value in sorted(self.arrays.items())}
        object.__setattr__(self, "arrays", arrays)
        if unknown := sorted(set(arrays) - set(ARRAYS)):
            raise ValueError(f"a segment has the array {unknown[0]!r}; allowed are {', '.join(ARRAYS)}")
        if missing := [name for name in ARRAYS[:3] if name not in arrays]:
            raise ValueError(f"a segment lacks the array {missing[0]!r}")
        for name, value in arrays.items():
            if value.dtype.name not in DTYPES:
                raise TypeError(f"{name} has dtype {value.dtype}; allowed are {', '.join(DTYPES)}")
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                raise ValueError(f"{name} holds NaN or infinity; every number must be finite")
        self._check_shapes()
        self._check_pictures()

    def _check_shapes(self) -> None:
        """Raise ValueError unless the arrays are about equally many transitions."""
        shapes = {name: value.shape for name, value in self.arrays.items()}
        length = shapes["actions"][0] if shapes["actions"] else 0
        features = shapes.get("features", (length, 0))
        if not length or shapes["obs"][:1] != (length + 1,):
            raise ValueError(f"obs have shape {shapes['obs']} and actions {shapes['actions']}; they must be "
                             "[l+1, ...] and [l, ...] of l transitions, at least one")  # fmt: skip
        if len(features) != 2 or features[0] != length:
            raise ValueError(f"features have shape {features}, not [{length}, F]")
        if shapes["terminated"] != () or self.arrays["terminated"].dtype != np.bool_:
            raise ValueError(f"terminated is {self.arrays['terminated'].dtype} of shape "
                             f"{shapes['terminated']}; it must be one bool")  # fmt: skip

    def _check_pictures(self) -> None:
        """Raise ValueError for states or frames of another shape."""
        for name, axes, dtype in (("states", 2, np.float64), ("frames", 4, np.uint8)):
            value = getattr(self, name)
            if value is None:
                continue
            if not isinstance(value, np.ndarray) or value.dtype != dtype:
                raise TypeError(f"{name} are {getattr(value, 'dtype', type(value).__name__)}; they must be "
                                f"an array of {np.dtype(dtype)}")  # fmt: skip
            if value.ndim != axes or 0 in value.shape or (axes == 4 and value.shape[3] != 3):
                allowed = "[l+1, D]" if axes == 2 else "[F, H, W, 3]"
                raise ValueError(f"{name} have shape {list(value.shape)}; it must be {allowed}")
        if self.states is not None and len(self.states) != self.length + 1:
            raise ValueError(f"there are {len(self.states)} states; {self.length} transitions have "
                             f"{self.length + 1}")  # fmt: skip

    @property
    def length(self) -> int:
        """Number of transitions."""
        return int(self.arrays["actions"].shape[0])

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all that is in it, in hexadecimal digits."""
        found = hashlib.sha256()
        named: dict[str, SegmentArray | None] = {**self.arrays, "states": self.states, "frames": self.frames}
        for name, value in named.items():
            if value is not None:
                plain = np.ascontiguousarray(value, value.dtype.newbyteorder("<"))
                found.update(f"{name} {plain.dtype.str} {value.shape}\n".encode())
                found.update(plain.tobytes())
        return found.hexdigest()


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
class Clip:
    """A film of a segment."""

    media: bytes = field(repr=False)
    """The file."""

    mime: str
    """Its type, as in "video/webm"."""

    frames: int
    """Number of pictures."""

    width: int
    """In pixels."""

    height: int
    """In pixels."""

    fps: float
    """Pictures per second."""

    encoder: str
    """What made it, for the record."""

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the file, in hexadecimal digits."""
        return hashlib.sha256(self.media).hexdigest()


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
    """Those of them whose answer is known."""

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
