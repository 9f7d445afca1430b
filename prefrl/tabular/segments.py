"""Segments of a tabular MDP: replayed, drawn at random, paired, valuated."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from prefrl.data import Segments, concatenate_segments

from .mdp import TabularMDP

POOL_SIZE = 30_000
"""Random segments drawn to make pairs from (cap of the published stochastic study)."""


def check_single(mdp: TabularMDP) -> None:
    """Raise ValueError unless the batch holds one MDP."""
    if mdp.num_mdps != 1:
        raise ValueError(f"mdp holds {mdp.num_mdps} MDPs; segments belong to one: use mdp.select")


def random_segments(mdp: TabularMDP, count: int, length: int, *, seed: int = 0) -> Segments:
    """Draw segments with uniform start states and uniform actions from one MDP.

    A segment ends early at a terminal state.

    Args:
        mdp: a batch of one.
        count: N.
        length: L.
        seed: of the draws, which are made on the CPU.
    """
    check_single(mdp)
    if count < 1 or length < 1:
        raise ValueError(f"count is {count} and length {length}; both must be at least 1")
    generator = torch.Generator().manual_seed(seed)
    starts = torch.nonzero(mdp.start[0].cpu())[:, 0]
    state = starts[torch.randint(len(starts), (count,), generator=generator)].to(mdp.device)
    actions = torch.randint(mdp.num_actions, (count, length), generator=generator).to(mdp.device)
    draws = torch.rand(count, length, generator=generator, dtype=torch.float64).to(mdp.device)
    cumulative = mdp.probabilities[0].cumsum(-1)
    states, features, lengths = [state], [], torch.zeros(count, dtype=torch.int64, device=mdp.device)
    for t in range(length):
        live = ~mdp.terminal[0, state]
        outcome = (draws[:, t, None] >= cumulative[state, actions[:, t], :-1]).sum(-1)
        features.append(mdp.features[0, state, actions[:, t], outcome] * live[:, None])
        state = torch.where(live, mdp.successors[0, state, actions[:, t], outcome], state)
        actions[:, t] *= live  # padding is 0
        lengths += live
        states.append(state)
    return Segments(
        torch.stack(states, 1), actions, lengths, mdp.terminal[0, state], torch.stack(features, 1)
    )


def distinct_segments(segments: Segments, *, by_actions: bool) -> Segments:
    """Keep one segment for each (start, end, sum of features); with ``by_actions`` also for each path."""
    assert segments.features is not None
    key = [segments.obs[:, :1].double(), segments.last_obs[:, None].double(), segments.features.sum(1)]
    if by_actions:
        key += [segments.obs.double(), segments.actions.double()]
    unique, inverse = torch.unique(torch.cat(key, 1), dim=0, return_inverse=True)
    first = torch.full((len(unique),), len(segments), device=inverse.device)
    first = first.scatter_reduce(0, inverse, torch.arange(len(segments), device=inverse.device), "amin")
    return segments[first.sort().values]


def random_pairs(
    mdp: TabularMDP, count: int, *, length: int | Sequence[int] = 3, seed: int = 0
) -> tuple[Segments, Segments]:
    """Draw distinct pairs of distinct segments of one MDP.

    Segments come from a pool of :data:`POOL_SIZE` random ones without repeats in (start, end, feature sum);
    where transitions are uncertain, what happened on the way tells segments apart too.

    Raises:
        ValueError: if the MDP does not have that many pairs.
    """
    check_single(mdp)
    lengths = [length] if isinstance(length, int) else list(length)
    uncertain = mdp.successors.shape[-1] > 1
    pool = concatenate_segments(
        [
            distinct_segments(random_segments(mdp, POOL_SIZE, n, seed=seed + i), by_actions=uncertain)
            for i, n in enumerate(lengths)
        ]
    )
    size = len(pool)
    if not 1 <= count <= size * (size - 1):
        raise ValueError(f"count is {count}; {size} distinct segments make 1 to {size * (size - 1)} pairs")
    generator = torch.Generator().manual_seed(seed)
    chosen = _distinct_integers(size * (size - 1), count, generator).to(mdp.device)
    first, second = chosen // (size - 1), chosen % (size - 1)
    second = second + (second >= first)  # skips the pair of a segment with itself
    return pool[first], pool[second]


def _distinct_integers(limit: int, count: int, generator: torch.Generator) -> Tensor:
    """Draw ``count`` distinct integers below ``limit``, in random order."""
    if limit <= 4 * count:
        return torch.randperm(limit, generator=generator)[:count]
    drawn = torch.empty(0, dtype=torch.int64)
    while len(drawn) < count:
        drawn = torch.unique(torch.cat([drawn, torch.randint(limit, (count,), generator=generator)]))
    return drawn[torch.randperm(len(drawn), generator=generator)[:count]]
