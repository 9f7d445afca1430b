"""Simulator states beside every step, so that pictures of it can be drawn later."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv

from prefrl.envs.core.vector import BatchedEnv
from prefrl.envs.simulator_states import KNOWN, simulator_of

KEY = "simulator_state"
"""Where infos have them."""


class SimulatorStates(gym.Wrapper[Any, Any, Any, Any], gym.utils.RecordConstructorArgs):
    """Adds ``info["simulator_state"]``, float64 [2, D]: the state before a step, and after it.

    After a reset both are the start. With both, any row of a vector environment tells its own step whatever
    its autoreset mode does next, and segments can be cut anywhere. See ``prefrl.envs.simulator_states`` for
    what becomes of them, and :func:`with_simulator_states` for environments that are no scalar ones.

    Args:
        env: the environment.

    Raises:
        ValueError: if it has no state that could be set again.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        gym.utils.RecordConstructorArgs.__init__(self)
        gym.Wrapper.__init__(self, env)
        self._simulator = simulator_of(env)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode; see ``gymnasium.Env.reset``."""
        obs, info = self.env.reset(seed=seed, options=options)
        start = self._simulator.read()
        return obs, {**info, KEY: np.stack([start, start])}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Advance by one step; see ``gymnasium.Env.step``."""
        before = self._simulator.read()
        obs, reward, terminated, truncated, info = self.env.step(action)
        return obs, reward, terminated, truncated, {**info, KEY: np.array((before, self._simulator.read()))}


class _CartPoleStates(gym.vector.VectorWrapper):
    """The same of Gymnasium's vector of cart-poles, whose rows restart in the step after their end."""

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Start episodes; see ``gymnasium.vector.VectorEnv.reset``."""
        obs, infos = self.env.reset(seed=seed, options=options)
        start = self._read()
        return obs, {**infos, KEY: np.stack([start, start], axis=1)}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Advance all rows; see ``gymnasium.vector.VectorEnv.step``."""
        before = self._read()
        obs, rewards, terminations, truncations, infos = self.env.step(actions)
        told = np.stack([before, self._read()], axis=1)
        return obs, rewards, terminations, truncations, {**infos, KEY: told}

    def _read(self) -> Any:
        return np.array(self.unwrapped.state, dtype=np.float64).T  # type: ignore[attr-defined]


def with_simulator_states(env: Any) -> Any:
    """Return an environment of any face that tells its simulator states.

    Args:
        env: a scalar environment; one of prefrl's vector environments, on the host or on a device, or a
            ``SyncVectorEnv``, which both are changed; or Gymnasium's vector of cart-poles.

    Returns:
        The environment, in a wrapper where it needs one. Its infos have "simulator_state", float64 [2, D], or
        [n, 2, D] of n rows, as an array of the environment's own kind.

    Raises:
        ValueError: if the environment has no state that could be set again, or its rows are out of reach.
    """
    if not isinstance(env, gym.vector.VectorEnv):
        return SimulatorStates(env)
    inner: Any = env.unwrapped
    if isinstance(inner, BatchedEnv):
        inner.tell_states()
        return env
    if isinstance(inner, gym.vector.SyncVectorEnv):
        inner.envs = [SimulatorStates(row) for row in inner.envs]
        return env
    if isinstance(inner, CartPoleVectorEnv):
        return _CartPoleStates(env)
    raise ValueError(
        f"env is a {type(inner).__name__}, whose rows' states are out of reach; known are {KNOWN}, alone or "
        "in a SyncVectorEnv: gym.make_vec(..., vectorization_mode='sync')"
    )
