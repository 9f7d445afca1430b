"""Rewards replaced by a function of the transition, as by a learned one: scalar, vector, on a device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import array_api_compat
import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

from prefrl.envs.core.backend import Array


class ReplaceReward(gym.Wrapper[Any, Any, Any, Any], gym.utils.RecordConstructorArgs):
    """Replace the reward by a function of the transition; the true one is kept in ``info["true_reward"]``.

    With an agent's learned reward, any Stable-Baselines3 algorithm trains on it::

        env = ReplaceReward(gym.make("prefrl/Delivery-v0"), agent.reward)

    Args:
        env: the environment.
        reward: called with (obs, action, next_obs), returns a finite number.
    """

    def __init__(self, env: gym.Env[Any, Any], reward: Callable[[Any, Any, Any], float]) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, reward=reward, _disable_deepcopy=True)
        super().__init__(env)
        self._reward = reward
        self._obs: Any = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode; see ``gymnasium.Env.reset``."""
        self._obs, info = self.env.reset(seed=seed, options=options)
        return self._obs, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Advance by one step; see ``gymnasium.Env.step``."""
        next_obs, true_reward, terminated, truncated, info = self.env.step(action)
        reward = float(self._reward(self._obs, action, next_obs))
        self._obs = next_obs
        return next_obs, reward, terminated, truncated, {**info, "true_reward": true_reward}


class VectorReplaceReward(gym.vector.VectorWrapper):
    """Replace the rewards of all rows by a function of the transitions; ``infos["true_reward"]`` keeps them.

    Successors are the true ones, in every autoreset mode; rows that pause after an end (NEXT_STEP) get 0.

    Args:
        env: the vector environment.
        reward: called with (obs, actions, next_obs) of all rows, returns rewards [n] of the environment's own
            kind of array. A ``prefrl.preferences.RewardModel`` offers ``rewards`` for environments on its
            device, and ``numpy_rewards`` for those on the host.

    Raises:
        ValueError: at a step, if the rewards are not one number for each row, or (on the host) not finite.
    """

    def __init__(
        self, env: gym.vector.VectorEnv[Any, Any, Any], reward: Callable[[Any, Any, Any], Any]
    ) -> None:
        super().__init__(env)
        self._reward = reward
        self._mode = AutoresetMode(env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP))
        self._obs: Any = None
        self._done: Any = None

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start episodes; see ``gymnasium.vector.VectorEnv.reset``."""
        mask = (options or {}).get("reset_mask")
        obs, infos = self.env.reset(seed=seed, options=options)  # type: ignore[arg-type]
        self._obs = obs
        if mask is None:
            self._done = None
        return obs, infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Advance all rows; see ``gymnasium.vector.VectorEnv.step``."""
        obs, true_rewards, terminations, truncations, infos = self.env.step(actions)
        rewards = self._replaced(actions, self._successors(obs, infos), true_rewards, terminations, infos)
        xp = array_api_compat.array_namespace(true_rewards)
        if tuple(rewards.shape) != tuple(true_rewards.shape):
            raise ValueError(f"the replaced rewards have shape {tuple(rewards.shape)}; they must be one for "
                             f"each of {self.num_envs} rows")  # fmt: skip
        if isinstance(rewards, np.ndarray) and not np.isfinite(rewards).all():
            raise ValueError(f"the replaced rewards are {rewards}; they must be finite")
        rewards = xp.astype(rewards, true_rewards.dtype)
        if self._mode is AutoresetMode.NEXT_STEP and self._done is not None:
            rewards = xp.where(self._done, xp.zeros_like(rewards), rewards)
        self._obs, self._done = obs, terminations | truncations
        return obs, rewards, terminations, truncations, {**infos, "true_reward": true_rewards}

    def _replaced(
        self, actions: Any, successors: Any, rewards: Any, terminations: Any, infos: dict[str, Any]
    ) -> Any:
        """Return what is paid instead."""
        return self._reward(self._obs, actions, successors)

    def _successors(self, obs: Any, infos: dict[str, Any]) -> Any:
        """Return the true successors of all rows."""
        if self._mode is not AutoresetMode.SAME_STEP or "final_obs" not in infos:
            return obs
        final, ended = infos["final_obs"], infos["_final_obs"]
        if not isinstance(obs, dict):
            return merged(obs, final, ended)
        if not isinstance(final, dict):  # Gymnasium's own: an object array, a dict for each row that ended
            final = {name: {row: final[row][name] for row in np.flatnonzero(ended)} for name in obs}
        return {name: merged(values, final[name], ended) for name, values in obs.items()}

    def state_dict(self) -> Any:
        """Return the environment's state and what the next reward depends on; None where it tells none."""
        inner = self.env if hasattr(self.env, "state_dict") else self.env.unwrapped
        state = inner.state_dict() if hasattr(inner, "state_dict") else None
        return None if state is None else {"env": state, "obs": self._obs, "done": self._done}

    def load_state_dict(self, state: Any) -> None:
        """Continue from what :meth:`state_dict` returned."""
        inner: Any = self.env if hasattr(self.env, "load_state_dict") else self.env.unwrapped
        inner.load_state_dict(state["env"])
        like = self._obs

        def restored(values: Any, known: Any) -> Any:
            if isinstance(values, dict):
                return {name: restored(part, known[name]) for name, part in values.items()}
            return np.asarray(values) if isinstance(known, np.ndarray) else values.to(known.device)

        sample = next(iter(like.values())) if isinstance(like, dict) else like
        self._obs = restored(state["obs"], like)
        self._done = None if state["done"] is None else restored(state["done"], sample)


def merged(values: Array, final: Any, ended: Array) -> Array:
    """Return values [n, ...], those of ``final`` where a row ended."""
    if isinstance(values, np.ndarray):
        changed = values.copy()
        for row in np.flatnonzero(ended):
            changed[row] = final[row]
        return changed
    xp = array_api_compat.array_namespace(values)
    return xp.where(ended.reshape((-1,) + (1,) * (values.ndim - 1)), final, values)
