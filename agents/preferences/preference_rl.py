"""Reinforcement learning from preferences between segments, with any policy learner.

The agent acts; segments of what it did are shown in pairs to a teacher, who says which is better; a reward
model is fitted to the answers (Bradley-Terry on the sum of rewards),

    loss = - [ label log P(second) + (1 - label) log P(first) ],   P(second) = logistic(G_hat' - G_hat),

and an ordinary agent is trained on the learned reward, all in turns: collect, ask, fit, improve. Whatever the
agent keeps is relabelled after each fit. A teacher may take time: questions are posted, the agent goes on,
and answers are learned from as they come.

Sources: Christiano et al. 2017 (arXiv 1706.03741); PEBBLE (Lee et al. 2021, arXiv 2106.05091) for relabelling
and for the state entropy that a policy may be trained with before anybody is asked; B-Pref (arXiv 2111.03026)
for the teachers.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from prefrl.config import Count, Natural, Positive, PositiveShare
from prefrl.data import Preferences, Transitions, merge_preferences
from prefrl.data.devices import make_generator, restore_generator
from prefrl.data.files.preference_files import preference_tensors, preferences_from_tensors
from prefrl.data.segment_store import Excerpt
from prefrl.functional.preferences.state_entropy import nearest_neighbour_reward
from prefrl.nn.ensemble import asked
from prefrl.preferences import Answerer, Questions, ReturnTeacher, TeacherKind
from prefrl.preferences.asking import answers_by_return
from prefrl.preferences.queries import RULES, QueryKind, check_members, choose_queries
from prefrl.preferences.reward_model import RewardModelConfig
from prefrl.preferences.teachers import TEACHER, as_answerer, check_answers

from .compared_segments import check_segment_length
from .learners import RewardLearner, RewardLearnerConfig, known_or_none

NEIGHBOURS_AMONG = 1_024
"""Visited observations, drawn anew at every step, among which nearest neighbours are looked for."""

STATES = "simulator_state"
"""The info that tells the simulator's states [2, D] before and after a step, for teachers who need them."""


@dataclass(frozen=True)
class PreferenceRLConfig(RewardLearnerConfig):
    """Settings of :class:`PreferenceRL`.

    Raises:
        ValueError: if a number is out of range, or a name unknown.
    """

    teacher: TeacherKind = "noiseless"
    """Who answers by the true return: without fault, or with one of B-Pref's. (Not used where the agent is
    given a teacher.)"""

    teacher_temperature: Positive = 0.2
    """Temperature of the logistic teacher, in standard deviations of the segments' returns."""

    query: QueryKind = "disagreement"
    """How questions are chosen."""

    candidates: Count = 10
    """Pairs to choose each question from (PEBBLE: 10)."""

    recent: PositiveShare = 0.25
    """Share of the latest steps that "recent" questions are about."""

    segment_length: Count = 50
    """Steps of a segment (PEBBLE: 50)."""

    num_labels: Natural = 700
    """Questions that may be asked in all; those that a teacher skips count."""

    first_labels: Count = 100
    """Questions of the first session."""

    session_labels: Count = 60
    """Questions of each later session."""

    first_session: Count = 1_000
    """Timesteps before the first session; until then the reward is 0, or the state entropy's."""

    session_every: Count = 1_000
    """Timesteps between two sessions."""

    refit_every: Count = 10
    """Answers that a teacher who takes time must have given, or changed, before the reward model is fitted to
    them; fewer will do at a session, and where no question is left. (A fit and a relabelling take as long as
    some hundred steps of learning; people answer about ten questions a minute.)"""

    wait: bool = False
    """Stop after each session until the teacher has answered or skipped every question."""

    pretraining: bool = False
    """Reward novelty before the first session: the distance to the nearest neighbours among the visited
    observations, whose logarithm estimates their entropy (PEBBLE)."""

    neighbour: Count = 5
    """Which nearest neighbour (PEBBLE: 5)."""

    store_size: Count = 100_000
    """Transitions to keep for segments and relabelling; what the learner keeps longer is not relabelled."""

    def check(self) -> None:
        """Raise ValueError for an ensemble of one that is to disagree, or a model without rewards."""
        super().check()
        if not self.reward.stepwise:
            raise ValueError(f"reward is {self.reward}, without rewards of single steps; PreferenceRL takes "
                             "RewardModelConfig, ThurstoneNetworkConfig, PALNetworkConfig of form 'linear' "
                             "(SelfPlay takes all)")  # fmt: skip
        if type(self.reward) is not RewardModelConfig and RULES[self.query].needs == "slopes":
            raise ValueError(f"query is {self.query!r}, which needs a RewardModelConfig, and reward is a "
                             f"{type(self.reward).__name__}; choose another query")  # fmt: skip
        check_members(self.query, self.reward.members)


