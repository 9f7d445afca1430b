"""The scalar face of any dynamics."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from .backend import NumpyRandom, State
from .checks import check_actions, restored_state
from .dynamics import Dynamics, Episodes
from .face import Face


class ScalarEnv(Face, gym.Env[Any, Any]):
    """A ``gymnasium.Env`` over one row of a :class:`Dynamics`, whose public attributes are its own too.

    Args:
        dynamics: the world, with a numpy backend; or its class, or where that is, "module:Class".
        render_mode: None, "rgb_array" or "human".
        **settings: the class's arguments.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array", "human"], "render_fps": 8}  # noqa: RUF012

    def __init__(
        self,
        dynamics: Dynamics | type[Dynamics] | str,
        render_mode: str | None = None,
        **settings: Any,
    ) -> None:
        self._show(dynamics, settings, render_mode)
        self.observation_space = self.dynamics.single_observation_space
        self.action_space = self.dynamics.single_action_space
        self._integer_obs = isinstance(self.observation_space, gym.spaces.Discrete)
        self._rng = NumpyRandom(np.random.default_rng(0))
        self._state: State | None = None
        self._last_action: Any = None
        self._window: Any = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode; see ``gymnasium.Env.reset``."""
        super().reset(seed=seed)
        self._rng.generator = self.np_random
        self._start_rng = self._rng.get_state() if self.dynamics.foretells else None
        state = self.dynamics.initial(self.dynamics.reset_noise(self._rng, 1), options)
        self._state, self._last_action = state, None
        if self.render_mode == "human":
            self.render()
        return self._said(self.dynamics, state)

    def _episodes(self) -> Episodes:
        return Episodes(self._state, self._start_rng, None, restarts=False, max_episode_steps=None)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Advance by one step; see ``gymnasium.Env.step``.

        Raises:
            ValueError: if the action lies outside the action space.
            gymnasium.error.ResetNeeded: before the first reset.
        """
        state, dynamics = self._state, self.dynamics  # once: a class with __getattr__ looks up slowly
        if state is None:
            raise gym.error.ResetNeeded("call reset() before step()")
        actions = self._one_row(action)
        state, rewards, terminated = dynamics.step(state, actions, dynamics.step_noise(self._rng, 1))
        self._state, self._last_action = state, actions[0]
        if self.render_mode == "human":
            self.render()
        obs, info = self._said(dynamics, state)
        return obs, float(rewards[0]), bool(terminated[0]), False, info

    def state_dict(self) -> dict[str, Any]:
        """Return everything a bit-equal continuation needs: state and generator (wrappers have their own)."""
        if self._state is None:
            raise gym.error.ResetNeeded("call reset() before state_dict()")
        return {"state": dict(self._state), "rng": self._rng.get_state(), **self._start_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned.

        Raises:
            ValueError: if it comes from another environment.
        """
        self._state = restored_state(self.dynamics, state["state"], 1)
        self._rng.generator = self.np_random
        self._rng.set_state(state["rng"])
        self._load_start_state(state)
        self._last_action = None

    def _one_row(self, action: Any) -> NDArray[Any]:
        space = self.action_space
        if isinstance(space, gym.spaces.Discrete) and not isinstance(action, (bool, np.bool_)):
            try:  # the usual case, at a fifth of the price
                index = operator.index(action)
            except TypeError:
                pass
            else:
                if space.start <= index < space.start + space.n:
                    return np.array([index], dtype=np.int64)
        row: NDArray[Any] = check_actions(self.dynamics, action, space, "action")[None]
        return row

    def _said(self, dynamics: Dynamics, state: State) -> tuple[Any, dict[str, Any]]:
        """Return the observation of the only row, and the dynamics' report on it, numbers as Python's own."""
        obs, report = dynamics.observe(state), dynamics.info(state)
        if isinstance(obs, dict):
            obs = {name: values[0] for name, values in obs.items()}
        else:
            obs = int(obs[0]) if self._integer_obs else obs[0]
        if not report:
            return obs, {}
        return obs, {
            name: values[0].item() if values.ndim == 1 else values[0].copy()
            for name, values in report.items()
        }

    def render(self) -> Any:
        """Return the picture [height, width, 3] ("rgb_array"), or show it ("human")."""
        if self.render_mode is None:
            gym.logger.warn('render() needs gym.make(..., render_mode="rgb_array" or "human")')
            return None
        if self._state is None:
            raise gym.error.ResetNeeded("call reset() before render()")
        frame = self.dynamics.draw(self._state, 0, self._last_action)
        if self.render_mode == "rgb_array":
            return frame
        if self._window is None:
            from prefrl.envs.rendering.boards import Window

            self._window = Window(type(self.dynamics).__name__, self.metadata["render_fps"])
        self._window.show(frame)
        return None

    def close(self) -> None:
        """Close the window, if one is open."""
        if self._window is not None:
            self._window.close()
            self._window = None
