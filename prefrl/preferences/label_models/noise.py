"""Label models for labels that are wrong at times: known flips, and labels that drift to what is believed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

from prefrl.config import Bounds, Positive, Share
from prefrl.data import Preferences
from prefrl.functional.preferences import label_models as F

from .base import LabelModel, Score, pair_scores


@dataclass(frozen=True)
class RobustFlips(LabelModel):
    """Corrects labels of which a known share is turned round: y -> (y - e) / (1 - 2 e), outside [0, 1].

    Every loss that is linear in the label becomes unbiased for the loss of clean labels (robust DPO,
    Chowdhury et al. 2024, arXiv 2403.00409). It has no lower bound where the data are separable: the loss
    needs a penalty, an early stop, or a KL term then.
    """

    epsilon: Annotated[float, Bounds(low=0, high=0.5, below=True)] = 0.1
    """Share of labels that is turned round."""

    def relabel(self, preferences: Preferences) -> Preferences:
        """See :meth:`LabelModel.relabel`."""
        return replace(preferences, labels=F.robust_labels(preferences.labels, self.epsilon))


@dataclass(frozen=True)
class DynamicLabels(LabelModel):
    """Moves labels to what the model in training believes: y -> y + rate (sigmoid(m) - y).

    One call is one move: call it at every update, with what the last call returned. A pair that the rest of
    the data contradicts loses its gradient, a rare one soonest (POWER-DL, arXiv 2412.09544, from memory).
    """

    score: Score
    """Score of segments by the model in training; the mean counts, if there are several models."""
    rate: Share = 0.01
    """Share of the way to the belief in one call; the paper's is not known to us."""
    scale: Positive = 1.0
    """Factor of the score difference in the log-odds, as in the loss."""

    def relabel(self, preferences: Preferences) -> Preferences:
        """See :meth:`LabelModel.relabel`."""
        first, second = pair_scores(self.score, preferences)
        logits = self.scale * (second - first).mean(0) - preferences.margins
        return replace(preferences, labels=F.dynamic_labels(preferences.labels, logits, self.rate))
