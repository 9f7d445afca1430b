"""Preferences from a ranking of factors, and the weighted sum that they replace.

Source: HERON (arXiv 2309.02632). A designer ranks the n factors of a reward by importance, with a sign each
(is more better, or less?) and a margin: of two stretches of behaviour the one is preferred that is better by
more than the margin in the most important factor, or, where that does not decide, in the next one. A pair
that no level decides is left out.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

CHUNK = 1_024
"""Rows that are compared with all others at once."""


class Verdicts(NamedTuple):
    """What a hierarchy says of pairs."""

    labels: Tensor
    """[...] 1: the second is preferred, 0: the first, 0.5: no level decides."""

    levels: Tensor
    """[...] int64 level that decides, from 0; n where none does."""


def hierarchy_verdicts(first: Tensor, second: Tensor, margins: Tensor) -> Verdicts:
    """Compare pairs level by level.

    The second is preferred at level l where z'_l > z_l + delta_l, and the first where z_l > z'_l + delta_l.

    Args:
        first: [..., n] factors of the first of each pair, the most important one first, each turned so that
            more is better.
        second: [..., n] the same of the second ones; the shapes may broadcast.
        margins: [n] delta, not negative, in the factors' units.
    """
    difference = second - first
    decided = difference.abs() > margins
    levels = torch.where(decided.any(-1), decided.to(torch.int8).argmax(-1), difference.shape[-1])
    at = levels.clamp(max=difference.shape[-1] - 1)[..., None]
    second_better = torch.gather(difference, -1, at)[..., 0] > 0
    undecided = levels == difference.shape[-1]
    return Verdicts(torch.where(undecided, 0.5, second_better.to(torch.float64)), levels)


def all_pairs(count: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Return the numbers [count (count - 1) / 2] of the first and of the second of every pair."""
    first, second = torch.triu_indices(count, count, offset=1, device=device)
    return first, second


def decided_shares(levels: Tensor, num_levels: int) -> Tensor:
    """Return which share of pairs [N] each level decides, [num_levels + 1]; the last entry: none does."""
    places = torch.arange(num_levels + 1, device=levels.device)
    return (levels[:, None] == places).to(torch.float64).mean(0)


def scale_by_level(
    rewards: Tensor, factors: Tensor, against_rewards: Tensor, against_factors: Tensor, margins: Tensor,
    alpha: float,
) -> Tensor:  # fmt: skip
    """Separate the levels of a learned reward by a constant factor per level.

    The paper describes such a scaling in words. Here the reward is measured against M stretches of behaviour,
    each difference scaled by the level l = 1, 2, ... that tells the two apart:

        r'(x) = 1/M sum_j alpha^(1 - l(x, x_j)) (r(x) - r(x_j)),        0 for pairs that no level decides,

    so that with alpha above 1 what the first factor decides counts most.

    Args:
        rewards: [N] learned rewards.
        factors: [N, n] factors of the same.
        against_rewards: [M] learned rewards of what they are measured against.
        against_factors: [M, n].
        margins: [n].
        alpha: at least 1.

    Returns:
        [N].
    """
    pieces = []
    for mine, z in zip(torch.split(rewards, CHUNK), torch.split(factors, CHUNK), strict=True):
        levels = hierarchy_verdicts(z[:, None], against_factors[None], margins).levels
        scale = alpha ** (-levels.to(rewards.dtype)) * (levels < factors.shape[-1])
        pieces.append((scale * (mine[:, None] - against_rewards[None])).mean(1))
    return torch.cat(pieces)


def weighted_sum(factors: Tensor, scales: Tensor, beta: float) -> Tensor:
    """Return the engineered reward sum_l beta^(l-1) z_l / s_l (HERON's baseline).

    Args:
        factors: [..., n] the most important one first, each turned so that more is better.
        scales: [n] s, standard deviations, or ones for factors as they are.
        beta: weight of a level against the one above it, in (0, 1].

    Returns:
        [...].
    """
    weights = beta ** torch.arange(factors.shape[-1], dtype=factors.dtype, device=factors.device)
    return (factors / scales.to(factors.dtype)) @ weights


MOST_RANKED = 12
"""Factors of which all orders are looked at."""


class Consensus(NamedTuple):
    """The order that contradicts several people's rankings least."""

    order: list[int]
    """Places, the most important one first; of several best orders the first one by its places."""

    agreeing: float
    """Statements "this one before that one" that the order agrees with; a tie counts one half."""

    best_orders: int
    """How many orders agree with as many."""


def kemeny_order(before: Tensor) -> Consensus:
    """Return the order of n factors that agrees with the most statements about two of them.

    Exact, by dynamic programming over the 2^n sets of what may come first.

    Args:
        before: [n, n] how many people put the row's factor before the column's; a tie is half a statement
            each way.

    Raises:
        ValueError: if it is no such table, or of more than :data:`MOST_RANKED` factors.

    Source: Kemeny 1959, "Mathematics without numbers", Daedalus 88; Held and Karp 1962 for the recursion.
    """
    count = len(before)
    if before.shape != (count, count) or not 1 <= count <= MOST_RANKED:
        raise ValueError(f"before has shape {list(before.shape)}; it must be [n, n], n 1 to {MOST_RANKED}")
    table = before.double().tolist()
    # Of each set of factors that come last: statements among them that can be agreed with, and how often.
    best, ways, first = [0.0] * (1 << count), [1] * (1 << count), [0] * (1 << count)
    for rest in range(1, 1 << count):
        members = [place for place in range(count) if rest >> place & 1]
        scores = [sum(table[place][other] for other in members if other != place) + best[rest ^ 1 << place]
                  for place in members]  # fmt: skip
        best[rest] = max(scores)
        ties = [place for place, score in zip(members, scores, strict=True) if score > best[rest] - 1e-9]
        ways[rest], first[rest] = sum(ways[rest ^ 1 << place] for place in ties), ties[0]
    order, rest = [], (1 << count) - 1
    while rest:
        order.append(first[rest])
        rest ^= 1 << first[rest]
    return Consensus(order, best[-1], ways[-1])
