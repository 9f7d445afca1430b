"""Soft actor-critic as an agent: that it learns, in every kind of environment, and goes on after a crash."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from resuming import assert_same, crash_at, new_folder

import prefrl
import prefrl.envs
from prefrl.agents import SAC, SACConfig
from prefrl.agents.base import Spaces
from prefrl.data import Transitions
from prefrl.data.metrics import mean_of
from prefrl.run.checkpoint import load_checkpoint
from prefrl.run.loop import Loop, learn

SMALL: dict[str, Any] = {"hidden": (8, 8), "batch_size": 16, "learning_starts": 20, "buffer_size": 160}


SMALL_CONFIG = SACConfig(hidden=(4,))


class Aim(gym.Env[Any, Any]):
    """One step: the reward is minus the squared distance of the action from the observation, times 3."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (1,))
    action_space = gym.spaces.Box(-3.0, 5.0, (1,))

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.obs = self.np_random.uniform(-1.0, 1.0, 1).astype(np.float32)
        return self.obs, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.obs, -float((action[0] - 2.0 * self.obs[0] - 1.0) ** 2), True, False, {}


@pytest.mark.parametrize("regularizer", ["none", "spectral", "robust"])
def test_it_learns_what_to_do(regularizer: Any) -> None:
    config = SACConfig(
        hidden=(32, 32), batch_size=64, learning_rate=5e-3, critic_regularizer=regularizer,
        spectral_layers="hidden", spectral_cap=2.0, robust_eps=0.02, robust_weight=0.1,
    )  # fmt: skip
    agent = SAC(Aim(), config, device="cpu", seed=0).learn(500)
    obs = np.linspace(-0.8, 0.8, 9, dtype=np.float32)[:, None]
    actions, _ = agent.predict(obs, deterministic=True)
    assert np.abs(actions - (2.0 * obs + 1.0)).mean() < 0.3
    assert np.abs(2.0 * obs + 1.0).mean() > 0.9  # what doing nothing would miss by


def device_agent(**settings: Any) -> SAC:
    env = prefrl.envs.make_device("prefrl/Pendulum-v0", 4, device="cpu", max_episode_steps=12)
    return SAC(env, SACConfig(**{**SMALL, **settings}), device="cpu", seed=1)


def vector_agent(**settings: Any) -> SAC:
    env = gym.make_vec("prefrl/Pendulum-v0", num_envs=4, max_episode_steps=12)
    return SAC(env, SACConfig(**{**SMALL, **settings}), device="cpu", seed=1)


def scalar_agent(**settings: Any) -> SAC:
    env = gym.make("prefrl/Pendulum-v0", max_episode_steps=12)
    return SAC(env, SACConfig(**{**SMALL, **settings}), device="cpu", seed=1)


@pytest.mark.parametrize(("make", "settings"), [
    (device_agent, {"train_freq": 8, "gradient_steps": 2}),
    (device_agent, {"critic_regularizer": "spectral", "target_update_gradient_steps": 3}),
    (vector_agent, {"critic_regularizer": "robust", "robust_every": 2, "robust_normalize": True}),
    (scalar_agent, {}),
    (vector_agent, {"learning_starts": 90, "warmup_hold": 7}),
])  # fmt: skip
def test_resumed_equals_uninterrupted(
    make: Callable[..., SAC], settings: dict[str, Any], tmp_path: Path
) -> None:
    run: dict[str, Any] = {"total_timesteps": 120, "log_every": 30, "checkpoint_every": 32}
    whole_folder, folder = new_folder(tmp_path / "whole"), new_folder(tmp_path / "crashed")
    whole = make(**settings)
    Loop(whole, **run, folder=whole_folder).run()
    with pytest.raises(RuntimeError, match="crash"):
        Loop(make(**settings), **run, folder=folder, callback=crash_at(85)).run()
    agent = make(**settings)
    Loop(agent, **run, folder=folder, resume=True).run()
    ours, theirs = (load_checkpoint(each.checkpoint_path) for each in (folder, whole_folder))
    for key in ("agent", "stepper", "metrics", "num_timesteps"):
        assert_same(ours[key], theirs[key])
    assert_same(agent.state_dict(), whole.state_dict())
    assert agent.networks.updates > 10


@pytest.mark.parametrize("starts", [20, 18])  # four environments step over 18
@pytest.mark.parametrize("make", [device_agent, vector_agent, scalar_agent])
def test_gradient_steps_are_those_that_are_due(make: Callable[..., SAC], starts: int) -> None:
    agent = make(train_freq=2, gradient_steps=3, learning_starts=starts)
    learn(agent, 60)
    assert agent.networks.updates == (60 - starts) // 2 * 3


