"""Steps of game solvers: one formula, and from where and against whom it is taken.

A is antisymmetric [..., K, K], A[i, j] what option i wins against j; leading axes are games of their own.
Both players are held near a reference policy (Nash learning from human feedback, Munos et al. 2023, arXiv
2312.00886):

    V(p, q) = p A q - beta KL(p | reference) + beta KL(q | reference).

Preferences as probabilities P make A = P - 1/2, the same game less a constant; with beta 0 it is A itself. A
step of mirror descent of size s, from a policy p and against a policy q, is

    M(p, q) ~ p^(1 - s beta) reference^(s beta) exp(s A q).

================ =============================================================================================
egpo             h = M(p, p), then p' = M(p, h): extragradient (arXiv 2503.08942)
omd              p' = M(p, p): online mirror descent, which is online IPO with even pairs (arXiv 2503.08942)
inpo             the same: what minimises INPO's loss on pairs drawn from p (arXiv 2407.00617, eta = 1 / s)
hedge            p' ~ p exp(s g), g = A p - beta log(p / reference), what p wins where it moves: the same
                 again
dno              the same: what minimises DNO's loss (arXiv 2404.03715, eta = 1 / s), given g as its reward
gpo              the same: GPO's exact step (arXiv 2410.02197, beta there = 1 / s), given g as its score
optimistic_hedge p' ~ p exp(s (2 g - g of the step before)): Hedge that expects what it last saw (Rakhlin and
                 Sridharan 2013, arXiv 1311.1869)
onpo             base' = M(base, p), p' = M(base', p): optimistic mirror descent (arXiv 2502.16852)
nash_md          p' = M(p, p^(1 - s beta) reference^(s beta)): against a policy nearer to the reference
                 (2312.00886)
mnpo             from the geometric and against the arithmetic mean of past policies, by weights (arXiv
                 2509.23102)
regret_matching  p' ~ positive part of the summed A p - p A p (Hart and Mas-Colell 2000, Econometrica 68);
                 beta 0
================ =============================================================================================

So hedge, dno, gpo, inpo and omd are one step when nothing is sampled; what differs is the loss that leads a
network there. Hedge's, DNO's and GPO's papers have no regulariser: with beta 0 the steps are theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from .games import hedge_step, log_normalised, normalised


class Game(NamedTuple):
    """A regularised symmetric game, or a batch of them."""

    matrix: Tensor
    """[..., K, K] antisymmetric: what the row wins against the column."""

    reference: Tensor
    """[..., K] logarithms of the reference's probabilities."""

    beta: float
    """Price of a nat of divergence from the reference, in the unit of the matrix; 0 for none."""


class Play(NamedTuple):
    """Where a solver stands."""

    policy: Tensor
    """[..., K] logarithms of the present policy."""

    memory: Tensor
    """[..., M, K] what else it keeps: past gains or policies, sums of regrets; M may be 0."""


def games_last(game: Game) -> Game:
    """Return the same games [P, K, K], with those of all P side by side in memory.

    Steps of many small games are two to four times as fast then, and come out the same up to rounding.
    """
    matrix, reference = (x.movedim(0, -1).contiguous().movedim(-1, 0) for x in game[:2])
    return Game(matrix, reference, game.beta)


def payoffs(matrix: Tensor, policy: Tensor) -> Tensor:
    """Return A q [..., K], what each option wins against policies q [..., K] (probabilities)."""
    if matrix.ndim == 3 and policy.ndim == 2 and matrix.stride(0) == 1:
        # Of games side by side row j of all, less its sign, is their column j: it lies in one piece.
        rows, chances = matrix.movedim(0, -1).unbind(0), policy.T.unbind(0)
        won = torch.mul(rows[0], -chances[0])
        for row, chance in zip(rows[1:], chances[1:], strict=True):
            won.addcmul_(row, chance, value=-1.0)
        return won.T
    return (matrix @ policy[..., None])[..., 0]


