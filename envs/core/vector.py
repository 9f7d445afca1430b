"""The vector face of any dynamics, on the host or on a device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import gymnasium as gym
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from .backend import Array, Backend, Noise, State, select, state_rows
from .checks import check_actions, check_count, check_seed, restored_state
from .dynamics import Dynamics, Episodes
from .face import Face
from .sources import Source, make_source


class _Rows(NamedTuple):
    """Where the rows of a batch stand."""

    state: Any
    elapsed: Array
    """Steps [n] of the running episode."""

    done: Array
    """bool [n]: the row ended, and has not started anew."""


_Step = tuple[_Rows, tuple[Array, Array, Array, Array, dict[str, Any]]]
"""Where the rows stand after a step, and what the step returns."""


class BatchedEnv(Face, gym.vector.VectorEnv[Any, Any, Any]):
    """A ``gymnasium.vector.VectorEnv`` that steps all rows of a :class:`Dynamics` at once.

    The public attributes of the dynamics are its own too.

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
        dynamics: the world; or its class, or where that is, "module:Class".
        num_envs: number of rows.
        backend: where the arrays of a world live that is made here; None: NumPy's, on the host.
        max_episode_steps: truncate after this many steps (None: never).
        autoreset_mode: one of ``gymnasium.vector.AutoresetMode`` or its value as a string.
        num_streams: blocks of as many rows whose noise comes from generators of their own, and so does not
            hang on the other blocks: one for each of many learners, say. None: one generator for all rows.
        render_mode: None or "rgb_array".
        **settings: the class's arguments.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012
        "render_modes": ["rgb_array"],
        "render_fps": 8,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    def __init__(
        self,
        dynamics: Dynamics | type[Dynamics] | str,
        num_envs: int = 1,
        *,
        backend: Backend | None = None,
        max_episode_steps: int | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        num_streams: int | None = None,
        render_mode: str | None = None,
        **settings: Any,
    ) -> None:
        self._show(dynamics, settings if backend is None else {**settings, "backend": backend}, render_mode)
        dynamics = self.dynamics
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
        self.single_observation_space = dynamics.single_observation_space
        self.single_action_space = dynamics.single_action_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.num_streams = None if num_streams is None else check_count("num_streams", num_streams)
        if self.num_streams is not None and self.num_envs % self.num_streams:
            raise ValueError(f"num_streams is {num_streams}; it must divide the {num_envs} rows")
        self._source = self._seeded(None)
        self._tells_states = False
        self._advance = dynamics.backend.compiled(self._advance_all)
        self._state: State | None = None
        self._last_actions: Array = None

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Start episodes in all rows, or in the rows of ``options["reset_mask"]`` (bool ``[n]``).

        With ``options["shared_starts"]`` g, each g rows next to each other start by the noise of the first.

        All rows draw from one generator, which a list of seeds seeds as a whole; with several streams each
        takes the seed of its first row.

        Raises:
            ValueError: for a wrong seed, mask or option.
            gymnasium.error.ResetNeeded: if the first reset has a mask.
        """
        options = dict(options or {})
        mask = self._check_mask(options.pop("reset_mask", None))
        shared = self._check_shared(options.pop("shared_starts", None))
        seeds = check_seed(seed, self.num_envs)
        if seeds is not None:
            self._source = self._seeded(seeds)
        if mask is not None and not self.dynamics.backend.on_device and bool(mask.all()):
            mask = None
        keeps = mask is None and self.dynamics.foretells and self.num_streams is None and shared == 1
        self._start_rng = self._source.get_state() if keeps else None
        noise = self._source.reset_noise()
        if shared > 1:
            repeat = self.dynamics.xp.repeat
            noise = {name: repeat(values[::shared], shared, axis=0) for name, values in noise.items()}
        start = self.dynamics.initial(noise, options)
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
        told = self._told(self._state, self._state)
        return self.dynamics.observe(self._state), {**self.dynamics.info(self._state), **told}

    def tell_states(self) -> None:
        """Report from now on ``infos["simulator_state"]``: float64 [n, 2, D], before and after a step.

        After a step, but before any restart: rows that are transitions are right in every autoreset mode; see
        ``prefrl.envs.wrappers.SimulatorStates``.
        """
        self._tells_states = True
        self._advance = self.dynamics.backend.compiled(self._advance_all)

    def _told(self, before: State, after: State) -> dict[str, Array]:
        if not self._tells_states:
            return {}
        return {"simulator_state": state_rows(before, after)}

    def _seeded(self, seed: int | list[int] | None) -> Source:
        return make_source(self.dynamics, self.num_envs, self.num_streams, seed)

    def _episodes(self) -> Episodes:
        restarts = self.autoreset_mode is not AutoresetMode.DISABLED
        return Episodes(self._state, self._start_rng, self.num_envs, restarts, self.max_episode_steps)

    def _check_shared(self, shared: Any) -> int:
        """Return how many rows share a start: 1 where nothing is said."""
        count = 1 if shared is None else check_count("shared_starts", shared)
        if self.num_envs % count:
            raise ValueError(f"shared_starts is {shared}; it must divide the {self.num_envs} rows")
        return count

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
        noise = self._source.step_noise()
        before = _Rows(self._state, self._elapsed, self._done)
        if on_device or self._source.eager:
            # Drawing starts for every row is cheaper than waiting to learn whether any ended.
            no_start = mode is AutoresetMode.DISABLED or self._never_ends
            start = None if no_start else self._source.reset_noise()
            after, said = self._advance(before, actions, noise, start)
        else:
            after, said = self._advance_where_needed(before, actions, noise)
        self._state, self._elapsed, self._done = after
        self._last_actions = actions
        return said

    @property
    def _never_ends(self) -> bool:
        return self.dynamics.endless and self.max_episode_steps is None

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
        xp = self.dynamics.xp
        narrow = (xp.int8, xp.int16, xp.int32)
        state = {}
        for name, value in rows.state.items():
            choose = select if value.dtype in narrow else xp.where
            state[name] = choose(mask.reshape((-1,) + (1,) * (value.ndim - 1)), start[name], value)
        running = ~mask
        return _Rows(state, rows.elapsed * running, rows.done & running)

    def _advance_all(self, before: _Rows, actions: Array, noise: Noise, start_noise: Noise | None) -> _Step:
        """Step, and restart what ended, without a look at any value; nothing here is random."""
        dynamics, infos = self.dynamics, {}
        after, rewards, terminated, truncated = self._move(before, actions, noise)
        told = self._told(before.state, after.state)
        if self.autoreset_mode is AutoresetMode.SAME_STEP and not self._never_ends:
            infos = self._final(after)
        if start_noise is not None:
            ended = after.done if self.autoreset_mode is AutoresetMode.SAME_STEP else before.done
            after = self._restart(after, ended, dynamics.initial(start_noise))
        infos = {**dynamics.info(after.state), **infos, **told}
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
        told = self._told(before.state, after.state)
        ended = after.done
        if self.autoreset_mode is AutoresetMode.NEXT_STEP:
            ended = before.done
        elif self.autoreset_mode is AutoresetMode.SAME_STEP and bool(ended.any()):
            infos = self._final(after)
        if self.autoreset_mode is not AutoresetMode.DISABLED and bool(ended.any()):
            after = self._restart(after, ended, dynamics.initial(self._source.reset_noise()))
        infos = {**dynamics.info(after.state), **infos, **told}
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
            "rng": self._source.get_state(),
            **self._start_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned.

        Raises:
            ValueError: if it comes from another environment or number of rows.
        """
        backend = self.dynamics.backend
        self._state = restored_state(self.dynamics, state["state"], self.num_envs)
        self._elapsed, self._done = backend.asarray(state["elapsed"]), backend.asarray(state["done"])
        self._source = self._seeded(0)
        self._source.set_state(state["rng"])
        self._load_start_state(state)
        self._last_actions = None
