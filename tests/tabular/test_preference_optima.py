"""Exact minimisers of preference losses: against the losses written out, closed forms, and other methods."""

import itertools
import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from scipy.optimize import brentq, minimize

import prefrl.envs
from prefrl.tabular import mirror_descent_step, population_minimiser
from prefrl.tabular.preference_optima import EXACT, NOT_EXACT

assert prefrl.envs.REGISTRY


def preferences(seed, k, *, low=0.05):
    """A preference matrix [k, k] with labels between low and 1 - low, drawn at random."""
    drawn = np.random.default_rng(seed).uniform(low, 1.0 - low, (k, k))
    return np.where(np.tri(k, k=-1) > 0, 1.0 - drawn.T, np.where(np.eye(k) > 0, 0.5, drawn))


def distribution(seed, k):
    return np.random.default_rng(1000 + seed).dirichlet(np.full(k, 2.0))


def bradley_terry(rewards):
    rewards = np.asarray(rewards, dtype=np.float64)
    return 1.0 / (1.0 + np.exp(rewards[..., None, :] - rewards[..., :, None]))


# The losses, written out ----------------------------------------------------------------------------------


def nll(x):
    """-log sigmoid(x), without overflow."""
    return math.log1p(math.exp(-x)) if x > 0 else math.log1p(math.exp(x)) - x


def literal(name, p, ref, now, s, beta):
    """The loss of one chosen i and rejected j as a function of log-probabilities; from the papers."""
    lr = [math.log(x) for x in ref]
    ln = [math.log(x) for x in now]
    wins = [sum(p[i][j] * now[j] for j in range(len(now))) for i in range(len(now))]
    e, g, n, a, eta = s["epsilon"], s["margin"], s["length"], s["strength"], s["eta"]

    def h(lp, i, j):
        return (lp[i] - lr[i]) - (lp[j] - lr[j])

    def inpo(lp, i, j):
        tau = beta / eta
        return (lp[i] - lp[j]) - tau * (lr[i] - lr[j]) - (1.0 - tau) * (ln[i] - ln[j])

    def dno(lp, i, j):
        y = 1.0 / (1.0 + math.exp(wins[j] - wins[i]))
        m = beta * ((lp[i] - ln[i]) - (lp[j] - ln[j]))
        return y * nll(m) + (1.0 - y) * nll(-m)

    return {
        "dpo": lambda lp, i, j: nll(beta * h(lp, i, j)),
        "conservative_dpo": lambda lp, i, j: (
            (1.0 - e) * nll(beta * h(lp, i, j)) + e * nll(-beta * h(lp, i, j))
        ),
        "robust_dpo": lambda lp, i, j: (
            ((1.0 - e) * nll(beta * h(lp, i, j)) - e * nll(beta * h(lp, j, i))) / (1.0 - 2.0 * e)
        ),
        "ipo": lambda lp, i, j: (h(lp, i, j) - 1.0 / (2.0 * beta)) ** 2,
        "simpo": lambda lp, i, j: nll(beta / n * lp[i] - beta / n * lp[j] - g),
        "cpl": lambda lp, i, j: (
            -math.log(math.exp(beta * lp[i]) / (math.exp(beta * lp[i]) + math.exp(beta * lp[j])))
        ),
        "power": lambda lp, i, j: nll(beta * (lp[i] / n - lp[j] / n)) - a * beta / n * lp[i],
        "vpo": lambda lp, i, j: nll(beta * h(lp, i, j)) - a * beta * (lp[i] - lr[i]),
        "constrained_po": lambda lp, i, j: nll(beta * h(lp, i, j) - g * (1.0 / ref[i] + 1.0 / ref[j])),
        "dno": dno,
        "inpo": lambda lp, i, j: (inpo(lp, i, j) - 1.0 / (2.0 * eta)) ** 2,
        "egpo": lambda lp, i, j: (h(lp, i, j) - (wins[i] - wins[j]) / beta) ** 2,
    }[name]


def population_loss(name, p, ref, now, weights, settings, beta, log_probs):
    """Sum over ordered pairs of what each side is chosen with, in plain Python."""
    loss = literal(name, p, ref, now, settings, beta)
    n, total, mass = len(ref), 0.0, 0.0
    for i, j in itertools.permutations(range(n), 2):
        weight = weights[i][j] + weights[j][i]
        total += weight * p[i][j] * loss(log_probs, i, j)
        mass += weight / 2.0
    return total / mass


