"""The boards: what can be reached, by exact solutions."""

import gymnasium as gym
import numpy as np
import pytest

import prefrl.envs
from prefrl.functional.returns.objectives import MEAN
from prefrl.functional.returns.stock_problems import StockProblem
from prefrl.tabular.return_distributions import solve
from prefrl.tabular.stock_lattice import FiniteHorizon


def walk(env, actions):
    env.reset(seed=0)
    return [env.step(action) for action in actions][-1]


@pytest.mark.parametrize(("actions", "goal"), [([2] * 3, 0), ([0] * 3, 1), ([3] * 3, 2)])
def test_three_goals_are_equally_far(actions, goal):
    _, reward, terminated, _, info = walk(gym.make("prefrl/ThreeGoals-v0"), actions)
    assert (reward, terminated) == (1.0, True)
    assert info["reward_vector"].tolist() == [1.0, *np.eye(3)[goal].tolist()]


def test_no_goal_is_reached_by_staying():
    _, reward, terminated, _, info = walk(gym.make("prefrl/ThreeGoals-v0"), [1] * 12)
    assert (reward, terminated) == (0.0, True)
    assert not info["reward_vector"].any()


def test_the_most_that_a_meadow_gives():
    env = gym.make("prefrl/Meadow-v0")
    model = FiniteHorizon.of_model(env.unwrapped.horizon_model(), gamma=1.0)
    best = solve(model, StockProblem(MEAN), initial_stocks=[0.0]).value
    assert best == pytest.approx(15.0)
    _, _, terminated, _, info = walk(env, [3, 3] + [1] * 14)
    assert terminated
    assert info["reward_vector"].tolist() == [1.0, 1.0]
    assert "prefrl/Meadow-v0" in prefrl.envs.REGISTRY
