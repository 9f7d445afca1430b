"""Behaviour cloning against closed forms; and how agents run that learn from a data set alone."""

import math
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from likelihoods import step_log_probs

import prefrl
import prefrl.envs
from prefrl.agents import IQL, BehaviourCloning, BehaviourCloningConfig, IQLConfig
from prefrl.agents.base import Spaces
from prefrl.data import TransitionDataset
from prefrl.nn.likelihood_policies import GaussianPolicy
from prefrl.run.folder import RunFolder
from prefrl.run.loop import learn

assert prefrl.envs.REGISTRY
LINE = gym.spaces.Box(-np.inf, np.inf, (2,))
BOUNDED = gym.spaces.Box(-2.0, 2.0, (2,))


def data_of(obs: torch.Tensor, actions: torch.Tensor, **changes: Any) -> TransitionDataset:
    no = torch.zeros(len(obs), dtype=torch.bool)
    fields = {
        "obs": obs, "actions": actions, "rewards": torch.zeros(len(obs)), "next_obs": obs,
        "terminations": no, "truncations": no, "observation_space": gym.spaces.Discrete(3),
        "action_space": gym.spaces.Discrete(3), "ends": ~no,
    }  # fmt: skip
    return TransitionDataset.from_transitions(**{**fields, **changes})


def numbers(n: int = 60, space: gym.Space[Any] = LINE) -> TransitionDataset:
    """Actions around 1 and -.5 in state 0, with spreads of .3 and .9, and the same mirrored in state 1."""
    draws = torch.randn(n, 2, generator=torch.Generator().manual_seed(0))
    states = torch.arange(n) % 2
    actions = torch.tensor([1.0, -0.5]) + torch.tensor([0.3, 0.9]) * draws
    actions = torch.where(states[:, None] == 1, -actions, actions).clamp(-2.0, 2.0)
    return data_of(states, actions, action_space=space)


def agent_of(kind: Any, data: TransitionDataset | None, seed: int = 0, **settings: Any) -> Any:
    spaces = Spaces(gym.spaces.Discrete(3), gym.spaces.Discrete(3))
    if data is not None:
        spaces = Spaces(data.observation_space, data.action_space)
    config = kind.config_class(**{"hidden": (16,), "batch_size": 64, "learning_rate": 3e-3, **settings})
    return kind(spaces, config, dataset=data, device="cpu", seed=seed)


# Closed forms ------------------------------------------------------------------------------------------


def test_choices_come_to_the_datas_shares() -> None:
    counts = {(0, 0): 6, (0, 1): 3, (0, 2): 1, (1, 1): 4, (1, 2): 4}
    rows = torch.tensor([pair for pair, count in counts.items() for _ in range(count)])
    agent = agent_of(BehaviourCloning, data_of(rows[:, 0], rows[:, 1]), batch_size=256).learn(600)
    for (state, action), count in counts.items():
        share = count / (10 if state == 0 else 8)
        found = float(step_log_probs(agent, torch.tensor([state]), torch.tensor([action])))
        assert found == pytest.approx(math.log(share), abs=0.12)
    assert float(step_log_probs(agent, torch.tensor([1]), torch.tensor([0]))) < math.log(0.02)
    # the mean log-likelihood can only be below that of the shares, and is not far from it
    best = sum(n * math.log(n / (10 if s == 0 else 8)) for (s, _), n in counts.items()) / 18
    reached = float(step_log_probs(agent, rows[:, 0], rows[:, 1]).mean())
    assert best - 0.01 < reached < best + 1e-5


def test_numbers_come_to_the_datas_moments() -> None:
    """Of each state the mean; and over both of them the root of the mean squared distance from it."""
    data = numbers()
    agent = agent_of(BehaviourCloning, data, batch_size=256, learning_rate=1e-2).learn(500)
    assert isinstance(agent.policy, GaussianPolicy)
    means = torch.stack([data.actions[data.obs == state].mean(0) for state in range(2)])
    spreads = (data.actions - means[data.obs]).square().mean(0).sqrt()
    found, log_std = agent.policy.parameters_at(torch.arange(2)[None])
    torch.testing.assert_close(found[0].detach(), means, rtol=0, atol=0.08)
    torch.testing.assert_close(log_std[0, 0].detach(), spreads.log(), rtol=0, atol=0.08)
    normal = torch.distributions.Normal(means[data.obs], spreads)
    best = float(normal.log_prob(data.actions).sum(-1).mean())
    reached = float(step_log_probs(agent, data.obs, data.actions).mean())
    assert best - 0.03 < reached < best + 1e-5


