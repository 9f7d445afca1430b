"""What general preference models can express; the thresholds were fixed after one pilot.

The experiments stand in ``scripts/reproduce_preference_models.py``, which measures them on other seeds.
"""

import pytest

from prefrl.run.study.claims import measure_claims
from scripts import loaded

study = loaded("reproduce_preference_models.py")

HELD = {"circles": 6, "skew": 10, "coverage": 1, "pessimism": 1, "design": 3, "groups_A": 1, "groups_B": 1}
"""Claims that hold, and how many seeds are tried here."""


DEAR = ("circles", "skew", "groups_B")
"""Those that take ten seconds and more."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in DEAR else name for name in HELD]
)
def test_claims_that_hold(name: str) -> None:
    found = measure_claims({name: study.CLAIMS[name]}, range(HELD[name]))[name]
    assert found["holds"], found["spread"]


def test_utilities_are_found_in_order_on_the_mean() -> None:
    rows = [study.random_utility(seed) for seed in range(10)]
    assert all(row["pairs"] <= 2 * 20 * 4.33 for row in rows)
    assert sum(row["thurstone"] for row in rows) / 10 >= 0.95  # seen: .968
