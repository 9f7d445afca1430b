"""A label model that asks a fitted preference model what it believes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from prefrl.config import Share
from prefrl.data import Preferences

from .base import LabelModel


@dataclass(frozen=True)
class ModelLabels(LabelModel):
    """Labels by a model's probability that the second segment is preferred, or that mixed with what was said.

    Every preference model has such margins: ``preference_margins`` of reward models, of networks of segments
    (with PAL each annotator's own) and of the models on features. Fitted to the same comparisons, it takes
    out of the labels what the model cannot say: with Bradley and Terry's the circles, with PAL less.
    """

    margins: Callable[[Preferences], Tensor]
    """[N] log-odds that the second segment of each comparison is preferred."""
    share: Share = 1.0
    """Of the model in the label; the rest is the label that was given."""

    def relabel(self, preferences: Preferences) -> Preferences:
        """See :meth:`LabelModel.relabel`.

        Raises:
            ValueError: unless ``margins`` returns a finite number for each comparison.
        """
        margins = self.margins(preferences)
        if not isinstance(margins, Tensor) or margins.shape != preferences.labels.shape:
            found = list(margins.shape) if isinstance(margins, Tensor) else f"a {type(margins).__name__}"
            raise ValueError(f"margins returned {found}; it must return [{len(preferences)}], one for each "
                             "comparison")  # fmt: skip
        if not bool(torch.isfinite(margins).all()):
            raise ValueError("margins returned NaN or infinity; every margin must be finite")
        believed = torch.sigmoid(margins.to(torch.float64))
        return replace(preferences, labels=torch.lerp(preferences.labels, believed, self.share))
