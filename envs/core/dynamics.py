"""One dynamics, three faces: scalar, vector and on-device environments from the same pure functions.

An environment of prefrl is written once, as a :class:`Dynamics`: pure, batched functions over an array
namespace, with all randomness of a step entering as arrays. :class:`ScalarEnv` turns it into a
``gymnasium.Env``, :class:`BatchedEnv` into a ``gymnasium.vector.VectorEnv``; with a torch backend (see
``prefrl.envs.core.device``) the latter keeps everything on the device.
"""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from .backend import Array, Backend, Noise, NumpyBackend, NumpyRandom, Random, State


class Dynamics(ABC):
    """Batched pure dynamics: no hidden randomness, no Python loop over environments.

    Every array has leading axis ``[n]``. A step of the world is
    ``step(state, actions, step_noise(rng, n))``; the same noise gives the same trajectory whatever the
    backend. In the spirit of ``gymnasium.experimental.functional.FuncEnv``, batched.
    """

    single_observation_space: gym.Space[Any]
    single_action_space: gym.Space[Any]

    endless: bool = False
    """Whether :meth:`step` never terminates; rows without a limit then need no starts drawn for them."""

    def __init__(self, backend: Backend | None = None) -> None:
        self.backend: Backend = backend if backend is not None else NumpyBackend()

    @property
    def xp(self) -> Any:
        """The backend's array namespace (no attribute, since modules can be neither copied nor pickled)."""
        return self.backend.xp

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
    def observe(self, state: State) -> Any:
        """Return observations ``[n, ...]`` of the single observation space, in memory of their own.

        They are one array, or for a Dict space a dict of arrays. Callers may write into what they get, so it
        must not be an array of the state.
        """

    @abstractmethod
    def step(self, state: State, actions: Array, noise: Noise) -> tuple[State, Array, Array]:
        """Return ``(next_state, rewards [n], terminated [n])``; nothing given is written to."""

    def info(self, state: State) -> dict[str, Array]:
        """Return what faces report in ``info``: arrays [n, ...], zeros at a start; by default nothing.

        It belongs to the step that led to ``state``, which must remember it.
        """
        return {}

    def observation(self, *columns: Array) -> Array:
        """Return arrays ``[n]`` side by side as observations ``[n, len(columns)]``, for :meth:`observe`.

        Their dtype is the observation space's on the host, where Gymnasium's checks ask for it, and the
        backend's float on a device.
        """
        stacked = self.xp.stack(
            columns
        ).T  # variable by variable in memory, as Gymnasium's own vectors have it
        if self.backend.on_device:
            return stacked
        return stacked.astype(self.single_observation_space.dtype, copy=False)

    def draw(self, state: State, index: int, last_action: Any) -> NDArray[np.uint8]:
        """Return the picture ``[height, width, 3]`` of row ``index``; optional."""
        raise gym.error.UnsupportedMode(f"{type(self).__name__} has no picture")


def reject_unknown_options(options: Mapping[str, Any] | None, allowed: tuple[str, ...]) -> None:
    """Raise ValueError for reset options outside ``allowed``."""
    unknown = sorted(set(options or ()) - set(allowed))
    if unknown:
        raise ValueError(f"reset options {unknown} are unknown; allowed are {list(allowed)}")


def check_render_mode(render_mode: str | None, allowed: list[str]) -> None:
    """Raise ValueError unless ``render_mode`` is None or one of ``allowed``."""
    if render_mode is not None and render_mode not in allowed:
        raise ValueError(f"render_mode is {render_mode!r}; allowed are None and {allowed}")


def check_count(name: str, value: Any) -> int:
    """Return ``value``; raise ValueError unless it is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"{name} is {value!r}; it must be a whole number of at least 1")
    return int(value)


def check_number(name: str, value: Any) -> float:
    """Return ``value``; raise ValueError unless it is a real number, NaN and infinity included."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise ValueError(f"{name} is {value!r}; it must be a number")
    return float(value)


def check_seed(seed: Any, num_envs: int) -> int | list[int] | None:
    """Return the seed, or the seeds given for ``num_envs`` rows (None if there are none).

    Raises:
        ValueError: if a seed is no non-negative whole number, or there is not one entry per row.
    """
    several = isinstance(seed, (list, tuple))
    if several and len(seed) != num_envs:
        raise ValueError(f"seed has {len(seed)} entries; give one number, or one for each of {num_envs} rows")
    given = [s for s in (seed if several else [seed]) if s is not None]
    for s in given:
        if isinstance(s, bool) or not isinstance(s, (int, np.integer)) or s < 0:
            raise ValueError(f"seed is {s!r}; it must be a whole number, not negative")
    if not given:
        return None
    return [int(s) for s in given] if several else int(given[0])


