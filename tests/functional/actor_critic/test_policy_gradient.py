"""Advantages, surrogate and errors: numbers worked out by hand, slow twins, and autograd."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor

from prefrl.functional.actor_critic.policy_gradient import (
    clipped_surrogate,
    discounted_sums,
    explained_variance,
    generalized_advantages,
    squared_errors,
    standardized,
)


def column(*values: Any) -> Tensor:
    return torch.tensor(values)[:, None]


NO = column(False, False, False)


@pytest.mark.parametrize(
    ("terminations", "truncations", "expected"),
    [
        # With gamma = lambda = 1/2; deltas 1 + 4/2 - 2 = 1, 2 + 8/2 - 4 = 2, 3 + 6/2 - 8 = -2.
        ((0, 0, 0), (0, 0, 0), (1 + (2 - 2 / 4) / 4, 2 - 2 / 4, -2.0)),
        # The second row ends the world: its delta is 2 - 4 = -2, and nothing of later rows comes before it.
        ((0, 1, 0), (0, 0, 0), (1 - 2 / 4, -2.0, -2.0)),
        # The second row is cut: its successor counts, later rows do not.
        ((0, 0, 0), (0, 1, 0), (1 + 2 / 4, 2.0, -2.0)),
        # Both at once: it is an end.
        ((0, 1, 0), (0, 1, 0), (1 - 2 / 4, -2.0, -2.0)),
        # The last row: a cut changes nothing, since nothing comes after it; an end takes its successor away.
        ((0, 0, 0), (0, 0, 1), (1 + (2 - 2 / 4) / 4, 2 - 2 / 4, -2.0)),
        ((0, 0, 1), (0, 0, 0), (1 + (2 - 5 / 4) / 4, 2 - 5 / 4, -5.0)),
    ],
)
def test_advantages_by_hand(terminations: Any, truncations: Any, expected: Any) -> None:
    rewards, values, next_values = column(1.0, 2.0, 3.0), column(2.0, 4.0, 8.0), column(4.0, 8.0, 6.0)
    found = generalized_advantages(rewards, values, next_values, column(*terminations).bool(),
                                   column(*truncations).bool(), 0.5, 0.5)  # fmt: skip
    assert found[:, 0].tolist() == list(expected)


def test_lambda_goes_from_one_step_to_the_whole_return() -> None:
    rewards, values, next_values = column(1.0, 2.0, 3.0), column(2.0, 4.0, 8.0), column(4.0, 8.0, 6.0)
    one, whole = (
        generalized_advantages(rewards, values, next_values, NO, NO, 0.5, lam) for lam in (0.0, 1.0)
    )
    assert one[:, 0].tolist() == [1.0, 2.0, -2.0]
    assert whole[:, 0].tolist() == [1 + 2 / 2 + 3 / 4 + 6 / 8 - 2, 2 + 3 / 2 + 6 / 4 - 4, 3 + 6 / 2 - 8]


def slow_advantages(steps: dict[str, Any], gamma: float, lam: float) -> list[float]:
    """One column, by the definition: sums of deltas, weighted by (gamma lambda)^k, until something ends."""
    length, found = len(steps["rewards"]), []
    delta = [
        steps["rewards"][t]
        + (0.0 if steps["terminations"][t] else gamma * steps["next_values"][t])
        - steps["values"][t]
        for t in range(length)
    ]
    for t in range(length):
        total, weight = 0.0, 1.0
        for k in range(t, length):
            total += weight * delta[k]
            weight *= gamma * lam
            if steps["terminations"][k] or steps["truncations"][k]:
                break
        found.append(total)
    return found


@given(st.integers(0, 1000), st.integers(1, 7), st.integers(1, 4), st.floats(0, 1))
def test_advantages_are_the_slow_twins(seed: int, length: int, rows: int, lam: float) -> None:
    rng = np.random.default_rng(seed)
    steps = {name: rng.normal(size=(length, rows)) for name in ("rewards", "values", "next_values")}
    steps |= {name: rng.random((length, rows)) < 0.25 for name in ("terminations", "truncations")}
    gammas = rng.random(rows)
    tensors = {name: torch.as_tensor(values) for name, values in steps.items()}
    given_before = {name: values.clone() for name, values in tensors.items()}
    found = generalized_advantages(**tensors, gamma=torch.as_tensor(gammas), gae_lambda=lam)
    for row, gamma in enumerate(gammas):
        expected = slow_advantages({name: values[:, row] for name, values in steps.items()}, gamma, lam)
        np.testing.assert_allclose(found[:, row], expected, rtol=1e-9, atol=1e-12)
    assert all(torch.equal(tensors[name], given_before[name]) for name in tensors)


@pytest.mark.parametrize(
    ("ratio", "advantage", "objective", "moves"),
    [
        (1.1, 2.0, 2.2, True),
        (1.3, 2.0, 2.4, False),  # as far as it counts
        (0.5, 2.0, 1.0, True),  # it may come back
        (1.3, -2.0, -2.6, True),  # likewise
        (0.5, -2.0, -1.6, False),
        (1.0, -2.0, -2.0, True),
    ],
)
def test_the_surrogate_by_hand(ratio: float, advantage: float, objective: float, moves: bool) -> None:
    found, still = clipped_surrogate(torch.tensor(ratio), torch.tensor(advantage), 0.2)
    assert found.item() == pytest.approx(objective)
    assert still.item() is moves


def test_the_surrogates_slope_is_autograds() -> None:
    draws = torch.Generator().manual_seed(0)
    log_probs = (0.3 * torch.randn(500, generator=draws, dtype=torch.float64)).requires_grad_()
    advantages = torch.randn(500, generator=draws, dtype=torch.float64)
    ratio = log_probs.exp()
    plain, clipped = ratio * advantages, ratio.clamp(0.8, 1.2) * advantages
    (expected,) = torch.autograd.grad(torch.where(plain < clipped, plain, clipped).sum(), log_probs)
    objective, moves = clipped_surrogate(ratio, advantages, 0.2)
    torch.testing.assert_close(objective, torch.minimum(plain, clipped))
    torch.testing.assert_close(moves * ratio * advantages, expected)
    assert 0 < moves.sum() < 500


@pytest.mark.parametrize("clip_range", [None, 0.5])
def test_squared_errors_and_their_slopes_are_autograds(clip_range: float | None) -> None:
    draws = torch.Generator().manual_seed(0)
    values, returns, old = torch.randn(3, 500, generator=draws, dtype=torch.float64)
    values.requires_grad_()
    used = values if clip_range is None else old + torch.clamp(values - old, -clip_range, clip_range)
    expected = (used - returns).square()
    (slopes,) = torch.autograd.grad(expected.sum(), values)
    errors, found = squared_errors(values.detach(), returns, old, clip_range)
    torch.testing.assert_close(errors, expected.detach())
    torch.testing.assert_close(found, slopes)
    assert bool((found == 0.0).any()) == (clip_range is not None)


def test_errors_of_clipped_values_by_hand() -> None:
    values, returns = torch.tensor([3.0, 1.25, -2.0]), torch.tensor([2.0, 2.0, 2.0])
    errors, slopes = squared_errors(values, returns, torch.tensor([1.0, 1.0, 1.0]), 0.5)
    assert errors.tolist() == [0.25, 0.5625, 2.25]  # of 1.5, 1.25 and 0.5
    assert slopes.tolist() == [0.0, -1.5, 0.0]


def test_discounted_sums_by_hand() -> None:
    ended = torch.tensor([[False, False], [True, False], [False, False]])
    sums = discounted_sums(torch.tensor([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]), ended,
                           torch.tensor([8.0, 0.0]), torch.tensor([0.5, 0.25]))  # fmt: skip
    assert sums.tolist() == [[5.0, 1.0], [4.5, 2.25], [3.0, 3.5625]]


@given(st.integers(0, 1000), st.integers(1, 6), st.integers(0, 6))
def test_discounted_sums_go_on_from_part_to_part(seed: int, length: int, cut: int) -> None:
    rng = np.random.default_rng(seed)
    rewards, ended = (
        torch.as_tensor(rng.normal(size=(length, 3))),
        torch.as_tensor(rng.random((length, 3)) < 0.3),
    )
    gamma, before = torch.as_tensor(rng.random(3)), torch.as_tensor(rng.normal(size=3))
    whole = discounted_sums(rewards, ended, before, gamma)
    for row in range(3):
        running, expected = before[row].item(), []
        for t in range(length):
            running = rewards[t, row].item() + gamma[row].item() * running
            expected.append(running)
            running *= not ended[t, row]
        np.testing.assert_allclose(whole[:, row], expected)
    if 0 < cut < length:
        first = discounted_sums(rewards[:cut], ended[:cut], before, gamma)
        second = discounted_sums(rewards[cut:], ended[cut:], first[-1] * ~ended[cut - 1], gamma)
        torch.testing.assert_close(torch.cat([first, second]), whole)


def test_standardized_under_weights() -> None:
    values = torch.tensor([[1.0, 3.0, 100.0], [5.0, 5.0, 5.0]])
    weights = torch.tensor([[0.5, 0.5, 0.0], [0.25, 0.25, 0.5]])
    found = standardized(values, weights)
    assert found[0, :2].tolist() == pytest.approx([-1.0, 1.0])
    assert found[1].tolist() == [0.0, 0.0, 0.0]
    many = torch.randn(2, 1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = (many - many.mean(1, keepdim=True)) / many.std(1, correction=0, keepdim=True)
    torch.testing.assert_close(standardized(many, torch.full((2, 1000), 1e-3).double()), expected)


def test_explained_variance_by_hand() -> None:
    targets = torch.tensor([0.0, 2.0, 4.0, 99.0])
    weights = torch.tensor([1.0, 1.0, 1.0, 0.0])
    for predictions, expected in (
        ([0.0, 2.0, 4.0, 0.0], 1.0),
        ([7.0, 7.0, 7.0, 0.0], 0.0),
        ([5.0, 7.0, 9.0, 0.0], 1.0),  # a constant is no error
        ([0.0, 1.0, 2.0, 0.0], 0.75),
        ([4.0, 2.0, 0.0, 0.0], -3.0),
    ):
        assert explained_variance(torch.tensor(predictions), targets, weights).item() == pytest.approx(
            expected
        )
    assert math.isnan(explained_variance(torch.zeros(4), torch.ones(4), weights).item())
    both = explained_variance(torch.stack([targets, targets]), torch.stack([targets, -targets]), weights)
    assert both.tolist() == pytest.approx([1.0, -3.0])
