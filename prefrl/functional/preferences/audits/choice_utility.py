"""What choices say of utilities: the gradient of a softmax, lotteries, and how decided choices are."""

from __future__ import annotations

import torch
from torch import Tensor


def comparison_gradient(probs: Tensor, chosen: Tensor) -> Tensor:
    """Return sum_j p_j (e_y - e_j) [..., n]: what choosing y says of it against each other option j.

    That is the gradient of log p_y = log softmax(u)_y by the utilities u: training a softmax by maximum
    likelihood learns utilities by comparisons of what was chosen with every option, weighted by how likely
    the policy found it. (The observation is that of the utility-probability duality, arXiv 2305.14859; the
    transform that the paper is about is not known to us, and not here.)

    Args:
        probs: [..., n] of the softmax.
        chosen: [...] int64.
    """
    eye = torch.eye(probs.shape[-1], dtype=probs.dtype, device=probs.device)
    return (probs[..., None] * (eye[chosen][..., None, :] - eye)).sum(-2)


def expected_utility(lotteries: Tensor, utilities: Tensor) -> Tensor:
    """Return sum_k q_k u_k [...] of lotteries [..., K] over outcomes with utilities [K]."""
    return (lotteries * utilities).sum(-1)


def explained_share(values: Tensor, predicted: Tensor) -> Tensor:
    """Return R^2, the share of the variance of values [N] that predictions [N] explain; 1 if all are right.

    It is below 0 where they are worse than the mean, and nothing is fitted: utilities of lotteries must be
    the means of their outcomes', not a multiple of them.
    """
    missed = (values - predicted).square().sum()
    spread = (values - values.mean()).square().sum()
    return torch.where(missed == 0.0, 1.0, 1.0 - missed / spread)


def completeness(chances: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return how decided choices are, the mean of |2 p - 1|: 0 for coins, 1 for one side always.

    Args:
        chances: [N] of choosing the second option.
        weights: [N], not negative; None: all count alike.
    """
    decided = (2.0 * chances - 1.0).abs()
    return decided.mean() if weights is None else (weights * decided).sum() / weights.sum()


def cyclic_chance(first: Tensor, second: Tensor, third: Tensor) -> Tensor:
    """Return the chance [...] that three choices go round: a over b, b over c, c over a, or the other way.

    Args:
        first: [...] of choosing b of a and b.
        second: [...] of choosing c of b and c.
        third: [...] of choosing c of a and c.
    """
    return first * second * (1.0 - third) + (1.0 - first) * (1.0 - second) * third
