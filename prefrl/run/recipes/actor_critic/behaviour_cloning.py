"""Train behaviour cloning."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from prefrl.agents.actor_critic.behaviour_cloning import BehaviourCloning, BehaviourCloningConfig
from prefrl.data import TransitionDataset
from prefrl.run.recipes.offline import OfflineRecipe


@dataclass(frozen=True)
class TrainBehaviourCloning(OfflineRecipe):
    """Behaviour cloning: what makes the actions of a file of transitions most likely."""

    agent: BehaviourCloningConfig = field(default_factory=BehaviourCloningConfig)
    """Settings of the agent."""

    def check(self) -> None:
        """Raise ValueError for a run that would end before its second stage."""
        super().check()
        plain = self.agent.plain_steps
        if plain is not None and self.total_timesteps <= plain:
            raise ValueError(f"total_timesteps is {self.total_timesteps}; after {plain} reference_steps the "
                             f"divergence {self.agent.divergence!r} would not be used")  # fmt: skip

    def make_agent(self, env: Any, dataset: TransitionDataset | None = None) -> BehaviourCloning:
        """See :meth:`Recipe.make_agent`."""
        return BehaviourCloning(env, self.agent, dataset=dataset, device=self.device, seed=self.seed)
