"""What recipes of agents have in common that learn from transitions alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from tyro.conf import arg

from prefrl.config import Count, Rows
from prefrl.data import TransitionDataset, load_transitions
from prefrl.run.folder import RunFolder
from prefrl.run.recipes.base import EvaluatedRecipe


@dataclass(frozen=True)
class OfflineRecipe(EvaluatedRecipe):
    """Settings of recipes whose timesteps are gradient steps on a data set."""

    steps: ClassVar[bool] = False

    env_id: str = "Pendulum-v1"
    """Environment that the data are of, for evaluations."""

    dataset: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(required)")] = None
    """File of transitions to learn from, as save_transitions writes it."""

    total_timesteps: Count = 100_000
    """Gradient steps."""

    final_episodes: Rows = 100

    def given(self, env: Any, folder: RunFolder, *, resume: bool) -> dict[str, Any]:
        """Return the data set: from its file, or drawn, each time the same.

        Raises:
            ValueError: if there is neither, or the file is no good.
        """
        return {"dataset": self.drawn(env) if self.dataset is None else load_transitions(self.dataset)}

    def drawn(self, env: Any) -> TransitionDataset:
        """Return transitions to learn from where there is no file: a recipe says which, or refuses."""
        raise ValueError("dataset is None; it must be a file of transitions to learn from: --dataset FILE")
