"""Label models that add comparisons which cost no question: other contexts, and what decided."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from prefrl.config import Count, Natural, NonNegative
from prefrl.data import (
    Preferences,
    Segments,
    concatenate_preferences,
    concatenate_segments,
    seeded_generator,
)

from .base import LabelModel, answered_by


@dataclass(frozen=True, eq=False)
class MultiLevelPairs(LabelModel):
    """Adds comparisons of two contexts (goals, sets of instructions) for one and the same behaviour.

    Of two contexts, that which the behaviour satisfies at a higher level is preferred, P = sigmoid(r(x', y) -
    r(x, y)) (MAPL, arXiv 2505.12845, preferences within a sample). A program checks the levels, so that the
    labels are free; in a goal-conditioned environment this is hindsight.

    For a policy given the context, the log-ratio is r less b log Z(x), which does not cancel between
    contexts: :func:`prefrl.functional.preferences.label_models.context_logit`.
    """

    contexts: Tensor
    """[C, ...] the contexts to draw from."""
    level: Callable[[Segments, Tensor], Tensor]
    """Returns how well [N] segments satisfy their contexts [N, ...], as in 0 not, 1 in part, 2 wholly."""
    with_context: Callable[[Segments, Tensor], Segments]
    """Returns N segments as observed under other contexts [N, ...]."""
    pairs_per_segment: Count = 1
    """Comparisons that are drawn for each segment of the given ones."""
    weight: NonNegative = 1.0
    """Weight of an added comparison; 0 adds none."""
    seed: Natural = 0
    """Of the contexts that are drawn."""

    def relabel(self, preferences: Preferences) -> Preferences:
        """See :meth:`LabelModel.relabel`; what was given comes first and stays as it is."""
        if self.weight == 0.0 or len(preferences) == 0:
            return preferences
        segments = concatenate_segments([preferences.first, preferences.second])
        added = self.pairs(segments)
        if len(added) == 0:
            return preferences
        added = answered_by(replace(added, annotator_names=preferences.annotator_names), "checker")
        known = replace(preferences, annotator_names=added.annotator_names)
        return concatenate_preferences([known, added])

    def pairs(self, segments: Segments) -> Preferences:
        """Return comparisons of two contexts for each segment for which some two differ in level."""
        levels = self.levels(segments)
        count = levels.shape[1]
        apart = (levels[:, :, None] != levels[:, None, :]).flatten(1)
        rows = torch.nonzero(apart.any(1))[:, 0].repeat_interleave(self.pairs_per_segment)
        generator = seeded_generator(self.seed, "contexts")
        chance = apart[rows].to("cpu", torch.float64)
        drawn = torch.multinomial(chance, 1, generator=generator)[:, 0] if len(rows) else rows.cpu()
        drawn = drawn.to(rows.device)
        first, second = drawn // count, drawn % count
        labels = (levels[rows, second] > levels[rows, first]).to(torch.float64)
        sides = [self.with_context(segments[rows], self.contexts[place]) for place in (first, second)]
        pairs = Preferences.from_labels(sides[0], sides[1], labels)
        return replace(pairs, weights=torch.full_like(pairs.weights, self.weight))

    def levels(self, segments: Segments) -> Tensor:
        """Return at what level [N, C] each segment satisfies each context.

        Raises:
            ValueError: if ``level`` returns something else than one number per segment.
        """
        columns = []
        for context in self.contexts:
            level = self.level(segments, context.expand(len(segments), *context.shape))
            if level.shape != (len(segments),):
                raise ValueError(f"level returned {list(level.shape)}; it must return [{len(segments)}], one "
                                 "number per segment")  # fmt: skip
            columns.append(level)
        return torch.stack(columns, 1)


@dataclass(frozen=True, eq=False)
class Rationale(LabelModel):
    """Adds each comparison once more with nothing in it but what decided: a factor, or a step.

    ``factor`` sets the reward features of all other factors to 0, on both sides; ``step`` leaves the one
    transition of each side. The label and the annotator stay. At weight 0 the comparisons are returned as
    they are. An adaptation of rationales in text (arXiv 2407.14477), whose loss adds their likelihood
    instead: :func:`prefrl.functional.preferences.label_models.rationale_log_likelihood`.
    """

    kind: Literal["factor", "step"]
    """What decided."""
    rationales: Tensor | Callable[[Preferences], Tensor]
    """[N] int64 which factor or step decided, -1 where nobody said; [N, F] bool for several factors, [N, 2]
    int64 for a step of each side. Or a function that returns it for comparisons."""
    weight: NonNegative = 1.0
    """Weight of what is added, as a factor of the comparison's own."""

    def relabel(self, preferences: Preferences) -> Preferences:
        """See :meth:`LabelModel.relabel`; what was given comes first and stays as it is."""
        if self.weight == 0.0:
            return preferences
        given = self.rationales
        rationales = given if isinstance(given, Tensor) else given(preferences)
        added = (_factors if self.kind == "factor" else _steps)(preferences, rationales)
        return concatenate_preferences([preferences, replace(added, weights=self.weight * added.weights)])


def _factors(preferences: Preferences, rationales: Tensor) -> Preferences:
    """Return the comparisons whose factors are known, with the others' features 0."""
    features = preferences.first.features
    if features is None:
        raise ValueError("the segments have no features; a rationale that names a factor needs them")
    count, width = len(preferences), features.shape[-1]
    if rationales.dtype == torch.bool and rationales.shape == (count, width):
        mask = rationales
    elif rationales.dtype == torch.int64 and rationales.shape == (count,):
        _check_places(rationales, torch.full_like(rationales, width), "factors")
        mask = rationales[:, None] == torch.arange(width, device=rationales.device)
    else:
        raise ValueError(f"rationales are {rationales.dtype} {list(rationales.shape)}; they must be int64 "
                         f"[{count}] or bool [{count}, {width}]")  # fmt: skip
    known = mask.any(1)
    kept = preferences[known]

    def masked(segments: Segments) -> Segments:
        assert segments.features is not None  # as on the first side
        return replace(segments, features=segments.features * mask[known][:, None].to(torch.float64))

    return replace(kept, first=masked(kept.first), second=masked(kept.second))


def _steps(preferences: Preferences, rationales: Tensor) -> Preferences:
    """Return the comparisons whose steps are known, with only these transitions."""
    count = len(preferences)
    if rationales.dtype != torch.int64 or rationales.shape not in ((count,), (count, 2)):
        raise ValueError(f"rationales are {rationales.dtype} {list(rationales.shape)}; they must be int64 "
                         f"[{count}] or [{count}, 2]")  # fmt: skip
    steps = rationales[:, None].expand(count, 2) if rationales.ndim == 1 else rationales
    for side, segments in ((0, preferences.first), (1, preferences.second)):
        _check_places(steps[:, side], segments.lengths, "transitions")
    known = (steps >= 0).all(1)
    kept, steps = preferences[known], steps[known]
    return replace(kept, first=_step_of(kept.first, steps[:, 0]), second=_step_of(kept.second, steps[:, 1]))


def _step_of(segments: Segments, step: Tensor) -> Segments:
    """Return one transition [N] of each segment."""
    rows = torch.arange(len(segments), device=step.device)
    return Segments(
        torch.stack([segments.obs[rows, step], segments.obs[rows, step + 1]], 1),
        segments.actions[rows, step][:, None],
        torch.ones_like(segments.lengths),
        segments.terminated & (step == segments.lengths - 1),
        None if segments.features is None else segments.features[rows, step][:, None],
    )


def _check_places(places: Tensor, limits: Tensor, what: str) -> None:
    """Raise ValueError for places that there are not; -1 says nothing."""
    wrong = torch.nonzero((places < -1) | (places >= limits))[:, 0]
    if len(wrong):
        row = int(wrong[0])
        raise ValueError(f"rationales[{row}] is {int(places[row])}; there are {int(limits[row])} {what}, "
                         "numbered from 0 (-1: nobody said)")  # fmt: skip
