"""Tune a diffusion policy by comparisons."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from prefrl.agents.preferences.diffusion.dpo import DiffusionDPO, DiffusionDPOConfig
from prefrl.data import load_preferences
from prefrl.run.collect import compare_mixtures
from prefrl.run.folder import RunFolder

from .tuned import EXPERT_ACTIONS, ComparedRecipe


@dataclass(frozen=True)
class TrainDiffusionDPO(ComparedRecipe):
    """Diffusion-DPO: cloned, then tuned by a loss on pairs, the denoising error for the likelihood."""

    method: Literal["dpo"] = "dpo"
    """What it learns by."""

    agent: DiffusionDPOConfig = field(default_factory=DiffusionDPOConfig)
    """Settings of the agent."""

    def given(self, env: Any, folder: RunFolder, *, resume: bool) -> dict[str, Any]:
        """Return the data set and comparisons; or those of experts over the reference."""
        found = super().given(env, folder, resume=resume)
        if self.knows_experts(env):
            return {**found, "preferences": compare_mixtures(env, EXPERT_ACTIONS, seed=self.seed)}
        return {**found, "preferences": load_preferences(self.kept(folder, resume=resume))}

    def make_agent(self, env: Any, **given: Any) -> DiffusionDPO:
        """See :meth:`Recipe.make_agent`."""
        return DiffusionDPO(env, self.agent, **given, device=self.device, seed=self.seed)
