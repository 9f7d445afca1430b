"""Parameters as one vector: the same gradients, steps and cuts as with a list, and they stay views."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from prefrl.nn.flat import FlatParameters, clip_factor, cut_
from prefrl.nn.mlp import StackedMLP


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv1d(2, 3, 2), nn.Flatten(), nn.Linear(9, 5), nn.Tanh(), nn.Linear(5, 2))


def loss_of(module: nn.Module, seed: int = 0) -> torch.Tensor:
    inputs = torch.randn(7, 2, 4, generator=torch.Generator().manual_seed(seed))
    return (module(inputs) ** 2).mean()


def flatten(tensors: Any) -> torch.Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def assert_views(module: nn.Module, flat: FlatParameters) -> None:
    """What is written to the vector, or to the gradient, shows in the module."""
    assert torch.equal(flatten(module.parameters()), flat.vector)
    before = flat.vector.detach().clone()
    with torch.no_grad():
        flat.vector += 1.0
        assert torch.equal(flatten(module.parameters()), before + 1.0)
        flat.vector.copy_(before)
    flat.gradient.fill_(3.0)
    assert all((parameter.grad == 3.0).all() for parameter in module.parameters())
    flat.gradient.zero_()


def test_the_module_says_the_same_and_its_parameters_are_views() -> None:
    module = network()
    before = copy.deepcopy(module)
    flat = FlatParameters(module)
    assert torch.equal(loss_of(module), loss_of(before))
    assert torch.equal(flat.vector, flatten(before.parameters()))
    assert not flat.gradient.any()
    assert_views(module, flat)


def test_gradients_are_those_of_autograd_and_add_up() -> None:
    module, plain = network(), network()
    flat = FlatParameters(module)
    for seed in range(3):
        loss_of(module, seed).backward()
        loss_of(plain, seed).backward()
        assert torch.equal(flat.gradient, flatten(p.grad for p in plain.parameters()))
    assert flat.gradient is flat.vector.grad
    assert_views(module, flat)


@pytest.mark.parametrize("max_norm", [1e-3, 0.5, 1e6])
def test_the_cut_is_torchs(max_norm: float) -> None:
    module, plain = network(), network()
    flat = FlatParameters(module)
    loss_of(module).backward()
    loss_of(plain).backward()
    before = flat.gradient.clone()
    flat.gradient.mul_(clip_factor(flat.gradient, max_norm))
    torch.nn.utils.clip_grad_norm_(plain.parameters(), max_norm)
    torch.testing.assert_close(flat.gradient, flatten(p.grad for p in plain.parameters()))
    assert torch.equal(flat.gradient, before) == (max_norm == 1e6)


def test_a_gradient_of_zero_stays() -> None:
    flat = FlatParameters(network())
    flat.gradient.mul_(clip_factor(flat.gradient, 1.0))
    assert not flat.gradient.any()


@pytest.mark.parametrize("tau", [1.0, 0.25, 1e-3])
def test_follow_moves_a_share_of_the_way(tau: float) -> None:
    module, target = network(0), network(1)
    flat, flat_target = FlatParameters(module), FlatParameters(target.requires_grad_(False))
    expected = torch.lerp(flat_target.vector.detach(), flat.vector.detach(), tau)
    given = flat.vector.detach().clone()
    flat_target.follow(flat, tau)
    torch.testing.assert_close(flat_target.vector.detach(), expected, rtol=0, atol=1e-7)
    assert torch.equal(flat.vector, given)
    if tau == 1.0:
        assert torch.equal(flat_target.vector, given)
    assert_views(target, flat_target)
    # No alias: what the network learns from now on is not the target's.
    with torch.no_grad():
        flat.vector += 1.0
    torch.testing.assert_close(flat_target.vector.detach(), expected, rtol=0, atol=1e-7)


def test_state_dicts_pass_through_and_keep_the_views() -> None:
    module, other = network(0), network(1)
    flat = FlatParameters(module)
    assert module.state_dict().keys() == other.state_dict().keys()
    module.load_state_dict(other.state_dict())
    assert torch.equal(flat.vector, flatten(other.parameters()))
    assert_views(module, flat)
    fresh = network(2)
    fresh.load_state_dict(module.state_dict())
    assert torch.equal(loss_of(fresh), loss_of(other))


@pytest.mark.parametrize(
    "module",
    [nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, dtype=torch.float64)), nn.ReLU(),
     nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, device="meta"))],
)  # fmt: skip
def test_parameters_of_several_kinds_or_none_are_refused(module: nn.Module) -> None:
    with pytest.raises(ValueError, match=rf"{type(module).__name__} are of kinds .*of one dtype, on one"):
        FlatParameters(module)


def test_the_factor_cuts_the_norm_and_no_more() -> None:
    long, short = torch.full((4,), 3.0), torch.full((4,), 0.3)
    assert torch.linalg.vector_norm(long * clip_factor(long, 1.5)).item() == pytest.approx(1.5, rel=1e-5)
    assert clip_factor(short, 1.5).item() == 1.0


@pytest.mark.parametrize("size", [0.0, 0.3, 0.75, 3.0, 1e30, float("inf"), float("nan")])
def test_cutting_is_multiplying_with_the_factor(size: float) -> None:
    gradient = torch.full((4,), size)
    expected = gradient * clip_factor(gradient, 1.5)
    cut_(gradient, 1.5)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=0, equal_nan=True)


class TwoStacks(nn.Module):
    """Parameters whose first axis is that of three learners; one of them empty."""

    def __init__(self) -> None:
        super().__init__()
        self.first = StackedMLP(3, 4, (5,), 2)
        self.free = nn.Parameter(torch.randn(3, 1, 0))
        self.second = StackedMLP(3, 4, (6,))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.first(x).sum(-1) + self.second(x) + self.free.sum(-1)


def rows_of(tensors: Any) -> torch.Tensor:
    return torch.cat([tensor.detach().reshape(3, -1) for tensor in tensors], 1)


@pytest.mark.filterwarnings("ignore:grad and param do not obey")  # of autograd, which PPO does without
def test_learners_have_a_row_each() -> None:
    module = TwoStacks()
    plain, x = copy.deepcopy(module), torch.randn(3, 7, 4)
    flat = FlatParameters(module, 3)
    assert flat.vector.shape == (3, sum(p.numel() for p in plain.parameters()) // 3)
    assert torch.equal(flat.vector, rows_of(plain.parameters()))
    torch.testing.assert_close(module(x), plain(x))
    for each in (module, plain):
        each(x).square().sum().backward()
    torch.testing.assert_close(flat.gradient, rows_of(p.grad for p in plain.parameters()))
    with torch.no_grad():
        flat.vector[1] += 1.0
    for parameter, before in zip(module.parameters(), plain.parameters(), strict=True):
        assert torch.equal(parameter[1], before[1] + 1.0)
        assert torch.equal(parameter[0], before[0])
        assert torch.equal(parameter[2], before[2])
    module.load_state_dict(plain.state_dict())
    assert torch.equal(flat.vector, rows_of(plain.parameters()))
    named = flat.named(flat.vector.detach())
    assert {name: value.shape for name, value in named.items()} == {
        name: parameter.shape for name, parameter in plain.named_parameters()
    }
