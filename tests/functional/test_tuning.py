"""Gaps of tuning by hand, and their rate."""

import numpy as np
import pytest

from prefrl.functional.tuning import tuning_gap
from prefrl.run.study.values.composers import lambda_utilities


def test_gaps_by_hand() -> None:
    table = np.array([[0.0, 0.0, 0.0, 0.0], [3.0, -1.0, -1.0, -1.0]])
    found = tuning_gap(table, [1], draws=4_000, seed=0)
    # One task in four shows 3, then the second setting is chosen, which is worth -1 on the others.
    assert found["gap"][0] == pytest.approx(4.0 / 4.0, abs=0.1)
    assert found["optimism"][0] == pytest.approx(found["gap"][0])
    assert found["train"][0] == pytest.approx(3.0 / 4.0, abs=0.1)
    assert found["test"][0] == pytest.approx(-1.0 / 4.0, abs=0.05)
    assert found["regret"][0] == pytest.approx(1.0 / 4.0, abs=0.05)
    assert found["slope"] is None
    assert tuning_gap(table)["num_tasks"] == [1]


def test_nothing_is_overrated_where_tasks_are_alike() -> None:
    found = tuning_gap(np.array([[1.0] * 16, [2.0] * 16]))
    assert found["num_tasks"] == [1, 2, 4]
    assert found["gap"] == [0.0] * 3
    assert found["regret"] == [0.0] * 3
    assert found["test"] == [2.0] * 3
    assert found["slope"] is None


def test_the_gap_falls_as_a_root() -> None:
    table = np.random.default_rng(0).normal(size=(3, 2_048))
    found = tuning_gap(table, [4, 8, 16, 32, 64, 128])
    assert -0.6 < found["slope"] < -0.4
    expected = tuning_gap(table[:1].repeat(2, 0), [16], draws=2_000)  # both settings the same: no choice
    assert expected["gap"][0] == pytest.approx(np.sqrt(2.0 / np.pi / 16.0), rel=0.1)
    assert expected["optimism"][0] == pytest.approx(0.0, abs=0.03)


def test_utilities_of_the_study_are_errors_of_values() -> None:
    found = lambda_utilities(0, tasks=300)
    assert found.shape == (11, 300)
    assert (found < 0.0).all()
    assert len({round(value, 6) for value in found.mean(1).tolist()}) == 11


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match=r"utilities have shape \(1, 4\)"):
        tuning_gap(np.zeros((1, 4)))
    with pytest.raises(ValueError, match="sizes has 3"):
        tuning_gap(np.zeros((2, 4)), [3])
    with pytest.raises(ValueError, match="draws is 0"):
        tuning_gap(np.zeros((2, 4)), draws=0)
