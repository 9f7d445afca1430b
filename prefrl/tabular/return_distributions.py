"""Distributional dynamic programming with stock augmentation, exact, for finite horizons.

With the stock c in the state the pair (c, distribution of G) says all of the distribution of c_0 + G (Avila
Pires et al. 2025, arXiv 2501.13028). Backward induction takes, at each time, the greedy action of

    K(distribution of gamma (C' + G(S', C'))),        C' = (c + R') / gamma,

and a distribution is a vector of probabilities over the totals that the horizon can end in: the totals are
listed (:class:`prefrl.tabular.stock_lattice.StockLattice`), so nothing is projected, and a backup is a
weighted sum of rows. Of an expected utility only expectations need be carried, which are as linear in the
distribution as it is itself: the same backup, with fewer columns. Everything runs in float64 on the MDPs'
device, over all MDPs, states, totals and actions at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from prefrl.functional.returns.objectives import (
    MEAN,
    ExpectedUtility,
    Lexicographic,
    LinearForm,
    Objective,
    check_optimisable,
)
from prefrl.functional.returns.ordering import TOLERANCE, best_actions
from prefrl.functional.returns.stock_problems import StockProblem

from .stock_lattice import MAX_POINTS, FiniteHorizon, StockLattice

MAX_DISTANCES = 2**22
"""Distances between stocks and totals made at once."""

MAX_BACKUP_ELEMENTS = 2**20
"""Numbers in the table of actions' distributions made at once (8 MiB, for caches); more come in pieces."""


def mean_objective(problem: FiniteHorizon) -> Objective:
    """Return the mean, of vector rewards that of their sum weighted as the model weights them."""
    if problem.dim == 0:
        return MEAN
    weights = problem.mdp.weights[0].tolist()
    return LinearForm(tuple(weights if len(weights) == problem.dim else [1.0] * problem.dim))


@dataclass(frozen=True)
class StockPolicy:
    """A deterministic policy of time, state and stock, and what its keys are at the start.

    For a policy that does not look at the stock the last axis of its actions has length 1.
    """

    lattice: StockLattice
    problem: FiniteHorizon

    actions: list[Tensor]
    """For t = 0 .. H - 1, int64 [M, S, C_t] or [M, S, 1]; 0 in terminal states."""

    keys: Tensor | None = None
    """[M, S, C_0, J] K of the distribution of c_0 + G, where backward induction found it."""

    def act(self, time: int, states: Tensor, stocks: Tensor) -> Tensor:
        """Return actions [n] of the first MDP in states [n] with stocks [n] or [n, k] at a time.

        Stocks that are none of the totals (rounded, or never reached in that state) take the nearest one's.
        """
        points, reached = self.lattice.points[time], self.lattice.reached[time][0]
        totals = stocks.to(points) * self.problem.gamma**time
        return nearest_action(self.actions[time][0], points, reached, states, totals)

    def distribution(self, initial: Tensor | None = None) -> Tensor:
        """Return the probabilities [M, N, Z] of the totals c_0 + G at the end.

        The start is the MDPs' own, with each of some initial stocks.

        Args:
            initial: [N] places in the lattice's ``points[0]``, or [M, N] for stocks that differ between the
                MDPs; None: those that the lattice was built for.
        """
        problem, lattice = self.problem, self.lattice
        mdp, (m, s, _, k) = problem.mdp, problem.mdp.successors.shape
        places = lattice.initial if initial is None else initial
        places = places.expand(m, places.shape[-1])
        n = places.shape[1]
        mass = torch.zeros(m, n, s, lattice.points[0].shape[0], dtype=torch.float64, device=mdp.device)
        column = places[:, :, None, None].expand(m, n, s, 1)
        mass.scatter_(3, column, mdp.start[:, None, :, None].expand(m, n, s, 1))
        states = torch.arange(s, device=mdp.device)[None, :, None]
        row = torch.arange(m, device=mdp.device)[:, None, None]
        for t in range(problem.horizon):
            move, size = lattice.moves[t], lattice.points[t + 1].shape[0]
            action = self.actions[t].expand(m, s, move.shape[0])
            here = torch.arange(move.shape[0], device=mdp.device)[None, None]
            after = mass.new_zeros(m, n, s * size)
            for j in range(k):
                target = mdp.successors[row, states, action, j]
                weight = mdp.probabilities[row, states, action, j]
                paid = lattice.place_of[row, states, action, j]
                ended = mdp.terminal[:, :, None]
                target = torch.where(ended, states, target)
                weight = torch.where(ended, float(j == 0), weight)
                paid = torch.where(ended, lattice.still[0], paid)
                index = (target * size + move[here, paid]).flatten(1)[:, None].expand(m, n, -1)
                after.scatter_add_(2, index, (mass * weight[:, None]).flatten(2))
            mass = after.view(m, n, s, size)
        last = lattice.moves[-1][:, lattice.final_place_of].permute(1, 2, 0)  # [M, S, C_H]
        index = last.flatten(1)[:, None].expand(m, n, -1)
        size = lattice.outcomes.shape[0]
        return mass.new_zeros(m, n, size).scatter_add_(2, index, mass.flatten(2))

    def value(self, objective: Objective, initial: Tensor | None = None) -> Tensor:
        """Return the keys [M, N, J] of an objective of c_0 + G; see :meth:`distribution`."""
        return objective.keys(self.lattice.outcomes, self.distribution(initial))


