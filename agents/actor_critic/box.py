"""Soft actor-critic as an agent: a replay on the device for :class:`SoftActorCritic`, where the algorithm is.

A gradient step is due after every environment step; in between, the policy acts, and what happens is kept.
Scalar, vector and on-device environments are the same to it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from prefrl.agents.base import Agent, mean_of
from prefrl.data import Transitions
from prefrl.data.off_policy import times_due
from prefrl.data.replay import ReplayBuffer, replay_state, restored_replay
from prefrl.functional.draws import uniform

from .soft_actor_critic import ActorCriticConfig, SoftActorCritic, check_counts


@dataclass(frozen=True)
class SACConfig(ActorCriticConfig):
    """Settings of :class:`SAC`."""

    buffer_size: int = 1_000_000
    """Transitions in the replay, over all environments together."""

    learning_starts: int = 100
    """Timesteps of uniform actions before learning starts."""

    train_freq: int = 1
    """Timesteps between two rounds of learning."""

    gradient_steps: int = 1
    """Gradient steps of each round."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, "buffer_size", "train_freq", "gradient_steps")
        if self.learning_starts < 0:
            raise ValueError(f"learning_starts is {self.learning_starts}; it must not be negative")


class BoxAgent:
    """What agents have in common that act in a bounded Box, scaled to (-1, 1) inside (mixin before Agent).

    Raises:
        ValueError: if observations or actions are of another kind, or actions unbounded.

    Attributes:
        observations: D, size of a flattened observation.
        actions: A, size of a flattened action.
    """

    config: Any
    device: torch.device
    observation_space: Any
    action_space: Any
    num_timesteps: int
    policy: SoftActorCritic
    replay: ReplayBuffer | None

    def _check_spaces(self) -> None:
        name, space, actions = type(self).__name__, self.observation_space, self.action_space
        if not isinstance(space, gym.spaces.Box) or not np.issubdtype(space.dtype, np.floating):
            raise ValueError(f"observation_space is {space}; {name} takes a Box of floating-point numbers")
        if not isinstance(actions, gym.spaces.Box) or not np.issubdtype(actions.dtype, np.floating):
            raise ValueError(f"action_space is {actions}; {name} takes a Box of floating-point numbers")
        with np.errstate(over="ignore"):
            bounded = np.isfinite(actions.high - actions.low).all()
        if not bounded:
            raise ValueError(f"action_space is {actions}; {name} takes a Box with finite bounds: wrap the "
                             "environment, in gymnasium.wrappers.TransformAction for example")  # fmt: skip
        if not (actions.low < actions.high).all():
            raise ValueError(f"action_space is {actions}; its low must be below its high")
        self.observations, self.actions = math.prod(space.shape), math.prod(actions.shape)
        self._low, self._high = (
            torch.stack([torch.full((), float(entry), device=self.device) for entry in values.flat]).view(
                actions.shape
            )
            for values in (actions.low, actions.high)
        )
        self._span = self._high - self._low

    def to_env(self, actions: Tensor) -> Tensor:
        """Return actions [n, A] in (-1, 1) in the environment's units [n, ...]."""
        scaled = self._low + 0.5 * (actions.view(-1, *self._low.shape) + 1.0) * self._span
        return torch.clamp(scaled, self._low, self._high)  # what is rounded may be beyond them

    def from_env(self, actions: Tensor) -> Tensor:
        """Return actions [n, ...] in the environment's units as [n, A] in [-1, 1]."""
        return (2.0 * (actions.to(torch.float32) - self._low) / self._span - 1.0).flatten(1)

    def act(self, obs: Tensor, *, deterministic: bool = False) -> Tensor:
        """Return actions [n, ...] for observations [n, ...]: uniform ones at first, then the policy's."""
        if not deterministic and self.num_timesteps < self.learning_starts:
            draws = uniform(self.policy.generator, len(obs), self.actions, device=self.device)
            return self.to_env(2.0 * draws - 1.0)
        flat = obs.to(torch.float32).flatten(1)
        return self.to_env(self.policy.act(flat, deterministic=deterministic))

    @property
    def learning_starts(self) -> int:
        """Timesteps of uniform actions."""
        return int(self.config.learning_starts)

    def kept(self, transitions: Transitions) -> Transitions:
        """Return transitions as a replay keeps them: flat in float32, actions in [-1, 1]."""
        return replace(
            transitions,
            obs=transitions.obs.to(torch.float32).flatten(1),
            actions=self.from_env(transitions.actions),
            next_obs=transitions.next_obs.to(torch.float32).flatten(1),
        )

    def restarted(self) -> None:
        """See :meth:`Agent.restarted`."""
        if self.replay is not None:
            self.replay.cut()

    def relabel(self, rewards: Tensor) -> None:
        """See :meth:`Agent.relabel`; what a model made up keeps its rewards until it is pushed out."""
        if self.replay is not None:
            self.replay.relabel(rewards)

    def observe(self, transitions: Transitions) -> None:
        """Keep one step of the environments."""
        if self.replay is None:
            self.replay = self._empty_replay(len(transitions.rewards))
        step = self.kept(transitions)
        self.replay.add(step)
        self.policy.moments.add(step.obs, step.mask)

    def _empty_replay(self, num_envs: int) -> ReplayBuffer:
        return ReplayBuffer(self.config.buffer_size, num_envs, gamma=self.config.gamma)

    def check(self) -> None:
        """See :meth:`Agent.check`: warns where the critics diverge."""
        self.policy.check()

    def result(self) -> dict[str, Any]:
        """Return the largest |Q| that there was."""
        return {"largest_q": self.policy.largest_q}


