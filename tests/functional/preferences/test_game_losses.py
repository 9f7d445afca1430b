"""Losses of games: by hand and by loops, drawn against all, and where they are least."""

import math

import pytest
import torch

from prefrl.functional.preferences.game_losses import (
    all_pairs,
    dno_loss,
    drawn_options,
    drawn_pairs,
    gpo_loss,
    inpo_loss,
    online_ipo_loss,
)
from prefrl.functional.preferences.game_steps import Game, mirror_step, regularised_gains

S = 0.4


def game_of(games=2, k=4, beta=0.3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(games, k, k, generator=generator, dtype=torch.float64) - 0.5
    three = torch.randn(3, games, k, generator=generator, dtype=torch.float64).log_softmax(-1)
    return Game(noise.triu(1) - noise.triu(1).mT, three[0], beta), three[1], three[2]


def sigmoid(x):
    return 1.0 / (1.0 + math.exp(-x))


def twin(name, game, policy, now):
    """The loss of one game as the module's text has it, over all ordered pairs, drawn from ``now``."""
    a, k, p = game.matrix.tolist(), len(policy), now.exp().tolist()
    ref, new, old = game.reference.tolist(), policy.tolist(), now.tolist()
    gains = [
        sum(a[i][j] * p[j] for j in range(k)) - game.beta * (old[i] - ref[i])
        for i in range(k)
    ]  # fmt: skip
    total = 0.0
    z = sum(p[i] * math.exp(S * gains[i]) for i in range(k))
    for i in range(k):
        if name == "gpo":
            total += p[i] * (new[i] - old[i] - S * gains[i] + math.log(z)) ** 2
        for j in range(k):
            if name == "inpo" and i != j:
                pull = S * game.beta
                u = [new[x] - pull * ref[x] - (1.0 - pull) * old[x] for x in (i, j)]
                wins = 0.5 + a[i][j]
                total += p[i] * p[j] * wins * (u[0] - u[1] - S / 2.0) ** 2
                total += p[i] * p[j] * (1.0 - wins) * (u[1] - u[0] - S / 2.0) ** 2
            elif name == "dno" and i != j:
                lead = (new[i] - old[i] - new[j] + old[j]) / S
                label = sigmoid(gains[i] - gains[j])
                loss = label * math.log(sigmoid(lead)) + (1.0 - label) * math.log(sigmoid(-lead))
                total -= p[i] * p[j] * loss
            elif name == "online_ipo":
                wins = [sum(a[x][y] * p[y] for y in range(k)) / game.beta for x in (i, j)]
                total += (new[i] - ref[i] - new[j] + ref[j] - wins[0] + wins[1]) ** 2 / k**2
    return total


def loss_of(name, game, policy, now, pairs=None):
    if name == "inpo":
        return inpo_loss(game, policy, now, pairs or all_pairs(now.exp()), S)
    if name == "dno":
        return dno_loss(game, policy, now, pairs or all_pairs(now.exp()), S)
    return gpo_loss(game, policy, now, S) if name == "gpo" else online_ipo_loss(game, policy, now)


@pytest.mark.parametrize("name", ["online_ipo", "inpo", "dno", "gpo"])
def test_every_loss_against_its_twin(name):
    game, policy, now = game_of()
    found = loss_of(name, game, policy, now)
    for one in range(2):
        single = Game(game.matrix[one], game.reference[one], game.beta)
        assert float(found[one]) == pytest.approx(twin(name, single, policy[one], now[one]), rel=1e-12)


@pytest.mark.parametrize("beta", [0.0, 0.3])
@pytest.mark.parametrize("name", ["inpo", "dno", "gpo"])
def test_the_slope_is_nothing_at_the_step_and_something_beside_it(name, beta):
    game, _, now = game_of(beta=beta)
    step = mirror_step(game, now, now.exp(), S)
    for logits, flat in ((step, True), (step + 0.1 * torch.arange(4.0, dtype=torch.float64), False)):
        logits = logits.clone().requires_grad_()
        loss = loss_of(name, game, torch.log_softmax(logits, -1), now).sum()
        (slope,) = torch.autograd.grad(loss, logits)
        assert (float(slope.abs().max()) < 1e-15) == flat


def test_without_its_normaliser_gpos_slope_is_another():
    game, _, now = game_of()
    step = mirror_step(game, now, now.exp(), S).requires_grad_()
    (slope,) = torch.autograd.grad(gpo_loss(game, torch.log_softmax(step, -1), now, S, "zero").sum(), step)
    z = torch.logsumexp(now + S * regularised_gains(game, now), -1)
    # What is left of every residual is -log Z; the step's probabilities are what its slope is against.
    wanted = -2.0 * z[:, None] * (now.exp() - step.detach().exp())
    torch.testing.assert_close(slope, wanted, atol=1e-14, rtol=0.0)
    assert float(slope.abs().max()) > 1e-5


@pytest.mark.parametrize("name", ["online_ipo", "inpo", "dno", "gpo"])
def test_what_is_drawn_has_the_same_slope_on_average(name):
    game, policy, now = game_of(k=3)
    generator = torch.Generator().manual_seed(1)
    noise = torch.rand(3, 2, 200_000, generator=generator, dtype=torch.float64)
    slopes = []
    for drawn in (False, True):
        logits = policy.clone().requires_grad_()
        logs = torch.log_softmax(logits, -1)
        if not drawn:
            loss = loss_of(name, game, logs, now)
        elif name == "online_ipo":
            loss = online_ipo_loss(game, logs, now, noise)
        elif name == "gpo":
            loss = gpo_loss(game, logs, now, S, options=drawn_options(now.exp(), noise[0]))
        else:
            loss = loss_of(name, game, logs, now, drawn_pairs(now.exp(), noise[:2]))
        slopes.append(torch.autograd.grad(loss.sum(), logits)[0])
    assert float((slopes[0] - slopes[1]).norm()) < 0.02 * float(slopes[0].norm())


def test_options_are_drawn_by_their_probabilities():
    policy = torch.tensor([[0.5, 0.0, 0.5], [0.0, 0.25, 0.75]], dtype=torch.float64)
    noise = torch.tensor([[0.1, 0.6, 0.9], [0.1, 0.3, 0.999]], dtype=torch.float64)
    assert drawn_options(policy, noise).tolist() == [[0, 2, 2], [1, 2, 2]]
    pairs = drawn_pairs(policy, torch.stack([noise, noise.flip(-1)]))
    assert pairs.first.tolist() == [[0, 2, 2], [1, 2, 2]]
    assert pairs.second.tolist() == [[2, 2, 0], [2, 2, 1]]
    assert pairs.weights.tolist() == [[1 / 3] * 3] * 2
    every = all_pairs(policy)
    assert every.first.tolist() == [[0, 0, 1]] * 2
    assert every.second.tolist() == [[1, 2, 2]] * 2
    assert every.weights.tolist() == [[0.0, 0.5, 0.0], [0.0, 0.0, 0.375]]
