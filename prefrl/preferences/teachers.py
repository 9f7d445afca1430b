"""Who answers: simulated teachers that compare segments under a known reward.

The kinds follow B-Pref (Lee et al. 2021, arXiv 2111.03026, section 4), over any stepwise preference model
(there: partial return only).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal, get_args

import torch
from torch import Tensor

from prefrl.config import Bounds, NonNegative, PositiveShare, Settings, Share
from prefrl.data import seeded_generator
from prefrl.functional.preferences.preferences import partial_return

from .models import PartialReturn, StepwiseModel, Valuation


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
