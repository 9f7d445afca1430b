"""Hindsight optima and dual bounds against SciPy and brute force."""

import itertools

import gymnasium as gym
import highspy
import numpy as np
import pytest
import scipy.sparse as sp
from scipy.optimize import linprog, minimize

import prefrl.envs
from prefrl.envs.allocation.hindsight import (
    dual_minimum,
    fractional_knapsack,
    hindsight_values,
    linear_program,
)
from prefrl.envs.allocation.problems import AssortmentOffer, EntropyMatch, SecondPriceBid, SingleChoice


def random_program(seed, steps, m, d):
    rng = np.random.default_rng(seed)
    rewards, consumption = (
        rng.random((steps, d)),
        rng.random((steps, m, d)) * (rng.random((steps, m, d)) < 0.6),
    )
    return rewards, consumption, rng.uniform(0.1, 0.4, m) * steps


def by_scipy(rewards, consumption, budget):
    steps, d = rewards.shape
    resources = consumption.transpose(1, 0, 2).reshape(len(budget), steps * d)
    single = sp.kron(sp.eye(steps), np.ones((1, d)))
    return linprog(-rewards.ravel(), A_ub=sp.vstack([sp.csr_matrix(resources), single]),
                   b_ub=np.concatenate([budget, np.ones(steps)]), bounds=(0, None))  # fmt: skip


@pytest.mark.parametrize(
    ("seed", "steps", "m", "d"), [(0, 50, 1, 1), (1, 200, 3, 4), (2, 300, 5, 5), (3, 80, 6, 1)]
)
def test_linear_program_equals_scipy(seed, steps, m, d):
    rewards, consumption, budget = random_program(seed, steps, m, d)
    ours, theirs = linear_program(rewards, consumption, budget), by_scipy(rewards, consumption, budget)
    assert ours.value == pytest.approx(-theirs.fun, abs=1e-6)
    # The prices attain the dual's minimum, which is the optimum.
    requests = np.concatenate([rewards, consumption.reshape(steps, -1)], axis=1)
    problem = SingleChoice(reward_bound=1.0, m=m, d=d)
    assert dual(problem, requests, budget, ours.mu) == pytest.approx(ours.value, abs=1e-6)
    assert (ours.mu >= 0.0).all()


def test_an_unsolved_program_is_an_error():
    with pytest.raises(RuntimeError, match="HiGHS ended with Infeasible"):
        linear_program(np.ones((2, 1)), np.ones((2, 1, 1)), np.array([-1.0]))


def test_nothing_is_printed(capfd):
    linear_program(*random_program(0, 10, 1, 1))
    assert capfd.readouterr() == ("", "")
    assert highspy.Highs  # the public class is there, for versions without the quiet one


def test_knapsacks_equal_the_linear_program():
    rng = np.random.default_rng(0)
    rewards, weights = rng.uniform(-0.2, 1.0, (60, 5)), rng.random((60, 5)) * (rng.random((60, 5)) < 0.8)
    ours = fractional_knapsack(rewards, weights, 6.0)
    for row in range(5):
        program = linear_program(rewards[:, row, None], weights[:, row, None, None], np.array([6.0]))
        assert ours[row] == pytest.approx(program.value, abs=1e-9)
    assert fractional_knapsack(np.array([[3.0], [2.0]]), np.array([[2.0], [1.0]]), 2.0)[0] == 2.0 + 1.5


def test_units_are_the_best_of_them():
    env = gym.make("prefrl/MultiSecretary-v0", horizon=100, rho=0.37).unwrapped
    env.reset(seed=0)
    best = np.sort(env.requests()[:, 0])[-37:].sum()
    assert env.hindsight_optimum() == pytest.approx(best, abs=1e-12)


def dual(problem, requests, budget, mu):
    """D(mu), term by term."""
    terms, _ = problem.bound_terms(requests, np.broadcast_to(mu, (len(requests), len(budget))))
    return budget @ mu + terms.sum()


def test_the_matching_dual_is_the_concave_program():
    rng = np.random.default_rng(1)
    problem = EntropyMatch(reward_bound=3.0, d=2, lam=0.3)
    q, budget = rng.random((6, 2)), np.array([1.5, 1.0])
    ours = dual_minimum(problem, q, budget)

    def loss(x):
        x = np.maximum(x.reshape(6, 2), 1e-300)
        return -(q * x).sum() + 0.3 * (x * np.log(x)).sum()

    limits = [
        {"type": "ineq", "fun": lambda x: budget - x.reshape(6, 2).sum(0)},
        {"type": "ineq", "fun": lambda x: 1.0 - x.reshape(6, 2).sum(1)},
    ]
    found = minimize(
        loss, np.full(12, 0.1), bounds=[(0, 1)] * 12, constraints=limits, method="SLSQP", tol=1e-12
    )
    assert ours.value == pytest.approx(-found.fun, rel=1e-5)
    assert hindsight_values(problem, q[:, None], budget)[0] == ours.value
    assert dual(problem, q, budget, ours.mu) == pytest.approx(ours.value, abs=1e-12)
    assert (ours.mu > 0.0).all()


