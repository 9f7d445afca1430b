"""What is known of environments, checked against the environments themselves."""

import math
import re
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.envs.mujoco.hopper_v5 import HopperEnv
from gymnasium.wrappers import (
    FlattenObservation,
    NormalizeObservation,
    RescaleAction,
    TransformReward,
    vector,
)

import prefrl.envs
from prefrl.envs.classic_control.pendulum import PendulumDynamics
from prefrl.envs.core.scalar import ScalarEnv
from prefrl.envs.core.vector import BatchedEnv
from prefrl.envs.known_parts import KNOWN, known_parts_of

STEPS = 4000

MUJOCO: list[tuple[str, dict[str, Any], int]] = [
    ("Hopper-v5", {}, 100),
    ("Walker2d-v5", {}, 100),
    ("Ant-v5", {"include_cfrc_ext_in_observation": False}, 5),
    ("Humanoid-v5", {f"include_{name}_in_observation": False for name in
                     ("cinert", "cvel", "qfrc_actuator", "cfrc_ext")}, 100),
    ("InvertedPendulum-v5", {}, 300),
    ("InvertedDoublePendulum-v5", {}, 300),
]  # fmt: skip
"""Environments whose episodes end, and how many ends there are at least under random actions."""


def walk(env: gym.Env[Any, Any], steps: int) -> dict[str, Any]:
    """Random steps of an environment."""
    found: dict[str, list[Any]] = {
        name: [] for name in ("obs", "actions", "rewards", "next_obs", "terminations")
    }
    env.action_space.seed(0)
    obs, _ = env.reset(seed=0)
    for _ in range(steps):
        action = env.action_space.sample()
        next_obs, reward, terminated, truncated, _ = env.step(action)
        for name, value in zip(found, (obs, action, reward, next_obs, terminated), strict=True):
            found[name].append(value)
        obs = env.reset()[0] if terminated or truncated else next_obs
    return {name: np.array(values) for name, values in found.items()}


