"""People who choose: tables that agree with each other and with what is stepped, draws, refusals."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import prefrl.envs
from prefrl.tabular import TabularMDP, value_iteration

ID = "prefrl/DynamicChoice-v0"
assert prefrl.envs.REGISTRY


def made(**settings: Any) -> Any:
    return gym.make(ID, **settings).unwrapped


@pytest.mark.parametrize("value", ["policy", "logsumexp"])
def test_choices_and_rewards_fit_each_other(value: str) -> None:
    env = made(num_states=4, num_actions=3, horizon=4, layout_seed=2, gamma=0.7, value=value)
    q, p, r, policy = env.choice_values(), env.transitions(), env.rewards(), env.behaviour()
    np.testing.assert_allclose(p.sum(-1), 1.0)
    np.testing.assert_allclose(policy, np.exp(q) / np.exp(q).sum(-1, keepdims=True))
    assert (q[..., 0] == 0.0).all()
    values = np.zeros(4)
    for h in reversed(range(4)):
        np.testing.assert_allclose(q[h], r[h] + 0.7 * p @ values, atol=1e-12)
        values = (policy[h] * q[h]).sum(-1) if value == "policy" else np.log(np.exp(q[h]).sum(-1))
    assert env.reward_range() == (r.min(), r.max())


def test_values_and_the_tabular_model() -> None:
    env = made(layout_seed=1)
    assert (env.true_value(env.behaviour()) <= env.optimal_value() + 1e-12).all()
    mdp = TabularMDP.from_env(env)
    solved = value_iteration(mdp, mdp.linear_rewards(mdp.weights), 1.0)[0]
    np.testing.assert_allclose(solved[:5], env.optimal_value(), atol=1e-9)
    assert mdp.terminal[0].tolist() == [False] * 15 + [True] * 5


def test_episodes_pay_and_move_as_the_tables_say() -> None:
    envs = gym.make_vec(ID, num_envs=20_000, layout_seed=4)
    env, rng = made(layout_seed=4), np.random.default_rng(0)
    obs, _ = envs.reset(seed=0)
    for h in range(3):
        assert obs.min() >= 5 * h
        assert obs.max() < 5 * (h + 1)
        actions = rng.integers(3, size=len(obs))
        following, rewards, terminated, *_ = envs.step(actions)
        np.testing.assert_allclose(rewards, env.rewards()[h, obs % 5, actions], atol=1e-6)
        counts = np.zeros((5, 3, 5))
        np.add.at(counts, (obs % 5, actions, following % 5), 1.0)
        seen = counts.sum(-1, keepdims=True)
        assert np.abs(counts / seen - env.transitions()).max() < 5.0 * np.sqrt(0.25 / seen.min())
        assert terminated.all() == (h == 2)
        obs = following


def test_a_start_by_name_and_one_state() -> None:
    env = made()
    assert env.reset(seed=0, options={"state": 3})[0] == 3
    lonely = made(num_states=1, horizon=2)
    lonely.reset(seed=0)
    assert [lonely.step(1)[0], lonely.step(0)[2]] == [1, True]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_actions": 1}, "num_actions is 1; a choice needs at least 2"),
        ({"gamma": 1.5}, r"gamma is 1.5; it must lie in \[0, 1\]"),
        ({"value": "mean"}, "value is 'mean'; allowed are"),
        ({"horizon": 0}, "horizon"),
        ({"layout_seed": -1}, "layout_seed is -1"),
    ],
)
def test_refused_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(**settings)


def test_refused_calls() -> None:
    env = made()
    with pytest.raises(ValueError, match="state is 5; it must be a whole number from 0 to 4"):
        env.reset(options={"state": 5})
    with pytest.raises(ValueError, match=r"policy has shape \(3, 5\)"):
        env.true_value(np.ones((3, 5)))
