"""Every agent of a multi-agent environment as a row of its own."""

from __future__ import annotations

from typing import Any

import array_api_compat
import gymnasium as gym
from gymnasium.vector.utils import batch_space

from prefrl.envs.core.backend import Array


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
