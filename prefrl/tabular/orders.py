"""How well wishes that contradict each other can be met, by a distribution over total orders.

Wishes are pairs: this option before that one. Where they form a circle no order has them all. A distribution
over orders meets each wish with some probability, and the least of these is to be as large as possible: for
a circle of k wishes it is (k - 1) / k, by the k orders that break one wish each (the idea is of uncertain
objectives, Eckersley, arXiv 1901.00064; the constant is derived). The same number bounds the accuracy of any
scalar score on a circle of preferences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

MAX_OPTIONS = 16
"""Options of which all subsets are looked at."""

MARGIN = 1e-9
"""Gain below which an order adds nothing."""


@dataclass(frozen=True)
class OrderDistribution:
    """A distribution over total orders."""

    orders: list[tuple[int, ...]]
    """Options, the best first."""
    probabilities: NDArray[np.float64]
    """[number of orders], above 0."""
    satisfaction: float
    """The least probability with which one of the wishes is met."""


def least_uncertain_orders(wishes: Sequence[tuple[int, int]], num_options: int) -> OrderDistribution:
    """Return the distribution over orders whose worst met wish is met most often.

    A linear program over all orders, of which only those are made that may help: given what each wish is
    worth in the program so far (its dual solution), the order that meets most is found exactly over all
    subsets of options, and joins the program until none meets more than is met already.

    Args:
        wishes: pairs (better, worse) of options.
        num_options: K.

    Raises:
        ValueError: if there is no wish, an option is none of the K or to be before itself, or K is above 16.
    """
    pairs = _checked(wishes, num_options)
    orders = [_best_order(np.ones(len(pairs)), pairs, num_options)]
    while True:
        met = np.stack([_met(order, pairs) for order in orders], 1)
        probabilities, worth, level = _solve(met)
        order = _best_order(worth, pairs, num_options)
        # The same order again: the program is solved as well as it can be in floating point.
        if order in orders or worth @ _met(order, pairs) <= level + MARGIN:
            used = probabilities > MARGIN
            kept = [order for order, taken in zip(orders, used, strict=True) if taken]
            return OrderDistribution(kept, probabilities[used] / probabilities[used].sum(), level)
        orders.append(order)


def _checked(wishes: Sequence[tuple[int, int]], num_options: int) -> NDArray[np.int64]:
    if not 2 <= num_options <= MAX_OPTIONS:
        raise ValueError(f"num_options is {num_options}; it must lie in 2 to {MAX_OPTIONS}")
    if not len(wishes):
        raise ValueError("wishes is empty; give at least one pair (better, worse)")
    for place, (better, worse) in enumerate(wishes):
        if not (0 <= better < num_options and 0 <= worse < num_options) or better == worse:
            raise ValueError(f"wishes[{place}] is ({better}, {worse}); it must be two different options of "
                             f"0 to {num_options - 1}")  # fmt: skip
    return np.array(wishes, dtype=np.int64)


def _met(order: tuple[int, ...], pairs: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return which wishes [D] an order meets, as 0 and 1."""
    place = np.argsort(order)
    return (place[pairs[:, 0]] < place[pairs[:, 1]]).astype(np.float64)


def _solve(met: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Return probabilities [N] of orders that meet wishes [D, N], worth [D] of wishes, and the least met."""
    wishes, count = met.shape
    found = linprog(
        np.append(np.zeros(count), -1.0),
        A_ub=np.hstack([-met, np.ones((wishes, 1))]), b_ub=np.zeros(wishes),
        A_eq=np.append(np.ones(count), 0.0)[None], b_eq=[1.0], bounds=[(0, None)] * count + [(None, None)],
    )  # fmt: skip
    return found.x[:-1], -found.ineqlin.marginals, float(found.x[-1])


def _best_order(worth: NDArray[np.float64], pairs: NDArray[np.int64], k: int) -> tuple[int, ...]:
    """Return the order that meets wishes of most worth: by the best order of each subset's last options.

    best(S) = max over i in S, first of S, of worth of the wishes (i, j), j in S, + best(S without i).
    """
    gain = np.zeros((k, k))
    np.add.at(gain, (pairs[:, 0], pairs[:, 1]), worth)
    subsets = np.arange(1 << k)
    inside = (subsets[:, None] >> np.arange(k)) & 1
    first = inside @ gain.T  # [2^K, K] worth of the wishes that i is before what else is in the subset
    best, choice = np.zeros(1 << k), np.zeros(1 << k, dtype=np.int64)
    sizes = inside.sum(1)
    for size in range(1, k + 1):
        rows = subsets[sizes == size]
        rest = np.where(inside[rows] == 1, rows[:, None] ^ (1 << np.arange(k)), 0)
        total = np.where(inside[rows] == 1, first[rows] + best[rest], -np.inf)
        choice[rows], best[rows] = total.argmax(1), total.max(1)
    order, left = [], (1 << k) - 1
    while left:
        order.append(int(choice[left]))
        left ^= 1 << order[-1]
    return tuple(order)
