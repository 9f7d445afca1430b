"""How smooth functions are whose slopes are known."""

import math

import pytest
import torch
from torch import Tensor

from prefrl.functional.actor_critic.smoothness import (
    adversarial_states,
    global_bounds,
    gradient_norms,
    local_lipschitz,
    segment_lipschitz,
    with_gradient,
)

SLOPE = torch.tensor([3.0, -4.0])


def linear(states: Tensor) -> Tensor:
    return states @ SLOPE


def bump(states: Tensor) -> Tensor:
    return torch.sin(3.0 * states[:, 0]) * torch.cos(2.0 * states[:, 1])


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def states(count: int = 500) -> Tensor:
    return torch.randn(count, 2, generator=generator())


def test_a_linear_function_has_one_slope_everywhere() -> None:
    function = with_gradient(linear)
    torch.testing.assert_close(gradient_norms(function, states()), torch.full((500,), 5.0))
    segments = segment_lipschitz(function, states(), states() + 1.0)
    torch.testing.assert_close(segments, torch.full((500,), 5.0))
    # In a box, ascents end in the corner (1, -1), whose direction loses 7 / (5 sqrt 2) of the slope; random
    # starts come closer to the gradient's own direction, and nothing goes beyond it.
    local = local_lipschitz(function, states(), 0.05, generator())
    assert local.max() <= 5.0 * (1 + 1e-3)
    assert local.min() >= 7.0 / math.sqrt(2.0) * (1 - 1e-3)


def test_local_estimates_stay_below_the_truth_and_find_more_than_the_slope_in_the_middle() -> None:
    function, at = with_gradient(bump), torch.zeros(1, 2)
    # sin(3 x) cos(2 y): slope 3 at the origin, the largest anywhere; at (pi / 6, 0) it is 0 in the middle
    assert 2.6 < float(local_lipschitz(function, at, 0.05, generator())) <= 3.0 + 1e-4
    top = torch.tensor([[math.pi / 6.0, 0.0]])
    assert float(gradient_norms(function, top)) < 1e-4
    assert 0.05 < float(local_lipschitz(function, top, 0.05, generator())) < 3.0 * math.sin(0.15)


def test_differences_are_bounded_by_the_slope_on_the_segment() -> None:
    function, start = with_gradient(bump), states()
    end = start + 0.3 * torch.randn(500, 2, generator=generator())
    gaps = (bump(end) - bump(start)).abs()
    bound = segment_lipschitz(function, start, end) * torch.linalg.vector_norm(end - start, dim=-1)
    assert (gaps <= bound * 1.01 + 1e-5).all()
    assert (gaps > 0.5 * bound).float().mean() > 0.3  # and not by much


def test_attacks_stay_in_the_box_and_beat_noise() -> None:
    function, middle = with_gradient(bump), states()
    radius = torch.tensor([0.1, 0.02])
    clean, _ = function(middle)
    start = 2.0 * torch.rand(500, 2, generator=generator()) - 1.0
    gaps = {}
    for steps in (0, 1, 3):
        moved = adversarial_states(function, middle, clean, radius, start, steps)
        assert not moved.requires_grad
        assert ((moved - middle).abs() <= radius * (1 + 1e-5) + 1e-7).all()
        gaps[steps] = (bump(moved) - clean).abs()
    assert (gaps[1] >= gaps[0]).float().mean() >= 0.8
    assert (gaps[3] >= gaps[0]).float().mean() >= 0.8
    # against the signs at random, as strong as the one step
    signs = torch.randint(0, 2, (500, 2), generator=generator()) * 2.0 - 1.0
    assert ((gaps[1] - (bump(middle + radius * signs) - clean).abs()) >= -1e-6).float().mean() >= 0.8


def test_at_the_state_itself_there_is_nothing_to_ascend() -> None:
    function, middle = with_gradient(bump), states(5)
    clean, _ = function(middle)
    moved = adversarial_states(function, middle, clean, torch.tensor([0.1, 0.1]), torch.zeros(5, 2), 1)
    torch.testing.assert_close(moved, middle)


def test_global_bounds_multiply_the_layers() -> None:
    weights = [
        torch.stack([torch.diag(torch.tensor([10.0, 1.0])), torch.eye(2)]),
        100.0 * torch.ones(2, 2, 1),
    ]
    expected = torch.tensor([3.0 + 0.5 * math.log10(2.0), 2.0 + 0.5 * math.log10(2.0)])
    torch.testing.assert_close(global_bounds(weights), expected)


def test_gradients_leave_the_function_alone() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    values, slopes = with_gradient(lambda at: at @ weight)(torch.zeros(3, 2))
    assert weight.grad is None
    assert not values.requires_grad
    torch.testing.assert_close(slopes, torch.ones(3, 2))
    assert pytest.approx(0.0) == float(values.sum())
