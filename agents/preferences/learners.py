"""Policy learners: ordinary agents that are trained under a reward which somebody else makes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from prefrl.agents.base import Agent, Spaces
from prefrl.agents.value_based.dqn import DQN, DQNConfig
from prefrl.data.segment_store import SegmentStore

from .sb3 import SB3Agent, SB3Config

LearnerKind = Literal["ppo", "a2c", "sac", "td3", "ddpg", "dqn", "prefrl_dqn"]
"""Algorithms of Stable-Baselines3, and prefrl's own deep Q-network."""


@dataclass(frozen=True)
class LearnerConfig:
    """Which agent learns the policy.

    Raises:
        ValueError: if the algorithm is unknown, or has no such setting.
        TypeError: if prefrl's own has no such setting.
    """

    algorithm: LearnerKind = "sac"
    """SB3's algorithm, or "prefrl_dqn" for :class:`prefrl.agents.DQN`."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    """Its settings, under its own names and with its own defaults; JSON values."""

    schedule_timesteps: int = 100_000
    """Timesteps that schedules of SB3's algorithms are spread over."""

    warmup_hold: int = 1
    """Steps that each uniform action of SB3's warm-up is held for; see ``SB3Config``."""

    def __post_init__(self) -> None:
        if self.algorithm not in get_args(LearnerKind):
            raise ValueError(
                f"algorithm is {self.algorithm!r}; it must be one of {list(get_args(LearnerKind))}"
            )
        self.own_config()

    def own_config(self) -> SB3Config | DQNConfig:
        """Return the settings as the agent's own."""
        if self.algorithm != "prefrl_dqn":
            return SB3Config(self.algorithm, dict(self.settings), self.schedule_timesteps, self.warmup_hold)
        settings: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in self.settings.items()
        }
        return DQNConfig(**settings)


def make_learner(
    config: LearnerConfig, env: Any, *, rows: int | None, device: torch.device, seed: int
) -> Agent:
    """Return a fresh policy learner.

    Args:
        config: which.
        env: what has the spaces.
        rows: rows of the steps that it is shown (None: the environment's).
        device: torch device.
        seed: seeds it.

    Raises:
        ValueError: if it does not take the spaces.
    """
    own = config.own_config()
    if isinstance(own, SB3Config):
        return SB3Agent(env, own, rows=rows, device=device, seed=seed)
    return DQN(env, own, device=device, seed=seed)


class WithLearner:
    """What agents have in common that put a reward of their own before a policy learner (mixin)."""

    learner: Agent
    store: SegmentStore
    num_timesteps: int

    def act(self, obs: Any, *, deterministic: bool = False) -> Tensor:
        """Return the policy learner's actions [n, ...]."""
        return self.learner.act(obs, deterministic=deterministic)

    def restarted(self) -> None:
        """See :meth:`Agent.restarted`: no segment may reach across."""
        self.learner.restarted()
        self.store.ring.cut()

    def check(self) -> None:
        """See :meth:`Agent.check`."""
        self.learner.check()


def relabel(learner: Agent, store: SegmentStore, rewards: Callable[..., Tensor], *more: str) -> None:
    """Give a learner new rewards of whatever it keeps.

    Args:
        learner: whom.
        store: the latest steps, with observations as they are kept.
        rewards: called with observations, actions and next observations [N, ...] and ``more``, returns [N].
        more: names of what else in the store the rewards depend on.
    """
    if not learner.keeps_rewards:
        return
    kept = store.latest()
    names = ("obs", "actions", "next_obs", *more)
    made = rewards(*(kept[name].flatten(0, 1) for name in names))
    learner.relabel(made.reshape(kept["rewards"].shape))


def rows_of(env: Any, state: Mapping[str, Any]) -> int | None:
    """Return how many rows a loaded agent's steps have: its environment's (None), or those of its file."""
    return int(state["rows"]) if isinstance(env, Spaces) else None


def as_config(kind: type[Any], value: Any) -> Any:
    """Return nested settings that a file gave as a mapping as what they were."""
    return kind(**value) if isinstance(value, Mapping) else value
