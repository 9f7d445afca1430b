"""How far a policy's stances moved while it learned, and when.

A stance is a category of behaviour, such as an action; a policy has a distribution over stances at each
checkpoint. The magnitude of a drift is the change of a stance's probability, the time of a drift is when it
had come 95 % of the way to where it was furthest from the start. The value gap of comparisons, how much more
often a stance is in what was preferred than in what was not, is what may predict it.

Source: value drifts, arXiv 2510.26707 (by descriptions of it).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Drift(NamedTuple):
    """What became of C stances between the first checkpoint and the last."""

    magnitude: Tensor
    """[..., C] change of probability, signed; they sum to 0."""
    extremum: Tensor
    """[..., C] the largest change at any checkpoint, signed."""
    time: Tensor
    """[..., C] time from the first checkpoint to the first one with 95 % of the extremum; 0 without one."""

    @property
    def total(self) -> Tensor:
        """[...] total variation between the two distributions, half the sum of all magnitudes."""
        return 0.5 * self.magnitude.abs().sum(-1)


def stance_shares(stances: Tensor, count: int, weights: Tensor | None = None) -> Tensor:
    """Return the shares [..., C] of stances.

    Args:
        stances: [..., N] int64 from 0 to C - 1.
        count: C.
        weights: [..., N], not negative; None: all count alike.
    """
    weights = torch.ones(stances.shape, dtype=torch.float64, device=stances.device) \
        if weights is None else weights  # fmt: skip
    sums = weights.new_zeros(*stances.shape[:-1], count).scatter_add_(-1, stances, weights)
    return sums / weights.sum(-1, keepdim=True)


def drift(shares: Tensor, times: Tensor, *, portion: float = 0.95) -> Drift:
    """Return how far stances moved, and when.

    Args:
        shares: [T, ..., C] distribution over stances at each checkpoint.
        times: [T] when that was, ascending.
        portion: of the extremum, at which it counts as reached.
    """
    moved = shares - shares[0]
    furthest = moved.abs().argmax(0, keepdim=True)
    extremum = moved.gather(0, furthest)[0]
    reached = (moved * extremum.sign() >= portion * extremum.abs()) & (extremum != 0.0)
    first = reached.to(torch.int64).argmax(0)
    return Drift(moved[-1], extremum, times[first] - times[0])


def value_gap(shares: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return by how much each stance is commoner in what was preferred than in the other side [..., C].

    A label of 1 or 0 says which side that is, a number between counts for as much as it is decided.

    Args:
        shares: [..., N, 2, C] shares of stances in the first and the second side of each comparison.
        labels: [..., N] probability that the second is preferred.
        weights: [..., N], not negative; None: all count alike.
    """
    decided = 2.0 * labels - 1.0
    counts = torch.ones_like(labels) if weights is None else weights
    gaps = (shares[..., 1, :] - shares[..., 0, :]) * (counts * decided)[..., None]
    return gaps.sum(-2) / (counts * decided.abs()).sum(-1, keepdim=True)
