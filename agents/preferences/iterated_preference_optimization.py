"""Preference optimisation in rounds: the policy acts, is compared with itself, learns, and acts again.

Comparisons that were made once say ever less of what a policy does as it moves away from them. Here a round

1. lets the policy act for ``round_timesteps``;
2. shows pairs of segments of what it did to a teacher, who says which is better; a label model may have the
   last word, or answer alone;
3. makes the policy the reference, and takes ``round_steps`` gradient steps down the pair loss on the answers.

That is iterated DPO, and with their rows DNO (arXiv 2404.03715), INPO (arXiv 2407.00617) or online VPO (arXiv
2405.19320, ``sign`` 1). One timestep is one row of one environment step.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, get_args

import torch
from torch import Tensor

from prefrl.config import Count, Natural, Positive
from prefrl.data import Preferences, Transitions
from prefrl.data.devices import make_generator, restore_generator
from prefrl.data.segment_store import Excerpt, SegmentStore
from prefrl.nn.ensemble import asked
from prefrl.preferences import TeacherKind
from prefrl.preferences.asking import answers_by_return
from prefrl.preferences.label_models import LabelModel

from .compared_segments import Pairs, check_segment_length
from .preference_optimization import PreferenceOptimization
from .preference_optimization_config import PairLossName, PreferenceOptimizationConfig

CANDIDATES = 32
"""Pairs to choose each from, where both segments are to start in the same observation."""


@dataclass(frozen=True)
class IteratedPreferenceOptimizationConfig(PreferenceOptimizationConfig):
    """Settings of :class:`IteratedPreferenceOptimization`."""

    in_rounds: ClassVar[tuple[str, ...]] = get_args(PairLossName)

    cloning_steps: Natural = 0
    """Gradient steps of behaviour cloning on the comparisons that the agent was given, before it acts."""

    round_steps: Count = 200
    """Gradient steps of a round, and of those on what the agent was given."""

    round_timesteps: Count = 2_000
    """Timesteps that the policy acts in a round."""

    round_pairs: Count = 200
    """Comparisons that are asked for in a round."""

    keep_rounds: Count = 1
    """Rounds whose comparisons are learned from, the latest ones; those given count as one."""

    fixed_reference: bool = False
    """Keep the first reference, so that rounds go towards one regularised optimum; else it moves."""

    segment_length: Count = 50
    """Steps of a segment; shorter ones end in a terminal state."""

    same_start: bool = False
    """Compare segments only that start in the same observation, as those of one prompt."""

    teacher: TeacherKind = "noiseless"
    """Who answers by the return: without fault, or with one of B-Pref's."""

    teacher_temperature: Positive = 0.2
    """Temperature of the logistic teacher, in standard deviations of the segments' returns."""


