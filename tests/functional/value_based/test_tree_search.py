"""Formulas of the search, by hand."""

import math

import pytest
import torch

from prefrl.functional.value_based.tree_search import (
    line_of_child,
    node_values,
    policy_values,
    puct_scores,
    step_priors,
    value_differences,
)


def test_scores_values_and_lines() -> None:
    q, visits = torch.tensor([1.0, -1.0, 0.5]).double(), torch.tensor([3.0, 0.0, 1.0]).double()
    priors = torch.tensor([0.5, 0.3, 0.2]).double()
    expected = [1.0 + 2 * 0.5 * math.sqrt(5) / 4, -1.0 + 2 * 0.3 * math.sqrt(5), 0.5 + 0.2 * math.sqrt(5)]
    torch.testing.assert_close(puct_scores(q, priors, visits, 2.0), torch.tensor(expected).double())
    assert float(node_values(q, visits)) == pytest.approx((3.0 - 1.0 + 0.5) / 5.0)
    # The first edge is worth its reward .1 and .9 V(child); the others add up to -.5.
    numbers = (torch.tensor(number).double() for number in (-0.5, 3.0, 5.0, 0.1))
    a, b = line_of_child(*numbers, 0.9)
    assert float(a + b * 1.0) == pytest.approx((3.0 * (0.1 + 0.9) - 0.5) / 5.0)


def test_priors_of_long_steps() -> None:
    log_probs = torch.tensor([[0.5, 0.5], [0.5, math.nan], [0.0, 0.5]]).double().log()
    found = step_priors(log_probs, 1.25)
    torch.testing.assert_close(found, torch.tensor([0.25 ** (2**-1.25), 0.5, 0.0]).double())
    assert float(step_priors(log_probs, 0.0)[0]) == pytest.approx(0.25)


def test_values_of_a_policy_and_of_a_judge() -> None:
    successors, terminal = torch.tensor([[1, 0], [2, 0], [2, 2]]), torch.tensor([False, False, True])
    rewards = torch.tensor([[0.0, -1.0], [4.0, 0.0], [0.0, 0.0]]).double()
    policy = torch.tensor([[0.5, 0.5], [1.0, 0.0], [0.5, 0.5]]).double()
    found = policy_values(policy, successors, rewards, terminal, 0.5, 2)
    assert found.tolist() == [-0.5 + 0.5 * (0.5 * 4.0 + 0.5 * -0.5), 4.0, 0.0]
    assert value_differences(torch.tensor([0.0, 2.0, 5.0]), successors)[1].tolist() == [3.0, -2.0]
