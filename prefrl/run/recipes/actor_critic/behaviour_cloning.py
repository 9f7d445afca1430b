"""Train behaviour cloning."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from prefrl.agents.actor_critic.behaviour_cloning import BehaviourCloning, BehaviourCloningConfig
from prefrl.data import TransitionDataset

from .offline import OfflineRecipe


@dataclass(frozen=True)
class TrainBehaviourCloning(OfflineRecipe):
    """Behaviour cloning: what makes the actions of a file of transitions most likely."""

    agent: BehaviourCloningConfig = field(default_factory=BehaviourCloningConfig)
    """Settings of the agent."""

    def make_agent(self, env: Any, dataset: TransitionDataset | None = None) -> BehaviourCloning:
        """See :meth:`Recipe.make_agent`."""
        return BehaviourCloning(env, self.agent, dataset=dataset, device=self.device, seed=self.seed)
