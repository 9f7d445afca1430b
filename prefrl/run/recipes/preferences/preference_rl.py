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
from prefrl.envs.wrappers.simulator_states import with_simulator_states
from prefrl.label.records import StudySettings
from prefrl.label.teacher import HumanTeacher
from prefrl.preferences import TeacherKind
from prefrl.preferences.queries import QueryKind
from prefrl.preferences.reward_model import RewardModelConfig
from prefrl.run.folder import RunFolder
from prefrl.run.loop import Loop
from prefrl.run.recipes.base import Pairs, default

from .with_learner import WithLearnerRecipe, reward_config

AnyTeacher = Literal["oracle", "logistic", "mistakes", "skips", "ties", "myopia", "file", "human"]

STUDY = ("question", "instructions", "annotators_per_question")
"""Settings of the study in which people answer."""


@dataclass(frozen=True)
class TrainPreferenceRL(WithLearnerRecipe):
    """Learn the reward from preferences between segments while an ordinary agent learns from it."""

    groups: ClassVar[Mapping[str, str]] = {
        **WithLearnerRecipe.groups,
        **dict.fromkeys(("teacher", "preferences", "num_labels", "first_labels", "sessions"), "preferences"),
        **dict.fromkeys(("reward_model", "reward_model_args"), "preferences"),
        **dict.fromkeys(("first_session", "query", "segment_length", "teacher_temperature"), "preferences"),
        **dict.fromkeys(("label_dir", "wait", "refit_every", *STUDY), "people"),
    }

    teacher: AnyTeacher = "oracle"
    """Who answers: a simulated teacher who knows the true return (oracle: without fault), a file, or people
    in a browser (human)."""

    preferences: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """Preference file to learn the reward from; with --teacher file nobody is asked."""

    label_dir: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")] = None
    """With --teacher human: folder of the labelling study, which is made; people answer in it with
    `prefrl label serve DIR` while the agent learns."""

    wait: bool = False
    """With --teacher human: stop after each session until all its questions are answered or skipped."""

    refit_every: Annotated[Count | None, default("10")] = None
    """With --teacher human: new answers after which the reward is learned anew; fewer will do when a session
    begins, and when all questions are answered."""

    question: Annotated[str | None, arg(metavar="TEXT", help_behavior_hint="")] = None
    """With --teacher human: what people are asked about two clips, in one sentence."""

    instructions: Annotated[str | None, arg(metavar="TEXT", help_behavior_hint="")] = None
    """With --teacher human: what people read before they begin."""

    annotators_per_question: Annotated[Count | None, default("1")] = None
    """With --teacher human: how many people answer each question."""

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
        if (self.teacher == "human") != (self.label_dir is not None):
            raise ValueError(f"teacher is {self.teacher!r} and label_dir {self.label_dir}; a folder in which "
                             "people answer goes with --teacher human")  # fmt: skip
        for name in ("wait", "refit_every", *STUDY) if self.teacher != "human" else ():
            if getattr(self, name) not in (None, False):
                raise ValueError(f"{name} is {getattr(self, name)!r}; it goes with --teacher human, and "
                                 f"teacher is {self.teacher!r}")  # fmt: skip
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
        kinds: dict[str, TeacherKind] = dict.fromkeys(("oracle", "file", "human"), "noiseless")
        refits = {} if self.refit_every is None else {"refit_every": self.refit_every}
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
            **refits,
            wait=self.wait,
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

    def training_env(self) -> Any:
        """See :meth:`Recipe.training_env`; for people it tells the states that clips are drawn from."""
        env = super().training_env()
        if self.teacher != "human":
            return env
        if hasattr(env.unwrapped, "num_agents"):
            raise ValueError(f"{self.env_id} has several agents, of which no clips are drawn: people cannot "
                             "be asked about them")  # fmt: skip
        return with_simulator_states(env)

    def begin(self, agent: PreferenceRL, folder: RunFolder, given: dict[str, Any]) -> None:
        """Keep the file's comparisons, or open the study in which people answer."""
        if given:
            save_preferences(folder.path / "preferences.npz", given["preferences"])
        if self.teacher != "human":
            return
        agent.teacher = teacher = HumanTeacher.of_run(folder.path, self.label_dir, self.study(agent.env))
        if not folder.quiet:
            print(f"people answer with `prefrl label serve {teacher.folder}`")

    def study(self, env: Any) -> StudySettings:
        """Return the settings of the study in which people answer."""
        given = {name: getattr(self, name) for name in STUDY if getattr(self, name) is not None}
        environment, arguments = self.made
        fps = min(120, round(env.metadata.get("render_fps", StudySettings.fps)))
        return StudySettings(environment=environment, env_args=arguments, fps=fps, **given)

    def train(
        self, agent: Any, folder: RunFolder | None, *, resume: bool = False, progress_bar: bool = False
    ) -> Loop:
        """See :meth:`Recipe.train`; at the end all is learned from that people have answered by then."""
        loop = super().train(agent, folder, resume=resume, progress_bar=progress_bar)
        if isinstance(teacher := getattr(agent, "teacher", None), HumanTeacher):
            teacher.look()
            agent.take_answers()
        return loop

    def outcome(self, agent: PreferenceRL, loop: Loop, folder: RunFolder) -> dict[str, Any]:
        """Return what uniform actions achieve too; save ``reward_model.pt`` and ``preferences.npz``."""
        agent.reward_model.save(folder.path / "reward_model.pt")
        people = {}
        if isinstance(agent.teacher, HumanTeacher):
            people = {"asked": agent.asked, **agent.teacher.summary()}
        if agent.preferences is not None:
            save_preferences(folder.path / "preferences.npz", agent.preferences.to("cpu"))
        return {
            **super().outcome(agent, loop, folder),
            "random_return": self.random_return(),
            **({"true_reward_baseline": self.true_reward_return()} if self.baseline else {}),
            **people,
        }
