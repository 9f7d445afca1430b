"""Factors against the environments they are of."""

from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch

import prefrl.envs
from prefrl.envs.factors import ANT_RANGES, FACTORS, Factors, factors_of, register_factors

WEIGHTS = {
    "Pendulum-v1": [-1.0, -0.1, -0.001],
    "MountainCarContinuous-v0": [100.0, -0.1],
    "HalfCheetah-v5": [1.0, -0.1],
    "Hopper-v5": [1.0, 1.0, -1e-3],
}
"""What the environments' own rewards weigh the factors with."""


def steps(env_id, count=40):
    env = gym.make(env_id)
    obs, _ = env.reset(seed=0)
    env.action_space.seed(0)
    keys = factors_of(env).info_keys
    for _ in range(count):
        action = env.action_space.sample()
        following, reward, terminated, truncated, info = env.step(action)
        yield env, reward, SimpleNamespace(
            obs=obs[None].astype(np.float64), actions=action[None].astype(np.float64),
            next_obs=following[None],
            terminations=np.array([terminated]), infos={key: np.array([info[key]]) for key in keys},
        )  # fmt: skip
        obs = following if not (terminated or truncated) else env.reset()[0]


@pytest.mark.parametrize("env_id", list(WEIGHTS))
def test_rewards_are_weighted_sums_of_factors(env_id):
    for _, reward, step in steps(env_id):
        values = FACTORS[env_id].compute(step)
        assert float(values[0] @ np.array(WEIGHTS[env_id])) == pytest.approx(reward, abs=1e-3)


def test_ant_against_the_simulator():
    seen = []
    for env, _, step in steps("Ant-v5", 60):
        alive, forward, at_limit, contact = FACTORS["Ant-v5"].compute(step)[0]
        data = env.unwrapped.data
        np.testing.assert_allclose(env.unwrapped.model.jnt_range[1:], ANT_RANGES, atol=1e-9)
        share = (data.qpos[7:] - ANT_RANGES[:, 0]) / (ANT_RANGES[:, 1] - ANT_RANGES[:, 0])
        assert at_limit == ((share <= 0.01) | (share >= 0.99)).sum()
        assert alive == float(not step.terminations[0])
        assert forward == step.infos["x_velocity"][0]
        assert contact >= 0.0
        seen.append(at_limit)
    assert max(seen) > 0
    with pytest.raises(ValueError, match="observations have 27 numbers"):
        FACTORS["Ant-v5"].compute(SimpleNamespace(next_obs=np.zeros((1, 27))))


def test_tensors_and_arrays_give_the_same():
    step = SimpleNamespace(obs=np.random.default_rng(0).normal(size=(5, 3)), actions=np.ones((5, 1)))
    tensors = SimpleNamespace(obs=torch.as_tensor(step.obs), actions=torch.as_tensor(step.actions))
    np.testing.assert_allclose(FACTORS["Pendulum-v1"].compute(step), FACTORS["Pendulum-v1"].compute(tensors))


def test_where_factors_are_found():
    assert factors_of(gym.make("prefrl/Pendulum-v0")).names == FACTORS["Pendulum-v1"].names
    assert factors_of(prefrl.envs.make_device("prefrl/Pendulum-v0", 2)).names == FACTORS["Pendulum-v1"].names
    traffic = factors_of(gym.make("prefrl/TrafficGrid-v0"))
    assert traffic.info_keys == ("factors",)
    assert traffic.names[:2] == ("queue", "waiting_time")
    with pytest.raises(ValueError, match=r"CartPole-v1 has no factors; there are some for \['Ant-v5'"):
        factors_of(gym.make("CartPole-v1"))
    with pytest.raises(ValueError, match="has factors already"):
        register_factors("Ant-v5", FACTORS["Ant-v5"])


class Room(gym.Env):
    """An environment that tells its own factors."""

    observation_space = gym.spaces.Box(0.0, 1.0, (1,))
    action_space = gym.spaces.Discrete(2)
    factor_names, factor_signs = ("warmth", "cost"), (1, -1)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, dtype=np.float32), {"factors": np.zeros(2)}

    def step(self, action):
        told = {"factors": np.array([float(action), 2.0])}
        return np.zeros(1, dtype=np.float32), 0.0, False, False, told


def test_an_environment_tells_its_own_on_every_face():
    env = gym.vector.SyncVectorEnv([Room, Room])
    found = factors_of(env)
    assert (found.names, found.signs) == (("warmth", "cost"), (1, -1))
    env.reset()
    infos = env.step(np.array([0, 1]))[4]
    assert found.compute(SimpleNamespace(infos=infos)).tolist() == [[0.0, 2.0], [1.0, 2.0]]
    assert factors_of(Room()).names == found.names


def test_rankings_and_units():
    factors = FACTORS["Hopper-v5"]
    assert factors.ranked(("control", "alive")) == ([2, 1], [-1, 1])
    assert factors.ranked(()) == ([0, 1, 2], [1, 1, -1])
    with pytest.raises(ValueError, match=r"ranking holds 'speed'; the factors here are \['forward_velocity'"):
        factors.ranked(("speed",))
    with pytest.raises(ValueError, match="a factor can have one rank only"):
        factors.ranked(("alive", "alive"))
    pendulum = FACTORS["Pendulum-v1"]
    step = SimpleNamespace(obs=np.ones((1, 3)), actions=np.ones((1, 1)))
    scaled = pendulum.measured_in({"torque_squared": 1000.0}).compute(step)
    np.testing.assert_allclose(scaled, pendulum.compute(step) * np.array([1.0, 1.0, 1000.0]))
    for units in ({"mass": 1.0}, {"torque_squared": 0.0}):
        with pytest.raises(ValueError, match="factor" if "mass" in units else "must be positive"):
            pendulum.measured_in(units)
    for names, signs in (((), ()), (("a", "a"), (1, 1)), (("a",), (2,)), (("a",), (1, 1))):
        with pytest.raises(ValueError, match=r"factor names are|signs are"):
            Factors(names, signs, lambda step: step.obs)
