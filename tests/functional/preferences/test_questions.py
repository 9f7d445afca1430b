"""What an answer would teach: numbers by hand, slow twins, Monte Carlo."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm

from prefrl.functional.preferences.general_models.inference import d_optimal_pairs
from prefrl.functional.preferences.general_models.questions import (
    active_edges,
    edge_budget,
    expected_improvement,
    greedy_d_optimal,
    greedy_g_optimal,
    greedy_max_variance,
    inverse_information,
    knowledge_gradient,
    mutual_information,
    prior_information,
    ring_edges,
)


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def entropy(p):
    return -p * math.log(p) - (1 - p) * math.log(1 - p)


def test_mutual_information_by_hand():
    """Sure and opposed members tell most; members who all toss a coin tell nothing."""
    odds = math.log(3.0)  # p = 3/4
    log_odds = torch.tensor([[0.0, odds, 40.0, 0.0], [0.0, odds, -40.0, odds]], dtype=torch.float64)
    mixed = entropy(5 / 8) - 0.5 * (math.log(2.0) + entropy(3 / 4))
    wanted = torch.tensor([0.0, 0.0, math.log(2.0), mixed], dtype=torch.float64)
    torch.testing.assert_close(mutual_information(log_odds), wanted)
    torch.testing.assert_close(mutual_information(-log_odds), wanted)


def test_the_prior_gives_log_odds_their_deviation_in_any_unit():
    slopes = normal(0, 50, 4)
    for unit in (1.0, 1e-3, 1e3):
        inverse = inverse_information(prior_information(unit * slopes, 3.0))
        variance = torch.einsum("np,pq,nq->n", unit * slopes, inverse, unit * slopes)
        assert float(variance.mean()) == pytest.approx(9.0)


# Designs ------------------------------------------------------------------------------------------------


def designs(seed, count=12, size=3):
    slopes, weights = normal(seed, count, size), 0.05 + 0.2 * torch.rand(count, dtype=torch.float64)
    information = torch.eye(size, dtype=torch.float64) * 0.3
    return slopes, weights, information


@pytest.mark.parametrize("kind", ["d", "g"])
def test_greedy_designs_take_the_best_next_answer(kind):
    """Against every candidate's determinant, or worst variance, from inverted matrices."""
    slopes, weights, information = designs(1)
    covariance = slopes @ information.inverse() @ slopes.T
    greedy = greedy_d_optimal if kind == "d" else greedy_g_optimal
    chosen = greedy(covariance[None], 1.0 / weights[None], 5)[0].tolist()
    assert len(set(chosen)) == 5
    for place in chosen:
        after = [information + w * torch.outer(x, x) for x, w in zip(slopes, weights, strict=True)]
        if kind == "d":
            worth = [float(torch.logdet(matrix)) for matrix in after]
        else:
            worth = [-float(((slopes @ m.inverse()) * slopes).sum(1).max()) for m in after]
        left = [n for n in range(len(slopes)) if n not in chosen[: chosen.index(place)]]
        assert worth[place] == pytest.approx(max(worth[n] for n in left), rel=1e-10)
        information = after[place]


def test_g_optimal_lowers_the_worst_variance_where_d_optimal_does_not():
    """One direction is loud in a single pair that is told little by; the other has two good pairs."""
    slopes = torch.tensor([[3.0, 0.0], [0.0, 2.5], [0.0, 2.4]], dtype=torch.float64)
    weights = torch.tensor([[0.01, 0.25, 0.25]], dtype=torch.float64)
    covariance = (slopes @ slopes.T)[None]
    assert greedy_d_optimal(covariance, 1.0 / weights, 1).tolist() == [[1]]
    assert greedy_g_optimal(covariance, 1.0 / weights, 1).tolist() == [[0]]


def test_pools_are_independent_and_d_optimal_pairs_agrees():
    pools = [designs(seed) for seed in (2, 3)]
    slopes = torch.stack([pool[0] for pool in pools])
    weights = torch.stack([pool[1] for pool in pools])
    prior = pools[0][2]
    together = d_optimal_pairs(slopes, 4, prior, weights)
    for pool, places in zip(pools, together, strict=True):
        alone = d_optimal_pairs(pool[0][None], 4, prior, pool[1][None])
        assert alone[0].tolist() == places.tolist()