class IteratedPreferenceOptimization(PreferenceOptimization):
    """Preference optimisation in rounds; see the module's text.

    Args:
        env: an environment, or :class:`prefrl.agents.base.Spaces`; its rewards are the teacher's only.
        config: settings.
        preferences: comparisons to learn from before the first round; None: the first policy is as it was
            drawn, and the first reference.
        label_model: what is made of the teacher's answers; files of agents hold none.
        rows: rows of a step (None: the environment's).
        device: torch device, or "auto".
        seed: seeds everything random.

    Raises:
        ValueError: as :class:`PreferenceOptimization`.
    """

    config_class: ClassVar[type[PreferenceOptimizationConfig]] = IteratedPreferenceOptimizationConfig
    config: IteratedPreferenceOptimizationConfig
    steps_env = True

    def __init__(
        self,
        env: Any,
        config: IteratedPreferenceOptimizationConfig | None = None,
        preferences: Preferences | None = None,
        *,
        label_model: LabelModel | None = None,
        rows: int | None = None,
        device: torch.device | str = "auto",
        seed: int = 0,
    ) -> None:
        config = config or IteratedPreferenceOptimizationConfig()
        super().__init__(env, config, preferences, device=device, seed=seed)
        if label_model is not None and not isinstance(label_model, LabelModel):
            raise TypeError(f"label_model is a {type(label_model).__name__}; it must be a LabelModel")
        self.label_model = label_model
        check_segment_length(env, self.config.segment_length)
        self.rows = rows or int(getattr(env, "num_envs", 1))
        self.store = SegmentStore(max(self.config.round_timesteps, self.rows), self.rows)
        self._generator = make_generator(self.device, seed)
        self._kept: list[Pairs] = [] if self.pairs is None else [self.pairs]  # of the latest rounds
        self.rounds = self.asked = self._began = 0

    def observe(self, transitions: Transitions) -> None:
        """Keep one step."""
        kept = self.layout.keep(transitions.obs), self.layout.keep(transitions.next_obs)
        self.store.add(transitions, *kept)

    def restarted(self) -> None:
        """See :meth:`Agent.restarted`."""
        if len(self.store):
            self.store.cut()

    def update(self) -> dict[str, Tensor]:
        """Ask and learn where a round has been acted through; see :meth:`Agent.update`."""
        config, metrics = self.config, {}
        if self.reference is None:
            metrics = self._learn_from_given()
        if self.num_timesteps - self._began >= config.round_timesteps:
            self._began = self.num_timesteps
            answers = self._ask()
            if not asked((answers.weights > 0).any()):
                warnings.warn(f"nothing was answered in {config.round_timesteps} timesteps (round_timesteps):"
                              f" no two segments of {config.segment_length} steps (segment_length) were "
                              "compared; the policy stays as it is", stacklevel=2)  # fmt: skip
                return metrics
            self._kept = [*self._kept, self._read_pairs(answers)][-config.keep_rounds :]
            metrics = self._learn_round()
            metrics["preferences/labels"] = torch.full((), float(self.asked), device=self.device)
        return metrics

    def _learn_from_given(self) -> dict[str, Tensor]:
        """Clone and learn from the comparisons that were given; the first policy is the reference."""
        metrics: dict[str, Tensor] = {}
        if self.pairs is None:
            self.reference = self.weights.vector.detach().clone()
            return metrics
        for step in range(self.config.cloning_steps):
            metrics = self._descend(self.pairs, step - self.config.cloning_steps)
        return metrics | self._learn_round()

    def _learn_round(self) -> dict[str, Tensor]:
        """Take a round's gradient steps on what is kept; return the metrics of the last."""
        self.pairs = Pairs.joined(self._kept)
        moves = self.reference is None or not self.config.fixed_reference
        self.rounds += 1
        return learn_round(self, self.config.round_steps, new_reference=moves)

    def _ask(self) -> Preferences:
        """Return what is said of pairs of segments of the round; those that were skipped have weight 0."""
        config = self.config
        candidates = config.round_pairs * (CANDIDATES if config.same_start else 1)
        sides = self.store.sample_pairs(candidates, config.segment_length, self._generator)
        if config.same_start:
            sides = with_same_start(*sides, config.round_pairs)
        answers = answers_by_return(config.teacher, *sides, temperature=config.teacher_temperature,
                                    seed=self.seed + 7919 * self.rounds)  # fmt: skip
        self.asked += config.round_pairs
        return answers if self.label_model is None else self.label_model(answers)

    def _done(self, learned: int, total: int) -> float:
        """See :class:`PreferenceOptimization`: timesteps are the environment's here."""
        return self.num_timesteps / total

    # What a continuation needs ----------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`Agent.state_dict`."""
        return {**self.saved_state(), "store": self.store.state_dict()}

    def saved_state(self) -> dict[str, Any]:
        """See :meth:`Agent.saved_state`; what was visited in an unfinished round stays behind."""
        return {
            **super().state_dict(),
            "rows": self.rows,
            "generator": self._generator.get_state(),
            "counts": [self.rounds, self.asked, self._began],
            "kept": [dict(vars(pairs)) for pairs in self._kept],
            "store": None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :meth:`Agent.load_state_dict`; without a store, the round begins anew."""
        super().load_state_dict(state)
        restore_generator(self._generator, state["generator"])
        self.rounds, self.asked, self._began = (int(count) for count in state["counts"])
        self._kept = [
            Pairs(**{name: values.to(self.device) for name, values in kept.items()}) for kept in state["kept"]
        ]
        self.pairs = Pairs.joined(self._kept) if self._kept else None
        if state["store"] is None:
            self._began = self.num_timesteps
        else:
            self.store.load_state_dict(state["store"], self.device)

    @classmethod
    def _rebuilt(cls, env: Any, config: Any, state: Mapping[str, Any], **settings: Any) -> Any:
        return cls(env, config, rows=state["rows"], **settings)


def with_same_start(first: Excerpt, second: Excerpt, count: int) -> tuple[Excerpt, Excerpt]:
    """Return ``count`` of many pairs; those that start in different observations come last, with weight 0."""
    equal = first.segments.obs[:, 0] == second.segments.obs[:, 0]
    same = equal.view(len(equal), -1).all(1)
    chosen = same.to(torch.int8).argsort(descending=True, stable=True)[:count]
    one, other = (
        Excerpt(side.segments[chosen], side.rewards[chosen], side.weights[chosen] * same[chosen])
        for side in (first, second)
    )
    return one, other


def learn_round(agent: PreferenceOptimization, steps: int, *, new_reference: bool) -> dict[str, Tensor]:
    """Take a round's gradient steps on an agent's pairs, which are new; return the metrics of the last."""
    pairs, agent._labels = agent.pairs, None
    assert pairs is not None
    agent._prepare(pairs, new_reference=new_reference, new_round=True)
    return [agent._descend(pairs, 0) for _ in range(steps)][-1]
