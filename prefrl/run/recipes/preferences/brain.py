"""Train BRAIn on all sequences of a task that knows them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from prefrl.agents.preferences.brain import BRAIn, BRAInConfig
from prefrl.config import Count
from prefrl.data import ScoredSegments
from prefrl.preferences.asking import exact_groups
from prefrl.run.folder import RunFolder
from prefrl.run.loop import Loop
from prefrl.run.outcomes.policies import posterior_outcome
from prefrl.run.recipes.base import EvaluatedRecipe


@dataclass(frozen=True)
class TrainBRAIn(EvaluatedRecipe):
    """BRAIn: the posterior of good outputs, by groups of outputs to the same prompt; cloning first."""

    steps: ClassVar[bool] = False

    env_id: str = "prefrl/TokenTree-v0"
    """Environment that knows all its sequences and their returns, by which outputs are good."""

    total_timesteps: Count = 5_000
    """Gradient steps, those of cloning included."""

    agent: BRAInConfig = field(default_factory=BRAInConfig)
    """Settings of the agent."""

    def check(self) -> None:
        """Raise ValueError for a run that would only clone."""
        super().check()
        if self.total_timesteps <= self.agent.cloning_steps:
            raise ValueError(f"total_timesteps is {self.total_timesteps}; after {self.agent.cloning_steps} "
                             "cloning_steps nothing would be learned from scores")  # fmt: skip

    def given(self, env: Any, folder: RunFolder, *, resume: bool) -> dict[str, Any]:
        """Return all sequences, a group for each prompt."""
        return {"groups": exact_groups(env)}

    def make_agent(self, env: Any, groups: ScoredSegments | None = None) -> BRAIn:
        """See :meth:`Recipe.make_agent`."""
        return BRAIn(env, self.agent, groups, device=self.device, seed=self.seed)

    def outcome(self, agent: BRAIn, loop: Loop, folder: RunFolder) -> dict[str, Any]:
        """Return the returns, and how far from the exact posterior the policy is."""
        return {**super().outcome(agent, loop, folder), **posterior_outcome(agent, self.scalar_env())}