def test_squashed_numbers_come_to_the_moments_before_the_squashing() -> None:
    """Their spreads hang on the state: the means and spreads of artanh(a / 2) in each."""
    data = numbers(space=BOUNDED)
    inside = torch.atanh((data.actions / 2.0).clamp(-0.97, 0.97))
    inside[data.obs == 1] *= 0.5  # the second state's are closer together
    data = data_of(data.obs, 2.0 * torch.tanh(inside), action_space=BOUNDED)
    agent = agent_of(BehaviourCloning, data, policy="squashed", batch_size=256, learning_rate=1e-2).learn(500)
    found = [value[0].detach() for value in agent.policy.parameters_at(torch.arange(2)[None])]
    for state in range(2):
        own = inside[data.obs == state]
        torch.testing.assert_close(found[0][state], own.mean(0), rtol=0, atol=0.08)
        torch.testing.assert_close(found[1][state], own.std(0, correction=0).log(), rtol=0, atol=0.12)


def test_rewards_do_not_matter() -> None:
    data = numbers()
    other = data_of(data.obs, data.actions, rewards=torch.randn(60), action_space=LINE)
    ours, theirs = (agent_of(BehaviourCloning, each).learn(5) for each in (data, other))
    assert torch.equal(
        step_log_probs(ours, data.obs, data.actions), step_log_probs(theirs, data.obs, data.actions)
    )


# How both run ------------------------------------------------------------------------------------------

BOTH = [BehaviourCloning, IQL]


@pytest.mark.parametrize("kind", BOTH)
def test_a_timestep_is_a_gradient_step(kind: Any) -> None:
    agent = agent_of(kind, numbers()).learn(7)
    assert not agent.steps_env
    assert agent.num_timesteps == 7
    assert int(agent.state_dict()["optimizer"]["state"][0]["step"]) == 7
    assert agent.schedules() == {}


@pytest.mark.parametrize("kind", BOTH)
def test_same_seed_same_run(kind: Any) -> None:
    ours, theirs, other = (agent_of(kind, numbers(), seed=seed).learn(6) for seed in (3, 3, 4))
    obs = torch.zeros(20, dtype=torch.int64)
    drawn = [agent.act(obs) for agent in (ours, theirs, other)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], ours.act(obs))  # drawn anew
    assert torch.equal(ours.act(obs, deterministic=True), ours.act(obs, deterministic=True))


