"""Maximum causal entropy inverse reinforcement learning (Ziebart, Bagnell and Dey 2010): the baseline.

People are taken to act by the soft optimal policy of one reward r = w . phi that does not depend on the step,

    pi_h(a | s) = exp( Q_h(s, a) - V_h(s) ),   Q_h = r + P V_{h+1},   V_h = log sum_a exp Q_h,   V_{H+1} = 0,

and w is what makes their choices most likely.
"""

from __future__ import annotations

import torch
from torch import Tensor


def soft_optimal_values(rewards: Tensor, transitions: Tensor, horizon: int) -> Tensor:
    """Return Q [..., H, S, A] of rewards [..., S, A] and transitions [..., S, A, S]."""
    values, q = torch.zeros_like(rewards[..., 0]), []
    for _ in range(horizon):
        q.append(rewards + torch.einsum("...sat,...t->...sa", transitions, values))
        values = torch.logsumexp(q[-1], -1)
    return torch.stack(q[::-1], -3)


def empirical_transitions(moves: Tensor) -> Tensor:
    """Return the observed shares of next states [..., S, A, S], over all steps; even where none was seen.

    Args:
        moves: [..., H, S, A, S] counts.
    """
    total = moves.sum(-4)
    seen = total.sum(-1, keepdim=True)
    return torch.where(seen > 0.0, total / seen.clamp(min=1.0), 1.0 / moves.shape[-1])


def maxent_rewards(
    moves: Tensor, features: Tensor, *, ridge: float = 1e-3, max_iterations: int = 500
) -> Tensor:
    """Return rewards [..., S, A] by maximum likelihood of choices, in transitions as they were observed.

    Args:
        moves: [..., H, S, A, S] how often each state followed each pair in each step.
        features: [S, A, d].
        ridge: ridge / 2 |w|^2 is added to the negative log-likelihood; above 0, since rewards of potentials
            change no choice.
        max_iterations: of L-BFGS; all data sets descend together.
    """
    flat = moves.reshape(-1, *moves.shape[-4:])
    counts, transitions = flat.sum(-1), empirical_transitions(flat)
    total = counts.sum((-1, -2, -3)).clamp(min=1.0)
    weights = flat.new_zeros(len(flat), features.shape[-1], requires_grad=True)
    descent = torch.optim.LBFGS(
        [weights], max_iter=max_iterations, tolerance_grad=1e-9, tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> Tensor:
        descent.zero_grad()
        rewards = torch.einsum("nk,sak->nsa", weights, features)
        q = soft_optimal_values(rewards, transitions, flat.shape[1])
        fit = (counts * torch.log_softmax(q, -1)).sum((-1, -2, -3)) / total
        loss = (0.5 * ridge / total * weights.square().sum(-1) - fit).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    with torch.enable_grad():
        descent.step(closure)  # type: ignore[no-untyped-call]
    return torch.einsum("nk,sak->nsa", weights.detach(), features).view(
        *moves.shape[:-4], *features.shape[:2]
    )
