"""Learned rewards for Stable-Baselines3's own vector environments and replay buffers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from prefrl.data import map_obs

RewardFunction = Callable[[Any, Any, Any], Any]
"""Called with observations, actions and true next observations [n, ...], returns rewards [n], all numpy."""


class LearnedRewardVecEnv(VecEnvWrapper):
    """Replace the rewards of an SB3 vector environment; ``info["true_reward"]`` keeps the true ones.

    Any SB3 algorithm then trains on a learned reward::

        model = PPO("MlpPolicy", LearnedRewardVecEnv(venv, reward_model.numpy_rewards))

    A ``Monitor`` inside keeps account of the true return, a ``VecMonitor`` outside of the learned one.

    Args:
        venv: the vector environment.
        reward: what to pay, such as ``RewardModel.numpy_rewards``.

    Raises:
        ValueError: at a step, if the rewards are not one finite number for each row.
    """

    def __init__(self, venv: VecEnv, reward: RewardFunction) -> None:
        super().__init__(venv)
        self.reward = reward
        self._obs: Any = None
        self._actions: Any = None

    def reset(self) -> Any:
        """Start episodes in all rows."""
        self._obs = self.venv.reset()
        return self._obs

    def step_async(self, actions: Any) -> None:
        """Start a step."""
        self._actions = actions
        self.venv.step_async(actions)

    def step_wait(self) -> Any:
        """Finish a step; see ``stable_baselines3.common.vec_env.VecEnv``."""
        obs, true_rewards, dones, infos = self.venv.step_wait()
        following = obs
        if dones.any():  # what an ended row shows belongs to its next episode
            following = map_obs(np.array, obs)
            for row in np.flatnonzero(dones):
                last = infos[row]["terminal_observation"]
                if isinstance(following, dict):
                    for name in following:
                        following[name][row] = last[name]
                else:
                    following[row] = last
        rewards = np.asarray(self.reward(self._obs, self._actions, following), dtype=np.float32)
        if rewards.shape != true_rewards.shape or not np.isfinite(rewards).all():
            raise ValueError(
                f"the learned rewards are {rewards}; they must be {len(true_rewards)} finite numbers"
            )
        for info, true_reward in zip(infos, true_rewards, strict=True):
            info["true_reward"] = float(true_reward)
        self._obs = obs
        return obs, rewards, dones, infos


def relabel_replay_buffer(
    buffer: ReplayBuffer,
    reward: RewardFunction,
    *,
    observation_space: gym.Space[Any] | None = None,
    chunk: int = 16_384,
) -> None:
    """Replace the rewards in the replay buffer of an SB3 algorithm, after a reward model has changed.

    Args:
        buffer: ``model.replay_buffer``.
        reward: what is paid now.
        observation_space: the environment's, needed for pictures with their channels last, which SB3 turns.
        chunk: transitions that are rewarded at once.

    Raises:
        TypeError: if it is no replay buffer, or one without next observations of its own.
    """
    if not isinstance(buffer, ReplayBuffer) or buffer.optimize_memory_usage:
        raise TypeError(f"buffer is a {type(buffer).__name__}; it must be an SB3 ReplayBuffer without "
                        "optimize_memory_usage")  # fmt: skip
    filled = buffer.buffer_size if buffer.full else buffer.pos
    steps = max(1, chunk // buffer.n_envs)
    for start in range(0, filled, steps):
        part = slice(start, min(start + steps, filled))
        flat = [map_obs(lambda values: values[part].reshape(-1, *values.shape[2:]), values)  # noqa: B023
                for values in (buffer.observations, buffer.actions, buffer.next_observations)]  # fmt: skip
        flat[0], flat[2] = (_as_observed(values, observation_space) for values in (flat[0], flat[2]))
        flat[1] = _unscaled(flat[1], buffer.action_space)
        buffer.rewards[part] = np.asarray(reward(*flat)).reshape(-1, buffer.n_envs)


def _as_observed(obs: Any, space: gym.Space[Any] | None) -> Any:
    """Return observations as the environment gives them: SB3 turns pictures."""
    if isinstance(obs, dict):
        return {
            name: _turned(values, None if space is None else space[name])  # type: ignore[index]
            for name, values in obs.items()
        }
    return _turned(obs, space)


def _turned(values: Any, space: gym.Space[Any] | None) -> Any:
    turned = space is not None and values.ndim == 4 and values.shape[1:] != space.shape
    return np.moveaxis(values, 1, -1) if turned else values


def _unscaled(actions: Any, space: gym.Space[Any]) -> Any:
    """Return actions as the environment takes them: SB3 keeps those of a Box scaled to [-1, 1]."""
    if isinstance(space, gym.spaces.Box):
        return space.low + 0.5 * (actions + 1.0) * (space.high - space.low)
    return actions[:, 0] if isinstance(space, gym.spaces.Discrete) else actions
