"""Label noise: answers that were turned round, beside those that a small difference makes uncertain.

P(second preferred) = eps + (1 - 2 eps) sigmoid(u(second) - u(first)): with a probability of 2 eps somebody
answers by a coin, which turns the answer in half of the cases. Such lapses are known from psychophysics.
Utilities large enough make it an order with answers that are turned at the rate eps.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

HIGHEST = 0.5
"""Of the rates: at 1/2 answers say nothing."""


class LapseRate(NamedTuple):
    """The rate of turned answers by maximum likelihood, and which rates the data leave possible."""

    rate: float
    """Where the likelihood is largest."""
    low: float
    """Least rate whose profile likelihood is within 1.92 of it: 95 % by Wilks's theorem."""
    high: float
    """Largest such rate."""


def lapse_log_likelihood(margins: Tensor, rates: Tensor, labels: Tensor, counts: Tensor) -> Tensor:
    """Return the log-likelihood [G] of answers with margins [G, N] and rates of turned answers [G].

    Args:
        margins: [G, N] log-odds that the second is preferred, without lapses.
        rates: [G] eps, in [0, 1/2).
        labels: [N] share of answers for the second.
        counts: [N] how many answers.
    """
    keep, rates = (1.0 - 2.0 * rates)[:, None], rates[:, None]
    log_second = torch.log(rates + keep * torch.sigmoid(margins) + 1e-300)
    log_first = torch.log(rates + keep * torch.sigmoid(-margins) + 1e-300)
    return (counts * (labels * log_second + (1.0 - labels) * log_first)).sum(1)


def lapse_rate(
    slopes: Tensor, labels: Tensor, counts: Tensor, *, ridge: float = 1e-2, grid: int = 50
) -> LapseRate:
    """Return the rate of turned answers, utilities fitted to each rate of a grid.

    Args:
        slopes: [N, P] derivatives of the margins in utilities: second minus first.
        labels: [N] share of answers for the second, in [0, 1].
        counts: [N] how many answers.
        ridge: times |u|^2 / 2 is taken off each log-likelihood, which has no maximum else where an order
            explains all.
        grid: rates that are tried, evenly from 0 to below 1/2.
    """
    rates = torch.arange(grid, dtype=torch.float64) * (HIGHEST / grid)
    weights = torch.zeros(grid, slopes.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=300, history_size=20, tolerance_grad=1e-7,
                                  tolerance_change=1e-10, line_search_fn="strong_wolfe")  # fmt: skip

    def penalised() -> Tensor:
        fit = lapse_log_likelihood(weights @ slopes.T, rates, labels, counts)
        return fit - 0.5 * ridge * weights.square().sum(1)

    def closure() -> float:
        optimizer.zero_grad()
        loss = -penalised().sum() / counts.sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        likelihood = penalised()
    near = torch.nonzero(likelihood > likelihood.max() - 0.5 * CHI_SQUARE_95)[:, 0]
    best = int(likelihood.argmax())
    return LapseRate(float(rates[best]), float(rates[near[0]]), float(rates[near[-1]]))


CHI_SQUARE_95 = 3.841458820694124
"""The .95 quantile of the chi-square distribution with one degree of freedom."""


def flip_rate(disagreement: float) -> float | None:
    """Return the rate of turned answers of people with an order, from how often two answers differ.

    Two answers to one question differ if one of them is turned: d = 2 eps (1 - eps). None above 1/2, which no
    rate explains. Where options are nearly alike, answers differ without being turned: an upper bound.
    """
    if disagreement > 0.5:
        return None
    return (1.0 - math.sqrt(1.0 - 2.0 * disagreement)) / 2.0
