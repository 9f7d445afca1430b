"""Margins by hand, antisymmetric, and as ways to say the same."""

import math

import pytest
import torch
from hypothesis import given, strategies as st

from prefrl.functional.preferences.general_models.margins import (
    angle_score,
    distance_score,
    probit_margin,
    rotation_margin,
)


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_rotation_by_hand() -> None:
    """One block: (1, 0) against (0, 1); the second is preferred where it lies a quarter turn BEHIND."""
    assert float(rotation_margin(tensor(0, 1), tensor(1, 0), tensor(2.0))) == 2.0
    assert float(rotation_margin(tensor(1, 0), tensor(0, 1), tensor(2.0))) == -2.0
    both = rotation_margin(tensor(0, 1, 3, 1), tensor(1, 0, 5, 1), tensor(2.0, 0.5))
    assert float(both) == 2.0 + 0.5 * (5.0 - 3.0)


def test_an_embedding_of_a_reward_and_one_is_bradley_terry() -> None:
    rewards = torch.randn(2, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    first, second = (torch.stack([r, torch.ones_like(r)], -1) for r in rewards)
    torch.testing.assert_close(
        rotation_margin(first, second, tensor(1.0)), rewards[1] - rewards[0], rtol=0.0, atol=0.0
    )


@given(st.integers(0, 1000))
def test_antisymmetric(seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, 5, 6, generator=g, dtype=torch.float64)
    rates, variance = torch.rand(2, 5, 3, generator=g, dtype=torch.float64)
    torch.testing.assert_close(rotation_margin(a, b, rates), -rotation_margin(b, a, rates), rtol=0, atol=0)
    probit = probit_margin(a[:, 0], b[:, 0], variance[:, 0])
    torch.testing.assert_close(probit, -probit_margin(b[:, 0], a[:, 0], variance[:, 0]), rtol=0, atol=0)


def test_ideals_by_hand() -> None:
    assert float(distance_score(tensor(3, 4), tensor(0, 0))) == pytest.approx(-5.0)
    assert float(angle_score(tensor(3, 4), tensor(0, 2), tensor(10.0))) == pytest.approx(8.0)


def test_probit_is_the_log_odds_of_the_normal_distribution() -> None:
    z = (2.0 - 0.5) / math.sqrt(4.0)
    p = 0.5 * math.erfc(-z / math.sqrt(2.0))
    assert float(probit_margin(tensor(0.5), tensor(2.0), tensor(4.0))) == pytest.approx(math.log(p / (1 - p)))
    far = probit_margin(tensor(0.0), tensor(60.0), tensor(1.0))  # P rounds to 1, its log-odds do not
    assert float(far) == pytest.approx(1800.0, rel=0.01)
