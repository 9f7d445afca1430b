"""Finite horizons beside brute force over all history-dependent policies, written anew in plain Python."""

import itertools
import math
import random
from functools import cache, partial

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

import prefrl.envs
from prefrl.envs.finite_horizon.small_mdps import random_mdp, two_coins
from prefrl.envs.finite_horizon.tabular import HorizonModel
from prefrl.envs.grids.grid import TabularModel
from prefrl.functional.returns.objectives import (
    MEAN,
    Clipped,
    Exponential,
    Lexicographic,
    NegativeNorm,
    NegativePower,
    ReachesZero,
    TwoSlope,
    UnsoundObjectiveError,
    WorstCase,
)
from prefrl.functional.returns.risk_measures import CVaR, MeanVariance, ValueAtRisk
from prefrl.functional.returns.stock_problems import (
    ObjectiveSettings,
    StockProblem,
    conditional_value_at_risk,
    mean_cvar,
    optimistic_cvar,
    target_probability,
    target_return,
)
from prefrl.tabular import (
    BackwardInduction,
    FiniteHorizon,
    StockLattice,
    StockPolicy,
    TooManyTotalsError,
    open_loop_distributions,
    policy_value,
    return_to_go_policy,
    solve,
)
from prefrl.tabular.return_distributions import candidate_stocks
from prefrl.tabular.stock_lattice import merged

STOCKS = (-6, -3, -1, 0, 1, 3)
TAUS = (0.1, 0.25, 0.5)


# Plain Python: distributions are dicts {return: probability}
# ------------------------------------------------------


def draw(seed):
    """The random family, drawn as its description says."""
    g = random.Random(seed)
    table = {}
    for s, a in itertools.product(range(3), range(2)):
        p = g.choice([1, 2, 3])
        first = (p / 4, g.randint(-2, 3), g.randrange(3))
        table[s, a] = [first, (1 - p / 4, g.randint(-2, 3), g.randrange(3))]
    return table


@cache
def all_distributions(seed, horizon, gamma):
    """Distributions of the return of every deterministic policy that may look at all that happened."""
    table = draw(seed)

    def distributions(state, left):
        if left == 0:
            return [{0.0: 1.0}]
        found = []
        for action in range(2):
            outcomes = table[state, action]
            for plans in itertools.product(*(distributions(nxt, left - 1) for _, _, nxt in outcomes)):
                distribution = {}
                for (p, r, _), plan in zip(outcomes, plans, strict=True):
                    for g, q in plan.items():
                        key = round(r + gamma * g, 10)
                        distribution[key] = distribution.get(key, 0.0) + p * q
                found.append(distribution)
        return found

    # Policies with the same distribution are one.
    return [
        dict(distribution)
        for distribution in {
            tuple(sorted(distribution.items())) for distribution in distributions(0, horizon)
        }
    ]


def cvar(distribution, tau):
    left, total = tau, 0.0
    for g, p in sorted(distribution.items()):
        share = min(p, left)
        total, left = total + share * g, left - share
    return total / tau


def expected(f):
    return lambda distribution, c: sum(p * f(c + g) for g, p in distribution.items())


def best(distributions, value):
    return max(value(distribution) for distribution in distributions)


def problem_of(seed, horizon=3, gamma=1.0):
    return FiniteHorizon.of_model(random_mdp(seed, horizon), gamma=gamma)


def distribution_of(policy, place):
    """The distribution of the total of a policy from an initial stock, as a dict."""
    probs = policy.distribution(policy.lattice.initial[place : place + 1])[0, 0]
    return {
        round(x, 9): p for x, p in zip(policy.lattice.outcomes.tolist(), probs.tolist(), strict=True) if p
    }


def suboptimal(seeds, gamma, objective, value, *, starts=STOCKS, unsound=False, time_indexed=False):
    """How often the greedy policy of backward induction is worse than the best one, and by how much."""
    count, worst = 0, 0.0
    for seed in seeds:
        stocks = torch.tensor(starts, dtype=torch.float64)
        policy = BackwardInduction(
            problem_of(seed, 3, gamma), objective, stocks, unsound=unsound, time_indexed=time_indexed
        ).run()
        distributions = all_distributions(seed, 3, gamma)
        for place, c in enumerate(starts):
            distribution = {x - c: p for x, p in distribution_of(policy, place).items()}
            assert sum(distribution.values()) == pytest.approx(1.0, abs=1e-12)
            reached, optimum = value(distribution, c), max(value(other, c) for other in distributions)
            if isinstance(optimum, tuple):
                count += reached < optimum
                continue
            assert reached <= optimum + 1e-9, "the brute force must hold every policy"
            count += reached < optimum - 1e-9
            worst = max(worst, optimum - reached)
    return count, worst


