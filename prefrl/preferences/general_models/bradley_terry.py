"""Bradley and Terry's model with what can be said of its uncertainty.

P(second preferred) = sigmoid(u(second) - u(first)), with a utility for each option of a table, or linear in
features, u = theta . phi. The likelihood is concave; its Fisher information is sum p (1 - p) x x' with x the
difference of features (or of unit vectors).

Sources: Bradley and Terry (1952); intervals, pessimism: arXiv 2604.02507.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from prefrl.config import Count, Natural, checked
from prefrl.functional.preferences.general_models import inference
from prefrl.functional.preferences.logistic import logistic_regression

from .base import GeneralModelConfig, Parameters, Rows, ScoredModel
from .comparisons import Comparisons, ModelSizes


@dataclass(frozen=True)
class BradleyTerryConfig(GeneralModelConfig):
    """Settings of :class:`BradleyTerry`."""


class BradleyTerry(ScoredModel):
    """A utility for each option, the same for all users; see the module's text.

    Utilities of a table have mean 0.
    """

    name = "bradley_terry"
    config_class = BradleyTerryConfig

    def shapes(self, sizes: ModelSizes) -> dict[str, tuple[int, ...]]:
        """See :meth:`GeneralModel.shapes`."""
        return {"utilities": (sizes.num_options or sizes.num_features,)}

    def log_odds(self, parameters: Parameters, rows: Rows) -> Tensor:
        """See :meth:`GeneralModel.log_odds`."""
        first, second = (self._worth(parameters["utilities"], side) for side in rows[:2])
        return second - first

    def score(self, options: Any, user: Any = None, context: Tensor | None = None) -> Tensor:
        """See :meth:`ScoredModel.score`; users and contexts change nothing."""
        return self._worth(self.parameters.get("utilities", torch.zeros(0)), self._option("options", options))

    @staticmethod
    def _worth(utilities: Tensor, options: Tensor) -> Tensor:
        return options @ utilities if options.is_floating_point() else utilities[options]

    def fit(self, comparisons: Comparisons) -> dict[str, Tensor]:
        """See :meth:`GeneralModel.fit`."""
        if comparisons.features is None:
            comparisons.check_linked()
        sizes = ModelSizes.of(comparisons)
        self.take({"utilities": self._fits(comparisons, comparisons.counts[None])[0]}, sizes)
        return self.report(comparisons)

    def _fits(self, comparisons: Comparisons, counts: Tensor) -> Tensor:
        """Return the parameters [B, P] fitted with B sets of counts [B, N], as one batch."""
        ridge = self.config.ridge
        if comparisons.features is None:
            return inference.utilities(comparisons.wins(counts), ridge)
        inputs = comparisons.features[comparisons.second] - comparisons.features[comparisons.first]
        # A ridge against the sum of the losses, which the mean has to be told of; for all B it is one number.
        mean_ridge = ridge / float(comparisons.counts.sum())
        labels = comparisons.labels.expand(len(counts), -1)
        return logistic_regression(inputs.expand(len(counts), -1, -1), labels, counts, ridge=mean_ridge)

    def intervals(
        self, comparisons: Comparisons, *, level: float = 0.95,
        method: Literal["wald", "bootstrap"] = "wald", resamples: int = 500,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Return the lower and upper ends [P] of intervals about the utilities (or weights of features).

        Args:
            comparisons: what the model was fitted to.
            level: how often such an interval is to hold the truth.
            method: "wald", normal with the inverse information, or "bootstrap": percentiles of fits to as
                many answers, drawn with replacement.
            resamples: fits of the bootstrap; memory grows with resamples x N with features, x K^2 in tables.

        Raises:
            ValueError: if an argument is out of range.
        """
        z = inference.normal_quantile(level)
        utilities = self.parameters["utilities"]
        if method == "wald":
            variance = inference.covariance(self.information(comparisons)).diagonal().clamp(min=0.0)
            return utilities - z * variance.sqrt(), utilities + z * variance.sqrt()
        if method != "bootstrap":
            raise ValueError(f"method is {method!r}; it must be 'wald' or 'bootstrap'")
        fits = self.bootstrap(comparisons, resamples)
        share = 0.5 - level / 2.0
        return fits.quantile(share, 0), fits.quantile(1.0 - share, 0)

    def bootstrap(self, comparisons: Comparisons, resamples: int = 500) -> Tensor:
        """Return the parameters [resamples, P] of fits to as many answers, drawn with replacement.

        An answer is one of ``weights`` answers to its pair, with a share ``labels`` of them for the second;
        so counts must be whole numbers, and labels shares.

        Raises:
            ValueError: if they are not.
        """
        checked(Count, resamples, "resamples")
        counts = comparisons.counts
        if (
            bool((counts != counts.round()).any())
            or not 0.0 <= float(comparisons.labels.min()) <= float(comparisons.labels.max()) <= 1.0
        ):
            raise ValueError("a bootstrap draws answers: weights must be whole numbers and labels in [0, 1]")
        # Each pair as two rows, answers for the one and answers for the other, so that both can be drawn.
        ends = torch.cat([torch.zeros_like(comparisons.labels), torch.ones_like(comparisons.labels)])
        split = Comparisons(
            comparisons.first.repeat(2), comparisons.second.repeat(2), ends, comparisons.num_options,
            torch.cat([counts * (1.0 - comparisons.labels), counts * comparisons.labels]),
            features=comparisons.features,
        )  # fmt: skip
        generator = torch.Generator().manual_seed(checked(Natural, self.seed, "seed"))
        total = int(counts.sum())
        drawn = torch.stack([
            torch.multinomial(split.counts.cpu(), total, replacement=True, generator=generator)
            .bincount(minlength=len(split))
            for _ in range(resamples)
        ])  # fmt: skip
        return self._fits(split, drawn.to(counts))

    def pessimistic(self, options: Any, comparisons: Comparisons, kappa: float = 1.0) -> Tensor:
        """Return u - kappa standard errors [...]: what options are worth at least (arXiv 2604.02507).

        Args:
            options: places [N], measured from the mean of all, or features [N, F], measured from 0: take
                features from an option that is known.
            comparisons: what the model was fitted to.
            kappa: standard errors that are taken off; negative for optimism.

        Raises:
            ValueError: for an option with a feature that no comparison told anything about.
        """
        options = self._option("options", options)
        phi = options
        if not options.is_floating_point():
            size = self.sizes.num_options
            phi = (torch.eye(size, dtype=torch.float64, device=options.device) - 1.0 / size)[options]
        return inference.pessimistic_score(
            phi, self.parameters["utilities"], self.information(comparisons), kappa
        )
