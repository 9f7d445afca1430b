"""What is said of a policy of soft values: success in a number of steps, None where nothing is known."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import prefrl.envs
from prefrl import OREO, OREOConfig
from prefrl.run.outcomes.soft_values import soft_outcome, success_rate
from prefrl.tabular import TabularMDP

assert prefrl.envs.REGISTRY


def test_success_within_a_number_of_steps() -> None:
    # From 0 the policy stays or goes on, evenly; from 1 it reaches the end. The reward is what is counted.
    table = np.zeros((3, 2, 3))
    table[0, 0, 0] = table[0, 1, 1] = 1.0
    table[1:, :, 2] = 1.0
    mdp = TabularMDP.from_arrays(table, [[0, 0], [1, 1], [0, 0]], [1, 0, 0], [False, False, True])
    even = torch.full((3, 2), 0.5, dtype=torch.float64)
    found = [success_rate(mdp, even, 0, steps) for steps in (1, 2, 3, 4)]
    assert found == pytest.approx([0.0, 0.5, 0.75, 0.875], abs=1e-15)


def untrained(env: Any, **settings: Any) -> dict[str, Any]:
    agent = OREO(env, OREOConfig(**settings), device="cpu")
    agent.reference = agent._update.weights.vector.detach().clone()
    return soft_outcome(agent, env)


def test_what_is_known() -> None:
    tree = gym.make("prefrl/TokenTree-v0")
    found = untrained(tree, beta=0.03)
    assert found["optimal_value"] == pytest.approx(tree.unwrapped.optimal_value()[[0, 121]].mean())  # type: ignore[attr-defined]
    optimum = tree.unwrapped.soft_optimum(0.03).policy  # type: ignore[attr-defined]
    assert found["policy_error"] == pytest.approx(abs(optimum - 1 / 3).max())
    assert "success_rate" not in found
    board = gym.make("prefrl/Delivery-v0", max_episode_steps=20)
    found = untrained(board, beta=1.0)
    assert found["optimal_value"] == pytest.approx(41.20794768831405)
    up = np.eye(4)[np.zeros(100, dtype=int)]  # the first of equally likely actions
    mdp = TabularMDP.from_env(board)
    assert found["success_rate"] == pytest.approx(success_rate(mdp, torch.as_tensor(up), 1, 20))
    assert 0.0 < found["success_rate"] < 0.2
    poles = untrained(gym.make("prefrl/CartPole-v0"))
    assert poles == {"optimal_value": None, "policy_error": None}
