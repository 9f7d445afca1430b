"""What recipes share whose agent puts a reward of its own before an ordinary policy learner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import gymnasium as gym
import numpy as np
from tyro.conf import arg

from prefrl.agents.base import Agent
from prefrl.agents.preferences.learners import LearnerConfig, LearnerKind, make_learner
from prefrl.data.devices import resolve_device
from prefrl.envs.wrappers import AgentsAsRows
from prefrl.run.environments import make_evaluation_env, make_rollout_env, make_scalar_env, parse_env_args
from prefrl.run.evaluate import Evaluation, evaluate_rows
from prefrl.run.folder import RunFolder
from prefrl.run.loop import Loop

ON_POLICY_ENVS = 8
"""Environments stepped together by default where the learner is PPO or A2C; one for the others."""


@dataclass(frozen=True)
class WithLearnerRecipe:
    """Fields and steps of recipes with a policy learner."""

    env_id: str = "Pendulum-v1"
    """Any Gymnasium environment; prefrl's own are stepped on the device."""

    env_args: Annotated[tuple[str, ...], arg(metavar="[NAME=VALUE ...]", help_behavior_hint="")] = ()
    """Arguments of the environment, as in: rows=3 (or --env.rows 3)."""

    agent: LearnerKind = "sac"
    """What learns the policy: an algorithm of Stable-Baselines3, or prefrl_dqn."""

    agent_args: Annotated[tuple[str, ...], arg(metavar="[NAME=VALUE ...]", help_behavior_hint="")] = ()
    """Its settings, under its own names, as in: learning_rate=1e-3 'policy_kwargs={"net_arch": [64, 64]}'."""

    warmup_hold: int = 1
    """Steps that each uniform action of an off-policy warm-up is held for."""

    num_envs: Annotated[
        int | None, arg(metavar="INT", help_behavior_hint="(default: 8 with PPO and A2C, else 1)")
    ] = None
    """Environments stepped together."""

    total_timesteps: int = 10_000
    """Timesteps to train for; a step of n environments is n."""

    eval_every: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: 10 % of the run)")] = (
        None
    )
    """Timesteps between two evaluations of the deterministic policy under the true reward."""

    eval_episodes: int = 20
    """Episodes of an evaluation."""

    log_every: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: 1 % of the run)")] = (
        None
    )
    """Timesteps between two rows of progress.csv."""

    checkpoint_every: Annotated[
        int | None, arg(metavar="INT", help_behavior_hint="(default: 10 % of the run)")
    ] = None
    """Timesteps between two checkpoints."""

    seed: int = 0
    """Seeds everything random."""

    device: str = "auto"
    """Torch device: auto (CUDA when present), cpu, cuda."""

    def check(self) -> None:
        """Raise ValueError for a field that is out of range."""
        for name in ("warmup_hold", "num_envs", "total_timesteps", "eval_every", "eval_episodes", "log_every",
                     "checkpoint_every"):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; it must not be negative")
        parse_env_args(self.env_args)
        resolve_device(self.device)
        self.learner_config()

    def learner_config(self) -> LearnerConfig:
        """Return the settings of the policy learner."""
        try:
            settings = parse_env_args(self.agent_args)
        except ValueError as error:
            raise ValueError(
                str(error).replace("env_args", "agent_args").replace("layout_seed=3", "gamma=0.9")
            ) from error
        try:
            return LearnerConfig(self.agent, settings, self.total_timesteps, self.warmup_hold)
        except TypeError as error:
            raise ValueError(
                f"agent_args {list(self.agent_args)} do not suit {self.agent}: {error}"
            ) from error

    @property
    def rows(self) -> int:
        """Environments stepped together."""
        return self.num_envs or (ON_POLICY_ENVS if self.agent in ("ppo", "a2c") else 1)

    def training_env(self) -> Any:
        """Return the environments to learn in, every agent of a multi-agent one as a row."""
        return agents_apart(make_rollout_env(self.env_id, self.env_args, self.rows, self.device))

    def evaluation_env(self) -> Any:
        """Return one row per episode (and agent), on the host."""
        return agents_apart(make_evaluation_env(self.env_id, self.env_args, self.eval_episodes))

    def train(
        self, agent: Agent, folder: RunFolder | None, *, resume: bool = False, progress_bar: bool = False
    ) -> Loop:
        """Train an agent, with evaluations under the true reward; return the finished loop."""
        every = self.eval_every or max(1, self.total_timesteps // 10)
        evaluation = Evaluation(self.evaluation_env(), every=every, seed=self.seed)
        loop = Loop(
            agent,
            self.total_timesteps,
            folder=folder,
            resume=resume,
            progress_bar=progress_bar,
            log_every=self.log_every,
            checkpoint_every=self.checkpoint_every or max(1, self.total_timesteps // 10),
            evaluation=evaluation,
        )
        loop.run()
        return loop

    def outcome(self, agent: Agent, loop: Loop) -> dict[str, Any]:
        """Return what every such run reports."""
        found = evaluate_rows(agent, self.evaluation_env(), seed=self.seed)
        return {
            "true_return": found["mean_return"],
            "eval_returns": [evaluation["mean_return"] for evaluation in loop.evaluations],
            "eval_timesteps": [evaluation["timesteps"] for evaluation in loop.evaluations],
            "num_timesteps": agent.num_timesteps,
            "seconds": loop.seconds,
            "steps_per_second": agent.num_timesteps / (loop.seconds - loop.evaluation_seconds),
        }

    def true_reward_return(self) -> float:
        """Return the true return of the same learner, trained for as long on the true reward."""
        env = self.training_env()
        learner = make_learner(self.learner_config(), env, rows=None, device=resolve_device(self.device),
                               seed=self.seed)  # fmt: skip
        self.train(learner, None)
        return evaluate_rows(learner, self.evaluation_env(), seed=self.seed)["mean_return"]

    def scalar_env(self) -> gym.Env[Any, Any]:
        """Return a fresh scalar environment to evaluate in.

        Raises:
            ValueError: for one of several agents, which has no scalar face with one policy for all.
        """
        env = make_scalar_env(self.env_id, self.env_args)
        if hasattr(env.unwrapped, "num_agents"):
            raise ValueError(f"{self.env_id} has several agents, whose policy is shared: result.json has "
                             "what they achieve")  # fmt: skip
        return env

    def random_return(self) -> float:
        """Return the mean true return of uniform actions."""
        env = self.evaluation_env()
        env.reset(seed=self.seed)
        env.action_space.seed(self.seed)
        returns, going = np.zeros(env.num_envs), np.ones(env.num_envs, dtype=bool)
        while going.any():
            _, rewards, terminations, truncations, _ = env.step(env.action_space.sample())
            returns += rewards * going
            going &= ~(terminations | truncations)
        return float(returns.mean())


def agents_apart(env: Any) -> Any:
    """Return an environment of several agents with a row for each; others as they are."""
    return AgentsAsRows(env) if hasattr(env.unwrapped, "num_agents") else env
