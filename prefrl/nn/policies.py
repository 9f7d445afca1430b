"""What a policy network's outputs mean as a distribution of actions, and the gradients of that by hand.

Rows are [S, N]: S learners, N observations of each. ``raw`` actions are what is drawn: places of the choices,
or numbers before they are cut to the space.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from prefrl.functional.streams import Streams

LOG_TWO_PI = math.log(2.0 * math.pi)


class Evaluated(NamedTuple):
    """What a policy says of actions."""

    log_probs: Tensor
    """[S, N] log pi(a | s)."""
    entropies: Tensor
    """[S, N] of pi(. | s)."""
    kept: tuple[Tensor, ...]
    """What :meth:`ActionDistribution.slopes` needs."""


class ActionDistribution(ABC):
    """A family of distributions over actions.

    Attributes:
        outputs: K, what the network must give for every observation.
        width: number of parameters that do not depend on the observation: A log standard deviations, or 0.
    """

    outputs: int
    width: int = 0

    @abstractmethod
    def noise(self, streams: Streams, rows: int) -> Tensor:
        """Return what :meth:`draw` takes for a number of rows, [S, rows, K]."""

    @abstractmethod
    def draw(self, outputs: Tensor, free: Tensor, noise: Tensor) -> Tensor:
        """Return raw actions [S, N, ...] of outputs [S, N, K] and free parameters [S, 1, width]."""

    @abstractmethod
    def mode(self, outputs: Tensor) -> Tensor:
        """Return the most likely raw actions [S, N, ...]."""

    @abstractmethod
    def evaluate(self, outputs: Tensor, free: Tensor, raw: Tensor) -> Evaluated:
        """Return what is said of raw actions; differentiable by autograd."""

    @abstractmethod
    def divergences(self, outputs: Tensor, free: Tensor, others: Tensor, others_free: Tensor) -> Tensor:
        """Return KL(pi(. | s), other(. | s)) [S, N], both by their outputs and free parameters."""

    @abstractmethod
    def slopes(
        self, kept: tuple[Tensor, ...], of_log_probs: Tensor, of_entropies: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return a loss's gradients in outputs [S, N, K] and free parameters [S, 1, width].

        Args:
            kept: of :class:`Evaluated`.
            of_log_probs: [S, N] the loss's gradient in the log-probabilities.
            of_entropies: [S, N] or [S, 1], likewise.
        """


class Categoricals(ActionDistribution):
    """Independent choices, each by a softmax of its logits; for Discrete spaces a single one.

    Args:
        sizes: options of each choice.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        self.sizes = list(sizes)
        self.outputs = sum(self.sizes)

    def noise(self, streams: Streams, rows: int) -> Tensor:
        """See :class:`ActionDistribution`: Gumbel noise."""
        return streams.gumbel(rows, self.outputs)

    def draw(self, outputs: Tensor, free: Tensor, noise: Tensor) -> Tensor:
        """See :class:`ActionDistribution`: int64 [S, N, choices]."""
        return self.mode(outputs + noise)

    def mode(self, outputs: Tensor) -> Tensor:
        """See :class:`ActionDistribution`."""
        return torch.stack([part.argmax(-1) for part in self._split(outputs)], -1)

    def _split(self, outputs: Tensor) -> Sequence[Tensor]:
        return (outputs,) if len(self.sizes) == 1 else torch.split(outputs, self.sizes, -1)

    def evaluate(self, outputs: Tensor, free: Tensor, raw: Tensor) -> Evaluated:
        """See :class:`ActionDistribution`."""
        logs = [torch.log_softmax(part, -1) for part in self._split(outputs)]
        probs = [log.exp() for log in logs]
        chosen = [log.gather(-1, raw[..., place, None])[..., 0] for place, log in enumerate(logs)]
        parts = [-(prob * log).sum(-1) for prob, log in zip(probs, logs, strict=True)]
        return Evaluated(sum_of(chosen), sum_of(parts), (raw, *logs, *probs, *parts))

    def divergences(self, outputs: Tensor, free: Tensor, others: Tensor, others_free: Tensor) -> Tensor:
        """See :class:`ActionDistribution`."""
        found = []
        for own, other in zip(self._split(outputs), self._split(others), strict=True):
            logs = torch.log_softmax(own, -1)
            found.append((logs.exp() * (logs - torch.log_softmax(other, -1))).sum(-1))
        return sum_of(found)

    def slopes(
        self, kept: tuple[Tensor, ...], of_log_probs: Tensor, of_entropies: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See :class:`ActionDistribution`: d log p(a) = 1_a - p, dH = -p (log p + H)."""
        count, raw = len(self.sizes), kept[0]
        found = []
        for place in range(count):
            logs, probs, entropy = kept[1 + place], kept[1 + count + place], kept[1 + 2 * count + place]
            # p (-g - h (log p + H)), and g at the action
            inner = (logs + entropy[..., None]).mul_(-of_entropies[..., None])
            inner -= of_log_probs[..., None]
            inner *= probs
            found.append(inner.scatter_add_(-1, raw[..., place, None], of_log_probs[..., None]))
        slopes = found[0] if count == 1 else torch.cat(found, -1)
        return slopes, slopes.new_zeros(slopes.shape[0], 1, 0)


