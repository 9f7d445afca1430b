"""Exact, batched solvers for finite MDPs."""

from prefrl.tabular.stock_grid_solver import StockGridSolver

from .blind_policies import open_loop_distributions, return_to_go_policy
from .equilibria import nash_equilibrium
from .mdp import TabularMDP
from .preference_optima import mirror_descent_step, population_minimiser
from .return_distributions import BackwardInduction, Solution, StockPolicy, policy_value, solve
from .shaping import RewardLoop, potential_rewards, reward_loops
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
from .stock_grid import StockGrid
from .stock_lattice import FiniteHorizon, StockLattice, TooManyTotalsError
from .successor import PolicySet, build_policy_set, successor_features
from .tree_search import DeterministicModel, SearchTrees, SteppedTrees, step_search, tree_search
from .uncertain_objectives import (
    OrderDistribution,
    UncertainPlan,
    least_uncertain_orders,
    plan_under_uncertainty,
)

__all__ = [
    "BackwardInduction",
    "DeterministicModel",
    "FiniteHorizon",
    "OrderDistribution",
    "PolicySet",
    "RewardLoop",
    "SearchTrees",
    "Solution",
    "SteppedTrees",
    "StockGrid",
    "StockGridSolver",
    "StockLattice",
    "StockPolicy",
    "TabularMDP",
    "TooManyTotalsError",
    "UncertainPlan",
    "action_values",
    "build_policy_set",
    "greedy_policy",
    "least_uncertain_orders",
    "mean_start_value",
    "mirror_descent_step",
    "nash_equilibrium",
    "open_loop_distributions",
    "optimal_policy",
    "plan_under_uncertainty",
    "policy_evaluation",
    "policy_iteration",
    "policy_value",
    "population_minimiser",
    "potential_rewards",
    "return_to_go_policy",
    "reward_loops",
    "scaled_return",
    "solve",
    "step_search",
    "successor_features",
    "tree_search",
    "value_iteration",
]
