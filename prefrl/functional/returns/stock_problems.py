"""What a return distribution is wanted for: an objective, and where the stock starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from prefrl.config import NonNegative, Positive, PositiveShare, Settings, Share

from .objectives import (
    MEAN,
    Exponential,
    Hinges,
    Lexicographic,
    LinearForm,
    NegativeNorm,
    NegativePower,
    NormOrder,
    Objective,
    ReachesZero,
    Shifted,
    TwoSlope,
    WorstCase,
)
from .risk_measures import CVaR, MeanCVaR, UpperCVaR


@dataclass(frozen=True)
class StockProblem:
    """What a return distribution is wanted for: K, and the initial stock, given or searched for.

    Where it is searched for, the best policy of c_0 scores

        h(c_0) = scale max_pi K(distribution of c_0 + G) - c_0,

    and the c_0 of the largest h is taken. For an optimistic CVaR the smallest h is a bound, and the c_0 is
    taken whose greedy policy is worth most.
    """

    objective: Objective
    """K, which dynamic programming optimises."""

    initial_stock: tuple[float, ...] | None = None
    """c_0 [max(1, k)]; None: searched for, or the environment's own for vectors."""

    scale: float = 1.0
    """What K's value is multiplied with in h."""

    of_return: Objective | None = None
    """What is really wanted of the distribution of G, where c_0 is searched for; None: K of c_0 + G."""

    minimise: bool = False
    """Whether the smallest h is a bound on what is wanted; then the greedy policies are compared."""

    time_indexed: bool = False
    """Whether K is applied to gamma^t X."""

    @property
    def searched(self) -> bool:
        """Whether the initial stock is searched for."""
        return self.of_return is not None

    def score(self, values: Tensor, stocks: Tensor) -> Tensor:
        """Return h(c_0) of scalar stocks c_0 with values max K, to be maximised (negated if need be)."""
        h = self.scale * values - stocks
        return -h if self.minimise else h

    def criterion(self, stock: Sequence[float] | None = None) -> Objective:
        """Return what is wanted as an objective of G's distribution; where K needs one, for a stock."""
        if self.of_return is not None:
            return self.of_return
        given = self.initial_stock if stock is None else tuple(stock)
        if given is None:
            raise ValueError("stock is None; this problem's objective needs an initial stock")
        return Shifted(self.objective, given)


def conditional_value_at_risk(tau: float) -> StockProblem:
    """max_pi CVaR_tau(G) = max_{c_0} [E min(c_0 + G, 0) / tau - c_0] (Baeuerle and Ott 2011).

    h is not concave in c_0, being a maximum over policies of concave functions: the search is global.
    """
    wanted = CVaR(tau)
    return StockProblem(TwoSlope(1.0, 0.0), scale=1.0 / tau, of_return=wanted)


def mean_cvar(weight: float, tau: float) -> StockProblem:
    """max_pi weight E G + (1 - weight) CVaR_tau(G), with two slopes and a search."""
    wanted = MeanCVaR(weight, tau)
    return StockProblem(TwoSlope(weight + (1.0 - weight) / tau, weight), of_return=wanted)


def optimistic_cvar(tau: float) -> StockProblem:
    """max_pi of the upper CVaR of G, among the policies that are greedy on max(c_0 + G, 0) from some c_0.

    min_{c_0} max_pi [E max(c_0 + G, 0) / tau - c_0] is an upper bound, reached by a mixture of policies drawn
    at the start of an episode. A policy that is greedy at the minimising c_0 may fall far short of it; so of
    all stocks that are tried that one is taken whose greedy policy has the best upper CVaR. They are the
    negatives of returns, and some in between, since policies may change there.

    Experimental: the best single policy may be greedy from no c_0, or only where another is as good.
    """
    wanted = UpperCVaR(tau)
    return StockProblem(TwoSlope(0.0, 1.0), scale=1.0 / tau, of_return=wanted, minimise=True)


def target_return(target: float, exponent: float = 1.0) -> StockProblem:
    """max_pi -E |G - target|^exponent: generating a return."""
    objective = TwoSlope(1.0, -1.0) if exponent == 1.0 else NegativePower(exponent)
    return StockProblem(objective, (-target,))


def target_probability(target: float) -> StockProblem:
    """max_pi P(G >= target), ties broken by the mean."""
    return StockProblem(Lexicographic(ReachesZero(), MEAN), (-target,))


