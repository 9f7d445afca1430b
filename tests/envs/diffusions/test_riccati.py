"""Closed forms of linear-quadratic control: tables, random coefficients, and the equations they solve."""

import math

import gymnasium as gym
import numpy as np
import pytest

import prefrl.envs  # noqa: F401  (registers the ids)
from prefrl.envs.diffusions.linear_quadratic import coefficients
from prefrl.envs.diffusions.riccati import LinearPolicy

SQRT7, SQRT13 = math.sqrt(7.0), math.sqrt(13.0)


def problem(beta, **given):
    usual = {
        "A": -1.0,
        "B": 0.0,
        "C": 0.0,
        "D": 1.0,
        "s": 0.0,
        "M": 2.0,
        "N": 2.0,
        "R": 1.0,
        "P": 1.0,
        "Q": 2.0,
    }
    return coefficients({**usual, **given}, beta)


def random_problem(rng, d=2, m=2, w=2, beta=None):
    def definite(size):
        root = rng.normal(size=(size, size))
        return root @ root.T + 0.5 * np.eye(size)

    given = {
        "A": rng.normal(size=(d, d)) * 0.5,
        "B": rng.normal(size=(d, m)),
        "C": rng.normal(size=(w, d, d)) * 0.2,
        "D": rng.normal(size=(w, d, m)) * 0.2,
        "s": rng.normal(size=(w, d)),
        "M": definite(d),
        "N": definite(m),
        "R": rng.normal(size=(m, d)) * 0.2,
        "P": rng.normal(size=d),
        "Q": rng.normal(size=m),
    }
    return coefficients(given, rng.exponential() if beta is None else beta)


def test_the_value_of_a_policy():
    face = gym.make("prefrl/LQDiscounted-v0").unwrapped
    found = face.true_parameters("quadratic", LinearPolicy(-0.5, -0.5, 0.1), 0.1)
    assert found["k2"] == pytest.approx(-6 / 11, abs=1e-9)
    assert found["k1"] == pytest.approx(-3 / 44, abs=1e-9)
    assert found["k0"] == pytest.approx(0.5813100532, abs=1e-9)
    assert float(face.true_value(0.0, 2.0, LinearPolicy(-0.5, -0.5, 0.1))) == pytest.approx(
        -6 / 11 * 2.0 - 3 / 44 * 2.0 + 0.5813100532, abs=1e-9
    )
    assert face.true_parameters("neural") is None


def test_the_best_policies_of_the_paper():
    best = gym.make("prefrl/LQErgodic-v0").unwrapped.true_optimum(0.1)
    assert best.value.k2.item() == pytest.approx((1 - SQRT7) / 2, abs=1e-9)
    assert best.value.k1.item() == pytest.approx(5 - 2 * SQRT7, abs=1e-9)
    assert best.policy.f1.item() == pytest.approx(-0.3542486889, abs=1e-9)
    assert best.policy.f2.item() == pytest.approx(2 * best.policy.f1.item(), abs=1e-9)
    assert best.policy.v.item() == pytest.approx(0.0354248689, abs=1e-9)
    assert pytest.approx(0.6333742, abs=5e-8) == best.value.V
    assert best.best_average_reward == pytest.approx(0.7084974, abs=5e-8)
    assert best.average_reward == pytest.approx(best.best_average_reward - 0.05, abs=1e-9)
    assert best.value.k0 == 0.0
    best = gym.make("prefrl/LQDiscounted-v0").unwrapped.true_optimum(0.1)
    assert best.value.k2.item() == pytest.approx((2 - SQRT13) / 3, abs=1e-9)
    assert best.value.k1.item() == pytest.approx(7 / 2 - SQRT13, abs=1e-9)
    assert best.policy.v.item() == pytest.approx(0.0394448725, abs=1e-9)
    assert (best.value.V, best.average_reward) == (None, None)