def check_actions(dynamics: Dynamics, actions: Any, space: gym.Space[Any], name: str) -> Array:
    """Return actions as an array of the dynamics' backend: int64, or its float for continuous ones.

    On a device their values are trusted, since looking at them would wait for it.

    Raises:
        ValueError: if they have the wrong shape or kind of number, or lie outside ``space``.
    """
    backend, xp = dynamics.backend, dynamics.xp
    try:
        actions = backend.asarray(actions)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name} is no array of numbers: {error}") from error
    if tuple(actions.shape) != space.shape:
        raise ValueError(f"{name} has shape {tuple(actions.shape)}; this environment takes {space.shape}")
    whole = np.issubdtype(space.dtype, np.integer)
    wanted = xp.int64 if whole else backend.float_dtype
    allowed: Any = "integral" if whole else ("integral", "real floating")
    if isinstance(dynamics.single_action_space, gym.spaces.MultiBinary):
        allowed = ("bool", "integral", "real floating")  # SB3's policies give zeros and ones as floats
    if actions.dtype != wanted and not xp.isdtype(actions.dtype, allowed):
        kind = "whole numbers" if whole else "numbers"
        raise ValueError(f"{name} has dtype {actions.dtype}; this environment takes {kind}")
    cast = None if backend.on_device else actions.astype(space.dtype)
    if cast is not None and not (space.contains(cast) and (not whole or (cast == actions).all())):
        raise ValueError(f"{name} must lie in {space}; got {actions}")
    return actions if actions.dtype == wanted else xp.astype(actions, wanted, copy=False)


