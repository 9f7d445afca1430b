"""Train by self-play from preferences, in an environment or on a preference matrix."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from tyro.conf import arg

from prefrl.agents.base import Agent
from prefrl.agents.preferences.learners import Learner
from prefrl.agents.preferences.matrix_self_play import MatrixSelfPlay, MatrixSelfPlayConfig
from prefrl.agents.preferences.self_play import SelfPlay, SelfPlayConfig
from prefrl.config import Bounds, Count, Share
from prefrl.data.devices import resolve_device
from prefrl.data.files.matrices import read_matrix, save_matrix
from prefrl.functional.preferences.games import cycle_of_three
from prefrl.preferences.general_models import load_reward_model
from prefrl.preferences.reward_model import RewardModelConfig
from prefrl.preferences.segment_pairs import PairModel
from prefrl.preferences.trajectories import (
    ByModel,
    ByOption,
    MaxReturn,
    Noisy,
    TrajectoryPreference,
    WithinBudget,
    majority_matrix,
)
from prefrl.run.evaluate import Evaluation
from prefrl.run.folder import RunFolder
from prefrl.run.loop import Loop
from prefrl.run.recipes.base import Pairs

from .with_learner import RewardModelName, WithLearnerRecipe, reward_config

PreferenceKind = Literal["max_return", "noisy", "cyclic", "three_populations", "budget", "model", "matrix"]

Preference = Annotated[float, Bounds(low=-1, high=1)]
"""1 if the first of two is always preferred, -1 if the second."""

THREE_PEOPLE = ((0, 1, 2), (1, 2, 0), (2, 0, 1))
"""Rankings of three options, none inconsistent, whose majority is a cycle."""

LATE_SHARE = 0.1
"""Share of the trajectories, the latest, that are reported apart from the average of all."""


@dataclass(frozen=True)
class TrainSelfPlay(WithLearnerRecipe):
    """Self-play from preferences (SPO): win against your own latest trajectories, without any reward."""

    env_id: str = "prefrl/ThreeGoals-v0"
    """Environment with episodes that end."""

    total_timesteps: Count = 60_000
    """Timesteps to train for; with --matrix, rounds."""

    preference: PreferenceKind = "max_return"
    """Who compares: larger return; that with wrong answers; options that beat each other in a cycle, or by
    the majority of three people; return within a budget of steps in a region; a fitted model; or
    nobody, since --matrix says who wins (which it does beside any word)."""

    preference_model: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """model: file of a reward model, or of a general preference model of segments."""

    flip: Annotated[float, Bounds(low=0, high=0.5, below=True)] = 0.2
    """noisy: share of wrong answers."""

    cycle: tuple[Preference, Preference, Preference] = (1.0, 1.0, 1.0)
    """cyclic: how much option 0 is preferred to 1, 1 to 2, and 2 to 0."""

    budget: Share = 0.5
    """budget: largest share of steps in the region."""

    matrix: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """Play on a preference matrix instead: K x K numbers in [-1, 1], comma-separated, antisymmetric."""

    mode: Literal["hedge", "sampled", "reward_model"] = "hedge"
    """On a matrix: Hedge on exact preferences, a policy gradient on sampled ones, or a reward model's."""

    reward_source: Literal["self_play", "reward_model", "true"] = "self_play"
    """In an environment: what the learner is rewarded with."""

    queue: Count = 50
    """Latest trajectories that a new one is compared to."""

    credit: Literal["spread", "last"] = "spread"
    """Whether a trajectory's reward is paid in equal parts at every step, or with the last one."""

    reward_model: RewardModelName = "bradley_terry"
    """What the baseline fits to the comparisons: a reward model, or a general preference model."""

    reward_model_args: Pairs = ()
    """Its own settings, as in: form=linear num_users=2 user=1 (what all have are flags)."""

    reward: RewardModelConfig = field(default_factory=lambda: SelfPlayConfig().reward)
    """Settings of the baseline's reward model."""

    def check(self) -> None:
        """Raise ValueError for settings that the agent or who compares does not take."""
        super().check()
        if (self.preference == "model") != (self.preference_model is not None):
            raise ValueError(f"preference is {self.preference!r} and preference_model {self.preference_model}"
                             "; a file of a model goes with --preference model")  # fmt: skip
        if self.preference == "matrix" and self.matrix is None:
            raise ValueError("preference is 'matrix' and matrix None; give its file with --matrix")
        if self.matrix is None:
            self.agent_config()
            self.trajectory_preference()

    def agent_config(self, learner: Learner | None = None) -> SelfPlayConfig:
        """Return the settings of the agent in an environment."""
        reward = reward_config(self.reward_model, self.reward, self.reward_model_args)
        return SelfPlayConfig(learner=learner, reward=reward, queue=self.queue,
                              reward_source=self.reward_source, credit=self.credit)  # fmt: skip

    def trajectory_preference(self, model: PairModel | None = None) -> TrajectoryPreference:
        """Return who compares; the larger return stands for a model that is not given."""
        if model is not None:
            return ByModel(model)
        if self.preference in ("max_return", "model"):
            return MaxReturn()
        if self.preference == "noisy":
            return Noisy(MaxReturn(), self.flip)
        if self.preference == "budget":
            return WithinBudget(self.budget)
        if self.preference == "cyclic":
            return ByOption(cycle_of_three(*self.cycle))
        return ByOption(majority_matrix(torch.tensor(THREE_PEOPLE)))

    def training_env(self) -> Any:
        """Return the environments to learn in; None for a matrix, which is enough."""
        return super().training_env() if self.matrix is None else None

    def given(self, env: Any, folder: RunFolder, *, resume: bool) -> dict[str, Any]:
        """Return the matrix, if there is one, or the model that compares."""
        if self.matrix is None and self.preference_model is not None:
            kept = folder.path / "preference_model.pt"
            file = kept if resume and kept.exists() else self.preference_model
            model = load_reward_model(file, observation_space=env.single_observation_space,
                                      action_space=env.single_action_space,
                                      device=resolve_device(self.device))  # fmt: skip
            return {"model": model}
        if self.matrix is None:
            return {}
        kept = folder.path / "matrix.csv"
        return {"matrix": read_matrix(kept if resume and kept.exists() else self.matrix)}

    def make_agent(
        self, env: Any, matrix: torch.Tensor | None = None, model: PairModel | None = None
    ) -> SelfPlay | MatrixSelfPlay:
        """See :meth:`Recipe.make_agent`."""
        if matrix is not None:
            rounds = MatrixSelfPlayConfig(mode=self.mode, rounds=self.total_timesteps)
            return MatrixSelfPlay(None, rounds, matrix=matrix, device=self.device, seed=self.seed)
        config = self.agent_config(self.learner_config())
        return SelfPlay(env, config, preference=self.trajectory_preference(model), device=self.device,
                        seed=self.seed)  # fmt: skip

    def begin(self, agent: Agent, folder: RunFolder, given: dict[str, Any]) -> None:
        """Keep the matrix as ``matrix.csv``, the model as ``preference_model.pt``."""
        if "model" in given:
            given["model"].save(folder.path / "preference_model.pt")
        if "matrix" in given:
            save_matrix(folder.path / "matrix.csv", given["matrix"])

    def evaluations(self) -> Evaluation | None:
        """See :meth:`Recipe.evaluations`: there are no episodes on a matrix."""
        return super().evaluations() if self.matrix is None else None

    def outcome(self, agent: Any, loop: Loop, folder: RunFolder) -> dict[str, Any]:
        """Return how the agent behaves; of a matrix the agent itself says all.

        A baseline's ``reward_model.pt`` is saved.
        """
        if self.matrix is not None:
            return {}
        if self.reward_source == "reward_model":
            agent.reward_model.save(folder.path / "reward_model.pt")
        return {**super().outcome(agent, loop, folder), **self._behaviour(agent)}

    def _behaviour(self, agent: SelfPlay) -> dict[str, Any]:
        """Return what the trajectories were like, over the whole run and lately.

        A model's embeddings of them are no numbers to read.
        """
        if self.preference == "model":
            return {}
        history = torch.stack(agent.history)
        parts = {"all": history, "late": history[-max(1, round(LATE_SHARE * len(history))) :]}
        if self.preference in ("cyclic", "three_populations"):
            return {
                f"option_shares_{name}": [float((part[:, 0] == k).double().mean()) for k in range(4)]
                for name, part in parts.items()
            }
        found = {f"mean_return_{name}": float(part[:, 0].mean()) for name, part in parts.items()}
        if self.preference == "budget":
            within = {name: (part[:, 1] <= self.budget + 1e-9).double() for name, part in parts.items()}
            found |= {f"within_budget_{name}": float(part.mean()) for name, part in within.items()}
        return found

    def evaluation(self, folder: RunFolder) -> Any:
        """See :meth:`Recipe.evaluation`; ValueError for a run on a matrix, which has no episodes."""
        if self.matrix is not None:
            raise ValueError("a preference matrix has no episodes to evaluate in; result.json has the "
                             "exploitability")  # fmt: skip
        return super().evaluation(folder)
