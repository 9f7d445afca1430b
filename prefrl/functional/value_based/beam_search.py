"""Beam search through a known deterministic model: a policy proposes, values choose."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Plan(NamedTuple):
    """The best path that a search has found from each of n states."""

    actions: Tensor
    """[n, depth] int64; what comes after a terminal state means nothing."""
    score: Tensor
    """[n] its rewards, and the value of where it ends."""


def beam_search(
    successors: Tensor, rewards: Tensor, terminal: Tensor, log_policy: Tensor, values: Tensor,
    start: Tensor, *, width: int, depth: int,
) -> Plan:  # fmt: skip
    """Search from n states at once for the path with the largest sum of rewards and last value.

    Every path kept proposes its ``width`` likeliest actions; of all that are proposed, the ``width`` best by
    rewards so far plus V are kept, one at most for each state. A width of 1 follows the policy's likeliest
    actions, whatever V says. No number is asked for on the host.

    Args:
        successors: [S, A] int64 next states; terminal ones lead to themselves.
        rewards: [S, A]; 0 in terminal states.
        terminal: [S] bool.
        log_policy: [S, A] log pi(a | s).
        values: [S] V(s); those of terminal states count as 0.
        start: [n] int64 states.
        width: paths kept, at least 1.
        depth: steps looked ahead, at least 1.
    """
    proposed = log_policy.topk(min(width, log_policy.shape[1]), -1).indices  # [S, k]
    worth = values.masked_fill(terminal, 0.0)
    states, paid = start[:, None], torch.zeros_like(start[:, None], dtype=values.dtype)
    paths, score = start.new_zeros(len(start), 1, 0), paid
    for _ in range(depth):
        choices = proposed[states]  # [n, w, k]
        here = states[..., None].expand_as(choices)
        sums = (paid[..., None] + rewards[here, choices]).flatten(1)
        reached, taken = successors[here, choices].flatten(1), choices.flatten(1)
        scores = sums + worth[reached]
        best = _distinct(reached, scores).topk(min(width, scores.shape[1]), -1).indices
        before = best.div(choices.shape[2], rounding_mode="floor")
        kept = paths.gather(1, before[..., None].expand(-1, -1, paths.shape[2]))
        paths = torch.cat([kept, taken.gather(1, best)[..., None]], -1)
        # A copy of another path in the same state may be kept where there are too few; it harms nothing.
        states, paid, score = (each.gather(1, best) for each in (reached, sums, scores))
    top = score.argmax(-1, keepdim=True)
    actions = paths.gather(1, top[..., None].expand(-1, -1, depth))[:, 0]
    return Plan(actions, score.gather(1, top)[:, 0])


def _distinct(states: Tensor, scores: Tensor) -> Tensor:
    """Return scores [n, c], minus infinity where a better path is in the same state, or an equal one."""
    order = torch.arange(states.shape[1], device=states.device)
    better = scores[:, None] > scores[..., None]  # [n, c, other]
    equal = (scores[:, None] == scores[..., None]) & (order < order[:, None])
    same = states[:, None] == states[..., None]
    return scores.masked_fill((same & (better | equal)).any(-1), -torch.inf)
