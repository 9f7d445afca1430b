"""Prices as actions: a policy answers requests by what it asks for the resources."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from prefrl.envs.allocation.dynamics import AllocationDynamics


class DualPriceAction(gym.Wrapper[Any, Any, Any, Any]):
    """Lets a policy set prices instead of answering requests: an action is mu [m].

    The answer is the best one to the request at hand, which maximises f(x) - mu . b(x). An optimal price of a
    resource never exceeds f-bar / rho, which is where the action space ends. ``info["answer"]`` tells it.

    Args:
        env: a scalar allocation environment, wrapped or not.

    Raises:
        TypeError: if it is none.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        dynamics = getattr(env.unwrapped, "dynamics", None)
        if not isinstance(dynamics, AllocationDynamics):
            raise TypeError(f"DualPriceAction prices the resources of allocation environments; {env} is none")
        self._priced = dynamics
        high = np.float32(dynamics.problem.reward_bound / dynamics.rho)
        self.action_space = gym.spaces.Box(np.zeros_like(high), high)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Answer the request at these prices; see ``gymnasium.Env.step``.

        Raises:
            ValueError: for prices outside the action space.
        """
        if not self.action_space.contains(np.asarray(action, dtype=np.float32)):
            raise ValueError(f"action is {action}; it must hold prices in {self.action_space}")
        mu = np.asarray(action, dtype=np.float64)
        request = self.env.get_wrapper_attr("request")()
        answer = self._priced.problem.best_response(request[None], mu[None])[0]
        space = self._priced.single_action_space
        if isinstance(space, gym.spaces.Box):
            answer = np.clip(answer, space.low, space.high).astype(np.float32)
        obs, reward, terminated, truncated, info = self.env.step(answer)
        return obs, reward, terminated, truncated, {**info, "answer": answer}