# The oracle suite ----------------------------------------------------------------------------------------


def test_the_family_is_the_described_one():
    for seed in (0, 1, 57):
        model, table = random_mdp(seed).model, draw(seed)
        for (s, a), outcomes in table.items():
            for k, (p, r, nxt) in enumerate(outcomes):
                assert model.probabilities[s, a, k] == p
                assert model.rewards[s, a, k] == r
                assert model.successors[s, a, k] == nxt
    counts = [len(all_distributions(seed, 3, 1.0)) for seed in range(5)]
    assert min(counts) > 1
    assert max(counts) <= 128


@pytest.mark.slow
@pytest.mark.parametrize(("tau", "naive", "neutral", "mean_gap", "max_gap"), [
    (0.1, 11, 23, 0.063, 1.69), (0.25, 14, 26, 0.123, 2.5), (0.5, 18, 18, 0.044, 1.5),
])  # fmt: skip
def test_cvar_is_the_best_of_all_policies(tau, naive, neutral, mean_gap, max_gap):
    worse, gaps = [0, 0], []
    for seed in range(100):
        problem, distributions = problem_of(seed), all_distributions(seed, 3, 1.0)
        found = solve(problem, conditional_value_at_risk(tau))
        optimum = best(distributions, lambda distribution: cvar(distribution, tau))
        assert found.value == pytest.approx(optimum, abs=1e-9)
        assert float(found.scores.max()) == pytest.approx(optimum, abs=1e-9)
        distribution = dict(zip(found.returns.tolist(), found.probs.tolist(), strict=True))
        assert cvar(distribution, tau) == pytest.approx(optimum, abs=1e-9)
        values = [policy_value(return_to_go_policy(problem, k)[0], CVaR(tau)) for k in (CVaR(tau), MEAN)]
        worse = [n + (value < optimum - 1e-9) for n, value in zip(worse, values, strict=True)]
        gaps.append(optimum - values[0])
    assert worse == [naive, neutral]
    assert np.mean(gaps) == pytest.approx(mean_gap, abs=6e-4)
    assert max(gaps) == pytest.approx(max_gap, abs=6e-3)


UTILITIES = [
    (TwoSlope(1, -1), lambda x: -abs(x)),
    (TwoSlope(1, 0), lambda x: min(x, 0)),
    (TwoSlope(0, 1), lambda x: max(x, 0)),
    (NegativePower(2), lambda x: -(x**2)),
    (ReachesZero(), lambda x: float(x >= -1e-9)),
    (mean_cvar(0.3, 0.25).objective, lambda x: (0.3 + 0.7 / 0.25) * min(x, 0) + 0.3 * max(x, 0)),
]


@pytest.mark.parametrize("gamma", [1.0, 0.5])
@pytest.mark.parametrize(("objective", "f"), UTILITIES, ids=lambda part: str(part)[:20])
def test_utilities_that_do_not_mind_gamma(objective, f, gamma):
    assert suboptimal(range(60), gamma, objective, expected(f))[0] == 0


@pytest.mark.slow
def test_utilities_that_mind_gamma():
    exponential = expected(lambda x: -math.exp(-x))
    clipped = expected(lambda x: max(-1.0, min(1.0, x)))
    some = range(60)
    near = (-1, 0, 1)
    count, worst = suboptimal(some, 0.5, Exponential(), exponential, unsound=True, starts=near)
    clipped_count, clipped_worst = suboptimal(some, 0.5, Clipped(), clipped, unsound=True)
    assert count == 30
    assert worst == pytest.approx(4.05, abs=6e-3)
    assert clipped_count == 123
    assert clipped_worst == pytest.approx(0.398, abs=6e-4)
    for objective, value in ((Exponential(), exponential), (Clipped(), clipped)):
        assert suboptimal(some, 0.5, objective, value, time_indexed=True)[0] == 0
        assert suboptimal(some, 1.0, objective, value)[0] == 0
        with pytest.raises(
            UnsoundObjectiveError,
            match=r"not indifferent to gamma 0\.5: use gamma 1, or the exact solver with time_in",
        ):
            BackwardInduction(problem_of(0, gamma=0.5), objective, torch.zeros(1, dtype=torch.float64))


def reach(distribution, c):
    return (
        sum(p for g, p in distribution.items() if c + g >= -1e-9),
        sum(p * g for g, p in distribution.items()),
    )


@pytest.mark.parametrize("gamma", [1.0, 0.5])
def test_lexicographic_and_worst_case(gamma):
    rounded = lambda distribution, c: tuple(round(key, 9) for key in reach(distribution, c))  # noqa: E731
    assert suboptimal(range(60), gamma, Lexicographic(ReachesZero(), MEAN), rounded)[0] == 0
    worst_case = lambda distribution, c: c + min(g for g, p in distribution.items() if p > 1e-12)  # noqa: E731
    assert suboptimal(range(60), 1.0, WorstCase(), worst_case)[0] == 0


