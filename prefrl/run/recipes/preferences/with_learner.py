"""What recipes share whose agent puts a reward of its own before an ordinary policy learner."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

from prefrl.agents.actor_critic.ppo import PPOConfig
from prefrl.agents.actor_critic.sac import SACConfig
from prefrl.agents.preferences.learners import Learner, default_learner, make_learner
from prefrl.agents.preferences.sb3 import SB3Config
from prefrl.agents.value_based.dqn import DQNConfig
from prefrl.config import Count, Rows, from_json, to_json
from prefrl.data.devices import resolve_device
from prefrl.envs.wrappers import AgentsAsRows
from prefrl.preferences import RewardModelConfig
from prefrl.preferences.general_models import REWARD_CONFIGS, AnyRewardConfig
from prefrl.run.environments import make_rollout_env, parse_env_args
from prefrl.run.evaluate import rollout
from prefrl.run.folder import RunFolder
from prefrl.run.loop import Loop
from prefrl.run.recipes.base import EvaluatedRecipe, Pairs, default

ON_POLICY_ENVS = 8
"""Environments stepped together by default where the learner is on-policy; one for the others."""

LearnerName = Literal[
    "auto", "sac", "dqn", "ppo", "sb3_ppo", "sb3_a2c", "sb3_sac", "sb3_td3", "sb3_ddpg", "sb3_dqn",
    "a2c", "td3", "ddpg", "prefrl_dqn",
]  # fmt: skip
"""Learners: the one that suits the environment, ours, Stable-Baselines3's, and other names of these."""

ALIASES: Mapping[str, str] = {
    **{name: f"sb3_{name}" for name in ("a2c", "td3", "ddpg")},
    "prefrl_dqn": "dqn",
}
"""What the other names mean."""

OWN: Mapping[str, type[Any]] = {"sac": SACConfig, "dqn": DQNConfig, "ppo": PPOConfig}
"""Configs of our learners."""


RewardModelName = Literal["bradley_terry", "thurstone", "gpm", "pal"]
"""What is learned from comparisons: the reward model, or a general preference model in its place."""


def reward_config(name: RewardModelName, shared: RewardModelConfig, settings: Pairs) -> AnyRewardConfig:
    """Return the settings of the model of a name.

    Args:
        name: of the model.
        shared: what all models have.
        settings: its own, as in: form=A.

    Raises:
        ValueError: for settings that it does not have.
    """
    try:
        own = parse_env_args(settings)
    except ValueError as error:
        raise ValueError(str(error).replace("env_args", "reward_model_args")) from error
    both = sorted(set(own) & set(to_json(shared)))
    if both:
        raise ValueError(f"reward_model_args has {both[0]}, which all reward models have; give it as "
                         f"--{both[0].replace('_', '-')}")  # fmt: skip
    try:
        config: AnyRewardConfig = from_json(REWARD_CONFIGS[name], {**to_json(shared), **own})
    except ValueError as error:
        raise ValueError(f"reward_model_args {list(settings)} do not suit {name}: {error}") from error
    return config


