"""Learners: ordinary agents, given as their configs, that learn a policy while its reward is learned."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias, TypeVar

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from prefrl.agents.actor_critic.ppo import PPO, PPOConfig
from prefrl.agents.actor_critic.sac import SAC, SACConfig
from prefrl.agents.base import Agent, Spaces
from prefrl.agents.value_based.dqn import DQN, DQNConfig
from prefrl.config import Count, Settings, from_json
from prefrl.data import Transitions
from prefrl.data.files.bounded import kept_rows
from prefrl.data.observations import ObservationLayout
from prefrl.data.segment_store import SegmentStore
from prefrl.preferences.general_models import AnyRewardConfig, make_reward_model
from prefrl.preferences.reward_model import RewardModelConfig

from .sb3 import Algorithm, SB3Agent, SB3Config

RewardLearnerType = TypeVar("RewardLearnerType", bound="RewardLearner")


@dataclass(frozen=True)
class LearnerConfig(Settings):
    """A learner by its name, as older code and files give it: SB3's, or "prefrl_dqn" for our DQN.

    Raises:
        ValueError: if the algorithm is unknown, or has no such setting.
    """

    algorithm: Literal[Algorithm, "prefrl_dqn"] = "sac"
    """SB3's algorithm, or "prefrl_dqn" for :class:`prefrl.agents.DQN`."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    """Its settings, under its own names and with its own defaults; JSON values."""

    schedule_timesteps: Count = 100_000
    """See :class:`SB3Config`."""

    warmup_hold: Count = 1
    """See :class:`SB3Config`."""

    def check(self) -> None:
        """Raise ValueError for settings that the algorithm does not have."""
        self.own_config()

    def own_config(self) -> SB3Config | DQNConfig:
        """Return the config of the agent that is meant."""
        if self.algorithm == "prefrl_dqn":
            return from_json(DQNConfig, self.settings)
        return SB3Config(self.algorithm, self.settings, self.schedule_timesteps, self.warmup_hold)


Learner: TypeAlias = SACConfig | DQNConfig | PPOConfig | SB3Config | LearnerConfig
"""Configs of the agents that can learn for another; a file has the fields of one, which tell which it is."""

AGENTS: Mapping[type[Any], type[Agent]] = {agent.config_class: agent for agent in (SAC, DQN, PPO, SB3Agent)}
"""The agent that each of these configs is of."""


def make_learner(
    config: Learner, env: Any, *, rows: int | None, device: torch.device | str, seed: int
) -> Agent:
    """Return a fresh learner.

    Args:
        config: of the agent.
        env: what has the spaces.
        rows: rows of the steps that it is shown (None: the environment's).
        device: torch device.
        seed: seeds it.

    Raises:
        ValueError: if it does not take the spaces; the message says which do.
    """
    if isinstance(config, LearnerConfig):
        config = config.own_config()
    shown = {"rows": rows} if isinstance(config, SB3Config) else {}
    make: Callable[..., Agent] = AGENTS[type(config)]
    try:
        return make(env, config, device=device, seed=seed, **shown)
    except ValueError as error:
        name = f"SB3Config({config.algorithm!r})" if isinstance(config, SB3Config) else type(config).__name__
        suitable = learners_for(env)
        if name in suitable:
            raise
        raise ValueError(f"{error}; learners that take these spaces: {', '.join(suitable)}") from error


def learners_for(env: Any) -> list[str]:
    """Return names of learners that take the spaces of an environment, ours first."""
    obs = getattr(env, "single_observation_space", None) or env.observation_space
    actions = getattr(env, "single_action_space", None) or env.action_space
    ppo = ["PPOConfig"] if _read_by_ppo(obs) else []
    if isinstance(actions, gym.spaces.Discrete):
        own = ["DQNConfig"] if isinstance(obs, (gym.spaces.Box, gym.spaces.Discrete)) else []
        return [*ppo, *own, *(["SB3Config('dqn')", "SB3Config('ppo')"] if actions.start == 0 else [])]
    if isinstance(actions, gym.spaces.Box):
        own = ["SACConfig"] if isinstance(obs, gym.spaces.Box) and obs.dtype == np.float32 else []
        return [*own, *ppo, "SB3Config('sac')", "SB3Config('ppo')"]
    return [*(ppo if isinstance(actions, gym.spaces.MultiDiscrete) else []), "SB3Config('ppo')"]


def _read_by_ppo(space: gym.Space[Any]) -> bool:
    try:
        ObservationLayout(space)
    except ValueError:
        return False
    return True


def default_learner(env: Any) -> Learner:
    """Return the learner that is taken where none is given.

    Our SAC for Boxes of numbers on the host, where steps are dear, and else our PPO, whose updates are cheap
    beside many environments at once; where these do not take the spaces, the first one that does.

    Args:
        env: what it is to learn in.
    """
    names = learners_for(env)
    box = isinstance(getattr(env, "single_action_space", None) or env.action_space, gym.spaces.Box)
    for wanted in ("SACConfig", "PPOConfig") if box and not on_device(env) else ("PPOConfig", "SACConfig"):
        if wanted in names:
            return SACConfig() if wanted == "SACConfig" else PPOConfig()
    return SB3Config("ppo")