def mirror_step(game: Game, start: Tensor, opponent: Tensor, step_size: float) -> Tensor:
    """Return log M(start, opponent) [..., K]; see the module's text.

    Args:
        game: of antisymmetric matrices [..., K, K].
        start: [..., K] logarithms of the policy to step from.
        opponent: [..., K] probabilities.
        step_size: s, above 0; s beta at most 1.
    """
    return log_normalised(_scores(game, start, opponent, step_size))


def _scores(game: Game, start: Tensor, opponent: Tensor, step_size: float) -> Tensor:
    """Return log M(start, opponent) [..., K] up to a constant."""
    base = torch.lerp(start, game.reference, step_size * game.beta)
    return torch.add(base, payoffs(game.matrix, opponent), alpha=step_size)


def regularised_gains(game: Game, policy: Tensor) -> Tensor:
    """Return A p - beta log(p / reference) [..., K], the slope of V in p against itself, up to a constant."""
    gains = payoffs(game.matrix, policy.exp())
    return gains - game.beta * (policy - game.reference) if game.beta > 0.0 else gains


def egpo(game: Game, play: Play, step_size: float) -> Play:
    """Take a step of the extragradient method: one to look ahead, then one from the old place against it."""
    ahead = normalised(_scores(game, play.policy, play.policy.exp(), step_size))
    return Play(mirror_step(game, play.policy, ahead, step_size), play.memory)


def omd(game: Game, play: Play, step_size: float) -> Play:
    """Take a step of online mirror descent against oneself."""
    return Play(mirror_step(game, play.policy, play.policy.exp(), step_size), play.memory)


def hedge(game: Game, play: Play, step_size: float) -> Play:
    """Take a step of Hedge (multiplicative weights) on the regularised gains."""
    return Play(hedge_step(play.policy, regularised_gains(game, play.policy), step_size), play.memory)


def optimistic_hedge(game: Game, play: Play, step_size: float) -> Play:
    """Take a step of Hedge that expects its next gains to be the last; memory is those before [..., 1, K]."""
    gains = regularised_gains(game, play.policy)
    policy = hedge_step(play.policy, 2.0 * gains - play.memory[..., 0, :], step_size)
    return Play(policy, gains[..., None, :])


def onpo(game: Game, play: Play, step_size: float) -> Play:
    """Take a step of optimistic mirror descent; memory is the policy it steps from [..., 1, K]."""
    opponent = play.policy.exp()
    base = mirror_step(game, play.memory[..., 0, :], opponent, step_size)
    return Play(mirror_step(game, base, opponent, step_size), base[..., None, :])


def nash_md(game: Game, play: Play, step_size: float) -> Play:
    """Take a step of Nash-MD, against a mixture of policy and reference.

    Where it comes to rest, the policy is the best one against that mixture and not against itself: the step
    size times beta says how far it stays away from the equilibrium.
    """
    pull = step_size * game.beta
    mixture = normalised(torch.lerp(play.policy, game.reference, pull))
    return Play(mirror_step(game, play.policy, mixture, step_size), play.memory)


def mnpo(game: Game, play: Play, step_size: float, population: Sequence[float]) -> Play:
    """Take a step of multiplayer preference optimisation whose opponents are past policies.

    Args:
        game: see :class:`Game`.
        play: memory is the policies before the present one, the newest first [..., H - 1, K].
        step_size: s.
        population: H weights of the present policy and those before it, that sum to 1; (1,) and (1, 0) are
            INPO.
    """
    base, mixture, memory = population_means(play, population)
    return Play(mirror_step(game, base, mixture, step_size), memory)


