"""Stepping an environment, whatever its face, and keeping account of the episodes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit
from torch import Tensor

from prefrl.agents.base import Agent
from prefrl.data import Transitions, map_obs, step_infos, successor_obs, transition_mask
from prefrl.data.episodes import DeviceEpisodes, Episodes, HostEpisodes
from prefrl.envs.core.vector import BatchedEnv
from prefrl.envs.wrappers.simulator_states import SimulatorStates
from prefrl.envs.wrappers.stock import StockAugmentation


class Policy(Protocol):
    """What acts: every agent of prefrl, and anything else with these two."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    def act(self, obs: Any, *, deterministic: bool = False) -> Tensor:
        """Return actions [n, ...] for observations [n, ...] (or a dict of them), both on the device."""


class Listener(Protocol):
    """What is told of every step: every agent of prefrl; the base of anything else that is."""

    info_keys: tuple[str, ...] = ()
    """What it needs of the environment's infos."""

    def observe(self, transitions: Transitions) -> None:
        """Take in one step of the environments."""

    def restarted(self) -> None:
        """Take note that the environment was reset, perhaps in mid-episode."""
        return  # most do not mind


class Stepper:
    """Steps an environment by a policy, and tells a listener what happened.

    A scalar environment becomes a vector environment of one row. An environment whose observations are
    tensors is taken to live on the policy's device: nothing is copied to the host, nothing waits.

    Args:
        env: a scalar, vector or on-device environment.
        policy: what acts.
        listener: what is told; None: nobody.
        seed: seeds the environment, together with the timestep that it is reset at.
        deterministic: whether the policy's deterministic actions are taken.

    Attributes:
        timesteps: steps of rows since the count began: that of :meth:`reset`.
    """

    def __init__(
        self,
        env: Any,
        policy: Policy,
        listener: Listener | None = None,
        *,
        seed: int = 0,
        deterministic: bool = False,
    ) -> None:
        self.env = env if isinstance(env, gym.vector.VectorEnv) else OneRow(env)
        _refuse_unforgetful(self.env)
        # Others may write their next step to the arrays that they returned, or to those they were given.
        self._borrowed = not isinstance(self.env, (OneRow, BatchedEnv))
        self.policy = policy
        self.listener = listener
        self.seeds = [seed]
        self.deterministic = deterministic
        self.timesteps = 0
        self.mode = AutoresetMode(self.env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP))
        self.num_envs = int(self.env.num_envs)

    @classmethod
    def of_agent(cls, agent: Agent) -> Stepper:
        """Return a stepper of an agent's own environment, which the agent acts in and is told of.

        Raises:
            ValueError: if the agent has none.
        """
        if agent.get_env() is None:
            raise ValueError("the agent has no environment to learn in; give one: load(path, env=...)")
        stepper = cls(agent.env, agent, agent, seed=agent.seed)
        stepper.seeds = agent.seeds
        return stepper

    def reset(self, timesteps: int = 0) -> None:
        """Start episodes in all rows, seeded by the seed and the timesteps so far: same seed, same run."""
        self._start(timesteps)
        if self.listener is not None:
            self.listener.restarted()

    def _start(self, timesteps: int) -> None:
        self.timesteps = timesteps
        obs, _ = self._reset_seeded(self._seeds(timesteps))
        self.obs = self._kept(obs)
        self._told: dict[str, Tensor] = {}
        self._shown: tuple[Any, Any] = (None, None)
        """Observations that the listener was shown last, as the environment gave them and as tensors."""
        part = next(iter(self.obs.values())) if isinstance(self.obs, dict) else self.obs
        self.on_device = isinstance(part, Tensor)
        self._all_on_cpu = not self.on_device and self.policy.device.type == "cpu"
        # To look at what ended would wait for the device; what a learner draws must not hang on the others.
        self._resets_always = self.on_device or getattr(self.env, "num_streams", None) is not None
        self._refuse_non_finite("observation", self.obs)
        self.episodes: Episodes
        if self.on_device:
            self.ended: Any = torch.zeros(self.num_envs, dtype=torch.bool, device=part.device)
            self.episodes = DeviceEpisodes(self.num_envs, part.device)
        else:
            self.ended = np.zeros(self.num_envs, dtype=np.bool_)
            self.episodes = HostEpisodes(self.num_envs)
        self._mask_rows(self.ended)

    def _mask_rows(self, previous_done: Any) -> None:
        """Say which rows of the step to come are transitions; only with NEXT_STEP it is not always all."""
        self._mask = transition_mask(self.mode, previous_done)
        self._mask_shown = self._tensor(self._mask)

    def _reset_seeded(self, seeds: int | list[int]) -> Any:
        try:
            return self.env.reset(seed=seeds)  # type: ignore[arg-type]
        except (gym.error.Error, TypeError, ValueError) as error:
            if len(self.seeds) == 1:
                raise
            raise ValueError(
                f"env takes no list of seeds ({error}); {len(self.seeds)} learners have one for each row: "
                "make it with vectorization_mode='sync'"
            ) from error

    def _seeds(self, timesteps: int) -> int | list[int]:
        """Return what seeds the rows: one number, or for several learners a number for each row."""
        rows = self.num_envs // len(self.seeds)
        firsts = [int(np.random.SeedSequence([seed, timesteps]).generate_state(1)[0]) for seed in self.seeds]
        return firsts[0] if len(firsts) == 1 else [first + row for first in firsts for row in range(rows)]

    def step(self) -> dict[str, Any]:
        """Step every row once; return what callbacks may look at, under SB3's names."""
        if self.mode is AutoresetMode.DISABLED and (self._resets_always or self.ended.any()):
            self.obs = self._kept(self.env.reset(options={"reset_mask": self.ended})[0])
            self._refuse_non_finite("observation", self.obs)
        # Four times a step it is felt if what is on the CPU is asked to move there.
        brought: Callable[[Any], Tensor] = torch.from_numpy if self._all_on_cpu else self._tensor
        # What was shown as a successor need not be brought again.
        obs = self._shown[1] if self._shown[0] is self.obs else map_obs(brought, self.obs)
        with torch.no_grad():
            actions = self.policy.act(obs, deterministic=self.deterministic)
        taken = actions if self.on_device else actions.cpu().numpy().copy()
        if self._borrowed and self.on_device:
            taken = actions.clone()  # environments clip actions where they stand
        next_obs, rewards, terminations, truncations, infos = self.env.step(taken)
        if self._borrowed:
            next_obs, rewards = self._kept(next_obs), _copied(rewards)
            terminations, truncations = _copied(terminations), _copied(truncations)
        successors = successor_obs(self.mode, next_obs, infos) if "final_obs" in infos else next_obs
        self._refuse_non_finite("reward", rewards)
        self._refuse_non_finite("observation", successors)
        if successors is not next_obs:
            self._refuse_non_finite("observation", next_obs)
        if self.mode is AutoresetMode.NEXT_STEP:
            self._mask_rows(self.ended)
        mask = self._mask
        transitions = Transitions(
            obs=obs,
            actions=actions,
            rewards=brought(rewards),
            next_obs=map_obs(brought, successors),
            terminations=brought(terminations),
            truncations=brought(truncations),
            mask=self._mask_shown,
            infos=self._infos(infos, mask),
        )
        if self.listener is not None:
            self.listener.observe(transitions)
        self._shown = (successors, transitions.next_obs)
        self.obs, self.ended = next_obs, terminations | truncations
        # Rows that wait for their group go on saying that they ended.
        again = self.mode is AutoresetMode.NEXT_STEP
        self.episodes.add(rewards, mask, self.ended & mask if again else self.ended)
        self.timesteps += self.num_envs
        return {
            "actions": taken,
            "rewards": rewards,
            "new_obs": next_obs,
            "dones": self.ended,
            "infos": infos,
            "transitions": transitions,
        }

    def _refuse_non_finite(self, what: str, values: Any) -> None:
        """Raise FloatingPointError for numbers on the host that would spread over all that is learned."""
        if self.on_device:
            return
        for part in values.values() if isinstance(values, dict) else (values,):
            if part.dtype.kind == "f" and not _all_finite(part):
                wrong = part[~np.isfinite(part)][0]
                raise FloatingPointError(f"the environment's {what} is {wrong} after timestep "
                                         f"{self.timesteps}; {what}s must be finite")  # fmt: skip

    def _kept(self, obs: Any) -> Any:
        """Return observations that stay as they are when the environment goes on."""
        return map_obs(_copied, obs) if self._borrowed else obs

    def _infos(self, infos: Mapping[str, Any], mask: Any) -> dict[str, Tensor]:
        keys = () if self.listener is None else self.listener.info_keys
        if not keys:
            return {}
        if self._told and not self.on_device and not mask.any():
            # All rows restart, and tell of their resets; what stands in these rows does not count.
            return self._told
        if isinstance(self.env, OneRow):
            found = step_infos(keys, infos.get("final_info", infos))
            rows = {key: np.array([value]) for key, value in found.items()}
        else:
            rows = step_infos(keys, infos)
        self._told = {key: self._tensor(_copied(_numbers(key, value))) for key, value in rows.items()}
        return self._told

    def _tensor(self, values: Any) -> Tensor:
        tensor: Tensor = values if isinstance(values, Tensor) else torch.from_numpy(values)
        return tensor.to(self.policy.device)

    def state_dict(self) -> dict[str, Any] | None:
        """Return everything a bit-equal continuation needs; None for environments that cannot tell theirs."""
        env = self._stateful()
        if not hasattr(env, "state_dict") or (state := env.state_dict()) is None:
            return None
        return {
            "env": state,
            "obs": self.obs,
            "ended": self.ended,
            "episodes": self.episodes.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any] | None, timesteps: int = 0) -> None:
        """Continue from a checkpoint's copy of :meth:`state_dict`; from None, with new episodes.

        Args:
            state: the copy.
            timesteps: how many there were.
        """
        if state is None or not hasattr(self._stateful(), "load_state_dict"):
            self.reset(timesteps)
            return
        self._start(timesteps)
        self._stateful().load_state_dict(state["env"])
        self.obs, self.ended = map_obs(self._stored, state["obs"]), self._stored(state["ended"])
        self.episodes.load_state_dict(state["episodes"])

    def _stateful(self) -> Any:
        """Return what holds the environment's state: a wrapper with one of its own, or the innermost."""
        return self.env if hasattr(self.env, "state_dict") else self.env.unwrapped

    def _stored(self, values: Tensor) -> Any:
        """Return values of a checkpoint where the environment has its own."""
        return values.to(self.ended.device) if self.on_device else values.numpy()