def test_actions_are_uniform_at_first_and_always_in_the_space() -> None:
    agent = SAC(Aim(), SACConfig(learning_starts=10), device="cpu", seed=0)
    obs = torch.zeros(4000, 1)
    first = agent.act(obs)
    assert first.min() >= -3.0
    assert first.max() <= 5.0
    assert abs(float(first.mean()) - 1.0) < 0.15
    assert abs(float(first.std()) - 8.0 / 12**0.5) < 0.1
    assert not torch.equal(agent.act(obs), first)
    settled = agent.act(obs, deterministic=True)
    assert (settled == settled[0]).all()
    agent.num_timesteps = 11
    later = agent.act(obs)
    assert later.std() > 0.1
    assert later.min() >= -3.0
    assert later.max() <= 5.0


def test_actions_of_the_warm_up_are_held() -> None:
    agent = SAC(Aim(), SACConfig(learning_starts=10, warmup_hold=3), device="cpu", seed=0)
    first = [agent.act(torch.zeros(2, 1)) for _ in range(5)]
    assert torch.equal(first[0], first[2])
    assert not torch.equal(first[2], first[3])
    assert torch.equal(first[3], first[4])
    assert len(agent.act(torch.zeros(4, 1))) == 4  # of other rows anew
    agent.num_timesteps = 10
    later = [agent.act(torch.zeros(4, 1)) for _ in range(2)]
    assert not torch.equal(*later)


def test_rounding_does_not_leave_the_space() -> None:
    draws = np.random.default_rng(0)
    for _ in range(50):
        low, high = np.sort(draws.normal(size=(2, 3)).astype(np.float32), axis=0)
        agent = SAC(Spaces(Aim.observation_space, gym.spaces.Box(low, high)), SMALL_CONFIG, device="cpu")
        for end in (-1.0, 1.0):
            assert agent.action_space.contains(agent.to_env(torch.full((1, 3), end))[0].numpy())


def test_metrics_are_means_over_the_steps_that_report_them() -> None:
    one, two, three = torch.tensor(1.0), torch.tensor(2.0), torch.tensor(3.0)
    found = mean_of([{"a": one, "b": two}, {"a": three}, {"a": two}])
    assert {name: float(value) for name, value in found.items()} == {"a": 2.0, "b": 2.0}
    assert mean_of([]) == {}


def test_actions_in_the_replay_are_those_that_the_critics_see() -> None:
    agent = SAC(Aim(), SACConfig(buffer_size=10), device="cpu", seed=0)
    actions = torch.tensor([[-3.0], [1.0], [5.0]])
    torch.testing.assert_close(agent.boxes.from_env(actions), torch.tensor([[-1.0], [0.0], [1.0]]))
    torch.testing.assert_close(agent.to_env(agent.boxes.from_env(actions)), actions)
    flags = torch.zeros(3, dtype=torch.bool)
    agent.observe(Transitions(torch.zeros(3, 1, dtype=torch.float64), actions, torch.zeros(3),
                              torch.zeros(3, 1), flags, flags, ~flags))  # fmt: skip
    assert agent.replay is not None
    assert agent.replay.storage["actions"][0, :, 0].tolist() == [-1.0, 0.0, 1.0]
    assert agent.replay.storage["obs"].dtype == torch.float32


def test_saved_agents_act_alike_and_go_on(tmp_path: Path) -> None:
    agent = scalar_agent().learn(60)
    agent.save(tmp_path / "agent.pt")
    loaded = SAC.load(tmp_path / "agent.pt", device="cpu")
    obs = np.linspace(-1.0, 1.0, 12, dtype=np.float32).reshape(4, 3)
    for deterministic in (True, False):
        np.testing.assert_array_equal(
            loaded.predict(obs, deterministic=deterministic)[0],
            agent.predict(obs, deterministic=deterministic)[0],
        )
    assert loaded.config == agent.config
    again = SAC.load(tmp_path / "agent.pt", env=gym.make("prefrl/Pendulum-v0"), device="cpu")
    again.learn(40)
    assert again.num_timesteps == 100
    assert prefrl.SAC is SAC


def test_rewards_can_be_replaced() -> None:
    agent = scalar_agent().learn(30)
    assert agent.replay is not None
    agent.relabel(torch.arange(5.0)[:, None])
    assert agent.replay.storage["rewards"][25:30, 0].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]