def make(env_id: str, **settings: Any) -> gym.Env[Any, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return gym.make(env_id, **settings)


@pytest.mark.parametrize(("env_id", "settings", "ends"), MUJOCO)
def test_episodes_end_where_the_table_says(env_id: str, settings: dict[str, Any], ends: int) -> None:
    env = make(env_id, **settings)
    steps = walk(env, STEPS)
    known = known_parts_of(env)
    assert steps["terminations"].sum() >= ends
    assert (known.termination(steps["next_obs"]) == steps["terminations"]).all()
    rounded = torch.as_tensor(steps["next_obs"], dtype=torch.float32)
    found = known.termination(rounded)
    assert found.dtype == torch.bool
    assert (found.numpy() != steps["terminations"]).sum() <= 1  # at the bound itself float32 may be beyond it


@pytest.mark.parametrize("env_id", ["HalfCheetah-v5", "Swimmer-v5", "Pusher-v5", "Reacher-v5", "Pendulum-v1"])
def test_episodes_that_never_end(env_id: str) -> None:
    env = make(env_id)
    steps = walk(env, 300)
    assert not steps["terminations"].any()
    assert not known_parts_of(env).termination(steps["next_obs"]).any()


@pytest.mark.parametrize(("env_id", "settings"), [
    ("Hopper-v5", {"exclude_current_positions_from_observation": False}),
    ("Walker2d-v5", {"exclude_current_positions_from_observation": False}),
    ("Ant-v5", {"exclude_current_positions_from_observation": False}),
    ("Humanoid-v5", {"exclude_current_positions_from_observation": False}),
    ("Hopper-v5", {"healthy_z_range": (1.1, 1.3), "healthy_angle_range": (-0.05, 0.1)}),
    ("Hopper-v5", {"healthy_state_range": (-1.5, 1.5)}),
    ("Walker2d-v5", {"healthy_z_range": (1.2, 1.3)}),
    ("Ant-v5", {"healthy_z_range": (0.5, 0.8)}),
    ("Hopper-v5", {"terminate_when_unhealthy": False}),
    ("Ant-v5", {"terminate_when_unhealthy": False}),
])  # fmt: skip
def test_arguments_of_the_environment_count(env_id: str, settings: dict[str, Any]) -> None:
    env = make(env_id, **settings)
    steps = walk(env, 400)
    if "healthy_state_range" in settings:  # the environment looks at speeds before they are cut to 10
        settings = {}
    assert (known_parts_of(env).termination(steps["next_obs"]) == steps["terminations"]).all()
    assert steps["terminations"].any() == (settings.get("terminate_when_unhealthy", True))


@pytest.mark.parametrize("env_id", [
    "Pendulum-v1", "prefrl/Pendulum-v0", "InvertedPendulum-v5", "MountainCarContinuous-v0",
    "prefrl/MountainCarContinuous-v0",
])  # fmt: skip
def test_known_rewards(env_id: str) -> None:
    env = make(env_id)
    steps = walk(env, 400)
    known = known_parts_of(env)
    assert known.reward is not None
    found = known.reward(steps["obs"], steps["actions"], steps["next_obs"])
    np.testing.assert_allclose(found, steps["rewards"], atol=1e-4)
    tensors = (torch.as_tensor(steps[name], dtype=torch.float32) for name in ("obs", "actions", "next_obs"))
    np.testing.assert_allclose(known.reward(*tensors), steps["rewards"], atol=1e-4)


def test_the_goal_of_the_mountain_car_is_known() -> None:
    known = known_parts_of(make("MountainCarContinuous-v0"))
    there = np.array([[0.46, 0.01], [0.46, -0.01], [0.44, 0.01]])
    assert known.termination(there).tolist() == [True, False, False]
    faster = known_parts_of(make("MountainCarContinuous-v0", goal_velocity=0.02))
    assert not faster.termination(there).any()
    assert known.reward is not None
    assert known.reward(there, np.full((3, 1), 0.5), there) == pytest.approx([99.975, -0.025, -0.025])


def test_predictions_of_a_pendulum_are_put_back_on_the_circle() -> None:
    project = known_parts_of(make("Pendulum-v1")).project
    assert project is not None
    found = project(torch.tensor([[3.0, 4.0, 9.0], [0.0, 0.0, -1.0]]))
    torch.testing.assert_close(found, torch.tensor([[0.6, 0.8, 8.0], [0.0, 0.0, -1.0]]))
    beside = project(torch.tensor([[3.0, 4.0, 9.0, 70.0]]))
    assert beside[0, 3] == 70.0


def test_numbers_that_are_none_end_an_episode() -> None:
    for env_id in ("Hopper-v5", "Walker2d-v5", "Ant-v5", "Humanoid-v5", "InvertedPendulum-v5"):
        env = make(env_id)
        obs, _ = env.reset(seed=0)
        rows = np.stack([obs, obs])
        rows[1, -1] = np.nan
        assert known_parts_of(env).termination(rows).tolist() == [False, True]


def test_on_device_and_vector_environments_are_known_too() -> None:
    env = prefrl.envs.make_device("prefrl/Pendulum-v0", 3)
    assert known_parts_of(env).reward is not None
    rows = gym.make_vec("Hopper-v5", 2, vectorization_mode="sync")
    obs, _ = rows.reset(seed=0)
    assert not known_parts_of(rows).termination(obs).any()


def test_wrappers_of_actions_hide_the_reward_only() -> None:
    env = RescaleAction(make("Pendulum-v1"), -1.0, 1.0)
    assert known_parts_of(env).reward is None
    assert known_parts_of(gym.make("prefrl/Distracted-v0", env_id="Pendulum-v1")).reward is not None


def test_wrappers_of_vector_environments_count_too() -> None:
    rows = gym.make_vec("Pendulum-v1", 2, vectorization_mode="sync")
    assert known_parts_of(vector.RecordEpisodeStatistics(rows)).reward is not None
    assert known_parts_of(vector.RescaleAction(rows, -1.0, 1.0)).reward is None
    with pytest.raises(ValueError, match=r"NormalizeObservation may have changed .*; give termination="):
        known_parts_of(vector.NormalizeObservation(rows))


@pytest.mark.parametrize("wrapper", [NormalizeObservation, FlattenObservation])
def test_refuses_what_a_wrapper_made_of_observations(wrapper: Any) -> None:
    with pytest.raises(ValueError, match=f"{wrapper.__name__} may have changed .*; give termination="):
        known_parts_of(wrapper(make("Hopper-v5")))


def test_wrappers_of_rewards_hide_the_reward_only() -> None:
    scaled = TransformReward(make("Pendulum-v1"), lambda reward: 0.1 * reward)
    assert known_parts_of(scaled).reward is None
    rows = gym.make_vec("Pendulum-v1", 2, vectorization_mode="sync")
    assert known_parts_of(vector.TransformReward(rows, lambda rewards: 0.1 * rewards)).reward is None


class Endless(HopperEnv):
    """Hopper whose episodes do not end when it falls."""

    def step(self, action: Any) -> Any:
        obs, reward, _, truncated, info = super().step(action)
        return obs, reward, False, truncated, info


class Elsewhere(HopperEnv):
    """Hopper with other ranges and starts, which the rule reads."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(healthy_z_range=(0.9, math.inf), **arguments)

    def reset_model(self) -> Any:
        return super().reset_model()


def test_a_class_that_changes_the_rule_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Endless changes step of HopperEnv.*give termination="):
        known_parts_of(Endless())
    standing = np.zeros((2, 11))
    standing[:, 0] = 1.25, 0.8
    assert known_parts_of(Elsewhere()).termination(standing).tolist() == [False, True]


class Longer(PendulumDynamics):
    """A pendulum whose reward is another."""

    def step(self, state: Any, actions: Any, noise: Any) -> Any:
        following, rewards, terminated = super().step(state, actions, noise)
        return following, 2.0 * rewards, terminated


class Unseen(PendulumDynamics):
    """A pendulum with another start and picture."""

    def initial(self, noise: Any, options: Any = None) -> Any:
        return super().initial(noise, {"x_init": 0.1})

    def draw(self, state: Any, index: int, last_action: Any) -> Any:
        return np.zeros((2, 2, 3), np.uint8)


class Ending(ScalarEnv):
    """A face that ends episodes."""

    def step(self, action: Any) -> Any:
        return (*super().step(action)[:2], True, False, {})


def test_a_dynamics_or_a_face_that_changes_the_rule_is_refused() -> None:
    for env in (ScalarEnv(Longer), BatchedEnv(Longer, 2)):
        with pytest.raises(ValueError, match=r"Longer changes step of PendulumDynamics.*give termination="):
            known_parts_of(env)
    with pytest.raises(ValueError, match=r"Ending changes step of ScalarEnv.*give termination="):
        known_parts_of(Ending(PendulumDynamics))
    assert known_parts_of(BatchedEnv(Unseen, 2)).reward is not None
    with pytest.raises(ValueError, match=r"cart_pole\.CartPoleDynamics ends; known are .*, Pendulum, "):
        known_parts_of(gym.make("prefrl/CartPole-v0"))


def test_refuses_unknown_environments_and_layouts() -> None:
    with pytest.raises(ValueError, match=r"cartpole\.CartPoleEnv ends; known are Ant-v5.*Hopper-v5"):
        known_parts_of(make("CartPole-v1"))
    with pytest.raises(ValueError, match=r"hopper_v4\.HopperEnv ends"):
        known_parts_of(make("Hopper-v4"))
    hopper = make("Hopper-v5")
    hopper.unwrapped.observation_structure = {"skipped_qpos": 3, "qpos": 3, "qvel": 6}  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=re.escape("observation_structure is {'skipped_qpos': 3")):
        known_parts_of(hopper)


def test_every_entry_of_the_table_names_a_class() -> None:
    for name in KNOWN:
        module, _, kind = name.partition(":")
        assert hasattr(__import__(module, fromlist=[kind]), kind)
