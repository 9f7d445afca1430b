"""Wrappers for any Gymnasium environment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym


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
