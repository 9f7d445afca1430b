"""Learn a reward from preferences: the regret model, or partial return."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from prefrl.agents.preferences.regret import RegretAgent
from prefrl.config import Count, Natural, NonNegative, Rows
from prefrl.data import Preferences, load_preferences, save_preferences
from prefrl.preferences import (
    DeterministicRegret,
    PartialReturn,
    Regret,
    StepwiseModel,
    TeacherKind,
    ask_teacher,
)
from prefrl.preferences.reward_fit import RegretConfig
from prefrl.run.evaluate import evaluate
from prefrl.run.folder import RunFolder
from prefrl.run.loop import Loop
from prefrl.run.recipes.base import Recipe, default
from prefrl.tabular import TabularMDP

TEACHER_MODELS: dict[str, type[StepwiseModel]] = {
    "regret": Regret,
    "deterministic-regret": DeterministicRegret,
    "partial-return": PartialReturn,
}


@dataclass(frozen=True)
class TrainRegret(Recipe):
    """Learn a reward from preferences, plan in it, and see how good the policy is under the true reward."""

    logs: ClassVar[int] = 20
    checkpoints: ClassVar[int] = 3

    groups: ClassVar[Mapping[str, str]] = {
        **Recipe.groups,
        **dict.fromkeys(("preferences", "teacher", "teacher_model", "teacher_temperature"), "preferences"),
        **dict.fromkeys(("num_pairs", "segment_length"), "preferences"),
    }

    env_id: str = "prefrl/Delivery-v0"
    """Environment with a tabular model and reward features."""

    preferences: Path | None = None
    """Preference file to learn from; without one, a teacher answers."""

    teacher: TeacherKind | None = None
    """Who answers (default: noiseless): a simulated teacher with no fault, or with one of B-Pref's."""

    teacher_model: Literal["regret", "deterministic-regret", "partial-return"] = "regret"
    """What the teacher judges segments by."""

    teacher_temperature: NonNegative = 1.0
    """Temperature of the logistic teacher's answers."""

    num_pairs: Count = 3_000
    """Comparisons that the teacher is asked for."""

    segment_length: Count = 3
    """Transitions per segment (fewer where an episode ends)."""

    fit_steps: Count = 3_000
    """Optimiser steps of the fit; linear partial return is convex and solved exactly in one update."""

    eval_episodes: Rows = 100
    """Episodes of the learned policy, under the true reward, whose mean return is the final return."""

    log_every: Annotated[Count | None, default("5 % of the fit")] = None
    """Optimiser steps between two rows of progress.csv."""

    checkpoint_every: Annotated[Count | None, default("a third of the fit")] = None
    """Optimiser steps between two checkpoints."""

    seed: Natural = 0
    """Seeds the pairs, the answers, the policy set and the agent."""

    agent: RegretConfig = field(default_factory=RegretConfig)
    """Settings of the agent."""

    def check(self) -> None:
        """Raise ValueError for two sources of comparisons."""
        super().check()
        if self.preferences is not None and self.teacher is not None:
            raise ValueError("preferences and teacher are both given; comparisons come from one of them")

    def given(self, env: Any, folder: RunFolder, *, resume: bool) -> dict[str, Any]:
        """Return the comparisons: those that the folder keeps, the file's, or a teacher's."""
        kept = folder.path / "preferences.npz"
        if resume and kept.exists():
            return {"preferences": load_preferences(kept)}
        if self.preferences is not None:
            return {"preferences": load_preferences(self.preferences)}
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
        return {"preferences": replace(answers, metadata={**answers.metadata, **origin})}

    def make_agent(self, env: Any, preferences: Preferences | None = None) -> RegretAgent:
        """See :meth:`Recipe.make_agent`."""
        return RegretAgent(env, self.agent, preferences, device=self.device, seed=self.seed)

    def begin(self, agent: RegretAgent, folder: RunFolder, given: dict[str, Any]) -> None:
        """Keep the comparisons as ``preferences.npz``."""
        save_preferences(folder.path / "preferences.npz", given["preferences"])

    def timesteps(self, agent: RegretAgent) -> int:
        """See :meth:`Recipe.timesteps`."""
        return self.fit_steps

    def outcome(self, agent: RegretAgent, loop: Loop, folder: RunFolder) -> dict[str, Any]:
        """Return the policy's return under the true reward."""
        found = evaluate(agent, agent.env, episodes=self.eval_episodes, seed=self.seed)
        kept = load_preferences(folder.path / "preferences.npz")
        return {"final_return": found["mean_return"], "num_pairs": len(kept)}