def _all_finite(values: Any) -> bool:
    """Say whether all numbers of an array are finite; of few as plain numbers, without NumPy's arithmetic."""
    if values.size <= 16:
        return all(map(math.isfinite, values.ravel().tolist()))
    return bool(np.isfinite(values).all())


def _copied(values: Any) -> Any:
    return values.clone() if isinstance(values, Tensor) else np.array(values)


def _numbers(key: str, values: Any) -> Any:
    """Return what an info says of each row as an array of numbers, also where rows said it as lists."""
    if isinstance(values, Tensor) or values.dtype != np.object_:
        return values
    said = [value for value in values if value is not None]
    try:
        blank = np.zeros_like(np.asarray(said[0], dtype=np.float64))
        return np.stack([blank if value is None else np.asarray(value, dtype=np.float64) for value in values])
    except (IndexError, TypeError, ValueError):
        raise ValueError(f"the environment's info[{key!r}] is {values.tolist()}; it must be numbers, as many "
                         "for every row") from None  # fmt: skip


def _refuse_unforgetful(env: Any) -> None:
    """Raise ValueError for workers that reset once more in the step after a reset.

    With NEXT_STEP and without shared memory, those of Gymnasium's AsyncVectorEnv (1.4.0) do not forget at
    ``reset()`` that their episode had ended: their next step ignores the action and is no transition.
    """
    inner = env.unwrapped
    if not isinstance(inner, gym.vector.AsyncVectorEnv) or inner.shared_memory:
        return
    if inner.autoreset_mode is AutoresetMode.NEXT_STEP:
        raise ValueError("env is an AsyncVectorEnv with shared_memory=False and AutoresetMode.NEXT_STEP: it "
                         "ignores the first action after a reset; make it with SAME_STEP, or with shared "
                         "memory")  # fmt: skip