def restored_state(dynamics: Dynamics, state: Mapping[str, Any], n: int) -> State:
    """Return a saved state of ``n`` rows as arrays of the backend; ValueError for that of another world."""
    like = dynamics.initial(dynamics.reset_noise(dynamics.backend.random(0), n))
    given = {name: tuple(value.shape) for name, value in state.items()}
    wanted = {name: tuple(value.shape) for name, value in like.items()}
    if given != wanted:
        raise ValueError(f"state holds arrays of shapes {given}; this environment's are {wanted}")
    return {name: dynamics.backend.asarray(value) for name, value in state.items()}


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
        self._before_start(every_row=True)
        self._state = self.dynamics.initial(self.dynamics.reset_noise(self._rng, 1), options)
        self._last_action = None
        if self.render_mode == "human":
            self.render()
        return self._observation(), self._info()

    def _before_start(self, *, every_row: bool) -> None:
        """Take note that an episode is about to draw its start; for faces that offer more."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Advance by one step; see ``gymnasium.Env.step``.

        Raises:
            ValueError: if the action lies outside the action space.
            gymnasium.error.ResetNeeded: before the first reset.
        """
        if self._state is None:
            raise gym.error.ResetNeeded("call reset() before step()")
        actions = self._one_row(action)
        noise = self.dynamics.step_noise(self._rng, 1)
        self._state, rewards, terminated = self.dynamics.step(self._state, actions, noise)
        self._last_action = actions[0]
        if self.render_mode == "human":
            self.render()
        return self._observation(), float(rewards[0]), bool(terminated[0]), False, self._info()

    def state_dict(self) -> dict[str, Any]:
        """Return everything a bit-equal continuation needs: state and generator (wrappers have their own)."""
        if self._state is None:
            raise gym.error.ResetNeeded("call reset() before state_dict()")
        return {"state": dict(self._state), "rng": self._rng.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned.

        Raises:
            ValueError: if it comes from another environment.
        """
        self._state = restored_state(self.dynamics, state["state"], 1)
        self._rng.generator = self.np_random
        self._rng.set_state(state["rng"])
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

    def _observation(self) -> Any:
        assert self._state is not None
        obs = self.dynamics.observe(self._state)
        if isinstance(obs, dict):
            return {name: values[0] for name, values in obs.items()}
        return int(obs[0]) if self._integer_obs else obs[0]

    def _info(self) -> dict[str, Any]:
        """Return the dynamics' report on the only row; numbers as Python's own."""
        assert self._state is not None
        report = self.dynamics.info(self._state)
        return {
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

            self._window = Window(type(self).__name__, self.metadata["render_fps"])
        self._window.show(frame)
        return None

    def close(self) -> None:
        """Close the window, if one is open."""
        if self._window is not None:
            self._window.close()
            self._window = None


class _Rows(NamedTuple):
    """Where the rows of a batch stand."""

    state: Any
    elapsed: Array
    """Steps [n] of the running episode."""

    done: Array
    """bool [n]: the row ended, and has not started anew."""


_Step = tuple[_Rows, tuple[Array, Array, Array, Array, dict[str, Any]]]
"""Where the rows stand after a step, and what the step returns."""


class BatchedEnv(gym.vector.VectorEnv[Any, Any, Any]):
    """A ``gymnasium.vector.VectorEnv`` that steps all rows at once.

    Arrays are those of the dynamics' backend: numpy, or torch tensors on a device, where the values of
    actions are trusted. What happens to a row that ended is the autoreset mode's to say:

    - NEXT_STEP (Gymnasium's default): its next step ignores the action and carries the new episode's first
      observation; that row is no transition, see ``prefrl.data.transition_mask``.
    - SAME_STEP: it restarts at once. The true successors stand in ``infos["final_obs"]`` (of every row;
      ``infos["_final_obs"]`` says which rows ended), and likewise what the dynamics report in
      ``infos["final_info"]``.
    - DISABLED: it must be reset by ``reset(options={"reset_mask": mask})`` before the next step; on a device
      this is not checked.

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
        check_render_mode(render_mode, self.metadata["render_modes"])
        try:
            self.autoreset_mode = AutoresetMode(autoreset_mode)
        except ValueError:
            allowed = [mode.value for mode in AutoresetMode]
            raise ValueError(f"autoreset_mode is {autoreset_mode!r}; allowed are {allowed}") from None
        self.num_envs = check_count("num_envs", num_envs)
        self.max_episode_steps = (
            None if max_episode_steps is None else check_count("max_episode_steps", max_episode_steps)
        )
        self.metadata = {**self.metadata, "autoreset_mode": self.autoreset_mode}
        self.dynamics = dynamics
        self.render_mode = render_mode
        self.single_observation_space = dynamics.single_observation_space
        self.single_action_space = dynamics.single_action_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._rng: Random = dynamics.backend.random(None)
        self._advance = dynamics.backend.compiled(self._advance_all)
        self._state: State | None = None
        self._last_actions: Array = None

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Start episodes in all rows, or in the rows of ``options["reset_mask"]`` (bool ``[n]``).

        All rows draw from one generator: a list of seeds seeds it as a whole.

        Raises:
            ValueError: for a wrong seed, mask or option.
            gymnasium.error.ResetNeeded: if the first reset has a mask.
        """
        options = dict(options or {})
        mask = self._check_mask(options.pop("reset_mask", None))
        seeds = check_seed(seed, self.num_envs)
        if seeds is not None:
            self._rng = self.dynamics.backend.random(seeds)
        if mask is not None and not self.dynamics.backend.on_device and bool(mask.all()):
            mask = None
        self._before_start(every_row=mask is None)
        start = self.dynamics.initial(self._reset_noise(), options)
        if mask is None:
            xp, device = self.dynamics.xp, self.dynamics.backend.device
            self._state = start
            self._elapsed = xp.zeros(self.num_envs, dtype=xp.int64, device=device)
            self._done = xp.zeros(self.num_envs, dtype=xp.bool, device=device)
        else:
            rows = self._restart(_Rows(self._state, self._elapsed, self._done), mask, start)
            self._state, self._elapsed, self._done = rows
        self._last_actions = None
        assert self._state is not None
        return self.dynamics.observe(self._state), self.dynamics.info(self._state)

    def _before_start(self, *, every_row: bool) -> None:
        """Take note that all rows, or some, are about to draw their starts; for faces that offer more."""

    def _check_mask(self, mask: Any) -> Array:
        if mask is None:
            return None
        if self._state is None:
            raise gym.error.ResetNeeded("the first reset() must start every row: give no reset_mask")
        mask = self.dynamics.backend.asarray(mask)
        if tuple(mask.shape) != (self.num_envs,) or not self.dynamics.xp.isdtype(mask.dtype, "bool"):
            raise ValueError(f"reset_mask has shape {tuple(mask.shape)} and dtype {mask.dtype}; it must be "
                             f"({self.num_envs},) and bool")  # fmt: skip
        return mask

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """Advance all rows; see ``gymnasium.vector.VectorEnv.step``.

        Raises:
            ValueError: if the actions have the wrong shape or kind of number, or (host arrays only) lie
                outside the space.
            gymnasium.error.ResetNeeded: before the first reset, or (DISABLED, host arrays only) while a row
                waits for its reset.
        """
        if self._state is None:
            raise gym.error.ResetNeeded("call reset() before step()")
        dynamics, mode = self.dynamics, self.autoreset_mode
        on_device = dynamics.backend.on_device
        if mode is AutoresetMode.DISABLED and not on_device and bool(self._done.any()):
            raise gym.error.ResetNeeded("rows that ended must be reset with options={'reset_mask': mask}")
        actions = check_actions(dynamics, actions, self.action_space, "actions")
        noise = dynamics.step_noise(self._rng, self.num_envs)
        before = _Rows(self._state, self._elapsed, self._done)
        if on_device:
            # Drawing starts for every row is cheaper than waiting to learn whether any ended.
            no_start = mode is AutoresetMode.DISABLED or self._never_ends
            start = None if no_start else self._reset_noise()
            after, said = self._advance(before, actions, noise, start)
        else:
            after, said = self._advance_where_needed(before, actions, noise)
        self._state, self._elapsed, self._done = after
        self._last_actions = actions
        return said

    @property
    def _never_ends(self) -> bool:
        return self.dynamics.endless and self.max_episode_steps is None

    def _reset_noise(self) -> Noise:
        return self.dynamics.reset_noise(self._rng, self.num_envs)

    def _move(self, before: _Rows, actions: Array, noise: Noise) -> tuple[_Rows, Array, Array, Array]:
        """Step every row; return it, what it pays, and how it ended, before any restart."""
        xp = self.dynamics.xp
        state, rewards, terminated = self.dynamics.step(before.state, actions, noise)
        elapsed = before.elapsed + 1
        if self.max_episode_steps is None:
            truncated = xp.zeros_like(terminated)
        else:
            truncated = elapsed >= self.max_episode_steps
        if self.autoreset_mode is AutoresetMode.NEXT_STEP:  # where a row ended, this step is its restart
            running = ~before.done
            rewards = xp.where(running, rewards, xp.zeros_like(rewards))
            terminated, truncated = terminated & running, truncated & running
        return _Rows(state, elapsed, terminated | truncated), rewards, terminated, truncated

    def _restart(self, rows: _Rows, mask: Array, start: State) -> _Rows:
        """Return the rows, those of the mask at their start."""
        where = self.dynamics.xp.where
        state = {
            name: where(mask.reshape((-1,) + (1,) * (value.ndim - 1)), start[name], value)
            for name, value in rows.state.items()
        }
        running = ~mask
        return _Rows(state, rows.elapsed * running, rows.done & running)

    def _advance_all(self, before: _Rows, actions: Array, noise: Noise, start_noise: Noise | None) -> _Step:
        """Step, and restart what ended, without a look at any value; nothing here is random."""
        dynamics, infos = self.dynamics, {}
        after, rewards, terminated, truncated = self._move(before, actions, noise)
        if self.autoreset_mode is AutoresetMode.SAME_STEP and not self._never_ends:
            infos = self._final(after)
        if start_noise is not None:
            ended = after.done if self.autoreset_mode is AutoresetMode.SAME_STEP else before.done
            after = self._restart(after, ended, dynamics.initial(start_noise))
        infos = {**dynamics.info(after.state), **infos}
        return after, (dynamics.observe(after.state), rewards, terminated, truncated, infos)

    def _final(self, rows: _Rows) -> dict[str, Any]:
        """Return what SAME_STEP says of all rows before some restart, and which do."""
        infos = {"final_obs": self.dynamics.observe(rows.state), "_final_obs": rows.done}
        report = self.dynamics.info(rows.state)
        return {**infos, "final_info": report, "_final_info": rows.done} if report else infos

    def _advance_where_needed(self, before: _Rows, actions: Array, noise: Noise) -> _Step:
        """:meth:`_advance_all` on the host, where starts are drawn only when some row needs one."""
        dynamics, infos = self.dynamics, {}
        after, rewards, terminated, truncated = self._move(before, actions, noise)
        ended = after.done
        if self.autoreset_mode is AutoresetMode.NEXT_STEP:
            ended = before.done
        elif self.autoreset_mode is AutoresetMode.SAME_STEP and bool(ended.any()):
            infos = self._final(after)
        if self.autoreset_mode is not AutoresetMode.DISABLED and bool(ended.any()):
            after = self._restart(after, ended, dynamics.initial(self._reset_noise()))
        infos = {**dynamics.info(after.state), **infos}
        return after, (dynamics.observe(after.state), rewards, terminated, truncated, infos)

    def render(self) -> tuple[Any, ...] | None:
        """Return one picture [height, width, 3] per row."""
        if self.render_mode is None:
            gym.logger.warn('render() needs gym.make_vec(..., render_mode="rgb_array")')
            return None
        if self._state is None:
            raise gym.error.ResetNeeded("call reset() before render()")
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
        """Continue from what :meth:`state_dict` returned.

        Raises:
            ValueError: if it comes from another environment or number of rows.
        """
        backend = self.dynamics.backend
        self._state = restored_state(self.dynamics, state["state"], self.num_envs)
        self._elapsed, self._done = backend.asarray(state["elapsed"]), backend.asarray(state["done"])
        self._rng = backend.random(0)
        self._rng.set_state(state["rng"])
        self._last_actions = None
