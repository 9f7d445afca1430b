"""Planning under several reward functions of which nobody knows the right one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
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
    mdp: TabularMDP, rewards: Tensor, weights: Tensor, gamma: float, *,
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
    _check(mdp, rewards, weights, agreement, tolerance)
    weights = weights.to(rewards)
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