def roots_of_the_riccati_equation(lq):
    """All k2 in one dimension that are real, stable and have a positive N - k2 D^2, from its quadratic."""
    A, B, C, D, M, N, R = (getattr(lq, name).item() for name in "ABCDMNR")
    cross, growth = B + C * D, 2 * A + C**2 - lq.beta
    quadratic = [cross**2 - growth * D**2, -2 * cross * R + growth * N + M * D**2, R**2 - M * N]
    found = []
    for root in np.roots(quadratic):
        k2, S = root.real, N - root.real * D**2
        if abs(root.imag) < 1e-12 and S > 1e-9:
            f1 = (k2 * cross - R) / S
            if 2 * A + 2 * B * f1 + (C + D * f1) ** 2 < lq.beta - 1e-7:
                found.append(k2)
    return found


@pytest.mark.slow
def test_any_coefficients_have_the_root_that_is_stable_or_are_refused():
    rng, solved, refused = np.random.default_rng(1), 0, 0
    for _ in range(600):
        names = dict(zip("ABCDRPQ", rng.normal(size=7) * (rng.random(7) < 0.8), strict=True))
        lq = coefficients(
            {**names, "M": rng.normal(0.7), "N": rng.normal(0.7), "s": 0.3},
            rng.choice([0.0, rng.exponential()]),
        )
        roots = roots_of_the_riccati_equation(lq)
        if len(roots) == 1:
            assert lq.optimum(0.1).value.k2.item() == pytest.approx(roots[0], rel=1e-8)
            solved += 1
        elif not roots:
            with pytest.raises(
                ValueError,
                match=r"no linear policy was found|not positive definite|no stabilising root",
            ):
                lq.optimum(0.1)
            refused += 1
    assert solved > 150
    assert refused > 150


@pytest.mark.parametrize(
    "given",
    [
        {
            "A": 6.97,
            "B": 0.0,
            "C": -1.995,
            "D": 0.00585,
            "beta": 13.94336,
        },  # stable for one narrow range of f1
        {"A": 3.0, "B": 0.001, "C": 0.5, "D": 0.0, "beta": 0.1},
    ],
)
def test_a_stable_policy_is_found_where_there_is_hardly_one(given):
    beta = given.pop("beta")
    lq = problem(beta, **given)
    assert lq.least_beta(lq.stable_feedback()) < beta


def generator_residual(lq, policy, value, temperature, x):
    """r + gamma H + L J - beta J (- V) at x, the mean over actions, from the definition of the generator."""
    mean, v = policy.f1 @ x + policy.f2, policy.v
    gradient = value.k2 @ x + value.k1
    reward = -(0.5 * x @ lq.M @ x + mean @ lq.R @ x + 0.5 * mean @ lq.N @ mean + 0.5 * np.trace(lq.N @ v))
    reward -= lq.P @ x + lq.Q @ mean
    second = 0.0
    for C, D, s in zip(lq.C, lq.D, lq.s, strict=True):
        volatility = C @ x + D @ mean + s
        second += volatility @ value.k2 @ volatility + np.trace(D.T @ value.k2 @ D @ v)
    change = (lq.A @ x + lq.B @ mean) @ gradient + 0.5 * second
    J = 0.5 * x @ value.k2 @ x + value.k1 @ x + value.k0
    level = value.V if value.V is not None else lq.beta * J
    return reward + temperature * policy.entropy(0.0) + change - level


@pytest.mark.parametrize("seed", range(8))
def test_values_in_several_dimensions_obey_their_equation(seed):
    rng = np.random.default_rng(seed)
    lq = random_problem(rng, d=3, m=2, w=2, beta=0.0 if seed % 2 else None)
    best = lq.optimum(0.2)
    near = LinearPolicy(best.policy.f1 + 0.02, best.policy.f2 - 0.3, best.policy.v + 0.1 * np.eye(2))
    for policy in (best.policy, near):
        value = lq.value(policy, 0.2)
        for _ in range(3):
            assert abs(generator_residual(lq, policy, value, 0.2, rng.normal(size=3))) < 1e-8


