"""Choosing under several objectives of which nobody knows the right one.

M members each say what actions are worth. An action that another one beats by every member's light is
dominated, and is never taken; among the others a weighted choice decides, or nobody does where too few of
the members agree. Source: uncertain objectives in place of one total order, Eckersley, arXiv 1901.00064;
which choice is made among undominated actions is not said there, and is a parameter here.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Choice = Literal["mean", "worst", "approval"]
"""Ways to choose among undominated actions, see :func:`preferred`."""


def undominated(values: Tensor) -> Tensor:
    """Return which actions no other one beats [..., A] bool: at least one in every state.

    An action is dominated if another is worth at least as much to all members, and more to one of them.

    Args:
        values: [M, ..., A] what each member thinks actions are worth.
    """
    first, second = values[..., :, None], values[..., None, :]
    beaten = (second >= first).all(0) & (second > first).any(0)
    return ~beaten.any(-1)


def advantages(values: Tensor) -> Tensor:
    """Return how much less than the best action each is worth [M, ..., A], at most 0."""
    return values - values.amax(-1, keepdim=True)


def approval(values: Tensor, weights: Tensor, tolerance: float) -> Tensor:
    """Return the weight [..., A] of the members to whom an action is as good as their best.

    Args:
        values: [M, ..., A].
        weights: [M], of sum 1.
        tolerance: how much less than the best counts as good, in the unit of the values.
    """
    good = (advantages(values) >= -tolerance).to(values.dtype)
    return _weighted(good, weights)


def preferred(values: Tensor, allowed: Tensor, weights: Tensor, choice: Choice, tolerance: float) -> Tensor:
    """Return the action [...] int64 that is chosen among those that are allowed; the first of equals.

    Args:
        values: [M, ..., A] in a unit that members share: what "mean" and "worst" weigh against each other.
        allowed: [..., A] bool, see :func:`undominated`.
        weights: [M], of sum 1.
        choice: "mean", the largest weighted mean of advantages; "worst", the one whose lowest advantage is
            highest; "approval", what most weight approves of, and among those the largest mean.
        tolerance: see :func:`approval`.

    Raises:
        ValueError: for another choice.
    """
    gaps = advantages(values)
    mean = _weighted(gaps, weights)
    score = mean
    if choice == "worst":
        score = gaps.amin(0)
    elif choice == "approval":
        most = approval(values, weights, tolerance).where(allowed, -torch.inf)
        score = mean.where(most >= most.amax(-1, keepdim=True), -torch.inf)
    elif choice != "mean":
        raise ValueError(f"choice is {choice!r}; it must be 'mean', 'worst' or 'approval'")
    return score.where(allowed, -torch.inf).argmax(-1)


def abstains(values: Tensor, weights: Tensor, agreement: float, tolerance: float) -> Tensor:
    """Return where no action has the approval of members of weight ``agreement`` [...] bool.

    A sum of weights that rounding alone leaves below counts as enough.
    """
    most: Tensor = approval(values, weights, tolerance).amax(-1)
    return most < agreement - 1e-6


def _weighted(values: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted sum [..., A] over members of values [M, ..., A]."""
    total: Tensor = torch.tensordot(weights.to(values.dtype), values, dims=1)
    return total