def population_means(play: Play, population: Sequence[float]) -> tuple[Tensor, Tensor, Tensor]:
    """Return the means of a population of policies by H weights, and what its next one remembers.

    Returns:
        [..., K] the geometric mean's logarithms (not normalised); [..., K] the arithmetic mean's
        probabilities; [..., H - 1, K] logarithms of the policies that are past then, the newest first.
    """
    players = torch.cat([play.policy[..., None, :], play.memory], -2)
    # Weights of 0 leave out what may be minus infinity.
    members = [(weight, players[..., h, :]) for h, weight in enumerate(population) if weight > 0.0]
    base = torch.stack([weight * log_policy for weight, log_policy in members]).sum(0)
    mixture = torch.stack([weight * log_policy.exp() for weight, log_policy in members]).sum(0)
    return base, mixture, players[..., : len(population) - 1, :]


def regret_matching(game: Game, play: Play, step_size: float) -> Play:
    """Play what is regretted, in proportion; memory is the summed regrets [..., 1, K], the step has no size.

    ``game.beta`` must be 0: an option that is not played would be worth infinitely much.
    """
    gains = payoffs(game.matrix, play.policy.exp())
    own = (play.policy.exp() * gains).sum(-1, keepdim=True)
    regrets = play.memory[..., 0, :] + gains - own
    positive = regrets.clamp(min=0.0)
    total = positive.sum(-1, keepdim=True)
    even = torch.full_like(positive, 1.0 / positive.shape[-1])
    return Play(torch.where(total > 0.0, positive / total, even).log(), regrets[..., None, :])


def multiplayer_step(
    game: Game, policies: Tensor, step_size: float, weights: Tensor | None = None
) -> Tensor:  # fmt: skip
    """Return the policies of n players after one step of each against the others, all at once [..., n, K].

    Player i goes to ~ (prod_j p_j^w_ij)^(1 - s beta) reference^(s beta) exp(s A_i sum_j w_ij p_j), as in
    arXiv 2509.23102 for w_ij = 1 / (n - 1). With one oracle it comes to rest in the equilibrium; with oracles
    of their own players rest where each could still win something: :func:`multiplayer_gap` says how much.

    Args:
        game: its matrix [..., n, K, K] has an oracle for each player, or [..., 1, K, K] one for all; its
            reference is [..., n or 1, K].
        policies: [..., n, K] logarithms, all finite.
        step_size: s.
        weights: [n, n] of each player (row) upon the others, rows summing to 1 (None: all others alike).
    """
    if weights is None:
        weights = even_opponents(policies)
    return mirror_step(game, weights @ policies, weights @ policies.exp(), step_size)


def even_opponents(policies: Tensor) -> Tensor:
    """Return weights [n, n] by which each player of [..., n, K] meets all others alike, and not itself."""
    n = policies.shape[-2]
    apart = 1.0 - torch.eye(n, dtype=policies.dtype, device=policies.device)
    return apart / (n - 1)


# How far from an equilibrium ------------------------------------------------------------------------------


def best_response(game: Game, gains: Tensor) -> tuple[Tensor, Tensor]:
    """Return what the best policy against gains [..., K] has, and that policy.

    Returns:
        ``max_p p gains - beta KL(p | reference)`` [...], and the logarithms of that p [..., K], ~ reference
        exp(gains / beta); with beta 0 all on the best option, the first of several.
    """
    if game.beta > 0.0:
        scores = game.reference + gains / game.beta
        total = torch.logsumexp(scores, -1, keepdim=True)
        return game.beta * total[..., 0], scores - total
    best, place = gains.max(-1, keepdim=True)
    options = torch.arange(gains.shape[-1], device=gains.device)
    return best[..., 0], torch.where(options == place, 0.0, -torch.inf).to(gains.dtype)


def divergence(policy: Tensor, reference: Tensor) -> Tensor:
    """Return KL(policy | reference) [...] in nats, of logarithms [..., K]; options never taken count 0."""
    ratio = torch.where(policy > -torch.inf, policy - reference, 0.0)
    return (policy.exp() * ratio).sum(-1)


def regularised_exploitability(game: Game, policy: Tensor) -> Tensor:
    """Return max_q V(q, p) [...], what the best answer wins against policies p [..., K] (logarithms).

    Since V(p, p) = 0 it is what p loses to its best answer: 0 for an equilibrium alone, and not negative.
    """
    best, _ = best_response(game, payoffs(game.matrix, policy.exp()))
    paid = game.beta * divergence(policy, game.reference) if game.beta > 0.0 else 0.0
    return (best + paid).clamp(min=0.0)


