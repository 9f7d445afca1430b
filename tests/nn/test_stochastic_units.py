"""Layers of drawn units, and gated perceptrons: what they compute, how they learn, what they leave out."""

from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from prefrl import DQN, PPO, DQNConfig, PPOConfig
from prefrl.envs import make_device
from prefrl.functional import stochastic_units as F
from prefrl.nn.stochastic import units as stochastic_units
from prefrl.nn.stochastic.units import GatedMLP, StochasticUnits

CART_POLE = "prefrl/CartPole-v0"


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gated(seed: int = 0, inputs: int = 6, **settings: Any) -> GatedMLP:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return GatedMLP(inputs, **{"hidden": (32, 16), "blocks": 4, **settings})


def test_units_are_their_functions() -> None:
    a, uniform, normal = numbers(5, 7), torch.rand(5, 7), torch.randn(5, 7)
    drawn = F.bernoulli(a, uniform)
    assert 5 < int(drawn.sum()) < 30
    for kind in ("straight_through", "straight_through_plain"):
        units = StochasticUnits(kind)  # type: ignore[arg-type]
        assert torch.equal(units(a, uniform), drawn)
        assert torch.equal(units.eval()(a), (a > 0.0).float())
    smooth, rectifier = StochasticUnits("smooth", share=0.3), StochasticUnits("rectifier", scale=2.0)
    assert torch.equal(smooth(a, uniform), F.stochastic_times_smooth(a, uniform, 0.3))
    assert torch.equal(rectifier(a, normal), torch.relu(a + 2.0 * normal))
    assert torch.equal(smooth.eval()(a), torch.sigmoid(a))
    assert torch.equal(rectifier.eval()(a), torch.relu(a))
    for kind, factor in (("straight_through", torch.sigmoid(a) * torch.sigmoid(-a)),
                         ("straight_through_plain", torch.ones_like(a))):  # fmt: skip
        asked = a.clone().requires_grad_()
        StochasticUnits(kind)(asked).sum().backward()  # type: ignore[arg-type]
        torch.testing.assert_close(asked.grad, factor)
    torch.manual_seed(0)
    many = StochasticUnits()(torch.full((10_000,), 1.0))
    assert float(many.mean()) == pytest.approx(0.731, abs=0.02)
    with pytest.raises(ValueError, match="kind is 'sharp'; allowed are"):
        StochasticUnits("sharp")  # type: ignore[arg-type]


def slow(net: GatedMLP, x: Tensor) -> Tensor:
    """Block by block."""
    for layer, gate in zip(net.layers, net.gates, strict=True):
        assert isinstance(layer, nn.Linear)
        rows = []
        for row in x:
            on, y = gate(row) > 0.0, torch.relu(layer(row))
            size = len(y) // len(on)
            rows.append(torch.cat([y[i * size : (i + 1) * size] * on[i] for i in range(len(on))]))
        x = torch.stack(rows)
    return x


@pytest.mark.parametrize("rows", [1, 9])
def test_blocks_are_on_or_off(rows: int) -> None:
    net, x = gated(), numbers(rows, 2, 3)
    expected = slow(net, x.flatten(1)).detach()
    assert 0.0 < float((expected == 0.0).float().mean()) < 1.0
    torch.testing.assert_close(net(x).detach(), expected)
    with torch.no_grad():
        torch.testing.assert_close(net(x), expected)
        net.skip = True
        with mock.patch.object(stochastic_units, "WORTH", 1), mock.patch.object(
            stochastic_units, "_only_what_is_on", wraps=stochastic_units._only_what_is_on
        ) as skipped:  # fmt: skip
            torch.testing.assert_close(net(x), expected)
        assert skipped.call_count == 2
        with mock.patch.object(stochastic_units, "_only_what_is_on") as skipped:
            net(x)  # so few are not worth it
        assert not skipped.called
    assert net.features == expected.shape[1] == 16


def test_gradients_are_of_loss_and_activity() -> None:
    net, x = gated(hidden=(8,), weight=3.0), numbers(50, 6)
    net(x).square().mean().backward()
    found = [parameter.grad.clone() for parameter in net.parameters() if parameter.grad is not None]
    net.zero_grad()
    a = net.gates[0](x)
    on = (a > 0.0).float()
    h = on + torch.sigmoid(a) - torch.sigmoid(a).detach()
    y = torch.relu(net.layers[0](x)) * h.repeat_interleave(2, 1)
    (y.square().mean() + 3.0 * (h.mean() - 0.1).square()).backward()
    for mine, parameter in zip(found, net.parameters(), strict=True):
        torch.testing.assert_close(mine, parameter.grad)


def test_activity_comes_to_its_target() -> None:
    net, x = gated(hidden=(64,), blocks=32, activity=0.25, weight=100.0), numbers(500, 6)
    assert float(net.activities(x)[0]) > 0.4
    head = nn.Linear(64, 1)
    optimizer = torch.optim.Adam([*net.parameters(), *head.parameters()], lr=1e-2)
    for _ in range(300):
        optimizer.zero_grad()
        (head(net(x))[:, 0] - x[:, 0] * x[:, 1]).square().mean().backward()
        optimizer.step()
    assert float(net.activities(x)[0]) == pytest.approx(0.25, abs=0.02)


def test_drawn_gates_are_drawn_while_learning() -> None:
    net, x = gated(draws=True), numbers(200, 6)
    assert not torch.equal(net(x), net(x))
    with torch.no_grad():
        torch.testing.assert_close(net.eval()(x), gated().eval()(x))


def test_several_at_once() -> None:
    """``torch.vmap`` can call it, and its gradients are those of each alone."""
    nets, x = [gated(seed) for seed in range(3)], numbers(3, 20, 6)
    stacked = torch.func.stack_module_state(nets)[0]  # type: ignore[arg-type]

    def loss(parameters: Any, rows: Tensor) -> Tensor:
        return torch.func.functional_call(nets[0], parameters, rows).square().mean()  # type: ignore[no-any-return]

    found = torch.vmap(torch.func.grad(loss))(stacked, x)
    for learner, net in enumerate(nets):
        net(x[learner]).square().mean().backward()
        for name, parameter in net.named_parameters():
            torch.testing.assert_close(found[name][learner], parameter.grad)


@pytest.mark.parametrize("learners", [1, 2])
def test_agents_take_it_as_torso(learners: int) -> None:
    torso = gated(inputs=4, hidden=(32,))
    env = make_device(CART_POLE, 4 * learners, **({"num_streams": learners} if learners > 1 else {}))
    agent = PPO(env, PPOConfig(n_steps=64), num_learners=learners, torso=torso, device="cpu")
    before = agent.network.vectors.detach().clone()
    agent.learn(600)
    assert (agent.network.vectors != before).any(1).all()
    if learners == 1:
        deep = DQN(make_device(CART_POLE, 1), DQNConfig(learning_starts=50), torso=torso, device="cpu")
        deep.learn(100)


def test_refusals() -> None:
    for settings in ({"hidden": ()}, {"hidden": (30,)}, {"inputs": 0}, {"blocks": 0}):
        with pytest.raises(ValueError, match="hidden is"):
            gated(**settings)  # type: ignore[arg-type]
    for settings in ({"activity": 0.0}, {"activity": 1.0}, {"weight": -1.0}):  # type: ignore[assignment]
        with pytest.raises(ValueError, match="activity is"):
            gated(**settings)  # type: ignore[arg-type]