def on_device(env: Any) -> bool:
    """Whether an environment, or what is below its wrappers, hands out tensors of its own device."""
    while (below := getattr(env, "env", None)) is not None:
        env = below
    backend = getattr(getattr(env, "dynamics", None), "backend", None)
    return bool(getattr(backend, "on_device", False))


def known_or_none(share: float) -> float | None:
    """Return a share, or None for that of nothing, which is NaN."""
    return None if math.isnan(share) else share


@dataclass(frozen=True)
class RewardLearnerConfig(Settings):
    """Settings that every :class:`RewardLearner` has."""

    learner: Learner | None = None
    """What learns the policy: the config of an agent; None: see :func:`default_learner`."""

    reward: AnyRewardConfig = field(default_factory=RewardModelConfig)
    """The reward model, or a general preference model in its place: the type says which."""

    def check(self) -> None:
        """Keep the learner as the config that it is of."""
        if isinstance(self.learner, LearnerConfig):
            object.__setattr__(self, "learner", self.learner.own_config())


class RewardLearner(Agent):
    """Base of the agents that learn a reward while a learner learns from it.

    Attributes:
        learner: the agent that learns the policy.
        reward_model: what it is rewarded with.
        store: the latest steps, for segments and relabelling.
    """

    def _make_parts(self, store_size: int, rows: int | None, num_features: int = 0) -> None:
        """Make learner, reward model and store, for steps of ``rows`` rows (None: the environment's)."""
        self.rows = rows or int(getattr(self.env, "num_envs", 1))
        if self.config.learner is None:
            self.config = replace(self.config, learner=default_learner(self.env))  # files tell which it was
        parts: dict[str, Any] = {"device": self.device, "seed": self.seed}
        self.learner = make_learner(self.config.learner, self.env, rows=self.rows, **parts)
        self.reward_model = make_reward_model(self.observation_space, self.action_space, self.config.reward,
                                              num_features=num_features, **parts)  # fmt: skip
        self.store = SegmentStore(store_size, self.rows)

    def act(self, obs: Any, *, deterministic: bool = False) -> Tensor:
        """Return the learner's actions [n, ...]."""
        return self.learner.act(obs, deterministic=deterministic)

    def show(self, step: Transitions, *, rewarded: bool) -> None:
        """Show the learner a step with the reward that it is to have.

        Args:
            step: the step.
            rewarded: whether there is a reward yet, or only zeros. PPO is not shown these: it makes
                advantages of any size as large as others, and takes the errors of its values for good advice.
        """
        if rewarded or not isinstance(self.learner, PPO):
            self.learner.observe(step)

    def restarted(self) -> None:
        """See :meth:`Agent.restarted`: no segment may reach across."""
        self.learner.restarted()
        self.store.cut()

    def schedules(self) -> dict[str, float]:
        """See :meth:`Agent.schedules`: the learner's."""
        return self.learner.schedules()

    def check(self) -> None:
        """See :meth:`Agent.check`."""
        self.learner.check()

    def relabel_learner(self, rewards: Callable[..., Tensor], *more: str) -> None:
        """Give the learner new rewards of whatever it keeps.

        Args:
            rewards: called with observations as they are kept, actions and next observations [N, ...] and
                ``more``, returns [N].
            more: names of what else in the store the rewards depend on.
        """
        steps = self.learner.kept_steps()
        if not self.learner.keeps_rewards or steps == 0:
            return
        kept = self.store.latest(steps)
        names = ("obs", "actions", "next_obs", *more)
        made = rewards(*(kept[name].flatten(0, 1) for name in names))
        self.learner.relabel(made.reshape(kept["rewards"].shape))

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`Agent.state_dict`."""
        return {
            **self.saved_state(),
            "learner": self.learner.state_dict(),
            "store": self.store.state_dict(),
        }

    def saved_state(self) -> dict[str, Any]:
        """See :meth:`Agent.saved_state`; what was visited stays behind."""
        return {"learner": self.learner.saved_state(), "reward_model": self.reward_model.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :meth:`Agent.load_state_dict`."""
        self.learner.load_state_dict(state["learner"])
        self.reward_model.load_state_dict(state["reward_model"])
        if "store" in state:
            self.store.load_state_dict(state["store"], self.device)

    @classmethod
    def _rebuilt(
        cls: type[RewardLearnerType], env: Any, config: Any, state: Mapping[str, Any], **settings: Any
    ) -> RewardLearnerType:
        if isinstance(env, Spaces) and "rows" in state:  # where there is an environment, it has its own
            settings["rows"] = kept_rows(state)
        return cls(env, config, **settings)
