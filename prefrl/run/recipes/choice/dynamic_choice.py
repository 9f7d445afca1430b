"""Learn from choices of people who look ahead."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

from tyro.conf import arg

from prefrl.agents.choice.dynamic_choice import FITS, DynamicChoice, DynamicChoiceConfig
from prefrl.config import Count
from prefrl.data import load_transitions
from prefrl.run.collect import collect_choices
from prefrl.run.environments import make_evaluation_env
from prefrl.run.folder import RunFolder
from prefrl.run.loop import Loop
from prefrl.run.outcomes.choices import choice_outcome
from prefrl.run.recipes.base import Recipe

ROWS = 1_000
"""Episodes of people who act side by side, while choices are drawn."""


@dataclass(frozen=True)
class TrainDynamicChoice(Recipe):
    """Rewards and a careful policy out of what people chose, who look ahead and err (DCPPO)."""

    checkpoints: ClassVar[int] = FITS

    env_id: str = "prefrl/DynamicChoice-v0"
    """Environment whose observations are num_states * step + state. In prefrl's own, people look as far
    ahead, and value states in the way, that --gamma and --value say; or --env.gamma and --env.value."""

    dataset: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: drawn)")] = None
    """File of transitions of the people, as save_transitions writes it."""

    num_choices: Count = 10_000
    """Choices to draw from the environment's own people, where there is no file."""

    agent: DynamicChoiceConfig = field(default_factory=DynamicChoiceConfig)
    """Settings of the agent."""

    @property
    def made(self) -> tuple[str, tuple[str, ...]]:
        """See :attr:`Recipe.made`."""
        named = {pair.partition("=")[0] for pair in self.env_args}
        people = {"gamma": self.agent.gamma, "value": self.agent.value}
        ours = self.env_id.endswith("DynamicChoice-v0")
        added = [f"{name}={value}" for name, value in people.items() if ours and name not in named]
        return self.env_id, (*self.env_args, *added)

    def given(self, env: Any, folder: RunFolder, *, resume: bool) -> dict[str, Any]:
        """Return what people did: from the file, or drawn."""
        if self.dataset is not None:
            return {"dataset": load_transitions(self.dataset)}
        episodes = self.num_choices // int(getattr(env.unwrapped, "horizon", 1))
        rows = make_evaluation_env(*self.made, max(1, min(episodes, ROWS)))
        return {"dataset": collect_choices(env, rows, self.num_choices, seed=self.seed)}

    def make_agent(self, env: Any, dataset: Any = None) -> DynamicChoice:
        """See :meth:`Recipe.make_agent`."""
        return DynamicChoice(env, self.agent, dataset=dataset, device=self.device, seed=self.seed)

    def timesteps(self, agent: DynamicChoice) -> int:
        """See :meth:`Recipe.timesteps`."""
        return FITS

    def outcome(self, agent: DynamicChoice, loop: Loop, folder: RunFolder) -> dict[str, Any]:
        """Return how far policy and reward are from the best and the true one, where these are known."""
        return choice_outcome(agent, self.scalar_env())