def test_the_assortment_dual_is_the_program_over_sets():
    rng = np.random.default_rng(2)
    steps, d = 12, 3
    problem = AssortmentOffer(reward_bound=1.0, d=d, attraction_bound=20.0)
    requests = np.concatenate(
        [rng.random((steps, d)), rng.exponential(1.0, (steps, d)), rng.random((steps, 1))], 1
    )
    budget = np.array([1.0, 2.0, 1.5])
    sets = np.array(list(itertools.product((0, 1), repeat=d)))
    weight = requests[:, None, d : 2 * d] * sets[None]
    chances = weight / (1.0 + weight.sum(-1, keepdims=True))  # [steps, sets, d]
    rewards = (chances * requests[:, None, :d]).sum(-1)
    theirs = by_scipy(rewards, chances.transpose(0, 2, 1), budget)
    assert dual_minimum(problem, requests, budget).value == pytest.approx(-theirs.fun, rel=1e-5)


def test_the_auction_dual_is_the_knapsack():
    rng = np.random.default_rng(3)
    requests = rng.random((400, 2))
    problem = SecondPriceBid(reward_bound=1.0)
    value = hindsight_values(problem, requests[:, None], np.array([30.0]))[0]
    assert dual_minimum(problem, requests, np.array([30.0])).value == pytest.approx(value, rel=1e-5)


def test_too_few_cuts_say_how_far_they_came():
    problem = EntropyMatch(reward_bound=3.0, d=2, lam=0.3)
    with pytest.raises(RuntimeError, match="after 2 cutting planes the minimum of the dual lies between"):
        dual_minimum(problem, np.random.default_rng(0).random((50, 2)), np.array([5.0, 5.0]), max_cuts=2)


@pytest.mark.parametrize("env_id", prefrl.envs.ALLOCATION_IDS)
def test_weak_duality(env_id):
    """Every price bounds the hindsight optimum from above, the fluid optimum's price closely."""
    env = gym.make_vec(env_id, 3, horizon=200)
    env.reset(seed=5)
    problem, requests, budget = env.dynamics.problem, env.requests(), env.budget
    values = env.hindsight_optimum()
    rng = np.random.default_rng(0)
    fluid = env.fluid_optimum()
    assert (fluid.mu >= 0.0).all()
    for mu in [fluid.mu, *(rng.exponential(1.0, len(budget)) for _ in range(10))]:
        for row in range(3):
            bound = dual(problem, requests[:, row], budget, mu)
            assert bound >= values[row] - 1e-9 * abs(bound)
            if mu is fluid.mu:
                assert bound <= 1.15 * values[row]
    assert fluid.value * 200 == pytest.approx(values.mean(), rel=0.2)


def test_fluid_optima_in_closed_form():
    secretary = gym.make("prefrl/MultiSecretary-v0").unwrapped.fluid_optimum()
    assert (secretary.value, secretary.mu) == (0.375, [0.5])
    auction = gym.make("prefrl/SecondPriceBudget-v0").unwrapped.fluid_optimum()
    assert auction.value == pytest.approx(0.158199, abs=1e-6)
    assert auction.mu[0] == pytest.approx(0.290994, abs=1e-6)
    rich = gym.make("prefrl/SecondPriceBudget-v0", rho=0.5).unwrapped.fluid_optimum()
    assert (rich.value, rich.mu) == (pytest.approx(1.0 / 6.0), [0.0])


@pytest.mark.parametrize("env_id", ["prefrl/MultiSecretary-v0", "prefrl/SecondPriceBudget-v0"])
def test_the_price_table_agrees_with_the_closed_form(env_id):
    """Made to answer for a distribution with a closed form, the table gives the same prices."""
    env = gym.make(env_id).unwrapped
    rates = np.array([[0.02], [0.05], [0.1], [0.2]])
    known = env.fluid_price(rates)
    env.dynamics.known_fluid = lambda rho: None
    np.testing.assert_allclose(env.fluid_price(rates), known, atol=0.06)


def test_the_fluid_sample_follows_the_input_model():
    """Rewards of a wave are 3/4 of what is usual, and so is the value where everybody is served."""
    value = {}
    for model in ("iid", "periodic", "corrupted"):
        env = gym.make("prefrl/NetworkRevenue-v0", rho=5.0, input_model=model, horizon=100).unwrapped
        value[model] = env.fluid_optimum().value
    assert value["periodic"] / value["iid"] == pytest.approx(0.75, abs=0.01)
    assert value["corrupted"] == pytest.approx(0.9 * value["iid"] + 0.1 * 10.0, rel=0.02)
    wave = gym.make("prefrl/MultiSecretary-v0", input_model="periodic").unwrapped.fluid_optimum()
    assert 0.3 < wave.mu[0] < 0.42, "not the closed form of the distribution, 0.5"


def test_fluid_prices_of_several_resources():
    env = gym.make("prefrl/NetworkRevenue-v0").unwrapped
    optimum = env.fluid_optimum()
    np.testing.assert_allclose(env.fluid_price(np.array(env.allocation.rho)[None])[0], optimum.mu, atol=0.2)
    tight = env.fluid_price(np.array([env.allocation.rho, np.array(env.allocation.rho) / 2]))
    assert tight[1].sum() > tight[0].sum(), "scarcer is dearer"
