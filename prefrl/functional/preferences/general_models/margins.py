"""Margins: the log-odds that the SECOND of two options is preferred, under several models.

Every margin is antisymmetric: exchanging the options turns its sign. Functions take any leading axes.
Sources: GPM, arXiv 2410.02197; PAL, arXiv 2406.08469; Thurstone (1927) as in utility engineering, arXiv
2502.08640. Papers write "the first beats the second" as a positive score; here the second does, as labels.
"""

from __future__ import annotations

import torch
from torch import Tensor

TINY = 1e-12
"""Added below square roots, so that they have a slope at 0; a distance of 1e-6 is as good as none."""


def rotation_margin(first: Tensor, second: Tensor, rates: Tensor) -> Tensor:
    """Return sum_l rate_l (second_{2l-1} first_{2l} - second_{2l} first_{2l-1}) [...].

    k blocks, each a plane in which options beat those that lie behind them on the way round (GPM, section 4).
    With embeddings (r, 1) and rate 1 it is the difference of two rewards, second minus first.

    Args:
        first: [..., 2k] embeddings.
        second: [..., 2k].
        rates: [..., k] weight of each block.
    """
    turned = second[..., 0::2] * first[..., 1::2] - second[..., 1::2] * first[..., 0::2]
    return (rates * turned).sum(-1)


def distance_score(options: Tensor, ideal: Tensor) -> Tensor:
    """Return minus the distance [...] of embeddings [..., d] to an ideal point [..., d] (PAL-A)."""
    return -((options - ideal).square().sum(-1) + TINY).sqrt()


def angle_score(options: Tensor, ideal: Tensor, temperature: Tensor) -> Tensor:
    """Return temperature * cosine [...] of embeddings [..., d] and an ideal direction [..., d] (PAL-B)."""
    return temperature * (unit(options) * unit(ideal)).sum(-1)


def unit(vectors: Tensor) -> Tensor:
    """Return vectors [..., d] of length 1 in the same directions; 0 stays 0."""
    return vectors / (vectors.square().sum(-1, keepdim=True) + TINY).sqrt()


def probit_margin(first_mean: Tensor, second_mean: Tensor, variance: Tensor) -> Tensor:
    """Return the log-odds [...] of Phi((second_mean - first_mean) / sqrt(variance)).

    P(second preferred) = Phi(z) where utilities are normal and ``variance`` is the sum of theirs (Thurstone).
    """
    z = (second_mean - first_mean) / variance.sqrt()
    log_odds: Tensor = torch.special.log_ndtr(z) - torch.special.log_ndtr(-z)
    return log_odds


def taken(table: Tensor, places: Tensor) -> Tensor:
    """Return rows [..., d] of a table [K, d]; the gradient takes half the time of ``table[places]``."""
    return table.index_select(0, places.flatten()).view(*places.shape, -1)
