import copy

import gymnasium as gym
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3 import DQN

import prefrl.envs
from prefrl.envs.wrappers.rewards import ReplaceReward


def cell_number(obs, action, next_obs):
    return 100.0 * obs + 10.0 * action + next_obs / 100.0


def test_the_reward_is_replaced_and_the_true_one_is_kept():
    env = ReplaceReward(gym.make("prefrl/Delivery-v0"), cell_number)
    obs, _ = env.reset(seed=0, options={"cell": (0, 0)})
    assert obs == 0
    next_obs, reward, _, _, info = env.step(1)
    assert (next_obs, reward, info["true_reward"]) == (10, 10.1, -1.0)
    _, reward, _, _, info = env.step(3)  # from the cell reached, not from the start
    assert (reward, info["true_reward"]) == (1030.11, -1.0)


def test_the_wrapped_environment_passes_the_checker_and_trains_sb3():
    env = ReplaceReward(gym.make("prefrl/RandomGrid-v0"), lambda obs, action, next_obs: -1.0)
    check_env(env, skip_render_check=True)
    DQN("MlpPolicy", env, learning_starts=50, seed=0).learn(100)


@pytest.mark.parametrize("env_id", sorted(prefrl.envs.REGISTRY))
def test_a_copied_environment_goes_on_by_itself(env_id):
    env = gym.make(env_id).unwrapped
    env.reset(seed=3)
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(4)]
    expected = _steps(copy.deepcopy(env), actions)
    assert _steps(env, actions) == expected


def _steps(env, actions):
    return [(str(obs), *rest) for obs, *rest in (env.step(action)[:3] for action in actions)]
