"""Learn a policy straight from preferences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from prefrl.agents.base import Spaces
from prefrl.agents.preferences.preference_optimization import (
    PreferenceOptimization,
    PreferenceOptimizationConfig,
)
from prefrl.config import Count, Rows, Share
from prefrl.data import Preferences, load_preferences, save_preferences
from prefrl.preferences import TeacherKind, ask_teacher
from prefrl.preferences.asking import exact_answers, with_flips
from prefrl.preferences.models import PartialReturn
from prefrl.run.folder import RunFolder
from prefrl.run.loop import Loop
from prefrl.run.outcomes.policies import tabular_outcome
from prefrl.run.recipes.base import Recipe
from prefrl.run.recipes.stacked import StackedRecipe
from prefrl.tabular import TabularMDP


@dataclass(frozen=True)
class TrainPreferenceOptimization(StackedRecipe):
    """A policy straight from preferences: DPO, IPO, CPL, SimPO, ... behind one loss; cloning first."""

    data_by_seed: ClassVar[bool] = True

    groups: ClassVar[Mapping[str, str]] = {
        **Recipe.groups,
        **dict.fromkeys(("preferences", "teacher", "num_pairs", "segment_length"), "preferences"),
        "label_noise": "preferences",
    }

    env_id: str = "prefrl/TokenTree-v0"
    """Environment that the comparisons are of."""

    preferences: Path | None = None
    """Preference file to learn from; without one and without a teacher, the environment answers itself."""

    teacher: TeacherKind | None = None
    """A simulated teacher, who judges by the return of random segments of a tabular environment."""

    num_pairs: Count | None = None
    """Comparisons that are asked for; None: all pairs of sequences, exactly (of a teacher: 1,000)."""

    segment_length: Count = 3
    """Transitions per segment that the teacher sees."""

    label_noise: Share = 0.0
    """Share of labels that is turned round; it is epsilon for losses that take one, unless that is given."""

    total_timesteps: Count = 5_000
    """Gradient steps, those of cloning included."""

    eval_episodes: Rows = 20

    agent: PreferenceOptimizationConfig = field(default_factory=PreferenceOptimizationConfig)
    """Settings of the agent."""

    def check(self) -> None:
        """Raise ValueError for two sources of comparisons, or noise that the loss cannot reckon with."""
        super().check()
        if self.preferences is not None and (self.teacher is not None or self.num_pairs is not None):
            other = "teacher" if self.teacher is not None else "num_pairs"
            raise ValueError(f"preferences and {other} are both given; comparisons come from one of them")
        if self.total_timesteps <= self.agent.cloning_steps:
            raise ValueError(f"total_timesteps is {self.total_timesteps}; after {self.agent.cloning_steps} "
                             "cloning_steps nothing would be learned from comparisons")  # fmt: skip
        self.settings.check()

    @property
    def settings(self) -> PreferenceOptimizationConfig:
        """Those of the agent, with what the recipe knows better."""
        config, noise = self.agent, self.label_noise or None
        epsilon = noise if config.epsilon is None and "epsilon" in config.row.settings else config.epsilon
        return replace(
            config, epsilon=epsilon, schedule_timesteps=config.schedule_timesteps or self.total_timesteps
        )

    def training_env(self) -> Any:
        """Return the environment that the comparisons are of; nothing is stepped."""
        return self.scalar_env()

    def given(self, env: Any, folder: RunFolder, *, resume: bool) -> dict[str, Any]:
        """Return the comparisons: those that the folder keeps, the file's, a teacher's or all there are."""
        kept = folder.path / "preferences.npz"
        if resume and kept.exists():
            return {"preferences": load_preferences(kept)}
        if self.preferences is not None:
            answers = load_preferences(self.preferences)
        elif self.teacher is not None:
            answers = ask_teacher(
                TabularMDP.from_env(env), self.num_pairs or 1_000, kind=self.teacher, model=PartialReturn(),
                length=self.segment_length, seed=self.seed,
            )  # fmt: skip
        else:
            answers = exact_answers(env, self.num_pairs, seed=self.seed)
        return {"preferences": with_flips(answers, self.label_noise, seed=self.seed)}

    def make_agent(self, env: Any, preferences: Preferences | None = None) -> PreferenceOptimization:
        """See :meth:`Recipe.make_agent`."""
        spaces = env if self.num_learners == 1 else Spaces(env.observation_space, env.action_space)
        return PreferenceOptimization(spaces, self.settings, preferences, num_learners=self.num_learners,
                                      device=self.device, seed=self.given_seed)  # fmt: skip

    def begin(self, agent: PreferenceOptimization, folder: RunFolder, given: dict[str, Any]) -> None:
        """Keep the comparisons as ``preferences.npz``."""
        save_preferences(folder.path / "preferences.npz", given["preferences"])

    def outcome(self, agent: PreferenceOptimization, loop: Loop, folder: RunFolder) -> dict[str, Any]:
        """Return the return, and what is known exactly in an environment with a table of its model."""
        found = {"optimal_value": None, **super().outcome(agent, loop, folder)}
        env = self.scalar_env()
        if hasattr(env.unwrapped, "tabular_model"):
            exact = self.preferences is None and self.teacher is None and self.num_pairs is None
            found |= tabular_outcome(agent, env, self.label_noise, exact=exact)
        return found
