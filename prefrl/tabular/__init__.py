"""Exact, batched solvers for finite MDPs."""

from .mdp import TabularMDP
from .solvers import (
    action_values,
    greedy_policy,
    mean_start_value,
    optimal_policy,
    policy_evaluation,
    policy_iteration,
    scaled_return,
    value_iteration,
)
from .successor import PolicySet, build_policy_set, successor_features

__all__ = [
    "PolicySet",
    "TabularMDP",
    "action_values",
    "build_policy_set",
    "greedy_policy",
    "mean_start_value",
    "optimal_policy",
    "policy_evaluation",
    "policy_iteration",
    "scaled_return",
    "successor_features",
    "value_iteration",
]
