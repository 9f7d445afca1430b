"""Train from preferences between segments, with any policy learner."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from tyro.conf import arg

from prefrl.agents.preferences.learners import Learner
from prefrl.agents.preferences.preference_rl import PreferenceRL, PreferenceRLConfig
from prefrl.config import Count, Natural, Positive
from prefrl.data import Preferences, load_preferences, save_preferences
from prefrl.preferences import TeacherKind
from prefrl.preferences.queries import QueryKind
from prefrl.preferences.reward_model import RewardModelConfig
from prefrl.run.folder import RunFolder
from prefrl.run.loop import Loop
from prefrl.run.recipes.base import Pairs, default

from .with_learner import WithLearnerRecipe, reward_config

AnyTeacher = Literal["oracle", "logistic", "mistakes", "skips", "ties", "myopia", "file"]


@dataclass(frozen=True)
class TrainPreferenceRL(WithLearnerRecipe):
    """Learn the reward from preferences between segments while an ordinary agent learns from it."""

    groups: ClassVar[Mapping[str, str]] = {
        **WithLearnerRecipe.groups,
        **dict.fromkeys(("teacher", "preferences", "num_labels", "first_labels", "sessions"), "preferences"),
        **dict.fromkeys(("reward_model", "reward_model_args"), "preferences"),
        **dict.fromkeys(("first_session", "query", "segment_length", "teacher_temperature"), "preferences"),
    }

    teacher: AnyTeacher = "oracle"
    """Who answers: a simulated teacher who knows the true return (oracle: without fault), or a file."""

    preferences: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """Preference file to learn the reward from; with --teacher file nobody is asked."""

    num_labels: Natural = 700
    """Questions that may be asked in all."""

    first_labels: Annotated[Count | None, default("a seventh of them")] = None
    """Questions of the first session."""

    sessions: Count = 11
    """Sessions of questions, spread over the first two thirds of the run."""

    first_session: Annotated[Count | None, default("a twelfth of the run")] = None
    """Timesteps before the first session."""

    query: QueryKind = "disagreement"
    """How questions are chosen."""

    segment_length: Count = 50
    """Steps of a segment."""

    teacher_temperature: Positive = 0.2
    """Temperature of the logistic teacher, in standard deviations of the segments' returns."""

    pretraining: bool = False
    """Train for novelty (state entropy) before the first session."""

    baseline: bool = False
    """Also train the same learner on the true reward, for as long."""

    reward_model: Literal["bradley_terry", "thurstone", "pal"] = "bradley_terry"
    """What is fitted to the answers: a reward model, or Thurstone's or PAL's in its place (of PAL, one
    annotator's reward)."""

    reward_model_args: Pairs = ()
    """Its own settings, as in: form=linear num_users=2 user=1 (what all have are flags)."""

    reward: RewardModelConfig = field(default_factory=RewardModelConfig)
    """Settings of the reward model."""

    def check(self) -> None:
        """Raise ValueError for settings that do not go together, or that the agent does not take."""
        super().check()
        if (self.teacher == "file") != (self.preferences is not None):
            raise ValueError(f"teacher is {self.teacher!r} and preferences {self.preferences}; a file of "
                             "preferences goes with --teacher file")  # fmt: skip
        if self.teacher != "file" and self.num_labels < 1:
            raise ValueError(f"num_labels is {self.num_labels}; without a file it must be at least 1")
        if self.first_session is not None and self.first_session >= self.total_timesteps:
            total = self.total_timesteps
            raise ValueError(f"first_session is {self.first_session}; the run ends after {total} timesteps")
        self.agent_config()

    def agent_config(self, learner: Learner | None = None) -> PreferenceRLConfig:
        """Return the settings of the agent: when which questions are asked."""
        share = self.num_labels if self.sessions == 1 else self.num_labels // 7
        first = self.first_labels or max(1, share)
        start = self.first_session or max(1, self.total_timesteps // 12)
        later = max(1, self.sessions - 1)
        kinds: dict[str, TeacherKind] = {"oracle": "noiseless", "file": "noiseless"}
        teacher: Any = kinds.get(self.teacher, self.teacher)
        return PreferenceRLConfig(
            learner=learner,
            reward=reward_config(self.reward_model, self.reward, self.reward_model_args),
            teacher=teacher,
            teacher_temperature=self.teacher_temperature,
            query=self.query,
            segment_length=self.segment_length,
            num_labels=0 if self.teacher == "file" else self.num_labels,
            first_labels=first,
            session_labels=max(1, -(-max(0, self.num_labels - first) // later)),
            first_session=start,
            session_every=max(1, (self._last_session(start) - start) // later),
            pretraining=self.pretraining,
            store_size=max(1, min(self.total_timesteps, 1_000_000)),
        )

    def _last_session(self, start: int) -> int:
        """Return when the last session is: two thirds into the run, or halfway from the first to the end."""
        total = self.total_timesteps
        return max(2 * total // 3, (start + total) // 2)

    def given(self, env: Any, folder: RunFolder, *, resume: bool) -> dict[str, Any]:
        """Return the file's comparisons, if there is one, or what the folder keeps of them."""
        if self.preferences is None:
            return {}
        kept = folder.path / "preferences.npz"
        return {"preferences": load_preferences(kept if resume and kept.exists() else self.preferences)}

    def make_agent(self, env: Any, preferences: Preferences | None = None) -> PreferenceRL:
        """See :meth:`Recipe.make_agent`."""
        config = self.agent_config(self.learner_config())
        return PreferenceRL(env, config, preferences=preferences, rows=self.rows_of(env),
                            device=self.device, seed=self.seed)  # fmt: skip

    def begin(self, agent: PreferenceRL, folder: RunFolder, given: dict[str, Any]) -> None:
        """Keep the file's comparisons."""
        if given:
            save_preferences(folder.path / "preferences.npz", given["preferences"])

    def outcome(self, agent: PreferenceRL, loop: Loop, folder: RunFolder) -> dict[str, Any]:
        """Return what uniform actions achieve too; save ``reward_model.pt`` and ``preferences.npz``."""
        agent.reward_model.save(folder.path / "reward_model.pt")
        if agent.preferences is not None:
            save_preferences(folder.path / "preferences.npz", agent.preferences.to("cpu"))
        return {
            **super().outcome(agent, loop, folder),
            "random_return": self.random_return(),
            **({"true_reward_baseline": self.true_reward_return()} if self.baseline else {}),
        }
