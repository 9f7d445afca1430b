"""Thurstone's model: utilities that are drawn anew at every answer.

P(second preferred) = Phi((mu_second - mu_first) / sqrt(v_first + v_second)): each option has a mean utility
and a variance. Scale and origin are free: here means have mean 0 over the options, and variances the
geometric mean 1, so that means tell how clear answers are, down to 0 where all are ties.

Source: utility engineering, arXiv 2502.08640. There means are standardised to variance 1, and Adam goes down
the likelihood; here L-BFGS goes down the same likelihood. The weak priors on means and on log variances are
ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from prefrl.config import Count, NonNegative
from prefrl.functional.preferences.general_models.margins import probit_margin

from .base import DescentConfig, DescentModel, Parameters, Rows, ScoredModel, encoded, normal_penalty
from .comparisons import Comparisons, ModelSizes


@dataclass(frozen=True)
class ThurstoneConfig(DescentConfig):
    """Settings of :class:`Thurstone`."""

    starts: Count = 1
    """As of :class:`DescentConfig`."""
    ridge: NonNegative = 1.0
    """Of means: a normal prior of variance 1 / ridge, in the unit of the noise of one option."""
    variance_ridge: NonNegative = 1.0
    """Of log variances: a normal prior of variance 1 / variance_ridge."""


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
        """Return the same with means and log variances of mean 0 over the options."""
        features = comparisons.features
        level = {name: (raw if features is None else encoded(features, raw)).mean()
                 for name, raw in parameters.items()}  # fmt: skip
        shift = torch.ones_like(parameters["means"])
        if features is not None:
            shift = torch.cat([torch.zeros_like(shift[:-1]), shift[-1:]])  # the last row is the constant
        unit = (0.5 * level["log_variances"]).exp()
        return {"means": (parameters["means"] - level["means"] * shift) / unit,
                "log_variances": parameters["log_variances"] - level["log_variances"] * shift}  # fmt: skip

    def penalty(self, parameters: Parameters, comparisons: Comparisons) -> Tensor:
        """See :meth:`DescentModel.penalty`; a constant beside features is free."""
        rows = slice(None) if comparisons.features is None else slice(-1)
        means, variances = (parameters[name][rows] for name in ("means", "log_variances"))
        config = self.config
        return normal_penalty(config.ridge, means) + normal_penalty(config.variance_ridge, variances)
