"""Comparisons of steps out of a tree search: the best against a sibling, all along the path that is kept."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from prefrl.data import Preferences, Segments
from prefrl.functional.preferences.pair_loss import visit_noise
from prefrl.tabular.tree_search import DeterministicModel, SearchTrees

Sibling = Literal["worst", "second"]
"""What the best step is compared with: the sibling with the least Q, or with the most after the best."""


def search_pairs(
    trees: SearchTrees, model: DeterministicModel, *, depth: int, sibling: Sibling = "worst",
    conservative: bool = True, min_gap: float = 0.0,
) -> Preferences:  # fmt: skip
    """Return the comparisons [B * depth] that trees make, those of weight 0 where a tree has nothing to say.

    The kept path takes the step with the largest Q among those that were visited. Both segments begin where
    they part: what is common, from the root on, would say nothing in a loss on what follows. The second is
    the better one. A label is 1, or what visits make of it: 1 - min(1 - c, 1/2), c = N_best / (N_best +
    N_other).

    Source: MCTS-DPO (arXiv 2405.00451), whose rule for the path our notes do not have: it is ours.

    Args:
        trees: of B roots.
        model: what was searched.
        depth: steps of the path at most.
        sibling: what the best step is compared with.
        conservative: let visits smooth the labels.
        min_gap: Q of the best step must be larger than that of the other by more than this.
    """
    every = torch.arange(len(trees.states), device=trees.q.device)
    node = torch.zeros_like(every)
    going = torch.ones_like(every, dtype=torch.bool)
    found: list[tuple[Tensor, ...]] = []
    for _ in range(depth):
        q, visits = trees.q[every, node], trees.visits[every, node]
        best, other = best_and_sibling(q, visits, sibling)
        going = going & (_at(visits, best) > 0)
        compared = going & (_at(visits, other) > 0) & (best != other)
        ahead = (_at(q, best) - _at(q, other)) > min_gap
        noise = visit_noise(_at(visits, best), _at(visits, other))
        found.append((trees.states[every, node], other, best, noise, compared & ahead))
        following = trees.children[every, node, best]
        going = going & (following >= 0)
        node = torch.where(going, following, 0)
    states, others, bests, doubt, counts = (torch.cat(parts) for parts in zip(*found, strict=True))
    labels = 1.0 - doubt if conservative else torch.ones_like(doubt)
    first, second = (_steps(model, states, steps) for steps in (others, bests))
    answers = Preferences.from_labels(first, second, labels, {"teacher": "search"})
    return replace(answers, weights=counts.to(torch.float64))


def best_and_sibling(q: Tensor, visits: Tensor, sibling: Sibling) -> tuple[Tensor, Tensor]:
    """Return the edge with the largest Q of those that were visited [...], and its sibling among them [...].

    Where fewer than two were visited, what is returned means nothing.

    Args:
        q: [..., A].
        visits: [..., A].
        sibling: which.
    """
    seen = visits > 0
    best = torch.where(seen, q, -torch.inf).max(-1).indices
    others = seen.scatter(-1, best[..., None], False)
    if sibling == "worst":
        return best, torch.where(others, q, torch.inf).min(-1).indices
    return best, torch.where(others, q, -torch.inf).max(-1).indices


def _at(table: Tensor, edges: Tensor) -> Tensor:
    return table.gather(-1, edges[..., None])[..., 0]


def _steps(model: DeterministicModel, states: Tensor, steps: Tensor) -> Segments:
    """Return steps [N] that are taken in states [N] as segments."""
    ended, last = model.after_the_end[states, steps], model.successors[states, steps]
    # A terminal state leads to itself: after the end the last state repeats by itself.
    passed = torch.cat([model.states[states, steps], last[:, None]], 1)
    actions = torch.where(ended, 0, model.actions[steps])
    return Segments(passed, actions, (~ended).sum(1), model.terminal[last])
