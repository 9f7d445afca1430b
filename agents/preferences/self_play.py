"""SPO: learning a policy from preferences that no reward need explain (Swamy et al. 2024, arXiv 2401.04056).

Preferences may be intransitive, noisy, and of whole trajectories. What they always have is a minimax winner,
a policy that no other is preferred to. One learner finds it by playing against itself: it is rewarded with
how often its trajectory is preferred to the latest ones of its own,

    R(xi) = 1/B sum_{xi' in queue} P(xi, xi'),

spread over the steps of xi, or paid at the end. There is no reward model and no adversary. For comparison,
the same learner may be trained on a reward model that is fitted to the same comparisons, or on the true
reward. A fitted model that has no reward of single steps (GPM, which has no score either, and PAL's distances
and cosines) is asked in place of whoever compares: R is then how often it says that xi is preferred.

A trajectory is shown to the learner when it is over, since only then is it known how it compares: step by
step, as if a single environment had made it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from prefrl.config import Count
from prefrl.data import Preferences, Segments, Transitions, concatenate_segments, seeded_generator
from prefrl.functional.preferences.games import win_rates
from prefrl.preferences.general_models import AnyRewardConfig
from prefrl.preferences.reward_model import RewardModelConfig
from prefrl.preferences.trajectories import MaxReturn, Trajectory, TrajectoryPreference

from .learners import RewardLearner, RewardLearnerConfig, known_or_none

STEP_FIELDS = ("obs", "actions", "rewards", "next_obs", "terminations", "truncations", "mask")
"""What is kept of the steps of unfinished episodes."""


@dataclass(frozen=True)
class SelfPlayConfig(RewardLearnerConfig):
    """Settings of :class:`SelfPlay`. The paper's queue size and credit are not known to us.

    Raises:
        ValueError: if a number is out of range, or a name unknown.
    """

    reward: AnyRewardConfig = field(
        default_factory=lambda: RewardModelConfig(members=1, bootstrap=False, epochs=3)
    )
    """The reward model of the baseline, or a general preference model: the type says which."""

    reward_source: Literal["self_play", "reward_model", "true"] = "self_play"
    """What the learner is rewarded with: preferences over its own trajectories, or for comparison a reward
    model fitted to the same preferences, or the environment's own reward."""

    queue: Count = 50
    """B: its own latest trajectories that a new one is compared to."""

    credit: Literal["spread", "last"] = "spread"
    """Whether R is paid in equal parts at every step, or with the last one."""

    relabel_every: Count = 10
    """Trajectories between two relabellings of what the learner keeps."""

    relabel_size: Count = 100_000
    """Steps whose trajectories are remembered for relabelling."""

    fit_every: Count = 50
    """Trajectories between two fits of the baseline's reward model."""

    opponents: Count = 5
    """Latest trajectories that each new one is compared with, for the baseline's reward model."""

    fit_comparisons: Count = 500
    """Latest comparisons that the baseline's reward model is fitted to."""


