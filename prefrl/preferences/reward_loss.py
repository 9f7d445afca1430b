"""The loss of reward models on comparisons: by autograd, and its gradient by hand.

    loss = sum over members of sum_i w_i l( G'_i - G_i - offset_i, label_i ) / sum_i w_i

with G and G' the sums of a member's rewards along the segments of pair i, l the cross-entropy
(``prefrl.functional.preferences.preferences.preference_cross_entropy``) and w the member's weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from prefrl.functional.preferences.preferences import (
    partial_return,
    preference_cross_entropy,
    preference_slopes,
    weighted_mean,
)
from prefrl.nn.reward_nets import RewardChain


class Compared(NamedTuple):
    """N segments of L steps, and P pairs among them."""

    mask: Tensor
    """[N, L] bool, True for transitions."""
    labels: Tensor
    """[P] probability that the second segment is preferred."""
    weights: Tensor
    """[E, P] of each member."""
    offsets: Tensor | None = None
    """[P] margins within the loss; None: 0."""
    first: Tensor | None = None
    """[P] places of first segments; None, of both: pairs are each two segments in turn."""
    second: Tensor | None = None
    """[P] places of second ones."""
    users: Tensor | None = None
    """[P] int64 who answered; None: the first one, or it makes no difference."""

    def sides(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return what segments have [E, N, ...] for the first and the second ones of pairs [E, P, ...]."""
        if self.first is None or self.second is None:
            pairs = values.reshape(len(values), -1, 2, *values.shape[2:])
            return pairs[:, :, 0], pairs[:, :, 1]
        return values[:, self.first], values[:, self.second]

    def logits(self, scores: Tensor) -> Tensor:
        """Return log-odds [E, P] that the second segment is preferred, of scores [E, N]."""
        first, second = self.sides(scores)
        return second - first

    def of_scores(self, slopes: Tensor) -> Tensor:
        """Return a gradient [E, N] in scores, of that in log-odds [E, P]."""
        if self.first is None or self.second is None:
            return torch.stack([-slopes, slopes], -1).flatten(1)
        of_scores = slopes.new_zeros(len(slopes), len(self.mask)).index_add_(1, self.second, slopes)
        return of_scores.index_add_(1, self.first, slopes, alpha=-1.0)

    def margins(self, logits: Tensor) -> Tensor:
        """Return what the cross-entropy is of."""
        return logits if self.offsets is None else logits - self.offsets

    def losses(self, logits: Tensor) -> Tensor:
        """Return the mean loss [E] of each member, of log-odds [E, P]."""
        return weighted_mean(preference_cross_entropy(self.margins(logits), self.labels), self.weights)

    def metrics(self, logits: Tensor, losses: Tensor) -> dict[str, Tensor]:
        """Return the mean loss, and [2] how many pairs without tie are right, of how many."""
        decided = (self.labels != 0.5) * (self.weights.sum(0) > 0)
        right = ((logits.mean(0) > 0) == (self.labels > 0.5)) * decided
        return {"loss": losses.mean(), "right": torch.stack([right.sum(), decided.sum()])}


def reward_loss(
    network: Callable[..., Tensor], vectors: Tensor, pictures: Tensor | None, compared: Compared
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss [], and metrics (:meth:`Compared.metrics`).

    Args:
        network: a reward network.
        vectors: [N L, D] what it reads of all steps.
        pictures: [N L, ...] pictures, if it reads some.
        compared: the segments of these steps.
    """
    rewards = network(vectors, pictures).reshape(-1, *compared.mask.shape)
    logits = compared.logits(partial_return(rewards, compared.mask))
    losses = compared.losses(logits)
    return losses.sum(), compared.metrics(logits.detach(), losses.detach())


def gradients_by_hand(chain: RewardChain, vectors: Tensor, compared: Compared) -> dict[str, Tensor]:
    """Put the gradient of the loss where the network has it, with autograd off; return its metrics.

    (A fit then takes .6 to .7 of autograd's time with single steps, .75 to .9 with networks of 64 x 64 and 32
    pairs of 50 steps, .95 with 256 x 256, where products are nearly all of it; one thread.)

    Args:
        chain: of the network.
        vectors: [N L, D].
        compared: the segments of these steps.
    """
    records, rewards = chain.record(vectors)
    logits = compared.logits(partial_return(rewards.reshape(-1, *compared.mask.shape), compared.mask))
    slopes, _ = preference_slopes(compared.margins(logits), compared.labels)
    total = compared.weights.sum(-1, keepdim=True)
    shares = compared.weights / torch.where(total == 0, 1.0, total)
    chain.pull(records, (compared.of_scores(shares * slopes)[..., None] * compared.mask).flatten(1))
    return compared.metrics(logits, compared.losses(logits))
