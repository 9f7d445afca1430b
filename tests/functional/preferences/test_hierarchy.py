"""HERON's label rule against a plain reading of it, and its invariances."""

import itertools

import pytest
import torch
from hypothesis import given, settings, strategies as st

from prefrl.functional.preferences.hierarchy import (
    all_pairs,
    decided_shares,
    hierarchy_verdicts,
    kemeny_order,
    scale_by_level,
    weighted_sum,
)


def plain(first, second, margins):
    """The rule, level by level."""
    for level, (a, b, margin) in enumerate(zip(first, second, margins, strict=True)):
        if a > b + margin:
            return 0.0, level
        if b > a + margin:
            return 1.0, level
    return 0.5, len(margins)


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_truth_table(levels):
    """Every combination of clearly less, slightly less, equal, slightly more and clearly more."""
    margins = torch.full((levels,), 1.0)
    for differences in itertools.product((-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0), repeat=levels):
        second = torch.tensor(differences)
        label, level = hierarchy_verdicts(torch.zeros(levels), second, margins)
        assert (float(label), int(level)) == plain([0.0] * levels, differences, margins.tolist())


factors = st.lists(st.lists(st.floats(-5, 5), min_size=3, max_size=3), min_size=2, max_size=6)


@settings(max_examples=50, deadline=None)
@given(factors, st.lists(st.floats(0.0, 3.0), min_size=3, max_size=3))
def test_matrix_of_all_pairs_is_antisymmetric_and_plain(values, margins):
    z, delta = torch.tensor(values, dtype=torch.float64), torch.tensor(margins, dtype=torch.float64)
    labels, levels = hierarchy_verdicts(z[:, None], z[None], delta)
    assert torch.equal(labels, 1.0 - labels.T)
    assert torch.equal(levels, levels.T)
    for i, j in itertools.product(range(len(values)), repeat=2):
        assert (float(labels[i, j]), int(levels[i, j])) == plain(z[i].tolist(), z[j].tolist(), delta.tolist())


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.tuples(*[st.floats(1e-3, 1e3)] * 3))
def test_units_do_not_matter_with_margins_in_standard_deviations(seed, units):
    z = torch.randn(40, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    scaled = z * torch.tensor(units, dtype=torch.float64)
    first, second = all_pairs(40)
    verdicts = [hierarchy_verdicts(part[first], part[second], 0.5 * part.std(0)) for part in (z, scaled)]
    for left, right in zip(*verdicts, strict=True):
        assert torch.equal(left, right)


def test_margins_of_zero_are_lexicographic_and_a_huge_one_removes_its_level():
    z = torch.randint(0, 3, (30, 3), generator=torch.Generator().manual_seed(0)).double()
    first, second = all_pairs(30)
    labels, levels = hierarchy_verdicts(z[first], z[second], torch.zeros(3))
    order = [(tuple(z[i].tolist()), tuple(z[j].tolist())) for i, j in zip(first, second, strict=True)]
    wanted = [0.5 if a == b else float(b > a) for a, b in order]
    assert labels.tolist() == wanted
    assert (levels == 3).tolist() == [a == b for a, b in order]
    without = hierarchy_verdicts(z[first], z[second], torch.tensor([1e9, 0.0, 0.0]))
    alone = hierarchy_verdicts(z[first][:, 1:], z[second][:, 1:], torch.zeros(2))
    assert torch.equal(without.labels, alone.labels)
    assert torch.equal(without.levels, alone.levels + 1)


def test_all_pairs_are_each_pair_once():
    first, second = all_pairs(16)
    assert len(first) == 120
    assert {(int(i), int(j)) for i, j in zip(first, second, strict=True)} == {
        (i, j) for i in range(16) for j in range(i + 1, 16)
    }


def test_shares_by_level():
    shares = decided_shares(torch.tensor([0, 0, 2, 1]), 2)
    assert shares.tolist() == [0.5, 0.25, 0.25]


def test_fewer_pairs_are_decided_early_the_wider_the_margins():
    z = torch.randn(200, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    first, second = all_pairs(200)
    shares = [
        decided_shares(hierarchy_verdicts(z[first], z[second], torch.tensor([c, 0.1])).levels, 2)
        for c in (0.0, 0.5, 1.0, 2.0)
    ]
    assert all(float(a[0]) > float(b[0]) for a, b in itertools.pairwise(shares))


def test_weighted_sum_by_hand():
    z = torch.tensor([[2.0, -3.0, 8.0]])
    assert weighted_sum(z, torch.tensor([1.0, 3.0, 2.0]), 0.5).tolist() == [2.0 - 0.5 + 1.0]


def test_levels_are_separated_by_alpha():
    """Against one stretch that differs at level 2: the difference counts 1 / alpha; undecided counts 0."""
    rewards, other = torch.tensor([5.0, 5.0, 5.0]), torch.tensor([1.0])
    factors = torch.tensor([[9.0, 0.0], [0.0, 9.0], [0.0, 0.0]])
    scaled = scale_by_level(rewards, factors, other, torch.zeros(1, 2), torch.ones(2), 10.0)
    torch.testing.assert_close(scaled, torch.tensor([4.0, 0.4, 0.0]))


def test_kemeny_order_by_hand() -> None:
    # Three people say 0, 1, 2 and two 1, 2, 0; Borda's count would put 1 first, with 7 points against 6.
    before = torch.tensor([[0.0, 3.0, 3.0], [2.0, 0.0, 5.0], [2.0, 0.0, 0.0]])
    found = kemeny_order(before)
    assert (found.order, found.agreeing, found.best_orders) == ([0, 1, 2], 11.0, 1)


def test_kemeny_order_equals_all_orders() -> None:
    rng = torch.Generator().manual_seed(0)
    for count in (1, 2, 4, 5):
        for _ in range(10):
            before = torch.randint(0, 4, (count, count), generator=rng).double()
            scores = {
                order: sum(float(before[a, b]) for a, b in itertools.combinations(order, 2))
                for order in itertools.permutations(range(count))
            }
            best = max(scores.values())
            found = kemeny_order(before)
            orders = [order for order, score in scores.items() if score == best]
            assert (tuple(found.order), found.agreeing) == (min(orders), best)
            assert found.best_orders == len(orders)


@pytest.mark.parametrize("shape", [(0, 0), (2, 3), (13, 13), (3,)])
def test_kemeny_order_refuses_what_is_no_table(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="it must be"):
        kemeny_order(torch.zeros(shape))
