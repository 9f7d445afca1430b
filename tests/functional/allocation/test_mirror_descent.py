"""Steps of mirror descent against the optimisation problems that they solve."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from scipy.optimize import minimize

from prefrl.functional.allocation.mirror_descent import (
    entropy_step,
    euclidean_step,
    fairness_projection,
    horizon_window_rates,
    projected_entropy_step,
    scaled_euclidean_step,
)

BOUND = 1.0


def cases(count, m=3):
    rng = np.random.default_rng(0)
    for _ in range(count):
        yield rng.uniform(0.05, 2.0, m), rng.normal(0.0, 1.0, m), rng.uniform(0.2, 1.0, m)


def kl(y, z):
    return (y * np.log(np.maximum(y, 1e-300) / z) - y + z).sum()


DIVERGENCES = {
    "euclidean": lambda x, mu, rho: 0.5 * ((x - mu) ** 2).sum(),
    "scaled_euclidean": lambda x, mu, rho: 0.5 * ((rho * (x - mu)) ** 2).sum(),
    "entropy": lambda x, mu, rho: kl(x, mu),
    "projected_entropy": lambda x, mu, rho: kl(rho * x, rho * mu),
}
STEPS = {
    "euclidean": lambda mu, g, eta, rho: euclidean_step(mu, g, eta),
    "scaled_euclidean": scaled_euclidean_step,
    "entropy": lambda mu, g, eta, rho: entropy_step(mu, g, eta),
    "projected_entropy": lambda mu, g, eta, rho: projected_entropy_step(mu, g, eta, rho, BOUND),
}


@pytest.mark.parametrize("name", STEPS)
def test_each_step_is_the_minimiser(name):
    """<g, x> + V(x, mu) / eta over x >= 0, and rho . x <= f-bar where the step is projected, by SLSQP."""
    eta, projected = 0.3, 0
    for mu, g, rho in cases(30):
        ours = STEPS[name](mu, g, eta, rho)

        def objective(x, mu=mu, g=g, rho=rho):
            return g @ x + DIVERGENCES[name](x, mu, rho) / eta

        constraints = []
        if name == "projected_entropy":
            constraints = [{"type": "ineq", "fun": lambda x, rho=rho: BOUND - rho @ x}]
            assert rho @ ours <= BOUND + 1e-12
            projected += rho @ ours > BOUND - 1e-9
        found = minimize(objective, np.full(3, 0.1), bounds=[(1e-12, None)] * 3, method="SLSQP", tol=1e-12,
                         constraints=constraints)  # fmt: skip
        assert objective(np.maximum(ours, 1e-12)) <= found.fun + 1e-8
        np.testing.assert_allclose(ours, found.x, atol=1e-3)
    assert name != "projected_entropy" or 5 < projected < 30, "both with and without the bound"


def test_projected_entropy_satisfies_its_kkt_conditions():
    """g_j + (rho_j / eta) log(y'_j / y_j) + lambda rho_j = 0, one lambda >= 0, 0 unless the bound binds."""
    eta = 0.3
    for mu, g, rho in cases(100):
        y = rho * projected_entropy_step(mu, g, eta, rho, BOUND)
        multipliers = -(g / rho + np.log(y / (rho * mu)) / eta)
        np.testing.assert_allclose(multipliers, multipliers[0], atol=1e-9)
        assert multipliers[0] >= -1e-9
        assert abs(multipliers[0] * (BOUND - y.sum())) < 1e-9


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_projection_does_not_overflow(dtype):
    mu, g = torch.tensor([[0.5, 1.0]], dtype=dtype), torch.tensor([[-1.0, 0.5]], dtype=dtype)
    rho = torch.tensor([1e-6, 0.5], dtype=dtype)
    ours = projected_entropy_step(mu, g, 0.5, rho, BOUND)
    torch.testing.assert_close(ours, torch.tensor([[1e6, 0.0]], dtype=dtype))


@pytest.mark.parametrize("name", STEPS)
def test_tensors_and_arrays_agree(name):
    for mu, g, rho in cases(20):
        tensors = [torch.as_tensor(part) for part in (mu, g)]
        ours = STEPS[name](*tensors, 0.3, torch.as_tensor(rho))
        np.testing.assert_allclose(ours, STEPS[name](mu, g, 0.3, rho), rtol=1e-14)
        rows = STEPS[name](tensors[0].expand(4, 3), tensors[1].expand(4, 3), 0.3, torch.as_tensor(rho))
        torch.testing.assert_close(rows, ours.expand(4, 3))


def test_steps_by_hand():
    mu, g = np.array([0.5, 0.1]), np.array([0.25, 1.0])
    np.testing.assert_allclose(euclidean_step(mu, g, 0.4), [0.4, 0.0])
    np.testing.assert_allclose(scaled_euclidean_step(mu, g, 0.4, np.array([0.5, 2.0])), [0.1, 0.0])
    np.testing.assert_allclose(entropy_step(mu, g, 0.4), [0.5 * np.exp(-0.1), 0.1 * np.exp(-0.4)])


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.floats(-2.0, 2.0), min_size=1, max_size=6),
    st.floats(0.0, 3.0),
    st.integers(0, 1000),
)
def test_fairness_projection(values, weight, seed):
    """In the set, where it already was it stays, and the gradient at it points away from the set."""
    rho = torch.as_tensor(np.random.default_rng(seed).uniform(0.2, 2.0, len(values)))
    mu = torch.tensor(values, dtype=torch.float64)
    ours = fairness_projection(mu, weight, rho)
    assert (rho * (-ours).clamp(min=0.0)).sum() <= weight + 1e-9
    if (rho * (-mu).clamp(min=0.0)).sum() <= weight:
        torch.testing.assert_close(ours, mu)
    # Variational inequality of a projection on a convex set: (mu - ours) . (z - ours) <= 0 for z in the set.
    rng = np.random.default_rng(seed)
    for _ in range(20):
        z = torch.as_tensor(rng.normal(0.0, 1.5, len(values)))
        used = (rho * (-z).clamp(min=0.0)).sum()
        z = torch.where(z < 0.0, z * min(1.0, weight / max(float(used), 1e-12)), z)
        assert (mu - ours) @ (z - ours) <= 1e-9


@pytest.mark.parametrize(("earliest", "latest"), [(1, 1), (10, 10), (10, 50), (1, 200), (100, 1000)])
def test_window_rates_are_worth_their_share_of_any_horizon(earliest, latest):
    budget = 30.0
    rates = horizon_window_rates(budget, earliest, latest)
    assert rates.sum() == pytest.approx(budget)
    kappa = rates[0] * earliest / budget
    assert kappa == pytest.approx(1.0 / (1.0 + sum(1.0 / t for t in range(earliest + 1, latest + 1))))

    def value(rate):  # of a request, concave in the rate: the multi-secretary's
        return 0.5 * (1.0 - (1.0 - np.minimum(rate, 1.0)) ** 2)

    for horizon in range(earliest, latest + 1):
        assert value(rates[:horizon]).sum() >= kappa * horizon * value(budget / horizon) - 1e-9


def test_window_rates_refuse_an_empty_window():
    with pytest.raises(ValueError, match="earliest is 5 and latest 4"):
        horizon_window_rates(1.0, 5, 4)
