"""Train a plain policy gradient from groups, on a task that knows all its sequences."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from prefrl.agents.actor_critic.grouped.policy_gradient import (
    GroupedPolicyGradient,
    GroupedPolicyGradientConfig,
)
from prefrl.config import Count
from prefrl.data import ScoredSegments
from prefrl.preferences.asking import exact_groups
from prefrl.run.folder import RunFolder
from prefrl.run.loop import Loop
from prefrl.run.recipes.base import EvaluatedRecipe


@dataclass(frozen=True)
class TrainGroupedPolicyGradient(EvaluatedRecipe):
    """REINFORCE with the advantages of groups (centred, GRPO, BNPO), in bandits and trees of sequences."""

    steps: ClassVar[bool] = False

    env_id: str = "prefrl/TokenTree-v0"
    """Environment that knows all its sequences and their returns."""

    total_timesteps: Count = 2_000
    """Gradient steps."""

    agent: GroupedPolicyGradientConfig = field(default_factory=GroupedPolicyGradientConfig)
    """Settings of the agent."""

    def given(self, env: Any, folder: RunFolder, *, resume: bool) -> dict[str, Any]:
        """Return all sequences, a group for each prompt."""
        return {"sequences": exact_groups(env)}

    def make_agent(self, env: Any, sequences: ScoredSegments | None = None) -> GroupedPolicyGradient:
        """See :meth:`Recipe.make_agent`."""
        return GroupedPolicyGradient(env, self.agent, sequences, device=self.device, seed=self.seed)

    def outcome(self, agent: GroupedPolicyGradient, loop: Loop, folder: RunFolder) -> dict[str, Any]:
        """Return the returns, and exactly what the drawn policy and the best one are worth at the start."""
        task: Any = self.scalar_env().unwrapped
        start, policy = task.tabular_model().start, agent.policy_table().cpu().numpy()
        return {
            **super().outcome(agent, loop, folder),
            "value": float(start @ task.true_value(policy)),
            "optimal_value": float(start @ task.optimal_value()),
        }
