"""Implicit Q-learning: its losses against a plain twin, its values against dynamic programming on data."""

import dataclasses
import math
from functools import cache
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from likelihoods import step_log_probs

import prefrl.envs
from prefrl.agents import IQL, IQLConfig
from prefrl.agents.actor_critic.iql import iql_loss
from prefrl.agents.base import Spaces
from prefrl.data import TransitionDataset
from prefrl.data.replay import Batch

assert prefrl.envs.REGISTRY
GAMMA = 0.8

# State, action, reward, successor, whether it is terminal. Nobody ever took action 2 in state 0, or action 0
# in state 2. State 3 is terminal. In state 0 action 0 was taken three times as often as action 1.
ROWS: list[tuple[int, int, float, int, bool]] = [
    (0, 0, 0.0, 1, False), (0, 0, 0.0, 1, False), (0, 0, 0.0, 1, False), (0, 1, 1.0, 2, False),
    (1, 0, 0.5, 0, False), (1, 1, -1.0, 2, False), (1, 2, 0.0, 3, True), (1, 2, 0.0, 3, True),
    (2, 1, 2.0, 3, True), (2, 2, -0.5, 1, False), (2, 2, -0.5, 1, False),
]  # fmt: skip


def data_of(rows: list[tuple[int, int, float, int, bool]], **changes: Any) -> TransitionDataset:
    obs, actions, rewards, next_obs, terminations = zip(*rows, strict=True)
    fields = {
        "obs": torch.tensor(obs), "actions": torch.tensor(actions), "rewards": torch.tensor(rewards),
        "next_obs": torch.tensor(next_obs), "terminations": torch.tensor(terminations),
        "truncations": torch.zeros(len(rows), dtype=torch.bool), "observation_space": gym.spaces.Discrete(4),
        "action_space": gym.spaces.Discrete(3), "ends": torch.ones(len(rows), dtype=torch.bool),
    }  # fmt: skip
    return TransitionDataset.from_transitions(**{**fields, **changes})


def box_data(n: int = 40, **changes: Any) -> TransitionDataset:
    draws = torch.Generator().manual_seed(0)
    obs = torch.randn(n + 1, 3, generator=draws)
    ended = torch.arange(n) % 10 == 9
    fields = {
        "obs": obs[:-1], "actions": 4.0 * torch.rand(n, 2, generator=draws) - 2.0,
        "rewards": torch.randn(n, generator=draws), "next_obs": obs[1:], "terminations": ended,
        "truncations": torch.zeros(n, dtype=torch.bool), "observation_space": gym.spaces.Box(-9, 9, (3,)),
        "action_space": gym.spaces.Box(-2, 2, (2,)),
    }  # fmt: skip
    return TransitionDataset.from_transitions(**{**fields, **changes})


def agent_of(dataset: TransitionDataset, seed: int = 0, **settings: Any) -> IQL:
    spaces = Spaces(dataset.observation_space, dataset.action_space)
    config = IQLConfig(**{"hidden": (32,), "batch_size": 64, "gamma": GAMMA, **settings})
    return IQL(spaces, config, dataset=dataset, device="cpu", seed=seed)