def log_softmax(theta):
    top = max(theta)
    total = top + math.log(sum(math.exp(t - top) for t in theta))
    return [t - total for t in theta]


SETTINGS = {"epsilon": 0.03, "margin": 0.04, "length": 4.0, "strength": 0.3, "eta": 1.7}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", EXACT)
def test_the_loss_as_it_is_written_has_its_minimum_there(name, weighted):
    """Slopes of the literal loss vanish there, and SciPy's BFGS on it ends there."""
    k, beta = 4, 0.7
    for seed in range(2):
        p, ref, now = preferences(seed, k), distribution(seed, k), distribution(seed + 50, k)
        weights = np.random.default_rng(seed).uniform(0.2, 1.0, (k, k)) if weighted else np.ones((k, k))
        found = population_minimiser(
            name, p, ref, beta, weights=weights if weighted else None, current=now, **SETTINGS
        ).numpy()
        assert np.exp(found).sum() == pytest.approx(1.0, abs=1e-14)
        given_ = (name, p.tolist(), ref.tolist(), now.tolist(), weights.tolist(), SETTINGS, beta)

        def loss(theta, given_=given_):
            return population_loss(*given_, log_softmax(list(theta)))

        step = 1e-5
        for direction in np.eye(k) * step:
            slope = (loss(found + direction) - loss(found - direction)) / (2.0 * step)
            assert abs(slope) < 1e-9
        other = minimize(loss, np.zeros(k), method="BFGS", options={"gtol": 1e-9})
        assert np.abs(log_softmax(other.x.tolist()) - found).max() < 1e-5


@pytest.mark.parametrize("seed", range(5))
def test_the_gradient_is_gone(seed):
    """Of the mean loss over pairs, by labels that no utilities explain: below 1e-12."""
    k, beta = 9, 0.3
    p, ref = preferences(seed, k, low=0.01), distribution(seed, k)
    u = (population_minimiser("dpo", p, ref, beta).numpy() - np.log(ref)).tolist()
    slopes = [
        sum(1.0 / (1.0 + math.exp(-beta * (u[i] - u[j]))) - p[i, j] for j in range(k) if j != i)
        for i in range(k)
    ]
    assert math.hypot(*slopes) / (k * (k - 1) / 2) < 1e-12


def test_every_setting_matters_to_those_that_have_it():
    p, ref, now = preferences(0, 4), distribution(0, 4), distribution(9, 4)
    matters = {
        "epsilon": {"conservative_dpo", "robust_dpo"},
        "margin": {"simpo", "constrained_po"},
        "length": {"simpo", "power"},
        "strength": {"power", "vpo"},
        "eta": {"inpo"},
        "current": {"inpo", "dno", "egpo"},
        "label_noise": set(EXACT),
    }
    plain = {**SETTINGS, "current": now, "label_noise": 0.0}
    other_values = {"epsilon": 0.1, "margin": 0.3, "length": 2.0, "strength": 0.9, "eta": 1.1,
                    "current": ref, "label_noise": 0.2}  # fmt: skip
    for setting, value in other_values.items():
        for name in EXACT:
            one = population_minimiser(name, p, ref, 0.5, **plain)
            other = population_minimiser(name, p, ref, 0.5, **{**plain, setting: value})
            assert bool((one - other).abs().max() > 1e-4) == (name in matters[setting]), (setting, name)
    for name in EXACT:
        moved = population_minimiser(name, p, now, 0.5, **plain) - population_minimiser(
            name, p, ref, 0.5, **plain
        )
        assert bool(moved.abs().max() > 1e-3) == (name not in {"simpo", "cpl", "power", "dno"}), name


# Closed forms ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout_seed", range(3))
def test_dpo_on_a_tree_is_the_soft_optimum(layout_seed):
    """V = 3, T = 4, all 81 sequences: beta log-ratios are the rewards, up to a constant."""
    tree = gym.make("prefrl/TokenTree-v0", layout_seed=layout_seed).unwrapped
    rng = np.random.default_rng(layout_seed)
    policy = rng.dirichlet(np.ones(3), tree.observation_space.n)
    reference, beta = tree.sequence_log_probs(policy), 0.3
    found = population_minimiser("dpo", tree.preference_matrix(), np.exp(reference), beta).numpy()
    np.testing.assert_allclose(found, tree.soft_optimum(beta, policy).log_probs, rtol=0.0, atol=1e-9)
    utilities, returns = beta * (found - reference), tree.sequence_returns()
    gaps = (utilities - returns) - (utilities - returns)[:, :1]
    assert np.abs(gaps).max() < 1e-10
    steps = tree.step_policy(found)
    leaves = tree.tabular_model().terminal
    np.testing.assert_allclose(steps[~leaves], tree.soft_optimum(beta, policy).policy[~leaves], atol=1e-9)


