"""Train OREO, from a file of transitions or episodes of random actions."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import arg

from prefrl.agents.value_based.oreo import OREO, OREOConfig
from prefrl.config import Count, Rows
from prefrl.data import TransitionDataset
from prefrl.run.collect import collect_episodes
from prefrl.run.environments import make_evaluation_env
from prefrl.run.folder import RunFolder
from prefrl.run.loop import Loop
from prefrl.run.outcomes.soft_values import soft_outcome
from prefrl.run.recipes.offline import OfflineRecipe


@dataclass(frozen=True)
class TrainOREO(OfflineRecipe):
    """OREO: a policy and its soft values out of whole episodes that anybody acted; failures teach as well."""

    env_id: str = "prefrl/TokenTree-v0"
    """Environment that the data are of, with Discrete actions; for evaluations too."""

    dataset: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: drawn)")] = None
    """File of transitions to learn from, as save_transitions writes it."""

    num_episodes: Rows = 2_000
    """Episodes of uniform actions to learn from, where there is no file."""

    total_timesteps: Count = 2_000
    """Gradient steps."""

    agent: OREOConfig = field(default_factory=OREOConfig)
    """Settings of the agent."""

    def check(self) -> None:
        """Raise ValueError for a run that would only clone."""
        super().check()
        if self.total_timesteps <= self.agent.cloning_steps:
            raise ValueError(f"total_timesteps is {self.total_timesteps}; after {self.agent.cloning_steps} "
                             "cloning_steps nothing would be learned from rewards")  # fmt: skip

    def drawn(self, env: Any) -> TransitionDataset:
        """Return episodes of uniform actions."""
        return collect_episodes(None, make_evaluation_env(*self.made, self.num_episodes), seed=self.seed)

    def make_agent(self, env: Any, dataset: Any = None) -> OREO:
        """See :meth:`Recipe.make_agent`."""
        return OREO(env, self.agent, dataset, device=self.device, seed=self.seed)

    def outcome(self, agent: OREO, loop: Loop, folder: RunFolder) -> dict[str, Any]:
        """Return the returns, how often the policy succeeds, and how far from the soft optimum it is."""
        return {**super().outcome(agent, loop, folder), **soft_outcome(agent, self.scalar_env())}