# The losses --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["discrete", "gaussian", "squashed"])
def test_losses_equal_a_plain_loop(kind: str) -> None:
    """The three losses, row by row in plain numbers, from what the networks say."""
    data = data_of(ROWS) if kind == "discrete" else box_data(11)
    settings = {} if kind == "discrete" else {"policy": kind}
    agent = agent_of(data, expectile=0.8, temperature=2.0, largest_weight=1.5, **settings)
    with torch.no_grad():
        for parameter in agent.target.parameters():
            parameter.add_(0.5 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    count = len(data)
    discounts = GAMMA * ~data.terminations
    batch = Batch(data.obs, data.actions, data.rewards, data.next_obs, discounts, torch.ones(count))
    loss, metrics = iql_loss(agent.network, agent.target, batch, agent.config)

    network = agent.network
    v, next_v = network.values(data.obs).tolist(), network.values(data.next_obs).tolist()
    q = network.q_values(network.critic, data.obs, data.actions).tolist()
    slow = network.q_values(agent.target, data.obs, data.actions).tolist()
    log_probs = step_log_probs(agent, data.obs, data.actions).tolist()
    value_loss = critic_loss = actor_loss = 0.0
    cut = 0
    for i in range(count):
        u = min(slow[0][i], slow[1][i]) - v[i]
        value_loss += (0.2 if u < 0.0 else 0.8) * u * u / count
        target = float(data.rewards[i]) + (0.0 if data.terminations[i] else GAMMA * next_v[i])
        critic_loss += sum((target - q[k][i]) ** 2 for k in range(2)) / count
        weight = min(math.exp(2.0 * u), 1.5)
        cut += weight == 1.5
        actor_loss -= weight * log_probs[i] / count
    assert 0 < cut < count
    found = [float(metrics[f"train/{name}_loss"]) for name in ("value", "critic", "actor")]
    assert found == pytest.approx([value_loss, critic_loss, actor_loss], rel=1e-4)
    assert float(loss.detach()) == pytest.approx(value_loss + critic_loss + actor_loss, rel=1e-4)


@pytest.mark.parametrize("make", [lambda: data_of(ROWS), box_data])
def test_each_loss_moves_its_own_network_alone(make: Any) -> None:
    agent = agent_of(make())
    batch = agent._replay.sample(8, torch.Generator().manual_seed(0))  # type: ignore[union-attr]
    loss, _ = iql_loss(agent.network, agent.target, batch, agent.config)
    whole = torch.autograd.grad(loss, list(agent.network.parameters()), retain_graph=True, allow_unused=True)
    names = [name for name, _ in agent.network.named_parameters()]
    alone = {}
    for part in ("policy", "value", "critic"):
        # Weights do not move the value: at temperature 0, where they are 1, it has the same slope.
        free = agent_of(make(), temperature=0.0) if part == "value" else agent_of(make())
        for other in {"policy", "value", "critic"} - {part}:
            getattr(free.network, other).requires_grad_(False)
        own, _ = iql_loss(free.network, free.target, batch, free.config)
        parameters = {n: p for n, p in free.network.named_parameters() if n.startswith(f"{part}.")}
        alone |= dict(zip(parameters, torch.autograd.grad(own, list(parameters.values())), strict=True))
    for name, slope in zip(names, whole, strict=True):
        assert slope is not None
        torch.testing.assert_close(slope, alone[name])
    assert all(parameter.grad is None for parameter in agent.target.parameters())


def test_targets_follow_slowly() -> None:
    agent = agent_of(box_data(), tau=0.25)
    before = [parameter.clone() for parameter in agent.target.parameters()]
    for ours, theirs in zip(before, agent.network.critic.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    agent.update()
    moved = zip(agent.target.parameters(), before, agent.network.critic.parameters(), strict=True)
    for now, then, critic in moved:
        torch.testing.assert_close(now, then + 0.25 * (critic.detach() - then))
        assert not torch.equal(now, then)


# Its values --------------------------------------------------------------------------------------------


def expectile_of(values: list[float], tau: float) -> float:
    """The m at which tau sum_{y > m} (y - m) = (1 - tau) sum_{y < m} (m - y), by bisection."""
    low, high = min(values), max(values)
    for _ in range(200):
        m = 0.5 * (low + high)
        up = tau * sum(y - m for y in values if y > m) - (1 - tau) * sum(m - y for y in values if y < m)
        low, high = (m, high) if up > 0 else (low, m)
    return 0.5 * (low + high)


def exact(tau: float | None) -> tuple[np.ndarray, dict[tuple[int, int], float]]:
    """V and Q on the data's support by value iteration; None: the best of the data's actions."""
    v, q = np.zeros(4), {}
    for _ in range(300):
        q = {(s, a): r + (0.0 if end else GAMMA * v[t]) for s, a, r, t, end in ROWS}
        for state in range(3):
            values = [q[s, a] for s, a, *_ in ROWS if s == state]
            v[state] = max(values) if tau is None else expectile_of(values, tau)
    return v, q


def test_exact_expectile_values_come_to_the_best_of_the_data() -> None:
    best, _ = exact(None)
    gaps = [np.abs(exact(tau)[0] - best).max() for tau in (0.5, 0.7, 0.9, 0.99, 0.999, 0.9999)]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[0] > 0.5
    assert gaps[-1] < 1e-3


@cache
def learned(tau: float) -> IQL:
    settings = {"learning_rate": 1e-2, "tau": 0.1, "temperature": 5.0}
    return agent_of(data_of(ROWS), expectile=tau, **settings).learn(700)


@pytest.mark.parametrize("tau", [0.5, 0.9])
def test_values_are_those_of_dynamic_programming(tau: float) -> None:
    """Batches are of the data's shares, so that V is the expectile over what the data do in a state."""
    v, q = exact(tau)
    agent = learned(tau)
    found = agent.values(torch.arange(3)).numpy()
    assert np.abs(found - v[:3]).max() < 0.1
    pairs = torch.tensor(sorted(q))
    expected = [q[s, a] for s, a in sorted(q)]
    assert agent.q_values(pairs[:, 0], pairs[:, 1]).tolist() == pytest.approx(expected, abs=0.12)


def test_as_the_expectile_comes_to_1_values_come_to_the_best_of_the_data() -> None:
    """And the policy to who takes those; what nobody took, and might be thought of as better, it does not."""
    best, q = exact(None)
    gaps = [np.abs(learned(tau).values(torch.arange(3)).numpy() - best[:3]).max() for tau in (0.5, 0.9, 0.99)]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[0] > 0.4
    assert gaps[-1] < 0.15
    choice = [max((a for s, a in q if s == state), key=lambda a: q[state, a]) for state in range(3)]
    agent = learned(0.99)
    assert agent.act(torch.arange(3), deterministic=True).tolist() == choice
    for state, action in ((0, 2), (2, 0)):
        assert float(step_log_probs(agent, torch.tensor([state]), torch.tensor([action]))) < math.log(0.01)


def test_the_policy_is_the_weighted_data() -> None:
    """In one state with rewards known at once: pi(a) in proportion to count exp(beta (r - V)), cut at w."""
    rows = [(0, 0, 0.0, 1, True)] * 5 + [(0, 1, 1.0, 1, True)] * 2 + [(0, 2, 2.0, 1, True)]
    agent = agent_of(data_of(rows), expectile=0.5, temperature=1.0, largest_weight=2.0,
                     learning_rate=1e-2, tau=0.2, batch_size=256).learn(400)  # fmt: skip
    value = (5 * 0.0 + 2 * 1.0 + 2.0) / 8
    weights = np.array([5.0, 2.0, 1.0]) * np.minimum(np.exp(np.array([0.0, 1.0, 2.0]) - value), 2.0)
    found = step_log_probs(agent, torch.zeros(3, dtype=torch.int64), torch.arange(3)).exp().tolist()
    assert found == pytest.approx((weights / weights.sum()).tolist(), abs=0.04)


def test_a_cut_is_no_end() -> None:
    """A step that was cut bootstraps from its true successor; one that terminated does not."""
    loop = [(0, 0, 1.0, 0, False)]
    cut = data_of(loop, truncations=torch.ones(1, dtype=torch.bool), ends=torch.zeros(1, dtype=torch.bool))
    settings = {"learning_rate": 1e-2, "tau": 0.2, "gamma": 0.5, "batch_size": 4}
    found = [float(agent_of(data, **settings).learn(300).values(torch.zeros(1, dtype=torch.int64)))
             for data in (cut, data_of([(0, 0, 1.0, 0, True)]))]  # fmt: skip
    assert found == pytest.approx([2.0, 1.0], abs=0.05)


# What is refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"expectile": 0.0}, r"expectile is 0.0; it must lie in \(0, 1\)"),
        ({"expectile": 1.0}, r"expectile is 1.0; it must lie in \(0, 1\)"),
        ({"temperature": -1.0}, r"temperature is -1.0; it must not be negative"),
        ({"largest_weight": 0.0}, r"largest_weight is 0.0; it must be above 0"),
        ({"policy": "uniform"}, "policy is 'uniform'; it must be one of"),
        ({"tau": 0.0}, "tau is 0.0"),
    ],
)
def test_wrong_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        IQLConfig(**settings)


def test_infinite_losses_stop_the_run_with_advice() -> None:
    data = dataclasses.replace(box_data(), rewards=torch.full((40,), 1e30))
    with pytest.raises(FloatingPointError, match="rewards in a larger unit, may help"):
        agent_of(data).learn(20)