class OneRow(gym.vector.VectorEnv[Any, Any, Any]):
    """A scalar environment as a vector environment of one row, with the state of prefrl's own ones.

    It restarts in the step that ended an episode (SAME_STEP). Gymnasium's ``SyncVectorEnv`` does the same for
    any number of rows and any kind of space, at several times the price per step.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        self.env = env
        self.num_envs = 1
        self.metadata = {**env.metadata, "autoreset_mode": AutoresetMode.SAME_STEP}
        self.single_observation_space, self.single_action_space = env.observation_space, env.action_space
        self.observation_space = batch_space(env.observation_space, 1)
        self.action_space = batch_space(env.action_space, 1)
        self._limit: TimeLimit[Any, Any] | None = None
        self._stock = env if isinstance(env, StockAugmentation) else None
        env = env if self._stock is None else self._stock.env
        while isinstance(env, (PassiveEnvChecker, OrderEnforcing, SimulatorStates, TimeLimit)):
            self._limit = env if isinstance(env, TimeLimit) else self._limit
            env = env.env
        # None below a wrapper that may have a state of its own.
        self._own: Any = env if hasattr(env, "state_dict") and hasattr(env, "load_state_dict") else None

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode."""
        obs, info = self.env.reset(seed=seed, options=options)
        return self._row(obs), info

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step, and restart where the episode ended; its last observation is ``infos["final_obs"][0]``."""
        obs, reward, terminated, truncated, info = self.env.step(actions[0])
        infos: dict[str, Any] = info
        if terminated or truncated:
            infos = {"final_obs": self._row(obs), "_final_obs": np.array([True]), "final_info": info}
            obs, _ = self.env.reset()
        rows = [_one("reward", reward, np.float64), _one("terminated", terminated, np.bool_),
                _one("truncated", truncated, np.bool_)]  # fmt: skip
        return self._row(obs), *rows, infos

    def _row(self, obs: Any) -> Any:
        if isinstance(obs, dict):
            return {name: np.array([values]) for name, values in obs.items()}
        return np.array([obs], dtype=self.observation_space.dtype)

    def close_extras(self, **kwargs: Any) -> None:
        """Close the environment."""
        self.env.close()

    def state_dict(self) -> dict[str, Any] | None:
        """Return the state of the environment and of its time limit; None if it is not one of prefrl's."""
        if self._own is None:
            return None
        elapsed = None if self._limit is None else self._limit._elapsed_steps
        stock = None if self._stock is None else self._stock.stock_state()
        return {**self._own.state_dict(), "elapsed": elapsed, "stock": stock}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned."""
        if self._own is None:
            raise ValueError("the checkpoint holds the state of an environment of prefrl; this is another")
        self._own.load_state_dict(state)
        if self._limit is not None:
            self._limit._elapsed_steps = int(state["elapsed"])  # type: ignore[assignment]
        if self._stock is not None:
            self._stock.load_stock_state(state["stock"])


def _one(name: str, value: Any, dtype: Any) -> Any:
    """Return a number, or an array of one number, as an array [1]."""
    found = np.array([value], dtype=dtype)
    if found.size != 1:
        raise ValueError(f"the environment's {name} has shape {found.shape[1:]}; it must be one number")
    return found if found.ndim == 1 else found.reshape(1)
