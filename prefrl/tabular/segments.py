"""Segments of a tabular MDP: replayed, drawn at random, paired, valuated."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from prefrl.data import Segments, concatenate_segments, seeded_generator

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
    generator = seeded_generator(seed, "segments", length)
    starts = torch.nonzero(((mdp.start[0] > 0.0) & ~mdp.terminal[0]).cpu())[:, 0]
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
    """Keep one segment for each (start, end, length, sum of features); ``by_actions`` also for each path."""
    assert segments.features is not None
    ends = torch.stack([segments.obs[:, 0], segments.last_obs, segments.lengths], 1)
    key = [ends.double(), segments.features.sum(1)]
    if by_actions:
        key += [segments.obs.double(), segments.actions.double()]
    unique, inverse = torch.unique(torch.cat(key, 1), dim=0, return_inverse=True)
    first = torch.full((len(unique),), len(segments), device=inverse.device)
    first = first.scatter_reduce(0, inverse, torch.arange(len(segments), device=inverse.device), "amin")
    return segments[first.sort().values]


def random_pairs(
    mdp: TabularMDP, count: int, *, length: int | Sequence[int] = 3, seed: int = 0
) -> tuple[Segments, Segments]:
    """Draw distinct ordered pairs of distinct segments of one MDP.

    Args:
        mdp: a batch of one.
        count: pairs.
        length: transitions per segment, or several lengths to mix.
        seed: of the draws.

    Raises:
        ValueError: if the MDP does not have that many pairs, or for a length below 1.
    """
    pool = _pool(mdp, length, seed)
    size = len(pool)
    if not 1 <= count <= size * (size - 1):
        raise ValueError(f"count is {count}; {size} distinct segments make 1 to {size * (size - 1)} pairs")
    generator = seeded_generator(seed, "pairs")
    chosen = _distinct_integers(size * (size - 1), count, generator).to(mdp.device)
    first, second = chosen // (size - 1), chosen % (size - 1)
    second = second + (second >= first)  # skips the pair of a segment with itself
    return pool[first], pool[second]


def count_pairs(mdp: TabularMDP, *, length: int | Sequence[int] = 3, seed: int = 0) -> int:
    """Return how many pairs :func:`random_pairs` can draw."""
    size = len(_pool(mdp, length, seed))
    return size * (size - 1)


def _pool(mdp: TabularMDP, length: int | Sequence[int], seed: int) -> Segments:
    """Return random segments without repeats in (start, end, length, feature sum).

    Where transitions are uncertain, what happened on the way tells segments apart too.
    """
    check_single(mdp)
    lengths = [length] if isinstance(length, int) else list(length)
    if not lengths:
        raise ValueError("length is empty; give at least one")
    drawn = [random_segments(mdp, POOL_SIZE, n, seed=seed) for i, n in enumerate(lengths)]
    # All at once: a segment that ended early may come among those of several lengths.
    return distinct_segments(concatenate_segments(drawn), by_actions=mdp.successors.shape[-1] > 1)


def _distinct_integers(limit: int, count: int, generator: torch.Generator) -> Tensor:
    """Draw ``count`` distinct integers below ``limit``, in random order."""
    if limit <= 4 * count:
        return torch.randperm(limit, generator=generator)[:count]
    drawn = torch.empty(0, dtype=torch.int64)
    while len(drawn) < count:
        drawn = torch.unique(torch.cat([drawn, torch.randint(limit, (count,), generator=generator)]))
    return drawn[torch.randperm(len(drawn), generator=generator)[:count]]
