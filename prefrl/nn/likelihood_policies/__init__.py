"""Policies pi(a | s) with a likelihood, for S learners side by side.

Offline learning and learning from comparisons ask a policy how likely given actions are. Rows are [S, N]: S
learners, N observations of each, and every parameter has the axis of learners first:

================  ===================================================================================
TabularPolicy     a softmax of one number for each state and action
DiscretePolicy    a softmax of a network's outputs
GaussianPolicy    normal numbers around a network's output, with spreads that no observation changes,
                  or squashed into the Box by tanh, with spreads that the network gives
================  ===================================================================================

Observations and actions are the environment's own; densities are in its units.
"""

from .actions import Actions
from .base import LikelihoodPolicy, joined_policies, segment_log_probs
from .choices import DiscretePolicy, TabularPolicy, policy_table
from .gaussian import GaussianPolicy
from .making import GaussianKind, PolicyKind, likelihood_policy, table_or_network

__all__ = [
    "Actions",
    "DiscretePolicy",
    "GaussianKind",
    "GaussianPolicy",
    "LikelihoodPolicy",
    "PolicyKind",
    "TabularPolicy",
    "joined_policies",
    "likelihood_policy",
    "policy_table",
    "segment_log_probs",
    "table_or_network",
]