def median(distribution, c):
    reached = 0.0
    for g, p in sorted(distribution.items()):
        reached += p
        if reached >= 0.5 - 1e-9:
            return c + g
    raise AssertionError


def mean_variance(distribution, c):
    mean = sum(p * g for g, p in distribution.items())
    return c + mean - 0.5 * sum(p * (g - mean) ** 2 for g, p in distribution.items())


@pytest.mark.parametrize(("objective", "value", "failures"), [
    (ValueAtRisk(0.5), median, 48), (MeanVariance(0.5), mean_variance, 186),
])  # fmt: skip
def test_what_cannot_be_optimised_is_not_and_is_refused(objective, value, failures):
    assert suboptimal(range(60), 1.0, objective, value, unsound=True)[0] == failures
    with pytest.raises(UnsoundObjectiveError, match=r"not indifferent to mixtures.*; use target_"):
        BackwardInduction(problem_of(0), objective, torch.zeros(1, dtype=torch.float64))


def test_cvar_as_an_objective_fails_and_points_to_the_search():
    failures = 0
    for seed in range(60):
        policy = BackwardInduction(
            problem_of(seed), CVaR(0.25), torch.zeros(1, dtype=torch.float64), unsound=True
        ).run()
        distribution = distribution_of(policy, 0)
        failures += (
            cvar(distribution, 0.25)
            < best(all_distributions(seed, 3, 1.0), lambda distribution: cvar(distribution, 0.25)) - 1e-9
        )
    assert failures == 11
    with pytest.raises(UnsoundObjectiveError, match="use conditional_value_at_risk"):
        BackwardInduction(problem_of(0), CVaR(0.25), torch.zeros(1, dtype=torch.float64))


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(1_000, 10**6), horizon=st.integers(1, 4), tau=st.floats(0.02, 1.0), g=st.integers(-9, 9)
)
def test_any_seed_horizon_tau_and_target(seed, horizon, tau, g):
    distributions = all_distributions(seed, horizon, 1.0)
    problem = problem_of(seed, horizon)
    cases = [
        (conditional_value_at_risk(tau), lambda distribution: cvar(distribution, tau)),
        (
            mean_cvar(0.4, tau),
            lambda distribution: 0.4 * expected(float)(distribution, 0) + 0.6 * cvar(distribution, tau),
        ),
        (target_return(g), lambda distribution: expected(lambda x: -abs(x))(distribution, -g)),
        (target_return(g, 2.0), lambda distribution: expected(lambda x: -(x**2))(distribution, -g)),
        (target_probability(g), lambda distribution: reach(distribution, -g)[0]),
    ]
    for wanted, value in cases:
        assert solve(problem, wanted).value == pytest.approx(best(distributions, value), abs=1e-9)


