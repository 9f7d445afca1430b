"""Label models that ask an ensemble: which labels it votes against, and which pairs it knows nothing of."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from prefrl.config import NonNegative, PositiveShare, Share
from prefrl.data import Preferences
from prefrl.functional.preferences import label_models as F

from .base import LabelModel, Score, pair_scores

Arm = Literal["flip", "margin", "flip_margin", "soft_margin"]
"""What :class:`EnsembleVote` does with the vote."""


@dataclass(frozen=True)
class EnsembleVote(LabelModel):
    """Corrects labels by the mean vote of reward models fitted to the same comparisons.

    The strength of a comparison is the mean over models of r(preferred) - r(other) (Secrets of RLHF, part
    II, arXiv 2401.06080; there of 10 models). Four arms: ``flip`` turns the weakest labels round; ``margin``
    makes the strength an offset within the loss, -log sigmoid(r(preferred) - r(other) - strength);
    ``flip_margin`` does both; ``soft_margin`` smooths labels of negative strength, and takes margins
    everywhere.

    Not as in the paper: a label that the ensemble agrees with is never turned round, however weak (there the
    weakest fifth all have negative strength); the margin as printed stands outside the logarithm, where it
    has no gradient. Ties keep their labels and offsets.
    """

    score: Score
    """[K, N] scores of segments under K models."""
    arm: Arm = "flip_margin"
    """What is done."""
    flip_share: Share = 0.2
    """Share of the comparisons without tie, the weakest, that may be turned round."""
    smoothing: Share = 0.1
    """Share by which ``soft_margin`` smooths labels (ours: the paper's is not known to us)."""
    margin_scale: NonNegative = 1.0
    """Factor of the margins."""

    def strength(self, preferences: Preferences) -> Tensor:
        """Return the mean vote [N] for what was preferred; negative: against the label; 0 for a tie."""
        with torch.no_grad():
            first, second = pair_scores(self.score, preferences)
            return F.preference_strength(second - first, preferences.labels)

    def relabel(self, preferences: Preferences) -> Preferences:
        """See :meth:`LabelModel.relabel`."""
        labels, strength = preferences.labels, self.strength(preferences)
        sign = F.preferred_sign(labels)
        offsets = preferences.offsets
        if "margin" in self.arm:
            # Seen from the second segment, the margin is the mean vote for it, whatever the label says.
            offsets = preferences.margins + self.margin_scale * sign * strength
        if "flip" in self.arm:
            wrong = F.weakest(strength, self.flip_share, sign != 0) & (strength < 0)
            labels = torch.where(wrong, 1.0 - labels, labels)
        elif self.arm == "soft_margin":
            labels = torch.where(strength < 0, F.smooth_labels(labels, self.smoothing), labels)
        return replace(preferences, labels=labels, offsets=offsets)


@dataclass(frozen=True)
class DropoutFilter(LabelModel):
    """Keeps the pairs that models drawn by dropout agree on, and trusts those most that they agree on most.

    Pairs are ranked by what the passes disagree on (BALD,
    :func:`prefrl.functional.preferences.label_models.bald`); those that are kept are weighted by UPO's
    sampling shares (arXiv 2409.11212) and smoothed by a = B / (2 log 2).

    Not as in the paper, whose printed a = 1 / (P + 1) lies in [1/2, 1] and turns most labels round, and whose
    factor in the sampling shares cancels, so that we take it for an exponent; the sampling is a weight here.
    It never looks at the label: labels turned round at random, wherever the models agree, pass.
    """

    score: Score
    """[T, N] scores of segments in T passes with dropout; each pass one network for all N segments."""
    keep_share: PositiveShare = 0.5
    """Share of the comparisons that is kept, rounded up."""
    exponent: NonNegative = 1.0
    """How much the weights favour pairs without disagreement."""
    smooth: bool = True
    """Whether labels are smoothed."""

    def information(self, preferences: Preferences) -> Tensor:
        """Return what the passes disagree on [N], in nats."""
        with torch.no_grad():
            first, second = pair_scores(self.score, preferences)
            return F.bald(torch.sigmoid(second - first))

    def relabel(self, preferences: Preferences) -> Preferences:
        """See :meth:`LabelModel.relabel`."""
        information = self.information(preferences)
        # The remainder keeps a share of 0.3 of 10 rows from being 4.
        count = int(-(-(self.keep_share * len(preferences) - 1e-9) // 1))
        kept = information.argsort(stable=True)[:count].sort().values
        information = information[kept]
        chosen = preferences[kept]
        labels = chosen.labels
        if self.smooth:
            labels = F.smooth_labels(labels, F.uncertain_share(information))
        weights = chosen.weights * (F.sampling_shares(information, self.exponent) * count)
        return replace(chosen, labels=labels, weights=weights)
