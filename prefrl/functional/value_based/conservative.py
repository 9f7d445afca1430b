"""The conservative Bellman operator of a frozen policy q, its inverse, and Q-values that start as a policy.

B-Coder (arXiv 2310.03173) evaluates no better action than q would take next:

    (B^q Q)(s, a) = r(s, a) + gamma E Q(s', argmax_a' q(a' | s')).

It is a contraction by gamma, and given Q its inverse (T^q Q)(s, a) = Q(s, a) - gamma E Q(s', argmax q) is the
one reward whose fixed point Q is. Tables are [S, A] and [S, A, S]; batches have any leading axes.
"""

from __future__ import annotations

import torch
from torch import Tensor


def greedy_values(q: Tensor, policy: Tensor) -> Tensor:
    """Return Q(s, argmax_a policy(a | s)) [...]; of equally likely actions the first counts.

    Args:
        q: [..., A].
        policy: [..., A] of the frozen policy: probabilities, logits, or whatever rises with them.
    """
    return q.gather(-1, policy.argmax(-1, keepdim=True)).squeeze(-1)


def conservative_backup(
    q: Tensor, rewards: Tensor, transitions: Tensor, policy: Tensor, gamma: float
) -> Tensor:
    """Return B^q Q [S, A].

    Args:
        q: [S, A].
        rewards: [S, A].
        transitions: [S, A, S] probabilities of next states; rows of zeros where it ends.
        policy: [S, A], as in :func:`greedy_values`.
        gamma: discount per step.
    """
    return rewards + gamma * transitions @ greedy_values(q, policy)


def recovered_reward_table(q: Tensor, transitions: Tensor, policy: Tensor, gamma: float) -> Tensor:
    """Return T^q Q [S, A], the reward for which B^q leaves Q as it is; arguments as above."""
    return q - gamma * transitions @ greedy_values(q, policy)


def conservative_targets(
    rewards: Tensor, discounts: Tensor, next_q: Tensor, next_policy: Tensor, max_value: float | None = None
) -> Tensor:
    """Return r + gamma Q(s', argmax q) [N] of sampled steps.

    Args:
        rewards: [N].
        discounts: [N] gamma, 0 where the successor is terminal.
        next_q: [N, A].
        next_policy: [N, A], as in :func:`greedy_values`.
        max_value: what Q(s', .) is cut to: no return is larger (None: not cut).
    """
    return rewards + discounts * cut_values(greedy_values(next_q, next_policy), max_value)


def optimal_targets(
    rewards: Tensor, discounts: Tensor, next_q: Tensor, max_value: float | None = None
) -> Tensor:
    """Return r + gamma max_a Q(s', a) [N], Q-learning's; arguments as in :func:`conservative_targets`."""
    return rewards + discounts * cut_values(next_q.amax(-1), max_value)


def cut_values(values: Tensor, max_value: float | None) -> Tensor:
    """Return values [...] cut to the largest that there can be (None: as they are)."""
    return values if max_value is None else values.clamp(max=max_value)


def recovered_rewards(q: Tensor, discounts: Tensor, next_q: Tensor, next_policy: Tensor) -> Tensor:
    """Return Q(s, a) - gamma Q(s', argmax q) [N] of sampled steps.

    Args:
        q: [N] of the actions taken.
        discounts: [N] gamma, 0 where the successor is terminal.
        next_q: [N, A].
        next_policy: [N, A], as in :func:`greedy_values`.
    """
    return q - discounts * greedy_values(next_q, next_policy)


def advantages(logits: Tensor, alpha: float) -> Tensor:
    """Return A = alpha (l - max_a l) [..., A]: never above 0, and 0 for the likeliest action."""
    return alpha * (logits - logits.amax(-1, keepdim=True))


def dueling_q(logits: Tensor, values: Tensor, alpha: float) -> Tensor:
    """Return Q = alpha (l - max_a l) + V [..., A], so that softmax(Q / alpha) is the policy of the logits.

    Args:
        logits: [..., A] of a policy, for example one that was trained before.
        values: [...] V, which is max_a Q.
        alpha: units of return per nat, above 0.
    """
    return advantages(logits, alpha) + values[..., None]


def masked_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Return the mean of values [N] with weights [N] (0 or 1); 0 where none counts."""
    return torch.sum(values * weights) / weights.sum().clamp(min=1.0)