class DiagonalGaussian(ActionDistribution):
    """Independent normal numbers; their standard deviations do not depend on the observation.

    Args:
        size: A, numbers of an action.
    """

    def __init__(self, size: int) -> None:
        self.outputs = self.width = size

    def noise(self, streams: Streams, rows: int) -> Tensor:
        """See :class:`ActionDistribution`: standard normal."""
        return streams.normal(rows, self.outputs)

    def draw(self, outputs: Tensor, free: Tensor, noise: Tensor) -> Tensor:
        """See :class:`ActionDistribution`: float32 [S, N, A]."""
        return torch.addcmul(outputs, free.exp(), noise)

    def mode(self, outputs: Tensor) -> Tensor:
        """See :class:`ActionDistribution`: the means."""
        return outputs

    def evaluate(self, outputs: Tensor, free: Tensor, raw: Tensor) -> Evaluated:
        """See :class:`ActionDistribution`."""
        scaled = (raw - outputs) * (-free).exp()
        total = free.sum(-1)  # [S, 1]
        log_probs = -0.5 * scaled.square().sum(-1) - total - 0.5 * self.outputs * LOG_TWO_PI
        entropies = (total + 0.5 * self.outputs * (1.0 + LOG_TWO_PI)).expand_as(log_probs)
        return Evaluated(log_probs, entropies, (scaled, free))

    def divergences(self, outputs: Tensor, free: Tensor, others: Tensor, others_free: Tensor) -> Tensor:
        """See :class:`ActionDistribution`."""
        apart = ((outputs - others) * (-others_free).exp()).square()
        wider = free - others_free
        return (0.5 * (apart + (2.0 * wider).exp() - 1.0) - wider).sum(-1)

    def slopes(
        self, kept: tuple[Tensor, ...], of_log_probs: Tensor, of_entropies: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See :class:`ActionDistribution`: d log p is z / std in the mean, z^2 - 1 in log std; dH 1 there."""
        scaled, free = kept
        weighted = scaled * of_log_probs[..., None]
        of_free = (weighted * scaled).sum(1, keepdim=True) - of_log_probs.sum(1, keepdim=True)[..., None]
        of_free += of_entropies.expand_as(of_log_probs).sum(1, keepdim=True)[..., None]
        return weighted.mul_((-free).exp()), of_free


def sum_of(parts: Sequence[Tensor]) -> Tensor:
    """Return the sum of tensors of one shape."""
    return parts[0] if len(parts) == 1 else torch.stack(list(parts)).sum(0)
