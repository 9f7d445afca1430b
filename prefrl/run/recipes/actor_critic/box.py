"""What recipes of this family share: continuous actions, and distractors beside the observations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from prefrl.config import Natural, Rows
from prefrl.run.environments import make_rollout_env
from prefrl.run.recipes.base import EvaluatedRecipe, Pairs

DISTRACTED = "prefrl/Distracted-v0"
"""Id of an environment with distractors beside another's observations."""


@dataclass(frozen=True)
class BoxRecipe(EvaluatedRecipe):
    """Settings of recipes with continuous actions."""

    groups: ClassVar[Mapping[str, str]] = {**EvaluatedRecipe.groups, "distractors": "environment"}

    env_id: str = "Pendulum-v1"
    """Environment with a bounded Box of actions; prefrl's own are stepped on the device."""

    env_args: Pairs = ()
    """Arguments of the environment, as in: exclude_current_positions_from_observation=true."""

    distractors: Natural = 0
    """Numbers appended to every observation that have nothing to do with the task."""

    num_envs: Rows = 1

    eval_episodes: Rows = 10

    final_episodes: Rows = 20

    @property
    def made(self) -> tuple[str, tuple[str, ...]]:
        """Id and arguments of the environment, with its distractors."""
        if not self.distractors:
            return self.env_id, self.env_args
        return DISTRACTED, (f"env_id={self.env_id}", f"distractors={self.distractors}", *self.env_args)

    def training_env(self) -> Any:
        """Return ``num_envs`` environments whose rows start anew in the step that ended them."""
        return make_rollout_env(*self.made, self.rows, self.device)
