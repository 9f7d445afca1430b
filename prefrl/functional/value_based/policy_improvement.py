"""Generalised policy improvement over a policy set (Barreto et al. 2017; soft form: Knox et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_ELEMENTS = 2**16
"""Values [fits, places, policies] worked on at once: few enough to stay in a core's cache."""

LOWEST_EXPONENT = -700.0
"""Exponent below which exp(x) leaves float64's normal range."""


def soft_maximum(values: Tensor, temperature: float) -> Tensor:
    """Return sum_p softmax_p(values / T) values over the last axis.

    It lies between ``max - T log P`` and the maximum of the P values, and is the maximum at T = 0. Its
    gradient is softmax_p (1 + (values_p - result) / T).

    Args:
        values: [..., P], for example psi^pi(s) . w of P policies.
        temperature: T, in units of the values; not negative.

    Returns:
        [...].
    """
    if temperature == 0.0:
        return values.amax(-1)
    return (torch.softmax(values / temperature, -1) * values).sum(-1)


def soft_policy_improvement(weights: Tensor, psi: Sequence[Tensor], temperature: float) -> Tensor:
    """Return the soft maximum over policies of psi . w: V_w(s) of a policy set, differentiable in w.

    The same as :func:`soft_maximum` of the products, but the gradient [G, X, F] is formed on the way, piece
    by piece in cache, so that nothing of size [G, X, P] is kept or read twice. First derivatives only.

    Args:
        weights: [M, G, F] reward weights, G for each of M MDPs.
        psi: for each MDP [X_m, P_m, F], successor features of its policies at its places (states, or pairs).
        temperature: T, in units of return; 0 takes the maximum.

    Returns:
        [M, G, X], X the largest X_m; 0 past an MDP's own places.
    """
    result: Tensor = _SoftPolicyImprovement.apply(weights, tuple(psi), temperature)  # type: ignore[no-untyped-call]
    return result


class _SoftPolicyImprovement(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weights: Tensor, psi: tuple[Tensor, ...], temperature: float) -> Tensor:
        mdps, fits, features = weights.shape
        longest = max(table.shape[0] for table in psi)
        values = weights.new_zeros(mdps, fits, longest)
        slopes = weights.new_zeros(mdps, fits, longest, features)
        for m, table in enumerate(psi):
            places, policies = table.shape[:2]
            columns = table.reshape(places * policies, features).T
            size = max(1, CHUNK_ELEMENTS // (places * policies))
            for g in range(0, fits, size):
                part = slice(g, g + size)
                returns = (weights[m, part] @ columns).reshape(-1, places, policies)
                value, share = _improve(returns, temperature)
                values[m, part, :places] = value
                slopes[m, part, :places] = torch.bmm(share.transpose(0, 1), table).transpose(0, 1)
        ctx.save_for_backward(slopes)
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (slopes,) = ctx.saved_tensors
        return torch.einsum("mgx,mgxf->mgf", gradient, slopes), None, None


def _improve(returns: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return the soft maximum [G, X] of returns [G, X, P] and its gradient [G, X, P]; overwrites returns."""
    if temperature == 0.0:
        best, policy = returns.max(-1, keepdim=True)
        return best[..., 0], torch.zeros_like(returns).scatter_(-1, policy, 1.0)
    best = returns.amax(-1, keepdim=True)
    # (x - max) / T <= 0; what lies below LOWEST_EXPONENT weighs nothing, and exp is slow where it underflows.
    scaled = returns.sub_(best).mul_(1.0 / temperature).clamp_(min=LOWEST_EXPONENT)
    share = torch.exp(scaled)
    share *= share.sum(-1, keepdim=True).reciprocal_()
    below = (share * scaled).sum(-1, keepdim=True)
    share *= scaled.sub_(below).add_(1.0)
    return (best + temperature * below)[..., 0], share
