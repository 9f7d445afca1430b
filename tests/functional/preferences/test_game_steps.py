"""Game solvers against twins in plain Python and the losses they minimise, and what papers say of them."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.special import lambertw

from prefrl.functional.preferences.game_steps import (
    SOLVERS,
    Game,
    Play,
    advance,
    begin,
    best_response,
    default_step_size,
    divergence,
    duality_gap,
    games_last,
    mirror_step,
    mnpo,
    multiplayer_gap,
    multiplayer_step,
    regularised_exploitability,
)
from prefrl.tabular.equilibria import nash_equilibrium
from prefrl.tabular.preference_optima import mirror_descent_step, population_minimiser

PROBABILITIES = 0.5 * torch.tensor(
    [[0.0, 1.0, -1.0], [-1.0, 0.0, 1.0], [1.0, -1.0, 0.0]], dtype=torch.float64
)
"""Rock, paper, scissors: probabilities less 1/2."""

STARTS = torch.tensor([[0.6, 0.3, 0.1], [0.5, 0.3, 0.2], [0.7, 0.2, 0.1]], dtype=torch.float64).log()


def random_games(count, k, beta, seed=0, even=False):
    generator = torch.Generator().manual_seed(seed)
    noise = 2.0 * torch.rand(count, k, k, generator=generator, dtype=torch.float64) - 1.0
    logits = torch.randn(count, k, generator=generator, dtype=torch.float64)
    reference = torch.log_softmax(torch.zeros_like(logits) if even else logits, -1)
    return Game(noise.triu(1) - noise.triu(1).mT, reference, beta)


def played(name, game, steps, step_size=None, start=None, population=(1.0,)):
    """Return the last play and the average policy (log)."""
    size = step_size or default_step_size(game.beta)
    play = begin(name, game.reference if start is None else start, len(population))
    total = torch.zeros_like(play.policy)
    for _ in range(steps):
        total += play.policy.exp()
        play = advance(name, game, play, size, population)
    return play, (total / steps).log()


# Twins in plain Python, each from its paper's form --------------------------------------------------------


def normalised(weights):
    total = sum(weights)
    return [weight / total for weight in weights]


def wins(a, p):
    return [sum(a[i][j] * p[j] for j in range(len(p))) for i in range(len(p))]


def tilted(base, exponents):
    return normalised([b * math.exp(e) for b, e in zip(base, exponents, strict=True)])


def geometric(p, ref, share):
    return normalised([x ** (1.0 - share) * r**share for x, r in zip(p, ref, strict=True)])


def twin_of_two_logit_updates(a, ref, beta, s, steps):
    """EGPO's two lines on logits: theta' = (1 - s beta) theta + s beta (theta_ref + A pi / beta)."""
    theta, theta_ref = [math.log(r) for r in ref], [math.log(r) for r in ref]

    def moved(opponent):
        pairs = zip(theta, theta_ref, wins(a, opponent), strict=True)
        return [(1.0 - s * beta) * x + s * beta * (r + w / beta) for x, r, w in pairs]

    for _ in range(steps):
        half = moved(tilted([1.0] * len(ref), theta))
        theta = moved(tilted([1.0] * len(ref), half))
    return tilted([1.0] * len(ref), theta)


def twin_of_inpo(a, ref, beta, s, steps):
    """pi_ref^(tau/eta) pi_t^(1 - tau/eta) exp(P(. > pi_t) / eta), tau = beta, eta = 1/s."""
    p = list(ref)
    for _ in range(steps):
        p = tilted(geometric(p, ref, beta * s), [s * w for w in wins(a, p)])
    return p


def gains_of(a, p, ref, beta):
    return [w - beta * math.log(x / r) for w, x, r in zip(wins(a, p), p, ref, strict=True)]


def twin_of_hedge(a, ref, beta, s, steps):
    """Weights are the start times the exponential of summed gains."""
    p, total = list(ref), [0.0] * len(ref)
    for _ in range(steps):
        total = [t + g for t, g in zip(total, gains_of(a, p, ref, beta), strict=True)]
        p = tilted(ref, [s * t for t in total])
    return p


def twin_of_optimistic_hedge(a, ref, beta, s, steps):
    """The same, with the last gains counted once more."""
    p, total = list(ref), [0.0] * len(ref)
    for _ in range(steps):
        gains = gains_of(a, p, ref, beta)
        total = [t + g for t, g in zip(total, gains, strict=True)]
        p = tilted(ref, [s * (t + g) for t, g in zip(total, gains, strict=True)])
    return p


def twin_of_onpo(a, ref, beta, s, steps):
    p, hat = list(ref), list(ref)
    for _ in range(steps):
        exponents = [s * w for w in wins(a, p)]
        hat = tilted(geometric(hat, ref, beta * s), exponents)
        p = tilted(geometric(hat, ref, beta * s), exponents)
    return p


def twin_of_nash_md(a, ref, beta, s, steps):
    """Munos et al.: pi_t^beta exp(eta P(. > pi_t^beta)), pi_t^beta the geometric mixture."""
    p = list(ref)
    for _ in range(steps):
        mixture = geometric(p, ref, beta * s)
        p = tilted(mixture, [s * w for w in wins(a, mixture)])
    return p


def twin_of_mnpo(a, ref, beta, s, steps, population=(0.5, 0.3, 0.2)):
    past = [list(ref)] * len(population)
    for _ in range(steps):
        base, exponents = [], []
        for i in range(len(ref)):
            base.append(math.prod(q[i] ** w for w, q in zip(population, past, strict=True)))
            exponents.append(sum(s * w * wins(a, q)[i] for w, q in zip(population, past, strict=True)))
        past = [tilted(geometric(base, ref, beta * s), exponents), *past[:-1]]
    return past[0]


def twin_of_regret_matching(a, ref, beta, s, steps):
    p, regrets = list(ref), [0.0] * len(ref)
    for _ in range(steps):
        gains = wins(a, p)
        own = sum(x * g for x, g in zip(p, gains, strict=True))
        regrets = [r + g - own for r, g in zip(regrets, gains, strict=True)]
        positive = [max(r, 0.0) for r in regrets]
        p = normalised(positive) if sum(positive) > 0.0 else [1.0 / len(p)] * len(p)
    return p


TWINS = {
    "egpo": twin_of_two_logit_updates, "omd": twin_of_inpo, "inpo": twin_of_inpo, "hedge": twin_of_hedge,
    "dno": twin_of_hedge, "gpo": twin_of_hedge, "optimistic_hedge": twin_of_optimistic_hedge,
    "onpo": twin_of_onpo, "nash_md": twin_of_nash_md, "mnpo": twin_of_mnpo,
    "regret_matching": twin_of_regret_matching,
}  # fmt: skip


@pytest.mark.parametrize("name", list(SOLVERS))
def test_every_solver_against_its_twin(name):
    beta = 0.3 if SOLVERS[name].regularised else 0.0
    game = random_games(3, 4, beta)
    population = (0.5, 0.3, 0.2) if name == "mnpo" else (1.0,)
    play, _ = played(name, game, 7, 0.4, population=population)
    for one in range(3):
        wanted = TWINS[name](game.matrix[one].tolist(), game.reference[one].exp().tolist(), beta, 0.4, 7)
        assert play.policy[one].exp().tolist() == pytest.approx(wanted, abs=1e-13)


@pytest.mark.parametrize("name", list(SOLVERS))
def test_games_side_by_side_in_memory_are_the_same_games(name):
    """And stay side by side, which is what makes steps fast; but MNPO puts policies one after another."""
    game = random_games(20, 4, 0.3 if SOLVERS[name].regularised else 0.0)
    population = (0.5, 0.3, 0.2) if name == "mnpo" else (1.0,)
    beside = games_last(game)
    assert beside.matrix.stride()[0] == beside.reference.stride()[0] == 1 != game.matrix.stride()[0]
    found, wanted = (played(name, each, 30, 0.4, population=population)[0] for each in (beside, game))
    torch.testing.assert_close(found.policy, wanted.policy, atol=1e-12, rtol=0.0)
    assert name == "mnpo" or found.policy.stride() == (1, 20)


# Steps and the losses they minimise -----------------------------------------------------------------------


def all_pairs_least_squares(weights, targets):
    """Return u [K] of mean 0 that minimises sum_ij weights_ij (u_i - u_j - targets_ij)^2, densely."""
    k = len(weights)
    rows, values = [], []
    for i in range(k):
        for j in range(k):
            row = np.zeros(k)
            row[i] += 1.0
            row[j] -= 1.0
            scale = math.sqrt(float(weights[i, j]))
            rows.append(scale * row)
            values.append(scale * float(targets[i, j]))
    found = np.linalg.lstsq(np.array(rows), np.array(values), rcond=None)[0]
    return torch.as_tensor(found - found.mean())


def test_inpos_loss_is_minimised_by_the_step():
    """(h - 1/(2 eta))^2 over pairs drawn from the policy, winner first: the step has 1/eta, 0 has no part."""
    game = random_games(1, 5, 0.2, seed=3)
    a, p, s = 0.5 * game.matrix[0], torch.softmax(torch.arange(5.0, dtype=torch.float64) / 3.0, 0), 0.7
    half = Game(a, game.reference[0], game.beta)
    base = torch.lerp(p.log(), half.reference, s * half.beta)
    ours = mirror_step(half, p.log(), p, s)
    for target, scale in ((0.5 * s, 1.0), (0.5 / s, 1.0 / s**2)):
        # Of an ordered pair (i, j) i wins with 1/2 + a_ij: the mean target is (2 P - 1) target.
        targets = 2.0 * a * target
        policy = torch.log_softmax(base + all_pairs_least_squares(p[:, None] * p[None], targets), 0)
        wanted = torch.log_softmax(base + scale * s * (a @ p), 0)
        torch.testing.assert_close(policy, wanted, atol=1e-12, rtol=0.0)
        assert (float((policy - ours).abs().max()) < 1e-12) == (scale == 1.0)
    labels = a + 0.5
    pairs = p[:, None] * p[None] * (1.0 - torch.eye(5, dtype=torch.float64))
    exact = population_minimiser("inpo", labels, half.reference.exp(), half.beta, eta=1.0 / s, current=p,
                                 weights=pairs)  # fmt: skip
    assert exact is not None
    torch.testing.assert_close(exact, ours, atol=1e-12, rtol=0.0)
    other = mirror_descent_step(labels, half.reference.exp(), p, half.beta, 1.0 / s)
    torch.testing.assert_close(other, ours, atol=1e-12, rtol=0.0)


def test_dnos_loss_is_minimised_by_the_step():
    game = random_games(4, 6, 0.0, seed=4)
    a = 0.5 * game.matrix
    play = advance("dno", game._replace(matrix=a), begin("dno", game.reference), 0.8)
    found = population_minimiser("dno", a + 0.5, game.reference.exp(), 1.0 / 0.8)
    assert found is not None
    torch.testing.assert_close(play.policy, found, atol=1e-6, rtol=0.0)


def test_gpos_regression_without_its_normaliser_is_not_the_step():
    """With log Z := 0 the least-squares policy is u + W-term; how far off it is falls with beta."""
    game = random_games(1, 6, 0.0, seed=5)
    scores, start = (game.matrix[0] @ game.reference[0].exp()).numpy(), game.reference[0].exp().numpy()
    off = []
    for beta in (0.5, 2.0, 8.0):
        exact = advance("gpo", game, begin("gpo", game.reference), 1.0 / beta).policy[0].exp().numpy()

        def policy(multiplier, beta=beta):
            # The stationary points of sum start (u - s / beta)^2 with sum start exp(u) = 1.
            logs = scores / beta - lambertw(multiplier * np.exp(scores / beta)).real
            return start * np.exp(logs)

        found = policy(brentq(lambda x: policy(x).sum() - 1.0, -0.3, 5.0, xtol=1e-15))
        off.append(np.abs(found - exact).max())
    assert 1e-4 < off[0] < 0.1
    assert off[0] > 8.0 * off[1] > 64.0 * off[2] > 0.0


def test_online_ipos_gradient_is_the_way_of_the_step():
    """E over even pairs of (h - (P(y > q) - P(y' > q)) / beta)^2 has the slope (4/n) (a - mean a)."""
    game, n = random_games(1, 7, 0.4, seed=6), 7
    a, ref = game.matrix[0], game.reference[0]
    theta = torch.randn(n, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    opponent = torch.softmax(torch.arange(7.0, dtype=torch.float64), 0)
    lead = torch.log_softmax(theta, 0) - ref
    gains = a @ opponent / game.beta
    margins = lead[:, None] - lead[None] - gains[:, None] + gains[None]
    (slope,) = torch.autograd.grad(margins.square().mean(), theta)
    away = theta.detach() - ref - gains
    torch.testing.assert_close(slope, 4.0 / n * (away - away.mean()), atol=1e-12, rtol=0.0)
    rate = 0.05
    start = torch.log_softmax(theta.detach(), 0)
    step = mirror_step(Game(a, ref, game.beta), start, opponent, 4.0 * rate / (game.beta * n))
    torch.testing.assert_close(torch.log_softmax(theta.detach() - rate * slope, 0), step)


def test_mnpo_of_the_present_policy_alone_is_inpo():
    game = random_games(5, 6, 0.1, seed=7)
    ours, _ = played("inpo", game, 30)
    for population in ((1.0,), (1.0, 0.0)):
        found, _ = played("mnpo", game, 30, population=population)
        torch.testing.assert_close(found.policy, ours.policy, atol=1e-12, rtol=0.0)
    mixed, _ = played("mnpo", game, 30, population=(0.5, 0.5))
    assert float((mixed.policy - ours.policy).abs().max()) > 1e-3


def test_mnpos_loss_knows_the_sampler_only():
    """With pairs from the present policy alone its loss leads elsewhere than the step against all."""
    game = random_games(1, 5, 0.0, seed=8)
    a, past = 0.5 * game.matrix[0], torch.log_softmax(torch.arange(5.0, dtype=torch.float64), 0)
    half, p = Game(a, game.reference[0], 0.0), game.reference[0].exp()
    base = 0.5 * p.log() + 0.5 * past
    found = torch.log_softmax(base + all_pairs_least_squares(p[:, None] * p[None], 2.0 * a * 0.15), 0)
    torch.testing.assert_close(found, mirror_step(half, base, p, 0.3), atol=1e-12, rtol=0.0)
    ours = mnpo(half, Play(p.log(), past[None]), 0.3, (0.5, 0.5)).policy
    assert 1e-3 < float((ours.exp() - found.exp()).abs().max()) < 0.2


# What is said of them -------------------------------------------------------------------------------------


def test_egpo_is_linear_on_ten_random_games():
    game = random_games(10, 10, 0.1, even=True)
    middle, _ = played("egpo", game, 150)
    late, _ = played("egpo", game, 250)
    slopes = (duality_gap(game, late.policy) / duality_gap(game, middle.policy)).log() / 100
    wanted = 2.0 * math.log(1.0 - default_step_size(0.1) * 0.1)
    assert ((slopes / wanted - 1.0).abs() < 0.15).all()
    last, _ = played("egpo", game, 400)
    assert float(duality_gap(game, last.policy).max()) <= 1e-11


def test_egpo_settles_where_omd_goes_round():
    """Rock-paper-scissors with references that are not even, beta .01, 20,000 steps."""
    game = Game(PROBABILITIES, STARTS, 0.01)
    egpo, _ = played("egpo", game, 20_000)
    assert float(duality_gap(game, egpo.policy).max()) <= 1e-10
    omd, _ = played("omd", game, 20_000)
    assert float(duality_gap(game, omd.policy).min()) >= 0.1


def test_without_a_regulariser_optimism_settles_and_weights_go_round():
    game, start = Game(PROBABILITIES, STARTS[1], 0.0), STARTS[1]
    for name in ("onpo", "egpo"):
        found, _ = played(name, game, 5_000, 0.2)
        assert float(duality_gap(game, found.policy)) <= 1e-3, name
    found, _ = played("hedge", game, 5_000, 0.2, start)
    assert float(duality_gap(game, found.policy)) >= 0.5


def test_optimism_helps_the_average():
    """400 rounds of ten 10 x 10 games, each at its best of five step sizes."""
    game, best = random_games(10, 10, 0.0, even=True), {}
    for name in ("hedge", "optimistic_hedge"):
        averages = [played(name, game, 400, size)[1] for size in (0.1, 0.2, 0.33, 0.5, 1.0)]
        best[name] = min(float(regularised_exploitability(game, average).mean()) for average in averages)
    assert best["optimistic_hedge"] <= 0.0049
    assert best["hedge"] >= 4.0 * best["optimistic_hedge"]


@pytest.mark.parametrize("name", ["hedge", "regret_matching"])
def test_the_average_keeps_the_bound_of_its_regret(name):
    """sqrt(2 ln K / T) of Hedge at its rate; sqrt(K T) 2 / T of regret matching with payoffs in [-1, 1]."""
    k, rounds = 6, 500
    game = random_games(8, k, 0.0, even=True, seed=9)
    rate = math.sqrt(2.0 * math.log(k) / rounds)
    _, average = played(name, game, rounds, rate)
    bound = rate if name == "hedge" else 2.0 * math.sqrt(k / rounds)
    worst = float(regularised_exploitability(game, average).max())
    assert 0.0 < worst <= bound


def test_the_divergence_from_the_equilibrium_contracts():
    """KL(eq | p_t) <= (1 - s beta)^t KL(eq | p_0) at steps 1/(beta + 3) and 1/(beta + 1), not at twice."""
    worst = {}
    for factor, shift in ((1.0, 3.0), (1.0, 1.0), (2.0, 1.0)):
        worst[factor, shift] = 0.0
        for beta in (0.05, 0.2, 1.0):
            game = random_games(100, 6, beta, seed=10)
            equilibrium, size = nash_equilibrium(game), factor / (beta + shift)
            if size * beta > 1.0:
                continue
            play = begin("egpo", torch.zeros_like(game.reference).log_softmax(-1))
            first = divergence(equilibrium, play.policy)
            for t in range(1, 41):
                play = advance("egpo", game, play, size)
                bound = (1.0 - size * beta) ** t * first
                ratio = float((divergence(equilibrium, play.policy) / bound.clamp(min=1e-12)).max())
                worst[factor, shift] = max(worst[factor, shift], ratio)
    assert worst[1.0, 3.0] <= 1.0
    assert worst[1.0, 1.0] <= 1.0
    assert worst[2.0, 1.0] > 1.0


def test_a_fixed_point_is_the_equilibrium_but_of_nash_md():
    game = random_games(6, 5, 0.3, seed=11)
    equilibrium = nash_equilibrium(game)
    for name, solver in SOLVERS.items():
        if not solver.regularised:
            continue
        population = (0.5, 0.3, 0.2) if name == "mnpo" else (1.0,)
        found, _ = played(name, game, 600, population=population)
        far = float((found.policy - equilibrium).abs().max())
        assert far > 1e-3 if name == "nash_md" else far < 1e-9, name
        close, _ = played(name, game, 6_000, 0.03, population=population)
        assert float((close.policy - equilibrium).abs().max()) < (0.05 if name == "nash_md" else 1e-9), name


def test_dno_climbs_a_transitive_game():
    """Ten steps: the share of wins over the start never falls, and nearly all is the best option."""
    utilities = torch.linspace(-2.0, 2.0, 5, dtype=torch.float64)
    a = torch.sigmoid(utilities[:, None] - utilities[None]) - 0.5
    game = Game(a, torch.full((5,), -math.log(5.0), dtype=torch.float64), 0.0)
    play, won = begin("dno", game.reference), []
    for _ in range(10):
        play = advance("dno", game, play, 4.0)
        won.append(float(play.policy.exp() @ a @ game.reference.exp()))
    assert won == sorted(won)
    assert float(play.policy.exp()[-1]) >= 0.95


# Gaps -----------------------------------------------------------------------------------------------------


def test_gaps_by_hand():
    """All on rock: paper wins 1; with beta 1 and an even reference log(sum exp(A) / 3) and a divergence."""
    a = 2.0 * PROBABILITIES
    even = torch.full((3,), -math.log(3.0), dtype=torch.float64)
    rock = torch.tensor([0.0, -math.inf, -math.inf], dtype=torch.float64)
    assert float(duality_gap(Game(a, even, 0.0), rock)) == pytest.approx(2.0)
    regularised = math.log((1.0 + math.e + 1.0 / math.e) / 3.0) + math.log(3.0)
    assert float(duality_gap(Game(a, even, 1.0), rock)) == pytest.approx(2.0 * regularised)
    assert float(duality_gap(Game(a, even, 1.0), rock, even)) == pytest.approx(regularised)
    best, policy = best_response(Game(a, even, 0.0), a @ rock.exp())
    assert float(best) == 1.0
    assert policy.exp().tolist() == [0.0, 0.0, 1.0]


def test_the_gap_is_what_best_answers_win():
    game = random_games(5, 4, 0.7, seed=12)
    other = random_games(5, 4, 0.7, seed=13).reference
    policy = torch.zeros_like(other).log_softmax(-1)

    def value(p, q):
        both = p.exp()[:, None] @ game.matrix @ q.exp()[..., None]
        return both[:, 0, 0] + game.beta * (divergence(q, game.reference) - divergence(p, game.reference))

    high = best_response(game, (game.matrix @ other.exp()[..., None])[..., 0])[1]
    low = best_response(game, (game.matrix @ policy.exp()[..., None])[..., 0])[1]
    wanted = value(high, other) - value(policy, low)
    torch.testing.assert_close(duality_gap(game, policy, other), wanted)


def test_players_with_oracles_of_their_own():
    """The gap of two with one matrix is the duality gap; with one oracle, players who are alike stay so."""
    game = random_games(4, 5, 0.2, seed=14)
    both = torch.stack([game.reference, torch.zeros_like(game.reference).log_softmax(-1)], -2)
    one = Game(game.matrix[:, None], game.reference[:, None], 0.2)
    torch.testing.assert_close(multiplayer_gap(one, both), duality_gap(game, both[:, 0], both[:, 1]))
    alike = game.reference[:, None].expand(4, 3, 5)
    stepped = multiplayer_step(one, alike, 0.3)
    wanted = mirror_step(game, game.reference, game.reference.exp(), 0.3)
    torch.testing.assert_close(stepped, wanted[:, None].expand(4, 3, 5))


def test_three_players_settle_in_an_equilibrium_of_one_oracle_and_beside_one_of_three():
    """From three places to one equilibrium; with an oracle for each they rest where each could still win."""
    oracles = random_games(3, 4, 0.5, seed=15)
    even = torch.full((3, 4), -math.log(4.0), dtype=torch.float64)
    rested = {}
    for count in (1, 3):
        game, players = Game(oracles.matrix[:count], even, 0.5), oracles.reference
        for _ in range(400):
            players = multiplayer_step(game, players, 0.3)
        torch.testing.assert_close(multiplayer_step(game, players, 0.3), players, atol=1e-12, rtol=0.0)
        rested[count] = players
        # The gap once more, summed as its definition says.
        gap = 0.0
        for i in range(3):
            matrix = game.matrix[min(i, count - 1)]
            gains = sum(matrix @ players[j].exp() for j in range(3) if j != i) / 2.0
            best = best_response(Game(matrix, even[i], 0.5), gains)[1]
            for sign, p in ((1.0, best), (-1.0, players[i])):
                gap += sign * float(p.exp() @ gains - 0.5 * divergence(p, even[i]))
        assert float(multiplayer_gap(game, players)) == pytest.approx(gap, abs=1e-12)
        assert gap < 1e-12 if count == 1 else gap > 0.01
    alone = nash_equilibrium(Game(oracles.matrix[0], even[0], 0.5))
    torch.testing.assert_close(rested[1], alone.expand(3, 4), atol=1e-9, rtol=0.0)
