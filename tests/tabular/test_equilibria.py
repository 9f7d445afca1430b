"""Equilibria by Newton's method and by linear programming, against what can be said without either."""

import math

import pytest
import torch

from prefrl.functional.preferences.game_steps import Game, duality_gap
from prefrl.functional.preferences.games import cycle_of_three
from prefrl.tabular.equilibria import nash_equilibrium


def random_games(beta, size=1.0):
    generator = torch.Generator().manual_seed(0)
    noise = 2.0 * torch.rand(40, 7, 7, generator=generator, dtype=torch.float64) - 1.0
    reference = torch.log_softmax(torch.randn(40, 7, generator=generator, dtype=torch.float64), -1)
    return Game(size * (noise.triu(1) - noise.triu(1).mT), reference, beta)


@pytest.mark.parametrize("beta", [3.0, 0.1, 0.01, 1e-3])
@pytest.mark.parametrize("size", [1.0, 20.0])
def test_nothing_can_be_won_against_it(beta, size):
    game = random_games(beta, size)
    found = nash_equilibrium(game)
    assert float(duality_gap(game, found).abs().max()) < 1e-13 * size
    answer = torch.log_softmax(game.reference + (game.matrix @ found.exp()[..., None])[..., 0] / beta, -1)
    torch.testing.assert_close(found.exp(), answer.exp(), atol=1e-9, rtol=0.0)


def test_it_is_the_reference_where_beta_is_large_and_the_minimax_winner_where_it_is_none():
    matrix = cycle_of_three(0.9, 0.3, 0.6)
    reference = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    winner = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64) / 6.0
    for beta, wanted, tolerance in ((1e4, reference, 1e-4), (1e-3, winner, 0.02), (0.0, winner, 1e-9)):
        found = nash_equilibrium(Game(matrix, reference.log(), beta)).exp()
        torch.testing.assert_close(found, wanted, atol=tolerance, rtol=0.0)


def test_two_options_by_hand():
    """Option 0 wins 1 of option 1: log odds of the equilibrium are log odds of the reference + 1 / beta."""
    game = Game(torch.tensor([[0.0, 1.0], [-1.0, 0.0]]), torch.tensor([0.25, 0.75]).log(), 0.5)
    found = nash_equilibrium(game)
    assert float(found[0] - found[1]) == pytest.approx(math.log(0.25 / 0.75) + 2.0, abs=1e-6)
    found = nash_equilibrium(game._replace(beta=0.0))
    assert found.exp().tolist() == pytest.approx([1.0, 0.0])


def test_shapes_and_games_of_no_account():
    even = torch.full((4,), -math.log(4.0), dtype=torch.float64)
    for beta in (0.0, 0.1):
        found = nash_equilibrium(Game(torch.zeros(2, 3, 4, 4), even, beta))
        assert found.shape == (2, 3, 4)
        assert (
            float(duality_gap(Game(torch.zeros(4, 4, dtype=torch.float64), even, beta), found).abs().max())
            < 1e-14
        )
