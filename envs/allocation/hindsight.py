"""What could have been had with all requests known: exact optima, and the dual bound with its prices.

With budgets B the Lagrangian dual of an allocation problem is

    D(mu) = B . mu + sum_t f*_t(mu),        f*_t(mu) = max_x f_t(x) - mu . b_t(x),        mu >= 0

and every D(mu) is an upper bound on what any policy can collect. Its minimum is the optimum itself where
requests may be served in part, and where the sub-problems are convex.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import highspy
import numpy as np
from numpy.typing import NDArray

from .problems import AllocationProblem, SecondPriceBid, SingleChoice

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Optimum:
    """An optimum and the prices that go with it."""

    value: float
    """Its value."""
    mu: Floats
    """[m] prices of the resources."""


def _solver() -> Any:
    # The public class prints a banner before it can be told not to; it adds callbacks, which are not needed.
    highs = getattr(highspy, "_Highs", highspy.Highs)()
    highs.setOptionValue("output_flag", False)
    highs.setOptionValue("threads", 1)
    return highs


def _run(highs: Any) -> None:
    highs.run()
    status = highs.getModelStatus()
    if status != highspy.HighsModelStatus.kOptimal:
        raise RuntimeError(f"HiGHS ended with {highs.modelStatusToString(status)}, not with an optimum")


def linear_program(rewards: Floats, consumption: Floats, budget: Floats) -> Optimum:
    """Return the best fractional allocation of single choices, by HiGHS.

    maximise sum_tj f_tj x_tj  with  sum_tj b_tij x_tj <= B_i,  sum_j x_tj <= 1,  x >= 0.

    Args:
        rewards: f [T, d].
        consumption: b [T, m, d].
        budget: B [m].

    Raises:
        RuntimeError: if HiGHS finds no optimum.
    """
    steps, d = rewards.shape
    m = len(budget)
    limited = d > 1  # one product needs no row of its own per request: the bound of its variable does it
    request = np.repeat(np.arange(steps), d)
    entries = [consumption.transpose(0, 2, 1).reshape(steps * d, m)]  # a row per variable
    if limited:
        entries.append(np.ones((steps * d, 1)))
    values = np.concatenate(entries, axis=1)
    rows = np.broadcast_to(np.arange(m), (steps * d, m))
    if limited:
        rows = np.concatenate([rows, m + request[:, None]], axis=1)
    used = values != 0.0
    lp = highspy.HighsLp()
    lp.num_col_, lp.num_row_ = steps * d, m + steps * limited
    lp.sense_ = highspy.ObjSense.kMaximize
    lp.col_cost_ = rewards.ravel()
    lp.col_lower_, lp.col_upper_ = np.zeros(steps * d), np.ones(steps * d)
    lp.row_lower_ = np.full(lp.num_row_, -highspy.kHighsInf)
    lp.row_upper_ = np.concatenate([budget, np.ones(steps * limited)])
    lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    lp.a_matrix_.start_ = np.concatenate([[0], used.sum(1).cumsum()])
    lp.a_matrix_.index_, lp.a_matrix_.value_ = rows[used], values[used]
    highs = _solver()
    highs.passModel(lp)
    _run(highs)
    duals = np.array(highs.getSolution().row_dual[:m])
    return Optimum(float(highs.getInfo().objective_function_value), np.maximum(duals, 0.0))


def fractional_knapsack(rewards: Floats, weights: Floats, budget: float) -> Floats:
    """Return the value [n] of the best fractional choice, for n knapsacks of T things each.

    The things are taken in the order of reward per weight (Dantzig 1957).

    Args:
        rewards: what things pay [T, n]; those that pay nothing are left.
        weights: what they weigh [T, n], not negative.
        budget: what may be taken along.
    """
    taken = rewards > 0.0
    ratio = np.where(taken, rewards, -1.0) / np.maximum(weights, 1e-300)
    order = np.argsort(-ratio, axis=0)
    rewards = np.take_along_axis(rewards * taken, order, 0)
    weights = np.take_along_axis(weights * taken, order, 0)
    before = weights.cumsum(0) - weights
    left = np.maximum(budget - before, 0.0)
    part = np.minimum(1.0, left / np.maximum(weights, 1e-300))
    return np.asarray((rewards * part).sum(0))


def dual_minimum(
    problem: AllocationProblem,
    requests: Floats,
    budget: Floats,
    *,
    tolerance: float = 1e-6,
    max_cuts: int = 1000,
) -> Optimum:
    """Return the minimum of the dual function D over mu >= 0, and the prices where it is attained.

    Single choices are a linear program, whose dual this is. For others: cutting planes (Kelley 1960), every
    other one at the point half-way to the best one so far, which keeps them from jumping about.

    Args:
        problem: what the requests ask.
        requests: [T, columns].
        budget: B [m].
        tolerance: how far the value may lie above the minimum, relative to it.
        max_cuts: how many cutting planes to try.

    Raises:
        RuntimeError: if the tolerance is not reached.
    """
    if isinstance(problem, SingleChoice):
        return linear_program(
            requests[:, : problem.d], requests[:, problem.d :].reshape(-1, problem.m, problem.d), budget
        )
    # At the minimum B . mu <= D(mu) <= D(0) <= T f-bar.
    highest = len(requests) * problem.reward_bound / budget
    m = len(budget)
    highs = _solver()
    highs.addVars(m + 1, np.zeros(m + 1), np.append(highest, highspy.kHighsInf))
    highs.changeColCost(m, 1.0)
    columns = np.arange(m + 1, dtype=np.int32)
    best, best_mu, lowest = np.inf, np.zeros(m), 0.0
    mu = best_mu
    for cut in range(max_cuts):
        terms, slopes = problem.bound_terms(requests, np.broadcast_to(mu, (len(requests), m)))
        value, gradient = float(budget @ mu + terms.sum()), budget + slopes.sum(0)
        if value < best:
            best, best_mu = value, mu
        # D >= value + gradient . (mu' - mu)
        highs.addRow(value - gradient @ mu, highspy.kHighsInf, m + 1, columns, np.append(-gradient, 1.0))
        _run(highs)
        solution = np.array(highs.getSolution().col_value)
        lowest = solution[m]
        if best - lowest <= tolerance * abs(best):
            return Optimum(best, best_mu)
        mu = solution[:m] if cut % 2 else (solution[:m] + best_mu) / 2.0
    raise RuntimeError(f"after {max_cuts} cutting planes the minimum of the dual lies between {lowest} and "
                       f"{best}; ask for less than the tolerance {tolerance}")  # fmt: skip


def hindsight_values(problem: AllocationProblem, requests: Floats, budget: Floats) -> Floats:
    """Return the hindsight optimum [n] of n streams of requests [T, n, columns], with budgets [m].

    Raises:
        RuntimeError: if an optimisation does not succeed.
    """
    if isinstance(problem, SecondPriceBid):
        value, rival = requests[..., 0], requests[..., 1]
        return fractional_knapsack(value - rival, rival, float(budget[0]))
    if isinstance(problem, SingleChoice) and problem.m == problem.d == 1:
        return fractional_knapsack(requests[..., 0], requests[..., 1], float(budget[0]))
    streams = range(requests.shape[1])
    return np.array([dual_minimum(problem, requests[:, row], budget).value for row in streams])