def test_max_variance_by_hand_and_against_conditioning():
    covariance = torch.tensor([[2.0, 1.9, 0.0], [1.9, 1.9, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    none = torch.zeros(1, 3, dtype=torch.float64)
    assert greedy_max_variance(covariance[None], none, 3).tolist() == [[0, 2, 1]]
    noisy = greedy_max_variance(covariance[None], none + 100.0, 3)  # which hardly teaches anything
    assert noisy.tolist() == [[0, 1, 2]]
    x = normal(4, 9, 9)
    full, noise = x @ x.T, 0.5
    chosen = greedy_max_variance(full[None], torch.full((1, 9), noise, dtype=torch.float64), 4)[0]
    for at in range(4):
        seen, place = chosen[:at], chosen[at]
        gain = torch.linalg.solve(full[seen][:, seen] + noise * torch.eye(at).double(), full[seen])
        variance = (full - full[:, seen] @ gain).diagonal()
        variance[seen] = -1.0
        assert int(variance.argmax()) == int(place)


# Active edges -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3, 7])
def test_a_ring_gives_every_option_two_edges(count):
    first, second = ring_edges(count, torch.Generator().manual_seed(0))
    degrees = torch.cat([first, second]).bincount(minlength=count)
    assert degrees.tolist() == [1, 1] if count == 2 else [2] * count
    assert len({frozenset(pair) for pair in zip(first.tolist(), second.tolist(), strict=True)}) == len(first)


def test_the_budget_of_edges():
    assert [edge_budget(count) for count in (1, 2, 4, 20, 100)] == [0, 1, 6, 172, 1328]


def test_active_edges_are_close_and_rare():
    """Of 100 pairs 10 are close and 20 rare, and 4 both; those 4 come first, then pairs of shares doubled."""
    gaps, degrees = torch.arange(100.0), torch.full((100,), 5)
    degrees[6:26] = 1
    g = torch.Generator().manual_seed(0)
    first = active_edges(gaps, degrees, 4, g)
    assert sorted(first.tolist()) == [6, 7, 8, 9]
    assert active_edges(gaps, degrees, 4, g).tolist() != first.tolist(), "in random order"
    more = active_edges(gaps, degrees, 24, g).tolist()
    assert set(more[:4]) == {6, 7, 8, 9}
    assert set(range(10, 20)) < set(more), "within 20 % of the gaps and the 20 % of rare ones"
    assert len(set(more)) == 24
    everything = active_edges(gaps, degrees, 100, g)
    assert sorted(everything.tolist()) == list(range(100))
    ties = {int(active_edges(gaps * 0, degrees * 0, 1, g)) for _ in range(30)}
    assert len(ties) > 5, "ties are broken by chance"


def test_shares_of_active_edges_are_settings():
    gaps, degrees = torch.arange(100.0), torch.arange(100).flip(0)
    g = torch.Generator().manual_seed(0)
    assert sorted(active_edges(gaps, degrees, 10, g, close=0.1, rare=1.0).tolist()) == list(range(10))
    assert sorted(active_edges(gaps, degrees, 10, g, close=1.0, rare=0.1).tolist()) == list(range(90, 100))


# The best -----------------------------------------------------------------------------------------------


def test_expected_improvement_against_monte_carlo():
    draws = 0.2 + 0.6 * normal(0, 4_000_000)
    closed = expected_improvement(*torch.tensor([0.2, 0.6], dtype=torch.float64), 0.4)
    assert float(closed) == pytest.approx(float((draws - 0.4).clamp(min=0.0).mean()), abs=1e-3)
    z = -1 / 3
    assert float(closed) == pytest.approx(-0.2 * norm.cdf(z) + 0.6 * norm.pdf(z), abs=1e-14)


def test_expected_improvement_by_hand():
    mean = torch.tensor([1.0, 1.0, -1.0, 3.0], dtype=torch.float64)
    deviation = torch.tensor([2.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    wanted = torch.tensor([2.0 / math.sqrt(2.0 * math.pi), 0.0, 0.0, 2.0], dtype=torch.float64)
    torch.testing.assert_close(expected_improvement(mean, deviation, 1.0), wanted)


def test_knowledge_gradient_against_quadrature():
    means, slopes = normal(5, 6), normal(6, 8, 6)
    slopes[0, 2] = slopes[0, 3]  # parallel lines
    slopes[1] = 0.7  # all of them
    slopes[2, :4] = 0.0
    found = knowledge_gradient(means, slopes)
    a = means.numpy()
    for gain, b in zip(found.tolist(), slopes.numpy(), strict=True):
        kinks = [(a[i] - a[j]) / (b[j] - b[i]) for i in range(6) for j in range(i) if b[i] != b[j]]
        points = sorted({-10.0, 10.0, *(x for x in kinks if -10 < x < 10)})
        mean = sum(
            quad(lambda z, b=b: np.max(a + b * z) * norm.pdf(z), low, high)[0]
            for low, high in pairwise(points)
        )
        assert gain == pytest.approx(mean - a.max(), abs=1e-9)
    assert float(found[1]) == pytest.approx(0.0, abs=1e-12)


def test_knowledge_gradient_by_hand():
    """Of two lines it is expected improvement of their difference; equal lines count once; one line not."""
    a = torch.tensor([0.5, 0.2], dtype=torch.float64)
    b = torch.tensor([[0.0, 0.6], [0.4, -0.2]], dtype=torch.float64)
    gap, deviation = a[1] - a[0], (b[:, 1] - b[:, 0]).abs()
    wanted = expected_improvement(gap, deviation, 0.0)
    torch.testing.assert_close(knowledge_gradient(a, b), wanted)
    twice = knowledge_gradient(a[[0, 1, 1, 0]], b[:, [0, 1, 1, 0]])
    torch.testing.assert_close(twice, wanted)
    assert knowledge_gradient(a[:1], b[:, :1]).tolist() == [0.0, 0.0]


def test_knowledge_gradient_in_pieces_and_with_means_of_each(monkeypatch):
    from prefrl.functional.preferences.general_models import questions

    means, slopes = normal(7, 9, 5), normal(8, 9, 5)
    whole = knowledge_gradient(means, slopes)
    monkeypatch.setattr(questions, "CELLS", 50)
    torch.testing.assert_close(knowledge_gradient(means, slopes), whole)
    torch.testing.assert_close(knowledge_gradient(means[3], slopes[3:4]), whole[3:4])
