"""Epsilon by hand."""

import pytest
import torch

from prefrl.functional.value_based.exploration import epsilon_greedy, epsilon_greedy_alone, linear_epsilon


@pytest.mark.parametrize(("now", "expected"), [(0, 0.9), (50, 0.5), (100, 0.1), (1000, 0.1)])
def test_epsilon_falls_linearly_and_stays(now: int, expected: float) -> None:
    assert linear_epsilon(0.9, 0.1, 100, now) == pytest.approx(expected)


def test_epsilon_that_falls_at_once() -> None:
    assert linear_epsilon(0.9, 0.1, 0, 0) == 0.9
    assert linear_epsilon(0.9, 0.1, 0, 1) == pytest.approx(0.1)


def test_uniform_actions_where_the_second_row_of_noise_is_below_epsilon() -> None:
    noise = torch.tensor([[0.0, 0.99, 0.5, 0.26], [0.29, 0.1, 0.3, 0.0]])
    assert epsilon_greedy(torch.tensor([3, 3, 3, 3]), 4, 0.3, noise).tolist() == [0, 3, 3, 1]


@pytest.mark.parametrize(
    ("share", "chance", "expected"), [(0.0, 0.29, 0), (0.99, 0.1, 3), (0.5, 0.3, 2), (0.26, 0.0, 1)]
)
def test_a_single_row_by_plain_numbers(share: float, chance: float, expected: int) -> None:
    assert epsilon_greedy_alone([1.0, -2.0, 5.0, 5.0], 0.3, share, chance) == expected
