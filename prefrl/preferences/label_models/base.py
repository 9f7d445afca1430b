"""What a label model is: comparisons in, comparisons with other labels, weights and offsets out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from prefrl.config import Settings
from prefrl.data import Preferences, Segments, concatenate_segments

Score = Callable[[Segments], Tensor]
"""Says what N segments are worth: [N], or [K, N] under each of K models (``RewardModel.scores``)."""


@runtime_checkable
class HasLogProb(Protocol):
    """Whatever has a likelihood of actions."""

    def log_prob(self, segments: Segments) -> Tensor:
        """Return the log-likelihood [N, L] of each action, given its observation; padding unspecified."""


@dataclass(frozen=True)
class LabelModel(Settings, ABC):
    """Base of the label models: a callable of :class:`prefrl.data.Preferences`.

    What it returns are new comparisons; those that it was given stay as they are. A label model may also drop
    rows, or add some. It knows no policy and no agent: whatever it asks is a function that it was given.
    """

    def __call__(self, preferences: Preferences) -> Preferences:
        """Return the comparisons with other labels, weights or offsets.

        Raises:
            TypeError: if ``preferences`` are none.
            ValueError: if a function that the model was given returned something else than it should.
        """
        if not isinstance(preferences, Preferences):
            raise TypeError(f"preferences is a {type(preferences).__name__}; it must be Preferences")
        with torch.no_grad():
            return self.relabel(preferences)

    @abstractmethod
    def relabel(self, preferences: Preferences) -> Preferences:
        """Return the comparisons with other labels, weights or offsets; no gradient is recorded."""


@dataclass(frozen=True)
class Composed(LabelModel):
    """Label models one after another; each is given what the one before it returned."""

    models: tuple[LabelModel, ...]
    """The first comes first; none leaves the comparisons as they are."""

    def relabel(self, preferences: Preferences) -> Preferences:
        """See :meth:`LabelModel.relabel`."""
        for model in self.models:
            preferences = model(preferences)
        return preferences


def compose(models: Sequence[LabelModel]) -> Composed:
    """Return label models as one, which applies them in this order.

    Raises:
        TypeError: if one of them is no label model.
    """
    return Composed(tuple(models))


def pair_scores(score: Score, preferences: Preferences) -> tuple[Tensor, Tensor]:
    """Return scores [K, N] of the first and of the second segments, from one call for all of them.

    One call, so that models drawn anew at each call (dropout) are the same for both sides of a comparison.

    Raises:
        ValueError: if there are not as many scores as segments, or one is NaN or infinite.
    """
    count = len(preferences)
    scores = score(concatenate_segments([preferences.first, preferences.second]))
    if not isinstance(scores, Tensor) or scores.ndim not in (1, 2) or scores.shape[-1] != 2 * count:
        found = list(scores.shape) if isinstance(scores, Tensor) else f"a {type(scores).__name__}"
        raise ValueError(f"score returned {found} for {2 * count} segments; it must return [{2 * count}] or "
                         f"[K, {2 * count}]")  # fmt: skip
    if not bool(torch.isfinite(scores).all()):
        raise ValueError("score returned NaN or infinity; every score must be finite")
    members = (scores if scores.ndim == 2 else scores[None]).to(torch.float64)
    return members[:, :count], members[:, count:]


def answered_by(preferences: Preferences, name: str) -> Preferences:
    """Return the comparisons with every answer by one annotator, who is added to the names if need be."""
    names = preferences.annotator_names
    names = names if name in names else (*names, name)
    return replace(
        preferences,
        annotators=torch.full_like(preferences.annotators, names.index(name)),
        annotator_names=names,
    )
