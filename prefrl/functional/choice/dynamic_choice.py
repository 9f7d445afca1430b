"""Dynamic discrete choice: rewards of people who look ahead, by what they chose, and a careful plan for them.

In step h = 1..H of an episode people choose

    pi_h(a | s) = exp Q_h(s, a) / sum_b exp Q_h(s, b),        Q_h = r_h + gamma P V_{h+1},   V_{H+1} = 0,

gamma in [0, 1] being how far they look ahead. Three steps lead from their choices to a policy (DCPPO, Li,
Yang and Wang, "Reinforcement learning with human feedback: learning dynamic choices via pessimism", arXiv
2305.18438): Q by maximum likelihood, r as what is left of it by the Bellman equation, and value iteration
with r, less what is uncertain. All functions take any leading axes: several data sets are one batch.

Steps h stand on an axis H, so that S states, A actions and d features make tables [..., H, S, A] and features
[S, A, d]; data are counts.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from prefrl.functional.preferences.logistic import damped_newton

ValueKind = Literal["policy", "logsumexp"]
"""What a state is worth to people: sum_a pi(a | s) Q(s, a), as in DCPPO; or log sum_a exp Q(s, a), what they
expect before they know their tastes of the day (Rust 1987)."""


class Plan(NamedTuple):
    """What pessimistic value iteration found."""

    q: Tensor
    """[..., H, S, A] pessimistic values."""
    penalty: Tensor
    """[..., H, S, A] what was taken off for uncertainty."""

    @property
    def actions(self) -> Tensor:
        """[..., H, S] the greedy policy; the first of equals."""
        return self.q.argmax(-1)


def indicator_features(num_states: int, num_actions: int) -> Tensor:
    """Return a feature [S, A, S A] for each state and action: tables."""
    size = num_states * num_actions
    return torch.eye(size, dtype=torch.float64).view(num_states, num_actions, size)


def state_values(q: Tensor, kind: ValueKind) -> Tensor:
    """Return V [..., S] of Q [..., S, A]; ValueError for an unknown kind."""
    if kind == "logsumexp":
        return torch.logsumexp(q, -1)
    if kind != "policy":
        raise ValueError(f"value is {kind!r}; it must be 'policy' or 'logsumexp'")
    return (torch.softmax(q, -1) * q).sum(-1)


def anchored(q: Tensor, anchor: int | None) -> Tensor:
    """Return Q [..., S, A] moved in each state such that the anchor's is 0, or (None) their mean is.

    Choices tell Q up to a constant in each state. Which it is moves the reward by r(s) of states and, through
    what follows, others: it has to be known of one action, or the reward is not.
    """
    known = q.mean(-1, keepdim=True) if anchor is None else q[..., anchor : anchor + 1]
    return q - known


def choice_values(counts: Tensor, features: Tensor, anchor: int | None, ridge: float) -> Tensor:
    """Return Q [..., S, A] by maximum likelihood of choices, Q = theta . features up to states' constants.

    Step 1: minimises -sum counts log softmax(Q) + ridge / 2 |theta|^2, which is convex, by Newton's method.

    Args:
        counts: [..., S, A] how often each action was chosen in each state; 0 where nobody was.
        features: [S, A, d].
        anchor: see :func:`anchored`.
        ridge: a normal prior of variance 1 / ridge; above 0 where some action was never chosen.
    """
    size = features.shape[-1]
    flat = counts.reshape(-1, *counts.shape[-2:])
    centred = features - (features.mean(1, keepdim=True) if anchor is None else features[:, anchor, None])
    visits = flat.sum(-1)
    # A prior holds what no choice tells anything about; in the unit of one choice it may be as good as none.
    total = visits.sum(-1).clamp(min=1.0)
    weight = (max(ridge, 1e-12) / total)[:, None]
    identity = torch.eye(size, dtype=counts.dtype, device=counts.device)

    def q_of(theta: Tensor) -> Tensor:
        return torch.einsum("sak,nk->nsa", centred, theta)

    def loss_at(theta: Tensor) -> Tensor:
        fit = (flat * torch.log_softmax(q_of(theta), -1)).sum((-1, -2)) / total
        return 0.5 * weight[:, 0] * theta.square().sum(-1) - fit

    def newton_at(theta: Tensor) -> tuple[Tensor, Tensor]:
        p = torch.softmax(q_of(theta), -1)
        gap = (visits[..., None] * p - flat) / total[:, None, None]
        share = visits / total[:, None]
        mean = torch.einsum("nsa,sak->nsk", p, centred)
        spread = torch.einsum("ns,nsa,sak,sal->nkl", share, p, centred, centred)
        curvature = spread - torch.einsum("ns,nsk,nsl->nkl", share, mean, mean)
        gradient = torch.einsum("nsa,sak->nk", gap, centred) + weight * theta
        return gradient, curvature + weight[..., None] * identity

    theta = damped_newton(flat.new_zeros(len(flat), size), loss_at, newton_at)
    return anchored(q_of(theta), anchor).view_as(counts)


def ridge_regression(counts: Tensor, sums: Tensor, features: Tensor, ridge: float) -> Tensor:
    """Return the fit [..., S, A] of targets by features: (Lambda + ridge I)^-1 sum phi y, times phi.

    Args:
        counts: [..., S, A] how often each pair was seen; Lambda = sum counts phi phi'.
        sums: [..., S, A] the sum of the targets that were seen at each pair.
        features: [S, A, d].
        ridge: above 0.
    """
    right = torch.einsum("...sa,sak->...k", sums, features)
    weights = torch.linalg.solve(_gram(counts, features, ridge), right[..., None])[..., 0]
    return torch.einsum("sak,...k->...sa", features, weights)


def uncertainty(counts: Tensor, features: Tensor, ridge: float) -> Tensor:
    """Return sqrt(phi' (Lambda + ridge I)^-1 phi) [..., S, A]; 1 / sqrt(counts + ridge) for tables."""
    inverse = torch.linalg.inv(_gram(counts, features, ridge))
    return torch.einsum("sak,...kl,sal->...sa", features, inverse, features).clamp(min=0.0).sqrt()


def _gram(counts: Tensor, features: Tensor, ridge: float) -> Tensor:
    identity = torch.eye(features.shape[-1], dtype=features.dtype, device=features.device)
    return torch.einsum("...sa,sak,sal->...kl", counts, features, features) + ridge * identity


def bellman_rewards(
    q: Tensor, moves: Tensor, features: Tensor, gamma: float, value: ValueKind, ridge: float
) -> Tensor:
    """Return r [..., H, S, A] that explains Q best: ridge regression of Q_h(s, a) - gamma V_{h+1}(s').

    Step 2, for all h at once, since Q and so V are known already.

    Args:
        q: [..., H, S, A] of step 1.
        moves: [..., H, S, A, S] how often each state followed each pair in step h; the last axis of step H
            counts what followed the last choice, which is worth nothing.
        features: [S, A, d].
        gamma: how far people look ahead.
        value: what states are worth to them.
        ridge: above 0.
    """
    counts = moves.sum(-1)
    following = gamma * torch.einsum("...sat,...t->...sa", moves, _following(state_values(q, value)))
    return ridge_regression(counts, counts * q - following, features, ridge)


def _following(values: Tensor) -> Tensor:
    """Return V_{h+1} [..., H, S] of V_h; 0 after the last step."""
    return torch.cat([values[..., 1:, :], torch.zeros_like(values[..., :1, :])], -2)


def exact_rewards(q: Tensor, transitions: Tensor, gamma: float, value: ValueKind) -> Tensor:
    """Return r = Q_h - gamma P V_{h+1} [..., H, S, A] of transitions [S, A, S] that are known."""
    following = _following(state_values(q, value))
    return q - gamma * torch.einsum("sat,...t->...sa", transitions, following)


def pessimistic_plan(
    rewards: Tensor, moves: Tensor, features: Tensor, *, pessimism: float, ridge: float,
    reward_range: tuple[float, float] | None = None,
) -> Plan:  # fmt: skip
    """Plan for the undiscounted sum of rewards, less what is uncertain (step 3; PEVI, arXiv 2012.15085).

    Q_h = r_h + phi . u_h - Gamma_h,  Gamma_h = pessimism sqrt(phi' (Lambda_h + ridge I)^-1 phi),  u_h the
    ridge regression of max_a Q_{h+1}(s', a).

    Args:
        rewards: [..., H, S, A].
        moves: [..., H, S, A, S].
        features: [S, A, d].
        pessimism: 0 for none. The theorem's, of the order of H e^H |A| d, is useless: find yours by a sweep.
        ridge: above 0.
        reward_range: least and largest reward; values are kept within what is left of them. None: they are
            not.
    """
    horizon = rewards.shape[-3]
    counts = moves.sum(-1)
    penalty = pessimism * uncertainty(counts, features, ridge)
    next_values, q = torch.zeros_like(rewards[..., 0, :, 0]), []
    for h in reversed(range(horizon)):
        sums = torch.einsum("...sat,...t->...sa", moves[..., h, :, :, :], next_values)
        following = ridge_regression(counts[..., h, :, :], sums, features, ridge)
        values = rewards[..., h, :, :] + following - penalty[..., h, :, :]
        if reward_range is not None:
            values = values.clamp(*((horizon - h) * bound for bound in reward_range))
        q.append(values)
        next_values = values.amax(-1)
    return Plan(torch.stack(q[::-1], -3), penalty)


def policy_values(policy: Tensor, rewards: Tensor, transitions: Tensor) -> Tensor:
    """Return the undiscounted V_1 [..., S] of policies [..., H, S, A] with known transitions [S, A, S]."""
    values = torch.zeros_like(policy[..., 0, :, 0])
    for h in reversed(range(policy.shape[-3])):
        q = rewards[..., h, :, :] + torch.einsum("sat,...t->...sa", transitions, values)
        values = (policy[..., h, :, :] * q).sum(-1)
    return values


def optimal_plan(rewards: Tensor, transitions: Tensor) -> Tensor:
    """Return the undiscounted Q* [..., H, S, A] of rewards [..., H, S, A] and transitions [S, A, S]."""
    next_values, q = torch.zeros_like(rewards[..., 0, :, 0]), []
    for h in reversed(range(rewards.shape[-3])):
        q.append(rewards[..., h, :, :] + torch.einsum("sat,...t->...sa", transitions, next_values))
        next_values = q[-1].amax(-1)
    return torch.stack(q[::-1], -3)
