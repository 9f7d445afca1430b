"""The gradient step of soft actor-critic against its losses, written down plainly and left to autograd."""

import copy
import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from prefrl.agents.actor_critic import networks as module
from prefrl.agents.actor_critic.by_hand import draw
from prefrl.agents.actor_critic.config import ActorCriticConfig
from prefrl.agents.actor_critic.networks import SoftActorCritic, pairs
from prefrl.agents.actor_critic.sac import autograd_step
from prefrl.config import from_json, to_json
from prefrl.data.replay import Batch
from prefrl.functional.actor_critic.squashed_gaussian import squashed_gaussian
from prefrl.nn.adam import Adam
from prefrl.nn.spectral import SpectralMLP

CPU = torch.device("cpu")

B, D, A = 7, 3, 2


def make(**settings: Any) -> SoftActorCritic:
    config = ActorCriticConfig(**{"hidden": (16, 16), **settings})
    policy = SoftActorCritic(D, A, config, device=CPU, seed=0)
    policy.moments.add(torch.randn(50, D, generator=generator()) * 2.0, torch.ones(50, dtype=torch.bool))
    return policy


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def batch() -> Batch:
    draws = torch.randn(B, 2 * D + A + 1, generator=generator())
    obs, actions, rewards, next_obs = torch.split(draws, [D, A, 1, D], 1)  # type: ignore[no-untyped-call]
    discounts = torch.full((B,), 0.99)
    discounts[0] = 0.0  # terminal
    weights = torch.ones(B)
    weights[1] = 0.0  # no transition
    return Batch(obs, actions.tanh(), rewards[:, 0], next_obs, discounts, weights)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Gradients of the steps that the optimisers would take: critics, actor, temperature."""
    seen: list[Tensor] = []

    def record(optimizer: Adam) -> None:
        (vector,) = optimizer.parameters
        assert vector.grad is not None
        seen.append(vector.grad.clone())

    monkeypatch.setattr(Adam, "step", record)
    return seen


def plain_losses(policy: SoftActorCritic, rows: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """The losses of critics, actor and temperature, with the noise that the step will draw."""
    draws = torch.Generator().set_state(policy.generator.get_state())
    noise = torch.randn(2, B, A, generator=draws)
    alpha, keep = policy.temperature.detach(), rows.weights / rows.weights.sum()

    def pi(obs: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        return squashed_gaussian(*policy.actor(obs[None])[0].chunk(2, -1), eps)

    with torch.no_grad():
        actions, log_density = pi(rows.next_obs, noise[0])
        next_q = torch.minimum(*policy.target(pairs(rows.next_obs, actions)))
        y = rows.returns + rows.discounts * (next_q - alpha * log_density)
    q = policy.critic(pairs(rows.obs, rows.actions))
    critic_loss = sum(0.5 * ((q[i] - y) ** 2 * keep).sum() for i in range(2))
    config = policy.config
    if config.critic_regularizer == "robust":
        start = 2.0 * torch.rand(2, B, D, generator=draws) - 1.0
        radius = config.robust_eps * policy.moments.std(1e-3)
        moved = rows.obs + radius * start
        for _ in range(config.attack_steps):
            at = moved.detach().requires_grad_()
            gap = (policy.critic(pairs(at, rows.actions)) - q.detach()) ** 2
            (slope,) = torch.autograd.grad(gap.sum(), at)
            size = 1.0 if config.attack_steps == 1 else 2.5 / config.attack_steps
            moved = rows.obs + radius * slope.sign() if config.attack_steps == 1 else torch.minimum(
                torch.maximum(moved + size * radius * slope.sign(), rows.obs - radius), rows.obs + radius
            )  # fmt: skip
        clean = q.detach() if config.robust_stop_gradient else q
        gaps = (policy.critic(pairs(moved.detach(), rows.actions)) - clean) ** 2
        weight = config.robust_weight / ((y.var(correction=0) + 1.0) if config.robust_normalize else 1.0)
        critic_loss = critic_loss + weight * (gaps * keep).sum()
    actions, log_density = pi(rows.obs, noise[1])
    smaller_q = torch.minimum(*policy.critic(pairs(rows.obs, actions)))
    actor_loss = ((alpha * log_density - smaller_q) * keep).sum()
    return critic_loss, actor_loss, (-(log_density.detach() + policy.target_entropy) * keep).sum()


@pytest.mark.parametrize("settings", [
    {},
    {"hidden": (9,), "target_entropy": -0.5},
    {"critic_regularizer": "spectral", "spectral_cap": 0.5},
    {"critic_regularizer": "spectral", "spectral_cap": 0.3, "spectral_layers": "all"},
    {"critic_regularizer": "robust"},
    {"critic_regularizer": "robust", "robust_attack": "uniform", "robust_stop_gradient": True},
    {"critic_regularizer": "robust", "robust_attack": "multi_step", "robust_normalize": True},
], ids=str)  # fmt: skip
def test_steps_go_down_the_losses(steps: list[Tensor], settings: dict[str, Any]) -> None:
    policy, rows = make(**settings), batch()
    critic_loss, actor_loss, of_log_alpha = plain_losses(policy, rows)
    expected = [
        torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(network.parameters()))])
        for loss, network in ((critic_loss, policy.critic), (actor_loss, policy.actor))
    ]
    metrics = policy.step(rows)
    for found, gradient in zip(steps, expected, strict=False):
        torch.testing.assert_close(found, gradient, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(steps[2], of_log_alpha)
    torch.testing.assert_close(metrics["train/actor_loss"], actor_loss.detach())
    if settings.get("critic_regularizer") != "robust":
        torch.testing.assert_close(metrics["train/critic_loss"], critic_loss.detach())


@pytest.mark.parametrize("settings", [
    {},
    {"hidden": (9,), "target_entropy": -0.5, "max_grad_norm": 0.1},
    {"learn_temperature": False, "tau": 0.3, "target_update_gradient_steps": 3},
    {"critic_regularizer": "spectral", "spectral_cap": 0.5},
    {"critic_regularizer": "spectral", "spectral_cap": 0.3, "spectral_layers": "all"},
    {"critic_regularizer": "robust", "robust_every": 2, "robust_weight": 1.0, "robust_eps": 0.1},
    {"critic_regularizer": "robust", "robust_attack": "uniform", "robust_stop_gradient": True},
    {"critic_regularizer": "robust", "robust_attack": "multi_step", "robust_normalize": True},
], ids=str)  # fmt: skip
def test_ten_steps_by_hand_are_those_by_autograd(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ITERATES_EVERY", 1)  # else caps by hand are a step behind
    by_hand, by_autograd = make(learning_rate=1e-3, **settings), make(learning_rate=1e-3, **settings)
    start = by_hand.critic.state_dict()["layers.0.weight"].clone()
    for _ in range(10):
        found, expected = by_hand.step(batch()), autograd_step(by_autograd, batch())
        one, other = float(found["train/actor_loss"]), float(expected["train/actor_loss"])
        assert one == pytest.approx(other, rel=1e-5, abs=1e-5)
        for name, vector in by_hand._learned.items():  # Adam's steps would be the same for a multiple of them
            torch.testing.assert_close(vector.grad, by_autograd._learned[name].grad, rtol=1e-4, atol=1e-5)
    for name in ("actor", "critic", "target", "frozen", "frozen_target"):
        both = (getattr(networks, name).parameters() for networks in (by_hand, by_autograd))
        for mine, theirs in zip(*both, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(by_hand.log_temperature, by_autograd.log_temperature, rtol=1e-5, atol=1e-7)
    moved = by_hand.critic.state_dict()["layers.0.weight"] - start
    assert float(moved.abs().max()) > 1e-3  # far above what is allowed


def test_settings_of_older_files_count_gradient_steps_under_their_old_name() -> None:
    old = {**to_json(ActorCriticConfig()), "target_update_interval": 7}
    del old["target_update_gradient_steps"]
    assert from_json(ActorCriticConfig, old).target_update_gradient_steps == 7


def test_rows_that_are_no_transitions_do_not_count(steps: list[Tensor]) -> None:
    rows = batch()
    policy = make()
    twin = copy.deepcopy(rows)
    twin.obs[1], twin.returns[1], twin.next_obs[1] = 50.0, 1e4, -50.0
    before = policy.generator.get_state()
    for each in (rows, twin):
        policy.generator.set_state(before)
        policy.step(each)
    for one, other in zip(steps[:3], steps[3:], strict=True):
        torch.testing.assert_close(one, other)


def test_the_actor_sees_the_critics_after_their_step() -> None:
    for regularizer in ("none", "spectral"):
        policy = make(critic_regularizer=regularizer, spectral_cap=0.5)
        for _ in range(3):
            policy.step(batch())
        inputs = pairs(batch().obs, batch().actions)
        with torch.no_grad():
            torch.testing.assert_close(policy.frozen(inputs), policy.critic(inputs))
            torch.testing.assert_close(policy.frozen_target(inputs), policy.target(inputs))
            assert not torch.allclose(policy.frozen(inputs), policy.frozen_target(inputs), rtol=1e-3)


@pytest.mark.parametrize(("layers", "settings"), [
    ("hidden", {}), ("all", {}), ("hidden", {"tau": 1.0, "target_update_gradient_steps": 7}),
    ("hidden", {"tau": 0.5}), ("hidden", {"target_update_gradient_steps": 3}),
])  # fmt: skip
def test_caps_hold_while_the_critics_learn(layers: Any, settings: dict[str, Any]) -> None:
    """E0: exact singular values of what critics and targets use, after 200 updates."""
    policy = make(hidden=(32, 32), critic_regularizer="spectral", spectral_layers=layers, **settings)
    rows = batch()
    steep = dataclasses.replace(rows, returns=100.0 * rows.obs[:, 0])
    for _ in range(200):
        policy.step(steep)
    capped = 3 if layers == "all" else 2
    assert isinstance(policy.critic, SpectralMLP)
    learned = policy.critic.weights_as_learned()
    assert any(float(torch.linalg.matrix_norm(weight.detach(), ord=2).max()) > 1.05 for weight in learned)
    for network in (policy.frozen, policy.frozen_target):
        for weight in network.weights()[:capped]:
            assert float(torch.linalg.matrix_norm(weight, ord=2).max()) <= 1.02


def test_targets_follow_the_critics() -> None:
    policy = make(tau=0.1, target_update_gradient_steps=2)
    start = [parameter.clone() for parameter in policy.target.parameters()]
    policy.step(batch())
    assert all(torch.equal(*both) for both in zip(start, policy.target.parameters(), strict=True))
    policy.step(batch())
    for before, target, critic in zip(
        start, policy.target.parameters(), policy.critic.parameters(), strict=True
    ):
        torch.testing.assert_close(target, 0.9 * before + 0.1 * critic.detach())


@pytest.mark.parametrize("rows", [1, 5])
def test_actions_are_drawn_from_the_actor_as_it_is(rows: int) -> None:
    policy, other = make(), make()
    for _ in range(3):
        other.step(batch())
    policy.load_state_dict(other.state_dict())
    obs = torch.randn(rows, D, generator=generator())
    found = policy.act(obs)
    assert not found.requires_grad
    noise = other.noise(rows, A)
    torch.testing.assert_close(found, draw(other.actor(obs[None])[0], noise)[0].detach())
    assert torch.equal(policy.act(obs, deterministic=True), other.mode(obs))


def test_a_fixed_temperature_stays() -> None:
    policy = make(learn_temperature=False, initial_temperature=0.2)
    policy.step(batch())
    assert float(policy.temperature) == pytest.approx(0.2)
    learned = make(initial_temperature=0.2, target_entropy=100.0)
    learned.step(batch())
    assert float(learned.temperature) > 0.2  # the entropy is below what is wanted


def test_evaluating_leaves_the_policy_alone() -> None:
    policy = make()
    before = [parameter.clone() for parameter in policy.actor.parameters()]
    critic = [parameter.clone() for parameter in policy.critic.parameters()]
    metrics = policy.step(batch(), evaluate=True)
    assert "train/actor_loss" not in metrics
    assert float(policy.temperature) == 1.0
    assert all(torch.equal(*both) for both in zip(before, policy.actor.parameters(), strict=True))
    assert not any(torch.equal(*both) for both in zip(critic, policy.critic.parameters(), strict=True))


def test_gradients_are_cut(steps: list[Tensor]) -> None:
    policy = make(max_grad_norm=1e-3)
    policy.step(batch())
    for found in steps[:2]:
        assert float(torch.linalg.vector_norm(found)) == pytest.approx(1e-3, rel=1e-3)


def test_values_and_their_gradients() -> None:
    policy = make()
    obs = batch().obs.clone().requires_grad_()
    mean = policy.actor(obs[None])[0][:, :A]
    both = policy.critic(pairs(obs, torch.tanh(mean)))
    torch.testing.assert_close(policy.value(obs), both.amin(0))
    totals = policy.total_gradients(obs.detach())
    values, partial = policy.partial_gradients(obs.detach())
    torch.testing.assert_close(values, both)
    for i in range(2):
        (expected,) = torch.autograd.grad(both[i].sum(), obs, retain_graph=True)
        torch.testing.assert_close(totals[i], expected)
        fixed = policy.critic(pairs(obs, torch.tanh(mean).detach()))[i]
        torch.testing.assert_close(partial[i], torch.autograd.grad(fixed.sum(), obs)[0])


@pytest.mark.parametrize("regularizer", ["none", "spectral", "robust"])
def test_it_goes_on_from_its_state(regularizer: Any) -> None:
    first, second = make(critic_regularizer=regularizer), make(critic_regularizer=regularizer)
    for _ in range(3):
        first.step(batch())
    second.load_state_dict(first.state_dict())  # of which it must change nothing
    for _ in range(2):
        found = [policy.step(batch()) for policy in (first, second)]
        assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    for one, other in zip(first.critic.parameters(), second.critic.parameters(), strict=True):
        assert torch.equal(one, other)


def test_warns_once_of_values_that_no_policy_has() -> None:
    policy = make(learn_temperature=False, initial_temperature=1e-6)
    policy.step(batch())
    policy.check()
    policy.largest[0] = 1e4
    with pytest.warns(UserWarning, match=r"\|Q\| reaches 1e\+04, but rewards .* the critics diverge"):
        policy.check()
    policy.check()
    assert policy.largest_q == 1e4


@pytest.mark.parametrize(("settings", "message"), [
    ({"hidden": ()}, "hidden is"), ({"gamma": 1.5}, "gamma is 1.5"), ({"tau": 0.0}, "tau is 0.0"),
    ({"learning_rate": 0.0}, "learning_rate is 0.0"), ({"batch_size": 0}, "batch_size is 0"),
    ({"critic_regularizer": "smooth"}, "critic_regularizer is 'smooth'; it must be one of"),
    ({"robust_attack": "fgsm"}, "robust_attack is 'fgsm'"), ({"spectral_cap": -1.0}, "spectral_cap is -1.0"),
    ({"robust_weight": -1.0}, "robust_weight is -1.0"), ({"robust_every": 0}, "robust_every is 0"),
    ({"max_grad_norm": 0.0}, "max_grad_norm is 0.0"), ({"spectral_layers": "some"}, "spectral_layers is"),
])  # fmt: skip
def test_refuses_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**settings)


def test_refuses_kinds_of_settings() -> None:
    with pytest.raises(TypeError, match=r"batch_size is 2\.5"):
        make(batch_size=2.5)
