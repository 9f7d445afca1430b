"""Train soft actor-critic."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from prefrl.agents.actor_critic.sac import SAC, SACConfig

from .box import BoxRecipe


@dataclass(frozen=True)
class TrainSAC(BoxRecipe):
    """Soft actor-critic, with plain, spectrally capped or robust critics."""

    agent: SACConfig = field(default_factory=SACConfig)
    """Settings of the agent."""

    def make_agent(self, env: Any) -> SAC:
        """See :meth:`Recipe.make_agent`."""
        return SAC(env, self.agent, device=self.device, seed=self.seed)
