"""Value functions and policies of diffusions: row-wise gradients against autograd, values against
formulas."""

import math

import gymnasium as gym
import pytest
import torch

import prefrl.envs  # noqa: F401  (registers the ids)
from prefrl.nn.continuous_time.gaussian_policies import AffineGaussian, MeanVarianceGaussian, NeuralGaussian
from prefrl.nn.continuous_time.tanh_mlp import TanhMLP
from prefrl.nn.value_families import (
    ImpliedVolatility,
    MeanVarianceValue,
    NeuralValue,
    Quadratic,
    TauSquared,
    TauX,
)

F64 = torch.float64
PLACE = {"device": torch.device("cpu"), "dtype": F64}
N = 6


def generator():
    return torch.Generator().manual_seed(0)


def square(x):
    return x[:, 0] ** 2


VALUES = {
    "tau_squared": (1, lambda: TauSquared(2.0, **PLACE)),
    "tau_x": (1, lambda: TauX(2.0, **PLACE)),
    "quadratic": (1, lambda: Quadratic(1, "k", True, **PLACE)),
    "plane": (3, lambda: Quadratic(3, "k", True, **PLACE)),
    "ergodic": (2, lambda: Quadratic(2, "c", False, **PLACE)),
    "mean_variance": (1, lambda: MeanVarianceValue(2.0, 1.4, torch.tensor(1.7, dtype=F64))),
    "implied_volatility": (1, lambda: ImpliedVolatility(0.05, 1.1, 2.0, 0.3, **PLACE)),
    "neural": (2, lambda: NeuralValue(2, (5, 4), None, square, generator(), **PLACE)),
    "neural, horizon": (2, lambda: NeuralValue(2, (5,), 2.0, square, generator(), **PLACE)),
}
POLICIES = {
    "affine": (2, 3, lambda: AffineGaussian(2, 3, **PLACE)),
    "mean_variance": (1, 1, lambda: MeanVarianceGaussian(2.0, torch.tensor(1.7, dtype=F64))),
    "neural": (2, 2, lambda: NeuralGaussian(2, 2, (5, 4), False, generator(), **PLACE)),
    "neural, timed": (2, 1, lambda: NeuralGaussian(2, 1, (5,), True, generator(), **PLACE)),
}


def places(dim, shift=1.0):
    draws = torch.rand(N, dim + 1, generator=torch.Generator().manual_seed(1), dtype=F64)
    return draws[:, 0] * 1.5, draws[:, 1:] + shift


def spread_parameters(family, name):
    vector = getattr(family, name)
    noise = torch.randn(len(vector), generator=torch.Generator().manual_seed(2), dtype=F64)
    setattr(family, name, vector + 0.1 * noise)
    return getattr(family, name)


def rows_by_autograd(function, family, name, vector):
    """d function / d vector of every row, one backward pass each."""
    leaf = vector.clone().requires_grad_()
    setattr(family, name, leaf)
    rows = [torch.autograd.grad(value, leaf, retain_graph=True)[0] for value in function()]
    setattr(family, name, vector)
    return torch.stack(rows)


@pytest.mark.parametrize("name", VALUES)
def test_gradients_of_values_row_by_row(name):
    dim, make = VALUES[name]
    family, (t, x) = make(), places(dim)
    theta = spread_parameters(family, "theta")
    value, gradient = family.gradient(t, x)
    torch.testing.assert_close(family.value(t, x), value)
    expected = rows_by_autograd(lambda: family.value(t, x), family, "theta", theta)
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)
    weights = torch.linspace(-1.0, 1.0, N, dtype=F64)
    torch.testing.assert_close(family.gradient_sum(t, x, weights), weights @ expected)


@pytest.mark.parametrize("name", VALUES)
def test_the_end_condition_is_built_in(name):
    dim, make = VALUES[name]
    family = make()
    if getattr(family, "T", None) is None:
        return
    t, x = places(dim)
    h = {
        "mean_variance": -((x[:, 0] - 1.7) ** 2) + 0.3**2,
        "implied_volatility": (x[:, 0] - 1.1).clamp(min=0.0),
    }.get(name, x[:, 0] ** 2)
    family.theta = family.theta + 0.2
    torch.testing.assert_close(family.value(torch.full_like(t, 2.0), x), h, atol=1e-6, rtol=0.0)


