"""Stacks of networks against one network at a time."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prefrl.nn import StackedLinear, StackedMLP
from prefrl.nn.flat import FlatParameters
from prefrl.nn.mlp import MANY_ROWS, NARROW, Chain, gathered, joined, product


def member(stack: StackedMLP, b: int) -> nn.Sequential:
    """The b-th network, out of torch's own layers."""
    layers: list[nn.Module] = []
    for layer in stack.layers:
        assert isinstance(layer, StackedLinear)
        inputs, outputs = layer.weight.shape[1:]
        linear = nn.Linear(inputs, outputs)
        with torch.no_grad():
            linear.weight.copy_(layer.weight[b].T)
            linear.bias.copy_(layer.bias[b, 0])
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("hidden", [(), (7,), (8, 5)])
def test_every_member_is_a_network_of_its_own(hidden: tuple[int, ...]) -> None:
    stack = StackedMLP(3, 4, hidden)
    x = torch.randn(3, 11, 4)
    outputs = stack(x)
    assert outputs.shape == (3, 11)
    for b in range(3):
        close(outputs[b], member(stack, b)(x[b])[:, 0])
    assert not torch.equal(stack(x[:1].expand(3, -1, -1))[0], stack(x[:1].expand(3, -1, -1))[1])


@pytest.mark.parametrize("outputs", [1, 4])
def test_several_outputs_per_member(outputs: int) -> None:
    stack = StackedMLP(3, 5, (7,), outputs)
    x = torch.randn(3, 11, 5)
    y = stack(x)
    assert y.shape == (3, 11, outputs)
    for b in range(3):
        close(y[b], member(stack, b)(x[b]))


def test_gradients_do_not_mix() -> None:
    stack = StackedMLP(3, 4, (6,))
    x = torch.randn(3, 5, 4)
    stack(x)[1].sum().backward()
    alone = member(stack, 1)
    alone(x[1]).sum().backward()
    for layer, linear in zip(stack.layers, [alone[0], alone[2]], strict=True):
        assert isinstance(layer, StackedLinear)
        assert isinstance(linear, nn.Linear)
        assert layer.weight.grad is not None
        assert not layer.weight.grad[[0, 2]].any()
        assert linear.weight.grad is not None
        close(layer.weight.grad[1], linear.weight.grad.T)


def test_layers_start_like_torch_linear() -> None:
    torch.manual_seed(0)
    layer = StackedLinear(50, 16, 40)
    for parameter in (layer.weight, layer.bias):
        assert parameter.abs().max() <= 0.25
        assert parameter.abs().max() > 0.24
        # uniform on [-1/4, 1/4]: standard deviation 1 / (2 sqrt(12))
        assert parameter.std().item() == pytest.approx(0.25 / 3**0.5, rel=0.05)


def test_the_seed_decides() -> None:
    stacks = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        stacks.append(StackedMLP(2, 3, (4,)))
    x = torch.randn(2, 5, 3)
    assert torch.equal(stacks[0](x), stacks[1](x))
    assert not torch.equal(stacks[0](x), stacks[2](x))


def test_it_learns_a_different_function_in_each_member() -> None:
    torch.manual_seed(0)
    stack = StackedMLP(2, 1, (16,))
    x = torch.linspace(-1.0, 1.0, 40)[None, :, None].expand(2, -1, -1)
    targets = torch.stack([x[0, :, 0].abs(), -2.0 * x[0, :, 0]])
    optimizer = torch.optim.Adam(stack.parameters(), lr=0.02)
    for _ in range(300):
        optimizer.zero_grad()
        loss = (stack(x) - targets).square().mean()
        loss.backward()
        optimizer.step()
    assert (stack(x) - targets).abs().amax(1).max() < 0.1


@pytest.mark.parametrize("sizes", [(0, 3, (4,)), (2, 0, (4,)), (2, 3, (4, 0)), (2, 3, (4,), 0)])
def test_sizes_below_one_are_refused(sizes: tuple) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        StackedMLP(*sizes)


