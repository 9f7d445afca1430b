"""Planning under several reward functions of which nobody knows the right one, and under wishes in a circle.

Wishes are pairs: this option before that one. Where they form a circle no order has them all. A distribution
over orders meets each wish with some probability, and the least of these is to be as large as possible: for
a circle of k wishes it is (k - 1) / k, by the k orders that break one wish each (the idea is of uncertain
objectives, Eckersley, arXiv 1901.00064; the constant is derived). The same number bounds the accuracy of any
scalar score on a circle of preferences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linprog
from torch import Tensor

from prefrl.functional.preferences.uncertain_objectives import (
    Choice,
    abstains,
    approval,
    preferred,
    undominated,
)

from .mdp import TabularMDP
from .solvers import action_values, optimal_policy, policy_evaluation

DECIMALS = 9
"""Of a member's range that values are read to, so that those that are equal but for rounding are equal."""

MAX_OPTIONS = 16
"""Options of which all subsets are looked at."""

MARGIN = 1e-9
"""Gain below which an order adds nothing."""


@dataclass(frozen=True)
class UncertainPlan:
    """What members think of every action in S states of one MDP, and what is done about it."""

    values: Tensor
    """[M, S, A] each member's action values, in its own unit."""
    undominated: Tensor
    """[S, A] bool, actions that no other beats by every member's light."""
    approval: Tensor
    """[S, A] weight of the members to whom an action is as good as their best."""
    actions: Tensor
    """[S] int64 the undominated action that is chosen."""
    abstains: Tensor
    """[S] bool, states in which too few members agree: ask there, or fall back on what is safe."""

    def policy(self, fallback: Tensor | None = None) -> Tensor:
        """Return the plan as a policy [S, A], for ``policy_evaluation``.

        Args:
            fallback: [S, A] probabilities of what is done where the plan abstains (None: the chosen action).
        """
        chosen = torch.nn.functional.one_hot(self.actions, self.undominated.shape[-1]).to(self.values.dtype)
        return chosen if fallback is None else torch.where(self.abstains[:, None], fallback, chosen)


def plan_under_uncertainty(
    mdp: TabularMDP, rewards: Tensor, weights: Tensor | Sequence[float], gamma: float, *,
    continuation: Literal["own", "shared"] = "shared", choice: Choice = "mean", agreement: float = 0.0,
    tolerance: float = 1e-6, rescale: bool = True,
) -> UncertainPlan:  # fmt: skip
    """Plan in one MDP for members who each have their own rewards.

    Args:
        mdp: a batch of one.
        rewards: [M, S, A] expected rewards of the members, as ``mdp.linear_rewards`` makes them of weights.
        weights: [M] how likely each member is right: above 0, of sum 1.
        gamma: discount in [0, 1).
        continuation: what comes after an action. "shared": the policy that is best for the weighted mean of
            the (rescaled) rewards, under which every member values all actions, as it is one policy that will
            act; "own": each member's own best policy, as if it alone decided from then on.
        choice: how to choose among undominated actions, see ``preferred``.
        agreement: weight of the members that must approve of one action, or the plan abstains; 0: never.
        tolerance: how much worse than a member's best action one may be that it approves of, as a share of
            the range of that member's own best values.
        rescale: weigh members' values as shares of that range; otherwise as they are. What is dominated does
            not depend on it.

    Raises:
        ValueError: for a bad argument.
    """
    weights = torch.as_tensor(weights, dtype=rewards.dtype, device=rewards.device)
    _check(mdp, rewards, weights, agreement, tolerance)
    own = optimal_policy(mdp, rewards[:, None], gamma)[1][:, 0]
    live = ~mdp.terminal[0]
    spread = own[:, live].amax((-2, -1)) - own[:, live].amin((-2, -1))
    unit = torch.where(spread > 0.0, spread, 1.0)[:, None, None]
    if continuation == "own":
        values = own
    elif continuation == "shared":
        mean = torch.tensordot(weights, rewards / unit if rescale else rewards, dims=1)
        policy = optimal_policy(mdp, mean[None], gamma)[2]
        following = policy_evaluation(mdp, policy.expand_as(rewards[:, None]), rewards[:, None], gamma)
        values = action_values(mdp, following, rewards[:, None], gamma)[:, 0]
    else:
        raise ValueError(f"continuation is {continuation!r}; it must be 'own' or 'shared'")
    shares = (values / unit).round(decimals=DECIMALS)
    allowed = undominated(shares)
    return UncertainPlan(
        values, allowed, approval(shares, weights, tolerance),
        preferred(shares if rescale else shares * unit, allowed, weights, choice, tolerance),
        abstains(shares, weights, agreement, tolerance) & live,
    )  # fmt: skip


