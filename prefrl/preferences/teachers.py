"""Who answers: whatever can be asked, and simulated teachers that compare segments under a known reward.

The kinds of simulated ones follow B-Pref (Lee et al. 2021, arXiv 2111.03026, section 4), over any stepwise
preference model (there: partial return only).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from prefrl.config import Bounds, NonNegative, PositiveShare, Settings, Share
from prefrl.data import Preferences, seeded_generator
from prefrl.data.segment_store import Excerpt
from prefrl.functional.preferences.preferences import partial_return

from .models import PartialReturn, StepwiseModel, Valuation

TEACHER = "teacher"
"""Who is named as the annotator where nobody else is."""


@dataclass(frozen=True, eq=False)
class Questions:
    """N pairs of segments that an agent asks about; which of each pair is better?"""

    first: Excerpt
    """N segments, with what the environment paid along them: for teachers who judge by it."""

    second: Excerpt
    """N segments."""

    session: int = 0
    """Which of the agent's sessions it is, counted from 0: seeds answers, and names questions."""

    def __len__(self) -> int:
        return len(self.first.segments)

    def __getitem__(self, index: Tensor | slice) -> Questions:
        return Questions(self.first.at(index), self.second.at(index), self.session)

    def nothing(self) -> Preferences:
        """Return no answer, for a teacher who has none yet."""
        return replace(self[slice(0)].answered([]), annotator_names=())

    def answered(self, labels: Any, weights: Any = None, *, annotator: str = TEACHER) -> Preferences:
        """Return answers to all of them.

        Args:
            labels: [N] probability that the SECOND segment is the better one; 0.5 is a tie.
            weights: [N] how much each answer counts, 0 for a question that was skipped (None: 1).
            annotator: who answered.

        Raises:
            ValueError: for another number of labels or weights.
        """
        place = self.first.weights.device
        given = {"labels": labels, "weights": torch.ones(len(self)) if weights is None else weights}
        known = {}
        for name, values in given.items():
            known[name] = torch.as_tensor(values, dtype=torch.float64, device=place)
            if tuple(known[name].shape) != (len(self),):
                raise ValueError(f"{name} have shape {list(known[name].shape)}; there are {len(self)} "
                                 "questions, and each has one")  # fmt: skip
        answers = Preferences.from_labels(self.first.segments, self.second.segments, known["labels"])
        counted = known["weights"] * self.first.weights * self.second.weights
        return replace(answers, weights=counted, annotator_names=(annotator,))


class Answerer(ABC):
    """Who answers an agent's questions: a program, or people who take their time.

    Who answers at once needs :meth:`ask` only; a plain function of :class:`Questions` will do as well.
    """

    revises: ClassVar[bool] = False
    """Whether what :meth:`ask` returns stands for all answers so far, earlier ones included, of which some
    may have been changed; otherwise it is new, and is added to what is known."""

    needs_states: ClassVar[bool] = False
    """Whether it must see the states of the simulator (``Excerpt.states``), so as to draw the segments."""

    @property
    def identity(self) -> str | None:
        """What tells one who revises from others, for agents that are loaded and given their teacher again.

        Its answers then replace those that the agent knows from it; None: they are added to all it knows.
        """
        return None

    @abstractmethod
    def ask(self, questions: Questions) -> Preferences:
        """Return answers: to these questions or, by a teacher who takes time, to any asked so far.

        Args:
            questions: N of them; none where the agent only wants to know what was answered meanwhile.
        """

    def news(self) -> int:
        """Return how many answers are new or changed since :meth:`ask` was called last.

        Agents look before each update: it must be cheap.
        """
        return 0

    def unanswered(self) -> int:
        """Return how many questions still wait for an answer; a question that was skipped does not."""
        return 0


class AskFunction(Answerer):
    """A function of questions as a teacher.

    Args:
        function: returns answers, such as ``questions.answered(labels)``.
    """

    def __init__(self, function: Callable[[Questions], Preferences]) -> None:
        self.function = function

    def ask(self, questions: Questions) -> Preferences:
        """See :meth:`Answerer.ask`; TypeError where the function returns something else."""
        return check_answers(self.function(questions))


def check_answers(answers: Any) -> Preferences:
    """Return what a teacher returned.

    On another device than the CPU numbers are not looked at, since that would wait for it: what is not finite
    shows in the loss, which the loop looks at.

    Raises:
        TypeError: if it is no Preferences.
        ValueError: if they hold what they must not.
    """
    if not isinstance(answers, Preferences):
        raise TypeError(f"teacher returned a {type(answers).__name__}; it must return Preferences, such "
                        "as questions.answered(labels)")  # fmt: skip
    return answers.validate() if len(answers) and answers.labels.device.type == "cpu" else answers


