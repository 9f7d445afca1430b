"""Which pairs are asked about."""

import math

import pytest
import torch

from prefrl.preferences.queries import choose_queries, disagreement, preference_entropy

FIRST = torch.zeros(2, 3)
SECOND = torch.tensor([[0.0, 4.0, 9.0], [0.0, -4.0, 9.0]])
"""Scores by two members: none knows of the first pair, they disagree on the second, both know the third."""


def test_worth_by_hand():
    p = 1.0 / (1.0 + math.exp(-4.0))
    torch.testing.assert_close(disagreement(FIRST, SECOND)[:2], torch.tensor([0.0, p - 0.5]))
    entropy = preference_entropy(FIRST, SECOND)
    torch.testing.assert_close(entropy[:2], torch.full((2,), math.log(2.0)))
    assert float(entropy[2]) < 0.01


def test_the_best_are_chosen():
    assert choose_queries("disagreement", 1, FIRST, SECOND).tolist() == [1]
    assert sorted(choose_queries("entropy", 2, FIRST, SECOND).tolist()) == [0, 1]
    assert choose_queries("uniform", 2, FIRST, SECOND).tolist() == [0, 1]


def test_wrong_arguments():
    with pytest.raises(ValueError, match="count is 4; there are 3 candidates"):
        choose_queries("uniform", 4, FIRST, SECOND)
    with pytest.raises(ValueError, match="kind is 'best'"):
        choose_queries("best", 1, FIRST, SECOND)
