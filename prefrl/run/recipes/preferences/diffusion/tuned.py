"""What recipes of tuned diffusion policies share: where their comparisons come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from prefrl.agents.preferences.diffusion.tuning import TunedDiffusionPolicyConfig
from prefrl.config import Count
from prefrl.data import save_preferences
from prefrl.run.folder import RunFolder
from prefrl.run.recipes.actor_critic.diffusion_policy import DiffusionRecipe

EXPERT_ACTIONS = 1_000
"""Demonstrations, or comparisons, that an environment draws that knows experts, without a file."""


@dataclass(frozen=True)
class TunedRecipe(DiffusionRecipe):
    """Settings of recipes that clone a file of transitions first."""

    groups: ClassVar[Mapping[str, str]] = {**DiffusionRecipe.groups, "preferences": "preferences"}

    total_timesteps: Count = 10_000
    """Gradient steps, those of cloning included."""

    agent: TunedDiffusionPolicyConfig = field(default_factory=TunedDiffusionPolicyConfig)
    """Settings of the agent."""

    def check(self) -> None:
        """Raise ValueError for a run that would only clone, or would not."""
        super().check()
        steps = self.agent.cloning_steps
        if not 0 < steps < self.total_timesteps:
            raise ValueError(f"cloning_steps is {steps}; it must lie above 0 and below total_timesteps, "
                             f"{self.total_timesteps}")  # fmt: skip


@dataclass(frozen=True)
class ComparedRecipe(TunedRecipe):
    """And of those that are tuned by comparisons."""

    preferences: Path | None = None
    """Preference file to be tuned by; in an environment that knows experts it may be left out."""

    def begin(self, agent: Any, folder: RunFolder, given: dict[str, Any]) -> None:
        """Keep the comparisons as ``preferences.npz``."""
        if "preferences" in given:
            save_preferences(folder.path / "preferences.npz", given["preferences"])

    def kept(self, folder: RunFolder, *, resume: bool) -> Path:
        """Return the file of comparisons: the folder's if the run goes on, else the one that was given."""
        kept = folder.path / "preferences.npz"
        assert self.preferences is not None
        return kept if resume and kept.exists() else self.preferences

    def knows_experts(self, env: Any) -> bool:
        """Return whether the environment is to be asked for experts, there being no file.

        Raises:
            ValueError: if it knows none.
        """
        found = self.preferences is None
        if found and not hasattr(env.unwrapped, "draw_actions"):
            raise ValueError("preferences is None; it must be a file of comparisons to be tuned by: "
                             "--preferences FILE")  # fmt: skip
        return found
