"""Train a diffusion policy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from prefrl.agents.actor_critic.diffusion.diffusion_policy import DiffusionPolicy, DiffusionPolicyConfig
from prefrl.data import TransitionDataset

from .offline import OfflineRecipe


@dataclass(frozen=True)
class TrainDiffusionPolicy(OfflineRecipe):
    """A diffusion policy: actions made out of noise, cloned from a file of transitions; Box actions."""

    method: Literal["clone"] = "clone"
    """What it learns by: clone takes the data's actions for good."""

    agent: DiffusionPolicyConfig = field(default_factory=DiffusionPolicyConfig)
    """Settings of the agent."""

    def make_agent(self, env: Any, dataset: TransitionDataset | None = None) -> DiffusionPolicy:
        """See :meth:`Recipe.make_agent`."""
        return DiffusionPolicy(env, self.agent, dataset=dataset, device=self.device, seed=self.seed)
