"""Grids of stocks, and what a solver on one needs to know: quantiles, error bounds, sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import torch
from torch import Tensor

from prefrl.functional.returns.objectives import (
    ExpectedUtility,
    Lexicographic,
    Objective,
)

Form = Literal["expectation", "categorical", "quantile"]

MAX_POOLED_ELEMENTS = 2**19
"""Numbers in the table of pooled atoms made at once (4 MiB, what caches hold); more are made in pieces."""


def quantile_projection(atoms: Tensor, probs: Tensor, count: int) -> Tensor:
    """Return the (i + 1/2) / count quantiles [..., count], the nearest in the 1-Wasserstein distance.

    The distance to the distribution is at most B / (2 count) for one on an interval of length B.

    Args:
        atoms: [..., m] places.
        probs: [..., m] their probabilities.
        count: number of quantiles.
    """
    atoms, order = atoms.sort(-1)
    reached = probs.gather(-1, order).cumsum(-1)
    taus = (torch.arange(count, dtype=atoms.dtype, device=atoms.device) + 0.5) / count
    place = torch.searchsorted(reached, (taus - 1e-12).expand(*reached.shape[:-1], count).contiguous())
    return atoms.gather(-1, place.clamp(max=atoms.shape[-1] - 1))


@dataclass(frozen=True)
class StockGrid:
    """A product of rising axes of stocks.

    Raises:
        ValueError: if an axis has fewer than 2 points, or does not rise.
    """

    axes: tuple[Tensor, ...]
    """One axis [C_i] per component, float64."""

    def __post_init__(self) -> None:
        for axis in self.axes:
            if axis.ndim != 1 or len(axis) < 2 or not bool((axis[1:] > axis[:-1]).all()):
                raise ValueError("every axis of a stock grid must be at least 2 rising numbers")

    @classmethod
    def linear(cls, low: float, high: float, points: int, device: torch.device | str = "cpu") -> StockGrid:
        """Return evenly spaced scalar stocks."""
        return cls((torch.linspace(low, high, points, dtype=torch.float64, device=device),))

    @property
    def points(self) -> Tensor:
        """[C, k] all stocks, the last axis fastest."""
        return torch.cartesian_prod(*self.axes).view(-1, len(self.axes))

    def locate(self, stocks: Tensor) -> tuple[Tensor, Tensor]:
        """Return places and weights [..., 2^k] of a multilinear interpolation at stocks [..., k].

        Stocks outside are moved to the edge.
        """
        place = torch.zeros(stocks.shape[:-1], dtype=torch.int64, device=stocks.device)
        lower, share = [], []
        for i, axis in enumerate(self.axes):
            value = stocks[..., i].clamp(float(axis[0]), float(axis[-1])).contiguous()
            below = (torch.searchsorted(axis, value, right=True) - 1).clamp(0, len(axis) - 2)
            lower.append(below)
            share.append((value - axis[below]) / (axis[below + 1] - axis[below]))
        places, weights = [], []
        for corner in product((0, 1), repeat=len(self.axes)):
            index, weight = place, torch.ones_like(share[0])
            for i, up in enumerate(corner):
                index = index * len(self.axes[i]) + lower[i] + up
                weight = weight * (share[i] if up else 1.0 - share[i])
            places.append(index)
            weights.append(weight)
        return torch.stack(places, -1), torch.stack(weights, -1)

    def outside(self, stocks: Tensor) -> Tensor:
        """Return [...] which stocks [..., k] lie outside."""
        ends = torch.stack([torch.stack([axis[0], axis[-1]]) for axis in self.axes])  # [k, 2]
        slack = 1e-9 * (ends[:, 1] - ends[:, 0])
        return ((stocks < ends[:, 0] - slack) | (stocks > ends[:, 1] + slack)).any(-1)


def degrees(objective: Objective) -> list[float]:
    """Return the degree of homogeneity of each key; ValueError where one has none."""
    if isinstance(objective, Lexicographic):
        return degrees(objective.first) + degrees(objective.second)
    if not isinstance(objective, ExpectedUtility) or objective.degree is None or objective.num_keys != 1:
        raise ValueError(f"form is 'expectation'; {objective} is no positively homogeneous expected utility")
    return [objective.degree]


def error_bound(
    gamma: float, lipschitz: float, *, sweeps: int | None = None, reward: float = math.inf,
    spacing: float = 0.0, quantiles: int | None = None, width: float = 0.0,
) -> float:  # fmt: skip
    """Return the bound on the error of K that the module's text gives.

    Args:
        gamma: discount.
        lipschitz: L.
        sweeps: n of value iteration from G = 0; None: it has settled.
        reward: largest absolute reward.
        spacing: of the grid of stocks; 0 where every reachable stock is on it.
        quantiles: N; None: nothing is projected.
        width: B, of the range of totals.
    """
    rest = 1.0 - gamma
    iteration = 0.0 if sweeps is None else gamma**sweeps * reward / rest
    projection = 0.0 if quantiles is None else width / (2.0 * quantiles * rest)
    return lipschitz * (iteration + projection + gamma * spacing / (2.0 * rest))


def grid_axes(
    low: Sequence[float],
    high: Sequence[float],
    points: Sequence[int],
    device: torch.device | str = "cpu",
) -> StockGrid:
    """Return an evenly spaced grid of vector stocks."""
    ends = zip(low, high, points, strict=True)
    return StockGrid(tuple(torch.linspace(*end, dtype=torch.float64, device=device) for end in ends))


def sweep_bytes(
    *, states: int, stocks: int, actions: int, successors: int, places: int, form: Form, dim: int = 1
) -> int:
    """Return how many bytes a solver needs at its peak, but for small change.

    With R = states * stocks and q = successors * 2^dim neighbours of an action: two tables [R, places]; of
    each action q places and weights, and K certain totals and weights, twice while they are made; and the
    pieces of a sweep.

    Args:
        states: S, of all MDPs together.
        stocks: C, all points of the grid.
        actions: A.
        successors: K.
        places: atoms, quantiles or keys of a distribution.
        form: what is kept of it.
        dim: components of a stock.
    """
    rows, mixed = states * stocks, successors * 2**dim
    tables = 2 * rows * places
    layout = 2 * rows * actions * (2 * mixed + successors * (1 + dim))
    # Atoms, their order, probabilities and sums, before and after sorting; or distributions, shares, and the
    # result.
    piece: int = min(MAX_POOLED_ELEMENTS, rows * actions * places * (mixed if form == "quantile" else 1))
    total: int = 8 * (tables + layout + (6 if form == "quantile" else 5) * piece)
    return total