@given(st.integers(0, 10_000), st.integers(2, 6), st.floats(0.05, 5.0))
def test_ipo_is_the_mean_win(seed, k, beta):
    p, ref = preferences(seed, k, low=0.0), distribution(seed, k)
    u = population_minimiser("ipo", p, ref, beta).numpy() - np.log(ref)
    mean_win = [sum(p[i][j] - 0.5 for j in range(k)) / k / beta for i in range(k)]
    np.testing.assert_allclose(u - u.mean(), mean_win, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("p", [0.0, 0.2, 0.5, 0.9, 1.0, 1.3])
def test_two_arms_by_hand(p):
    matrix, ref, beta = [[0.5, p], [1.0 - p, 0.5]], [0.3, 0.7], 0.4
    ratio = population_minimiser("ipo", matrix, ref, beta).numpy() - np.log(ref)
    assert float(ratio[0] - ratio[1]) == pytest.approx((p - 0.5) / beta, abs=1e-12)
    found = population_minimiser("dpo", matrix, ref, beta)
    if not 0.0 < p < 1.0:
        assert found is None  # no log-odds are those of certainty, or of more
        assert population_minimiser("simpo", matrix, ref, beta, margin=0.3) is None
        return
    ratio = found.numpy() - np.log(ref)
    assert beta * float(ratio[0] - ratio[1]) == pytest.approx(math.log(p / (1.0 - p)), abs=1e-12)
    margin = 0.3
    found = population_minimiser("simpo", matrix, ref, beta, margin=margin, length=2.0)

    def slope(m):
        return (1.0 - p) / (1.0 + math.exp(-m - margin)) - p / (1.0 + math.exp(m - margin))

    assert beta / 2.0 * float(found[0] - found[1]) == pytest.approx(
        brentq(slope, -50, 50, xtol=1e-14), abs=1e-9
    )


def test_ipo_at_the_even_reference_is_the_soft_optimum_of_the_mean_wins():
    for kind in ("general", "intransitive"):
        bandit = gym.make("prefrl/PreferenceBandit-v0", preferences=kind, contexts=3, arms=5).unwrapped
        found = population_minimiser("ipo", bandit.preference_matrix(), np.full(5, 0.2), 0.1)
        np.testing.assert_allclose(found, bandit.soft_optimum(0.1).log_probs, rtol=0.0, atol=1e-12)


@given(st.integers(0, 10_000), st.integers(2, 5), st.floats(0.1, 2.0), st.floats(1.0, 4.0))
def test_steps_of_mirror_descent(seed, k, beta, ratio):
    """INPO on pairs drawn from the current policy; DNO without the reference; EGPO at eta = beta."""
    p, ref, now, eta = preferences(seed, k), distribution(seed, k), distribution(seed + 1, k), ratio * beta
    scores = [
        beta / eta * math.log(ref[i])
        + (1.0 - beta / eta) * math.log(now[i])
        + sum(p[i][j] * now[j] for j in range(k)) / eta
        for i in range(k)
    ]
    step = mirror_descent_step(p, ref, now, beta, eta).numpy()
    np.testing.assert_allclose(step, log_softmax(scores), rtol=0.0, atol=1e-12)
    inpo = population_minimiser("inpo", p, ref, beta, eta=eta, current=now, weights=np.outer(now, now))
    np.testing.assert_allclose(inpo, step, rtol=0.0, atol=1e-9)
    dno = population_minimiser("dno", p, ref, beta, current=now)
    np.testing.assert_allclose(dno, np.log(now) + p @ now / beta - _log_mass(now, p, beta), atol=1e-9)
    egpo = population_minimiser("egpo", p, ref, beta, current=now)
    np.testing.assert_allclose(egpo, mirror_descent_step(p, ref, now, beta, beta), rtol=0.0, atol=1e-9)


def _log_mass(now, p, beta):
    return math.log(sum(n * math.exp(w / beta) for n, w in zip(now, p @ now, strict=True)))


def test_steps_of_mirror_descent_find_the_equilibrium_of_the_regularised_game():
    """Its fixed point is the policy that answers itself best: pi ~ reference exp(P(. > pi) / beta)."""
    p, ref, beta = preferences(3, 5), distribution(3, 5), 0.2
    policy = ref
    for _ in range(400):
        policy = mirror_descent_step(p, ref, policy, beta, 1.0).exp().numpy()
    answer = ref * np.exp(p @ policy / beta)
    np.testing.assert_allclose(policy, answer / answer.sum(), rtol=0.0, atol=1e-12)


# What noise does ------------------------------------------------------------------------------------------


@given(st.integers(0, 10_000), st.integers(2, 5), st.floats(0.0, 0.45))
def test_robust_dpo_takes_flips_out_and_conservative_dpo_puts_them_in(seed, k, noise):
    p, ref = preferences(seed, k), distribution(seed, k)
    clean = population_minimiser("dpo", p, ref, 0.5)
    robust = population_minimiser("robust_dpo", p, ref, 0.5, label_noise=noise, epsilon=noise)
    assert torch.allclose(robust, clean, rtol=0.0, atol=1e-8)
    flipped = population_minimiser("dpo", p, ref, 0.5, label_noise=noise)
    conservative = population_minimiser("conservative_dpo", p, ref, 0.5, epsilon=noise)
    assert torch.allclose(conservative, flipped, rtol=0.0, atol=1e-8)


def test_flips_shrink_dpo():
    p, ref = bradley_terry([0.0, 0.5, 1.5, -1.0]), np.full(4, 0.25)
    spreads = [population_minimiser("dpo", p, ref, 1.0, label_noise=e).std() for e in (0.0, 0.1, 0.2, 0.3)]
    assert all(later < 0.8 * before for before, later in itertools.pairwise(spreads))
    worse = population_minimiser("conservative_dpo", p, ref, 1.0, label_noise=0.3, epsilon=0.3).std()
    assert worse < 0.5 * spreads[-1]
    assert population_minimiser("dpo", p, ref, 1.0, label_noise=0.5).std() < 1e-12


def test_labels_beyond_certainty_may_still_have_a_minimiser():
    """Robust DPO on labels cleaner than it reckons with: y = 1.2 for one pair, held by the other two."""
    p, ref = bradley_terry([0.0, 0.0, 0.0]), np.full(3, 1.0 / 3.0)
    p[0, 1], p[1, 0] = 0.92, 0.08
    found = population_minimiser("robust_dpo", p, ref, 1.0, epsilon=0.2)
    u = (found - found.mean()).tolist()
    assert u[2] == pytest.approx(0.0, abs=1e-12)
    assert u[0] == pytest.approx(-u[1], abs=1e-12)
    # d/du of 0's loss: sigmoid(2 u) - 1.2 + sigmoid(u) - 0.5 = 0
    root = brentq(lambda u: 1 / (1 + math.exp(-2 * u)) - 1.2 + 1 / (1 + math.exp(-u)) - 0.5, 0.0, 50.0)
    assert u[0] == pytest.approx(root, abs=1e-9)
    p[0, 1], p[1, 0] = 1.0, 0.0  # y = 1.33...: still held, since 1.33 + 0.5 < 2
    assert population_minimiser("robust_dpo", p, ref, 1.0, epsilon=0.2) is not None
    assert population_minimiser("robust_dpo", p, ref, 1.0, epsilon=0.3) is None  # 1.75 + 0.5 > 2
    assert (
        population_minimiser("robust_dpo", p, ref, 1.0, epsilon=0.25) is None
    )  # 2: it falls towards a limit
    p[0, 1], p[1, 0] = 1.2, -0.2
    assert population_minimiser("cpl", p, ref, 1.0) is not None
    for name in ("simpo", "constrained_po"):  # an offset makes it a sum of curves that bend both ways
        assert population_minimiser(name, p, ref, 1.0, margin=0.01) is None


# Where there is none --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NOT_EXACT)
def test_hinges_and_their_like_have_none(name):
    assert population_minimiser(name, preferences(0, 3), np.full(3, 1.0 / 3.0), 0.5) is None


def test_certain_labels_have_a_minimiser_only_where_it_is_bounded():
    ranked, circle, even = (np.array(x) for x in (
        [[0.5, 1.0, 1.0], [0.0, 0.5, 1.0], [0.0, 0.0, 0.5]],
        [[0.5, 1.0, 0.0], [0.0, 0.5, 1.0], [1.0, 0.0, 0.5]],
        [1 / 3, 1 / 3, 1 / 3],
    ))  # fmt: skip
    for name in ("dpo", "simpo", "cpl", "constrained_po", "vpo"):
        assert population_minimiser(name, ranked, even, 1.0) is None
        np.testing.assert_allclose(population_minimiser(name, circle, even, 1.0).exp(), even, atol=1e-12)
    # Likelihood of the chosen holds nobody who is never chosen.
    assert population_minimiser("vpo", ranked, even, 1.0, strength=0.5) is None
    for name in ("ipo", "conservative_dpo", "dno"):
        assert population_minimiser(name, ranked, even, 1.0, epsilon=0.1) is not None
    # With noise of its own strength, robust DPO sees the labels for as certain as they are.
    for epsilon in (0.1, 0.2, 0.3):
        noisy = {"label_noise": epsilon, "epsilon": epsilon}
        assert population_minimiser("robust_dpo", ranked, even, 1.0, **noisy) is None
    # Neither do labels that came out of the noise by a rounding, nor groups that win against others for sure.
    for noisy in (np.nextafter(0.1, 0.0), 0.1, np.nextafter(0.1, 1.0)):
        two = [[0.5, 1.0 - noisy], [noisy, 0.5]]
        assert population_minimiser("robust_dpo", two, [0.5, 0.5], 1.0, epsilon=0.1) is None
    for k in (4, 10, 30):
        groups, half = preferences(k, k), k // 2
        groups[:half, half:], groups[half:, :half] = 1.0, 0.0
        assert population_minimiser("dpo", groups, np.full(k, 1.0 / k), 1.0) is None
    # One certain pair in a ring that is closed otherwise is no harm.
    p = bradley_terry([0.0, 0.0, 0.0])
    p[0, 1], p[1, 0] = 1.0, 0.0
    u = population_minimiser("dpo", p, even, 1.0)
    root = brentq(lambda u: 1 / (1 + math.exp(-2 * u)) - 1.0 + 1 / (1 + math.exp(-u)) - 0.5, 0.0, 50.0)
    assert float(u[0] - u[2]) == pytest.approx(root, abs=1e-9)


def test_options_that_nobody_compares_have_none():
    weights = np.zeros((4, 4))
    weights[0, 1] = weights[2, 3] = 1.0
    p, ref = preferences(0, 4), distribution(0, 4)
    for name in ("dpo", "ipo", "robust_dpo"):
        for first, second in np.random.default_rng(0).uniform(0.1, 1.0, (6, 2)):
            weights[0, 1], weights[2, 3] = first, second
            assert population_minimiser(name, p, ref, 1.0, weights=weights, epsilon=0.1) is None
    weights[3, 0] = 1.0  # one order of a pair will do
    u = (population_minimiser("ipo", p, ref, 2.0, weights=weights) - torch.tensor(ref).log()).numpy()
    for i, j in ((0, 1), (2, 3), (3, 0)):  # a tree of comparisons is met exactly, whatever the weights
        assert u[i] - u[j] == pytest.approx((p[i, j] - 0.5) / 2.0, abs=1e-12)


def test_one_without_makes_the_batch_none():
    p = np.stack([bradley_terry([0.0, 1.0]), [[0.5, 1.0], [0.0, 0.5]]])
    assert population_minimiser("dpo", p, [0.5, 0.5], 1.0) is None


# What holds of all ----------------------------------------------------------------------------------------


@given(st.integers(0, 10_000), st.sampled_from(EXACT), st.permutations(range(4)))
def test_names_of_options_do_not_matter(seed, name, order):
    p, ref, now = preferences(seed, 4), distribution(seed, 4), distribution(seed + 1, 4)
    order = np.array(order)
    plain = population_minimiser(name, p, ref, 0.6, current=now, **SETTINGS)
    moved = population_minimiser(name, p[order][:, order], ref[order], 0.6, current=now[order], **SETTINGS)
    assert torch.allclose(moved, plain[torch.as_tensor(order)], rtol=0.0, atol=1e-9)


@given(st.integers(0, 10_000), st.sampled_from(("dpo", "conservative_dpo", "robust_dpo", "ipo", "cpl")))
def test_who_is_beaten_where_all_is_turned_round(seed, name):
    p, even = preferences(seed, 5), np.full(5, 0.2)
    one, other = (population_minimiser(name, q, even, 0.6, epsilon=0.03) for q in (p, p.T))
    assert torch.allclose(one - one.mean(), other.mean() - other, rtol=0.0, atol=1e-9)


@pytest.mark.parametrize("name", EXACT)
def test_a_batch_is_its_members(name):
    p = np.stack([[preferences(2 * i + j, 3) for j in range(2)] for i in range(3)])
    ref = np.stack([distribution(i, 3) for i in range(2)])
    both = population_minimiser(name, p, ref, 0.4, **SETTINGS)
    assert both.shape == (3, 2, 3)
    assert both.dtype is torch.float64
    for i, j in np.ndindex(3, 2):
        one = population_minimiser(name, p[i, j], ref[j], 0.4, **SETTINGS)
        assert torch.allclose(both[i, j], one, rtol=0.0, atol=1e-10)


def test_utilities_far_apart():
    """Margins up to 24 and a small beta: damped steps get there."""
    rewards = np.array([0.0, 3.0, 12.0, 24.0])
    found = population_minimiser("dpo", bradley_terry(rewards), np.full(4, 0.25), 0.01)
    np.testing.assert_allclose(0.01 * np.diff(found), np.diff(rewards), rtol=1e-7)


def test_numbers_of_networks_will_do():
    ref = torch.softmax(torch.randn(3, 7, generator=torch.Generator().manual_seed(0)), -1)  # float32
    found = population_minimiser("dpo", torch.tensor(preferences(0, 7)), ref, 0.5)
    assert torch.allclose(found.exp().sum(-1), torch.ones(3).double())


# Errors at the door ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "magic"}, "name is 'magic'; allowed are .*'dpo'"),
        ({"beta": 0.0}, "beta is 0.0"),
        ({"beta": math.nan}, "beta is nan"),
        ({"preference_matrix": np.full((2, 3), 0.5)}, r"preference_matrix has shape \[2, 3\]"),
        ({"preference_matrix": [[0.5]]}, r"preference_matrix has shape \[1, 1\]"),
        ({"preference_matrix": [[0.5, math.nan], [0.5, 0.5]]}, "preference_matrix holds NaN"),
        ({"preference_matrix": [[0.5, 0.7], [0.7, 0.5]]}, "preference_matrix .* sum to 1"),
        ({"reference": [1.0, 0.0]}, "reference must hold probabilities"),
        ({"reference": [0.5, 0.6]}, "reference must hold probabilities"),
        ({"reference": [math.nan, 0.6]}, "reference must hold probabilities"),
        ({"reference": [0.2, 0.3, 0.5]}, r"reference has shape \[3\]"),
        ({"current": [0.2, 0.3, 0.5]}, r"current has shape \[3\]"),
        ({"weights": [[0.0, -1.0], [2.0, 0.0]]}, "weights must be finite and not negative"),
        ({"weights": [[1.0, 0.0], [0.0, 1.0]]}, "weights must be .* not all 0"),
        (
            {"reference": np.full((3, 2), 0.5), "current": np.full((4, 2), 0.5)},
            r"leading axes .* reference \[3\], current \[4\]",
        ),
        ({"weights": [1.0, 1.0]}, r"weights have shape \[2\]"),
        ({"epsilon": 0.5}, r"epsilon is 0.5; it must lie in \[0, 0.5\)"),
        ({"label_noise": -0.1}, "label_noise is -0.1"),
        ({"margin": -1.0}, "margin is -1.0"),
        ({"strength": math.nan}, "strength is nan"),
        ({"length": 0.0}, "length is 0.0"),
        ({"name": "inpo"}, "eta is None; it must be a number not below beta, 1.0"),
        ({"name": "inpo", "eta": 0.5}, "eta is 0.5"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    given_ = {
        "name": "dpo",
        "preference_matrix": [[0.5, 0.7], [0.3, 0.5]],
        "reference": [0.5, 0.5],
        "beta": 1.0,
    }
    with pytest.raises(ValueError, match=message):
        population_minimiser(**{**given_, **change})
