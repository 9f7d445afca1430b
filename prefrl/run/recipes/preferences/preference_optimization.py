"""Learn a policy straight from preferences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

from prefrl.agents.base import Spaces
from prefrl.agents.preferences.preference_optimization import (
    PreferenceOptimization,
    PreferenceOptimizationConfig,
)
from prefrl.config import Count, Rows, Share
from prefrl.data import Preferences, load_preferences, load_transitions, save_preferences
from prefrl.preferences import TeacherKind, ask_teacher
from prefrl.preferences.asking import ask_about, exact_answers, with_flips
from prefrl.preferences.models import PartialReturn
from prefrl.preferences.queries import OptionQueryKind
from prefrl.preferences.questions import Rounds
from prefrl.run.collect import collect_transitions
from prefrl.run.folder import RunFolder
from prefrl.run.loop import Loop
from prefrl.run.outcomes.policies import has_table, tabular_outcome
from prefrl.run.recipes.base import Recipe, default
from prefrl.run.recipes.stacked import StackedRecipe
from prefrl.tabular import TabularMDP

from .labels import LabelModelName, label_rate, relabelled

UNIFORM_TIMESTEPS = 10_000
"""Timesteps of uniform actions that a teacher compares segments of, where no data are given."""


@dataclass(frozen=True)
class TrainPreferenceOptimization(StackedRecipe):
    """A policy straight from preferences: DPO, IPO, CPL, SimPO, ... behind one loss; cloning first."""

    data_by_seed: ClassVar[bool] = True
    steps: ClassVar[bool] = False

    groups: ClassVar[Mapping[str, str]] = {
        **Recipe.groups,
        **dict.fromkeys(("preferences", "teacher", "num_pairs", "segment_length"), "preferences"),
        **dict.fromkeys(("dataset", "label_noise", "label_model", "query"), "preferences"),
    }

    env_id: str = "prefrl/TokenTree-v0"
    """Environment that the comparisons are of."""

    preferences: Path | None = None
    """Preference file to learn from."""

    teacher: TeacherKind | None = None
    """A simulated teacher, who judges by the return of random segments. Without one and without a file an
    environment of sequences answers itself, and in others the teacher is logistic."""

    dataset: Path | None = None
    """File of transitions whose segments the teacher compares; without one, those of uniform actions."""

    num_pairs: Count | None = None
    """Comparisons that are asked for; None: all pairs of sequences, exactly (of a teacher: 1,000)."""

    segment_length: Annotated[Count | None, default("3 in tabular environments, else 50")] = None
    """Transitions per segment that the teacher sees."""

    query: OptionQueryKind = "uniform"
    """How pairs are chosen, in eight rounds, by a model of the answers so far; active_edges where sequences
    are compared that come again, without a teacher."""

    label_noise: Share = 0.0
    """Share of labels that is turned round; it is epsilon for losses that take one, unless that is given."""

    label_model: tuple[LabelModelName, ...] = ()
    """What is made of the labels, one after the other."""

    total_timesteps: Count = 5_000
    """Gradient steps, those of cloning included."""

    eval_episodes: Rows = 20

    agent: PreferenceOptimizationConfig = field(default_factory=PreferenceOptimizationConfig)
    """Settings of the agent."""

    def check(self) -> None:
        """Raise ValueError for two sources of comparisons, or noise that the loss cannot reckon with."""
        super().check()
        names = ("teacher", "dataset", "num_pairs", "segment_length")
        others = [name for name in names if getattr(self, name) is not None]
        if self.preferences is not None and others:
            raise ValueError(f"preferences and {others[0]} are both given; comparisons of a file are taken "
                             "as they are")  # fmt: skip
        if self.preferences is not None and self.query != "uniform":
            raise ValueError(f"query is {self.query!r} and preferences are given; comparisons of a file are "
                             "all taken")  # fmt: skip
        if self.teacher is not None or self.dataset is not None:
            Rounds(self.query).check_pool()
        if "robust_flips" in self.label_model and self.agent.row.labels == "robust":
            raise ValueError(f"label_model is robust_flips and loss {self.agent.loss!r}; both correct labels "
                             "for flips, and one of them is enough")  # fmt: skip
        if self.total_timesteps <= self.agent.cloning_steps:
            raise ValueError(f"total_timesteps is {self.total_timesteps}; after {self.agent.cloning_steps} "
                             "cloning_steps nothing would be learned from comparisons")  # fmt: skip
        self.settings.check()

    @property
    def settings(self) -> PreferenceOptimizationConfig:
        """Those of the agent, with what the recipe knows better."""
        config, noise = self.agent, self.label_noise or None
        epsilon = noise if config.epsilon is None and "epsilon" in config.row.settings else config.epsilon
        return replace(
            config, epsilon=epsilon, label_rate=label_rate(self.label_model, config.label_rate),
            schedule_timesteps=config.schedule_timesteps or self.total_timesteps,
        )  # fmt: skip

    def training_env(self) -> Any:
        """Return the environment that the comparisons are of; nothing is stepped."""
        return self.scalar_env()

    def given(self, env: Any, folder: RunFolder, *, resume: bool) -> dict[str, Any]:
        """Return the comparisons: those that the folder keeps, the file's, a teacher's or all there are."""
        kept = folder.path / "preferences.npz"
        if resume and kept.exists():
            return {"preferences": load_preferences(kept)}
        answers = with_flips(self._answers(env), self.label_noise, seed=self.seed)
        return {"preferences": relabelled(self.label_model, answers, env, self.label_noise, seed=self.seed)}

    def _answers(self, env: Any) -> Preferences:
        """Return the comparisons as they were made."""
        task, kind, pairs = env.unwrapped, self.teacher or "logistic", self.num_pairs or 1_000
        rounds = Rounds(self.query)
        if self.preferences is not None:
            return load_preferences(self.preferences)
        if self.teacher is None and self.dataset is None and hasattr(task, "preference_matrix"):
            if self.segment_length is not None:
                raise ValueError(f"segment_length is {self.segment_length}; whole sequences are compared "
                                 "where no teacher and no dataset is given")  # fmt: skip
            return exact_answers(env, self.num_pairs, rounds=rounds, seed=self.seed)
        if self.dataset is None and has_table(env):
            return ask_teacher(
                TabularMDP.from_env(env), pairs, kind=kind, model=PartialReturn(),
                length=self.segment_length or 3, rounds=rounds, seed=self.seed,
            )  # fmt: skip
        if self.dataset is None:
            try:
                dataset = collect_transitions(None, env, UNIFORM_TIMESTEPS, epsilon=1.0, seed=self.seed)
            except (TypeError, ValueError) as error:  # of spaces that no data set has, or without ends
                raise ValueError(f"{error}; give comparisons: --preferences FILE") from error
        else:
            dataset = load_transitions(self.dataset)
        dataset.check_matches(env.observation_space, env.action_space)
        return ask_about(dataset, pairs, kind=kind, length=self.segment_length or 50, rounds=rounds,
                         seed=self.seed)  # fmt: skip

    def make_agent(self, env: Any, preferences: Preferences | None = None) -> PreferenceOptimization:
        """See :meth:`Recipe.make_agent`."""
        alone = self.num_learners == 1 or isinstance(env, Spaces)
        spaces = env if alone else Spaces(env.observation_space, env.action_space)
        return PreferenceOptimization(spaces, self.settings, preferences, num_learners=self.num_learners,
                                      device=self.device, seed=self.given_seed)  # fmt: skip

    def begin(self, agent: PreferenceOptimization, folder: RunFolder, given: dict[str, Any]) -> None:
        """Keep the comparisons as ``preferences.npz``."""
        save_preferences(folder.path / "preferences.npz", given["preferences"])

    def outcome(self, agent: PreferenceOptimization, loop: Loop, folder: RunFolder) -> dict[str, Any]:
        """Return the return, and what is known exactly in an environment with a table of its model."""
        found = {"optimal_value": None, **super().outcome(agent, loop, folder)}
        env = self.scalar_env()
        if has_table(env):
            sources = self.preferences, self.teacher, self.dataset, self.num_pairs
            exact = all(source is None for source in sources) and not self.label_model
            found |= tabular_outcome(agent, env, self.label_noise, exact=exact)
        return found
