"""Learn from what a tree search prefers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from prefrl.agents.preferences.search_preferences import SearchPreferences, SearchPreferencesConfig
from prefrl.config import Count
from prefrl.run.folder import RunFolder
from prefrl.run.loop import Loop
from prefrl.run.outcomes.policies import searched_outcome
from prefrl.run.recipes.base import EvaluatedRecipe


@dataclass(frozen=True)
class TrainSearchPreferences(EvaluatedRecipe):
    """A policy from what a tree search prefers, in rounds of searching and learning (MCTS-DPO)."""

    steps: ClassVar[bool] = False

    env_id: str = "prefrl/SparseGrid-v0"
    """Environment whose deterministic model is searched: prefrl/SparseGrid-v0, prefrl/TokenTree-v0, ..."""

    total_timesteps: Count = 5
    """Rounds of search and learning."""

    agent: SearchPreferencesConfig = field(default_factory=SearchPreferencesConfig)
    """Settings of the agent."""

    def check(self) -> None:
        """Raise ValueError for values that flags cannot give."""
        super().check()
        if self.agent.value == "given":
            raise ValueError("value is 'given'; a judge's values are given in Python only: "
                             "SearchPreferences(env, config, values=...)")  # fmt: skip

    def training_env(self) -> Any:
        """Return the environment whose model is searched; nothing is stepped."""
        return self.scalar_env()

    def make_agent(self, env: Any) -> SearchPreferences:
        """See :meth:`Recipe.make_agent`."""
        settings = replace(
            self.agent, schedule_timesteps=self.agent.schedule_timesteps or self.total_timesteps
        )
        return SearchPreferences(env, settings, device=self.device, seed=self.seed)

    def outcome(self, agent: SearchPreferences, loop: Loop, folder: RunFolder) -> dict[str, Any]:
        """Return the returns, and what is known of the policy exactly."""
        return {**super().outcome(agent, loop, folder), **searched_outcome(agent, self.scalar_env())}
