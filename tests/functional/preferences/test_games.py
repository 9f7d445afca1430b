"""Preference games: winners in closed form and by linear programming, Hedge's bound, Bradley-Terry."""

import math

import pytest
import torch

from prefrl.functional.preferences.games import (
    bradley_terry,
    check_payoff_matrix,
    check_preference_matrix,
    cycle_of_three,
    exploitability,
    hedge_rate,
    hedge_step,
    minimax_winner,
    win_rates,
)


@pytest.mark.parametrize("strengths", [(1.0, 1.0, 1.0), (0.2, 0.9, 0.5), (0.7, 0.1, 0.3)])
def test_winner_of_a_cycle(strengths):
    a, c, b = strengths
    wanted = torch.tensor([c, b, a], dtype=torch.float64) / (a + b + c)
    matrix = cycle_of_three(a, c, b)
    torch.testing.assert_close(minimax_winner(matrix), wanted, atol=1e-9, rtol=0.0)
    assert float(exploitability(matrix, wanted)) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("k", [2, 4, 7])
def test_winner_of_a_random_game_cannot_be_beaten(k):
    noise = torch.rand(k, k, dtype=torch.float64, generator=torch.Generator().manual_seed(k)) * 2.0 - 1.0
    matrix = torch.triu(noise, 1) - torch.triu(noise, 1).T
    winner = minimax_winner(matrix)
    assert float(winner.sum()) == pytest.approx(1.0)
    assert float(exploitability(matrix, winner)) <= 1e-9
    assert float(exploitability(matrix, torch.eye(k, dtype=torch.float64)).min()) >= -1e-12


def test_an_option_that_beats_all_wins_alone():
    matrix = torch.tensor([[0.0, 0.3, 0.1], [-0.3, 0.0, 1.0], [-0.1, -1.0, 0.0]])
    torch.testing.assert_close(minimax_winner(matrix), torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64))


def test_exploitability_is_the_average_regret():
    """max_q q P p_bar = (1/T) max_q sum_t q P p_t, since p_t P p_t = 0."""
    matrix, log_p = (
        cycle_of_three(0.9, 0.4, 0.6),
        torch.log(torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)),
    )
    total, best = torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    for _ in range(50):
        p = log_p.exp()
        assert float(p @ matrix @ p) == pytest.approx(0.0, abs=1e-12)
        total, best = total + p, best + matrix @ p
        log_p = hedge_step(log_p, matrix @ p, 0.3)
    torch.testing.assert_close(exploitability(matrix, total / 50), best.max() / 50)


def test_hedges_rate_by_hand():
    assert hedge_rate(8, 6) == pytest.approx(math.sqrt(math.log(2.0)))  # 2 * 3 ln 2 / 6
    assert hedge_rate(2, 200) == pytest.approx(0.0832555, abs=1e-7)  # sqrt(0.693147 / 100)


def test_hedge_keeps_its_promise_on_twenty_cycles():
    rounds, generator = 10_000, torch.Generator().manual_seed(3)
    strengths = 0.2 + 0.8 * torch.rand(20, 3, generator=generator, dtype=torch.float64)
    matrices = torch.stack([cycle_of_three(*row.tolist()) for row in strengths])
    winners = torch.stack([minimax_winner(matrix) for matrix in matrices])
    log_p = torch.full((20, 3), -math.log(3.0), dtype=torch.float64)
    total, rate = torch.zeros(20, 3, dtype=torch.float64), hedge_rate(3, rounds)
    for _ in range(rounds):
        p = log_p.exp()
        total += p
        log_p = hedge_step(log_p, (matrices @ p[..., None])[..., 0], rate)
    average = total / rounds
    worst = (matrices @ average[..., None])[..., 0].amax(-1)
    assert float(worst.max()) <= math.sqrt(2.0 * math.log(3.0) / rounds)
    assert float((average - winners).abs().sum(-1).max()) <= 0.05


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (torch.zeros(2, 3), r"has shape \[2, 3\]"),
        (torch.zeros(1, 1), "K at least 2"),
        (torch.tensor([[0.0, 2.0], [-2.0, 0.0]]), r"outside \[-1, 1\]"),
        (torch.tensor([[0.0, 0.5], [0.5, 0.0]]), "not antisymmetric"),
        (torch.tensor([[0.1, 0.5], [-0.5, 0.0]]), "not antisymmetric"),
        (torch.tensor([[0.5, 0.9], [0.1, 0.5]], dtype=torch.float64), "probabilities p: give 2 p - 1"),
        (torch.tensor([[0.0, 0.3333333], [-0.3333334, 0.0]], dtype=torch.float64), "-0.3333334"),
        (torch.zeros(2, 2, dtype=torch.complex64), "must be of real numbers"),
        (torch.tensor([[0.0, math.nan], [-0.5, 0.0]]), "outside"),
    ],
)
def test_other_matrices_are_refused(matrix, message):
    with pytest.raises(ValueError, match=message):
        check_preference_matrix(matrix)


