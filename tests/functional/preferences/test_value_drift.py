"""Drift of stances, the value gap of data, and what choices say of utilities."""

import pytest
import torch

from prefrl.functional.preferences.audits.choice_utility import (
    comparison_gradient,
    completeness,
    cyclic_chance,
    expected_utility,
    explained_share,
)
from prefrl.functional.preferences.audits.value_drift import drift, stance_shares, value_gap

F64 = torch.float64


def test_shares_by_hand() -> None:
    stances = torch.tensor([[0, 2, 2, 1], [1, 1, 1, 1]])
    wanted = torch.tensor([[0.25, 0.25, 0.5, 0.0], [0.0, 1.0, 0.0, 0.0]], dtype=F64)
    torch.testing.assert_close(stance_shares(stances, 4), wanted)
    weights = torch.tensor([[1.0, 0.0, 0.0, 3.0], [1.0, 1.0, 1.0, 1.0]], dtype=F64)
    torch.testing.assert_close(
        stance_shares(stances, 2 + 1, weights)[0], torch.tensor([0.25, 0.75, 0.0], dtype=F64)
    )


def test_magnitude_extremum_and_time_by_hand() -> None:
    """The first stance rises to .8 and falls to .6; 95 % of +.6 are .57, first there at time 30."""
    first = torch.tensor([0.2, 0.5, 0.76, 0.78, 0.8, 0.6], dtype=F64)
    shares = torch.stack([first, 0.9 - first, torch.full_like(first, 0.1)], 1)
    found = drift(shares, torch.tensor([10.0, 20.0, 25.0, 40.0, 50.0, 60.0], dtype=F64))
    torch.testing.assert_close(found.magnitude, torch.tensor([0.4, -0.4, 0.0], dtype=F64))
    torch.testing.assert_close(found.extremum, torch.tensor([0.6, -0.6, 0.0], dtype=F64))
    assert found.time.tolist() == [30.0, 30.0, 0.0]
    assert float(found.total) == pytest.approx(0.4)
    assert float(found.magnitude.sum()) == pytest.approx(0.0)


@pytest.mark.parametrize("place", [1, 7, 19])
def test_a_step_is_found_where_it_is(place: int) -> None:
    """Also through 20,000 answers at each checkpoint, within two of them."""
    before, after = torch.tensor([[0.5, 0.3, 0.2], [0.2, 0.3, 0.5]], dtype=F64)
    shares = torch.stack([after if at >= place else before for at in range(20)])
    times = 100.0 * torch.arange(20, dtype=F64)
    assert drift(shares, times).time.tolist() == [100.0 * place, 0.0, 100.0 * place]
    g = torch.Generator().manual_seed(place)
    drawn = torch.multinomial(shares, 20_000, replacement=True, generator=g)
    noisy = drift(stance_shares(drawn, 3), times).time[[0, 2]]
    assert bool(((noisy - 100.0 * place).abs() <= 200.0).all())


def test_the_value_gap_by_hand() -> None:
    """Three comparisons: stance 0 won, stance 0 lost, and a tie, which does not count."""
    shares = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]] * 3, dtype=F64)
    labels = torch.tensor([0.0, 1.0, 0.5], dtype=F64)
    assert value_gap(shares, labels).tolist() == [0.0, 0.0]
    assert value_gap(shares[:1], labels[:1]).tolist() == [1.0, -1.0]
    weights = torch.tensor([3.0, 1.0, 5.0], dtype=F64)
    assert value_gap(shares, labels, weights).tolist() == [0.5, -0.5]
    assert value_gap(shares[:1], torch.tensor([0.25], dtype=F64)).tolist() == [1.0, -1.0]  # as far as decided


def test_learning_a_softmax_is_learning_by_comparisons() -> None:
    """grad log p_y = sum_j p_j (e_y - e_j), to 1e-12 (arXiv 2305.14859)."""
    g = torch.Generator().manual_seed(0)
    utilities = 3.0 * torch.randn(40, 6, generator=g, dtype=F64)
    chosen = torch.randint(6, (40,), generator=g)
    wanted = utilities.clone().requires_grad_(True)
    torch.log_softmax(wanted, -1).gather(1, chosen[:, None]).sum().backward()
    found = comparison_gradient(torch.softmax(utilities, -1), chosen)
    assert wanted.grad is not None
    torch.testing.assert_close(found, wanted.grad, rtol=0.0, atol=1e-12)


def test_choices_by_hand() -> None:
    lotteries = torch.tensor([[0.5, 0.5], [0.1, 0.9]], dtype=F64)
    torch.testing.assert_close(
        expected_utility(lotteries, torch.tensor([2.0, -2.0], dtype=F64)),
        torch.tensor([0.0, -1.6], dtype=F64),
    )
    values = torch.tensor([0.0, 1.0, 2.0], dtype=F64)
    assert float(explained_share(values, values)) == 1.0
    assert float(explained_share(values, values.flip(0))) == -3.0
    assert float(completeness(torch.tensor([0.5, 1.0, 0.25], dtype=F64))) == 0.5
    certain = torch.ones((), dtype=F64)
    assert float(cyclic_chance(certain, certain, 0.0 * certain)) == 1.0  # b over a, c over b, a over c
    assert float(cyclic_chance(certain, certain, certain)) == 0.0
    assert float(cyclic_chance(*[0.5 * certain] * 3)) == 0.25
