"""Recipes whose agents can be many learners at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from prefrl.agents.base import Spaces
from prefrl.config import Count, Natural
from prefrl.run.environments import make_evaluation_env, make_rollout_env
from prefrl.run.folder import RunFolder
from prefrl.run.loop import Loop

from .base import EvaluatedRecipe


@dataclass(frozen=True)
class StackedRecipe(EvaluatedRecipe):
    """Settings of recipes that can train many learners as one, each with ``num_envs`` environments."""

    data_by_seed: ClassVar[bool] = False
    """Whether runs of different seeds learn from different data: such trials are not learners of one run."""

    num_learners: Count = 1
    """Learners that train side by side, with seeds from --seed on; each takes --total-timesteps."""

    seeds: tuple[Natural, ...] = ()
    """Seeds of the learners, where they are not those from --seed on."""

    def check(self) -> None:
        """Raise ValueError unless there is a seed for each of several learners."""
        super().check()
        if self.seeds and not len(self.seeds) == self.num_learners > 1:
            raise ValueError(f"seeds has {len(self.seeds)} numbers; it must have one for each of several "
                             f"learners, and num_learners is {self.num_learners}")  # fmt: skip

    @property
    def given_seed(self) -> int | tuple[int, ...]:
        """What an agent is seeded with."""
        return self.seeds or self.seed

    @property
    def group_size(self) -> int | None:
        """Rows next to each other that start together; None: each for itself."""
        return None

    @property
    def _streams(self) -> int | None:
        return self.num_learners if self.num_learners > 1 else None

    def training_env(self) -> Any:
        """Return ``num_envs`` environments for each learner; rows start anew in the step that ended them."""
        rows = self.rows * self.num_learners
        return make_rollout_env(*self.made, rows, self.device, self._streams, self.group_size)

    def evaluation_env(self, episodes: int) -> Any:
        """Return a vector environment on the host with a row per episode of each learner."""
        rows = episodes * self.num_learners
        return make_evaluation_env(*self.made, rows, num_streams=self._streams)

    def restored(self, env: Any, folder: RunFolder) -> Any:
        """See :meth:`Recipe.restored`; a scalar environment is none that several learners can act in."""
        several = self.num_learners > 1
        return super().restored(Spaces(env.observation_space, env.action_space) if several else env, folder)

    def outcome(self, agent: Any, loop: Loop, folder: RunFolder) -> dict[str, Any]:
        """Return the return after training and those before; of several learners, those of each too.

        ``final_return`` and ``eval_returns`` are then interquartile means over learners, and
        ``steps_per_second`` counts the steps of all.
        """
        if self.num_learners == 1:
            return super().outcome(agent, loop, folder)
        final, found = self.final_evaluation(agent), loop.evaluations
        speed = agent.num_timesteps / (loop.seconds - loop.evaluation_seconds)
        timesteps = [each["timesteps"] for each in found]
        learners = [
            {
                "seed": agent.seeds[learner],
                "steps_per_second": speed,
                self.result_name: final["learners"][learner],
                "eval_returns": [each["learners"][learner] for each in found],
                "eval_timesteps": timesteps,
            }
            for learner in range(self.num_learners)
        ]
        return {
            "steps_per_second": speed * self.num_learners,
            self.result_name: final["interquartile_mean"],
            "interquartile_mean": final["interquartile_mean"],
            "interval": final["interval"],
            "eval_returns": [each["interquartile_mean"] for each in found],
            "eval_timesteps": timesteps,
            "learners": learners,
        }