def _check(mdp: TabularMDP, rewards: Tensor, weights: Tensor, agreement: float, tolerance: float) -> None:
    """Raise ValueError for arguments of :func:`plan_under_uncertainty` that do not fit."""
    expected = (mdp.num_states, mdp.num_actions)
    if mdp.num_mdps != 1:
        raise ValueError(f"mdp holds {mdp.num_mdps} MDPs; this planner takes one: mdp.select(...)")
    if rewards.ndim != 3 or tuple(rewards.shape[1:]) != expected or not len(rewards):
        raise ValueError(f"rewards has shape {list(rewards.shape)}; it must be [M, S, A] = "
                         f"[M, {expected[0]}, {expected[1]}]")  # fmt: skip
    if tuple(weights.shape) != (len(rewards),):
        raise ValueError(f"weights has shape {list(weights.shape)}; it must be [M] = [{len(rewards)}]")
    if not bool((weights > 0.0).all()) or abs(float(weights.sum()) - 1.0) > 1e-6:
        raise ValueError(f"weights is {weights.tolist()}; they must be above 0 and sum to 1")
    for name, value in (("agreement", agreement), ("tolerance", tolerance)):
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"{name} is {value}; it must lie in [0, 1]")


@dataclass(frozen=True)
class OrderDistribution:
    """A distribution over total orders."""

    orders: list[tuple[int, ...]]
    """Options, the best first."""
    probabilities: NDArray[np.float64]
    """[number of orders], above 0."""
    satisfaction: float
    """The least probability with which one of the wishes is met."""


def least_uncertain_orders(wishes: Sequence[tuple[int, int]], num_options: int) -> OrderDistribution:
    """Return the distribution over orders whose worst met wish is met most often.

    A linear program over all orders, of which only those are made that may help: given what each wish is
    worth in the program so far (its dual solution), the order that meets most is found exactly over all
    subsets of options, and joins the program until none meets more than is met already.

    Args:
        wishes: pairs (better, worse) of options.
        num_options: K.

    Raises:
        ValueError: if there is no wish, an option is none of the K or to be before itself, or K is above 16.
    """
    pairs = _checked_wishes(wishes, num_options)
    orders = [_best_order(np.ones(len(pairs)), pairs, num_options)]
    while True:
        met = np.stack([_met(order, pairs) for order in orders], 1)
        probabilities, worth, level = _solve(met)
        order = _best_order(worth, pairs, num_options)
        # The same order again: the program is solved as well as it can be in floating point.
        if order in orders or worth @ _met(order, pairs) <= level + MARGIN:
            used = probabilities > MARGIN
            kept = [order for order, taken in zip(orders, used, strict=True) if taken]
            return OrderDistribution(kept, probabilities[used] / probabilities[used].sum(), level)
        orders.append(order)


def _checked_wishes(wishes: Sequence[tuple[int, int]], num_options: int) -> NDArray[np.int64]:
    if not 2 <= num_options <= MAX_OPTIONS:
        raise ValueError(f"num_options is {num_options}; it must lie in 2 to {MAX_OPTIONS}")
    if not len(wishes):
        raise ValueError("wishes is empty; give at least one pair (better, worse)")
    for place, (better, worse) in enumerate(wishes):
        if not (0 <= better < num_options and 0 <= worse < num_options) or better == worse:
            raise ValueError(f"wishes[{place}] is ({better}, {worse}); it must be two different options of "
                             f"0 to {num_options - 1}")  # fmt: skip
    return np.array(wishes, dtype=np.int64)


def _met(order: tuple[int, ...], pairs: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return which wishes [D] an order meets, as 0 and 1."""
    place = np.argsort(order)
    return (place[pairs[:, 0]] < place[pairs[:, 1]]).astype(np.float64)


def _solve(met: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Return probabilities [N] of orders that meet wishes [D, N], worth [D] of wishes, and the least met."""
    wishes, count = met.shape
    found = linprog(
        np.append(np.zeros(count), -1.0),
        A_ub=np.hstack([-met, np.ones((wishes, 1))]), b_ub=np.zeros(wishes),
        A_eq=np.append(np.ones(count), 0.0)[None], b_eq=[1.0], bounds=[(0, None)] * count + [(None, None)],
    )  # fmt: skip
    return found.x[:-1], -found.ineqlin.marginals, float(found.x[-1])


def _best_order(worth: NDArray[np.float64], pairs: NDArray[np.int64], k: int) -> tuple[int, ...]:
    """Return the order that meets wishes of most worth: by the best order of each subset's last options.

    best(S) = max over i in S, first of S, of worth of the wishes (i, j), j in S, + best(S without i).
    """
    gain = np.zeros((k, k))
    np.add.at(gain, (pairs[:, 0], pairs[:, 1]), worth)
    subsets = np.arange(1 << k)
    inside = (subsets[:, None] >> np.arange(k)) & 1
    first = inside @ gain.T  # [2^K, K] worth of the wishes that i is before what else is in the subset
    best, choice = np.zeros(1 << k), np.zeros(1 << k, dtype=np.int64)
    sizes = inside.sum(1)
    for size in range(1, k + 1):
        rows = subsets[sizes == size]
        rest = np.where(inside[rows] == 1, rows[:, None] ^ (1 << np.arange(k)), 0)
        total = np.where(inside[rows] == 1, first[rows] + best[rest], -np.inf)
        choice[rows], best[rows] = total.argmax(1), total.max(1)
    order, left = [], (1 << k) - 1
    while left:
        order.append(int(choice[left]))
        left ^= 1 << order[-1]
    return tuple(order)
