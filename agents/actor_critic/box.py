"""What agents have in common that act in a bounded Box of numbers, by an actor with critics."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from prefrl.agents.base import Agent
from prefrl.data import Transitions
from prefrl.data.replay import ReplayBuffer, replay_state, restored_replay
from prefrl.functional.draws import uniform

from .networks import SoftActorCritic


class Boxes:
    """What is known of two Boxes: observations of floating-point numbers, and bounded actions.

    Actions are in (-1, 1) inside an agent.

    Args:
        observation_space: any Box of floating-point numbers.
        action_space: one with finite bounds.
        device: torch device.
        name: of the agent, for messages.

    Raises:
        ValueError: if observations or actions are of another kind, or actions unbounded.

    Attributes:
        observations: D, size of a flattened observation.
        actions: A, size of a flattened action.
    """

    def __init__(
        self, observation_space: gym.Space[Any], action_space: gym.Space[Any], device: torch.device, name: str
    ) -> None:
        space, actions = observation_space, action_space
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
            torch.stack([torch.full((), float(entry), device=device) for entry in values.flat]).view(
                actions.shape
            )
            for values in (actions.low, actions.high)
        )
        self._half_span = 0.5 * (self._high - self._low)

    def to_env(self, actions: Tensor) -> Tensor:
        """Return actions [n, A] in (-1, 1) in the environment's units [n, ...]."""
        scaled = self._low + (actions.view(-1, *self._low.shape) + 1.0) * self._half_span
        return torch.clamp(scaled, self._low, self._high)  # what is rounded may be beyond them

    def from_env(self, actions: Tensor) -> Tensor:
        """Return actions [n, ...] in the environment's units as [n, A] in [-1, 1]."""
        return ((actions.to(torch.float32) - self._low) / self._half_span - 1.0).flatten(1)

    def kept(self, transitions: Transitions) -> Transitions:
        """Return transitions as a replay keeps them: flat in float32, actions in [-1, 1]."""
        return Transitions(
            obs=flat(transitions.obs),
            actions=self.from_env(transitions.actions),
            rewards=transitions.rewards,
            next_obs=flat(transitions.next_obs),
            terminations=transitions.terminations,
            truncations=transitions.truncations,
            mask=transitions.mask,
            infos=transitions.infos,
        )


def flat(obs: Tensor) -> Tensor:
    """Return observations [n, ...] as [n, D] in float32."""
    as_it_is = obs.ndim == 2 and obs.dtype is torch.float32
    return obs if as_it_is else obs.to(torch.float32).flatten(1)


class HeldDraws:
    """Draws of a warm-up, each held for some steps.

    Args:
        hold: steps.
    """

    def __init__(self, hold: int) -> None:
        self.hold = hold
        self._held: Tensor | None = None
        self._rows = self._steps = 0

    def next(self, rows: int, draw: Callable[[int], Tensor]) -> Tensor:
        """Return what ``draw`` drew for some rows, now or up to ``hold`` - 1 steps ago."""
        if self._held is None or self._rows != rows or self._steps >= self.hold:
            self._held, self._rows, self._steps = draw(rows), rows, 0
        self._steps += 1
        return self._held

    def state_dict(self) -> dict[str, Any]:
        """Return what a continuation needs."""
        return {"held": self._held, "counts": [self._rows, self._steps]}

    def load_state_dict(self, state: Mapping[str, Any] | None, device: torch.device) -> None:
        """Continue from what :meth:`state_dict` returned (None: from the start)."""
        held = None if state is None else state["held"]
        self._held = None if held is None else held.to(device)
        self._rows, self._steps = (0, 0) if state is None else (int(count) for count in state["counts"])


class BoxAgent(Agent):
    """Base of agents that act in a bounded Box, scaled to (-1, 1) inside, with actor and critics.

    Raises:
        ValueError: if observations or actions are of another kind, or actions unbounded.

    Attributes:
        observations: D, size of a flattened observation.
        actions: A, size of a flattened action.
        networks: actor and critics.
        replay: transitions so far; None before the first one.
    """

    keeps_rewards = True

    def __init__(self, env: Any, config: Any, *, device: torch.device | str = "auto", seed: int = 0) -> None:
        super().__init__(env, config, device=device, seed=seed)
        self.boxes = Boxes(self.observation_space, self.action_space, self.device, type(self).__name__)
        self.observations, self.actions = self.boxes.observations, self.boxes.actions
        config.check_learners(1)
        self._gamma: float = config.of_learner(0).gamma
        self.networks = SoftActorCritic(
            self.observations, self.actions, config, device=self.device, seed=seed
        )
        self.replay: ReplayBuffer | None = None
        self._learned_at = 0
        self._warmup = HeldDraws(config.warmup_hold)

    def to_env(self, actions: Tensor) -> Tensor:
        """Return actions [n, A] in (-1, 1) in the environment's units [n, ...]."""
        return self.boxes.to_env(actions)

    def act(self, obs: Tensor, *, deterministic: bool = False) -> Tensor:
        """Return actions [n, ...] for observations [n, ...]: uniform ones at first, then the policy's."""
        if not deterministic and self.num_timesteps < self.config.learning_starts:
            return self.to_env(2.0 * self._warmup.next(len(obs), self._uniform) - 1.0)
        return self.to_env(self.networks.act(flat(obs), deterministic=deterministic))

    def _uniform(self, rows: int) -> Tensor:
        return uniform(self.networks.generator, rows, self.actions, device=self.device)

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
        step = self.boxes.kept(transitions)
        self.replay.add(step)
        self.networks.moments.add(step.obs, step.mask)

    def _empty_replay(self, num_envs: int) -> ReplayBuffer:
        return ReplayBuffer(self.config.buffer_size, num_envs, gamma=self._gamma)

    def check(self) -> None:
        """See :meth:`Agent.check`: warns where the critics diverge."""
        self.networks.check()

    def result(self) -> dict[str, Any]:
        """Return the largest |Q| that there was."""
        return {"largest_q": self.networks.largest_q}

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`Agent.state_dict`."""
        return {
            "policy": self.networks.state_dict(),
            "warmup": self._warmup.state_dict(),
            **replay_state(self.replay),
        }

    def saved_state(self) -> dict[str, Any]:
        """See :meth:`Agent.saved_state`; the replay stays behind, as with SB3."""
        return {**self.state_dict(), "replay": None}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :meth:`Agent.load_state_dict`; without a replay, learning goes on with an empty one."""
        self.networks.load_state_dict(state["policy"])
        self._warmup.load_state_dict(state.get("warmup"), self.device)
        if state["replay"] is not None:
            self.replay = restored_replay(state, self._empty_replay, self.device)
