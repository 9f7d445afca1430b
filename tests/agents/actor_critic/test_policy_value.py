"""Policy and value side by side: how they start, and actions as the environment takes them."""

import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor

from prefrl.agents.actor_critic.policy_value import PolicyValue
from prefrl.nn.likelihood_policies import Actions
from prefrl.nn.policies import Categoricals, DiagonalGaussian

CPU = torch.device("cpu")


def networks(*seeds: int, activation: Any = "tanh") -> PolicyValue:
    return PolicyValue(4, DiagonalGaussian(2), (6, 5), activation, -0.5, seeds, CPU)


def test_weights_are_orthogonal_with_sb3s_gains() -> None:
    """SB3 calls torch's ``orthogonal_`` on matrices [out, in]: the shorter side's vectors are orthogonal."""
    for name, last in (("policy", 0.01), ("value", 1.0)):
        stack = getattr(networks(0, 1), name)
        for weight, gain in zip(stack.weights(), [math.sqrt(2.0), math.sqrt(2.0), last], strict=True):
            for of_one in weight.detach():  # [in, out]
                short = of_one if of_one.shape[0] <= of_one.shape[1] else of_one.T
                expected = gain**2 * torch.eye(len(short))
                torch.testing.assert_close(short @ short.T, expected, rtol=1e-4, atol=1e-6)
        assert not any(bias.any() for bias in stack.biases())
    assert networks(0).free.tolist() == [[[-0.5, -0.5]]]
    assert PolicyValue(4, Categoricals([3]), (6,), "relu", 0.0, [0], CPU).free.shape == (1, 1, 0)


def test_a_learner_starts_alike_whoever_is_beside_it() -> None:
    alone, many = networks(7).state_dict(), networks(3, 7, 5).state_dict()
    for name, value in alone.items():
        assert torch.equal(many[name][1], value[0])
        if "weight" in name:
            assert not torch.equal(many[name][0], value[0])
            assert not torch.equal(many[name][2], value[0])


def test_making_them_leaves_torchs_own_generator_alone() -> None:
    state = torch.get_rng_state()
    networks(1, 2)
    assert torch.equal(torch.get_rng_state(), state)


def to_env(space: gym.Space[Any], raw: Tensor) -> list[Any]:
    actions = Actions(space, CPU).to_env(raw).numpy()
    assert all(space.contains(row.astype(space.dtype)) for row in actions)
    found: list[Any] = actions.tolist()
    return found


def test_choices_are_counted_from_the_start() -> None:
    assert to_env(gym.spaces.Discrete(3, start=-1), torch.tensor([[0], [2]])) == [-1, 1]
    space = gym.spaces.MultiDiscrete([2, 3], start=[5, -4])
    assert to_env(space, torch.tensor([[0, 0], [1, 2]])) == [[5, -4], [6, -2]]
    square = gym.spaces.MultiDiscrete(np.array([[2, 3], [4, 5]]))
    assert to_env(square, torch.tensor([[1, 2, 3, 4]])) == [[[1, 2], [3, 4]]]
    assert Actions(square, CPU).distribution.outputs == 14


def test_numbers_are_halves_of_a_width_around_the_middle_and_cut() -> None:
    low, high = np.array([-1.0, 2.0], np.float32), np.array([3.0, 2.5], np.float32)
    raw = torch.tensor([[0.0, 0.0], [0.5, -1.0], [-1.0, 1.0], [9.0, -9.0]])
    assert to_env(gym.spaces.Box(low, high), raw) == [[1.0, 2.25], [2.0, 2.0], [-1.0, 2.5], [3.0, 2.0]]


def test_numbers_without_both_bounds_are_as_they_are_and_cut() -> None:
    low, high = np.array([-np.inf, 0.0, -np.inf, 1.0]), np.array([np.inf, np.inf, 2.0, 1.0])
    space = gym.spaces.Box(low.astype(np.float32), high.astype(np.float32))
    raw = torch.tensor([[7.0, 7.0, 7.0, 7.0], [-7.0, -7.0, -7.0, -7.0]])
    assert to_env(space, raw) == [[7.0, 7.0, 2.0, 1.0], [-7.0, 0.0, -7.0, 1.0]]


@pytest.mark.parametrize("shape", [(), (1,), (2, 3)])
def test_boxes_of_any_shape(shape: tuple[int, ...]) -> None:
    space = gym.spaces.Box(-2.0, 2.0, shape)
    actions = Actions(space, CPU)
    assert actions.distribution.outputs == actions.distribution.width == max(1, math.prod(shape))
    assert actions.to_env(torch.zeros(5, actions.distribution.outputs)).shape == (5, *shape)


def test_enormous_bounds_do_not_overflow() -> None:
    (found,) = to_env(gym.spaces.Box(-3e38, 3e38, (2,)), torch.tensor([[2.0, -0.5]]))
    assert found == pytest.approx([3e38, -1.5e38])


def test_numbers_that_are_none_are_put_into_the_space() -> None:
    space = gym.spaces.Box(np.array([1.0, -1.0], np.float32), np.array([2.0, np.inf], np.float32))
    to_env(space, torch.tensor([[torch.nan, torch.nan], [-torch.inf, torch.inf]]))
