"""Circles of three: how often majorities go round, how clearly, and what noise alone would give.

A triad is three options of which all three pairs were compared. It is cyclic if the majorities go round:
a over b over c over a. One in which two options are tied has no direction, and counts nowhere.

Source: Kendall and Babington Smith (1940), "On the method of paired comparisons".
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

AT_ONCE = 1 << 22
"""Triads, of all tables together, that are looked at in one piece."""

MOST_PARTNERS = 2_000
"""Of the options that one was compared with, as many are looked at."""


def compared_triads(first: Tensor, second: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Return triads [T, 3] as places of their pairs: a with b, b with c, a with c, where a < b < c.

    Args:
        first: [M] int64 one option of each pair, each pair once.
        second: [M] the other one, larger.
        most: where there are more triads, as many are drawn, each at most once.
        generator: draws them.
    """
    size = int(second.max()) + 1
    keys, place = torch.sort(first * size + second)
    pieces = []
    for a in torch.unique(first).tolist():
        partners = torch.nonzero(first == a)[:, 0]
        if len(partners) > MOST_PARTNERS:
            partners = partners[torch.randperm(len(partners), generator=generator)[:MOST_PARTNERS]]
        partners = partners[second[partners].argsort()]
        i, j = torch.triu_indices(len(partners), len(partners), 1)
        wanted = second[partners[i]] * size + second[partners[j]]
        at = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
        there = keys[at] == wanted
        pieces.append(torch.stack([partners[i[there]], place[at[there]], partners[j[there]]], 1))
    triads = torch.cat(pieces)
    if len(triads) > most:
        triads = triads[torch.randperm(len(triads), generator=generator)[:most].sort().values]
    return triads


def majority_deviance(wins: Tensor, counts: Tensor) -> Tensor:
    """Return [...] how clear a majority is: 2 n KL(share || 1/2), minus that where the second lost.

    0 where a pair is tied. Its square root is about a normal number if the two are equally good.

    Args:
        wins: [...] how often (a real number) the second was preferred.
        counts: [...] of how many answers.
    """
    lost = counts - wins
    entropy = torch.special.xlogy(wins, wins) + torch.special.xlogy(lost, lost)
    deviance = 2.0 * (entropy - torch.special.xlogy(counts, counts / 2.0))
    signed: Tensor = deviance.clamp(min=0.0) * (wins - lost).sign()
    return signed


def circles(wins: Tensor, counts: Tensor, triads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return what can be said of circles of three in B sets of answers to the same M pairs.

    Args:
        wins: [B, M] how often the second, larger option of each pair was preferred.
        counts: [M] answers to each pair.
        triads: [T, 3], see :func:`compared_triads`.

    Returns:
        How many triads are cyclic [B]; how many have a direction [B]; and the clearest circle [B], the
        :func:`majority_deviance` of the least clear pair of the cyclic triad where that is largest, or 0.
    """
    deviance = majority_deviance(wins, counts)
    cyclic, directed = torch.zeros(2, len(wins), dtype=torch.int64)
    clearest = wins.new_zeros(len(wins))
    for part in _pieces(triads, len(wins)):
        edges = deviance[:, part] * deviance.new_tensor([1.0, 1.0, -1.0])
        round_ = (edges > 0.0).all(2) | (edges < 0.0).all(2)
        cyclic += round_.sum(1)
        directed += (edges != 0.0).all(2).sum(1)
        weakest = torch.where(round_, edges.abs().amin(2), 0.0)
        clearest = torch.maximum(clearest, weakest.amax(1))
    return cyclic, directed, clearest


def _pieces(triads: Tensor, tables: int) -> Iterator[Tensor]:
    """Yield triads in pieces that fit in memory."""
    size = max(1, AT_ONCE // max(1, tables))
    for start in range(0, len(triads), size):
        yield triads[start : start + size]


def drawn_wins(
    chances: Tensor, counts: Tensor, ties: Tensor, copies: int, generator: torch.Generator
) -> Tensor:
    """Return how often seconds win [copies, M] when all answers are drawn anew, as many and as many ties.

    Args:
        chances: [M] that the second is preferred, where it is not a tie.
        counts: [M] answers to each pair.
        ties: [M] how many of them were ties; what is left is rounded to whole numbers.
        copies: sets of answers.
        generator: draws.
    """
    decided = counts - ties
    drawn = torch.binomial(decided.round().expand(copies, -1), chances.expand(copies, -1), generator)
    return drawn * (decided / decided.round().clamp(min=1.0)) + 0.5 * ties