def as_answerer(teacher: Any) -> Answerer:
    """Return a teacher, or a function of questions as one.

    Raises:
        TypeError: if it is neither.
    """
    if isinstance(teacher, Answerer):
        return teacher
    if not callable(teacher):
        raise TypeError(f"teacher is a {type(teacher).__name__}; it must be an Answerer, or a function of "
                        "Questions")  # fmt: skip
    return AskFunction(teacher)


@dataclass(frozen=True)
class Teacher(Settings):
    """Answers comparisons; the defaults are a noiseless teacher who judges by partial return.

    Raises:
        ValueError: for a parameter outside its range.
    """

    model: StepwiseModel = field(default_factory=PartialReturn)
    """What the teacher judges by; its scale and its uniform answers apply where labels are drawn."""
    temperature: NonNegative = 0.0
    """0: always the segment with the larger score. Otherwise labels are drawn, with the score difference
    divided by it (1 in newer, 0.1 in older releases of the published studies)."""
    tie_margin: NonNegative = 1e-6
    """Scores that differ by at most this are a tie, label 0.5."""
    mistake_rate: Share = 0.0
    """Probability that a label (other than a tie) is turned round."""
    skip_below: Annotated[float, Bounds(infinite=True)] | None = None
    """No answer where neither segment's score exceeds this; None: every comparison is answered."""
    myopia: PositiveShare = 1.0
    """Weight of a step against the one after it: below 1 the teacher remembers the end best."""

    def score(self, valuation: Valuation) -> Tensor:
        """Return the teacher's score [N] of each segment."""
        return partial_return(self.model.contributions(valuation), valuation.mask, gamma=self.myopia)

    def label(self, first: Valuation, second: Valuation, *, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Compare N pairs.

        Args:
            first: what the true reward says along the first segments.
            second: the same for the second ones.
            seed: of drawn answers and mistakes.

        Returns:
            labels [N] float64 (1: second preferred, 0: first, 0.5: tie) and answered [N] bool: rows with
            False were skipped, and must be left out.
        """
        first_score, second_score = self.score(first), self.score(second)
        difference = second_score - first_score
        # Drawn on the CPU, so that a seed gives the same answers on every device.
        draws = torch.rand(2, *difference.shape, dtype=torch.float64,
                           generator=seeded_generator(seed, "answers")).to(difference.device)  # fmt: skip
        second_wins = difference > 0
        if self.temperature > 0.0:
            logit = self.model.scale * difference / self.temperature
            second_wins = draws[0] < torch.sigmoid(logit)
            if self.model.uniform_logit is not None:
                share = torch.sigmoid(torch.tensor(self.model.uniform_logit, dtype=torch.float64))
                second_wins = draws[0] < (1.0 - share) * torch.sigmoid(logit) + 0.5 * share
        labels = (second_wins ^ (draws[1] < self.mistake_rate)).to(torch.float64)
        labels = torch.where(difference.abs() <= self.tie_margin, 0.5, labels)
        if self.skip_below is None:
            return labels, torch.ones_like(second_wins)
        return labels, torch.maximum(first_score, second_score) > self.skip_below


TeacherKind = Literal["noiseless", "logistic", "mistakes", "skips", "ties", "myopia"]
"""The single departures from a noiseless teacher that B-Pref studies."""


def teacher_of_kind(
    kind: TeacherKind,
    model: StepwiseModel,
    scores: Tensor,
    *,
    temperature: float = 1.0,
    mistake_rate: float = 0.1,
    skip_share: float = 0.25,
    tie_share: float = 0.1,
    myopia: float = 0.9,
) -> Teacher:
    """Return a teacher with one kind of noise, scaled to the segments at hand; only its own setting counts.

    Args:
        kind: which.
        model: what the teacher judges by.
        scores: [N] scores of segments like those to be compared.
        temperature: "logistic": of the drawn labels.
        mistake_rate: "mistakes": share of labels turned round (B-Pref: 0.1).
        skip_share: "skips": segments in this lowest share of the scores are not worth answering about.
        tie_share: "ties": scores within this many standard deviations of each other are a tie.
        myopia: "myopia": weight of a step against the one after it (B-Pref: 0.9).

    Raises:
        ValueError: if the kind is unknown or a setting outside its range.
    """
    if not (0.0 <= skip_share <= 1.0 and tie_share >= 0.0):
        raise ValueError(f"skip_share is {skip_share} and tie_share {tie_share}; the first must lie in "
                         "[0, 1], the second must not be negative")  # fmt: skip
    if kind == "noiseless":
        return Teacher(model)
    if kind == "logistic":
        return Teacher(model, temperature=temperature)
    if kind == "mistakes":
        return Teacher(model, mistake_rate=mistake_rate)
    if kind == "skips":
        return Teacher(model, skip_below=float(scores.quantile(skip_share)))
    if kind == "ties":
        return Teacher(model, tie_margin=tie_share * float(scores.std()))
    if kind == "myopia":
        return Teacher(model, myopia=myopia)
    raise ValueError(f"kind is {kind!r}; it must be one of {list(get_args(TeacherKind))}")
