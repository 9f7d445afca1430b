"""Parameters as one vector: the same gradients, steps and cuts as with a list, and they stay views."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from prefrl.nn.flat import FlatParameters, adam_state, adam_step_, clip_factor


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


def test_adam_on_the_vector_is_adam_on_the_list() -> None:
    module, plain = network(), network()
    flat = FlatParameters(module)
    ours = torch.optim.Adam([flat.vector], lr=0.05, eps=1e-4, fused=True)
    theirs = torch.optim.Adam(plain.parameters(), lr=0.05, eps=1e-4, fused=True)
    for seed in range(20):
        flat.gradient.zero_()
        theirs.zero_grad()
        loss_of(module, seed).backward()
        loss_of(plain, seed).backward()
        ours.step()
        theirs.step()
    torch.testing.assert_close(flat.vector.detach(), flatten(plain.parameters()), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(flat.vector, flatten(network().parameters()), atol=0.1)
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


def test_adam_takes_the_steps_of_torchs() -> None:
    module, plain = network(), network()
    flat, twin = FlatParameters(module), FlatParameters(plain)
    settings: dict[str, Any] = {"lr": 1e-2, "betas": (0.8, 0.99), "eps": 1e-4}
    optimizer, reference = (torch.optim.Adam([each.vector], fused=True, **settings) for each in (flat, twin))
    compiled = torch.compile(adam_step_, backend="eager", fullgraph=True)
    for seed in range(5):
        for each, net in ((flat, module), (twin, plain)):
            each.gradient.zero_()
            loss_of(net, seed).backward()
        given = {**settings, "lr": torch.tensor(settings["lr"])}
        compiled(flat.vector.detach(), flat.gradient, adam_state(optimizer, flat.vector), **given)
        reference.step()
        torch.testing.assert_close(flat.vector, twin.vector, rtol=1e-6, atol=1e-7)
    for name, value in adam_state(reference, twin.vector).items():  # and one can go on from the other's state
        torch.testing.assert_close(adam_state(optimizer, flat.vector)[name], value, rtol=1e-6, atol=1e-7)


def test_the_factor_cuts_the_norm_and_no_more() -> None:
    long, short = torch.full((4,), 3.0), torch.full((4,), 0.3)
    assert torch.linalg.vector_norm(long * clip_factor(long, 1.5)).item() == pytest.approx(1.5, rel=1e-5)
    assert clip_factor(short, 1.5).item() == 1.0