def nearest_action(
    actions: Tensor, points: Tensor, reached: Tensor, states: Tensor, totals: Tensor
) -> Tensor:
    """Return what a table of actions [S, C] or [S, 1] says in states [n] of the points nearest to totals.

    Args:
        actions: by state and total.
        points: [C] totals, or [C, k] vectors.
        reached: [S, C] bool, the pairs that are reached; only these are looked at.
        states: [n].
        totals: [n] or [n, k].
    """
    if actions.shape[-1] == 1:
        return actions[states, 0]
    rows = max(1, MAX_DISTANCES // points.numel())
    found = []
    line = points.view(len(points), -1)
    for state, total in zip(torch.split(states, rows), torch.split(totals, rows), strict=True):
        distance = torch.cdist(total.view(len(total), -1), line)
        found.append(torch.where(reached[state], distance, torch.inf).argmin(-1))
    return actions[states, torch.cat(found)]


class BackwardInduction:
    """Stages of distributional dynamic programming, from the horizon to the start.

    Args:
        problem: the MDPs.
        objective: K.
        initial_stocks: [C_0] or [C_0, k] stocks to start from.
        time_indexed: apply K to gamma^t (c + G), which it is in the end; then it need not be indifferent to
            gamma.
        tie_break: an objective that decides where K is indifferent; None: the first action does.
        unsound: go on with objectives that this does not optimise.
        max_points: see :class:`StockLattice`.

    Raises:
        UnsoundObjectiveError: if K lacks a property, and ``unsound`` is False.
        ValueError: if K is one of vectors and the rewards are not, or the other way round.
        TooManyTotalsError: see :class:`StockLattice`.

    Attributes:
        time: the time whose policy was found last, H at first.
        rows: [M, S, C_time, J or Z] keys or distributions of what is to come.
    """

    def __init__(
        self,
        problem: FiniteHorizon,
        objective: Objective,
        initial_stocks: Tensor,
        *,
        time_indexed: bool = False,
        tie_break: Objective | None = None,
        unsound: bool = False,
        max_points: int = MAX_POINTS,
    ) -> None:
        if objective.dim != problem.dim:
            raise ValueError(f"{objective} takes rewards of {objective.dim} components, these have "
                             f"{problem.dim} (0: numbers)")  # fmt: skip
        if not unsound:
            check_optimisable(objective, problem.gamma, time_indexed=time_indexed)
        self.problem, self.time_indexed = problem, time_indexed
        self.objective = objective if tie_break is None else Lexicographic(objective, tie_break)
        self.lattice = StockLattice(problem, initial_stocks, max_points=max_points)
        # K of gamma^-t times the total, where gamma matters, is no expectation that can be carried on.
        same = time_indexed or self.objective.indifferent_to_gamma(problem.gamma)
        self._carries_keys = same and _are_expectations(self.objective)
        mdp, outcomes = problem.mdp, self.lattice.outcomes
        final = outcomes[:, None] if problem.dim == 0 else outcomes[:, None, :]
        end = (
            self.objective.keys(final)  # of distributions of one atom
            if self._carries_keys
            else torch.eye(outcomes.shape[0], dtype=torch.float64, device=mdp.device)
        )
        if not bool(torch.isfinite(end).all()):
            largest = float(outcomes.abs().max())
            raise ValueError(f"{objective} is not finite for totals as large as {largest:g}; scale the "
                             "rewards, or choose a flatter objective")  # fmt: skip
        self.rows = end[self.lattice.moves[-1][:, self.lattice.final_place_of].permute(1, 2, 0)]
        self.time = problem.horizon
        self.actions: list[Tensor] = []
        live = ~mdp.terminal
        self._live = live.flatten().nonzero()[:, 0]
        m, s, a, k = mdp.successors.shape
        offset = (torch.arange(m, device=mdp.device) * s)[:, None, None, None]
        self._next = (mdp.successors + offset).view(m * s, a, k)
        self._places = self.lattice.place_of.view(m * s, a, k)
        self._probs = mdp.probabilities.view(m * s, a, k)

    def stage(self) -> None:
        """Find the policy of the time before; ValueError at the start."""
        if self.time == 0:
            raise ValueError("the start is reached")
        t, (m, s, a, k) = self.time - 1, self.problem.mdp.successors.shape
        move, columns = self.lattice.moves[t], self.rows.shape[-1]
        next_states, size = self.rows.flatten(0, 2), self.rows.shape[2]
        points = move.shape[0]
        ended = self.rows.flatten(0, 1)[:, move[:, self.lattice.still[0]]]
        rows = torch.where(self.problem.mdp.terminal.view(-1, 1, 1), ended, 0.0)  # the living are filled in
        actions = torch.zeros(m * s, points, dtype=torch.int64, device=rows.device)
        piece = max(1, MAX_BACKUP_ELEMENTS // (a * points * max(columns, 2 * k)))
        for live in torch.split(self._live, piece):
            target = self._next[live][:, :, None] * size + move[:, self._places[live]].permute(1, 2, 0, 3)
            weight = self._probs[live][:, :, None].expand(target.shape)
            q = F.embedding_bag(
                target.reshape(-1, k), next_states, mode="sum", per_sample_weights=weight.reshape(-1, k)
            ).view(len(live), a, points, columns)
            chosen = best_actions(self._keys(t, q).transpose(1, 2))
            actions[live] = chosen
            rows[live] = q.gather(1, chosen[:, None, :, None].expand(-1, 1, -1, columns))[:, 0]
        self.rows, self.time = rows.view(m, s, points, columns), t
        self.actions.insert(0, actions.view(m, s, points))

    def _keys(self, t: int, rows: Tensor) -> Tensor:
        """Return the keys [..., J] that rows [..., J or Z] of a time stand for."""
        if self._carries_keys:
            return rows
        outcomes = self.lattice.outcomes
        scale = 1.0 if self.time_indexed else self.problem.gamma**-t
        return self.objective.keys(outcomes * scale, rows)

    def run(self) -> StockPolicy:
        """Do all the stages that are left, and return the policy."""
        while self.time > 0:
            self.stage()
        return StockPolicy(self.lattice, self.problem, list(self.actions), self._keys(0, self.rows))


def _are_expectations(objective: Objective) -> bool:
    """Whether all keys of an objective are expectations."""
    if isinstance(objective, Lexicographic):
        return _are_expectations(objective.first) and _are_expectations(objective.second)
    return isinstance(objective, ExpectedUtility)


# Problems: an objective, and where the stock starts -------------------------------------------------------


@dataclass(frozen=True)
class Solution:
    """The best policy of a :class:`StockProblem` in one MDP, and its distribution."""

    policy: StockPolicy
    """The policy, of time, state and stock."""

    initial_stock: tuple[float, ...]
    """c_0."""

    value: float
    """What is wanted of the distribution of G (CVaR, ...), of this policy from c_0."""

    returns: Tensor
    """[Z] or [Z, k] values of G."""

    probs: Tensor
    """[Z] their probabilities."""

    stocks: Tensor
    """[C_0] or [C_0, k] initial stocks that were tried."""

    scores: Tensor
    """[C_0] their h (negated where the smallest is a bound), or the mean over starts of K's first key."""


MAX_MASSES = 2**22
"""Probabilities of states and totals at one time that are made at once, over initial stocks."""

BETWEEN = 8
"""Parts into which the space between two returns is divided, where the best stock may lie in between."""


def candidate_stocks(problem: FiniteHorizon, wanted: StockProblem, *, max_points: int = MAX_POINTS) -> Tensor:
    """Return the initial stocks [C], rising, to search among: the negatives of all returns.

    h(c_0) of one policy is piecewise linear between them. The largest of a maximum over policies is at one of
    them; where the smallest is a bound, other policies are greedy in between: stocks there are tried as well.
    """
    lattice = StockLattice(problem, problem.rewards.new_zeros(1), from_start=True, max_points=max_points)
    stocks = 0.0 - lattice.outcomes.flip(0)
    if not wanted.minimise:
        return stocks
    shares = torch.arange(BETWEEN, device=stocks.device) / BETWEEN
    between = stocks[:-1, None] + (stocks[1:] - stocks[:-1])[:, None] * shares
    return torch.cat([between.flatten(), stocks[-1:]])


def solve(
    problem: FiniteHorizon,
    wanted: StockProblem,
    *,
    initial_stocks: Tensor | Sequence[float] | None = None,
    tie_break: Literal["mean", "first"] = "mean",
    max_points: int = MAX_POINTS,
) -> Solution:
    """Optimise a return distribution: backward induction, and the search over the initial stock.

    Args:
        problem: one MDP.
        wanted: the objective, and how the stock starts.
        initial_stocks: stocks to search among instead of all that can be the best (a grid of spacing d costs
            at most (d / 2) max(1, 1 / tau - 1) of CVaR); or the stock to start from, of vectors [1, k].
        tie_break: what decides between equally good actions: the mean, or their order.
        max_points: see :class:`StockLattice`.

    Raises:
        UnsoundObjectiveError: for an objective that cannot be optimised so.
        ValueError: if there are several MDPs, or the initial stock is missing.
        TooManyTotalsError: see :class:`StockLattice`.
    """
    if problem.mdp.num_mdps != 1:
        raise ValueError(f"the problem holds {problem.mdp.num_mdps} MDPs; solve takes one")
    stocks = _initial_stocks(problem, wanted, initial_stocks, max_points)
    induction = BackwardInduction(
        problem,
        wanted.objective,
        stocks,
        time_indexed=wanted.time_indexed,
        tie_break=mean_objective(problem) if tie_break == "mean" else None,
        max_points=max_points,
    )
    return solution_of(induction, wanted, stocks)


def solution_of(induction: BackwardInduction, wanted: StockProblem, stocks: Tensor) -> Solution:
    """Finish the induction, choose the initial stock among those it was made for, and evaluate the policy."""
    policy, problem = induction.run(), induction.problem
    assert policy.keys is not None
    values = torch.einsum("s,scj->cj", problem.mdp.start[0], policy.keys[0])[induction.lattice.initial, 0]
    scores = wanted.score(values, stocks) if wanted.searched else values
    # Where the smallest h is a bound, its stock's policy may fall short of it: all policies are compared.
    worth = policy_values(policy, stocks, wanted) if wanted.minimise else scores
    # Of equally good stocks the largest: a stock on which c_0 + G cannot rise above 0 only repeats the mean.
    tied = (worth >= worth.max() - TOLERANCE).nonzero()[:, 0]
    best = int(tied[stocks[tied].argmax()]) if wanted.searched else int(tied[0])
    stock = stocks[best]
    probs = policy.distribution(induction.lattice.initial[best : best + 1])[0, 0]
    returns = induction.lattice.outcomes - stock
    initial = tuple(stock.reshape(-1).tolist())
    value = float(wanted.criterion(initial).value(returns, probs))
    return Solution(policy, initial, value, returns, probs, stocks, scores)


def policy_values(policy: StockPolicy, stocks: Tensor, wanted: StockProblem) -> Tensor:
    """Return what is wanted of G's distribution, [C], for the stocks [C] that a policy was made for."""
    lattice, criterion = policy.lattice, wanted.criterion()
    columns = policy.problem.mdp.num_states * max(len(points) for points in lattice.points)
    found = []
    for piece in torch.split(torch.arange(len(stocks), device=stocks.device), max(1, MAX_MASSES // columns)):
        probs = policy.distribution(lattice.initial[piece])[0]
        found.append(criterion.value(lattice.outcomes - stocks[piece, None], probs))
    return torch.cat(found)


def _initial_stocks(
    problem: FiniteHorizon, wanted: StockProblem, given: Tensor | Sequence[float] | None, max_points: int
) -> Tensor:
    """Return the initial stocks [C] or [C, k] to start from."""
    if given is None and wanted.searched:
        return candidate_stocks(problem, wanted, max_points=max_points)
    if given is None:
        if wanted.initial_stock is None:
            raise ValueError("initial_stocks is missing, and the objective sets none")
        stock = problem.rewards.new_tensor(wanted.initial_stock)
        return stock[None] if problem.dim else stock
    stocks = torch.as_tensor(given, dtype=torch.float64, device=problem.rewards.device)
    if not wanted.searched and wanted.initial_stock is not None:
        raise ValueError(f"initial_stocks are given, but the objective starts at {wanted.initial_stock}")
    return stocks


def policy_value(policy: StockPolicy, criterion: Objective) -> float:
    """Return an objective of the distribution of G of a policy that was made for the initial stock 0."""
    return float(criterion.value(policy.lattice.outcomes, policy.distribution()[0, 0]))
