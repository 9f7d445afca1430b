"""Tune a diffusion policy by what is preferred against what it makes itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from prefrl.agents.preferences.diffusion.dro import DiffusionDRO, DiffusionDROConfig
from prefrl.data import load_preferences
from prefrl.run.collect import collect_mixture
from prefrl.run.folder import RunFolder

from .tuned import EXPERT_ACTIONS, ComparedRecipe


@dataclass(frozen=True)
class TrainDiffusionDRO(ComparedRecipe):
    """Diffusion-DRO: cloned, then tuned so that what was preferred gains more than its own actions."""

    method: Literal["dro"] = "dro"
    """What it learns by."""

    agent: DiffusionDROConfig = field(default_factory=DiffusionDROConfig)
    """Settings of the agent."""

    def given(self, env: Any, folder: RunFolder, *, resume: bool) -> dict[str, Any]:
        """Return the data set and comparisons; or demonstrations of the environment's experts."""
        found = super().given(env, folder, resume=resume)
        if self.knows_experts(env):
            experts = collect_mixture(env, EXPERT_ACTIONS, mixture="expert", seed=self.seed)
            return {**found, "demonstrations": experts}
        return {**found, "preferences": load_preferences(self.kept(folder, resume=resume))}

    def make_agent(self, env: Any, **given: Any) -> DiffusionDRO:
        """See :meth:`Recipe.make_agent`."""
        return DiffusionDRO(env, self.agent, **given, device=self.device, seed=self.seed)