@pytest.mark.slow
def test_horizon_four_with_all_its_policies():
    for seed in range(100):
        distributions, problem = all_distributions(seed, 4, 1.0), problem_of(seed, 4)
        for tau in TAUS:
            found = solve(problem, conditional_value_at_risk(tau)).value
            assert found == pytest.approx(best(distributions, partial(cvar, tau=tau)), abs=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_discounted_cvar(seed):
    """With gamma 1/2 the search goes over initial stocks that are halves and quarters."""
    distributions, problem = all_distributions(seed, 3, 0.5), problem_of(seed, gamma=0.5)
    for tau in TAUS:
        found = solve(problem, conditional_value_at_risk(tau)).value
        assert found == pytest.approx(best(distributions, partial(cvar, tau=tau)), abs=1e-9)


@pytest.mark.parametrize(("tau", "short", "worst_gap"), [
    (0.1, [], 0.0), (0.25, [9], 1 / 8), (0.5, [5, 21, 63], 1 / 8), (0.8, [21, 61, 63], 3 / 32),
])  # fmt: skip
def test_the_optimistic_cvar_beside_the_best_policy(tau, short, worst_gap):
    """At the minimising stock 16, 10, 10 and 10 of these 80 fall short, by 3 at most."""
    found_short, gaps = [], []
    for seed in range(80):
        found = solve(problem_of(seed), optimistic_cvar(tau))
        optimum = best(
            all_distributions(seed, 3, 1.0),
            lambda distribution: -cvar({-g: p for g, p in distribution.items()}, tau),
        )
        bound = -float(found.scores.max())
        assert found.value <= optimum + 1e-9 <= bound + 2e-9
        distribution = dict(zip((-found.returns).tolist(), found.probs.tolist(), strict=True))
        assert -cvar(distribution, tau) == pytest.approx(found.value, abs=1e-9)
        if found.value < optimum - 1e-9:
            found_short.append(seed)
        gaps.append(optimum - found.value)
    assert found_short == short
    assert max(gaps) == pytest.approx(worst_gap, abs=1e-9)


def test_policies_are_compared_in_pieces(monkeypatch):
    whole = solve(problem_of(5), optimistic_cvar(0.25))
    monkeypatch.setattr("prefrl.tabular.return_distributions.MAX_MASSES", 1)
    pieces = solve(problem_of(5), optimistic_cvar(0.25))
    assert (pieces.value, pieces.initial_stock) == (whole.value, whole.initial_stock)


def test_the_least_bound_of_the_optimistic_cvar_may_lie_between_returns():
    better = 0
    for seed in range(8):
        problem = problem_of(seed, 2)
        tried = -solve(problem, optimistic_cvar(0.8)).scores.max()
        fine = -solve(
            problem, optimistic_cvar(0.8), initial_stocks=np.linspace(-7, 5, 241).tolist()
        ).scores.max()
        assert float(fine) >= float(tried) - 1 / 8
        atoms = -solve(problem, optimistic_cvar(0.8), initial_stocks=range(-7, 6)).scores.max()
        better += float(tried) < float(atoms) - 1e-9
    assert better


def test_the_worst_case_sees_the_rarest_outcome():
    """Eight steps, each -1 with probability 1/100 and else 0, or .9 for sure: all of them may go wrong."""
    successors = np.zeros((3, 2, 2), dtype=np.int64)
    successors[0], successors[1], successors[2] = [[1, 1], [2, 2]], 1, 2
    p = np.zeros((3, 2, 2))
    p[:, :, 0], p[1] = 1.0, [0.01, 0.99]
    features = np.zeros((3, 2, 2, 1))
    features[1, :, 0, 0], features[2, :, 0, 0] = -1.0, -0.9
    model = TabularModel(successors, p, features, np.ones(1), np.zeros(3, dtype=bool), np.eye(3)[0],
                         ("reward",))  # fmt: skip
    problem = FiniteHorizon.of_model(HorizonModel(model, 9, np.zeros((3, 1))))
    assert solve(problem, StockProblem(WorstCase(), (0.0,))).value == pytest.approx(-7.2)


def test_what_comes_first_must_see_everything():
    """A worst case hides what is better elsewhere in a mixture: it may break ties, but not come first."""
    stock = torch.zeros(1, dtype=torch.float64)
    with pytest.raises(UnsoundObjectiveError, match="must not come first"):
        BackwardInduction(problem_of(0), Lexicographic(WorstCase(), MEAN), stock)
    short = 0
    for seed in range(60):
        policy = BackwardInduction(
            problem_of(seed), Lexicographic(WorstCase(), MEAN), stock, unsound=True
        ).run()
        distribution, distributions = distribution_of(policy, 0), all_distributions(seed, 3, 1.0)

        def key(distribution):
            return round(min(distribution), 9), round(sum(g * p for g, p in distribution.items()), 9)

        short += key(distribution) < max(map(key, distributions))
        assert key(distribution)[0] == max(map(key, distributions))[0]
    assert short == 9


def test_the_same_totals_are_listed_whenever_it_is_done():
    values = torch.as_tensor(np.random.default_rng(0).choice([0.1 + 0.2, 0.3, 0.1], 30_000))
    first = merged(values)[0]
    assert len(first) == 2
    assert all(torch.equal(first, merged(values)[0]) for _ in range(5))
    assert first[1] == next(x for x in values if x > 0.2)


# Known tables --------------------------------------------------------------------------------------------

COINS = {0.25: (1.0, None), 0.5: (1.75, -3.0), 0.75: (13 / 6, -3.0), 1.0: (2.75, None)}


@pytest.mark.parametrize("tau", COINS)
def test_two_coins(tau):
    problem = FiniteHorizon.of_model(two_coins())
    found = solve(problem, conditional_value_at_risk(tau))
    value, stock = COINS[tau]
    assert found.value == pytest.approx(value, abs=1e-12)
    if stock is not None:
        assert found.initial_stock == (stock,)
    distributions = {"SS": {1: 0.5, 3: 0.5}, "SR": {0: 0.125, 1: 0.5, 5: 0.375}, "RS": {-2: 0.125, 3: 0.875},
            "RR": {-2: 0.125, 0: 0.125, 3: 0.375, 5: 0.375}}  # fmt: skip
    assert found.value == pytest.approx(
        best(distributions.values(), lambda distribution: cvar(distribution, tau)), abs=1e-12
    )


def test_the_search_over_two_coins_has_two_tops():
    problem = FiniteHorizon.of_model(two_coins())
    wanted = conditional_value_at_risk(0.75)
    scores = solve(problem, wanted, initial_stocks=range(-6, 3)).scores
    h = [5 / 3, 2, 11 / 6, 13 / 6, 4 / 3, 1, 0, -1, -2]
    torch.testing.assert_close(scores, torch.tensor(h, dtype=torch.float64))
    place = 0  # climbing from -6 stops at 2.0
    while place + 1 < len(h) and scores[place + 1] > scores[place]:
        place += 1
    assert float(scores[place]) == pytest.approx(2.0)
    for spacing in (1.0, 0.3, 0.1):
        grid = torch.arange(-6.0, 2.0, spacing, dtype=torch.float64) + 0.013
        for tau in (0.05, 0.25, 0.75):
            wanted = conditional_value_at_risk(tau)
            loss = solve(problem, wanted).value - float(
                solve(problem, wanted, initial_stocks=grid).scores.max()
            )
            assert -1e-12 <= loss <= spacing / 2 * max(1.0, 1.0 / tau - 1.0) + 1e-12


CLIFF = {
    0.05: (-12.52225, 12, -20, -16.93376), 0.1: (-12.26112, 12, -20, -16.46688),
    0.25: (-10.88303, 9, -12.44444, -15.38284), 0.5: (-9.22507, 7, -9.37325, -11.07337),
    1.0: (-8.03668, 5, -8.03668, -8.03668),
}  # fmt: skip


@pytest.mark.parametrize("tau", CLIFF)
def test_the_cliff(tau):
    problem = FiniteHorizon.of_model(gym.make("prefrl/RiskyCliff-v0").unwrapped.horizon_model())
    value, stock, naive, neutral = CLIFF[tau]
    found = solve(problem, conditional_value_at_risk(tau))
    assert found.value == pytest.approx(value, abs=1e-5)
    assert found.initial_stock == (stock,)
    values = [policy_value(return_to_go_policy(problem, k)[0], CVaR(tau)) for k in (CVaR(tau), MEAN)]
    assert values == pytest.approx([naive, neutral], abs=1e-5)


def test_generated_returns():
    problem = FiniteHorizon.of_model(gym.make("prefrl/StochasticApples-v0").unwrapped.horizon_model())
    best_errors = [-solve(problem, target_return(g)).value for g in range(-7, 8)]
    expected_errors = [0, 6e-5, 0.00098, 0.00745, 0.03613, 0.12592, 0.33789, 0.73315]
    assert best_errors[7:] == pytest.approx(expected_errors, abs=6e-6)
    assert best_errors[:8] == pytest.approx(expected_errors[::-1], abs=6e-6)
    returns, distributions = open_loop_distributions(problem)
    blind = [-float(target_return(g).criterion().value(returns, distributions).max()) for g in range(8)]
    assert blind == pytest.approx([0, 0.5, 0.75, 0.9375, 1.09375, 1.23047, 1.35352, 1.46631], abs=6e-6)
    # The last one by hand: 14 visits, a binomial distribution.
    by_hand = sum(math.comb(14, n) / 2**14 * abs(n - 7) for n in range(15))
    assert blind[7] == pytest.approx(by_hand, abs=1e-12)


# Vectors -------------------------------------------------------------------------------------------------


def plain_vector_optimum(problem, f, start):
    """The best E f(c) by memoised recursion over (time, state, stock) in plain Python."""
    mdp = problem.mdp
    p, succ, r = mdp.probabilities[0].tolist(), mdp.successors[0].tolist(), problem.rewards[0].tolist()

    @cache
    def value(t, s, c):
        if t == problem.horizon or mdp.terminal[0, s]:
            return f(c)
        return max(
            sum(
                chance * value(t + 1, nxt, tuple(round(x + y, 9) for x, y in zip(c, paid, strict=True)))
                for chance, nxt, paid in zip(p[s][a], succ[s][a], r[s][a], strict=True)
                if chance
            )
            for a in range(len(p[s]))
        )

    return value(0, int(mdp.start[0].argmax()), start)


@pytest.mark.parametrize(("variables", "horizon"), [(2, 6), (3, 4)])
def test_homeostasis_beside_plain_recursion(variables, horizon):
    env = gym.make("prefrl/Homeostasis-v0", variables=variables, horizon=horizon).unwrapped
    problem = FiniteHorizon.of_model(env.horizon_model(), vector=True)
    start = tuple(-0.5 * i for i in range(1, variables + 1))
    for order in (1.0, 2.0):
        wanted = ObjectiveSettings("homeostasis", norm=order).problem(variables)
        found = solve(problem, wanted, initial_stocks=[start])
        norm = lambda c: -(sum(abs(x) ** order for x in c) ** (1 / order))  # noqa: E731, B023
        assert found.value == pytest.approx(plain_vector_optimum(problem, norm, start), abs=1e-9)
        assert found.initial_stock == start


def test_constraints_beside_plain_recursion():
    env = gym.make("prefrl/BudgetedCollection-v0", horizon=8, budget=5.0).unwrapped
    problem = FiniteHorizon.of_model(env.horizon_model(), vector=True)
    wanted = ObjectiveSettings("constraint_penalty", penalty=1.5).problem(2)
    found = solve(problem, wanted, initial_stocks=[env.initial_stock])
    penalised = lambda c: c[0] + 1.5 * min(c[1], 0.0)  # noqa: E731
    assert found.value == pytest.approx(plain_vector_optimum(problem, penalised, (0.0, 5.0)), abs=1e-9)
    strict = solve(problem, ObjectiveSettings("constraint").problem(2), initial_stocks=[env.initial_stock])
    assert strict.value == 1.0
    left = strict.returns[:, 1] + 5.0
    assert float(strict.probs[left < 0].sum()) == 0.0


@pytest.mark.slow
def test_the_stock_pays_where_it_should():
    for env_id, name, stock in (("prefrl/Homeostasis-v0", "homeostasis", (0.0, 0.0)),
                                ("prefrl/BudgetedCollection-v0", "constraint", (0.0, 12.0))):  # fmt: skip
        env = gym.make(env_id).unwrapped
        assert env.initial_stock == stock
        problem = FiniteHorizon.of_model(env.horizon_model(), vector=True)
        wanted = ObjectiveSettings(name).problem(2)
        found = solve(problem, wanted, initial_stocks=[stock])
        returns, distributions = open_loop_distributions(problem)
        criterion = wanted.criterion(stock)
        blind = max(criterion.keys(returns, distributions).tolist())
        ours = criterion.keys(found.returns, found.probs).tolist()
        if name == "homeostasis":
            assert ours == pytest.approx([-1.38046], abs=1e-5)
            assert blind == pytest.approx([-3.55841], abs=1e-5)
        else:
            assert ours == pytest.approx([1.0, 19.4431], abs=1e-4)
            assert blind == pytest.approx([1.0, 14.0], abs=1e-9)


# The pieces ----------------------------------------------------------------------------------------------


def chain(rewards, *, probabilities=None, horizon=2, terminal=False, final=0.0):
    """One state with one action and several outcomes, which may lead to a terminal state."""
    k = len(rewards)
    states = 2 if terminal else 1
    successors = np.zeros((states, 1, k), dtype=np.int64)
    p = np.zeros((states, 1, k))
    p[:, 0] = probabilities or [1 / k] * k
    features = np.zeros((states, 1, k, 1))
    features[0, 0, :, 0] = rewards
    if terminal:
        successors[:, 0] = 1
        features[1] = 0.0
    model = TabularModel(successors, p, features, np.ones(1), np.array([False, True][:states]),
                         np.eye(states)[0], ("reward",))  # fmt: skip
    last = np.zeros((states, 1))
    last[0] = final
    return HorizonModel(model, horizon, last)


def test_the_lattice_of_a_discounted_chain_by_hand():
    problem = FiniteHorizon.of_model(chain([0.0, 1.0], horizon=3), gamma=0.5)
    lattice = StockLattice(problem, torch.tensor([0.0, 10.0], dtype=torch.float64))
    assert [len(points) for points in lattice.points] == [2, 4, 8, 16, 16]
    assert lattice.outcomes[:8].tolist() == [0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75]
    distribution = BackwardInduction(problem, MEAN, torch.zeros(1, dtype=torch.float64)).run().distribution()
    torch.testing.assert_close(distribution, torch.full((1, 1, 8), 0.125, dtype=torch.float64))


def test_what_is_paid_at_the_horizon_is_discounted_as_the_last_reward():
    world = chain([1.0], horizon=3, final=8.0)
    problem = FiniteHorizon.of_model(world, gamma=0.5)
    assert solve(problem, StockProblem(MEAN, (0.0,))).value == pytest.approx(1 + 0.5 + 0.25 + 8 * 0.25)
    assert policy_value(return_to_go_policy(problem, MEAN)[0], MEAN) == pytest.approx(3.75)
    ended = FiniteHorizon.of_model(chain([1.0], horizon=3, terminal=True, final=8.0), gamma=0.5)
    assert solve(ended, StockProblem(MEAN, (0.0,))).value == pytest.approx(1.0)
    assert policy_value(return_to_go_policy(ended, MEAN)[0], MEAN) == pytest.approx(1.0)


def test_rewards_that_are_no_whole_numbers():
    """0.1 + 0.2 and 0.3 are one total; probabilities are exact all the same."""
    problem = FiniteHorizon.of_model(chain([0.1, 0.2, 0.3], horizon=4))
    policy = BackwardInduction(problem, MEAN, torch.zeros(1, dtype=torch.float64)).run()
    assert len(policy.lattice.outcomes) == 9
    distribution = np.array([1.0])
    for _ in range(4):
        distribution = np.convolve(distribution, [1 / 3] * 3)
    np.testing.assert_allclose(policy.distribution()[0, 0].numpy(), distribution, atol=1e-12)


def test_objectives_that_overflow_are_refused():
    with pytest.raises(ValueError, match=r"Exponential.* is not finite for totals as large as"):
        BackwardInduction(problem_of(0), Exponential(300.0), torch.zeros(1, dtype=torch.float64))
    assert Exponential(300.0).lipschitz(9.0) == math.inf


def test_too_many_totals_are_refused_with_advice():
    generator = np.random.default_rng(0)
    problem = FiniteHorizon.of_model(chain(list(generator.random(10)), horizon=6), gamma=0.9)
    with pytest.raises(
        TooManyTotalsError, match=r"by time 4 there are .* more than max_points 5000: .*fewer stocks"
    ):
        solve(problem, StockProblem(MEAN, (0.0,)), max_points=5000)


def test_several_mdps_at_once_are_as_one_by_one():
    problems = [problem_of(seed) for seed in range(8)]
    from prefrl.tabular import TabularMDP

    mdp = TabularMDP.stack([random_mdp(seed).model for seed in range(8)])
    together = FiniteHorizon(mdp, mdp.features[..., 0], 3)
    stocks = torch.tensor(STOCKS, dtype=torch.float64)
    for objective in (TwoSlope(1, 0), WorstCase()):
        policy = BackwardInduction(together, objective, stocks).run()
        for m, problem in enumerate(problems):
            alone = BackwardInduction(problem, objective, stocks).run()
            for place in range(len(STOCKS)):
                ours = policy.distribution(policy.lattice.initial[place : place + 1])[m, 0]
                value = objective.value(policy.lattice.outcomes, ours)
                theirs = objective.value(alone.lattice.outcomes, alone.distribution()[0, place])
                assert float(value) == pytest.approx(float(theirs), abs=1e-12)


def test_pieces_give_what_the_whole_gives(monkeypatch):
    problem = FiniteHorizon.of_model(gym.make("prefrl/RiskyCliff-v0").unwrapped.horizon_model())
    whole = solve(problem, conditional_value_at_risk(0.25))
    monkeypatch.setattr("prefrl.tabular.return_distributions.MAX_BACKUP_ELEMENTS", 600)
    pieces = solve(problem, conditional_value_at_risk(0.25))
    assert torch.equal(whole.scores, pieces.scores)
    assert all(map(torch.equal, whole.policy.actions, pieces.policy.actions))


def test_distributions_and_expectations_find_the_same():
    """Carrying whole distributions, as other objectives need, changes nothing for expectations."""

    class Wrapped(WorstCase):
        def keys(self, atoms, probs=None):
            return TwoSlope(1, -1).keys(atoms, probs)

    stocks = torch.tensor(STOCKS, dtype=torch.float64)
    for seed in range(10):
        policies = [
            BackwardInduction(problem_of(seed), k, stocks).run() for k in (TwoSlope(1, -1), Wrapped())
        ]
        torch.testing.assert_close(policies[0].keys, policies[1].keys, rtol=0, atol=1e-12)


def test_ties_go_to_the_mean_or_to_the_first():
    """Both actions are safe for min(x, 0) from a high stock; the mean decides, or their order."""
    model = TabularModel(np.zeros((1, 2, 1), dtype=np.int64), np.ones((1, 2, 1)),
                         np.array([[[[1.0]], [[2.0]]]]), np.ones(1), np.array([False]), np.ones(1),
                         ("reward",))  # fmt: skip
    problem = FiniteHorizon.of_model(HorizonModel(model, 2, np.zeros((1, 1))))
    for tie_break, chosen in (("mean", 1), ("first", 0)):
        found = solve(problem, StockProblem(TwoSlope(1, 0), (5.0,)), tie_break=tie_break)
        assert {int(action) for table in found.policy.actions for action in table.flatten()} == {chosen}


def test_acting_takes_the_nearest_total():
    problem = FiniteHorizon.of_model(two_coins())
    policy = solve(problem, conditional_value_at_risk(0.5)).policy
    states, stocks = torch.tensor([1, 1, 1, 1]), torch.tensor([-3.0, -1.0, -1.2, -3.4])
    assert policy.act(1, states, stocks).tolist() == [1, 0, 0, 1], "risky after 0, safe after 2"
    blind = return_to_go_policy(problem, MEAN)[0]
    assert blind.act(1, states, stocks).tolist() == [1, 1, 1, 1]


def test_a_stock_that_is_not_reached_takes_the_action_of_one_that_is():
    """Solved for one initial stock, and acting far from where it leads, as if solved for the right one."""
    problem = FiniteHorizon.of_model(gym.make("prefrl/RiskyCliff-v0").unwrapped.horizon_model())
    alone = solve(problem, StockProblem(TwoSlope(1, 0), (9.0,))).policy
    for t in (1, 3, 6):
        reached = alone.lattice.reached[t][0]
        points = alone.lattice.points[t]
        assert not reached.all()
        for state in range(11):
            there = points[reached[state]]
            for c in (-30.0, 0.4, 40.0):
                nearest = there[(there - c).abs().argmin()]
                states = torch.tensor([state, state])
                pair = alone.act(t, states, torch.tensor([c, float(nearest)])).tolist()
                assert pair[0] == pair[1]


def test_a_policy_of_our_own_is_evaluated():
    """RS and RR, from their distributions."""
    problem = FiniteHorizon.of_model(two_coins())
    lattice = StockLattice(problem, torch.zeros(1, dtype=torch.float64))
    risky = [torch.ones(1, 3, 1, dtype=torch.int64) for _ in range(2)]
    assert distribution_of(StockPolicy(lattice, problem, risky), 0) == {
        -2: 0.125,
        0: 0.125,
        3: 0.375,
        5: 0.375,
    }
    careful = torch.ones(1, 3, len(lattice.points[1]), dtype=torch.int64)
    careful[:, :, lattice.points[1] > 1.0] = 0
    assert distribution_of(StockPolicy(lattice, problem, [risky[0], careful]), 0) == {-2: 0.125, 3: 0.875}


def test_candidates_are_the_returns_that_can_happen():
    problem = FiniteHorizon.of_model(two_coins())
    wanted = conditional_value_at_risk(0.5)
    assert candidate_stocks(problem, wanted).tolist() == [-5, -3, -1, 0, 2]
    stocks = candidate_stocks(problem_of(3), wanted)
    possible = sorted({-g for distribution in all_distributions(3, 3, 1.0) for g in distribution})
    assert stocks.tolist() == possible


def test_random_starts_share_one_initial_stock():
    world = random_mdp(5)
    model = TabularModel(world.model.successors, world.model.probabilities, world.model.features,
                         world.model.weights, world.model.terminal, np.array([0.5, 0.25, 0.25]),
                         ("reward",))  # fmt: skip
    problem = FiniteHorizon.of_model(HorizonModel(model, 3, np.zeros((3, 1))))
    found = solve(problem, conditional_value_at_risk(0.25))
    assert found.value == pytest.approx(float(found.scores.max()), abs=1e-9)
    grid = solve(problem, conditional_value_at_risk(0.25), initial_stocks=np.linspace(-9, 9, 361).tolist())
    assert float(grid.scores.max()) <= found.value + 1e-9


@pytest.mark.parametrize(("change", "message"), [
    ({"horizon": 0}, "horizon is 0; it must be at least 1"),
    ({"gamma": 0.0}, r"gamma is 0.0; a stock"),
    ({"gamma": 1.5}, r"gamma is 1.5; it must lie in \[0, 1\]"),
    ({"rewards": torch.zeros(1, 3, 2, 3)}, r"rewards has shape \(1, 3, 2, 3\)"),
    ({"rewards": torch.zeros(1, 3, 2, 2)}, "rewards must be finite numbers of dtype torch.float64"),
    ({"final_rewards": torch.zeros(3, dtype=torch.float64)}, r"final_rewards has shape \(3,\); it must be"),
])  # fmt: skip
def test_a_problem_that_is_none_is_refused(change, message):
    problem = problem_of(0)
    with pytest.raises(ValueError, match=message):
        FiniteHorizon(**{"mdp": problem.mdp, "rewards": problem.rewards, "horizon": 3, **change})


def test_arguments_that_do_not_fit_are_refused():
    problem = problem_of(0)
    with pytest.raises(ValueError, match=r"initial_stocks has shape \(1, 2\); it must be \[C\]"):
        StockLattice(problem, torch.zeros(1, 2))
    with pytest.raises(ValueError, match="takes rewards of 2 components, these have 0"):
        BackwardInduction(problem, NegativeNorm(2), torch.zeros(1))
    with pytest.raises(ValueError, match="the objective starts at"):
        solve(problem, target_return(1), initial_stocks=[0.0])
    with pytest.raises(ValueError, match="initial_stocks is missing"):
        solve(problem, StockProblem(MEAN))
    induction = BackwardInduction(problem, MEAN, torch.zeros(1))
    induction.run()
    with pytest.raises(ValueError, match="the start is reached"):
        induction.stage()
    with pytest.raises(ValueError, match="one MDP with one start"):
        open_loop_distributions(problem)
    assert set(prefrl.envs.RETURN_IDS) <= set(prefrl.envs.REGISTRY)