@pytest.mark.parametrize("activation", ["relu", "silu", "tanh"])
def test_the_activation(activation: Any) -> None:
    stack = StackedMLP(2, 3, (4,), 2, activation=activation)
    x = torch.randn(2, 5, 3)
    weights, biases = stack.weights(), stack.biases()
    functions = {"relu": torch.relu, "silu": torch.nn.functional.silu, "tanh": torch.tanh}
    hidden = functions[activation](x @ weights[0] + biases[0])
    close(stack(x), hidden @ weights[1] + biases[1])


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize(("members", "hidden", "outputs"), [
    (2, (7, 5), None), (1, (7, 5), 6), (2, (), None), (3, (4,), 20), (1, (9,), None), (2, (), 3),
])  # fmt: skip
def test_gradients_by_hand_are_those_of_autograd(
    members: int, hidden: tuple[int, ...], outputs: int | None, activation: Any, flat: bool
) -> None:
    stack = StackedMLP(members, 4, hidden, outputs, activation).double()
    x = torch.randn(members, 6, 4, dtype=torch.float64, requires_grad=True)
    record = stack.record(x.detach())
    close(record.outputs, stack(x))
    slopes = torch.randn_like(record.outputs)
    (stack(x) * slopes).sum().backward()
    expected = [parameter.grad for parameter in stack.parameters()]
    for parameter in stack.parameters():
        parameter.grad = torch.full_like(parameter, torch.nan)
    if flat:  # a row of one matrix for each member, so that weights are not contiguous
        FlatParameters(stack, members).gradient.fill_(torch.nan)
    found = stack.backward(record, slopes, inputs=slice(1, 3))
    assert x.grad is not None
    assert found is not None
    close(found, x.grad[..., 1:3])
    for parameter, gradient in zip(stack.parameters(), expected, strict=True):
        assert parameter.grad is not None
        assert gradient is not None
        close(parameter.grad, gradient)
    stack.backward(record, -slopes, add=True)
    assert all(parameter.grad is not None and parameter.grad.abs().max() < 1e-12
               for parameter in stack.parameters())  # fmt: skip


def test_gradients_in_the_inputs_alone() -> None:
    stack = StackedMLP(2, 4, (8, 8)).double()
    x = torch.randn(2, 5, 4, dtype=torch.float64, requires_grad=True)
    outputs, slopes = stack.input_gradient(x.detach())
    (expected,) = torch.autograd.grad(stack(x).sum(), x)
    close(outputs, stack(x))
    close(slopes, expected)
    assert all(parameter.grad is None for parameter in stack.parameters())


def test_there_are_no_records_for_silu() -> None:
    with pytest.raises(ValueError, match="activation is 'silu'"):
        StackedMLP(1, 2, (3,), activation="silu").record(torch.zeros(1, 1, 2))


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("rows", [5, MANY_ROWS + 1, 30_000])
@pytest.mark.parametrize("columns", [1, 3, NARROW, NARROW + 1])
def test_products_are_the_same_in_every_form(members: int, rows: int, columns: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(members, rows, 4, generator=generator, dtype=torch.float64)
    weight = torch.randn(members, 4, columns, generator=generator, dtype=torch.float64)
    bias = torch.randn(members, 1, columns, generator=generator, dtype=torch.float64)
    expected = torch.einsum("bni,bio->bno", x, weight)
    close(product(x, weight), expected)
    close(product(x, weight, bias), expected + bias)
    close(gathered(x.transpose(1, 2), expected), torch.einsum("bni,bno->bio", x, expected))


def test_stacks_are_joined() -> None:
    parts = [StackedMLP(members, 3, (4, 5), 2, "tanh") for members in (1, 2)]
    x = torch.randn(3, 6, 3)
    close(joined(parts)(x), torch.cat([parts[0](x[:1]), parts[1](x[1:])]))
    assert joined(parts[:1]) is parts[0]
    scalar = joined([StackedMLP(1, 3, (4,)) for _ in range(2)])
    assert scalar(x[:2]).shape == (2, 6)


def test_gradients_go_into_rows_of_a_matrix() -> None:
    """Members whose parameters are rows of one matrix have the gradients of those that lie together."""
    stack, twin = StackedMLP(2, 3, (20, 5)), StackedMLP(2, 3, (20, 5))
    twin.load_state_dict(stack.state_dict())
    flat, _ = FlatParameters(stack, 2), FlatParameters(twin)
    x, slopes = torch.randn(2, 7, 3), torch.randn(2, 7)
    found, expected = (Chain.of(network) for network in (stack, twin))
    found.pull(found.record(x), slopes[..., None])
    twin.backward(twin.record(x), slopes)
    for one, other in zip(stack.parameters(), twin.parameters(), strict=True):
        close(one.grad, other.grad)
    named = Chain.named(flat.named(flat.vector.detach()), flat.named(flat.gradient))
    close(named.record(x).outputs, expected.record(x).outputs)
    inputs = slice(1, 3)
    pulled = twin.backward(twin.record(x), slopes, parameters=False, inputs=inputs)
    close(named.pull_inputs(named.record(x), slopes[..., None], inputs), pulled)
