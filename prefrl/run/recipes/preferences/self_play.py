"""Train by self-play from preferences, in an environment or on a preference matrix."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import gymnasium as gym
import numpy as np
import torch
from tyro.conf import OmitArgPrefixes, arg

from prefrl.agents.base import Agent
from prefrl.agents.preferences.matrix_self_play import MatrixSelfPlay, MatrixSelfPlayConfig
from prefrl.agents.preferences.self_play import SelfPlay, SelfPlayConfig
from prefrl.data.devices import resolve_device
from prefrl.functional.preferences.games import check_preference_matrix, cycle_of_three
from prefrl.preferences.reward_model import RewardModelConfig
from prefrl.preferences.trajectories import (
    ByOption,
    MaxReturn,
    Noisy,
    TrajectoryPreference,
    WithinBudget,
    majority_matrix,
)
from prefrl.run.environments import restore, small_networks
from prefrl.run.folder import RunFolder
from prefrl.run.loop import Loop

from .with_learner import WithLearnerRecipe

PreferenceKind = Literal["max_return", "noisy", "cyclic", "three_populations", "budget"]

THREE_PEOPLE = ((0, 1, 2), (1, 2, 0), (2, 0, 1))
"""Rankings of three options, none inconsistent, whose majority is a cycle."""

LATE_SHARE = 0.1
"""Share of the trajectories, the latest, that are reported apart from the average of all."""


@dataclass(frozen=True)
class TrainSelfPlay(WithLearnerRecipe):
    """Self-play from preferences (SPO): win against your own latest trajectories, without any reward."""

    env_id: str = "prefrl/ThreeGoals-v0"
    """Environment with episodes that end."""

    agent: Literal["ppo", "a2c", "sac", "td3", "ddpg", "dqn", "prefrl_dqn"] = "ppo"
    """What learns the policy: an algorithm of Stable-Baselines3, or prefrl_dqn."""

    total_timesteps: int = 60_000
    """Timesteps to train for; with --matrix, rounds."""

    preference: PreferenceKind = "max_return"
    """Who compares: larger return; that with wrong answers; options that beat each other in a cycle, or by
    the majority of three people; or return within a budget of steps in a region."""

    flip: float = 0.2
    """noisy: share of wrong answers."""

    cycle: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """cyclic: how much option 0 is preferred to 1, 1 to 2, and 2 to 0."""

    budget: float = 0.5
    """budget: largest share of steps in the region."""

    matrix: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """Play on a preference matrix instead: K x K numbers in [-1, 1], comma-separated, antisymmetric."""

    mode: Literal["hedge", "sampled", "reward_model"] = "hedge"
    """On a matrix: Hedge on exact preferences, a policy gradient on sampled ones, or a reward model's."""

    reward_source: Literal["self_play", "reward_model", "true"] = "self_play"
    """In an environment: what the learner is rewarded with."""

    queue: int = 50
    """Latest trajectories that a new one is compared to."""

    credit: Literal["spread", "last"] = "spread"
    """Whether a trajectory's reward is paid in equal parts at every step, or with the last one."""

    reward: OmitArgPrefixes[RewardModelConfig] = field(default_factory=lambda: SelfPlayConfig().reward)
    """Settings of the baseline's reward model."""

    def __post_init__(self) -> None:
        self.check()
        if self.matrix is None:
            self.agent_config()
            self.trajectory_preference()

    def agent_config(self) -> SelfPlayConfig:
        """Return the settings of the agent in an environment."""
        return SelfPlayConfig(learner=self.learner_config(), reward=self.reward, queue=self.queue,
                              reward_source=self.reward_source, credit=self.credit)  # fmt: skip

    def trajectory_preference(self) -> TrajectoryPreference:
        """Return who compares."""
        if self.preference == "max_return":
            return MaxReturn()
        if self.preference == "noisy":
            return Noisy(MaxReturn(), self.flip)
        if self.preference == "budget":
            return WithinBudget(self.budget)
        if self.preference == "cyclic":
            return ByOption(cycle_of_three(*self.cycle))
        return ByOption(majority_matrix(torch.tensor(THREE_PEOPLE)))

    def run(self, folder: RunFolder, *, resume: bool, progress_bar: bool) -> dict[str, Any]:
        """Train, evaluate, and save the agent as ``agent.pt``."""
        with small_networks():
            if self.matrix is not None:
                return self._run_matrix(folder, resume=resume, progress_bar=progress_bar)
            agent = self._agent(self.training_env())
            loop = self.train(agent, folder, resume=resume, progress_bar=progress_bar)
            agent.save(folder.path / "agent.pt")
            return {**self.outcome(agent, loop), **agent.result(), **self._behaviour(agent)}

    def _behaviour(self, agent: SelfPlay) -> dict[str, Any]:
        """Return what the trajectories were like, over the whole run and lately."""
        history = torch.stack(agent.history)
        parts = {"all": history, "late": history[-max(1, round(LATE_SHARE * len(history))) :]}
        if self.preference in ("cyclic", "three_populations"):
            return {
                f"option_shares_{name}": [float((part[:, 0] == k).double().mean()) for k in range(4)]
                for name, part in parts.items()
            }
        found = {f"mean_return_{name}": float(part[:, 0].mean()) for name, part in parts.items()}
        if self.preference == "budget":
            within = {name: (part[:, 1] <= self.budget + 1e-9).double() for name, part in parts.items()}
            found |= {f"within_budget_{name}": float(part.mean()) for name, part in within.items()}
        return found

    def _run_matrix(self, folder: RunFolder, *, resume: bool, progress_bar: bool) -> dict[str, Any]:
        kept = folder.path / "matrix.csv"
        assert self.matrix is not None
        matrix = read_matrix(kept if resume and kept.exists() else self.matrix)
        np.savetxt(kept, matrix.numpy(), delimiter=",", fmt="%.17g")
        agent = self._matrix_agent(matrix)
        loop = Loop(agent, self.total_timesteps, folder=folder, resume=resume, progress_bar=progress_bar,
                    log_every=self.log_every,
                    checkpoint_every=self.checkpoint_every or max(1, self.total_timesteps // 10))  # fmt: skip
        loop.run()
        agent.save(folder.path / "agent.pt")
        return {**agent.result(), "num_timesteps": agent.num_timesteps, "seconds": loop.seconds}

    def evaluation(self, folder: RunFolder) -> tuple[Agent, gym.Env[Any, Any]]:
        """Return the agent of the folder's checkpoint and a fresh scalar environment for it.

        Raises:
            ValueError: for a run on a matrix, which has no episodes.
        """
        if self.matrix is not None:
            raise ValueError("a preference matrix has no episodes to evaluate in; result.json has the "
                             "exploitability")  # fmt: skip
        env = self.scalar_env()
        agent = self._agent(env)
        restore(agent, folder)
        return agent, env

    def _agent(self, env: Any) -> SelfPlay:
        return SelfPlay(env, self.agent_config(), preference=self.trajectory_preference(), device=self.device,
                        seed=self.seed)  # fmt: skip

    def _matrix_agent(self, matrix: torch.Tensor) -> MatrixSelfPlay:
        config = MatrixSelfPlayConfig(mode=self.mode, rounds=self.total_timesteps)
        return MatrixSelfPlay(None, config, matrix=matrix, device=resolve_device(self.device), seed=self.seed)


def read_matrix(path: Path) -> torch.Tensor:
    """Return the preference matrix [K, K] of a CSV file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds no preference matrix.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no matrix file {path}")
    try:
        return check_preference_matrix(torch.as_tensor(np.loadtxt(path, delimiter=",", ndmin=2)))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
