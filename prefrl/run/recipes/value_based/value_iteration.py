"""Solve a known finite MDP by value iteration."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from prefrl.agents.value_based.value_iteration import ValueIteration, ValueIterationConfig
from prefrl.config import Count
from prefrl.run.evaluate import scaled_return
from prefrl.run.folder import RunFolder
from prefrl.run.loop import Loop
from prefrl.run.recipes.base import Recipe


@dataclass(frozen=True)
class TrainValueIteration(Recipe):
    """Value iteration, where the environment's model is known."""

    env_id: str = "prefrl/Delivery-v0"
    """Environment that offers a tabular model."""

    sweeps: Count = 2_000
    """Sweeps over all states."""

    agent: ValueIterationConfig = field(default_factory=ValueIterationConfig)
    """Settings of the agent."""

    def make_agent(self, env: Any) -> ValueIteration:
        """See :meth:`Recipe.make_agent`."""
        return ValueIteration(env, self.agent, device=self.device, seed=self.seed)

    def timesteps(self, agent: ValueIteration) -> int:
        """See :meth:`Recipe.timesteps`."""
        return self.sweeps

    def outcome(self, agent: ValueIteration, loop: Loop, folder: RunFolder) -> dict[str, Any]:
        """Return how good the policy is in the environment's own reward, exactly."""
        return {"scaled_return": scaled_return(agent, self.scalar_env())}