class PreferenceRL(RewardLearner):
    """An agent that learns its reward from preferences while it learns its policy; see the module's text.

    One timestep is one row of one environment step, as for its learner.

    Args:
        env: an environment, or :class:`prefrl.agents.base.Spaces`; its reward is used only by the teacher.
        config: settings.
        preferences: comparisons to fit the reward model to before the first step; with them, and
            ``num_labels`` 0, nobody is asked.
        teacher: who answers: an :class:`prefrl.preferences.Answerer`, or a function of
            :class:`prefrl.preferences.Questions` (None: by the true return, as the settings say).
        rows: rows of a step (None: the environment's).
        device: torch device, or "auto".
        seed: seeds everything random.

    Raises:
        ValueError: if the learner or the reward model does not take the spaces, or nothing was answered.
    """

    config_class: ClassVar[type[PreferenceRLConfig]] = PreferenceRLConfig

    def __init__(
        self,
        env: Any,
        config: PreferenceRLConfig | None = None,
        *,
        preferences: Preferences | None = None,
        teacher: Answerer | Callable[[Questions], Preferences] | None = None,
        rows: int | None = None,
        device: torch.device | str = "auto",
        seed: int = 0,
    ) -> None:
        super().__init__(env, config or PreferenceRLConfig(), device=device, seed=seed)
        config = self.config
        self._make_parts(config.store_size, rows)
        self._generator = make_generator(self.device, seed)
        self.preferences: Preferences | None = None
        self.sessions = self.asked = 0
        self.fitted = self._warned = False
        self._known_from: str | None = None
        self.teacher = teacher or ReturnTeacher(config.teacher, temperature=config.teacher_temperature,
                                                seed=seed)  # fmt: skip
        self._check_settings(env)
        if preferences is not None:
            self.reward_model.check(preferences)
            if not bool((preferences.weights > 0).any()):
                raise ValueError("preferences have weight 0 only: nothing was answered")
            self.preferences = _answers(preferences, teacher=config.num_labels > 0).to(self.device)
            self.reward_model.check(self.preferences)  # which may have one annotator more now
            self.reward_model.fit(self.preferences)
            self.fitted = True
            self._given = len(self.preferences)

    @property
    def teacher(self) -> Answerer:
        """Who answers; another one adds to what is known already, one of the same identity does not."""
        return self._teacher

    @teacher.setter
    def teacher(self, teacher: Answerer | Callable[[Questions], Preferences]) -> None:
        self._teacher = as_answerer(teacher)
        self.info_keys = (STATES,) if self._teacher.needs_states else ()
        identity = self._teacher.identity
        if identity is None or identity != self._known_from:
            self._given = 0 if self.preferences is None else len(self.preferences)
        self._known_from = identity

    def _check_settings(self, env: Any) -> None:
        """Raise ValueError for settings that do not suit the environment."""
        config, layout = self.config, self.reward_model.layout
        if config.pretraining and not layout.vector_size:
            raise ValueError("pretraining measures distances between observations, and these are pictures "
                             "only")  # fmt: skip
        check_segment_length(env, config.segment_length)

    # Stepping ---------------------------------------------------------------------------------------------

    def observe(self, transitions: Transitions) -> None:
        """Keep one step, and show it to the learner with the learned reward."""
        layout = self.reward_model.layout
        obs, next_obs = layout.keep(transitions.obs), layout.keep(transitions.next_obs)
        novelty = self.config.pretraining and len(self.store) > 0
        if self.fitted:
            rewards = self.reward_model.kept_rewards(obs, transitions.actions, next_obs)
        elif novelty:
            rewards = self._novelty(next_obs)
        else:
            rewards = torch.zeros_like(transitions.rewards)
        self.store.add(transitions, obs, next_obs, states=transitions.infos.get(STATES))
        self.show(replace(transitions, rewards=rewards), rewarded=self.fitted or novelty)

    def _novelty(self, obs: Tensor) -> Tensor:
        """Return the reward [n] of state entropy for observations [n, ...]."""
        visited = self.store.ring.storage["next_obs"][: self.store.steps].flatten(0, 1)
        if len(visited) > NEIGHBOURS_AMONG:
            drawn = torch.randint(len(visited), (NEIGHBOURS_AMONG,), generator=self._generator,
                                  device=self._generator.device)  # fmt: skip
            visited = visited[drawn.to(self.device)]
        read = self.reward_model.layout.read
        others = read(visited).vectors
        spread = others.std(0, correction=0).clamp(min=1e-3)
        return nearest_neighbour_reward(read(obs).vectors / spread, others / spread, self.config.neighbour)

    def update(self) -> dict[str, Tensor]:
        """Ask, fit and relabel where it is due, and let the learner learn."""
        config = self.config
        due = config.first_session + self.sessions * config.session_every
        if self.num_timesteps >= due and self.asked < config.num_labels and self._can_ask():
            metrics = self._session()
        else:
            metrics = self.take_answers(config.refit_every)
        self.learner.num_timesteps = self.num_timesteps
        return {**self.learner.update(), **metrics}

    # Learning the reward ----------------------------------------------------------------------------------

    def _can_ask(self) -> bool:
        """Whether there are two whole segments to compare, among what was seen before the first session.

        (A loaded agent has to see as much again.)
        """
        if len(self.store) < min(self.config.first_session, self.store.ring.capacity):
            return False
        if asked(self.store.starts(self.config.segment_length).sum() >= 2):
            return True
        if not self._warned:
            self._warned = True
            warnings.warn(f"nothing can be asked: of what was seen there are no two segments of "
                          f"{self.config.segment_length} steps in one episode (segment_length); asking "
                          "waits for them", stacklevel=2)  # fmt: skip
        return False

    def _session(self) -> dict[str, Tensor]:
        """Ask the teacher, and learn from what was answered."""
        config = self.config
        wanted = config.session_labels if self.sessions else config.first_labels
        count = min(wanted, config.num_labels - self.asked)
        fresh = not self.teacher.revises or self.teacher.news() > 0
        answers = self._answered(*self._questions(count))
        self.asked += count
        self.sessions += 1
        return self._learn_from(answers) if fresh else {}

    def take_answers(self, least: int = 1) -> dict[str, Tensor]:
        """Learn from what a teacher who takes time has answered since it was looked last.

        Args:
            least: answers that there must be; fewer will do where no question is left.

        Returns:
            Metrics; none where nothing was learned.
        """
        news = self.teacher.news()
        if news == 0 or (news < least and self.teacher.unanswered()):
            return {}
        none = self.store.sample_pairs(0, self.config.segment_length, self._generator)
        return self._learn_from(self._answered(*none))

    def waits(self) -> bool:
        """See :meth:`Agent.waits`."""
        return self.config.wait and self.teacher.unanswered() > 0

    def _learn_from(self, answers: Preferences) -> dict[str, Tensor]:
        """Fit the reward model to all answers so far, and relabel."""
        revises = self.teacher.revises
        known = [] if self.preferences is None else [self.preferences]
        kept = [part[slice(self._given)] for part in known] if revises else known
        self.preferences = merge_preferences([*kept, answers.to(self.device)])
        if not revises:
            self._given = len(self.preferences)
        if not len(answers) or (revises and not bool((answers.weights > 0).any())):
            return {}  # all that there was was skipped, or taken back
        metrics = self.reward_model.fit(self.preferences)
        self.fitted = True
        self.relabel_learner(self.reward_model.kept_rewards)
        return {
            "reward_model/loss": metrics["loss"],
            "reward_model/accuracy": metrics["accuracy"],
            "preferences/answered": answers.weights.mean(),
            "preferences/labels": torch.full((), float(self.asked), device=self.device),
        }

    def _questions(self, count: int) -> tuple[Excerpt, Excerpt]:
        """Return ``count`` pairs of segments to ask about."""
        config = self.config
        needs = RULES[config.query].needs
        chosen_by_model = needs != "nothing" and self.fitted
        candidates = count * (config.candidates if chosen_by_model else 1)
        recent = config.recent if config.query == "recent" else 1.0
        sides = self.store.sample_pairs(candidates, config.segment_length, self._generator, recent=recent)
        if not chosen_by_model:
            return sides[0], sides[1]
        model, (one, other) = self.reward_model, (side.segments for side in sides)
        slopes = information = None
        if needs == "slopes":
            slopes = model.slopes(other) - model.slopes(one)
            information = None if self.preferences is None else model.information(self.preferences)
        best = choose_queries(config.query, count, model.scores(one), model.scores(other), slopes=slopes,
                              information=information)  # fmt: skip
        return sides[0].at(best), sides[1].at(best)

    def _answered(self, first: Excerpt, second: Excerpt) -> Preferences:
        """Return the teacher's answers; questions that were skipped have weight 0."""
        answers = check_answers(self.teacher.ask(Questions(first, second, self.sessions)))
        if len(answers):
            self.reward_model.check(answers)  # before they are added to what is known
        return answers

    def accuracy(self, num_pairs: int = 1_000) -> float:
        """Return how often the reward model prefers the segment of larger true return; waits for the device.

        Pairs are drawn uniformly from what was visited lately, and cost no labels. NaN where no two segments
        differ in return.

        Raises:
            ValueError: if nothing was visited yet.
        """
        generator = make_generator(self.device, self.seed + 1)
        sides = self.store.sample_pairs(num_pairs, self.config.segment_length, generator)
        return float(self.reward_model.accuracy(answers_by_return("noiseless", *sides)))

    @property
    def labels_used(self) -> int:
        """Answers that the reward model was fitted to, given ones included; waits for the device."""
        return 0 if self.preferences is None else int((self.preferences.weights > 0).sum())

    def result(self) -> dict[str, Any]:
        """Return accuracy of the reward model (None before anything was visited) and number of labels."""
        accuracy = self.accuracy() if len(self.store) else math.nan
        return {"reward_model_accuracy": known_or_none(accuracy), "labels_used": self.labels_used}

    # What a continuation needs ----------------------------------------------------------------------------

    def saved_state(self) -> dict[str, Any]:
        """See :meth:`Agent.saved_state`; what was visited stays behind."""
        return {
            **super().saved_state(),
            "rows": self.rows,
            "generator": self._generator.get_state(),
            "counts": [self.sessions, self.asked, self.learner.num_timesteps],
            "given": self._given,
            "known_from": self._known_from,
            "fitted": self.fitted,
            "preferences": None if self.preferences is None else self._answers_state(self.preferences),
        }

    @staticmethod
    def _answers_state(answers: Preferences) -> dict[str, Any]:
        return {
            "tensors": preference_tensors(answers),
            "names": list(answers.annotator_names),
            "metadata": json.dumps(dict(answers.metadata)),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :meth:`Agent.load_state_dict`."""
        super().load_state_dict(state)
        restore_generator(self._generator, state["generator"])
        self.sessions, self.asked, self.learner.num_timesteps = (int(count) for count in state["counts"])
        self.fitted = bool(state["fitted"])
        if (known := state["preferences"]) is not None:
            answers = preferences_from_tensors(
                known["tensors"], tuple(known["names"]), json.loads(known["metadata"])
            )
            self.preferences = answers.to(self.device)
            self._given = int(state.get("given", len(answers)))
        self._known_from = state.get("known_from")


def _answers(preferences: Preferences, teacher: bool) -> Preferences:
    """Return comparisons to which a teacher may add, without features that no reward model here reads."""
    names = preferences.annotator_names
    names = (*names, TEACHER) if teacher and TEACHER not in names else names
    first, second = (replace(side, features=None) for side in (preferences.first, preferences.second))
    return replace(preferences, first=first, second=second, annotator_names=names)
