"""Thurstone's model: utilities that are drawn anew at every answer.

P(second preferred) = Phi((mu_second - mu_first) / sqrt(v_first + v_second)): each option has a mean utility
and a variance. Scale and origin are free; means are standardised at every step of the fit to mean 0 and
variance 1 over the options, and variances are in that unit.

Source: utility engineering, arXiv 2502.08640 (there Adam, here L-BFGS, of the same likelihood; the weak prior
on log variances is ours).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from prefrl.config import Count, NonNegative
from prefrl.functional.preferences.general_models.margins import probit_margin

from .base import DescentConfig, DescentModel, ModelSizes, Parameters, Rows, ScoredModel, encoded
from .comparisons import Comparisons


@dataclass(frozen=True)
class ThurstoneConfig(DescentConfig):
    """Settings of :class:`Thurstone`."""

    starts: Count = 1
    """As of :class:`DescentConfig`."""
    ridge: NonNegative = 1.0
    """Of log variances alone: a normal prior of variance 1."""


class Thurstone(DescentModel, ScoredModel):
    """A normal utility for each option, the same for all users; see the module's text."""

    name = "thurstone"
    config_class = ThurstoneConfig

    def shapes(self, sizes: ModelSizes) -> dict[str, tuple[int, ...]]:
        """See :meth:`GeneralModel.shapes`."""
        return {"means": (sizes.inputs, 1), "log_variances": (sizes.inputs, 1)}

    def log_odds(self, parameters: Parameters, rows: Rows) -> Tensor:
        """See :meth:`GeneralModel.log_odds`."""
        means = [encoded(side, parameters["means"])[..., 0] for side in rows[:2]]
        variances = [encoded(side, parameters["log_variances"])[..., 0].exp() for side in rows[:2]]
        return probit_margin(means[0], means[1], variances[0] + variances[1])

    def score(self, options: Any, user: Any = None, context: Tensor | None = None) -> Tensor:
        """Return mean utilities [...]; users and contexts change nothing."""
        options = self._option("options", options)
        return encoded(options, self.parameters["means"])[..., 0]

    def check(self, comparisons: Comparisons) -> None:
        """See :meth:`DescentModel.check`."""
        features = comparisons.features
        if features is not None and bool((features == features[0]).all()):
            raise ValueError("all options have the same features; nothing tells them apart")

    def start(self, sizes: ModelSizes, generator: torch.Generator) -> Parameters:
        """Return means at random, and variances of 1."""
        start = super().start(sizes, generator)
        return {**start, "log_variances": torch.zeros_like(start["log_variances"])}

    def settled(self, parameters: Parameters, comparisons: Comparisons) -> Parameters:
        """Return the same with means standardised over the options."""
        raw, features = parameters["means"], comparisons.features
        of_options = raw if features is None else encoded(features, raw)
        mean, std = of_options.mean(), of_options.std(correction=0)
        # Of features, the last row is the constant.
        moved = raw - mean if features is None else torch.cat([raw[:-1], raw[-1:] - mean])
        return {**parameters, "means": moved / std}

    def penalised(self) -> tuple[str, ...]:
        """See :meth:`DescentModel.penalised`."""
        return ("log_variances",)
