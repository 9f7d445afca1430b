"""Losses by which a policy with parameters takes the steps of game solvers: what each paper descends.

A, beta, the reference and the step size s are those of :mod:`prefrl.functional.preferences.game_steps`; u is
log(policy / base), P(i beats j) = 1/2 + A_ij, and pairs i, j are drawn from a policy m, or all of them count
by m_i m_j. ``base`` is p^(1 - s beta) reference^(s beta) unless something else is said.

=========== ====================================================================== =========================
loss        of a policy, in the middle over pairs (of gpo: over options)           its minimiser
=========== ====================================================================== =========================
online_ipo  (u_i - u_j - (A_i q - A_j q) / beta)^2, base = reference, even m       reference exp(A q / beta)
inpo        P_ij (u_i - u_j - s / 2)^2 + P_ji (u_j - u_i - s / 2)^2                base exp(s A m)
dno         -sigmoid(g_i - g_j) log sigmoid((u_i - u_j) / s) - the same of j, i    p exp(s g)
gpo         (u_i - s g_i + log Z)^2, Z = sum_i p_i exp(s g_i), base = p            p exp(s g)
=========== ====================================================================== =========================

g = A p - beta log(p / reference), of which p exp(s g) is base exp(s A p) again. ONPO's two regressions and
MNPO's one are inpo's loss with other bases and pairs. inpo and dno are rows of
:data:`prefrl.functional.preferences.pair_rows.PAIR_LOSSES`.

Online IPO's minimiser is where one would stop against a fixed q; its solvers take one step of descent towards
it and look again. The other losses are made to be minimised: their minimiser is the solver's step.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from .game_steps import Game, payoffs, regularised_gains
from .pair_loss import pair_loss


class Pairs(NamedTuple):
    """Which options are compared with each other in P games."""

    first: Tensor
    """[P, N] int64."""

    second: Tensor
    """[P, N] int64."""

    weights: Tensor
    """[P, N] what each pair counts."""


def all_pairs(sampler: Tensor) -> Pairs:
    """Return all pairs that differ, each once, as often as both its orders are drawn from policies [P, K].

    (An option beside itself has the same loss whatever the policy.)
    """
    games, k = sampler.shape
    first, second = torch.triu_indices(k, k, 1, device=sampler.device)
    weights = 2.0 * sampler[:, first] * sampler[:, second]
    return Pairs(first.expand(games, -1), second.expand(games, -1), weights)


def drawn_pairs(sampler: Tensor, noise: Tensor) -> Pairs:
    """Return N pairs of options that policies [P, K] draw, by noise [2, P, N] even in [0, 1)."""
    first, second = drawn_options(sampler, noise)
    return Pairs(first, second, torch.full_like(noise[0], 1.0 / noise.shape[-1]))


def drawn_options(policy: Tensor, noise: Tensor) -> Tensor:
    """Return options [..., P, N] that policies [P, K] draw, by noise [..., P, N] even in [0, 1)."""
    limits = policy.cumsum(-1).expand(*noise.shape[:-1], -1).contiguous()
    return torch.searchsorted(limits, noise.contiguous()).clamp(max=policy.shape[-1] - 1)


def online_ipo_loss(game: Game, policy: Tensor, opponent: Tensor, noise: Tensor | None = None) -> Tensor:
    """Return online IPO's loss [P] against an opponent, over even pairs (arXiv 2503.08942).

    Its slope in the logits of a softmax over K options is 4 / K (a - mean a), a = u - A q / beta: a step of
    descent of size s beta K / 4 is a step of mirror descent of size s against q.

    Args:
        game: matrix [P, K, K], reference [P, K], beta above 0.
        policy: [P, K] logarithms.
        opponent: [P, K] logarithms of q.
        noise: [3, P, N] even in [0, 1): N pairs are drawn, and an option of the opponent's for each, with
            which both are compared; None: all pairs and the whole of q. The slope is the same on average.
    """
    matrix, reference, beta = game
    lead = policy - reference
    if noise is None:
        away = lead - payoffs(matrix, opponent.exp()) / beta
        return 2.0 * away.var(-1, unbiased=False)  # of all pairs the mean square is twice that
    prompts, k = lead.shape
    first, second = (noise[:2] * k).long()
    other = drawn_options(opponent.exp(), noise[2])
    rows = torch.arange(prompts, device=lead.device)[:, None]
    target = (matrix[rows, first, other] - matrix[rows, second, other]) / beta
    return (lead.gather(1, first) - lead.gather(1, second) - target).square().mean(-1)


def inpo_loss(game: Game, policy: Tensor, base: Tensor, pairs: Pairs, step_size: float) -> Tensor:
    """Return INPO's loss [P], to be minimised (arXiv 2407.00617, its eta 1 / s and tau beta).

    Of an ordered pair (winner, loser) it is (u_winner - u_loser - 1 / (2 eta))^2; here both orders count by
    how likely they are, which is real for payoffs beyond 1/2 too. MNPO's (arXiv 2509.23102) has for ``base``
    the geometric mean of past policies by their weights.

    Args:
        game: matrix [P, K, K], reference [P, K], beta.
        policy: [P, K] logarithms.
        base: [P, K] logarithms of what counts 1 - s beta beside the reference.
        pairs: what is compared.
        step_size: s.
    """
    first, second, weights = pairs
    rows = torch.arange(len(policy), device=policy.device)[:, None]
    labels = 0.5 + game.matrix[rows, second, first]
    own, reference, opponents = (_sides(each, pairs) for each in (policy, game.reference, base))
    mask = torch.ones_like(own, dtype=torch.bool)
    return pair_loss(
        "inpo", own, mask, labels, reference=reference, opponents=opponents, weights=weights,
        beta=1.0 / step_size, settings={"reference_share": step_size * game.beta},
    ).sum(-1)  # fmt: skip


def dno_loss(game: Game, policy: Tensor, now: Tensor, pairs: Pairs, step_size: float) -> Tensor:
    """Return DNO's loss [P], to be minimised: logistic regression on soft labels (arXiv 2404.03715).

    The reward is g, exactly; its paper, which has no regulariser, estimates A p by comparisons with draws
    from p. Its eta is 1 / s.

    Args:
        game: matrix [P, K, K], reference [P, K], beta.
        policy: [P, K] logarithms.
        now: [P, K] logarithms of p, the policy that the step starts from.
        pairs: what is compared.
        step_size: s.
    """
    gains = regularised_gains(game, now)
    labels = torch.sigmoid(gains.gather(1, pairs.second) - gains.gather(1, pairs.first))
    own, reference = _sides(policy, pairs), _sides(now, pairs)
    mask = torch.ones_like(own, dtype=torch.bool)
    return pair_loss(
        "dno", own, mask, labels, reference=reference, weights=pairs.weights, beta=1.0 / step_size
    ).sum(-1)


def gpo_loss(
    game: Game, policy: Tensor, now: Tensor, step_size: float, normaliser: Literal["exact", "zero"] = "exact",
    options: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Return GPO's loss [P], to be minimised: a regression of each option's ratio (arXiv 2410.02197).

    The score is g, exactly; its paper, which has no regulariser, estimates it by draws from p. Its beta is
    1 / s.

    Args:
        game: matrix [P, K, K], reference [P, K], beta.
        policy: [P, K] logarithms.
        now: [P, K] logarithms of p, the policy that the step starts from.
        step_size: s.
        normaliser: "zero" leaves log Z out, as the paper does in practice; the minimiser is then another, by
            as much as log Z is away from 0 (about s^2 / 2 times the variance of g).
        options: [P, N] drawn from p; None: all, each by its probability.
    """
    target = step_size * regularised_gains(game, now)
    if normaliser == "exact":
        target = target - torch.logsumexp(now + target, -1, keepdim=True)
    away = (policy - now - target).square()
    return (now.exp() * away).sum(-1) if options is None else away.gather(1, options).mean(-1)


def _sides(policy: Tensor, pairs: Pairs) -> Tensor:
    """Return [P, N, 2, 1] the logarithms [P, K] of both options, whole sequences as segments of one step."""
    return torch.stack([policy.gather(1, pairs.first), policy.gather(1, pairs.second)], -1)[..., None]
