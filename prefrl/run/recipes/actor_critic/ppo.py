"""Train proximal policy optimisation."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from prefrl.agents.actor_critic.ppo import PPO, PPOConfig
from prefrl.config import Count, Rows
from prefrl.run.recipes.stacked import StackedRecipe


@dataclass(frozen=True)
class TrainPPO(StackedRecipe):
    """Proximal policy optimisation, for discrete and continuous actions; many seeds at once."""

    env_id: str = "CartPole-v1"
    """Environment; prefrl's own are stepped on the device."""

    num_envs: Rows = 8

    total_timesteps: Count = 100_000

    agent: PPOConfig = field(default_factory=PPOConfig)
    """Settings of the agent."""

    @property
    def group_size(self) -> int | None:
        """See :attr:`StackedRecipe.group_size`."""
        return self.agent.group_size

    def make_agent(self, env: Any) -> PPO:
        """See :meth:`Recipe.make_agent`; schedules take the whole run, unless they say otherwise."""
        config = replace(self.agent, schedule_timesteps=self.agent.schedule_timesteps or self.total_timesteps)
        return PPO(env, config, num_learners=self.num_learners, device=self.device, seed=self.given_seed)