def constrained(components: int, penalty: float | None) -> StockProblem:
    """Maximise E worth, held to budgets: x = (worth, what is left of each budget).

    With a penalty, E [worth + penalty sum_i min(left_i, 0)]; without one, the probability that no budget is
    overdrawn, then the mean worth (finite horizons only). The stock starts at (0, budgets).
    """
    if components < 2:
        raise ValueError(f"components is {components}; a worth and at least one budget make 2")
    budgets = components - 1
    if penalty is not None:
        objective: Objective = Hinges((1.0, *[penalty] * budgets), (1.0, *[0.0] * budgets))
    else:
        objective = Lexicographic(ReachesZero(components, first=1), LinearForm((1.0, *[0.0] * budgets)))
    return StockProblem(objective)


Name = Literal[
    "cvar", "mean_cvar", "optimistic_cvar", "mean", "target_return", "target_probability", "two_slope",
    "worst_case", "exponential", "homeostasis", "constraint_penalty", "constraint",
]  # fmt: skip
"""Words for what is wanted; each is explained in docs/returns/return_distributions.md."""


@dataclass(frozen=True)
class ObjectiveSettings(Settings):
    """A :class:`StockProblem` as settings: a word and its numbers."""

    objective: Name = "cvar"
    """What is wanted of the return distribution; the texts of the numbers below say which word takes them."""

    tau: PositiveShare = 0.25
    """Fraction of worst (optimistic_cvar: best) returns, in (0, 1] (cvar, mean_cvar, optimistic_cvar)."""

    weight: Share = 0.5
    """Share of the mean in mean_cvar, in [0, 1]."""

    target: float = 0.0
    """The return to generate (target_return) or to reach (target_probability)."""

    exponent: Positive = 1.0
    """Exponent of the distance from the target (target_return)."""

    below: float = 1.0
    """Slope of the utility below 0 (two_slope)."""

    above: float = 0.0
    """Slope of the utility above 0 (two_slope)."""

    risk_aversion: Positive = 1.0
    """lambda of -exp(-lambda x) (exponential)."""

    norm: NormOrder = 2.0
    """Order of the norm of what is left to the set-point (homeostasis)."""

    penalty: NonNegative = 1.0
    """Price of a unit by which a budget is overdrawn (constraint_penalty)."""

    initial_stock: tuple[float, ...] | None = None
    """Where the stock starts; default: by the objective, for vectors the environment's own."""

    def check(self) -> None:
        """Refuse an initial stock that the objective does not take."""
        given = 2 if self.initial_stock is None else len(self.initial_stock)
        self.problem(given if self.takes_vectors else 0)

    @property
    def takes_vectors(self) -> bool:
        """Whether the objective is one of vectors."""
        return self.objective in ("homeostasis", "constraint_penalty", "constraint")

    def problem(self, components: int = 0) -> StockProblem:
        """Return the problem, for rewards with so many components (0: scalars).

        Raises:
            ValueError: for a setting out of range, or an objective of vectors where there are none.
        """
        if self.takes_vectors and components == 0:
            raise ValueError(
                f"objective is {self.objective!r}, which takes vector rewards; these are scalars"
            )
        problem = self._problem(components)
        stock = self.initial_stock
        if stock is None:
            return problem
        if problem.searched or self.objective in ("target_return", "target_probability"):
            raise ValueError(f"initial_stock is {stock}; {self.objective} sets it by itself")
        if len(stock) != max(1, problem.objective.dim):
            raise ValueError(
                f"initial_stock is {stock}; it must have {max(1, problem.objective.dim)} entries"
            )
        fields: dict[str, Any] = {**problem.__dict__, "initial_stock": stock}
        return StockProblem(**fields)

    def _problem(self, components: int) -> StockProblem:
        name, origin = self.objective, (0.0,)
        if name == "cvar":
            return conditional_value_at_risk(self.tau)
        if name == "mean_cvar":
            return mean_cvar(self.weight, self.tau)
        if name == "optimistic_cvar":
            return optimistic_cvar(self.tau)
        if name == "mean":
            return StockProblem(MEAN, origin)
        if name == "target_return":
            return target_return(self.target, self.exponent)
        if name == "target_probability":
            return target_probability(self.target)
        if name == "two_slope":
            return StockProblem(TwoSlope(self.below, self.above), origin)
        if name == "worst_case":
            return StockProblem(WorstCase(), origin)
        if name == "exponential":
            return StockProblem(Exponential(self.risk_aversion), origin, time_indexed=True)
        if name == "homeostasis":
            return StockProblem(NegativeNorm(components, self.norm))
        return constrained(components, self.penalty if name == "constraint_penalty" else None)