@pytest.mark.parametrize("seed", range(6))
def test_no_policy_nearby_is_better(seed):
    rng = np.random.default_rng(seed)
    lq = random_problem(rng, beta=0.0 if seed % 2 else None)
    best = lq.optimum(0.2)
    x = rng.normal(size=2)

    def worth(policy):
        value = lq.value(policy, 0.2)
        return value.V if value.V is not None else float(value(x))

    for _ in range(10):
        shift = 0.05 * rng.normal(size=(2, 2))
        root = rng.normal(size=(2, 2)) * 0.05
        other = LinearPolicy(
            best.policy.f1 + shift, best.policy.f2 + 0.05 * rng.normal(size=2), best.policy.v + root @ root.T
        )
        assert worth(other) < worth(best.policy) + 1e-12


@pytest.mark.slow
def test_a_thousand_paths_earn_the_average_reward_in_the_plane():
    face = gym.make("prefrl/LQPlane-v0", beta=0.0, dt=0.01).unwrapped
    best = face.true_optimum(0.1)
    paths = face.simulate(best.policy, 2000, 4000, seed=0)
    assert paths.reward_rates[1000:].mean().item() == pytest.approx(best.average_reward, abs=0.02)


def test_a_discounted_value_is_what_paths_earn():
    face = gym.make("prefrl/LQPlane-v0", beta=2.0, dt=0.01, x0=[1.0, -0.5]).unwrapped
    policy = LinearPolicy([[0.3, -0.8]], [0.4], [0.2])
    paths = face.simulate(policy, 4000, 400, seed=0)
    discount = np.exp(-2.0 * paths.t[:-1].numpy())[:, None]
    earned = (discount * paths.reward_rates.numpy()).sum(0).mean() * 0.01
    true = float(face.true_value(0.0, [1.0, -0.5], policy, temperature=0.0))
    assert earned == pytest.approx(true, abs=0.03)


def test_infinite_values_are_refused_with_the_condition():
    lq = problem(0.5, A=1.0, B=1.0)
    # 2A + 2B f1 + f1^2 = 2 - 1 + .25
    with pytest.raises(
        ValueError, match=r"beta is 0.5; it must exceed 2A \+ 2B f1 \+ \(C \+ D f1\)\^2 = 1.25"
    ):
        lq.value(LinearPolicy(-0.5, 0.0, 0.1))
    with pytest.raises(ValueError, match="no stabilising root"):
        problem(0.0, A=1.0, D=1.0).optimum(0.1)
    with pytest.raises(ValueError, match="is not positive definite: large actions pay"):
        problem(1.0, N=-2.0).optimum(0.1)
    with pytest.raises(ValueError, match="has no entropy"):
        problem(1.0).value(LinearPolicy(0.0, 0.0, 0.0), 0.1)
    with pytest.raises(ValueError, match=r"f1 of shape \(1, 2\)"):
        problem(1.0).value(LinearPolicy([[1.0, 2.0]], 0.0, 0.0))
    face = gym.make("prefrl/LQErgodic-v0").unwrapped
    with pytest.raises(ValueError, match="temperature is -1"):
        face.true_optimum(-1.0)


def test_a_policy_draws_what_it_says():
    v = np.array([[0.5, 0.3], [0.3, 0.4]])
    policy = LinearPolicy([[1.0], [2.0]], [0.5, -0.5], v)
    z = np.random.default_rng(0).normal(size=(50_000, 2))
    actions = policy(0.0, np.full((50_000, 1), 3.0), z)
    np.testing.assert_allclose(actions.mean(0), [3.5, 5.5], atol=0.02)
    np.testing.assert_allclose(np.cov(actions.T), v, atol=0.02)
    expected = 0.5 * math.log((2 * math.pi * math.e) ** 2 * (0.5 * 0.4 - 0.09))
    assert policy.entropy(0.0) == pytest.approx(expected)