def duality_gap(game: Game, policy: Tensor, opponent: Tensor | None = None) -> Tensor:
    """Return max_q V(q, opponent) - min_q V(policy, q) [...], not negative.

    Args:
        game: see :class:`Game`.
        policy: [..., K] logarithms of the first player's policy.
        opponent: [..., K] those of the second player's (None: the same; the gap is then twice the
            exploitability).
    """
    own = regularised_exploitability(game, policy)
    return own + (own if opponent is None else regularised_exploitability(game, opponent))


def multiplayer_gap(game: Game, policies: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return what n players could win together, each by changing alone [...].

    Player i has ``sum_j w_ij p_i A_i p_j - beta KL(p_i | reference)``; the gap is the sum over players of the
    most that this could be, less what it is (arXiv 2509.23102). Of two players it is the duality gap.

    Args:
        game: as in :func:`multiplayer_step`.
        policies: [..., n, K] logarithms.
        weights: [n, n] (None: all others alike).
    """
    if weights is None:
        weights = even_opponents(policies)
    gains = payoffs(game.matrix, weights @ policies.exp())
    best, _ = best_response(game, gains)
    own = (policies.exp() * gains).sum(-1)
    if game.beta > 0.0:
        own = own - game.beta * divergence(policies, game.reference)
    return (best - own).sum(-1)


# The table ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Solver:
    """A row of :data:`SOLVERS`."""

    step: Callable[..., Play]
    """(game, play, step size) to the next play; of mnpo also the population's weights."""

    answer: Literal["last", "average"] = "last"
    """Which policy approaches the equilibrium, as its paper has it."""

    memory: Literal["none", "zeros", "policy", "population"] = "none"
    """What memory begins with: nothing, one row of zeros, the policy, or it for each past member."""

    regularised: bool = True
    """Whether it takes a beta above 0."""


SOLVERS: Mapping[str, Solver] = {
    "egpo": Solver(egpo),
    "omd": Solver(omd),
    "hedge": Solver(hedge, "average"),
    "optimistic_hedge": Solver(optimistic_hedge, "average", memory="zeros"),
    "nash_md": Solver(nash_md),
    "inpo": Solver(omd),
    "onpo": Solver(onpo, memory="policy"),
    "mnpo": Solver(mnpo, memory="population"),
    "dno": Solver(hedge),
    "gpo": Solver(hedge),
    "regret_matching": Solver(regret_matching, "average", memory="zeros", regularised=False),
}
"""Solvers by name; the module's text says what each does."""


def begin(name: str, policy: Tensor, members: int = 1) -> Play:
    """Return where a solver of :data:`SOLVERS` begins, at policies [..., K] (logarithms).

    Args:
        name: of the solver.
        policy: [..., K].
        members: of mnpo: H, how many weights its population has.
    """
    kind = SOLVERS[name].memory
    rows = {"none": 0, "zeros": 1, "policy": 1, "population": members - 1}[kind]
    memory = policy[..., None, :].expand(*policy.shape[:-1], rows, policy.shape[-1]).clone()
    return Play(policy.clone(), torch.zeros_like(memory) if kind == "zeros" else memory)


def advance(
    name: str, game: Game, play: Play, step_size: float, population: Sequence[float] = (1.0,)
) -> Play:  # fmt: skip
    """Return where a solver of :data:`SOLVERS` stands after a step; ``population`` is mnpo's alone."""
    solver = SOLVERS[name]
    if solver.memory == "population":
        return solver.step(game, play, step_size, population)
    return solver.step(game, play, step_size)


def default_step_size(beta: float) -> float:
    """Return 1 / (beta + 3), up to which EGPO contracts for entries in [-1, 1] (arXiv 2503.08942)."""
    return 1.0 / (beta + 3.0)