@dataclass(frozen=True)
class WithLearnerRecipe(EvaluatedRecipe):
    """Settings and steps of recipes with a policy learner."""

    result_name: ClassVar[str] = "true_return"

    groups: ClassVar[Mapping[str, str]] = {
        **EvaluatedRecipe.groups,
        **dict.fromkeys(("agent", "agent_args", "warmup_hold"), "learner"),
    }

    env_id: str = "Pendulum-v1"
    """Any Gymnasium environment; prefrl's own are stepped on the device."""

    env_args: Pairs = ()
    """Arguments of the environment, as in: rows=3 (or --env.rows 3)."""

    agent: LearnerName = "auto"
    """What learns the policy: our sac, dqn or ppo, or sb3_NAME of Stable-Baselines3; auto: ppo on the device
    and for discrete actions, else sac."""

    agent_args: Pairs = ()
    """Its settings, under its own names, as in: learning_rate=1e-3 hidden=[64,64], or for SB3's
    'policy_kwargs={"net_arch": [64, 64]}'."""

    warmup_hold: Count = 1
    """Steps that each uniform action of an off-policy warm-up is held for; sac and SB3's only."""

    num_envs: Annotated[Rows | None, default("8 with PPO and A2C, else 1")] = None

    eval_every: Annotated[Count | None, default("10 % of the run")] = None
    """Timesteps between two evaluations of the deterministic policy under the true reward."""

    def check(self) -> None:
        """Raise ValueError for settings that the learner does not take; keep its name, not another."""
        super().check()
        object.__setattr__(self, "agent", ALIASES.get(self.agent, self.agent))
        if self.agent != "auto":
            self.learner_config()

    @cached_property
    def learner(self) -> str:
        """Name of the learner, the one that suits the environment where none is given."""
        if self.agent != "auto":
            return self.agent
        chosen = default_learner(self.rollout_env(1))
        if isinstance(chosen, SB3Config):
            return f"sb3_{chosen.algorithm}"
        return next(name for name, kind in OWN.items() if isinstance(chosen, kind))

    def learner_config(self) -> Learner:
        """Return the settings of the policy learner."""
        try:
            settings = parse_env_args(self.agent_args)
        except ValueError as error:
            raise ValueError(
                str(error).replace("env_args", "agent_args").replace("layout_seed=3", "gamma=0.9")
            ) from error
        name = self.learner
        if name not in OWN:
            algorithm: Any = name.removeprefix("sb3_")
            return SB3Config(algorithm, settings, self.total_timesteps, self.warmup_hold)
        if name == "sac":
            settings = {"warmup_hold": self.warmup_hold, **settings}
        elif self.warmup_hold > 1:
            raise ValueError(f"warmup_hold is {self.warmup_hold}; {name} has none, as sac and SB3's have")
        if name == "ppo":
            settings = {"schedule_timesteps": self.total_timesteps, **settings}
        try:
            config: Learner = from_json(OWN[name], settings)
        except ValueError as error:
            raise ValueError(f"agent_args {list(self.agent_args)} do not suit {name} (SB3's is "
                             f"sb3_{name}): {error}") from error  # fmt: skip
        return config

    @property
    def rows(self) -> int:
        """Environments stepped together."""
        return self.num_envs or (ON_POLICY_ENVS if getattr(self.learner_config(), "on_policy", False) else 1)

    def rows_of(self, env: Any) -> int | None:
        """Return the rows of a step of training where the environment does not say them itself: None."""
        return None if hasattr(env, "num_envs") else self.rows

    def training_env(self) -> Any:
        """Return the environments to learn in, every agent of a multi-agent one as a row."""
        return self.rollout_env(self.rows)

    def rollout_env(self, num_envs: int) -> Any:
        """Return environments whose rows start anew in the step that ended them, a row for each agent."""
        return agents_apart(make_rollout_env(*self.made, num_envs, self.device))

    def evaluation_env(self, episodes: int) -> Any:
        """Return one row per episode (and agent), on the host."""
        return agents_apart(super().evaluation_env(episodes))

    def evaluation(self, folder: Any) -> Any:
        """See :meth:`Recipe.evaluation`; ValueError where several agents share the policy."""
        env = self.scalar_env()
        if hasattr(env.unwrapped, "num_agents"):
            raise ValueError(f"{self.env_id} has several agents, whose policy is shared: result.json has "
                             "what they achieve")  # fmt: skip
        return self.restored(env, folder), env

    def outcome(self, agent: Any, loop: Loop, folder: RunFolder) -> dict[str, Any]:
        """Return which learner it was, beside its returns."""
        return {"learner": self.learner, **super().outcome(agent, loop, folder)}

    def true_reward_return(self) -> float:
        """Return the true return of the same learner, trained for as long on the true reward."""
        learner = make_learner(self.learner_config(), self.training_env(), rows=None,
                               device=resolve_device(self.device), seed=self.seed)  # fmt: skip
        self.train(learner, None)
        return self.final_return(learner)

    def random_return(self) -> float:
        """Return the mean true return of uniform actions."""
        rows = self.evaluation_env(self.final_episodes or self.eval_episodes)
        return float(rollout(None, rows, seed=self.seed)[0].mean())


def agents_apart(env: Any) -> Any:
    """Return an environment of several agents with a row for each; others as they are."""
    return AgentsAsRows(env) if hasattr(env.unwrapped, "num_agents") else env