class SelfPlay(RewardLearner):
    """An agent that is rewarded for being preferred to itself; see the module's text.

    Args:
        env: an environment with episodes that end, or :class:`prefrl.agents.base.Spaces`.
        config: settings.
        preference: who compares (None: the larger return is preferred).
        device: torch device, or "auto".
        seed: seeds everything random.

    Raises:
        ValueError: if the learner or the reward model does not take the spaces.

    Attributes:
        recent: summaries of the latest trajectories, see ``TrajectoryPreference.summarize``: the queue.
        history: summaries of all trajectories.
    """

    config_class: ClassVar[type[SelfPlayConfig]] = SelfPlayConfig

    advice = "the environment's reward, or what it reports, may not be finite"

    def __init__(
        self,
        env: Any,
        config: SelfPlayConfig | None = None,
        *,
        preference: TrajectoryPreference | None = None,
        device: torch.device | str = "auto",
        seed: int = 0,
    ) -> None:
        super().__init__(env, config or SelfPlayConfig(), device=device, seed=seed)
        config = self.config
        self._make_parts(config.relabel_size, rows=1)
        by_model = config.reward_source == "reward_model" and not self.reward_model.stepwise
        self._asked = config.queue + 1 if by_model else 0  # segments kept for the model to compare
        if by_model and not getattr(self.config.learner, "on_policy", False):
            raise ValueError(f"reward is {config.reward}, without rewards of single steps, and the learner "
                             f"{type(self.config.learner).__name__} keeps steps, whose reward would age; "
                             "take PPOConfig, or another reward")  # fmt: skip
        self.preference = preference or MaxReturn()
        self.info_keys = self.preference.info_keys
        self._generator = seeded_generator(seed, "answers of a preference")
        self._steps: deque[Transitions] = deque()
        self._begun: list[int] = []
        self._dropped = 0
        self._finished: list[tuple[Trajectory, list[Transitions]]] = []
        self.recent: deque[Tensor] = deque(maxlen=config.queue)
        self._known: deque[tuple[Tensor, int]] = deque()
        self._known_steps = 0
        self._opponents: deque[tuple[Tensor, Segments]] = deque(maxlen=max(config.opponents, self._asked))
        self._comparisons: deque[tuple[Segments, Segments, float]] = deque(maxlen=config.fit_comparisons)
        self.history: list[Tensor] = []
        self._trained_by: str | None = None
        self.fitted = False

    # Stepping ---------------------------------------------------------------------------------------------

    def observe(self, transitions: Transitions) -> None:
        """Keep one step; trajectories that it ends are compared at the next update.

        Raises:
            ValueError: if the agent was trained by another kind of preference.
        """
        if self._trained_by not in (None, type(self.preference).__name__):
            raise ValueError(f"this agent was trained by the preference {self._trained_by}, and now has "
                             f"{type(self.preference).__name__}; call judged_by(...)")  # fmt: skip
        layout = self.reward_model.layout
        told = {**transitions.infos, **getattr(self.learner, "acted", {})}
        obs, next_obs = layout.keep(transitions.obs), layout.keep(transitions.next_obs)
        kept = replace(transitions, obs=obs, next_obs=next_obs, infos=told)
        if not self._begun:
            self._begun = [0] * len(transitions.rewards)
        self._steps.append(kept)
        now = self._dropped + len(self._steps)
        rows = (transitions.terminations | transitions.truncations).nonzero().flatten().tolist()
        for row in rows:
            steps = [self._steps[at - self._dropped] for at in range(self._begun[row], now)]
            self._finish([_row(step, row) for step in steps if bool(step.mask[row])])
            self._begun[row] = now
        while self._steps and self._dropped < min(self._begun):
            self._steps.popleft()
            self._dropped += 1

    def judged_by(self, preference: TrajectoryPreference) -> SelfPlay:
        """Take over who compares, after :meth:`load`, which cannot know; return self."""
        self.preference, self.info_keys = preference, preference.info_keys
        return self

    def restarted(self) -> None:
        """See :meth:`Agent.restarted`: unfinished trajectories are given up."""
        self._begun, self._dropped = [], 0
        self._steps.clear()
        self.learner.restarted()

    def _finish(self, steps: list[Transitions]) -> None:
        trajectory = Trajectory(
            obs=torch.cat([*(step.obs for step in steps), steps[-1].next_obs]),
            actions=torch.cat([step.actions for step in steps]),
            rewards=torch.cat([step.rewards for step in steps]),
            terminated=bool(steps[-1].terminations[0]),
            infos={name: torch.cat([step.infos[name] for step in steps]) for name in self.info_keys},
        )
        self._finished.append((trajectory, steps))

    # Learning ---------------------------------------------------------------------------------------------

    def update(self) -> dict[str, Tensor]:
        """Compare the trajectories that ended with those of the queue, and show them to the learner."""
        metrics: dict[str, Tensor] = {}
        for trajectory, steps in self._finished:
            metrics |= self._take_in(trajectory, steps)
        self._finished = []
        return metrics

    def _take_in(self, trajectory: Trajectory, steps: list[Transitions]) -> dict[str, Tensor]:
        config, metrics = self.config, {}
        summary = self.preference.summarize(trajectory)
        wins = self._win_rate(summary[None])[0]
        metrics["preferences/win_rate"] = wins
        if config.reward_source == "reward_model":
            metrics |= self._compare_for_model(trajectory, summary)
        rewards = self._rewards(trajectory, wins)
        self.recent.append(summary)
        self.history.append(summary)
        if self.learner.keeps_rewards and config.reward_source == "self_play":
            self._known.append((summary, len(steps)))
            self._known_steps += len(steps)
            while self._known_steps - self._known[0][1] >= config.relabel_size:
                self._known_steps -= self._known.popleft()[1]
        whole = config.reward_source == "self_play" or self._asked > 0
        for step, reward in zip(steps, rewards, strict=True):
            if config.reward_source == "reward_model":
                self.store.add(step, step.obs, step.next_obs)
            self.learner.num_timesteps += 1
            told = {name: value for name, value in step.infos.items() if name not in self.info_keys}
            shown = replace(self._as_observed(step), rewards=reward[None], infos=told)
            shown = self._with_ends(shown) if whole else shown
            self.show(shown, rewarded=self.fitted or config.reward_source != "reward_model")
            metrics |= self.learner.update()
        if self._known and self.trajectories % config.relabel_every == 0:
            self._relabel()
        return metrics

    def _win_rate(self, summaries: Tensor) -> Tensor:
        """Return R [n] of trajectories by their summaries [n, k]."""
        if not self.recent:
            return torch.zeros(len(summaries), dtype=torch.float64, device=summaries.device)
        return win_rates(self.preference.compare(summaries, torch.stack(list(self.recent)), self._generator))

    def _rewards(self, trajectory: Trajectory, wins: Tensor) -> Tensor:
        """Return what the steps of a trajectory are rewarded with [T]."""
        if self.config.reward_source == "true":
            return trajectory.rewards.to(torch.float32)
        if self.config.reward_source == "self_play":
            return self._step_rewards(wins, len(trajectory))
        if not self.fitted:
            return torch.zeros(len(trajectory), device=self.device)
        if self._asked:
            return self._step_rewards(self._believed(trajectory), len(trajectory))
        obs = trajectory.obs
        return self.reward_model.kept_rewards(obs[:-1], trajectory.actions, obs[1:])

    def _believed(self, trajectory: Trajectory) -> Tensor:
        """Return what the fitted model takes R [] to be, by its P against the latest other trajectories."""
        others = [segment for _, segment in self._opponents][:-1]  # the last one is this trajectory
        if not others:
            return torch.zeros((), dtype=torch.float64, device=self.device)
        won = self.reward_model.win_rates(trajectory.as_segment(), concatenate_segments(others))[0]
        return 2.0 * won.to(torch.float64) - 1.0

    def _step_rewards(self, wins: Tensor, length: int) -> Tensor:
        """Return R [] as rewards of ``length`` steps."""
        if self.config.credit == "spread":
            return (wins / length).to(torch.float32).expand(length)
        return torch.cat([torch.zeros(length - 1, device=wins.device), wins.to(torch.float32)[None]])

    def _relabel(self) -> None:
        """Give the learner what its trajectories are worth against the present queue."""
        known = self._known_to_learner()
        if not known:
            return
        wins = self._win_rate(torch.stack([summary for summary, _ in known]))
        lengths = torch.tensor([length for _, length in known], device=wins.device)
        if self.config.credit == "spread":
            rewards = torch.repeat_interleave(wins / lengths, lengths)
        else:
            steps = sum(length for _, length in known)
            rewards = torch.zeros(steps, dtype=wins.dtype, device=wins.device)
            rewards[lengths.cumsum(0) - 1] = wins
        self.learner.relabel(rewards.to(torch.float32)[:, None])

    def _known_to_learner(self) -> list[tuple[Tensor, int]]:
        """Return summaries and lengths of the trajectories that the learner still has steps of."""
        kept, known, steps = self.learner.kept_steps(), list(self._known), 0
        first = len(known)
        while first and (kept is None or steps < kept):
            first -= 1
            steps += known[first][1]
        return known[first:]

    @staticmethod
    def _with_ends(step: Transitions) -> Transitions:
        """Return a step whose truncation is an end: R says what the whole trajectory was worth."""
        nothing = torch.zeros_like(step.truncations)
        return replace(step, terminations=step.terminations | step.truncations, truncations=nothing)

    def _as_observed(self, step: Transitions) -> Transitions:
        """Return a step with observations as the learner knows them."""
        layout = self.reward_model.layout
        return replace(step, obs=layout.unkeep(step.obs), next_obs=layout.unkeep(step.next_obs))

    # The baseline -----------------------------------------------------------------------------------------

    def _compare_for_model(self, trajectory: Trajectory, summary: Tensor) -> dict[str, Tensor]:
        """Add comparisons with the latest trajectories, and fit the reward model where it is due."""
        config = self.config
        mine = trajectory.as_segment()
        for other, segment in list(self._opponents)[-config.opponents :]:
            preferred = float(self.preference.compare(summary[None], other[None], self._generator)[0, 0])
            self._comparisons.append((segment, mine, (1.0 + preferred) / 2.0))
        self._opponents.append((summary, mine))
        # As many comparisons as before the first fit; a loaded agent begins without any.
        enough = sum(min(number, config.opponents) for number in range(1, config.fit_every + 1))
        few = len(self._comparisons) < min(enough, config.fit_comparisons)
        if few or self.trajectories % config.fit_every:
            return {}
        metrics = self.reward_model.fit(self.comparisons())
        self.fitted = True
        if len(self.store) and not self._asked:
            self.relabel_learner(self.reward_model.kept_rewards)
        return {f"reward_model/{name}": value for name, value in metrics.items()}

    def comparisons(self) -> Preferences:
        """Return the comparisons that the baseline's reward model is fitted to."""
        pairs = list(self._comparisons)
        first = concatenate_segments([one for one, _, _ in pairs])
        second = concatenate_segments([other for _, other, _ in pairs])
        longest = max(first.max_length, second.max_length)
        labels = torch.tensor(
            [label for *_, label in self._comparisons], dtype=torch.float64, device=self.device
        )
        return Preferences.from_labels(first.padded(longest), second.padded(longest), labels)

    @property
    def trajectories(self) -> int:
        """Trajectories that were compared so far."""
        return len(self.history)

    def result(self) -> dict[str, Any]:
        """Return the number of trajectories; of the baseline, how often its model agrees with answers."""
        found: dict[str, Any] = {"trajectories": self.trajectories}
        if self._comparisons:
            found["reward_model_accuracy"] = known_or_none(
                float(self.reward_model.accuracy(self.comparisons()))
            )
        return found

    # What a continuation needs ----------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`Agent.state_dict`."""
        return {
            **super().state_dict(),
            "generator": self._generator.get_state(),
            "steps": [{**{name: getattr(step, name) for name in STEP_FIELDS}, "infos": dict(step.infos)}
                      for step in self._steps],
            "begun": self._begun,
            "dropped": self._dropped,
            "known": [[summary, length] for summary, length in self._known],
            "opponents": [[summary, _segment_state(segment)] for summary, segment in self._opponents],
            "comparisons": [[_segment_state(first), _segment_state(second), label]
                            for first, second, label in self._comparisons],
        }  # fmt: skip

    def saved_state(self) -> dict[str, Any]:
        """See :meth:`Agent.saved_state`; trajectories stay behind."""
        return {
            **super().saved_state(),
            "preference": type(self.preference).__name__,
            "learner_timesteps": self.learner.num_timesteps,
            "history": torch.stack(self.history) if self.history else torch.zeros(0, 1),
            "fitted": self.fitted,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :meth:`Agent.load_state_dict`."""
        super().load_state_dict(state)
        self.learner.num_timesteps = int(state["learner_timesteps"])
        self.history = list(state["history"].to(self.device))
        self.recent.extend(self.history[-self.config.queue :])
        self._trained_by = str(state["preference"])
        self.fitted = bool(state["fitted"])
        if "steps" not in state:
            return
        device = self.device
        self._generator.set_state(state["generator"].cpu())
        self._steps = deque(
            Transitions(**{name: step[name].to(device) for name in STEP_FIELDS},
                        infos={name: value.to(device) for name, value in step["infos"].items()})
            for step in state["steps"]
        )  # fmt: skip
        self._begun, self._dropped = [int(at) for at in state["begun"]], int(state["dropped"])
        self._known = deque((summary.to(device), int(length)) for summary, length in state["known"])
        self._known_steps = sum(length for _, length in self._known)
        for summary, segment in state["opponents"]:
            self._opponents.append((summary.to(device), Segments(*(part.to(device) for part in segment))))
        for first, second, label in state["comparisons"]:
            pair = [Segments(*(part.to(device) for part in side)) for side in (first, second)]
            self._comparisons.append((pair[0], pair[1], float(label)))


def _row(step: Transitions, row: int) -> Transitions:
    """Return one row of a step, as a step of one row."""
    only = slice(row, row + 1)
    fields = {name: getattr(step, name)[only] for name in STEP_FIELDS}
    return Transitions(**fields, infos={name: value[only] for name, value in step.infos.items()})


def _segment_state(segment: Segments) -> list[Tensor]:
    return [segment.obs, segment.actions, segment.lengths, segment.terminated]
