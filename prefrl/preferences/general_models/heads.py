"""Heads that read margins off embeddings of segments: what general preference models say, on networks.

A network gives D numbers for every step, a head says what they are, they are pooled over the segment, and the
head compares two segments: the log-odds [E, ...] that the SECOND is preferred, for each of E members. The
formulas are those of ``prefrl.functional.preferences.general_models.margins``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn

from prefrl.functional.preferences.general_models.margins import (
    angle_score,
    distance_score,
    probit_margin,
    rotation_margin,
    unit,
)
from prefrl.functional.preferences.preferences import partial_return
from prefrl.nn.reward_nets import RewardNetwork

Pooling = Literal["sum", "mean"]
"""How the numbers of steps become those of their segment."""

MAX_LOG_VARIANCE = 10.0
"""Log variances are cut to plus or minus this, far beyond what is ever fitted, so that none overflows."""

MAX_TEMPERATURE = 100.0
"""Of angles, as published (PAL-B)."""


class MarginHead(nn.Module, ABC):
    """Compares embeddings of segments.

    Attributes:
        outputs: D, numbers of a step that it asks for.
    """

    outputs: int

    def steps(self, outputs: Tensor) -> Tensor:
        """Return what is pooled [E, N, D], of a network's outputs [E, N, D] for N steps."""
        return outputs

    @abstractmethod
    def margin(self, first: Tensor, second: Tensor, users: Tensor) -> Tensor:
        """Return the log-odds [E, ...] of embeddings [E, ..., D] and users [...], int64."""

    def score(self, embeddings: Tensor, users: Tensor) -> Tensor:
        """Return scores [E, ...] of embeddings [E, ..., D], or rewards of what :meth:`steps` returned.

        Raises:
            ValueError: if there are none.
        """
        raise ValueError(f"{type(self).__name__} has no score: it has circles; ask for margins, or for the "
                         "share of a population that is beaten")  # fmt: skip

    def penalty(self, steps: Tensor, mask: Tensor) -> Tensor:
        """Return what is added to the loss [], of what :meth:`steps` returned [E, N, D], mask [N]."""
        return steps.new_zeros(())


class ThurstoneHead(MarginHead):
    """Utilities that are drawn anew at every answer: a mean and a variance for each step, both summed.

    A segment's utility is the sum of independent normal ones of its steps.

    Args:
        ridge: of log variances, see :meth:`penalty`.
    """

    outputs = 2

    def __init__(self, ridge: float) -> None:
        super().__init__()
        self.ridge = ridge

    def steps(self, outputs: Tensor) -> Tensor:
        """Return means and variances."""
        log_variance = outputs[..., 1].clamp(-MAX_LOG_VARIANCE, MAX_LOG_VARIANCE)
        return torch.stack([outputs[..., 0], log_variance.exp()], -1)

    def margin(self, first: Tensor, second: Tensor, users: Tensor) -> Tensor:
        """See :meth:`MarginHead.margin`; all users are one."""
        return probit_margin(first[..., 0], second[..., 0], first[..., 1] + second[..., 1])

    def score(self, embeddings: Tensor, users: Tensor) -> Tensor:
        """Return mean utilities."""
        return embeddings[..., 0]

    def penalty(self, steps: Tensor, mask: Tensor) -> Tensor:
        """Return ridge / 2 x the mean square of log variances of steps, summed over members."""
        square = torch.where(mask, steps[..., 1].log().square(), 0.0)
        penalty: Tensor = 0.5 * self.ridge * (square.sum(-1) / mask.sum().clamp(min=1)).sum()
        return penalty


class GPMHead(MarginHead):
    """An antisymmetric form in k planes, in which segments beat those that lie behind them on the way round.

    Args:
        members: E.
        blocks: k, planes.
        normalise: take embeddings at length 1.
        temperature: what the form is divided by.
    """

    def __init__(self, members: int, blocks: int, normalise: bool, temperature: float) -> None:
        super().__init__()
        self.outputs, self.normalise, self.temperature = 2 * blocks, normalise, temperature
        self.gate = nn.Parameter(torch.zeros(members, blocks))

    def margin(self, first: Tensor, second: Tensor, users: Tensor) -> Tensor:
        """See :meth:`MarginHead.margin`; all users are one."""
        if self.normalise:
            first, second = unit(first), unit(second)
        members, blocks = self.gate.shape
        rates = blocks * torch.softmax(self.gate, -1)
        rates = rates.view(members, *[1] * (first.ndim - 2), blocks)
        margin: Tensor = rotation_margin(first, second, rates) / self.temperature
        return margin


class PALHead(MarginHead):
    """Ideals of users, as mixtures of K prototypes.

    Scores are minus the distance to the ideal ("A"), a learned factor x the cosine with it ("B"), or the
    product with it ("linear", ours), which alone is a sum over steps.

    Args:
        members: E.
        users: U.
        prototypes: K.
        dimension: D.
        form: of the scores.
    """

    def __init__(
        self, members: int, users: int, prototypes: int, dimension: int, form: Literal["A", "B", "linear"]
    ) -> None:
        super().__init__()
        self.outputs, self.form = dimension, form
        self.users = nn.Parameter(torch.randn(members, users, prototypes))
        self.prototypes = nn.Parameter(torch.randn(members, prototypes, dimension))
        if form == "B":
            self.log_temperature = nn.Parameter(torch.zeros(members))

    def margin(self, first: Tensor, second: Tensor, users: Tensor) -> Tensor:
        """See :meth:`MarginHead.margin`."""
        return self.score(second, users) - self.score(first, users)

    def score(self, embeddings: Tensor, users: Tensor) -> Tensor:
        """See :meth:`MarginHead.score`."""
        shares = torch.softmax(self.users, -1)[:, users]
        ideal = torch.einsum("e...k,ekd->e...d", shares, self.prototypes)
        if self.form == "A":
            return distance_score(embeddings, ideal)
        if self.form == "linear":
            return (embeddings * ideal).sum(-1)
        factor = self.log_temperature.exp().clamp(max=MAX_TEMPERATURE)
        return angle_score(embeddings, ideal, factor.view(-1, *[1] * (embeddings.ndim - 2)))


class SegmentNetwork(nn.Module):
    """E networks of steps, pooled over segments, and the head that compares these.

    Args:
        encoder: gives ``head.outputs`` numbers for each step.
        head: what they mean.
        pooling: how they become a segment's.
    """

    def __init__(self, encoder: RewardNetwork, head: MarginHead, pooling: Pooling) -> None:
        super().__init__()
        self.encoder, self.head, self.pooling = encoder, head, pooling

    def forward(self, vectors: Tensor, pictures: Tensor | None = None) -> Tensor:
        """Map vectors [N, in] (and pictures) of steps to what is pooled [E, N, D]."""
        return self.head.steps(self.encoder(vectors, pictures))

    def pooled(self, steps: Tensor, mask: Tensor) -> Tensor:
        """Return embeddings [E, N, D] of N segments from their steps [E, N L, D] and mask [N, L]."""
        by_segment = steps.view(len(steps), *mask.shape, -1).transpose(2, 3)
        summed = partial_return(by_segment, mask[:, None])
        return summed / mask.sum(-1, keepdim=True).clamp(min=1) if self.pooling == "mean" else summed