def equal(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(equal(ours[name], theirs[name]) for name in ours)
    return torch.equal(ours, theirs) if isinstance(ours, torch.Tensor) else bool(ours == theirs)


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("policy", ["gaussian", "squashed"])
def test_resumed_equals_uninterrupted(kind: Any, policy: str, tmp_path: Path) -> None:
    def make() -> Any:
        return agent_of(kind, numbers(space=BOUNDED), policy=policy)

    def crash(local: dict[str, Any], _: Any) -> bool:
        if local["self"].agent.num_timesteps >= 30:
            raise RuntimeError("crash")
        return True

    whole = make().learn(40)
    folder = RunFolder.create(tmp_path / "run", {"recipe": "test", "config": {}}, quiet=True)
    with pytest.raises(RuntimeError, match="crash"):
        learn(make(), 40, folder=folder, checkpoint_every=20, callback=crash)
    resumed = learn(make(), 40, folder=folder, checkpoint_every=20, resume=True)
    assert resumed.num_timesteps == 40
    assert equal(resumed.state_dict(), whole.state_dict())
    obs = torch.zeros(5, dtype=torch.int64)
    assert torch.equal(resumed.act(obs), whole.act(obs))


@pytest.mark.parametrize("kind", BOTH)
def test_a_saved_agent_acts_without_data_and_learns_on_with_them(kind: Any, tmp_path: Path) -> None:
    data = numbers(space=BOUNDED)
    agent = agent_of(kind, data).learn(10)
    agent.act(data.obs)  # so that draws have begun
    agent.save(tmp_path / "agent.pt")
    loaded = kind.load(tmp_path / "agent.pt", device="cpu")
    assert equal(loaded.state_dict(), agent.state_dict())
    assert torch.equal(
        step_log_probs(loaded, data.obs, data.actions), step_log_probs(agent, data.obs, data.actions)
    )
    for deterministic in (True, False):
        ours, theirs = (each.predict(1, deterministic=deterministic)[0] for each in (agent, loaded))
        assert (ours == theirs).all()
        assert BOUNDED.contains(ours)
    assert type(prefrl.load(tmp_path / "agent.pt", device="cpu")) is kind
    with pytest.raises(
        ValueError, match=rf"dataset is None; {kind.__name__} learns from a Trans.*load\(path"
    ):
        loaded.learn(1)
    goes_on = kind.load(tmp_path / "agent.pt", device="cpu", dataset=data).learn(5)
    assert goes_on.num_timesteps == 15
    assert equal(goes_on.state_dict()["network"], agent.learn(5).state_dict()["network"])


# What is refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BOTH)
def test_what_is_no_data_is_refused(kind: Any) -> None:
    data, name = numbers(), kind.__name__
    with pytest.raises(ValueError, match=rf"dataset is None; {name} learns from a TransitionDataset alone"):
        agent_of(kind, None).learn(1)
    with pytest.raises(TypeError, match="dataset is a dict; it must be a TransitionDataset"):
        kind(Spaces(data.observation_space, data.action_space), dataset={}, device="cpu")
    with pytest.raises(ValueError, match=r"a dataset from another environment.*Discrete\(3\).*Box"):
        kind(Spaces(gym.spaces.Discrete(3), gym.spaces.Discrete(3)), dataset=data, device="cpu")
    with pytest.raises(ValueError, match=r"rewards have shape .*with N at least 1"):
        agent_of(kind, data_of(torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)))
    with pytest.raises(ValueError, match=r"actions are wrong in row 2.*finite"):
        agent_of(
            kind, data_of(data.obs[:3], torch.tensor([[0.0, 0], [0, 0], [0, np.nan]]), action_space=LINE)
        )
    env = gym.make("prefrl/RandomGrid-v0", layout_seed=233)
    states = torch.zeros(2, dtype=torch.int64)
    spaces = {"observation_space": env.observation_space, "action_space": env.action_space}
    with pytest.warns(UserWarning, match="from test/Grid-v0, and the environment is prefrl/RandomGrid-v0"):
        kind(env, dataset=data_of(states, states, env_id="test/Grid-v0", **spaces), device="cpu")


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize(
    ("observations", "actions", "message"),
    [
        (
            gym.spaces.Discrete(3),
            gym.spaces.MultiDiscrete([2, 2]),
            "action_space is MultiDiscrete.* takes Disc",
        ),
        (gym.spaces.Discrete(3), gym.spaces.Box(0, 9, (2,), np.int64), "action_space is Box.*floating-point"),
        (gym.spaces.Box(0, 255, (8, 8, 3), np.uint8), gym.spaces.Discrete(2), "without pictures"),
        (gym.spaces.MultiBinary(3), gym.spaces.Discrete(2), "observation_space is MultiBinary"),
    ],
)
def test_other_spaces_are_refused(kind: Any, observations: Any, actions: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(Spaces(observations, actions), device="cpu")


@pytest.mark.parametrize("config", [BehaviourCloningConfig, IQLConfig])
def test_defaults_are_the_papers(config: Any) -> None:
    settings = config()
    assert (settings.hidden, settings.learning_rate, settings.batch_size) == ((256, 256), 3e-4, 256)
    if config is IQLConfig:
        assert (settings.expectile, settings.temperature, settings.largest_weight) == (0.7, 3.0, 100.0)
        assert (settings.gamma, settings.tau) == (0.99, 0.005)


def test_a_squashed_policy_takes_bounds() -> None:
    with pytest.raises(ValueError, match=r"action_space is Box.*a squashed policy takes finite bounds"):
        agent_of(IQL, numbers(), policy="squashed")
