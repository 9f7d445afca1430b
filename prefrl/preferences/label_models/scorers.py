"""Label models that answer by themselves: two checkpoints of a policy, or one example to come close to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from prefrl.config import NonNegative, Positive
from prefrl.data import Preferences, Segments, concatenate_segments
from prefrl.functional.preferences import label_models as F

from .base import HasLogProb, LabelModel, answered_by, pair_scores


@dataclass(frozen=True)
class DensityRatio(LabelModel):
    """Labels pairs by the log-likelihood ratio of a better and a worse policy: no reward is trained.

    r(segment) = sum_t [log strong(a_t | s_t) - log weak(a_t | s_t)] (CDR, arXiv 2411.02481): of a late and
    an early checkpoint of one agent, for instance. Where both are optimal for one reward with different
    strengths of one KL term, it is that reward up to scale and the first state. :class:`Routed` makes a
    policy of several, one per domain, which is the customised part.
    """

    strong: HasLogProb
    """The better policy."""
    weak: HasLogProb
    """The worse one."""
    temperature: NonNegative = 0.0
    """0: the larger ratio is preferred, label 0, 1 or, where both are equal, 0.5. Otherwise the label is
    sigmoid(difference / temperature)."""

    def score(self, segments: Segments) -> Tensor:
        """Return the log-likelihood ratio [N] of segments.

        Raises:
            ValueError: unless both policies give [N, L] log-likelihoods.
        """
        with torch.no_grad():
            strong = _log_prob("strong", self.strong, segments)
            weak = _log_prob("weak", self.weak, segments)
            return F.density_ratio(strong, weak, segments.mask)

    def relabel(self, preferences: Preferences) -> Preferences:
        """See :meth:`LabelModel.relabel`."""
        first, second = pair_scores(self.score, preferences)
        difference = (second - first)[0]
        if self.temperature > 0.0:
            labels = torch.sigmoid(difference / self.temperature)
        else:
            labels = 0.5 + 0.5 * difference.sign()
        return answered_by(replace(preferences, labels=labels), "density_ratio")


@dataclass(frozen=True)
class Routed:
    """Several policies as one: a function says which of them is asked about a segment."""

    policies: tuple[HasLogProb, ...]
    """One per domain, or criterion."""
    route: Callable[[Segments], Tensor]
    """Returns the place [N] int64 of the policy that is asked about each segment."""

    def log_prob(self, segments: Segments) -> Tensor:
        """See :meth:`HasLogProb.log_prob`.

        Raises:
            ValueError: for a place where there is no policy.
        """
        place = self.route(segments)
        count = len(self.policies)
        if place.shape != (len(segments),) or bool(((place < 0) | (place >= count)).any()):
            raise ValueError(
                f"route returned {place.tolist()}; it must return a place among {count} policies "
                f"for each of {len(segments)} segments"
            )
        every = torch.stack([_log_prob("policies", policy, segments) for policy in self.policies])
        return every[place, torch.arange(len(place), device=place.device)]


def _log_prob(name: str, policy: HasLogProb, segments: Segments) -> Tensor:
    value = policy.log_prob(segments)
    if value.shape != segments.mask.shape:
        raise ValueError(f"log_prob of {name} has shape {list(value.shape)}; it must be "
                         f"{list(segments.mask.shape)}, one number per step")  # fmt: skip
    return value.to(torch.float64)


@dataclass(frozen=True, eq=False)
class AnchorRanking(LabelModel):
    """Labels pairs by how close they come to one good example of the same start, the anchor.

    Candidates of one start are scored beside its anchor, q = softmax(score / temperature); of two of them
    the second is preferred with probability q_2 / (q_1 + q_2). :meth:`pairs` makes comparisons of candidates
    alone.

    A reconstruction from the abstract of PU distillation (arXiv 2601.20687); the equations are not the
    paper's.
    """

    score: Callable[[Segments, Segments], Tensor]
    """Score [N] of N segments, each beside the anchor [N] of its start, such as minus their distance."""
    anchors: Segments
    """One good segment per start; the first observation says which start it is."""
    temperature: Positive = 1.0
    """Of q."""

    def anchor_of(self, segments: Segments) -> Tensor:
        """Return the place [N] of each segment's anchor.

        Raises:
            ValueError: for a segment that starts where no anchor, or more than one, does.
        """
        starts = self.anchors.obs[:, 0].flatten(1) if self.anchors.obs.ndim > 2 else self.anchors.obs[:, :1]
        own = segments.obs[:, 0].flatten(1) if segments.obs.ndim > 2 else segments.obs[:, :1]
        same = (own[:, None] == starts).all(-1)
        wrong = torch.nonzero(same.sum(1) != 1)[:, 0]
        if len(wrong):
            row = int(wrong[0])
            raise ValueError(
                f"segment {row} starts where {int(same[row].sum())} anchors start; it must be exactly one"
            )
        return same.to(torch.int64).argmax(1)

    def scores(self, segments: Segments) -> Tensor:
        """Return the score [N] of segments, each beside its anchor."""
        with torch.no_grad():
            return self.score(segments, self.anchors[self.anchor_of(segments)])

    def distribution(self, candidates: Segments) -> Tensor:
        """Return q [N], which sums to 1 over the candidates of each start."""
        place, scores = self.anchor_of(candidates), self.scores(candidates)
        shares = torch.zeros_like(scores)
        for start in sorted(set(place.tolist())):
            rows = torch.nonzero(place == start)[:, 0]
            shares[rows] = F.anchor_distribution(scores[rows], self.temperature)
        return shares

    def relabel(self, preferences: Preferences) -> Preferences:
        """See :meth:`LabelModel.relabel`; both segments of a pair must have the same start."""
        sides = [self.anchor_of(side) for side in (preferences.first, preferences.second)]
        apart = torch.nonzero(sides[0] != sides[1])[:, 0]
        if len(apart):
            raise ValueError(
                f"the segments of comparison {int(apart[0])} start apart; they must have one anchor"
            )
        first, second = pair_scores(self.scores, preferences)
        labels = torch.sigmoid((second - first)[0] / self.temperature)
        return answered_by(replace(preferences, labels=labels), "anchor_ranking")

    def pairs(self, candidates: Segments) -> Preferences:
        """Return comparisons of candidates: the anchor over each, and of each start the best over the worst.

        The second segment is the preferred one, label 1.
        """
        place, scores = self.anchor_of(candidates), self.scores(candidates)
        best, worst = [], []
        for start in sorted(set(place.tolist())):
            rows = torch.nonzero(place == start)[:, 0]
            top, bottom = scores[rows].argmax(), scores[rows].argmin()
            if bool(scores[rows][top] > scores[rows][bottom]):
                best.append(rows[top])
                worst.append(rows[bottom])
        first, second = [candidates], [self.anchors[place]]
        if best:
            first.append(candidates[torch.stack(worst)])
            second.append(candidates[torch.stack(best)])
        sides = concatenate_segments(first), concatenate_segments(second)
        labels = torch.ones(len(sides[0]), dtype=torch.float64, device=candidates.obs.device)
        return answered_by(Preferences.from_labels(*sides, labels), "anchor_ranking")
