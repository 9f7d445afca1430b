"""Loops that learn from their own data, curated by somebody's choices.

In every round K samples of the policy p_t are shown, one is chosen with probability e^r_i / sum_j e^r_j
(Plackett and Luce; for K = 2 Bradley and Terry), and p_{t+1} is fitted to what was chosen:

    p_{t+1}(x) = p_t(x) H(x),    H(x) = E[ K e^r(x) / (e^r(x) + sum_{j < K} e^r(x_j)) ],

and p_t e^r / Z where K grows without bound: preference optimisation without what was rejected. E[e^r] grows
in each round by at least (K - 1)/K Var(e^r) / e^{r_max}, and the reward's variance goes to 0. With real data
in every round, p_{t+1} = (p_ref + lambda p_t H) / (1 + lambda), no option falls below p_ref / (1 + lambda).

Source: self-consuming generative models with curated data, arXiv 2407.09499 (from memory; map and bounds were
checked numerically). The integral below is ours: as 1/s = int_0^inf e^{-ts} dt,

    H(x) = K e^r(x) int_0^inf e^{-t e^r(x)} M(t)^{K-1} dt,    M(t) = E[e^{-t e^r}],

one dimension whatever K, where the sum over all K-tuples has K. In log t the integrand is analytic around the
real line, so that the trapezoidal rule is exact but for rounding.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

STEP = 0.25
"""Between nodes, in log t. The rule errs by e^{-pi^2 / STEP}, 1e-17."""

SMALLEST = 43.0
"""By how many powers of e the first node lies below the scale of 1/K: what is left out is 1e-18 of it."""

LARGEST = math.log(750.0)
"""Of the last node times the smallest e^r: what is left out there is e^-750."""


class CuratedLoop(NamedTuple):
    """The rounds of a loop, the start among them."""

    probs: Tensor
    """[T + 1, ..., n]."""
    growth: Tensor
    """[T, ...] by how much E[e^(r - r_max)] grew."""
    least_growth: Tensor
    """[T, ...] by how much it grows at least, where only chosen samples are learned from."""


def curation_factor(probs: Tensor, rewards: Tensor, choices: int | None) -> Tensor:
    """Return H [..., n] of each option, for probabilities as they are given.

    It is homogeneous in them, of degree K - 1: where they sum to 1 + e, p H sums to (1 + e)^K. So iterating
    p H without normalising explodes, from rounding errors alone; :func:`curated_step` normalises.

    Args:
        probs: [..., n] of the policy.
        rewards: [..., n], finite.
        choices: K, at least 1; None: the limit of many.
    """
    if choices is None:
        return (rewards - (probs.log() + rewards).logsumexp(-1, keepdim=True)).exp()
    below = rewards - rewards.amax(-1, keepdim=True)
    low, high = -SMALLEST - math.log(choices), LARGEST - float(below.min()) + STEP
    nodes = torch.arange(low, high, STEP, dtype=rewards.dtype, device=rewards.device)
    scaled = below[..., None] + nodes  # [..., n, nodes] log of t e^r: neither t nor e^r alone is a number
    decay = scaled.exp()
    others = (probs[..., None] * (-decay).exp()).sum(-2, keepdim=True) ** (choices - 1)
    return choices * STEP * ((scaled - decay).exp() * others).sum(-1)


def curated_step(
    probs: Tensor, rewards: Tensor, choices: int | None, reference: Tensor | None = None, weight: float = 1.0
) -> Tensor:
    """Return the policy [..., n] after one round.

    Args:
        probs: [..., n] of the policy; normalised here.
        rewards: [..., n] by which users choose, in the units of their log-odds.
        choices: K, at least 1; None: the limit of many.
        reference: [..., n] where real data come from; None: there are none.
        weight: lambda, how many chosen samples there are for each one of the real data.
    """
    probs = probs / probs.sum(-1, keepdim=True)
    if choices is None:  # p H as one: where p is 0, H alone may be beyond all numbers
        chosen = (probs.log() + rewards).softmax(-1)
    else:
        chosen = probs * curation_factor(probs, rewards, choices)  # sums to 1, but for rounding
    return chosen if reference is None else mixed_with_data(chosen, reference, weight)


def mixed_with_data(chosen: Tensor, reference: Tensor, weight: float) -> Tensor:
    """Return (p_ref + lambda p) / (1 + lambda), the policy [..., n] fitted to real data and choices."""
    return (reference / reference.sum(-1, keepdim=True) + weight * chosen) / (1.0 + weight)


def curated_loop(
    probs: Tensor, rewards: Tensor, choices: int | None, rounds: int, *, weight: float | None = None
) -> CuratedLoop:
    """Return what a loop makes of a policy.

    Args:
        probs: [..., n] of the policy that it begins with, which real data come from too.
        rewards: [..., n].
        choices: K; None: the limit of many.
        rounds: T.
        weight: lambda, see :func:`curated_step`; None: no real data.
    """
    reference = None if weight is None else probs
    path = [probs / probs.sum(-1, keepdim=True)]
    for _ in range(rounds):
        path.append(curated_step(path[-1], rewards, choices, reference, weight or 0.0))
    found = torch.stack(path)
    worth = (rewards - rewards.amax(-1, keepdim=True)).exp()
    least = least_growth(found[:-1], rewards, choices)
    return CuratedLoop(found, (found * worth).sum(-1).diff(dim=0), least)


def least_growth(probs: Tensor, rewards: Tensor, choices: int | None) -> Tensor:
    """Return (K - 1)/K Var(e^(r - r_max)) [...], by which E[e^(r - r_max)] grows at least in a round.

    That is the paper's bound divided by e^{r_max} on both sides, so that nothing overflows.

    Args:
        probs: [..., n], summing to 1.
        rewards: [..., n].
        choices: K; None: the limit of many.
    """
    worth = (rewards - rewards.amax(-1, keepdim=True)).exp()
    mean = (probs * worth).sum(-1, keepdim=True)
    variance = (probs * (worth - mean).square()).sum(-1)
    return variance * (1.0 if choices is None else (choices - 1) / choices)


def chosen_frequencies(drawn: Tensor, rewards: Tensor, gumbel: Tensor) -> Tensor:
    """Return how often each option is chosen [n], where K samples of a policy are shown N times.

    The maximum of reward and Gumbel noise is a choice with probability e^r_i / sum_j e^r_j.

    Args:
        drawn: [N, K] int64 options that are shown.
        rewards: [n].
        gumbel: [N, K] standard Gumbel noise.

    Returns:
        Shares of all N choices.
    """
    best = (rewards[drawn] + gumbel).argmax(1, keepdim=True)
    chosen = drawn.gather(1, best)[:, 0]
    return torch.zeros_like(rewards).index_add_(0, chosen, torch.full_like(gumbel[:, 0], 1.0 / len(drawn)))


def rounds_until(shares: Tensor, level: float) -> Tensor:
    """Return the first place [...] at which shares [T, ...] reach a level, T where they never do."""
    reached = shares >= level
    first = reached.to(torch.int64).argmax(0)
    return torch.where(reached.any(0), first, len(shares))
