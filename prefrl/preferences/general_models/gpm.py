"""The general preference model (GPM): embeddings that beat each other on the way round.

margin = sum_l rate_l (b_{2l-1} a_{2l} - b_{2l} a_{2l-1}) / temperature, that b (the second) is preferred to
a: an antisymmetric bilinear form in k planes, with rates k softmax(gate) that may depend on the context. It
can say everything that an antisymmetric matrix of rank 2 k can; one plane with embeddings (r, 1) is Bradley
and Terry's model.

Source: General Preference Modeling, arXiv 2410.02197 (there the first is preferred where the form is
positive). One plane cannot say that one option beats all three of a circle; so two are the default.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from prefrl.config import Count, Positive
from prefrl.functional.preferences.general_models.margins import rotation_margin, unit

from .base import DescentConfig, DescentModel, Parameters, Rows, encoded, normal_penalty, with_constant
from .comparisons import Comparisons, ModelSizes


@dataclass(frozen=True)
class GPMConfig(DescentConfig):
    """Settings of :class:`GPM`."""

    blocks: Count = 2
    """k, planes."""
    normalise: bool = True
    """Embeddings of length 1, as published; otherwise they are free, and the ridge holds them."""
    temperature: Positive = 0.1
    """What the form is divided by, in [.1, 1] as published."""


class GPM(DescentModel):
    """A general preference model, the same for all users; see the module's text.

    There is no score: it has circles.
    """

    name = "gpm"
    config_class = GPMConfig

    def shapes(self, sizes: ModelSizes) -> dict[str, tuple[int, ...]]:
        """See :meth:`GeneralModel.shapes`."""
        blocks = self.config.blocks
        return {"embeddings": (sizes.inputs, 2 * blocks), "gate": (sizes.num_contexts + 1, blocks)}

    def log_odds(self, parameters: Parameters, rows: Rows) -> Tensor:
        """See :meth:`GeneralModel.log_odds`."""
        first, second = (encoded(side, parameters["embeddings"]) for side in rows[:2])
        if self.config.normalise:
            first, second = unit(first), unit(second)
        rates = self.config.blocks * torch.softmax(with_constant(rows[3]) @ parameters["gate"], -1)
        log_odds: Tensor = rotation_margin(first, second, rates) / self.config.temperature
        return log_odds

    def check(self, comparisons: Comparisons) -> None:
        """Refuse more planes than could ever be told apart.

        An antisymmetric form of n inputs has rank n at most, so n / 2 planes say all that it can. Embeddings
        of length 1 may need one more, in which they differ in length but not in direction. Rates that depend
        on contexts may need any number.
        """
        sizes = ModelSizes.of(comparisons)
        most = sizes.inputs // 2 + self.config.normalise
        if self.config.blocks > most and not sizes.num_contexts:
            raise ValueError(f"blocks is {self.config.blocks}; {sizes} allow at most {most}")

    def penalty(self, parameters: Parameters, comparisons: Comparisons) -> Tensor:
        """See :meth:`DescentModel.penalty`; the length of what is normalised says nothing."""
        held = ("gate",) if self.config.normalise else ("gate", "embeddings")
        return normal_penalty(self.config.ridge, *(parameters[name] for name in held))
