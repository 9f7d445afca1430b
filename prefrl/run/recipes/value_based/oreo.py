"""Train OREO, from a file of transitions or episodes of random actions."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

from tyro.conf import arg

from prefrl.agents.value_based.oreo import OREO, OREOConfig
from prefrl.config import Count, Rows
from prefrl.data import load_transitions
from prefrl.run.collect import collect_episodes
from prefrl.run.environments import make_evaluation_env
from prefrl.run.folder import RunFolder
from prefrl.run.loop import Loop
from prefrl.run.outcomes.soft_values import soft_outcome
from prefrl.run.recipes.base import EvaluatedRecipe


@dataclass(frozen=True)
class TrainOREO(EvaluatedRecipe):
    """OREO: a policy and its soft values out of whole episodes that anybody acted; failures teach as well."""

    steps: ClassVar[bool] = False

    env_id: str = "prefrl/TokenTree-v0"
    """Environment that the data are of, with Discrete actions; for evaluations too."""

    dataset: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: drawn)")] = None
    """File of transitions to learn from, as save_transitions writes it."""

    num_episodes: Rows = 2_000
    """Episodes of uniform actions to learn from, where there is no file."""

    final_episodes: Rows = 100

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

    def training_env(self) -> Any:
        """Return the environment that the data are of; it is not stepped."""
        return self.scalar_env()

    def given(self, env: Any, folder: RunFolder, *, resume: bool) -> dict[str, Any]:
        """Return the data: from the file, or drawn, each time the same."""
        if self.dataset is not None:
            return {"dataset": load_transitions(self.dataset)}
        rows = make_evaluation_env(*self.made, self.num_episodes)
        return {"dataset": collect_episodes(None, rows, seed=self.seed)}

    def make_agent(self, env: Any, dataset: Any = None) -> OREO:
        """See :meth:`Recipe.make_agent`."""
        return OREO(env, self.agent, dataset, device=self.device, seed=self.seed)

    def outcome(self, agent: OREO, loop: Loop, folder: RunFolder) -> dict[str, Any]:
        """Return the returns, how often the policy succeeds, and how far from the soft optimum it is."""
        return {**super().outcome(agent, loop, folder), **soft_outcome(agent, self.scalar_env())}
