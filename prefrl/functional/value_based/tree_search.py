"""Formulas of a Monte-Carlo tree search over a policy and a value, as MCTS-DPO has them (arXiv 2405.00451).

A node has an edge for each step that can be taken in it, with a prior p, a number of visits N and a value
Q = r + gamma V(child). Read from the authors' code, as our notes have it.
"""

from __future__ import annotations

import torch
from torch import Tensor


def step_priors(log_probs: Tensor, exponent: float = 1.25) -> Tensor:
    """Return p = exp( sum_t log pi_t / L^exponent ) [...] of steps of L actions each.

    Long steps are not punished for their length alone. Of a step of one action it is the policy itself; of
    longer ones priors do not sum to 1, nor need they.

    Args:
        log_probs: [..., L] log pi of the actions of a step; NaN for actions that a step which ended early
            does not have.
        exponent: of the length; 0: the step's probability, 1: the geometric mean of its actions'.
    """
    lengths = (~log_probs.isnan()).sum(-1).clamp(min=1).to(log_probs.dtype)
    return torch.exp(log_probs.nan_to_num(nan=0.0, neginf=-torch.inf).sum(-1) / lengths**exponent)


def puct_scores(q: Tensor, priors: Tensor, visits: Tensor, exploration: float) -> Tensor:
    """Return Q + w p sqrt(N_parent) / (1 + N) [..., A], by which the next edge is chosen.

    N_parent = 1 + sum N: the visit in which a node was made counts.

    Args:
        q: [..., A] Q of a node's edges.
        priors: [..., A] p, not negative.
        visits: [..., A] N.
        exploration: w.
    """
    parent = 1.0 + visits.sum(-1, keepdim=True)
    return q + exploration * priors * parent.sqrt() / (1.0 + visits)


def node_values(q: Tensor, visits: Tensor) -> Tensor:
    """Return V = sum max(1, N) Q / sum max(1, N) [...] of nodes, from Q and N of their edges [..., A]."""
    weights = visits.clamp(min=1.0)
    return (weights * q).sum(-1) / weights.sum(-1)


def line_of_child(
    others: Tensor, visits: Tensor, weight: Tensor, rewards: Tensor, gamma: float
) -> tuple[Tensor, Tensor]:
    """Return a and b of V(node) = a + b V(child) [...], for the child that one edge leads to.

    A node's value is linear in that of each child: so a whole path is backed up by a + b v, once per level.

    Args:
        others: [...] sum max(1, N) Q over the node's other edges.
        visits: [...] N of the edge, at least 1.
        weight: [...] sum max(1, N) over all edges.
        rewards: [...] the edge's reward.
        gamma: discount.
    """
    return torch.addcmul(others, visits, rewards) / weight, gamma * visits / weight


def value_differences(values: Tensor, successors: Tensor) -> Tensor:
    """Return r = v(child) - v(parent) [S, A]: rewards where a value is all that is known.

    Undiscounted, a path then earns what its last state is worth more than its first.

    Args:
        values: [S] v, such as a judge says them, of terminal states too: what an ending is worth.
        successors: [S, A] int64 states.
    """
    return values[successors] - values[:, None]


def policy_values(
    policy: Tensor, successors: Tensor, rewards: Tensor, terminal: Tensor, gamma: float, horizon: int
) -> Tensor:
    """Return what a policy earns in ``horizon`` steps from each state [S], of a deterministic model.

    Args:
        policy: [S, A] probabilities.
        successors: [S, A] int64 next states.
        rewards: [S, A].
        terminal: [S] bool; nothing is earned from there.
        gamma: discount.
        horizon: steps.
    """
    going = ~terminal
    earned = (policy * rewards).sum(-1) * going
    values = torch.zeros_like(earned)
    for _ in range(horizon):
        values = earned + gamma * (policy * values[successors]).sum(-1) * going
    return values
