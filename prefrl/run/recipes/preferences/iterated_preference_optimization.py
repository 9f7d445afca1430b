"""Learn a policy from comparisons of what it does, in rounds."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from prefrl.agents.preferences.iterated_preference_optimization import (
    IteratedPreferenceOptimization,
    IteratedPreferenceOptimizationConfig,
)
from prefrl.config import Count, Rows
from prefrl.data import Preferences, load_preferences, save_preferences
from prefrl.run.folder import RunFolder
from prefrl.run.loop import Loop
from prefrl.run.outcomes.policies import has_table, tabular_outcome
from prefrl.run.recipes.base import EvaluatedRecipe


@dataclass(frozen=True)
class TrainIteratedPreferenceOptimization(EvaluatedRecipe):
    """A policy from comparisons of what it does itself, in rounds: iterated DPO, DNO, INPO, online VPO."""

    env_id: str = "Pendulum-v1"
    """Environment to act in; its rewards are the teacher's only."""

    preferences: Path | None = None
    """Preference file to learn from before the first round."""

    num_envs: Rows | None = 8

    total_timesteps: Count = 50_000

    agent: IteratedPreferenceOptimizationConfig = field(default_factory=IteratedPreferenceOptimizationConfig)
    """Settings of the agent."""

    def check(self) -> None:
        """Raise ValueError for a run that ends before its first round."""
        super().check()
        if self.preferences is None and self.total_timesteps < self.agent.round_timesteps:
            raise ValueError(f"total_timesteps is {self.total_timesteps}; nothing would be learned before a "
                             f"round is over: {self.agent.round_timesteps} round_timesteps")  # fmt: skip

    def given(self, env: Any, folder: RunFolder, *, resume: bool) -> dict[str, Any]:
        """Return the file's comparisons, if there is one, or what the folder keeps of them."""
        if self.preferences is None:
            return {}
        kept = folder.path / "preferences.npz"
        return {"preferences": load_preferences(kept if resume and kept.exists() else self.preferences)}

    def make_agent(self, env: Any, preferences: Preferences | None = None) -> IteratedPreferenceOptimization:
        """See :meth:`Recipe.make_agent`."""
        steps = self.agent.schedule_timesteps or self.total_timesteps
        return IteratedPreferenceOptimization(env, replace(self.agent, schedule_timesteps=steps), preferences,
                                              rows=self.rows, device=self.device, seed=self.seed)  # fmt: skip

    def begin(self, agent: IteratedPreferenceOptimization, folder: RunFolder, given: dict[str, Any]) -> None:
        """Keep the file's comparisons."""
        if given:
            save_preferences(folder.path / "preferences.npz", given["preferences"])

    def outcome(self, agent: Any, loop: Loop, folder: RunFolder) -> dict[str, Any]:
        """Return what is known exactly too, in an environment with a table of its model."""
        env = self.scalar_env()
        found = {"optimal_value": None, **super().outcome(agent, loop, folder)}
        if has_table(env):
            found |= tabular_outcome(agent, env, 0.0, exact=False)
        return found
