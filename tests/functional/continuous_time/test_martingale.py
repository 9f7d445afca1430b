"""Martingale objectives: by hand, against plain loops, and on paths whose limits are known exactly."""

import math

import numpy as np
import pytest
import torch

from prefrl.envs.diffusions.brownian_square import BrownianSquareDynamics
from prefrl.functional.continuous_time import martingale
from prefrl.functional.continuous_time.martingale import LinearSystem

F64 = torch.float64


def random_paths(K=7, n=5, P=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(K + 1, n, P, generator=generator, dtype=F64)
    rates = torch.randn(K, n, generator=generator, dtype=F64)
    return features, rates


def test_increments_by_hand():
    values, rates = torch.tensor([[1.0], [3.0], [2.0]]), torch.tensor([[0.5], [-1.0]])
    # 3 - 1 + (.5 - .25 - 2 * 1) * .1 and 2 - 3 + (-1 - .25 - 2 * 3) * .1
    found = martingale.increments(values, rates, 0.1, 2.0, average_reward=0.25)
    torch.testing.assert_close(found, torch.tensor([[1.825], [-1.725]]))
    # e^{-.2} 3 - 1 + .05 and e^{-.4} 2 - e^{-.2} 3 - e^{-.2} .1
    found = martingale.discounted_increments(values, rates, 0.1, 2.0)
    first = 3.0 * math.exp(-0.2) - 1.0 + 0.05
    second = 2.0 * math.exp(-0.4) - 3.1 * math.exp(-0.2)
    torch.testing.assert_close(found, torch.tensor([[first], [second]]))


def test_mean_square_td_error_by_hand():
    values, rates = torch.tensor([[0.0], [1.0], [3.0]]), torch.zeros(2, 1)
    assert martingale.mean_square_td_error(values, rates, 0.5).item() == (1.0 + 4.0) / (2.0 * 0.5)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_martingale_loss_is_what_paths_earn_less_what_was_said(weight):
    features, rates = random_paths()
    values, dt, beta = features[..., 0], 0.2, 0.7
    found = martingale.martingale_loss(values, rates, dt, beta, weight=weight)
    K, n = rates.shape
    for i in range(n):
        total = 0.0
        for k in range(K):
            earned = sum(math.exp(-beta * dt * j) * rates[j, i].item() * dt for j in range(k, K))
            earned += math.exp(-beta * dt * K) * values[K, i].item()
            gap = earned - math.exp(-beta * dt * k) * values[k, i].item()
            total += 0.5 * math.exp(2.0 * (1.0 - weight) * beta * dt * k) * gap**2 * dt
        assert found[i].item() == pytest.approx(total, abs=1e-12)


@pytest.mark.parametrize("beta", [0.0, 0.7])
def test_ctd_1_is_the_martingale_loss_on_every_path(beta):
    """The gradient of the loss is minus the orthogonality condition with the trace of lambda = 1."""
    features, rates = random_paths()
    dt = 0.2
    theta = torch.tensor([0.3, -1.0, 2.0], dtype=F64, requires_grad=True)
    values = torch.cat([features[:-1] @ theta, (features[-1] @ theta.detach())[None]])
    loss = martingale.martingale_loss(values, rates, dt, beta).mean()
    (gradient,) = torch.autograd.grad(loss, theta)
    steps = martingale.discounted_increments(values.detach(), rates, dt, beta)
    discount = torch.exp(-beta * dt * torch.arange(len(rates), dtype=F64))[:, None, None]
    tests = martingale.traces(features[:-1] * discount, 1.0, dt)
    torch.testing.assert_close(-martingale.orthogonality(tests, steps), gradient, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("lam", [0.0, 0.25, 1.0])
def test_traces_against_their_sum(lam):
    features, _ = random_paths()
    dt = 0.2
    found = martingale.traces(features, lam, dt)
    for k in range(len(features)):
        if lam == 0.0:
            expected = features[k]
        else:
            expected = sum(lam ** (dt * (k - j)) * features[j] * dt for j in range(k + 1))
        torch.testing.assert_close(found[k], expected)


@pytest.mark.parametrize(("lam", "beta", "ergodic"), [(0.0, 0.5, False), (0.5, 0.0, True), (1.0, 0.5, False)])
def test_clstd_solves_the_orthogonality_conditions(lam, beta, ergodic):
    features, rates = random_paths(K=30)
    dt = 0.1
    known = torch.zeros_like(features[..., 0]) if ergodic else features.square().sum(-1)
    theta = martingale.clstd(features, rates, dt, beta, lam=lam, known=known, ergodic=ergodic, ridge=0.0)
    values = known + features @ theta[:3]
    average = theta[3] if ergodic else 0.0
    deltas = martingale.increments(values, rates, dt, beta, average)
    tests = martingale.traces(features[:-1], lam, dt)
    assert martingale.orthogonality(tests, deltas).abs().max() < 1e-10
    if ergodic:
        assert deltas.sum().abs() < 1e-10


def test_the_ridge_is_a_share_of_the_mean_diagonal():
    A = torch.diag(torch.tensor([1.0, 3.0], dtype=F64))
    found = LinearSystem(A, torch.tensor([1.0, 1.0], dtype=F64)).solve(0.5)
    torch.testing.assert_close(found, torch.tensor([1.0 / 2.0, 1.0 / 4.0], dtype=F64))


def test_gradient_td_rests_where_ctd_does():
    """One and the same fixed point; and where u has settled GTD2 and TDC go the same way, downhill."""
    features, rates = random_paths(K=1, n=4000)
    dt, beta = 0.1, 0.5
    phi, after = features[0], features[1]

    def step(take, theta, u):
        deltas = martingale.increments(features @ theta, rates, dt, beta)[0]
        return take(u, phi, deltas, phi, after, dt, beta)

    solution, u = martingale.clstd(features, rates, dt, beta, ridge=0.0), torch.zeros(3, dtype=F64)
    for take in (martingale.gtd2_step, martingale.tdc_step):
        found = step(take, solution, u)
        assert found.d_u.abs().max() < 1e-10
        assert found.d_theta.abs().max() < 1e-10
    theta = solution + torch.tensor([0.1, -0.2, 0.3], dtype=F64)
    deltas = martingale.increments(features @ theta, rates, dt, beta)[0]
    settled = torch.linalg.solve(phi.T @ phi * dt, phi.T @ deltas)
    gtd2, tdc = (step(take, theta, settled) for take in (martingale.gtd2_step, martingale.tdc_step))
    assert gtd2.d_u.abs().max() < 1e-10
    torch.testing.assert_close(gtd2.d_theta, tdc.d_theta)
    assert gtd2.d_theta @ (solution - theta) > 0.0


# Limits that are known exactly -----------------------------------


def brownian(dt, x0, n=20_000, seed=0):
    env = BrownianSquareDynamics(dt=dt, x0=x0)
    return env.simulate(None, n, seed=seed).x[..., 0]


def regression(matrix, target):
    return float((matrix * target).sum() / (matrix * matrix).sum())


def test_a_family_without_the_value_has_a_limit_of_each_methods_own():
    """J = x^2 + theta tau^2 for the square of a Brownian motion; dt = .005."""
    dt = 0.005
    x = brownian(dt, 0.0)
    tau = (1.0 - dt * torch.arange(len(x), dtype=F64))[:, None].expand_as(x)
    phi, known, rates = tau.square(), x.square(), torch.zeros_like(x[1:])
    found = {
        lam: martingale.clstd(phi[..., None], rates, dt, lam=lam, known=known, ridge=0.0).item()
        for lam in (0.0, 0.5, 1.0)
    }
    loss = regression(phi[:-1], (x[-1].square() - known)[:-1])
    assert loss == pytest.approx(found[1.0], abs=1e-9)
    assert loss == pytest.approx(5 / 4, abs=0.05)
    assert found[0.0] == pytest.approx(2 / 3, abs=0.02)
    assert found[0.5] == pytest.approx(1.1541792, abs=0.05)
    assert regression(phi[1:] - phi[:-1], known[:-1] - known[1:]) == pytest.approx(3 / 4, abs=0.03)


def test_the_limits_follow_from_an_integral():
    """theta of CTD(lam) = int xi dt / (2 int xi tau dt), xi = int_0^t lam^(t-s) (1-s)^2 ds."""
    s = (np.arange(4000) + 0.5) / 4000
    for lam, limit in ((0.25, 1.0764298), (0.5, 1.1541792), (1.0, 1.25)):
        kernel = np.where(s[:, None] >= s[None, :], lam ** np.maximum(s[:, None] - s[None, :], 0.0), 0.0)
        np.fill_diagonal(kernel, 0.5)
        xi = kernel @ (1.0 - s) ** 2
        assert xi.sum() / (2.0 * (xi * (1.0 - s)).sum()) == pytest.approx(limit, abs=2e-6)


@pytest.mark.parametrize(("dt", "limit"), [(0.1, -2.0930), (0.02, -2.7746), (0.005, -2.9410)])
def test_the_mean_square_td_error_misses_a_value_that_is_there(dt, limit):
    x = brownian(dt, 1.0)
    tau = (1.0 - dt * torch.arange(len(x), dtype=F64))[:, None].expand_as(x)
    phi, known, rates = tau * x, x.square() + tau, torch.zeros_like(x[1:])
    assert regression(phi[1:] - phi[:-1], known[:-1] - known[1:]) == pytest.approx(limit, abs=0.08)
    assert abs(martingale.clstd(phi[..., None], rates, dt, known=known, ridge=0.0).item()) <= 0.08
    assert abs(regression(phi[:-1], (x[-1].square() - known)[:-1])) <= 0.08


def ornstein_uhlenbeck_moments(dt):
    """One step from the stationary distribution as weighted points: features [2, n, 3], rates [1, n]."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(12)
    weights = weights / weights.sum()
    start, noise = np.meshgrid(nodes, nodes, indexing="ij")
    x = start.ravel() * math.sqrt(0.5)
    after = x * math.exp(-dt) + noise.ravel() * math.sqrt(-math.expm1(-2.0 * dt) / 2.0)
    root = np.sqrt(np.outer(weights, weights).ravel())
    features = np.stack([np.stack([np.ones_like(y), y, y**2], -1) for y in (x, after)]) * root[:, None]
    return torch.tensor(features), torch.tensor(-(x**2) * root)[None]


def test_the_fixed_point_of_ctd_is_off_by_order_dt():
    """c2 = -q dt / (1 + beta dt - e^{-2k dt}) for exact transitions; k = sigma = beta = q = 1."""
    bias = []
    for dt in (0.1, 0.01, 0.001):
        features, rates = ornstein_uhlenbeck_moments(dt)
        found = martingale.clstd(features, rates, dt, 1.0, ridge=0.0)
        c2 = -dt / (1.0 + dt - math.exp(-2.0 * dt))
        assert found[2].item() == pytest.approx(c2, abs=1e-9)
        assert found[1].item() == pytest.approx(0.0, abs=1e-9)
        bias.append(abs(c2 + 1.0 / 3.0))
    assert found[0].item() == pytest.approx(-0.333222, abs=1e-6)
    slope = np.polyfit(np.log([0.1, 0.01, 0.001]), np.log(bias), 1)[0]
    assert 0.9 <= slope <= 1.1


@pytest.mark.parametrize(("dt", "limit"), [(0.1, (-0.4656, 0.0, -0.0688)), (0.01, (-0.49628, 0.0, -0.00743))])
def test_the_mean_square_td_error_goes_to_the_constant(dt, limit):
    features, rates = ornstein_uhlenbeck_moments(dt)
    slope = features[1] - (1.0 + dt) * features[0]
    found = torch.linalg.lstsq(slope, -(rates[0] * dt)[:, None]).solution[:, 0]
    np.testing.assert_allclose(found.numpy(), limit, atol=6e-5)
