"""Train soft actor-critic."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from prefrl.agents.actor_critic.sac import SAC, SACConfig
from prefrl.agents.actor_critic.sac_learners import SACLearners
from prefrl.run.recipes.stacked import StackedRecipe

from .box import BoxRecipe


@dataclass(frozen=True)
class TrainSAC(BoxRecipe, StackedRecipe):
    """Soft actor-critic, with plain, spectrally capped or robust critics; many seeds at once."""

    agent: SACConfig = field(default_factory=SACConfig)
    """Settings of the agent."""

    def check(self) -> None:
        """Raise ValueError for what several learners cannot have."""
        super().check()
        agent = self.agent
        whole = "compile" if agent.compile else "cuda_graph" if agent.cuda_graph else None
        if self.num_learners > 1 and (whole or agent.critic_regularizer != "none"):
            with_what = whole or f"critic_regularizer {agent.critic_regularizer!r}"
            raise ValueError(f"num_learners is {self.num_learners}; with {with_what} it must be 1")

    def training_env(self) -> Any:
        """See :class:`StackedRecipe`."""
        return StackedRecipe.training_env(self)

    def make_agent(self, env: Any) -> SAC | SACLearners:
        """See :meth:`Recipe.make_agent`."""
        if self.num_learners > 1:
            return SACLearners(env, self.agent, num_learners=self.num_learners, device=self.device,
                               seed=self.given_seed)  # fmt: skip
        return SAC(env, self.agent, device=self.device, seed=self.seed)
