"""Learn a reward from preferences: the regret model, or partial return."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import gymnasium as gym
import torch
from tyro.conf import arg

from prefrl.agents.preferences.regret import RegretAgent
from prefrl.data import Preferences, load_preferences, save_preferences
from prefrl.data.devices import resolve_device
from prefrl.preferences import (
    DeterministicRegret,
    PartialReturn,
    Regret,
    StepwiseModel,
    TeacherKind,
    ask_teacher,
)
from prefrl.preferences.reward_fit import RegretConfig
from prefrl.run.environments import make_scalar_env, parse_env_args, restore
from prefrl.run.evaluate import evaluate
from prefrl.run.folder import RunFolder
from prefrl.run.loop import Loop
from prefrl.tabular import TabularMDP

TEACHER_MODELS: dict[str, type[StepwiseModel]] = {
    "regret": Regret,
    "deterministic-regret": DeterministicRegret,
    "partial-return": PartialReturn,
}


@dataclass(frozen=True)
class TrainRegret:
    """Learn a reward from preferences, plan in it, and see how good the policy is under the true reward."""

    env_id: str = "prefrl/Delivery-v0"
    """Environment with a tabular model and reward features."""

    env_args: Annotated[tuple[str, ...], arg(metavar="[NAME=VALUE ...]", help_behavior_hint="")] = ()
    """Arguments of the environment, as in: layout_seed=3 stochastic=true."""

    preferences: Path | None = None
    """Preference file to learn from; without one, a teacher answers."""

    teacher: TeacherKind | None = None
    """Who answers (default: noiseless): a simulated teacher with no fault, or with one of B-Pref's."""

    teacher_model: Literal["regret", "deterministic-regret", "partial-return"] = "regret"
    """What the teacher judges segments by."""

    teacher_temperature: float = 1.0
    """Temperature of the logistic teacher's answers."""

    num_pairs: int = 3_000
    """Comparisons that the teacher is asked for."""

    segment_length: int = 3
    """Transitions per segment (fewer where an episode ends)."""

    fit_steps: int = 3_000
    """Optimiser steps of the fit; linear partial return is convex and solved exactly in one update."""

    eval_episodes: int = 100
    """Episodes of the learned policy, under the true reward, whose mean return is the final return."""

    seed: int = 0
    """Seeds the pairs, the answers, the policy set and the agent."""

    device: str = "auto"
    """Torch device: auto (CUDA when present), cpu, cuda."""

    agent: Annotated[RegretConfig, arg(name="")] = field(default_factory=RegretConfig)
    """Settings of the agent."""

    def __post_init__(self) -> None:
        for name in ("num_pairs", "segment_length", "fit_steps", "eval_episodes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; it must not be negative")
        if self.preferences is not None and self.teacher is not None:
            raise ValueError("preferences and teacher are both given; comparisons come from one of them")
        parse_env_args(self.env_args)
        resolve_device(self.device)

    def run(self, folder: RunFolder, *, resume: bool, progress_bar: bool) -> dict[str, Any]:
        """Fit, plan, evaluate; the comparisons are kept as ``preferences.npz``, the agent as ``agent.pt``."""
        torch.set_num_threads(1)  # operations on small tables are several times slower on more
        env = make_scalar_env(self.env_id, self.env_args)
        # A resumed run must not depend on the first file still being there.
        kept = folder.path / "preferences.npz"
        preferences = load_preferences(kept) if resume and kept.exists() else self._preferences(env)
        started = time.perf_counter()
        agent = RegretAgent(env, self.agent, preferences, device=self.device, seed=self.seed)
        setup_seconds = time.perf_counter() - started  # the policy set, or the whole convex fit
        save_preferences(kept, preferences)
        loop = Loop(agent, self.fit_steps, folder=folder, resume=resume, progress_bar=progress_bar,
                    log_every=max(1, self.fit_steps // 20),
                    checkpoint_every=max(1, self.fit_steps // 3))  # fmt: skip
        loop.run()
        agent.save(folder.path / "agent.pt")
        return {
            **agent.result(),
            "final_return": evaluate(agent, env, episodes=self.eval_episodes, seed=self.seed)["mean_return"],
            "num_pairs": len(preferences),
            "num_timesteps": agent.num_timesteps,
            "seconds": setup_seconds + loop.seconds,
        }

    def evaluation(self, folder: RunFolder) -> tuple[RegretAgent, gym.Env[Any, Any]]:
        """Return the agent of the folder's checkpoint and a fresh scalar environment for it."""
        env = make_scalar_env(self.env_id, self.env_args)
        agent = RegretAgent(env, self.agent, device=self.device, seed=self.seed)
        restore(agent, folder)
        return agent, env

    def _preferences(self, env: gym.Env[Any, Any]) -> Preferences:
        if self.preferences is not None:
            return load_preferences(self.preferences)
        answers = ask_teacher(
            TabularMDP.from_env(env),
            self.num_pairs,
            kind=self.teacher or "noiseless",
            model=TEACHER_MODELS[self.teacher_model](),
            length=self.segment_length,
            temperature=self.teacher_temperature,
            seed=self.seed,
        )
        origin = {"env_id": self.env_id, "env_args": list(self.env_args)}
        return replace(answers, metadata={**answers.metadata, **origin})