@pytest.mark.parametrize("name", POLICIES)
def test_scores_and_entropies_row_by_row(name):
    dim, m, make = POLICIES[name]
    policy, (t, x) = make(), places(dim)
    phi = spread_parameters(policy, "phi")
    actions = policy.sample(t, x, torch.randn(N, m, generator=generator(), dtype=F64))
    mean, log_variance = policy.distribution(t, x)
    normal = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    log_prob, score = policy.score(t, x, actions)
    torch.testing.assert_close(log_prob, normal.log_prob(actions).sum(-1))
    expected = rows_by_autograd(lambda: policy.score(t, x, actions)[0], policy, "phi", phi)
    torch.testing.assert_close(score, expected, rtol=1e-9, atol=1e-12)
    entropy, gradient = policy.entropy(t, x)
    torch.testing.assert_close(entropy, normal.entropy().sum(-1))
    expected = rows_by_autograd(lambda: policy.entropy(t, x)[0], policy, "phi", phi)
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)


def test_families_hold_the_closed_forms():
    t, x = places(1)
    call = gym.make("prefrl/BlackScholesCall-v0", K=1.1, T=2.0, s0=0.3).unwrapped
    family = VALUES["implied_volatility"][1]()
    torch.testing.assert_close(family.value(t, x), torch.tensor(call.true_value(t, x[:, 0])))

    face = gym.make("prefrl/MeanVariance-v0", mu=0.1, T=2.0, dt=0.02, w=1.7).unwrapped
    best = face.true_optimum(0.1)
    family = VALUES["mean_variance"][1]()
    family.theta = torch.tensor(best.theta, dtype=F64)
    torch.testing.assert_close(family.value(t, x), torch.tensor(face.true_value(t, x[:, 0], 0.1)))
    policy = POLICIES["mean_variance"][2]()
    policy.phi = torch.tensor([best.policy.phi1, best.policy.phi2, best.policy.phi3], dtype=F64)
    z = torch.randn(N, 1, generator=generator(), dtype=F64)
    torch.testing.assert_close(policy.sample(t, x, z), best.policy(t[:, None], x, z))

    plane = gym.make("prefrl/LQPlane-v0").unwrapped
    value = plane.true_optimum(0.1).value
    family = Quadratic(2, "k", True, **PLACE)
    k2 = value.k2
    family.theta = torch.tensor([value.k0, *value.k1, k2[0, 0], k2[0, 1], k2[1, 1]], dtype=F64)
    t, x = places(2)
    torch.testing.assert_close(family.value(t, x), torch.tensor(value(x.numpy())))
    named = family.named(family.theta)
    torch.testing.assert_close(named["k2"], torch.tensor(k2))
    torch.testing.assert_close(named["k1"], torch.tensor(value.k1))


def test_a_tanh_network_is_torchs_own():
    shape = TanhMLP(3, (4, 5), 2)
    parameters = shape.initial(generator(), **PLACE)
    layers = [torch.nn.Linear(a, b, dtype=F64) for a, b in ((3, 4), (4, 5), (5, 2))]
    flat = torch.randn(shape.num_parameters, generator=generator(), dtype=F64)
    offset = 0
    with torch.no_grad():
        for layer in layers:
            for part in (layer.weight.T, layer.bias):
                part.copy_(flat[offset : offset + part.numel()].view(part.shape))
                offset += part.numel()
    assert offset == len(flat) == len(parameters)
    net = torch.nn.Sequential(layers[0], torch.nn.Tanh(), layers[1], torch.nn.Tanh(), layers[2])
    x = torch.randn(7, 3, generator=generator(), dtype=F64)
    torch.testing.assert_close(shape(flat, x), net(x))
    assert (shape(parameters, x) == 0.0).all()
    assert parameters[: 3 * 4].abs().max() <= 1.0 / math.sqrt(3.0)
    with pytest.raises(ValueError, match="must be at least 1"):
        TanhMLP(3, (0,), 2)