class SAC(BoxAgent, Agent):
    """Soft actor-critic; see the module's text.

    Args:
        env: an environment with a bounded Box of actions and a Box of observations, or
            :class:`prefrl.agents.base.Spaces`.
        config: settings.
        device: torch device, or "auto".
        seed: seeds networks, exploration and replay.

    Raises:
        ValueError: if a space is of another kind.

    Attributes:
        policy: the networks.
        replay: transitions so far; None before the first one.
    """

    config_class: ClassVar[type[SACConfig]] = SACConfig
    keeps_rewards = True
    advice = "a lower learning_rate or max_grad_norm = 10 may help"

    def __init__(
        self,
        env: Any,
        config: SACConfig | None = None,
        *,
        device: torch.device | str = "auto",
        seed: int = 0,
    ) -> None:
        super().__init__(env, config or SACConfig(), device=device, seed=seed)
        self._check_spaces()
        self.policy = SoftActorCritic(
            self.observations, self.actions, self.config, device=self.device, seed=seed
        )
        self.replay: ReplayBuffer | None = None
        self._learned_at = 0

    def update(self) -> dict[str, Tensor]:
        """Take the gradient steps that are due; see :meth:`Agent.update`."""
        config, before, now = self.config, self._learned_at, self.num_timesteps
        self._learned_at = now
        if now <= config.learning_starts or self.replay is None:
            return {}
        rounds = times_due(config.train_freq, max(before, config.learning_starts), now)
        replay, draws = self.replay, self.policy.generator
        return mean_of(
            self.policy.step(replay.sample(config.batch_size, draws))
            for _ in range(rounds * config.gradient_steps)
        )

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`Agent.state_dict`."""
        return {
            "policy": self.policy.state_dict(),
            "learned_at": self._learned_at,
            **replay_state(self.replay),
        }

    def saved_state(self) -> dict[str, Any]:
        """See :meth:`Agent.saved_state`; the replay stays behind, as with SB3."""
        return {**self.state_dict(), "replay": None}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :meth:`Agent.load_state_dict`; without a replay, learning goes on with an empty one."""
        self.policy.load_state_dict(state["policy"])
        self._learned_at = int(state["learned_at"])
        if state["replay"] is not None:
            self.replay = restored_replay(state, self._empty_replay, self.device)
