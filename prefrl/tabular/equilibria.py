"""Equilibria of games that preferences make, found by other means than playing them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from prefrl.functional.preferences.game_steps import Game, duality_gap
from prefrl.functional.preferences.games import minimax_winner

SHRINK = 0.5
"""Factor of beta from one stage of the search to the next."""

NEWTON_STEPS = 100
"""Newton steps in a stage; a few are enough, since each stage begins near its solution."""

HALVINGS = 30
"""How often a Newton step may be halved until it improves."""


def nash_equilibrium(game: Game) -> Tensor:
    """Return logarithms [..., K] of a policy that is a Nash equilibrium against itself.

    With beta 0 by linear programming, game after game; where there are several, it is one of them. Above, the
    one solution of p ~ reference exp(A p / beta), by Newton's method on logits. Its matrix is I - A J / beta,
    J = diag(p) - p p'; A J has the eigenvalues of an antisymmetric matrix, which have no real part, and so
    no such matrix is singular: a step that is short enough always improves, and solutions follow beta without
    a fold. The search starts where beta is as large as the entries, and halves it until it is what was given.

    Args:
        game: matrices [..., K, K], reference [..., K].

    Returns:
        [..., K] float64; minus infinity where an option is never taken.

    Raises:
        RuntimeError: if the search does not end, as where beta is so small that float64 does not tell.
    """
    matrix = game.matrix.to(torch.float64)
    k = matrix.shape[-1]
    lead = np.broadcast_shapes(matrix.shape[:-2], game.reference.shape[:-1])
    flat = matrix.expand(*lead, k, k).reshape(-1, k, k)
    size = float(flat.abs().max()) or 1.0
    if game.beta == 0.0:
        found = torch.stack([minimax_winner(one / size) for one in flat])
        return (found / found.sum(-1, keepdim=True)).log().reshape(*lead, k)
    reference = game.reference.to(torch.float64).expand(*lead, k).reshape(-1, k)
    policy, beta = reference, max(size, game.beta)
    while True:
        policy = _newton(Game(flat, reference, beta), policy)
        if beta == game.beta:
            return policy.reshape(*lead, k)
        beta = max(SHRINK * beta, game.beta)


def _newton(game: Game, policy: Tensor) -> Tensor:
    """Return the equilibria [B, K] of one beta, from policies near them.

    The norm of the residual of logits falls with every step that is accepted; the last, where rounding leaves
    nothing to gain, is accepted without.
    """
    for _ in range(NEWTON_STEPS):
        residual = _residual(game, policy)
        norm = residual.norm(dim=-1)
        if bool((norm < 1e-13 * (1.0 + policy.abs().amax(-1))).all()):
            return policy
        p = policy.exp()
        spread = torch.diag_embed(p) - p[..., :, None] * p[..., None, :]
        slope = torch.eye(p.shape[-1], dtype=p.dtype, device=p.device) - game.matrix @ spread / game.beta
        step = torch.linalg.solve(slope, residual[..., None])[..., 0]
        share = torch.ones_like(norm)
        for _ in range(HALVINGS):
            tried = torch.log_softmax(policy - share[..., None] * step, -1)
            worse = _residual(game, tried).norm(dim=-1) > (1.0 - 1e-4 * share) * norm
            if not bool(worse.any()):
                break
            share = torch.where(worse, 0.5 * share, share)
        policy = torch.where((worse & (norm > 1e-9))[..., None], policy, tried)
        if bool((worse | (norm < 1e-12)).all()):
            break
    if not bool((duality_gap(game, policy) < 1e-9 * (1.0 + game.matrix.abs().amax((-2, -1)))).all()):
        raise RuntimeError(f"the equilibrium was not found at beta {game.beta:g}; give a larger one")
    return policy


def _residual(game: Game, policy: Tensor) -> Tensor:
    """Return log policy - log of the best answer to it [B, K], of mean 0."""
    gap = policy - game.reference - (game.matrix @ policy.exp()[..., None])[..., 0] / game.beta
    return gap - gap.mean(-1, keepdim=True)
