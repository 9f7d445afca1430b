"""Preferences between whole trajectories."""

import math

import pytest
import torch

from prefrl.functional.preferences.games import cycle_of_three, minimax_winner
from prefrl.preferences.trajectories import (
    ByOption,
    MaxReturn,
    Noisy,
    Trajectory,
    WithinBudget,
    majority_matrix,
)


def trajectory(rewards, vector=None):
    n = len(rewards)
    infos = {} if vector is None else {"reward_vector": torch.tensor(vector, dtype=torch.float64)}
    return Trajectory(torch.zeros(n + 1, 1), torch.zeros(n, 1), torch.tensor(rewards), True, infos)


def compared(preference, *trajectories, seed=0):
    numbers = torch.stack([preference.summarize(one) for one in trajectories])
    return preference.compare(numbers, numbers, torch.Generator().manual_seed(seed))


def test_larger_return():
    three = [trajectory([1.0, 1.0]), trajectory([3.0]), trajectory([0.5, 1.5])]
    assert compared(MaxReturn(), *three).tolist() == [[0, -1, 0], [1, 0, 1], [0, -1, 0]]
    soft = compared(MaxReturn(temperature=2.0), *three)
    assert float(soft[1, 0]) == pytest.approx(2.0 / (1.0 + math.exp(-0.5)) - 1.0)
    assert torch.equal(soft, -soft.T)


def test_noise_turns_a_share_of_answers_round():
    many = [trajectory([float(i)]) for i in range(100)]
    right, noisy = (compared(p, *many) for p in (MaxReturn(), Noisy(MaxReturn(), 0.2)))
    apart = ~torch.eye(100, dtype=torch.bool)
    assert float((right != noisy)[apart].double().mean()) == pytest.approx(0.2, abs=0.02)
    assert torch.equal(noisy, compared(Noisy(MaxReturn(), 0.2), *many)), "the generator decides"


def test_options_that_beat_each_other_in_a_cycle():
    def reached(option):
        return trajectory([0.0, 1.0], [[0.0] * 4, [1.0, *(float(i == option) for i in range(3))]])

    nowhere = trajectory([0.0], [[0.0] * 4])
    p = compared(ByOption(cycle_of_three(0.9, 0.8, 0.7)), *(reached(i) for i in range(3)), nowhere)
    assert p.tolist() == [[0, 0.9, -0.7, 1], [-0.9, 0, 0.8, 1], [0.7, -0.8, 0, 1], [-1, -1, -1, 0]]
    with pytest.raises(ValueError, match="has 1 columns for 3 options"):
        ByOption(cycle_of_three(1, 1, 1)).summarize(trajectory([0.0], [[0.0, 1.0]]))


def test_return_within_a_budget():
    def graze(inside, reward=1.0):
        return trajectory([reward * i for i in inside], [[0.0, float(i)] for i in inside])

    little, half, more, most = graze([1, 0, 0, 0]), graze([1, 1, 0, 0]), graze([1, 1, 1, 0]), graze([1] * 4)
    p = compared(WithinBudget(0.5), little, half, more, most)
    assert p.tolist() == [[0, -1, 1, 1], [1, 0, 1, 1], [-1, -1, 0, 1], [-1, -1, -1, 0]]


def test_a_majority_of_consistent_people_can_be_a_cycle():
    matrix = majority_matrix(torch.tensor([[0, 1, 2], [1, 2, 0], [2, 0, 1]]))
    third = 1.0 / 3.0
    torch.testing.assert_close(matrix, cycle_of_three(third, third, third))
    torch.testing.assert_close(minimax_winner(matrix), torch.full((3,), third, dtype=torch.float64))
    assert majority_matrix(torch.tensor([[1, 0]])).tolist() == [[0.0, -1.0], [1.0, 0.0]]
    with pytest.raises(ValueError, match="each row must rank"):
        majority_matrix(torch.tensor([[0, 0, 1]]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MaxReturn(-1.0), "temperature is -1.0"),
        (lambda: Noisy(MaxReturn(), 0.5), "flip is 0.5"),
        (lambda: WithinBudget(1.5), "share is 1.5"),
        (lambda: ByOption(torch.ones(3, 3)), "not antisymmetric"),
    ],
)
def test_wrong_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
