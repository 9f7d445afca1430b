"""Fits of tables, information, pessimism and design, against slow twins and by hand."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from prefrl.functional.preferences.games import bradley_terry
from prefrl.functional.preferences.general_models.inference import (
    covariance,
    d_optimal_pairs,
    fisher_information,
    normal_quantile,
    pessimistic_score,
    standard_error,
    utilities,
)


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def counts(seed: int, tables: int, options: int) -> torch.Tensor:
    wins = torch.randint(0, 9, (tables, options, options), generator=torch.Generator().manual_seed(seed))
    return wins.double() * (1.0 - torch.eye(options, dtype=torch.float64))


def test_utilities_of_two_by_hand() -> None:
    wins = torch.tensor([[[0.0, 30.0], [10.0, 0.0]]], dtype=torch.float64)
    assert utilities(wins, 0.0)[0].tolist() == pytest.approx([0.5 * math.log(3.0), -0.5 * math.log(3.0)])


def test_utilities_against_scipy() -> None:
    wins = counts(0, 3, 6)
    fits = utilities(wins, 0.3)
    for table, fit in zip(wins.numpy(), fits.numpy(), strict=True):

        def loss(u: np.ndarray, table: np.ndarray = table) -> float:
            gap = u[None, :] - u[:, None]
            return float((table * np.logaddexp(0.0, gap)).sum() + 0.15 * (u**2).sum())

        found = minimize(loss, np.zeros(6), options={"gtol": 1e-9})
        np.testing.assert_allclose(fit, found.x, atol=1e-5)


def test_utilities_agree_with_the_fixed_point() -> None:
    wins = counts(1, 1, 8)[0]
    prior = 2.0
    smooth = (wins + prior / 7.0) * (1.0 - torch.eye(8, dtype=torch.float64))
    newton = utilities(smooth[None], 0.0)[0]
    torch.testing.assert_close(bradley_terry(wins, prior=prior, iterations=200), newton, rtol=0.0, atol=1e-8)


def test_tables_in_a_batch_are_fitted_as_alone() -> None:
    wins = counts(2, 4, 5)
    alone = torch.cat([utilities(table[None], 0.1) for table in wins])
    torch.testing.assert_close(utilities(wins, 0.1), alone, rtol=0.0, atol=1e-9)


def test_information_by_hand_and_as_curvature() -> None:
    x = torch.tensor([[1.0, 2.0], [0.0, 1.0]], dtype=torch.float64)
    information = fisher_information(x, torch.zeros(2).double(), torch.tensor([4.0, 8.0]).double())
    assert information.tolist() == [[1.0, 2.0], [2.0, 6.0]]
    theta, x, weights = drawn(0, 3), drawn(1, 9, 3), drawn(2, 9).abs()

    def loss(t: torch.Tensor) -> torch.Tensor:
        return (weights * torch.nn.functional.softplus(x @ t)).sum()

    curvature = torch.autograd.functional.hessian(loss, theta)
    torch.testing.assert_close(fisher_information(x, x @ theta, weights), curvature)


def test_what_is_not_observed_has_no_variance() -> None:
    x = torch.tensor([[1.0, -1.0, 0.0], [0.0, 1.0, -1.0]], dtype=torch.float64)
    inverse = covariance(fisher_information(x, torch.zeros(2).double(), torch.full((2,), 40.0).double()))
    assert standard_error(torch.ones(1, 3).double(), inverse).tolist() == pytest.approx([0.0], abs=1e-6)
    assert standard_error(x, inverse).tolist() == pytest.approx([math.sqrt(0.1)] * 2)


def test_normal_quantiles() -> None:
    assert normal_quantile(0.95) == pytest.approx(1.959964, abs=1e-6)
    with pytest.raises(ValueError, match=r"level is 1.0; it must lie between 0 and 1"):
        normal_quantile(1.0)


def test_pessimism_by_hand_and_where_it_has_no_bound() -> None:
    information = torch.diag(torch.tensor([4.0, 0.0], dtype=torch.float64))
    weights = torch.tensor([1.0, 5.0], dtype=torch.float64)
    known = torch.tensor([[2.0, 0.0]], dtype=torch.float64)
    assert pessimistic_score(known, weights, information, 3.0).tolist() == [2.0 - 3.0 * 2.0 / 2.0]
    with pytest.raises(ValueError, match=r"features\[1\] lie in a direction that no comparison moves in"):
        pessimistic_score(torch.cat([known, known.flip(-1)]), weights, information, 3.0)


def test_greedy_design_takes_the_best_next_pair_each_time() -> None:
    slopes, prior, weights = (
        drawn(3, 2, 12, 3),
        0.1 * torch.eye(3, dtype=torch.float64),
        drawn(4, 2, 12).abs(),
    )
    chosen = d_optimal_pairs(slopes, 5, prior, weights)
    for pool in range(2):
        information, left = prior.clone(), list(range(12))
        for place in chosen[pool].tolist():
            outer = {n: weights[pool, n] * torch.outer(slopes[pool, n], slopes[pool, n]) for n in left}
            best = max(left, key=lambda n: float(torch.logdet(information + outer[n])))
            assert place == best
            information = information + outer[best]
            left.remove(best)


def test_greedy_design_is_within_reach_of_the_best_of_all() -> None:
    slopes, prior = drawn(5, 1, 9, 3), torch.eye(3, dtype=torch.float64)

    def gain(rows: tuple[int, ...]) -> float:
        x = slopes[0, list(rows)]
        return float(torch.logdet(prior + 0.25 * x.T @ x))

    best = max(gain(rows) for rows in itertools.combinations(range(9), 4))
    assert gain(tuple(d_optimal_pairs(slopes, 4, prior)[0].tolist())) >= (1.0 - 1.0 / math.e) * best


def test_design_refuses() -> None:
    slopes, prior = drawn(6, 1, 4, 2), torch.eye(2, dtype=torch.float64)
    with pytest.raises(ValueError, match="count is 5; it must lie in 1 to 4"):
        d_optimal_pairs(slopes, 5, prior)
    with pytest.raises(ValueError, match="prior is not positive definite"):
        d_optimal_pairs(slopes, 2, 0.0 * prior)
