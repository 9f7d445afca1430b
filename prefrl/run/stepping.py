"""Stepping an environment, whatever its face, and keeping account of the episodes."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
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
from prefrl.envs.wrappers.stock import StockAugmentation

EPISODE_WINDOW = 100
"""Episodes that ``rollout/ep_rew_mean`` and ``rollout/ep_len_mean`` are the means of, as in SB3."""


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
        self.policy = policy
        self.listener = listener
        self.seed = seed
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
        env = agent.get_env()
        if env is None:
            raise ValueError("the agent has no environment to learn in; give one: load(path, env=...)")
        return cls(env, agent, agent, seed=agent.seed)

    def reset(self, timesteps: int = 0) -> None:
        """Start episodes in all rows, seeded by the seed and the timesteps so far: same seed, same run."""
        self._start(timesteps)
        if self.listener is not None:
            self.listener.restarted()

    def _start(self, timesteps: int) -> None:
        self.timesteps = timesteps
        sequence = np.random.SeedSequence([self.seed, timesteps])
        self.obs, _ = self.env.reset(seed=int(sequence.generate_state(1)[0]))
        part = next(iter(self.obs.values())) if isinstance(self.obs, dict) else self.obs
        self.on_device = isinstance(part, Tensor)
        self._refuse_non_finite("observation", self.obs)
        self.episodes: Episodes
        if self.on_device:
            self.ended: Any = torch.zeros(self.num_envs, dtype=torch.bool, device=part.device)
            self.episodes = DeviceEpisodes(self.num_envs, part.device)
        else:
            self.ended = np.zeros(self.num_envs, dtype=np.bool_)
            self.episodes = HostEpisodes(self.num_envs)

    def step(self) -> dict[str, Any]:
        """Step every row once; return what callbacks may look at, under SB3's names."""
        if self.mode is AutoresetMode.DISABLED and (self.on_device or self.ended.any()):
            self.obs, _ = self.env.reset(options={"reset_mask": self.ended})
            self._refuse_non_finite("observation", self.obs)
        obs = map_obs(self._tensor, self.obs)
        with torch.no_grad():
            actions = self.policy.act(obs, deterministic=self.deterministic)
        taken = actions if self.on_device else actions.cpu().numpy()
        next_obs, rewards, terminations, truncations, infos = self.env.step(taken)
        successors = successor_obs(self.mode, next_obs, infos)
        self._refuse_non_finite("reward", rewards)
        self._refuse_non_finite("observation", successors)
        if successors is not next_obs:
            self._refuse_non_finite("observation", next_obs)
        mask = transition_mask(self.mode, self.ended)
        transitions = Transitions(
            obs=obs,
            actions=actions,
            rewards=self._tensor(rewards),
            next_obs=map_obs(self._tensor, successors),
            terminations=self._tensor(terminations),
            truncations=self._tensor(truncations),
            mask=self._tensor(mask),
            infos=self._infos(infos),
        )
        if self.listener is not None:
            self.listener.observe(transitions)
        self.obs, self.ended = next_obs, terminations | truncations
        self.episodes.add(rewards, mask, self.ended)
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
            if part.dtype.kind == "f" and not np.isfinite(part).all():
                wrong = part[~np.isfinite(part)][0]
                raise FloatingPointError(f"the environment's {what} is {wrong} after timestep "
                                         f"{self.timesteps}; {what}s must be finite")  # fmt: skip

    def _infos(self, infos: Mapping[str, Any]) -> dict[str, Tensor]:
        keys = () if self.listener is None else self.listener.info_keys
        if not keys:
            return {}
        if isinstance(self.env, OneRow):
            found = step_infos(keys, infos.get("final_info", infos))
            return {key: self._tensor(np.array([value])) for key, value in found.items()}
        return {key: self._tensor(value) for key, value in step_infos(keys, infos).items()}

    def _tensor(self, values: Any) -> Tensor:
        # from_numpy: six times a step, as_tensor's search for what it was given is felt
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
        while isinstance(env, (PassiveEnvChecker, OrderEnforcing, TimeLimit)):
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
        flags = np.array([[terminated], [truncated]], dtype=np.bool_)
        return self._row(obs), np.array([reward], dtype=np.float64), flags[0], flags[1], infos

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


class Episodes(Protocol):
    """Account of the episodes' returns and lengths."""

    def add(self, rewards: Any, mask: Any, ended: Any) -> None:
        """Take in rewards, which rows are transitions, and which episodes ended, all [n]."""

    def totals(self) -> Tensor:
        """Return [3]: sum of returns, sum of lengths and number of the episodes to report."""

    def reported(self) -> None:
        """Take note that the totals were logged."""

    def state_dict(self) -> dict[str, Any]:
        """Return everything a bit-equal continuation needs."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned."""


class HostEpisodes:
    """:class:`Episodes` in host memory: reports the last :data:`EPISODE_WINDOW` episodes."""

    def __init__(self, num_envs: int) -> None:
        self._returns, self._lengths = np.zeros(num_envs), np.zeros(num_envs)
        self._recent: deque[tuple[float, float]] = deque(maxlen=EPISODE_WINDOW)

    def add(self, rewards: Any, mask: Any, ended: Any) -> None:
        """See :class:`Episodes`."""
        self._returns += rewards * mask
        self._lengths += mask
        for row in np.flatnonzero(ended):
            self._recent.append((float(self._returns[row]), float(self._lengths[row])))
            self._returns[row] = self._lengths[row] = 0.0

    def totals(self) -> Tensor:
        """See :class:`Episodes`."""
        sums = np.array(self._recent).sum(0) if self._recent else np.zeros(2)
        return torch.tensor([*sums, len(self._recent)], dtype=torch.float64)

    def reported(self) -> None:
        """See :class:`Episodes`; the window slides on."""

    def state_dict(self) -> dict[str, Any]:
        """See :class:`Episodes`."""
        return {"returns": self._returns, "lengths": self._lengths, "recent": list(self._recent)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :class:`Episodes`."""
        self._returns, self._lengths = state["returns"].numpy(), state["lengths"].numpy()
        self._recent.extend((episode[0], episode[1]) for episode in state["recent"])


class DeviceEpisodes:
    """:class:`Episodes` on a device: reports the episodes that ended since the last report.

    (With thousands of rows, the last hundred episodes would be the shortest ones.)
    """

    def __init__(self, num_envs: int, device: torch.device) -> None:
        # Rows: returns, lengths, and ones, so that one product with `ended` gives all three totals.
        self._running = torch.zeros(3, num_envs, dtype=torch.float64, device=device)
        self._running[2] = 1.0
        self._totals = torch.zeros(3, dtype=torch.float64, device=device)

    def add(self, rewards: Any, mask: Any, ended: Any) -> None:
        """See :class:`Episodes`."""
        running = self._running
        running[0].addcmul_(rewards, mask)
        running[1].add_(mask)
        over = ended.to(running.dtype)
        self._totals.addmv_(running, over)
        running[:2].mul_(1.0 - over)

    def totals(self) -> Tensor:
        """See :class:`Episodes`."""
        return self._totals

    def reported(self) -> None:
        """See :class:`Episodes`."""
        self._totals.zero_()

    def state_dict(self) -> dict[str, Any]:
        """See :class:`Episodes`."""
        return {"running": self._running, "totals": self._totals}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :class:`Episodes`."""
        self._running.copy_(state["running"])
        self._totals.copy_(state["totals"])
