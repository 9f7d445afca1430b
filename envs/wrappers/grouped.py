"""Groups of rows that start alike, for agents that measure episodes against each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import array_api_compat
import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

from prefrl.envs.core.backend import Array
from prefrl.envs.core.checks import check_count
from prefrl.envs.core.vector import BatchedEnv


class GroupedStarts(gym.vector.VectorWrapper):
    """Rows that lie next to each other, ``group_size`` at a time, start together in the same state.

    A row that ended waits until all of its group have ended; then all of them start anew. To whoever steps
    them this is Gymnasium's NEXT_STEP: a row that waits goes on saying that it ended, with reward 0, and
    neither that nor the step of its restart is a transition. (What it observes meanwhile is of no episode.)

    How a start is shared:

    - of prefrl's own environments, rows have the same noise of the start, and noise of their own afterwards;
    - others (``gym.make_vec``) are reset with the same seed, another one at every restart. An environment
      that draws its steps by the generator of its start gives a group's rows the same luck then, for equal
      actions: their returns differ by less than those of independent episodes.

    Args:
        env: a vector environment with ``autoreset_mode`` DISABLED, on the host or on a device.
        group_size: G, rows of a group, which divides those there are.

    Raises:
        ValueError: for another mode, or a number that does not divide the rows.

    Attributes:
        group_size: G.
    """

    def __init__(self, env: gym.vector.VectorEnv[Any, Any, Any], group_size: int) -> None:
        super().__init__(env)
        mode = AutoresetMode(env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP))
        if mode is not AutoresetMode.DISABLED:
            raise ValueError(f"env has autoreset_mode {mode.value}; GroupedStarts takes "
                             f"{AutoresetMode.DISABLED.value}, since it restarts rows itself")  # fmt: skip
        self.metadata = {**env.metadata, "autoreset_mode": AutoresetMode.NEXT_STEP}
        self.group_size = check_count("group_size", group_size)
        if self.num_envs % self.group_size:
            raise ValueError(f"group_size is {group_size}; it must divide the {self.num_envs} rows")
        self._own = isinstance(env.unwrapped, BatchedEnv)
        self._on_device = isinstance(env.unwrapped, BatchedEnv) and env.unwrapped.dynamics.backend.on_device
        self._seeds: list[int] = []
        self._restarts: Any = None
        self._terminated: Array = None
        self._truncated: Array = None

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start episodes in all rows.

        Raises:
            ValueError: for a mask, since groups start when they are over.
        """
        options = dict(options or {})
        if "reset_mask" in options:
            raise ValueError("reset_mask is given; a group's rows start together, when all have ended")
        if self._own:
            shared = {**options, "shared_starts": self.group_size}
            obs, infos = self.env.reset(seed=seed, options=shared)  # type: ignore[arg-type]
        else:
            self._take_seeds(seed)
            obs, infos = self.env.reset(seed=self._next_seeds(None), options=options or None)  # type: ignore[arg-type]
        self._terminated = self._truncated = None
        return obs, infos

    def _take_seeds(self, seed: int | list[int | None] | None) -> None:
        """Keep a seed for each group: that of its first row."""
        groups = range(0, self.num_envs, self.group_size)
        if seed is None:
            drawn = np.random.SeedSequence().generate_state(len(groups))
            self._seeds = [int(each) for each in drawn]
        else:
            firsts = seed if isinstance(seed, list) else [seed + row for row in range(self.num_envs)]
            self._seeds = [int(firsts[row] or 0) for row in groups]
        self._restarts = np.zeros(len(groups), dtype=np.int64)

    def _next_seeds(self, mask: Any) -> list[int]:
        """Return a seed for each row, a group's alike, and count a restart of the groups of the mask."""
        found = [
            int(np.random.SeedSequence([seed, int(count)]).generate_state(1)[0])
            for seed, count in zip(self._seeds, self._restarts, strict=True)
        ]
        self._restarts += 1 if mask is None else mask[:: self.group_size]
        return [seed for seed in found for _ in range(self.group_size)]

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Advance all rows; see the class."""
        obs, rewards, terminated, truncated, infos = self.env.step(actions)
        xp = array_api_compat.array_namespace(rewards)
        must = terminated | truncated  # begin something, even where it is thrown away
        restart = xp.zeros_like(must)
        if self._terminated is not None:
            waiting = self._terminated | self._truncated
            over = xp.all(waiting.reshape((-1, self.group_size)), axis=1)
            restart = xp.repeat(over, self.group_size)
            rewards = xp.where(waiting, xp.zeros_like(rewards), rewards)
            terminated = xp.where(waiting, self._terminated & ~restart, terminated)
            truncated = xp.where(waiting, self._truncated & ~restart, truncated)
        self._terminated, self._truncated = terminated, truncated
        must = must | restart
        if self._on_device or bool(must.any()):
            started = self._started(must, restart)
            obs = {name: _where(restart, started[name], part) for name, part in obs.items()} if isinstance(
                obs, dict) else _where(restart, started, obs)  # fmt: skip
        return obs, rewards, terminated, truncated, infos

    def _started(self, must: Array, restart: Array) -> Any:
        """Reset rows; return what is observed then."""
        if self._own:
            options: dict[str, Any] = {"reset_mask": must, "shared_starts": self.group_size}
            return self.env.reset(options=options)[0]
        return self.env.reset(seed=self._next_seeds(restart), options={"reset_mask": must})[0]  # type: ignore[arg-type]

    def state_dict(self) -> dict[str, Any] | None:
        """Return everything a bit-equal continuation needs; None of other environments than prefrl's."""
        inner: Any = self.env if hasattr(self.env, "state_dict") else self.env.unwrapped
        if not self._own or (state := inner.state_dict()) is None:
            return None
        return {"env": state, "terminated": self._terminated, "truncated": self._truncated}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned."""
        inner: Any = self.env if hasattr(self.env, "load_state_dict") else self.env.unwrapped
        inner.load_state_dict(state["env"])
        backend = inner.unwrapped.dynamics.backend
        self._terminated, self._truncated = (
            None if state[name] is None else backend.asarray(state[name])
            for name in ("terminated", "truncated")
        )


def _where(rows: Array, first: Array, second: Array) -> Array:
    xp = array_api_compat.array_namespace(first)
    return xp.where(rows.reshape((-1,) + (1,) * (first.ndim - 1)), first, second)
