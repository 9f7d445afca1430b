"""Shapley values, exact and by drawn orders, and what they make facts worth (ProMed, arXiv 2508.13514).

The value of player i in a game of worths v(S) is the mean, over all orders of the n players, of what it adds
to those before it. The values sum to v(N) - v(empty). Subsets are numbered by their bits: player i is in
subset S if ``(S >> i) % 2 == 1``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

MAX_PLAYERS = 20
"""Players of which all subsets are gone through."""

Normalisation = Literal["softmax", "z_score", "none"]
"""How Shapley values become importances."""


def subsets(players: int, device: torch.device | str = "cpu") -> Tensor:
    """Return who is in each subset, bool [2^n, n]; ValueError for no or more than 20 players."""
    if not 1 <= players <= MAX_PLAYERS:
        raise ValueError(f"players is {players}; it must be from 1 to {MAX_PLAYERS}")
    numbers = torch.arange(2**players, device=device)
    return (numbers[:, None] >> torch.arange(players, device=device)) % 2 == 1


def shapley_values(worths: Tensor) -> Tensor:
    """Return the exact Shapley values [..., n] of worths [..., 2^n] of all subsets.

    Raises:
        ValueError: if the number of worths is no power of 2 above 1.
    """
    count = worths.shape[-1]
    players = count.bit_length() - 1
    if count < 2 or count != 2**players:
        raise ValueError(f"worths has {count} subsets; it must be 2 to the number of players")
    member = subsets(players, worths.device)
    size = member.sum(-1)
    # A subset of s others is before a player in s! (n - s - 1)! of n! orders.
    shares = torch.tensor(
        [1.0 / (players * math.comb(players - 1, s)) for s in range(players)] + [0.0],
        dtype=worths.dtype, device=worths.device,
    )  # fmt: skip
    number = torch.arange(count, device=worths.device)
    with_player = number[:, None] | (1 << torch.arange(players, device=worths.device))
    added = worths[..., with_player] - worths[..., None]  # [..., 2^n, n]
    weight = torch.where(member, 0.0, shares[size][:, None])
    return (weight * added).sum(-2)


def shapley_by_permutations(
    worth: Callable[[Tensor], Tensor], players: int, permutations: int, generator: torch.Generator
) -> Tensor:
    """Return unbiased estimates [..., n] of Shapley values from drawn orders of the players.

    Every order gives each player what it adds to those before it, so that the estimates too sum to
    v(N) - v(empty); their error falls as 1 / sqrt(permutations).

    Args:
        worth: called with members bool [P, n + 1, n], returns worths [..., P, n + 1].
        players: n.
        permutations: P, orders to draw.
        generator: of the draws.

    Raises:
        ValueError: if players or permutations is below 1.
    """
    if players < 1 or permutations < 1:
        raise ValueError(f"players is {players} and permutations {permutations}; both must be at least 1")
    device = generator.device
    orders = torch.rand(permutations, players, generator=generator, device=device).argsort(-1)
    place = orders.argsort(-1)  # where each player comes
    members = place[:, None] < torch.arange(players + 1, device=device)[:, None]
    added = worth(members).diff(dim=-1)  # [..., P, n], by place
    return added.gather(-1, place.expand(added.shape)).mean(-2)


def item_worths(prior: Tensor, features: Tensor, members: Tensor, error: float = 0.0) -> Tensor:
    """Return v(S) = log p(item | its facts in S) by Bayes' rule, for every item [M, ...].

    Args:
        prior: [M] chances of items, above 0.
        features: [M, F] bool, whether an item has a feature; its facts say so.
        members: [..., F] bool, which facts are told.
        error: chance that a fact which is told is wrong, from 0 to below 1/2.
    """
    dtype = prior.dtype
    differs = (features[:, None] != features[None]).to(dtype)  # [M, M, F]
    told = members.to(dtype)
    apart = torch.einsum("ijf,...f->ij...", differs, told)
    shape = (1, -1) + (1,) * (members.ndim - 1)
    if error > 0.0:  # facts that agree have the same likelihood for all items: only the others count
        weights = prior.log().view(shape) + apart * math.log(error / (1.0 - error))
    else:
        weights = torch.where(apart > 0.0, -math.inf, prior.log().view(shape))
    return prior.log().view(-1, *shape[2:]) - weights.logsumexp(1)


def fact_importance(
    values: Tensor, normalisation: Normalisation = "softmax", temperature: float = 2.0
) -> Tensor:
    """Return importances [..., n] of facts from their Shapley values.

    "softmax" of values over the temperature pays every fact, also one whose value is negative: of values
    -3.1 and 1.95 the first gets .074. "z_score" takes off their mean and divides by their deviation (0 where
    all are the same); a fact below the average costs then. "none" leaves the values as they are.

    Args:
        values: [..., n].
        normalisation: which.
        temperature: of the softmax, above 0 (the description's is about 2).

    Raises:
        ValueError: for another normalisation or temperature.
    """
    if normalisation == "softmax":
        if not 0.0 < temperature < math.inf:
            raise ValueError(f"temperature is {temperature}; it must be a finite number above 0")
        return (values / temperature).softmax(-1)
    if normalisation == "z_score":
        centred = values - values.mean(-1, keepdim=True)
        deviation = centred.square().mean(-1, keepdim=True).sqrt()
        return torch.where(deviation > 0.0, centred / deviation.clamp(min=1e-300), 0.0)
    if normalisation == "none":
        return values
    raise ValueError(f"normalisation is {normalisation!r}; allowed are {list(get_args(Normalisation))}")