@pytest.mark.parametrize(("observations", "actions", "message"), [
    (gym.spaces.Discrete(3), Aim.action_space, "observation_space is Discrete"),
    (gym.spaces.Box(0, 255, (4, 4, 3), np.uint8), Aim.action_space, "Box of floating-point numbers"),
    (Aim.observation_space, gym.spaces.Discrete(2), "action_space is Discrete"),
    (Aim.observation_space, gym.spaces.Box(-np.inf, np.inf, (2,)), "Box with finite bounds"),
    (Aim.observation_space, gym.spaces.Box(-3e38, 3e38, (2,)), "Box with finite bounds"),
    (Aim.observation_space, gym.spaces.Box(0, 3, (2,), np.int32), "action_space is .*floating-point"),
    (gym.spaces.Box(0, 9, (4,), np.int64), Aim.action_space, "observation_space is .*floating-point"),
    (Aim.observation_space, gym.spaces.Box(np.array([0.0, 1.0]), np.array([1.0, 1.0])), "low must be below"),
])  # fmt: skip
def test_refuses_spaces(observations: Any, actions: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SAC(Spaces(observations, actions), device="cpu")


def test_every_part_has_a_step_size_of_its_own() -> None:
    names = ("actor_learning_rate", "temperature_learning_rate")
    agents = [scalar_agent(learning_rate=1e-3, **dict.fromkeys(names, rate)) for rate in (None, 1e-2)]
    rates = [[part.lr for part in agent.networks.optimizers.values()] for agent in agents]
    assert rates == [[1e-3, 1e-3, 1e-3], [1e-2, 1e-3, 1e-2]]


@pytest.mark.parametrize(("settings", "message"), [
    ({"learning_starts": -1}, "learning_starts is -1"), ({"train_freq": 0}, "train_freq is 0"),
    ({"gradient_steps": 0}, "gradient_steps is 0"), ({"buffer_size": 0}, "buffer_size is 0"),
])  # fmt: skip
def test_refuses_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SACConfig(**settings)


def test_a_loaded_agent_learns_once_it_has_as_much_as_before_its_first_step(tmp_path: Path) -> None:
    agent = scalar_agent(learning_starts=20, batch_size=8)
    agent.learn(40).save(tmp_path / "agent.pt")
    loaded = SAC.load(tmp_path / "agent.pt", agent.env, device="cpu")
    updates = loaded.networks.updates
    loaded.learn(19)
    assert loaded.networks.updates == updates
    loaded.learn(1)
    assert loaded.networks.updates == updates + 1


def compiled_and_eager(**settings: Any) -> tuple[SAC, SAC]:
    """The same run with compiled steps and without."""
    kinds = {"max_grad_norm": 0.5, "learning_rate": 1e-3, **settings}
    compiled, eager = (device_agent(**kinds, compile=compile) for compile in (True, False))
    for agent in (compiled, eager):
        learn(agent, 120)
    return compiled, eager


@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "settings", [{}, {"target_update_gradient_steps": 3, "learn_temperature": False, "tau": 0.1}]
)
def test_compiled_steps_are_the_eager_ones(
    settings: dict[str, Any], backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    compiled, eager = compiled_and_eager(**settings)
    for part in ("actor", "critic", "target"):
        start = getattr(device_agent(**settings).networks, part).parameters()
        both = (getattr(agent.networks, part).parameters() for agent in (compiled, eager))
        for one, other, before in zip(*both, start, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
            assert part == "target" or float((other - before).detach().abs().max()) > 1e-2
    found, expected = compiled.networks, eager.networks
    torch.testing.assert_close(found.log_temperature, expected.log_temperature, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(found.largest, expected.largest, rtol=1e-3, atol=1e-4)
    assert found.updates == expected.updates > 50


def test_a_compiled_run_goes_on_after_a_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    run: dict[str, Any] = {"total_timesteps": 120, "checkpoint_every": 32}
    whole, folder = device_agent(compile=True), new_folder(tmp_path / "crashed")
    learn(whole, **run)
    with pytest.raises(RuntimeError, match="crash"):
        Loop(device_agent(compile=True), **run, folder=folder, callback=crash_at(85)).run()
    resumed = device_agent(compile=True)
    Loop(resumed, **run, folder=folder, resume=True).run()
    assert_same(resumed.state_dict(), whole.state_dict())


def test_compiled_steps_see_what_was_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    first, second = learn(device_agent(compile=True), 60), learn(device_agent(compile=True), 80)
    second.load_state_dict(first.state_dict())
    assert_same(second._gradient_step(), first._gradient_step())


def test_steps_with_a_regularizer_are_not_compiled() -> None:
    with pytest.raises(ValueError, match="compile is True and critic_regularizer 'robust'"):
        SACConfig(compile=True, critic_regularizer="robust")
