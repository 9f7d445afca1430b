"""SB3's own algorithms on learned rewards: they train, save, load and go on."""

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3
import torch
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.vec_env import DummyVecEnv

from prefrl.envs import ReplaceReward
from prefrl.preferences import RewardModel
from prefrl.preferences.vec_env import LearnedRewardVecEnv, relabel_replay_buffer

KINDS = {
    "PPO": ("Pendulum-v1", {"n_steps": 16, "batch_size": 16, "n_epochs": 1}),
    "SAC": ("Pendulum-v1", {"learning_starts": 10, "batch_size": 8, "buffer_size": 100}),
    "TD3": ("Pendulum-v1", {"learning_starts": 10, "batch_size": 8, "buffer_size": 100}),
    "DQN": ("CartPole-v1", {"learning_starts": 10, "batch_size": 8, "buffer_size": 100}),
}


def small():
    """Made anew for each algorithm, which writes into it."""
    return {"policy_kwargs": {"net_arch": [8]}, "device": "cpu", "seed": 0}


def rows(env_id, n=2, limit=7):
    return DummyVecEnv([lambda: gym.make(env_id, max_episode_steps=limit)] * n)


def model_for(venv):
    return RewardModel(venv.observation_space, venv.action_space)


@pytest.mark.parametrize("kind", list(KINDS))
def test_trains_saves_loads_and_goes_on(kind, tmp_path):
    env_id, settings = KINDS[kind]
    venv = rows(env_id)
    rewards = model_for(venv)
    algorithm = getattr(stable_baselines3, kind)
    model = algorithm("MlpPolicy", LearnedRewardVecEnv(venv, rewards.numpy_rewards), **settings, **small())
    model.learn(64)
    model.save(tmp_path / "policy.zip")
    rewards.save(tmp_path / "reward.pt")
    again = RewardModel.load(tmp_path / "reward.pt", observation_space=venv.observation_space)
    env = LearnedRewardVecEnv(rows(env_id), again.numpy_rewards)
    restored = algorithm.load(tmp_path / "policy.zip", env=env, device="cpu")
    restored.learn(64, reset_num_timesteps=False)
    assert restored.num_timesteps == 128
    env.reset()
    actions = np.stack([env.action_space.sample() for _ in range(2)])
    paid = [env.step(actions) for _ in range(7)][-1]
    assert paid[1].dtype == np.float32
    assert all("true_reward" in info for info in paid[3])


def test_rewards_are_of_the_true_successor():
    """At an end the reward is of the last observation, not of the next episode's first."""
    venv, seen = rows("Pendulum-v1", limit=3), []

    def reward(obs, actions, next_obs):
        seen.append((obs.copy(), actions.copy(), next_obs.copy()))
        return np.arange(2.0)

    env = LearnedRewardVecEnv(venv, reward)
    obs = env.reset()
    for t in range(4):
        actions = np.full((2, 1), 0.1 * t, dtype=np.float32)
        following, rewards, dones, infos = env.step(actions)
        was, did, after = seen[-1]
        np.testing.assert_array_equal(was, obs)
        np.testing.assert_array_equal(did, actions)
        last = np.stack([info["terminal_observation"] for info in infos]) if dones.any() else following
        np.testing.assert_array_equal(after, last)
        assert rewards.tolist() == [0.0, 1.0]
        assert dones.all() == (t == 2)
        obs = following


@pytest.mark.parametrize("wrong", [np.zeros(3), np.array([0.0, np.nan])])
def test_wrong_rewards_are_refused(wrong):
    env = LearnedRewardVecEnv(rows("Pendulum-v1"), lambda *_: wrong)
    env.reset()
    with pytest.raises(ValueError, match="they must be 2 finite numbers"):
        env.step(np.zeros((2, 1), dtype=np.float32))


@pytest.mark.parametrize("kind", ["SAC", "DQN"])
def test_a_replay_buffer_is_relabelled(kind):
    env_id, settings = KINDS[kind]
    venv = rows(env_id)
    rewards = model_for(venv)
    env = LearnedRewardVecEnv(venv, rewards.numpy_rewards)
    model = getattr(stable_baselines3, kind)("MlpPolicy", env, **settings, **small())
    model.learn(30)
    buffer, filled = model.replay_buffer, model.replay_buffer.pos
    paid = buffer.rewards[:filled].copy()
    relabel_replay_buffer(buffer, rewards.numpy_rewards, chunk=4)
    np.testing.assert_allclose(buffer.rewards[:filled], paid, atol=1e-5)
    relabel_replay_buffer(buffer, lambda obs, actions, next_obs: np.full(len(obs), 7.0))
    assert (buffer.rewards[:filled] == 7.0).all()
    assert (buffer.rewards[filled:] == 0.0).all()


def test_other_buffers_are_refused():
    space = gym.spaces.Box(-1.0, 1.0, (1,))
    compact = ReplayBuffer(10, space, space, optimize_memory_usage=True, handle_timeout_termination=False)
    with pytest.raises(TypeError, match="must be an SB3 ReplayBuffer without optimize_memory_usage"):
        relabel_replay_buffer(compact, lambda *_: 0.0)


def test_scalar_environments_take_the_model_too():
    env = gym.make("Pendulum-v1")
    model = RewardModel(env.observation_space, env.action_space)
    wrapped = ReplaceReward(env, model.reward)
    obs, _ = wrapped.reset(seed=0)
    action = np.array([0.5], dtype=np.float32)
    _, reward, *_, info = wrapped.step(action)
    wanted = model.rewards(torch.as_tensor(obs[None]), torch.as_tensor(action[None]))
    assert reward == pytest.approx(float(wanted[0]), abs=1e-6)
    assert info["true_reward"] < 0.0


class Picture(gym.Env):
    """Shows its number of steps as a grey picture with one coloured corner."""

    observation_space = gym.spaces.Box(0, 255, (36, 36, 3), np.uint8)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.picture(), {}

    def picture(self):
        shown = np.full((36, 36, 3), 5 * self.steps, dtype=np.uint8)
        shown[:9, :5, 1] = 255
        return shown

    def step(self, action):
        self.steps += 1
        return self.picture(), 0.0, False, self.steps == 9, {}


def test_pictures_that_sb3_turned_are_turned_back():
    venv = DummyVecEnv([Picture])
    rewards = model_for(venv)
    env = LearnedRewardVecEnv(venv, rewards.numpy_rewards)
    settings = {"learning_starts": 100, "buffer_size": 50}
    model = stable_baselines3.DQN("CnnPolicy", env, **settings, device="cpu", seed=0)
    model.learn(20)
    buffer = model.replay_buffer
    paid = buffer.rewards[: buffer.pos].copy()
    relabel_replay_buffer(buffer, rewards.numpy_rewards, observation_space=venv.observation_space)
    np.testing.assert_allclose(buffer.rewards[: buffer.pos], paid, atol=1e-6)
    with pytest.raises(ValueError, match=r"pictures have shape \(3, 36, 36\); the space has \(36, 36, 3\)"):
        relabel_replay_buffer(buffer, rewards.numpy_rewards)
