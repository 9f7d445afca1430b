"""Diffusions as tasks for ordinary agents."""

from __future__ import annotations

from typing import Any, Literal

import gymnasium as gym
import numpy as np

from prefrl.envs.diffusions.checks import check_between, check_time
from prefrl.envs.diffusions.dynamics import DiffusionDynamics


class DiscreteTimeTask(gym.Wrapper[Any, Any, Any, Any], gym.utils.RecordConstructorArgs):
    """A diffusion as ordinary agents know tasks: bounded actions, and an end.

    Stable-Baselines3's SAC, TD3 and PPO then train on it::

        task = DiscreteTimeTask(gym.make("prefrl/LQDiscounted-v0"), action_bound=3.0)
        SAC("MlpPolicy", task, gamma=task.gamma).learn(10_000)

    The action space is [-1, 1]^m, scaled to [-bound, bound]. Rewards are rate times dt, as the environment
    pays them, or the rate itself ("rate"), which has the same size for every dt. Without a horizon an episode
    is truncated after ``episode_time``.

    Args:
        env: a scalar diffusion of prefrl with actions, wrapped or not.
        action_bound: largest action, positive.
        reward: "increment" or "rate"; a terminal reward counts as it is in both.
        episode_time: time after which an episode without a horizon is truncated, positive; None: where the
            wrapped environment does.
        beta: discount rate, not negative, for :attr:`gamma`; None: the environment's.

    Raises:
        TypeError: if the environment is no diffusion with actions.
        ValueError: for an argument out of range.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        action_bound: float = 3.0,
        reward: Literal["increment", "rate"] = "increment",
        episode_time: float | None = None,
        beta: float | None = None,
    ) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, action_bound=action_bound, reward=reward,
                                                 episode_time=episode_time, beta=beta)  # fmt: skip
        super().__init__(env)
        diffusion = getattr(env.unwrapped, "dynamics", None)
        if not isinstance(diffusion, DiffusionDynamics) or diffusion.action_dim == 0:
            raise TypeError(f"DiscreteTimeTask makes tasks of diffusions with actions; {env} is none")
        if reward not in ("increment", "rate"):
            raise ValueError(f"reward is {reward!r}; allowed are 'increment' and 'rate'")
        self.action_bound = check_between("action_bound", action_bound, 0.0, np.inf)
        self.reward = reward
        self._dt = diffusion.dt
        self._limit: int | None = None
        if episode_time is not None:
            if diffusion.T is not None:
                raise ValueError(f"episode_time is {episode_time}, but the horizon is {diffusion.T}")
            time = check_time("episode_time", episode_time)
            self._limit = max(1, round(time / diffusion.dt))
        beta = diffusion.beta if beta is None else check_between("beta", beta, 0.0, np.inf, closed=True)
        self.gamma = float(np.exp(-beta * diffusion.dt))
        """Discount of one step, exp(-beta dt), which ordinary agents ask for."""
        self.action_space = gym.spaces.Box(-1.0, 1.0, (diffusion.action_dim,))
        self._elapsed = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode; see ``gymnasium.Env.reset``."""
        self._elapsed = 0
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Advance by dt; see ``gymnasium.Env.step``. ``info["reward_rate"]`` keeps the rate.

        Raises:
            ValueError: for an action outside [-1, 1].
        """
        given = np.asarray(action, dtype=np.float32)
        if not self.action_space.contains(given):
            raise ValueError(f"action is {action}; it must lie in {self.action_space}")
        obs, reward, terminated, truncated, info = self.env.step(given * np.float32(self.action_bound))
        self._elapsed += 1
        if self.reward == "rate":
            reward = info["reward_rate"] + info["terminal_reward"]
        return obs, reward, terminated, truncated or self._elapsed == self._limit, info
