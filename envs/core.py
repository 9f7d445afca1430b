"""One dynamics, three faces: scalar, vector and on-device environments from the same pure functions.

An environment of prefrl is written once, as a :class:`Dynamics`: pure, batched functions over an array
namespace, with all randomness of a step entering as arrays. :class:`ScalarEnv` turns it into a
``gymnasium.Env``, :class:`BatchedEnv` into a ``gymnasium.vector.VectorEnv``; with a torch backend (see
``prefrl.envs.device``) the latter keeps everything on the device.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

import array_api_compat.numpy as xnp
import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

Array = Any
"""An array of the backend's namespace: ``numpy.ndarray`` or ``torch.Tensor``."""

State = dict[str, Array]
"""Environment state: named arrays, each with leading axis ``[n]``."""

Noise = dict[str, Array]
"""All randomness of one reset or one step: named arrays, each with leading axis ``[n]``."""


class Random(Protocol):
    """A source of noise; the only thing in an environment that has hidden state."""

    def uniform(self, *shape: int) -> Array:
        """Return draws from the uniform distribution on [0, 1), of the given shape, in the backend's float."""

    def normal(self, *shape: int) -> Array:
        """Return draws from the standard normal distribution, of the given shape, in the backend's float."""

    def get_state(self) -> dict[str, Any]:
        """Return the generator's state as plain numbers, strings and tensors."""

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continue from a state that :meth:`get_state` returned."""


class Backend(Protocol):
    """Where the arrays of an environment live."""

    xp: Any
    """The array-API namespace (``array_api_compat.numpy`` or ``array_api_compat.torch``)."""

    float_dtype: Any
    """dtype of rewards and of continuous observations."""

    on_device: bool
    """True where looking at a value would wait for the device, so that control flow must not do it."""

    def asarray(self, values: Any, dtype: Any = None) -> Array:
        """Convert values to an array of this backend, on its device."""

    def random(self, seed: int | list[int] | None) -> Random:
        """Return a freshly seeded source of noise (seeded by the system when ``seed`` is None)."""


class NumpyRandom:
    """:class:`Random` over a ``numpy.random.Generator``."""

    def __init__(self, generator: np.random.Generator) -> None:
        self.generator = generator

    def uniform(self, *shape: int) -> NDArray[np.float64]:
        """See :meth:`Random.uniform`."""
        return self.generator.random(shape)

    def normal(self, *shape: int) -> NDArray[np.float64]:
        """See :meth:`Random.normal`."""
        return self.generator.standard_normal(shape)

    def get_state(self) -> dict[str, Any]:
        """See :meth:`Random.get_state`."""
        return dict(self.generator.bit_generator.state)

    def set_state(self, state: Mapping[str, Any]) -> None:
        """See :meth:`Random.set_state`."""
        self.generator.bit_generator.state = dict(state)


class NumpyBackend:
    """Arrays in host memory, float64 by default."""

    xp: Any = xnp
    on_device = False

    def __init__(self, float_dtype: Any = np.float64) -> None:
        self.float_dtype = float_dtype

    def asarray(self, values: Any, dtype: Any = None) -> NDArray[Any]:
        """See :meth:`Backend.asarray`."""
        return np.asarray(values, dtype=dtype)

    def random(self, seed: int | list[int] | None) -> NumpyRandom:
        """See :meth:`Backend.random`."""
        return NumpyRandom(np.random.default_rng(seed))


class Dynamics(ABC):
    """Batched pure dynamics: no hidden randomness, no Python loop over environments.

    Every array has leading axis ``[n]``. A step of the world is
    ``step(state, actions, step_noise(rng, n))``; the same noise gives the same trajectory whatever the
    backend. In the spirit of ``gymnasium.experimental.functional.FuncEnv``, batched.
    """

    single_observation_space: gym.Space[Any]
    single_action_space: gym.Space[Any]
    render_fps: ClassVar[int] = 8

    def __init__(self, backend: Backend | None = None) -> None:
        self.backend: Backend = backend if backend is not None else NumpyBackend()
        self.xp = self.backend.xp

    @abstractmethod
    def reset_noise(self, rng: Random, n: int) -> Noise:
        """Draw the randomness of ``n`` episode starts."""

    @abstractmethod
    def step_noise(self, rng: Random, n: int) -> Noise:
        """Draw the randomness of one step of ``n`` environments."""

    @abstractmethod
    def initial(self, noise: Noise, options: Mapping[str, Any] | None = None) -> State:
        """Return start states; ``options`` are those of ``reset`` (unknown ones raise ValueError)."""

    @abstractmethod
    def observe(self, state: State) -> Array:
        """Return observations ``[n, ...]`` of the single observation space."""

    @abstractmethod
    def step(self, state: State, actions: Array, noise: Noise) -> tuple[State, Array, Array]:
        """Return ``(next_state, rewards [n], terminated [n])``."""

    def draw(self, state: State, index: int, last_action: Any) -> NDArray[np.uint8]:
        """Return the picture ``[height, width, 3]`` of row ``index``; optional."""
        raise gym.error.UnsupportedMode(f"{type(self).__name__} has no picture")


def reject_unknown_options(options: Mapping[str, Any] | None, allowed: tuple[str, ...]) -> None:
    """Raise ValueError for reset options outside ``allowed``."""
    unknown = sorted(set(options or ()) - set(allowed))
    if unknown:
        raise ValueError(f"reset options {unknown} are unknown; allowed are {list(allowed)}")


class ScalarEnv(gym.Env[Any, Any]):
    """A ``gymnasium.Env`` over one row of a :class:`Dynamics`.

    Args:
        dynamics: the world, with a numpy backend.
        render_mode: None, "rgb_array" or "human".
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array", "human"], "render_fps": 8}  # noqa: RUF012

    def __init__(self, dynamics: Dynamics, render_mode: str | None = None) -> None:
        check_render_mode(render_mode, self.metadata["render_modes"])
        self.dynamics = dynamics
        self.render_mode = render_mode
        self.observation_space = dynamics.single_observation_space
        self.action_space = dynamics.single_action_space
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
        self._state = self.dynamics.initial(self.dynamics.reset_noise(self._rng, 1), options)
        self._last_action = None
        if self.render_mode == "human":
            self.render()
        return self._observation(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Advance by one step; see ``gymnasium.Env.step``.

        Raises:
            ValueError: if the action lies outside the action space.
            gymnasium.error.ResetNeeded: before the first reset.
        """
        if self._state is None:
            raise gym.error.ResetNeeded("call reset() before step()")
        if not self.action_space.contains(action):
            raise ValueError(f"action {action!r} is not in {self.action_space}")
        dynamics = self.dynamics
        noise = dynamics.step_noise(self._rng, 1)
        self._state, rewards, terminated = dynamics.step(self._state, np.asarray(action)[None], noise)
        self._last_action = action
        if self.render_mode == "human":
            self.render()
        return self._observation(), float(rewards[0]), bool(terminated[0]), False, {}

    def _observation(self) -> Any:
        assert self._state is not None
        obs = self.dynamics.observe(self._state)[0]
        return int(obs) if self._integer_obs else obs

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
            from .drawing import Window

            self._window = Window(type(self).__name__, self.metadata["render_fps"])
        self._window.show(frame)
        return None

    def close(self) -> None:
        """Close the window, if one is open."""
        if self._window is not None:
            self._window.close()
            self._window = None


def check_render_mode(render_mode: str | None, allowed: list[str]) -> None:
    """Raise ValueError unless ``render_mode`` is None or one of ``allowed``."""
    if render_mode is not None and render_mode not in allowed:
        raise ValueError(f"render_mode is {render_mode!r}; allowed are None and {allowed}")


class BatchedEnv(gym.vector.VectorEnv[Any, Any, Any]):
    """A ``gymnasium.vector.VectorEnv`` that steps all rows at once.

    Arrays are those of the dynamics' backend: numpy, or torch tensors on a device. With
    ``AutoresetMode.SAME_STEP`` the true successor of a row that ended stands in ``infos["final_obs"]``
    (for every row; ``infos["_final_obs"]`` says which rows ended). With NEXT_STEP (Gymnasium's default) the row after an end carries the new episode's first observation and is no transition; see
    ``prefrl.data.transition_mask``. With DISABLED, rows that ended must be reset by
    ``reset(options={"reset_mask": mask})`` before the next step.

    Args:
        dynamics: the world.
        num_envs: number of rows.
        max_episode_steps: truncate after this many steps (None: never).
        autoreset_mode: one of ``gymnasium.vector.AutoresetMode`` or its value as a string.
        render_mode: None or "rgb_array".
    """

    metadata: dict[str, Any] = {  # noqa: RUF012
        "render_modes": ["rgb_array"],
        "render_fps": 8,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    def __init__(
        self,
        dynamics: Dynamics,
        num_envs: int = 1,
        *,
        max_episode_steps: int | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
    ) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs is {num_envs}; it must be at least 1")
        if max_episode_steps is not None and max_episode_steps < 1:
            raise ValueError(f"max_episode_steps is {max_episode_steps}; it must be None or at least 1")
        check_render_mode(render_mode, self.metadata["render_modes"])
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {**self.metadata, "autoreset_mode": self.autoreset_mode}
        self.dynamics = dynamics
        self.num_envs = num_envs
        self.max_episode_steps = max_episode_steps
        self.render_mode = render_mode
        self.single_observation_space = dynamics.single_observation_space
        self.single_action_space = dynamics.single_action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._xp = dynamics.xp
        self._rng: Random = dynamics.backend.random(None)
        self._state: State | None = None
        self._last_actions: Array = None

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Start episodes in all rows, or in the rows of ``options["reset_mask"]`` (bool ``[n]``).

        All rows draw from one generator: a list of seeds seeds it as a whole.
        """
        if seed is not None:
            seeds = [s for s in seed if s is not None] if isinstance(seed, list) else seed
            self._rng = self.dynamics.backend.random(seeds)
        options = dict(options or {})
        mask = options.pop("reset_mask", None)
        start = self.dynamics.initial(self.dynamics.reset_noise(self._rng, self.num_envs), options)
        zeros = self.dynamics.backend.asarray(np.zeros(self.num_envs, dtype=np.int64))
        if mask is None:
            self._state, self._elapsed = start, zeros
            self._done = zeros != 0
        else:
            if self._state is None:
                raise gym.error.ResetNeeded("the first reset() must start every row: give no reset_mask")
            mask = self.dynamics.backend.asarray(mask)
            if tuple(mask.shape) != (self.num_envs,):
                raise ValueError(f"reset_mask has shape {tuple(mask.shape)}; it must be ({self.num_envs},)")
            self._restart(mask, start)
        self._last_actions = None
        assert self._state is not None
        return self.dynamics.observe(self._state), {}

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """Advance all rows; see ``gymnasium.vector.VectorEnv.step``.

        Raises:
            ValueError: if the actions have the wrong shape, or (host arrays only) lie outside the space.
        """
        if self._state is None:
            raise gym.error.ResetNeeded("call reset() before step()")
        xp, dynamics, mode = self._xp, self.dynamics, self.autoreset_mode
        actions = self._check_actions(actions)
        noise = dynamics.step_noise(self._rng, self.num_envs)
        next_state, rewards, terminated = dynamics.step(self._state, actions, noise)
        elapsed = self._elapsed + 1
        truncated = (
            xp.zeros_like(terminated) if self.max_episode_steps is None else elapsed >= self.max_episode_steps
        )
        infos: dict[str, Any] = {}
        self._last_actions = actions
        if mode is AutoresetMode.NEXT_STEP:
            restarted = self._done
            self._state, self._elapsed = next_state, elapsed
            self._restart_where_any(restarted)
            rewards = xp.where(restarted, xp.zeros_like(rewards), rewards)
            terminated, truncated = terminated & ~restarted, truncated & ~restarted
            self._done = terminated | truncated
        else:
            done = terminated | truncated
            self._state, self._elapsed, self._done = next_state, elapsed, done
            if mode is AutoresetMode.SAME_STEP:
                if dynamics.backend.on_device or bool(done.any()):
                    infos = {"final_obs": dynamics.observe(next_state), "_final_obs": done}
                self._restart_where_any(done)
        return dynamics.observe(self._state), rewards, terminated, truncated, infos

    def _check_actions(self, actions: Array) -> Array:
        backend = self.dynamics.backend
        actions = backend.asarray(actions)
        if tuple(actions.shape) != self.action_space.shape:
            raise ValueError(
                f"actions have shape {tuple(actions.shape)}; this environment takes {self.action_space.shape}"
            )
        if backend.on_device:  # looking at the values would wait for the device
            return actions
        if self.autoreset_mode is AutoresetMode.DISABLED and bool(self._done.any()):
            raise gym.error.ResetNeeded("rows that ended must be reset with options={'reset_mask': mask}")
        space = self.single_action_space
        if isinstance(space, gym.spaces.Discrete):
            inside = actions.dtype.kind in "iu" and bool(
                ((actions >= space.start) & (actions < space.start + space.n)).all()
            )
        else:
            inside = self.action_space.contains(actions.astype(space.dtype, copy=False))
        if not inside:
            raise ValueError(f"actions lie outside {self.action_space}")
        return actions

    def _restart_where_any(self, mask: Array) -> None:
        # On a device, drawing starts for every row is cheaper than waiting to learn whether any ended.
        if not self.dynamics.backend.on_device and not bool(mask.any()):
            return
        self._restart(mask, self.dynamics.initial(self.dynamics.reset_noise(self._rng, self.num_envs)))

    def _restart(self, mask: Array, start: State) -> None:
        assert self._state is not None
        where = self._xp.where
        self._state = {
            name: where(mask.reshape((-1,) + (1,) * (value.ndim - 1)), start[name], value)
            for name, value in self._state.items()
        }
        self._elapsed = where(mask, self._xp.zeros_like(self._elapsed), self._elapsed)
        self._done = self._done & ~mask

    def render(self) -> tuple[Any, ...] | None:
        """Return one picture per row."""
        if self.render_mode is None or self._state is None:
            return None
        actions = self._last_actions
        return tuple(
            self.dynamics.draw(self._state, i, None if actions is None else actions[i])
            for i in range(self.num_envs)
        )

    def state_dict(self) -> dict[str, Any]:
        """Return everything a bit-equal continuation needs: state, episode clocks and generator."""
        if self._state is None:
            raise gym.error.ResetNeeded("call reset() before state_dict()")
        return {
            "state": dict(self._state),
            "elapsed": self._elapsed,
            "done": self._done,
            "rng": self._rng.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned."""
        asarray = self.dynamics.backend.asarray
        self._state = {name: asarray(value) for name, value in state["state"].items()}
        self._elapsed, self._done = asarray(state["elapsed"]), asarray(state["done"])
        self._rng = self.dynamics.backend.random(0)
        self._rng.set_state(state["rng"])
        self._last_actions = None
