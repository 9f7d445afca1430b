"""Train B-Coder on programs that people wrote who err."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import arg

from prefrl.agents.value_based.b_coder import BCoder, BCoderConfig
from prefrl.config import Count, Share
from prefrl.data import TransitionDataset
from prefrl.run.collect import collect_programs
from prefrl.run.folder import RunFolder
from prefrl.run.loop import Loop
from prefrl.run.outcomes.programs import program_outcome
from prefrl.run.recipes.offline import OfflineRecipe


@dataclass(frozen=True)
class TrainBCoder(OfflineRecipe):
    """B-Coder: Q-learning from a cloned policy that aims low, and a reward for ranking what it writes."""

    env_id: str = "prefrl/ProgramSynthesis-v0"
    """Environment with Discrete actions that the data are of."""

    dataset: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: drawn)")] = None
    """File of transitions of whole episodes, good and bad, as save_transitions writes it."""

    num_programs: Count = 4_000
    """Programs to draw from the environment's own people, where there is no file."""

    correct_share: Share = 0.3
    """Probability that one of these passes its tests."""

    mistakes: Count = 5
    """How many different mistakes are made after each prompt."""

    total_timesteps: Count = 8_000
    """Gradient steps, those of cloning and of the first stage among them."""

    agent: BCoderConfig = field(default_factory=BCoderConfig)
    """Settings of the agent."""

    def drawn(self, env: Any) -> TransitionDataset:
        """Return programs of the environment's own people."""
        return collect_programs(env, self.num_programs, correct_share=self.correct_share,
                                mistakes=self.mistakes, seed=self.seed)  # fmt: skip

    def make_agent(self, env: Any, dataset: TransitionDataset | None = None) -> BCoder:
        """See :meth:`Recipe.make_agent`."""
        return BCoder(env, self.agent, dataset=dataset, device=self.device, seed=self.seed)

    def outcome(self, agent: BCoder, loop: Loop, folder: RunFolder) -> dict[str, Any]:
        """Return the return after training, and where all programs are known, exact rates of success."""
        env = self.scalar_env()
        return {**super().outcome(agent, loop, folder), **program_outcome(agent, env, self.seed)}
