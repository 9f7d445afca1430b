"""Train a deep Q-network."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import gymnasium as gym
from tyro.conf import arg

from prefrl.agents.value_based.dqn import DQN, DQNConfig
from prefrl.data import TransitionDataset, load_transitions
from prefrl.data.devices import resolve_device
from prefrl.run.environments import (
    make_evaluation_env,
    make_scalar_env,
    make_training_env,
    parse_env_args,
    restore,
    small_networks,
)
from prefrl.run.evaluate import Evaluation, evaluate_rows
from prefrl.run.folder import RunFolder
from prefrl.run.loop import Loop


@dataclass(frozen=True)
class TrainDQN:
    """Deep Q-learning with one of seven losses: HL-Gauss, Two-Hot, C51, quantile, squared, Huber, ..."""

    env_id: str = "CartPole-v1"
    """Environment with Discrete actions; prefrl's own are stepped on the device."""

    env_args: Annotated[tuple[str, ...], arg(metavar="[NAME=VALUE ...]", help_behavior_hint="")] = ()
    """Arguments of the environment, as in: sticky_action_prob=0.25."""

    num_envs: int = 8
    """Environments stepped together."""

    dataset: Path | None = None
    """File of transitions to learn from alone: a timestep is then a gradient step, env_id for evaluations."""

    total_timesteps: int = 100_000
    """Timesteps to train for; a step of n environments is n."""

    eval_every: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: 5 % of the run)")] = (
        None
    )
    """Timesteps between two evaluations of the greedy policy."""

    eval_episodes: int = 20
    """Episodes of an evaluation."""

    final_episodes: int = 100
    """Episodes of the evaluation after training."""

    log_every: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: 1 % of the run)")] = (
        None
    )
    """Timesteps between two rows of progress.csv."""

    checkpoint_every: Annotated[
        int | None, arg(metavar="INT", help_behavior_hint="(default: 10 % of the run)")
    ] = None
    """Timesteps between two checkpoints."""

    seed: int = 0
    """Seeds network, exploration, replay and environments."""

    device: str = "auto"
    """Torch device: auto (CUDA when present), cpu, cuda."""

    agent: DQNConfig = field(default_factory=DQNConfig)
    """Settings of the agent."""

    def __post_init__(self) -> None:
        for name in ("num_envs", "total_timesteps", "eval_every", "eval_episodes", "final_episodes",
                     "log_every", "checkpoint_every"):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; it must not be negative")
        if self.agent.target_policy != "greedy" and self.dataset is None:
            raise ValueError(f"target_policy is {self.agent.target_policy!r}; without a dataset it must be "
                             "'greedy'")  # fmt: skip
        parse_env_args(self.env_args)
        resolve_device(self.device)

    def run(self, folder: RunFolder, *, resume: bool, progress_bar: bool) -> dict[str, Any]:
        """Train, evaluate, and save the agent as ``agent.pt``."""
        with small_networks():
            return self._run(folder, resume=resume, progress_bar=progress_bar)

    def _run(self, folder: RunFolder, *, resume: bool, progress_bar: bool) -> dict[str, Any]:
        evaluation = Evaluation(
            make_evaluation_env(self.env_id, self.env_args, self.eval_episodes),
            every=self.eval_every or max(1, self.total_timesteps // 20),
            seed=self.seed,
        )
        if self.dataset is None:
            env = make_training_env(self.env_id, self.env_args, self.num_envs, self.device)
            agent = self._agent(env)
        else:
            agent = self._agent(make_scalar_env(self.env_id, self.env_args), load_transitions(self.dataset))
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
        agent.save(folder.path / "agent.pt")
        final = evaluate_rows(
            agent, make_evaluation_env(self.env_id, self.env_args, self.final_episodes), seed=self.seed
        )
        return {
            "final_return": final["mean_return"],
            "eval_returns": [found["mean_return"] for found in loop.evaluations],
            "eval_timesteps": [found["timesteps"] for found in loop.evaluations],
            "clamped_fraction": agent.clamped_fraction,
            "num_timesteps": agent.num_timesteps,
            "seconds": loop.seconds,
            # Of learning: evaluations are as long as their episodes are.
            "steps_per_second": agent.num_timesteps / (loop.seconds - loop.evaluation_seconds),
        }

    def evaluation(self, folder: RunFolder) -> tuple[DQN, gym.Env[Any, Any]]:
        """Return the agent of the folder's checkpoint and a fresh scalar environment for it."""
        env = make_scalar_env(self.env_id, self.env_args)
        agent = self._agent(env)
        restore(agent, folder)
        return agent, env

    def _agent(self, env: Any, dataset: TransitionDataset | None = None) -> DQN:
        return DQN(env, self.agent, dataset=dataset, device=self.device, seed=self.seed)
