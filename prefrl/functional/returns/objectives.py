"""Objectives of a whole return distribution, and which of them dynamic programming can optimise.

An agent that carries a *stock* c, updated as c' = (c + r) / gamma, knows the distribution of X = c + G, the
stock and the discounted return to come (Avila Pires et al. 2025, arXiv 2501.13028; what follows was derived
anew). An objective K maps distributions of X to numbers, or to tuples that are compared in order. Dynamic
programming finds the best policy where K is

* indifferent to mixtures: K(nu_i) >= K(nu'_i) for all i implies the same of mixtures with the same weights;
* indifferent to gamma: K(nu) >= K(nu') implies the same of the distributions of gamma X (no demand at
  gamma 1, nor where time is part of the state and K is applied to gamma^t X, ``time_indexed``);
* Lipschitz in the 1-Wasserstein distance, for an infinite horizon.

Every expected utility E f(X) has the first property. For scalars and all gamma, all three leave the two-slope
utilities a min(x, 0) + b max(x, 0); richness comes from the initial stock, from vectors, and from finite
horizons. CVaR has not the first, but is the best of a family that has; that and other ways to ask for a
return distribution are in ``prefrl/functional/returns/stock_problems.py``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from prefrl.config import Bounds, Count, Positive, Settings

SLACK = 1e-9
"""What reaching 0 may fall short by: sums of rewards are rounded."""


NormOrder = Annotated[float, Bounds(low=1, infinite=True)]
"""Order of a norm, which is one from 1 on; infinite for the largest component."""


class UnsoundObjectiveError(ValueError):
    """An objective that dynamic programming over stocks does not optimise."""


class Objective(ABC):
    """K: distributions of X = c + G to keys, the first of which counts most; all are to be maximised.

    Attributes:
        indifferent_to_mixtures: see the module's text.
        strictly: whether a mixture with something strictly better in it is strictly better; what comes first
            in a tuple needs that too.
        dim: components of a vector X; 0 for a scalar.
        num_keys: J.
        instead: what to use where it cannot be optimised.
    """

    indifferent_to_mixtures: bool = True
    strictly: bool = True
    dim: int = 0
    num_keys: int = 1
    instead: str = ""

    @abstractmethod
    def keys(self, atoms: Tensor, probs: Tensor | None = None) -> Tensor:
        """Return K of distributions, [..., J].

        Args:
            atoms: [..., m] places, or [..., m, k] for vectors.
            probs: [..., m] their probabilities, which broadcast with the atoms; None: all the same.
        """

    def value(self, atoms: Tensor, probs: Tensor | None = None) -> Tensor:
        """Return the first key of distributions, [...]."""
        return self.keys(atoms, probs)[..., 0]

    def indifferent_to_gamma(self, gamma: float) -> bool:
        """Whether multiplying X with gamma keeps the order of distributions."""
        return True

    def lipschitz(self, reach: float = math.inf) -> float:
        """Return L with |K(nu) - K(nu')| <= L w1(nu, nu') for distributions on [-reach, reach]; or inf."""
        return math.inf


def check_optimisable(
    objective: Objective, gamma: float, *, time_indexed: bool, reach: float | None = None
) -> None:
    """Raise unless dynamic programming optimises the objective.

    Args:
        objective: K.
        gamma: discount.
        time_indexed: whether K is applied to gamma^t X, with the time in the state.
        reach: bound on |X| where the horizon is infinite; None: it is finite.

    Raises:
        UnsoundObjectiveError: if the objective lacks a property; the message says what to use instead.
    """
    instead = f"; {objective.instead}" if objective.instead else ""
    if not objective.indifferent_to_mixtures:
        raise UnsoundObjectiveError(f"{objective} is not indifferent to mixtures of distributions, so that "
                                    f"dynamic programming does not optimise it{instead}")  # fmt: skip
    if not time_indexed and not objective.indifferent_to_gamma(gamma):
        raise UnsoundObjectiveError(
            f"{objective} is not indifferent to gamma {gamma:g}: use gamma 1, or the exact solver with "
            "time_indexed (a finite horizon, with the time in the state)"
        )
    if reach is not None and not math.isfinite(objective.lipschitz(reach)):
        raise UnsoundObjectiveError(f"{objective} is not Lipschitz, which an infinite horizon asks for: give "
                                    "a finite horizon")  # fmt: skip


class ExpectedUtility(Objective):
    """E f(X).

    Attributes:
        degree: p where f(g x) = g^p f(x) for all g > 0, which makes it indifferent to gamma; None: no such p.
    """

    degree: float | None = None

    @abstractmethod
    def utility(self, x: Tensor) -> Tensor:
        """Return f(x) [..., J] of scalars [...] or vectors [..., k]."""

    def keys(self, atoms: Tensor, probs: Tensor | None = None) -> Tensor:
        """See :meth:`Objective.keys`."""
        utility = self.utility(atoms)  # [..., m, J]
        return utility.mean(-2) if probs is None else (probs[..., None] * utility).sum(-2)

    def indifferent_to_gamma(self, gamma: float) -> bool:
        """See :meth:`Objective.indifferent_to_gamma`."""
        return gamma == 1.0 or self.degree is not None


@dataclass(frozen=True)
class TwoSlope(ExpectedUtility):
    """f(x) = below min(x, 0) + above max(x, 0): the mean (1, 1), -|x| (1, -1), the lower part (1, 0)."""

    below: float = 1.0
    above: float = 1.0
    degree = 1.0

    def utility(self, x: Tensor) -> Tensor:
        """See :meth:`ExpectedUtility.utility`."""
        return (self.below * x.clamp(max=0.0) + self.above * x.clamp(min=0.0))[..., None]

    def lipschitz(self, reach: float = math.inf) -> float:
        """See :meth:`Objective.lipschitz`."""
        return max(abs(self.below), abs(self.above))


MEAN = TwoSlope(1.0, 1.0)
"""E X: ordinary reinforcement learning, where the stock does not matter."""


@dataclass(frozen=True)
class NegativePower(Settings, ExpectedUtility):
    """f(x) = -|x|^exponent: how far from 0 the total ends."""

    exponent: Positive = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "degree", self.exponent)

    def utility(self, x: Tensor) -> Tensor:
        """See :meth:`ExpectedUtility.utility`."""
        return -(x.abs() ** self.exponent)[..., None]

    def lipschitz(self, reach: float = math.inf) -> float:
        """See :meth:`Objective.lipschitz`."""
        if self.exponent == 1.0:
            return 1.0
        return self.exponent * reach ** (self.exponent - 1.0) if self.exponent > 1.0 else math.inf


@dataclass(frozen=True)
class ReachesZero(ExpectedUtility):
    """P(X >= 0); with the initial stock -g, P(G >= g). Of vectors, that all components reach 0.

    Args:
        components: number of components of a vector; 0: X is a scalar.
        first: the first component that counts.
    """

    components: int = 0
    first: int = 0
    degree = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "dim", self.components)

    def utility(self, x: Tensor) -> Tensor:
        """See :meth:`ExpectedUtility.utility`."""
        reached = x >= -SLACK
        if self.components:
            reached = reached[..., self.first :].all(-1)
        return reached.to(x.dtype)[..., None]


@dataclass(frozen=True)
class Exponential(Settings, ExpectedUtility):
    """f(x) = -exp(-risk_aversion x), for gamma 1 or with the time in the state."""

    risk_aversion: Positive = 1.0

    def utility(self, x: Tensor) -> Tensor:
        """See :meth:`ExpectedUtility.utility`."""
        return -torch.exp(-self.risk_aversion * x)[..., None]

    def lipschitz(self, reach: float = math.inf) -> float:
        """See :meth:`Objective.lipschitz`."""
        exponent = self.risk_aversion * reach
        return self.risk_aversion * math.exp(exponent) if exponent < 700.0 else math.inf


@dataclass(frozen=True)
class Clipped(ExpectedUtility):
    """f(x) = min(max(x, low), high), for gamma 1 or with the time in the state."""

    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"low is {self.low} and high {self.high}; low must be below high")

    def utility(self, x: Tensor) -> Tensor:
        """See :meth:`ExpectedUtility.utility`."""
        return x.clamp(self.low, self.high)[..., None]

    def lipschitz(self, reach: float = math.inf) -> float:
        """See :meth:`Objective.lipschitz`."""
        return 1.0


@dataclass(frozen=True)
class NegativeNorm(Settings, ExpectedUtility):
    """f(x) = -||x||_order: vectors of deviations from a set-point that are to end at 0 (homeostasis).

    Which norm the paper takes could not be verified; it is a parameter. The Wasserstein distance is that of
    the same norm.
    """

    components: Count = 2
    order: NormOrder = 2.0
    degree = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "dim", self.components)

    def utility(self, x: Tensor) -> Tensor:
        """See :meth:`ExpectedUtility.utility`."""
        norm: Tensor = torch.linalg.vector_norm(x, self.order, dim=-1)
        return -norm[..., None]

    def lipschitz(self, reach: float = math.inf) -> float:
        """See :meth:`Objective.lipschitz`."""
        return 1.0


@dataclass(frozen=True)
class Hinges(ExpectedUtility):
    """f(x) = sum_i (below_i min(x_i, 0) + above_i max(x_i, 0)): constraints as penalties on what is missing.

    With x = (worth, what is left of the budgets), below = (1, penalty, ...), above = (1, 0, ...). The
    Wasserstein distance is that of the l1 norm. How the paper writes constraints could not be verified.
    """

    below: tuple[float, ...]
    above: tuple[float, ...]
    degree = 1.0

    def __post_init__(self) -> None:
        if len(self.below) != len(self.above) or not self.below:
            raise ValueError(f"below has {len(self.below)} entries and above {len(self.above)}; give one of "
                             "each per component")  # fmt: skip
        object.__setattr__(self, "dim", len(self.below))

    def utility(self, x: Tensor) -> Tensor:
        """See :meth:`ExpectedUtility.utility`."""
        below, above = x.new_tensor(self.below), x.new_tensor(self.above)
        return (below * x.clamp(max=0.0) + above * x.clamp(min=0.0)).sum(-1)[..., None]

    def lipschitz(self, reach: float = math.inf) -> float:
        """See :meth:`Objective.lipschitz`."""
        return max(map(abs, (*self.below, *self.above)))


@dataclass(frozen=True)
class Lexicographic(Objective):
    """Tuples, compared in order: the second objective decides where the first is indifferent."""

    first: Objective
    second: Objective

    def __post_init__(self) -> None:
        if self.first.dim != self.second.dim:
            raise ValueError(f"first has {self.first.dim} components and second {self.second.dim}")
        first = self.first.indifferent_to_mixtures and self.first.strictly
        both = first and self.second.indifferent_to_mixtures
        object.__setattr__(self, "dim", self.first.dim)
        object.__setattr__(self, "num_keys", self.first.num_keys + self.second.num_keys)
        object.__setattr__(self, "indifferent_to_mixtures", both)
        object.__setattr__(self, "strictly", self.second.strictly)
        instead = self.first.instead or self.second.instead
        if not self.first.strictly:
            instead = (
                instead or f"{self.first} must not come first, since a mixture can hide what is better in it"
            )
        object.__setattr__(self, "instead", instead)

    def keys(self, atoms: Tensor, probs: Tensor | None = None) -> Tensor:
        """See :meth:`Objective.keys`."""
        return torch.cat([self.first.keys(atoms, probs), self.second.keys(atoms, probs)], -1)

    def indifferent_to_gamma(self, gamma: float) -> bool:
        """See :meth:`Objective.indifferent_to_gamma`."""
        return self.first.indifferent_to_gamma(gamma) and self.second.indifferent_to_gamma(gamma)


@dataclass(frozen=True)
class LinearForm(ExpectedUtility):
    """f(x) = weights . x of vectors: a mean, to break ties with."""

    weights: tuple[float, ...]
    degree = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "dim", len(self.weights))

    def utility(self, x: Tensor) -> Tensor:
        """See :meth:`ExpectedUtility.utility`."""
        return (x * x.new_tensor(self.weights)).sum(-1)[..., None]

    def lipschitz(self, reach: float = math.inf) -> float:
        """See :meth:`Objective.lipschitz`."""
        return max(map(abs, self.weights))


@dataclass(frozen=True)
class WorstCase(Objective):
    """The least value of positive probability, for finite horizons (it is not continuous in w1)."""

    strictly = False

    def keys(self, atoms: Tensor, probs: Tensor | None = None) -> Tensor:
        """See :meth:`Objective.keys`."""
        if probs is not None:
            atoms = torch.where(probs > 0.0, atoms, math.inf)  # what cannot happen has exactly 0
        return atoms.amin(-1, keepdim=True)


@dataclass(frozen=True)
class Shifted(Objective):
    """K(shift + X): what an objective of c_0 + G says of the distribution of G."""

    objective: Objective
    shift: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.shift) != max(1, self.objective.dim):
            raise ValueError(f"the initial stock {self.shift} has {len(self.shift)} components; "
                             f"{self.objective} takes {max(1, self.objective.dim)}")  # fmt: skip
        for name in ("indifferent_to_mixtures", "strictly", "dim", "num_keys", "instead"):
            object.__setattr__(self, name, getattr(self.objective, name))

    def keys(self, atoms: Tensor, probs: Tensor | None = None) -> Tensor:
        """See :meth:`Objective.keys`."""
        shift = atoms.new_tensor(self.shift) if self.dim else self.shift[0]
        return self.objective.keys(atoms + shift, probs)

    def indifferent_to_gamma(self, gamma: float) -> bool:
        """See :meth:`Objective.indifferent_to_gamma`."""
        return gamma == 1.0
