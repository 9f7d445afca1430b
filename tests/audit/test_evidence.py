"""Circles and differences among users, against what noise gives."""

import pytest
import torch

from prefrl.audit.evidence import (
    Pairs,
    find_circles,
    find_differences,
    find_noise,
    find_planted_circle,
    p_value,
)
from prefrl.audit.held_out import candidates
from prefrl.preferences.general_models import Comparisons


def asked(chances: torch.Tensor, each: int, seed: int, users: int = 1) -> Comparisons:
    """Every pair as often, answered with chances [K, K] that the column is preferred to the row."""
    g = torch.Generator().manual_seed(seed)
    first, second = torch.triu_indices(len(chances), len(chances), 1).repeat(1, each)
    labels = torch.bernoulli(chances[first, second], generator=g)
    who = torch.arange(len(first)) // (len(first) // each) % users
    return Comparisons(first, second, labels, len(chances), None, who if users > 1 else None, users)


def order(options: int = 5) -> torch.Tensor:
    """Chances of a Bradley-Terry order."""
    worth = torch.linspace(-1.5, 1.5, options, dtype=torch.float64)
    return torch.sigmoid(worth[None] - worth[:, None])


def circle() -> torch.Tensor:
    """The same, but the first three go round."""
    chances = order()
    for i in range(3):
        chances[i, (i + 1) % 3], chances[(i + 1) % 3, i] = 0.2, 0.8
    return chances


def test_p_values_count_the_observation() -> None:
    null = torch.arange(9, dtype=torch.float64)
    assert p_value(null, 20.0) == 0.1
    assert p_value(null, 8.0) == 0.2
    assert p_value(null, -1.0) == 1.0


def test_a_circle_is_found_and_an_order_has_none() -> None:
    for chances, there in ((circle(), True), (order(), False)):
        comparisons = asked(chances, 40, 0)
        pairs = Pairs.of(comparisons, candidates(comparisons, (), (), 0)["bradley_terry"])
        found = find_circles(pairs, 299, 0)
        assert found is not None
        assert found.triads == 10
        assert (found.cyclic > 0) == there
        assert (found.p <= 0.01) == there
        assert found.power > 0.7
        assert found.interval[0] <= found.expected <= found.interval[1] + 0.01
        again = find_circles(pairs, 299, 0)
        assert again is not None
        assert again.p == found.p


def test_few_answers_have_little_power() -> None:
    comparisons = asked(order(), 2, 0)
    pairs = Pairs.of(comparisons, candidates(comparisons, (), (), 0)["bradley_terry"])
    found = find_circles(pairs, 99, 0)
    assert found is not None
    assert found.power < 0.3


def test_pairs_keep_ties_apart() -> None:
    half = torch.tensor([0.5, 0.5, 1.0, 1.0, 0.0], dtype=torch.float64)
    first = torch.zeros(5, dtype=torch.int64)
    comparisons = Comparisons(first, first + 1, half, 2)
    pairs = Pairs.of(comparisons, candidates(comparisons, (1,), (), 0)["bradley_terry"])
    assert (float(pairs.wins), float(pairs.counts), float(pairs.ties)) == (3.0, 5.0, 2.0)
    # The model gives about .6 of all five, so about 2 / 3 of the three that were decided.
    assert 0.6 < float(pairs.chances) < 0.68


def test_users_with_opposite_orders_differ_and_equal_ones_do_not() -> None:
    one = asked(order(), 20, 0, users=4)
    other = one.user % 2 == 1
    labels = torch.where(other, 1.0 - one.labels, one.labels)
    opposed = Comparisons(one.first, one.second, labels, 5, None, one.users, 4)
    for comparisons, differ in ((one, False), (opposed, True)):
        scalar = candidates(comparisons, (), (), 0)["bradley_terry"]
        pairs = Pairs.of(one, scalar)
        found = find_differences(comparisons, scalar, pairs.chances, 199, 0)
        assert found is not None
        assert (found.p_value <= 0.01) == differ
        assert found.power > 0.6


def test_nothing_is_said_where_nobody_else_answered() -> None:
    comparisons = asked(order(), 1, 0)
    scalar = candidates(comparisons, (), (), 0)["bradley_terry"]
    pairs = Pairs.of(comparisons, scalar)
    assert find_differences(comparisons, scalar, pairs.chances, 99, 0) is None
    assert find_noise(pairs, comparisons) is None
    chain = Comparisons(torch.tensor([0, 1, 2]), torch.tensor([1, 2, 3]), torch.ones(3).double(), 4)
    assert find_circles(Pairs.of(chain, scalar), 99, 0) is None


def test_a_circle_in_features_needs_answers() -> None:
    g = torch.Generator().manual_seed(0)
    for count, share in ((600, 1.0), (24, 0.0)):
        features = torch.randn(2 * count, 3, generator=g, dtype=torch.float64)
        first = torch.arange(count)
        odds = 2.0 * (features[count:] - features[:count])[:, 0]
        labels = torch.bernoulli(torch.sigmoid(odds), generator=g)
        comparisons = Comparisons(first, first + count, labels, 2 * count, features=features)
        models = candidates(comparisons, (1,), (), 0)
        pairs = Pairs.of(comparisons, models["bradley_terry"])
        assert find_planted_circle(comparisons, models, pairs, 3, 0, 2.0) == pytest.approx(share)
