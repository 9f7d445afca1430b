"""Bonuses in finite MDPs: potentials, which change no optimal policy, and loops that only a bonus pays."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.sparse import coo_matrix, csr_matrix, vstack
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from .mdp import TabularMDP
from .solvers import action_values, check_gamma, check_table

TOLERANCE = 1e-9
"""Rewards per step, and shares of time, that count as none."""


class RewardLoop(NamedTuple):
    """Something that can go on for ever, and is paid by a bonus only."""

    states: tuple[int, ...]
    """Its states; of a deterministic loop in the order of the way."""
    actions: tuple[int, ...]
    """What is done in each of them, mostly."""
    gain: float
    """Reward per step with the bonus, above 0."""
    true_gain: float
    """Reward per step without it, at most 0."""


def potential_rewards(mdp: TabularMDP, potential: Tensor, gamma: float) -> Tensor:
    """Return expected F = gamma Phi(s') - Phi(s) [..., M, S, A], Phi 0 at an end (Ng et al. 1999).

    Args:
        mdp: the MDPs.
        potential: Phi [..., M, S], float64.
        gamma: discount in [0, 1].

    Raises:
        ValueError: for a bad discount.
    """
    check_gamma(gamma)
    size = (*potential.shape, mdp.num_actions)
    return action_values(mdp, potential, -potential[..., None].expand(size), gamma)


def reward_loops(mdp: TabularMDP, bonus: Tensor, rewards: Tensor | None = None) -> list[RewardLoop]:
    """Return loops whose reward with a bonus sums to more than 0, although the true one does not.

    In every part of the MDP that can be stayed in for ever, a linear programme finds what is paid most per
    step in the long run with the bonus among all that is truly paid nothing or less: the largest mean of a
    cycle, and of a recurrent class where steps are random. Discounts do not count here: with gamma below 1 a
    potential below 0 pays a loop (1 - gamma) |Phi| a step, which is found; above 0 it never pays.

    Args:
        mdp: one MDP.
        bonus: [S, A] expected bonus.
        rewards: [S, A] expected true rewards (None: the MDP's own).

    Returns:
        At most one loop of each part, those that gain most first; none if the bonus pays no loop.

    Raises:
        ValueError: if there are several MDPs, or a table does not fit.
    """
    if mdp.num_mdps != 1:
        raise ValueError(f"mdp holds {mdp.num_mdps} MDPs; reward_loops takes one")
    true = mdp.linear_rewards(mdp.weights) if rewards is None else rewards[None]
    check_table("rewards", true, mdp)
    check_table("bonus", bonus[None], mdp)
    found = []
    for pairs in _end_components(mdp):
        loop = _best_loop(mdp, pairs, true[0].cpu().numpy(), bonus.cpu().numpy())
        if loop is not None:
            found.append(loop)
    return sorted(found, key=lambda loop: -loop.gain)


def _end_components(mdp: TabularMDP) -> list[NDArray[np.int64]]:
    """Return the pairs [K, 2] of every part that can be stayed in for ever: maximal end components."""
    follow, chance = mdp.successors[0].cpu().numpy(), mdp.probabilities[0].cpu().numpy() > 0.0
    states, actions, _ = follow.shape
    allowed = np.broadcast_to(~mdp.terminal[0].cpu().numpy()[:, None], (states, actions)).copy()
    while True:
        state, action, place = np.nonzero(allowed[:, :, None] & chance)
        edges = (np.ones(len(state)), (state, follow[state, action, place]))
        parts = connected_components(coo_matrix(edges, shape=(states, states)), connection="strong")[1]
        stays = ((parts[follow] == parts[:, None, None]) | ~chance).all(-1)
        if not (allowed & ~stays).any():
            pairs = np.argwhere(allowed)
            of_pair = parts[pairs[:, 0]]
            return [pairs[of_pair == part] for part in np.unique(of_pair)]
        allowed &= stays


def _best_loop(
    mdp: TabularMDP, pairs: NDArray[np.int64], true: NDArray[np.float64], bonus: NDArray[np.float64]
) -> RewardLoop | None:
    """Return what gains most with the bonus among what truly gains nothing; None if that is nothing."""
    follow, chance = mdp.successors[0].cpu().numpy(), mdp.probabilities[0].cpu().numpy()
    states, actions = pairs.T
    names, column = np.unique(states, return_inverse=True)
    count, branches = len(pairs), follow.shape[-1]
    into = np.searchsorted(names, follow[states, actions]).clip(max=len(names) - 1)
    flows = (-chance[states, actions].ravel(), (into.ravel(), np.repeat(np.arange(count), branches)))
    balance = csr_matrix((np.ones(count), (column, np.arange(count))), shape=(len(names), count))
    balance = balance + csr_matrix(flows, shape=(len(names), count))
    whole = csr_matrix(np.ones((1, count)))
    pays, total = true[states, actions], (true + bonus)[states, actions]
    done = linprog(
        -total, A_ub=pays[None], b_ub=[0.0], A_eq=vstack([balance, whole]),
        b_eq=np.append(np.zeros(len(names)), 1.0), method="highs",
    )  # fmt: skip
    if done.status == 2 or -done.fun <= TOLERANCE:  # 2: whatever goes on here is truly paid
        return None
    share = done.x
    used = share > TOLERANCE
    main = {int(s): int(actions[states == s][share[states == s].argmax()]) for s in states[used]}
    way = _in_order(main, follow, chance)
    return RewardLoop(way, tuple(main[s] for s in way), float(total @ share), float(pays @ share))


def _in_order(
    main: dict[int, int], follow: NDArray[np.int64], chance: NDArray[np.float64]
) -> tuple[int, ...]:
    """Return the states in the order in which they follow each other mostly, if that goes round all."""
    way = [min(main)]
    while len(way) < len(main):
        here = way[-1]
        following = int(follow[here, main[here]][chance[here, main[here]].argmax()])
        if following in way or following not in main:
            return tuple(sorted(main))
        way.append(following)
    return tuple(way)
