"""Distributions over orders that meet contradicting wishes as well as can be, against all orders."""

import itertools

import numpy as np
import pytest
from scipy.optimize import linprog

from prefrl.tabular import least_uncertain_orders


@pytest.mark.parametrize("k", [2, 3, 4, 7, 12])
def test_a_circle_of_wishes(k: int) -> None:
    """(k - 1) / k: 2/3 of three, 3/4 of four; by orders that break one wish each."""
    wishes = [(i, (i + 1) % k) for i in range(k)]
    found = least_uncertain_orders(wishes, k)
    assert found.satisfaction == pytest.approx((k - 1) / k, abs=1e-9)
    met = np.array([[order.index(a) < order.index(b) for a, b in wishes] for order in found.orders])
    assert (found.probabilities @ met).min() == pytest.approx((k - 1) / k, abs=1e-9)
    assert sorted(found.orders[0]) == list(range(k))


def test_wishes_without_a_contradiction_are_all_met() -> None:
    found = least_uncertain_orders([(2, 0), (0, 1), (2, 1)], 4)
    assert found.satisfaction == pytest.approx(1.0)
    assert len(found.orders) == 1
    assert found.orders[0].index(2) < found.orders[0].index(0) < found.orders[0].index(1)


def test_as_good_as_the_program_over_all_orders() -> None:
    rng = np.random.default_rng(0)
    for _ in range(15):
        k = int(rng.integers(3, 6))
        wishes = [tuple(rng.permutation(k)[:2].tolist()) for _ in range(int(rng.integers(1, 10)))]
        orders = list(itertools.permutations(range(k)))
        met = np.array([[order.index(a) < order.index(b) for order in orders] for a, b in wishes], float)
        best = linprog(
            np.append(np.zeros(len(orders)), -1.0), A_ub=np.hstack([-met, np.ones((len(wishes), 1))]),
            b_ub=np.zeros(len(wishes)), A_eq=np.append(np.ones(len(orders)), 0.0)[None], b_eq=[1.0],
            bounds=[(0, None)] * len(orders) + [(None, None)],
        )  # fmt: skip
        assert least_uncertain_orders(wishes, k).satisfaction == pytest.approx(-best.fun, abs=1e-8)


def test_refusals() -> None:
    for wishes, k, message in (
        ([], 3, "wishes is empty"),
        ([(0, 3)], 3, r"wishes\[0\] is \(0, 3\); it must be two different options of 0 to 2"),
        ([(0, 1), (1, 1)], 3, r"wishes\[1\]"),
        ([(0, 1)], 17, "num_options is 17; it must lie in 2 to 16"),
    ):
        with pytest.raises(ValueError, match=message):
            least_uncertain_orders(wishes, k)
