"""Which pairs are asked about."""

import math
from typing import get_args

import pytest
import torch

from prefrl.preferences.queries import (
    RULES,
    Candidates,
    OptionQueryKind,
    PoolQueryKind,
    QueryKind,
    check_members,
    choose_queries,
    disagreement,
    knowledge,
    preference_entropy,
)

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


def test_every_kind_has_one_rule_and_is_offered_where_it_can_be_had():
    assert {*get_args(QueryKind), *get_args(OptionQueryKind)} == set(RULES)
    assert set(get_args(PoolQueryKind)) == {
        name for name, rule in RULES.items() if rule.needs != "degrees"
    } - {"recent"}
    assert set(get_args(OptionQueryKind)) - set(get_args(PoolQueryKind)) == {"active_edges"}


def test_bald_wants_disagreement_where_entropy_wants_ignorance():
    first = torch.zeros(2, 2)
    second = torch.tensor([[0.1, 2.0], [-0.1, -1.0]])  # all toss a coin; or they are of two minds
    assert choose_queries("entropy", 1, first, second).tolist() == [0]
    assert choose_queries("bald", 1, first, second).tolist() == [1]


def test_variance_is_of_the_difference():
    """Members who disagree on both segments alike know the difference."""
    first = torch.tensor([[5.0, 0.0, 0.0], [-5.0, 0.0, 0.0]])
    second = torch.tensor([[6.0, 1.0, 9.0], [-4.0, -1.0, 5.0]])
    assert choose_queries("variance", 1, first, second).tolist() == [2]
    assert choose_queries("disagreement", 1, first, second).tolist() == [1]


def test_designs_reckon_with_what_was_answered():
    slopes = torch.tensor([[3.0, 0.0], [0.0, 2.0], [2.9, 0.0]], dtype=torch.float64)
    scores = torch.zeros(1, 3)
    for kind in ("d_optimal", "g_optimal"):
        assert choose_queries(kind, 1, scores, scores, slopes=slopes).tolist() == [0]
        assert choose_queries(kind, 2, scores, scores, slopes=slopes).tolist() == [0, 1]
        known = torch.diag(torch.tensor([50.0, 0.0], dtype=torch.float64))
        assert choose_queries(kind, 1, scores, scores, slopes=slopes, information=known).tolist() == [1]


def test_designs_prefer_answers_that_are_not_known_beforehand():
    slopes = torch.tensor([[2.1, 0.0], [0.0, 2.0]], dtype=torch.float64)
    second = torch.tensor([[9.0, 0.0]])
    assert choose_queries("d_optimal", 1, torch.zeros(1, 2), second, slopes=slopes).tolist() == [1]


def test_the_best_is_looked_for_among_the_good():
    """Pairs: two that are known to be bad; two bad ones of which little is known; two good ones, likewise."""
    one, other = torch.tensor([[1.0, -1.0, 1.0, -1.0], [1.0, 1.0, -1.0, -1.0]])  # not correlated
    bad = torch.full((4,), -9.0)
    first = torch.stack([bad, bad + one, other], 1)
    second = torch.stack([bad, bad - one, -other], 1)
    for kind in ("expected_improvement", "knowledge_gradient"):
        assert choose_queries(kind, 1, first, second).tolist() == [2]
        shifted = torch.tensor([[30.0], [-30.0], [0.0], [7.0]])  # what a member adds to all means nothing
        assert choose_queries(kind, 1, first + shifted, second + shifted).tolist() == [2]


def test_knowledge_of_a_pair_against_draws():
    """E max of posterior means, with means moved along their covariance with the answer."""
    g = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 40, 3, generator=g, dtype=torch.float64)
    found = knowledge(Candidates(first, second))
    scores = torch.cat([first, second], 1)
    scores = scores - scores.mean(1, keepdim=True)
    mean, gaps = scores.mean(0), second - first
    covariance = (scores - mean).T @ (gaps - gaps.mean(0)) / 40
    p = torch.sigmoid(gaps.mean(0))
    deviation = (gaps.var(0, correction=0) + 1 / (p * (1 - p))).sqrt()
    z = torch.randn(400_000, 1, generator=g, dtype=torch.float64)
    for pair in range(3):
        moved = mean + z * covariance[:, pair] / deviation[pair]
        assert float(found[pair]) == pytest.approx(float(moved.amax(1).mean() - mean.max()), abs=3e-3)


def test_what_a_kind_needs_is_asked_for():
    with pytest.raises(ValueError, match="'d_optimal', which needs slopes"):
        choose_queries("d_optimal", 1, FIRST, SECOND)
    with pytest.raises(ValueError, match="'active_edges', which is about options that come again"):
        choose_queries("active_edges", 1, FIRST, SECOND)
    with pytest.raises(ValueError, match=r"'bald', and the reward model has one member.*d_optimal"):
        check_members("bald", 1)
    for kind in ("entropy", "g_optimal", "uniform"):
        check_members(kind, 1)
