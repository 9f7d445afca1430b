"""Evaluation by episodes and by the exact model."""

import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch

from prefrl.agents import QLearning
from prefrl.run.evaluate import evaluate, scaled_return

ENV = "prefrl/Delivery-v0"


def optimal_agent() -> QLearning:
    env = gym.make(ENV)
    agent = QLearning(env, device="cpu")
    model, value = env.unwrapped.tabular_model(), env.unwrapped.optimal_value(0.999)
    agent.q.copy_(
        torch.tensor((model.probabilities * (model.rewards + 0.999 * value[model.successors])).sum(-1))
    )
    return agent


def test_scaled_return_of_known_policies() -> None:
    agent, env = optimal_agent(), gym.make(ENV)
    assert scaled_return(agent, env) == pytest.approx(1.0, abs=1e-12)
    agent.q.zero_()
    agent.q[:, 3] = 1.0  # always right: into walls and sheep
    model = env.unwrapped.tabular_model()
    value = env.unwrapped.true_value(np.tile([0.0, 0.0, 0.0, 1.0], (100, 1)), 0.999)
    expected = (model.start @ value + 71.25738281279433) / (41.20794768831405 + 71.25738281279433)
    assert scaled_return(agent, env) == pytest.approx(expected, abs=1e-9)
    assert expected < 0


def test_scaled_return_is_none_where_the_model_is_unknown_or_nothing_matters() -> None:
    lake = gym.make("FrozenLake-v1")
    assert scaled_return(QLearning(lake, device="cpu"), lake) is None

    class Indifferent(gym.Wrapper):  # type: ignore[type-arg]
        @property
        def unwrapped(self):
            return self

        def tabular_model(self):
            import dataclasses

            model = self.env.unwrapped.tabular_model()
            return dataclasses.replace(model, weights=np.zeros_like(model.weights))

    assert scaled_return(optimal_agent(), Indifferent(gym.make(ENV))) is None


def test_episodes_of_the_optimal_policy() -> None:
    agent = optimal_agent()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first = evaluate(agent, gym.make(ENV), episodes=200, seed=0)
    assert first == evaluate(agent, gym.make(ENV), episodes=200, seed=0)
    assert first != evaluate(agent, gym.make(ENV), episodes=200, seed=1)
    assert first["episodes"] == 200
    expected = (
        gym.make(ENV).unwrapped.optimal_value(1.0)[gym.make(ENV).unwrapped.tabular_model().start > 0].mean()
    )
    assert first["mean_return"] == pytest.approx(expected, abs=4 * first["std_return"] / 200**0.5)
    assert 5 < first["mean_length"] < 15
    with pytest.raises(ValueError, match="episodes is 0"):
        evaluate(agent, gym.make(ENV), episodes=0, seed=0)