def test_payoffs_may_be_of_any_size():
    large = torch.tensor([[0.0, 2e9], [-2e9, 0.0]], dtype=torch.float64)
    assert torch.equal(check_payoff_matrix(large), large)
    for matrix, message in ((large.abs(), "not antisymmetric"), (large * math.inf, "not finite"),
                            (large[:1], r"payoff matrix has shape \[1, 2\]")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            check_payoff_matrix(matrix)


def test_bradley_terry_finds_the_utilities_that_made_the_answers():
    utilities = torch.tensor([1.0, -0.5, 0.0, -0.5], dtype=torch.float64)
    wins = 1e6 * torch.sigmoid(utilities[:, None] - utilities[None])
    torch.testing.assert_close(bradley_terry(wins), utilities, atol=1e-4, rtol=0.0)


@pytest.mark.parametrize("num_options", [2, 5, 100])
def test_bradley_terry_converges_quickly(num_options):
    wins = answers(torch.randn(num_options, generator=torch.Generator().manual_seed(0)), 10_000)
    found = bradley_terry(wins, iterations=37)
    torch.testing.assert_close(found, bradley_terry(wins, iterations=100), atol=1e-8, rtol=0.0)
    # The fixed point is the maximum of the likelihood with the prior: the slope is 0.
    games = wins + 2.0 / (num_options - 1)
    games.fill_diagonal_(0.0)
    expected = (games + games.T) * torch.sigmoid(found[:, None] - found[None])
    torch.testing.assert_close(expected.sum(1), games.sum(1), atol=1e-5, rtol=0.0)


def answers(utilities, count):
    """[K, K] wins of ``count`` comparisons of random pairs."""
    rng, k = torch.Generator().manual_seed(1), len(utilities)
    first = torch.randint(k, (count,), generator=rng)
    second = (first + 1 + torch.randint(k - 1, (count,), generator=rng)) % k
    won = torch.rand(count, generator=rng) < torch.sigmoid(utilities[first] - utilities[second])
    wins = torch.zeros(k, k, dtype=torch.float64)
    pairs = (torch.where(won, first, second), torch.where(won, second, first))
    return wins.index_put_(pairs, torch.ones(count, dtype=torch.float64), accumulate=True)


def test_bradley_terry_of_many_options_is_not_drowned_by_its_prior():
    """Of 100 options and 10,000 comparisons; half a game in both directions of every pair are 4,950 games."""
    utilities = torch.randn(100, generator=torch.Generator().manual_seed(0))
    utilities -= utilities.mean()
    wins = answers(utilities, 10_000)
    found, flattened = bradley_terry(wins), bradley_terry(wins, prior=0.5 * 99)
    assert (found - utilities).square().mean().sqrt() < 0.2
    assert (flattened - utilities).square().mean().sqrt() > 0.35


def test_bradley_terry_of_nothing_is_nothing():
    assert bradley_terry(torch.zeros(3, 3)).tolist() == [0.0, 0.0, 0.0]
    assert bradley_terry(torch.zeros(1, 1)).tolist() == [0.0]
    never_beaten = bradley_terry(torch.tensor([[0.0, 5.0], [0.0, 0.0]]))
    # Seven wins to two, with the prior's two in both directions.
    torch.testing.assert_close(never_beaten, torch.tensor([0.5, -0.5]) * math.log(7.0 / 2.0))


def test_win_rates():
    assert win_rates(torch.tensor([[1.0, -1.0], [0.5, 0.0]])).tolist() == [0.0, 0.25]
    assert win_rates(torch.zeros(2, 0)).tolist() == [0.0, 0.0]
