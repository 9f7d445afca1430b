"""Policies that do not look at the stock: risk-neutral and naive ones, and all where they can be listed."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from prefrl.functional.returns.objectives import Objective
from prefrl.functional.returns.ordering import best_actions

from .return_distributions import StockPolicy
from .stock_lattice import MAX_POINTS, FiniteHorizon, StockLattice, first_places, merged


def return_to_go_policy(
    problem: FiniteHorizon, objective: Objective, *, max_points: int = MAX_POINTS
) -> tuple[StockPolicy, Tensor]:
    """Return the policy that is greedy, at each time, on an objective of the return still to come.

    It forgets what was collected. For the mean that is dynamic programming as ever; for CVaR it is the
    "naive" agent that acts on the CVaR of the distribution it learned, and it is time-inconsistent.

    Args:
        problem: the MDPs, with rewards that are numbers or vectors.
        objective: of the distribution of G.
        max_points: see :class:`StockLattice`.

    Returns:
        The policy, and the keys [M, S, J] of its distribution at time 0.
    """
    mdp, gamma, dim = problem.mdp, problem.gamma, problem.dim
    m, s, a, k = mdp.successors.shape
    distinct, paid = merged(problem.rewards.flatten(0, 3))
    paid = paid.view(m * s, a, k)
    final = problem.final_rewards
    zero = problem.rewards.new_zeros((1, dim) if dim else 1)
    # What is paid at the horizon comes one step of discount earlier, with the last reward.
    ends = zero.expand(m * s, *zero.shape[1:]) if final is None else final.flatten(0, 1) / gamma
    ends = torch.where(mdp.terminal.view(-1, *[1] * (ends.ndim - 1)), 0.0, ends)
    points, place = merged(torch.cat([zero, ends]))
    origin, place = int(place[0]), place[1:]
    distribution = F.one_hot(place, points.shape[0]).to(torch.float64)  # [M S, Y]
    terminal = mdp.terminal.flatten()
    next_states = (mdp.successors + (torch.arange(m, device=mdp.device) * s)[:, None, None, None]).view(
        m * s, a, k
    )
    probs = mdp.probabilities.view(m * s, a, k)
    actions: list[Tensor] = []
    keys = objective.keys(points, distribution)
    for _ in range(problem.horizon):
        moved = (distinct[:, None] + gamma * points[None]).flatten(0, 1)
        reached, move = merged(torch.cat([zero, moved]))
        origin, move = int(move[0]), move[1:].view(distinct.shape[0], -1)
        q = distribution.new_zeros(m * s, a, reached.shape[0])
        for j in range(k):
            q.scatter_add_(2, move[paid[..., j]], probs[..., j, None] * distribution[next_states[..., j]])
        kept = (q > 0.0).flatten(0, 1).any(0)
        kept[origin] = True
        reached, q, origin = reached[kept], q[..., kept], int(kept[:origin].sum())
        keys = objective.keys(reached, q)  # [M S, A, J]
        chosen = best_actions(keys)
        chosen = torch.where(terminal, 0, chosen)
        still = F.one_hot(torch.full_like(chosen, origin), reached.shape[0]).to(torch.float64)
        distribution = torch.where(
            terminal[:, None], still, q.gather(1, chosen[:, None, None].expand(-1, 1, q.shape[2]))[:, 0]
        )
        points = reached
        actions.insert(0, chosen.view(m, s, 1))
    keys = objective.keys(points, distribution)
    lattice = StockLattice(problem, zero, max_points=max_points)
    return StockPolicy(lattice, problem, actions), keys.view(m, s, -1)


def open_loop_distributions(problem: FiniteHorizon) -> tuple[Tensor, Tensor]:
    """Return all distributions of G that policies without memory of rewards can have, for one MDP.

    Where the next state is certain, a policy that sees state and time but not the stock is a sequence of
    actions; sequences with the same distribution from the same state are one from there on, so that they can
    be listed. Randomised policies give mixtures of these distributions.

    Args:
        problem: one MDP in which states and actions determine the next state.

    Returns:
        Totals [Z] or [Z, k], and distributions [N, Z].

    Raises:
        ValueError: if the next state is random, the start is, or there are several MDPs.
    """
    mdp = problem.mdp
    m, _, a, k = mdp.successors.shape
    happens = mdp.probabilities > 0.0
    first = torch.where(happens, mdp.successors, mdp.num_states).amin(-1)  # [M, S, A]
    certain = (mdp.successors == first[..., None]) | ~happens
    if m != 1 or not bool(certain.all()) or int((mdp.start > 0.0).sum()) != 1:
        raise ValueError("open-loop distributions are those of one MDP with one start, where states and "
                         "actions determine the next state")  # fmt: skip
    lattice = StockLattice(problem, problem.rewards.new_zeros((1, problem.dim) if problem.dim else 1))
    start = int(mdp.start[0].argmax())
    known: dict[int, Tensor] = {start: torch.ones(1, 1, dtype=torch.float64, device=mdp.device)}
    for t in range(problem.horizon):
        move, size = lattice.moves[t], lattice.points[t + 1].shape[0]
        found: dict[int, list[Tensor]] = {}
        for state, distributions in known.items():
            if bool(mdp.terminal[0, state]):
                found.setdefault(state, []).append(_moved(distributions, move[:, lattice.still[0]], size))
                continue
            for action in range(a):
                after = sum(
                    mdp.probabilities[0, state, action, j]
                    * _moved(distributions, move[:, lattice.place_of[0, state, action, j]], size)
                    for j in range(k)
                )
                assert isinstance(after, Tensor)
                found.setdefault(int(first[0, state, action]), []).append(after)
        known = {state: _distinct_rows(torch.cat(distributions)) for state, distributions in found.items()}
    last, size = lattice.moves[-1], lattice.outcomes.shape[0]
    ends = [
        _moved(distributions, last[:, lattice.final_place_of[0, state]], size)
        for state, distributions in known.items()
    ]
    return lattice.outcomes, _distinct_rows(torch.cat(ends))


def _moved(distributions: Tensor, move: Tensor, size: int) -> Tensor:
    """Return distributions [N, C] with their mass moved to other places."""
    return distributions.new_zeros(len(distributions), size).index_add_(1, move, distributions)


def _distinct_rows(distributions: Tensor) -> Tensor:
    _, place = torch.unique(torch.round(distributions * 1e12).to(torch.int64), return_inverse=True, dim=0)
    return distributions[first_places(place)]
