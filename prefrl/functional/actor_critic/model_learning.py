"""The mathematics of learned dynamics: losses, which network of an ensemble is better now, how far to go.

Shapes: E networks, a batch of B rows for each, outputs of D entries.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def soft_clamp(values: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return values [..., D] held between bounds [D], with gradients everywhere.

    high - softplus(high - x), then low + softplus(. - low) (Chua et al. 2018, arXiv 1805.12114, appendix
    A.1). Above it is exceeded by at most softplus(low - high), 3e-5 for bounds 10 apart.
    """
    values = high - F.softplus(high - values)
    return low + F.softplus(values - low)


def gaussian_nll(mean: Tensor, log_variance: Tensor, targets: Tensor) -> Tensor:
    """Return (mean - y)^2 / variance + log variance, [..., D].

    But for a constant it is twice the negative log-likelihood. Janner et al. 2019 (arXiv 1906.08253) sum it
    over networks and average it over rows and entries.
    """
    return (mean - targets).square() * torch.exp(-log_variance) + log_variance


def improved(best: Tensor, current: Tensor, share: float) -> Tensor:
    """Say which losses [E] fell by more than a share of the best: (best - current) / |best| > share."""
    return best - current > share * best.abs().clamp(min=1e-8)


def rollout_length(schedule: Sequence[int], epoch: float) -> int:
    """Return the steps of a model rollout in an epoch.

    k(epoch) = int(clip(k0 + (epoch - e0) / (e1 - e0) (k1 - k0), k0, k1)) (Janner et al. 2019, appendix C).

    Args:
        schedule: e0, e1, k0, k1.
        epoch: epochs so far.
    """
    first, last, low, high = schedule
    share = (epoch - first) / max(1, last - first)
    return int(min(max(low + share * (high - low), low), high))


def real_share(start: float, end: float, epochs: int, epoch: float) -> float:
    """Return the share of real transitions in an epoch: start + epoch / epochs (end - start), then end.

    Voelcker et al. 2022 (arXiv 2204.01464) let the share of imagined transitions grow so with distractors.

    Args:
        start: share in epoch 0 and before.
        end: share from epoch ``epochs`` on.
        epochs: how long it takes, at least 1.
        epoch: epochs so far.
    """
    if epoch >= epochs:
        return end  # as it is, not as it is rounded
    return start + max(0.0, epoch / epochs) * (end - start)


def value_gradient_weights(
    gradients: Tensor,
    *,
    clip_quantile: float | None,
    normalize: bool,
    floor: float,
    rows: Tensor | None = None,
) -> Tensor:
    """Return what the squared error of each entry of a next state is weighted with, [n, D].

    The value-gradient weighted loss (VaGraM, Voelcker et al. 2022, arXiv 2204.01464) is
    E sum_d (dV/ds_d at the observed s')^2 (f_d - s'_d)^2: what is left of the value's error after a Taylor
    expansion to first order and the inequality of Cauchy and Schwarz.

    Args:
        gradients: [I, n, D] of several value functions at the observed next states, of which the squares are
            averaged.
        clip_quantile: gradients whose norm is above this quantile are cut to it; None: none is.
        normalize: divide by the mean over rows and entries, so that the loss is that of plain regression on
            average.
        floor: share rho of plain regression in the weights, (1 - rho) g^2 + rho, so that no entry is left to
            drift; needs ``normalize``.
        rows: [n] True where a row is a transition: quantile and mean are of those; None: all are.
    """
    norms = torch.linalg.vector_norm(gradients, dim=-1, keepdim=True)
    counted = norms.new_ones(norms.shape[1]) if rows is None else rows.to(norms.dtype)
    count = counted.sum().clamp(min=1.0)
    if clip_quantile is not None:
        ranked = norms[..., 0].masked_fill(counted == 0.0, math.inf).sort(1).values
        place = torch.minimum((clip_quantile * count).long(), count.long() - 1)
        most = ranked.index_select(1, place[None])[..., None]
        gradients = gradients * (most / norms.clamp(min=1e-12)).clamp(max=1.0)
    weights = gradients.square().mean(0)
    if normalize:
        weights = weights / (counted @ weights.mean(-1) / count).clamp(min=1e-12)
        weights = (1.0 - floor) * weights + floor
    return weights
