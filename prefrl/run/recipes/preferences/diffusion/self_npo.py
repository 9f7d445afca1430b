"""Clone a diffusion policy, and keep it away from its own unfinished generations."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from prefrl.agents.preferences.diffusion.self_npo import SelfNPO, SelfNPOConfig
from prefrl.data import TransitionDataset

from .tuned import TunedRecipe


@dataclass(frozen=True)
class TrainSelfNPO(TunedRecipe):
    """Self-NPO: cloned, then guided away from what its own unfinished generations teach."""

    method: Literal["self_npo"] = "self_npo"
    """What it learns by."""

    agent: SelfNPOConfig = field(default_factory=SelfNPOConfig)
    """Settings of the agent."""

    def make_agent(self, env: Any, dataset: TransitionDataset | None = None) -> SelfNPO:
        """See :meth:`Recipe.make_agent`."""
        return SelfNPO(env, self.agent, dataset=dataset, device=self.device, seed=self.seed)
