"""Solve a preference game."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from tyro.conf import arg

from prefrl.agents.preferences.games.nash_learning import NashLearning, NashLearningConfig
from prefrl.config import Count
from prefrl.data.files.matrices import read_matrix, save_matrix
from prefrl.functional.preferences.games import check_payoff_matrix
from prefrl.run.evaluate import Evaluation
from prefrl.run.folder import RunFolder
from prefrl.run.loop import Loop
from prefrl.run.recipes.base import EvaluatedRecipe


@dataclass(frozen=True)
class TrainNashLearning(EvaluatedRecipe):
    """Nash learning: the policy that no other is preferred to, by EGPO and other solvers, exactly."""

    steps: ClassVar[bool] = False

    env_id: str = "prefrl/TokenTree-v0"
    """Environment that knows how all its sequences are preferred."""

    matrix: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """Solve this game instead: K x K payoffs, comma-separated, antisymmetric."""

    total_timesteps: Count = 1_000
    """Steps of the solver."""

    agent: NashLearningConfig = field(default_factory=NashLearningConfig)
    """Settings of the agent."""

    def training_env(self) -> Any:
        """Return the environment whose sequences are compared; None for a matrix, which is enough."""
        return self.scalar_env() if self.matrix is None else None

    def given(self, env: Any, folder: RunFolder, *, resume: bool) -> dict[str, Any]:
        """Return the matrix, if there is one."""
        if self.matrix is None:
            return {}
        kept = folder.path / "matrix.csv"
        return {"matrix": read_matrix(kept if resume and kept.exists() else self.matrix, check_payoff_matrix)}

    def make_agent(self, env: Any, matrix: torch.Tensor | None = None) -> NashLearning:
        """See :meth:`Recipe.make_agent`."""
        return NashLearning(env, self.agent, matrix=matrix, device=self.device, seed=self.seed)

    def begin(self, agent: NashLearning, folder: RunFolder, given: dict[str, Any]) -> None:
        """Keep the matrix as ``matrix.csv``."""
        if given:
            save_matrix(folder.path / "matrix.csv", given["matrix"])

    def evaluations(self) -> Evaluation | None:
        """See :meth:`Recipe.evaluations`: there are no episodes on a matrix."""
        return super().evaluations() if self.matrix is None else None

    def outcome(self, agent: NashLearning, loop: Loop, folder: RunFolder) -> dict[str, Any]:
        """Return the returns in an environment; of a matrix the agent itself says all."""
        return super().outcome(agent, loop, folder) if self.matrix is None else {}

    def evaluation(self, folder: RunFolder) -> Any:
        """See :meth:`Recipe.evaluation`; ValueError for a run on a matrix, which has no episodes."""
        if self.matrix is not None:
            raise ValueError("a matrix has no episodes to evaluate in; result.json has the gaps")
        return super().evaluation(folder)
