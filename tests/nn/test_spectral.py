"""Caps on spectral norms against exact singular values."""

from typing import Any

import pytest
import torch
from torch import Tensor

from prefrl.nn.adam import Adam
from prefrl.nn.flat import FlatParameters
from prefrl.nn.spectral import SpectralMLP


def norms(weights: list[Tensor]) -> list[Tensor]:
    return [torch.linalg.matrix_norm(weight, ord=2) for weight in weights]


def stretched(**settings: Any) -> SpectralMLP:
    """A stack with one large and one small hidden layer."""
    torch.manual_seed(0)
    stack = SpectralMLP(2, 5, (16, 16), **settings).double()
    with torch.no_grad():
        stack.layers[0].weight.mul_(8.0)  # type: ignore[operator, union-attr]
        stack.layers[1].weight.mul_(0.1)  # type: ignore[operator, union-attr]
    stack.iterate(200)
    return stack


@pytest.mark.parametrize("cap", [0.5, 1.0, 2.0])
def test_large_layers_are_capped_and_small_ones_left_alone(cap: float) -> None:
    stack = stretched(cap=cap)
    learned, used = stack.weights_as_learned(), stack.weights()
    torch.testing.assert_close(norms(used)[0], torch.full((2,), cap, dtype=torch.float64))
    torch.testing.assert_close(used[1], learned[1], rtol=0, atol=0)
    torch.testing.assert_close(used[2], learned[2], rtol=0, atol=0)
    for sigma, exact in zip(stack.norms(), norms(learned), strict=False):
        torch.testing.assert_close(sigma, exact)


def test_all_layers_can_be_capped() -> None:
    stack = stretched(cap=0.01, layers="all")
    for sigma in norms(stack.weights()):
        torch.testing.assert_close(sigma, torch.full((2,), 0.01, dtype=torch.float64))


def test_the_cap_bounds_the_slope() -> None:
    stack = stretched(cap=0.7, layers="all")
    x = 10.0 * torch.randn(2, 400, 5, dtype=torch.float64)
    y = x + torch.randn_like(x)
    gaps = (stack(x) - stack(y)).abs() / torch.linalg.vector_norm(x - y, dim=-1)
    assert gaps.max() <= 0.7**3 + 1e-9


@pytest.mark.parametrize("layers", ["hidden", "all"])
def test_pulled_back_gradients_are_those_of_autograd(layers: Any) -> None:
    stack = stretched(cap=0.6, layers=layers)
    x = torch.randn(2, 7, 5, dtype=torch.float64)
    slopes = torch.randn(2, 7, dtype=torch.float64)
    (stack(x) * slopes).sum().backward()
    expected = [parameter.grad.clone() for parameter in stack.parameters() if parameter.grad is not None]
    stack.backward(stack.record(x), slopes)
    stack.pull_back()
    for parameter, gradient in zip(stack.parameters(), expected, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, gradient)


def test_a_step_of_the_power_iteration_per_update_keeps_up() -> None:
    torch.manual_seed(1)
    stack = SpectralMLP(2, 6, (32, 32), cap=1.0)
    with torch.no_grad():
        for layer in stack.layers:
            layer.weight.mul_(2.0)  # type: ignore[operator, union-attr]
    flat = FlatParameters(stack)
    optimizer = Adam([flat.vector], lr=3e-4)
    x = torch.randn(128, 6)
    y = 50.0 * torch.sin(3.0 * x).sum(1)  # steep: the cap has work to do
    for _ in range(200):
        record = stack.record(x.expand(2, -1, -1))
        stack.backward(record, (record.outputs - y) / 128)
        stack.pull_back()
        optimizer.step()
        stack.iterate()
    with torch.no_grad():
        assert min(float(sigma.min()) for sigma in norms(stack.weights_as_learned()[:2])) > 1.2
        for sigma in norms(stack.weights()[:2]):
            assert float(sigma.max()) <= 1.02


def test_refuses_a_cap_that_is_not_positive() -> None:
    with pytest.raises(ValueError, match="cap is 0"):
        SpectralMLP(1, 2, (3,), cap=0.0)
