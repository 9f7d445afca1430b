"""Objectives of a return distribution that dynamic programming over stocks does not optimise.

None of them is indifferent to mixtures, so that a solver refuses them; ``instead`` says what to use. They are
here to say what a distribution is worth, and to show what agents that act greedily on them miss.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from prefrl.config import PositiveShare, Settings, Share

from .objectives import MEAN, SLACK, Objective


def _sorted(atoms: Tensor, probs: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return atoms and probabilities of the same shape [..., m], by rising atoms."""
    if probs is None:
        probs = torch.full_like(atoms, 1.0 / atoms.shape[-1])
    atoms, probs = atoms + torch.zeros_like(probs), probs + torch.zeros_like(atoms)
    atoms, order = atoms.sort(-1)
    return atoms, probs.gather(-1, order)


@dataclass(frozen=True)
class CVaR(Settings, Objective):
    """The mean of the worst fraction ``tau``: not what dynamic programming optimises, see ``instead``.

    Greedy steps on it are time-inconsistent, and since CVaR(c + G) = c + CVaR(G) they do not use the stock.
    """

    tau: PositiveShare = 0.25
    indifferent_to_mixtures = False
    instead = (
        "use conditional_value_at_risk(tau): min(x, 0) as the utility, and a search over the initial stock"
    )

    def keys(self, atoms: Tensor, probs: Tensor | None = None) -> Tensor:
        """See :meth:`Objective.keys`."""
        atoms, probs = _sorted(atoms, probs)
        reached = probs.cumsum(-1)
        share = (self.tau - (reached - probs)).clamp(min=0.0).minimum(probs)
        return (share * atoms).sum(-1, keepdim=True) / share.sum(-1, keepdim=True)

    def lipschitz(self, reach: float = math.inf) -> float:
        """See :meth:`Objective.lipschitz`."""
        return 1.0 / self.tau


@dataclass(frozen=True)
class ValueAtRisk(Settings, Objective):
    """The ``tau``-quantile, the median at 1/2; cannot be optimised."""

    tau: PositiveShare = 0.5
    indifferent_to_mixtures = False
    instead = "use target_probability(g), and the largest g that is reached with probability 1 - tau"

    def keys(self, atoms: Tensor, probs: Tensor | None = None) -> Tensor:
        """See :meth:`Objective.keys`."""
        atoms, probs = _sorted(atoms, probs)
        place = (probs.cumsum(-1) < self.tau - SLACK).sum(-1, keepdim=True)
        return atoms.gather(-1, place.clamp(max=atoms.shape[-1] - 1))


@dataclass(frozen=True)
class MeanVariance(Objective):
    """E X - weight var X; cannot be optimised."""

    weight: float = 0.5
    indifferent_to_mixtures = False
    instead = "use target_return(g, exponent=2), which is -E (G - g)^2, and choose g"

    def keys(self, atoms: Tensor, probs: Tensor | None = None) -> Tensor:
        """See :meth:`Objective.keys`."""
        atoms, probs = _sorted(atoms, probs)
        mean = (probs * atoms).sum(-1, keepdim=True)
        return mean - self.weight * (probs * (atoms - mean) ** 2).sum(-1, keepdim=True)

    def indifferent_to_gamma(self, gamma: float) -> bool:
        """See :meth:`Objective.indifferent_to_gamma`."""
        return gamma == 1.0


@dataclass(frozen=True)
class MeanCVaR(Settings, Objective):
    """weight E X + (1 - weight) CVaR_tau(X): see :class:`CVaR`."""

    weight: Share = 0.5
    tau: PositiveShare = 0.25
    indifferent_to_mixtures = False
    instead = "use mean_cvar(weight, tau)"

    def keys(self, atoms: Tensor, probs: Tensor | None = None) -> Tensor:
        """See :meth:`Objective.keys`."""
        tail = CVaR(self.tau).keys(atoms, probs)
        return self.weight * MEAN.keys(atoms, probs) + (1.0 - self.weight) * tail


@dataclass(frozen=True)
class UpperCVaR(Settings, Objective):
    """The mean of the best fraction ``tau``: see :class:`CVaR`."""

    tau: PositiveShare = 0.25
    indifferent_to_mixtures = False
    instead = "use optimistic_cvar(tau), which is experimental"

    def keys(self, atoms: Tensor, probs: Tensor | None = None) -> Tensor:
        """See :meth:`Objective.keys`."""
        return -CVaR(self.tau).keys(-atoms, probs)
