"""Wrappers for vector environments, on the host or on a device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import array_api_compat
import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from .backend import Array


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
        rewards = self._reward(self._obs, actions, self._successors(obs, infos))
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

    def _successors(self, obs: Any, infos: dict[str, Any]) -> Any:
        """Return the true successors of all rows."""
        if self._mode is not AutoresetMode.SAME_STEP or "final_obs" not in infos:
            return obs
        final, ended = infos["final_obs"], infos["_final_obs"]
        if not isinstance(obs, dict):
            return _merged(obs, final, ended)
        if not isinstance(final, dict):  # Gymnasium's own: an object array, a dict for each row that ended
            final = {name: {row: final[row][name] for row in np.flatnonzero(ended)} for name in obs}
        return {name: _merged(values, final[name], ended) for name, values in obs.items()}

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


def _merged(values: Array, final: Any, ended: Array) -> Array:
    """Return values [n, ...], those of ``final`` where a row ended."""
    if isinstance(values, np.ndarray):
        merged = values.copy()
        for row in np.flatnonzero(ended):
            merged[row] = final[row]
        return merged
    xp = array_api_compat.array_namespace(values)
    return xp.where(ended.reshape((-1,) + (1,) * (values.ndim - 1)), final, values)


class AgentsAsRows(gym.vector.VectorEnv[Any, Any, Any]):
    """Every agent of a multi-agent environment as a row of its own, for one policy that all of them share.

    Row i of the environment becomes rows i K to i K + K - 1. A row observes, does and is told what is its
    agent's: of the environment's observation its part, of ``info["agent_factors"]`` its factors. The reward
    is the environment's, which is the agents' mean.

    Args:
        env: a vector environment with ``num_agents``, ``agent_observation_space`` and ``agent_action_space``
            whose observations and actions are those of its agents one after the other.

    Raises:
        TypeError: if it has no agents.
    """

    def __init__(self, env: Any) -> None:
        inner = env.unwrapped
        if not hasattr(inner, "num_agents"):
            raise TypeError(f"AgentsAsRows takes environments of several agents; {env} has no num_agents")
        self.env = env
        self.num_agents = int(inner.num_agents)
        self.num_envs = env.num_envs * self.num_agents
        self.metadata = env.metadata
        self.render_mode = getattr(env, "render_mode", None)
        self.single_observation_space = inner.agent_observation_space
        self.single_action_space = inner.agent_action_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.factor_names, self.factor_signs = inner.factor_names, inner.factor_signs

    @property
    def unwrapped(self) -> Any:
        """This: what lies below has other rows."""
        return self

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start episodes; a ``reset_mask`` is of the agents' rows, those of an environment alike."""
        options = dict(options or {})
        mask = options.get("reset_mask")
        if mask is not None:
            options["reset_mask"] = mask[:: self.num_agents]
        obs, infos = self.env.reset(seed=seed, options=options or None)
        return self._split(obs), self._infos(infos)

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Advance all rows; see ``gymnasium.vector.VectorEnv.step``."""
        joint = actions.reshape(self.env.num_envs, self.num_agents)
        obs, rewards, terminations, truncations, infos = self.env.step(joint)
        ended, cut = self._each(terminations), self._each(truncations)
        return self._split(obs), self._each(rewards), ended, cut, self._infos(infos)

    def _split(self, obs: Any) -> Any:
        return obs.reshape(self.num_envs, *(self.single_observation_space.shape or ()))

    def _each(self, values: Array) -> Array:
        """Return an environment's numbers [n] for each of its agents [n K]."""
        xp = array_api_compat.array_namespace(values)
        return xp.repeat(values, self.num_agents)

    def _infos(self, infos: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if "agent_factors" in infos:
            factors = infos["agent_factors"]
            found["factors"] = factors.reshape(self.num_envs, factors.shape[-1])
        if "final_obs" in infos:
            found["final_obs"] = self._split(infos["final_obs"])
            found["_final_obs"] = self._each(infos["_final_obs"])
        if "final_info" in infos:
            found["final_info"] = self._infos(infos["final_info"])
            found["_final_info"] = self._each(infos["_final_info"])
        return found

    def render(self) -> Any:
        """Return the environment's pictures."""
        return self.env.render()

    def close_extras(self, **kwargs: Any) -> None:
        """Close the environment."""
        self.env.close()

    def state_dict(self) -> dict[str, Any]:
        """Return the environment's state."""
        state: dict[str, Any] = self.env.unwrapped.state_dict()
        return state

    def load_state_dict(self, state: Any) -> None:
        """Continue from what :meth:`state_dict` returned."""
        self.env.unwrapped.load_state_dict(state)
