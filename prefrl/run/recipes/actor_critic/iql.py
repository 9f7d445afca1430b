"""Train implicit Q-learning."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from prefrl.agents.actor_critic.iql import IQL, IQLConfig
from prefrl.data import TransitionDataset
from prefrl.run.recipes.offline import OfflineRecipe


@dataclass(frozen=True)
class TrainIQL(OfflineRecipe):
    """Implicit Q-learning, from a file of transitions alone; Discrete and Box actions."""

    agent: IQLConfig = field(default_factory=IQLConfig)
    """Settings of the agent."""

    def make_agent(self, env: Any, dataset: TransitionDataset | None = None) -> IQL:
        """See :meth:`Recipe.make_agent`."""
        return IQL(env, self.agent, dataset=dataset, device=self.device, seed=self.seed)
