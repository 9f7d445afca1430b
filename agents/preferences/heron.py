"""HERON: a reward learned from a ranking of factors (arXiv 2309.02632).

The designer ranks what matters - first stay alive, then get ahead, then save energy - and gives no weights.
Two segments are compared level by level: the one is preferred that is better in the most important factor by
more than a margin, or, where that does not decide, in the next one; the margin is c_l standard deviations of
the factor, so that its unit does not matter. A reward model is fitted to these preferences,

    loss = mean over decided pairs of - log logistic( R(preferred) - R(other) ),

and any policy learner is trained on it, both in turns. All pairs of a batch are compared at once, and pairs
that no level decides are left out. The policy never sees the environment's own reward.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor

from prefrl.agents.base import LearningFailedError, Spaces
from prefrl.config import Bounds, Count, NonNegative, PositiveShare
from prefrl.data import Segments, Transitions
from prefrl.data.devices import make_generator, restore_generator
from prefrl.envs.factors import Factors, factors_of
from prefrl.functional.preferences.hierarchy import (
    Verdicts,
    all_pairs,
    decided_shares,
    hierarchy_verdicts,
    scale_by_level,
    weighted_sum,
)
from prefrl.functional.preferences.preferences import partial_return
from prefrl.nn.ensemble import asked
from prefrl.preferences.reward_model import RewardModelConfig

from .learners import RewardLearner, RewardLearnerConfig, known_or_none

REFERENCE = 1_024
"""Segments, drawn anew for each fit, that standard deviations and scales are taken from."""

FEWEST, MOST_STEPS = 128, 65_536
"""Of long segments only so many, that they have no more steps than these, but not fewer."""


@dataclass(frozen=True)
class HeronConfig(RewardLearnerConfig):
    """Settings of :class:`Heron`; defaults are those of the paper's classic control, where it has them.

    Raises:
        ValueError: if a number is out of range, a factor is ranked twice, or margins do not fit the ranking.
    """

    reward: RewardModelConfig = field(
        default_factory=lambda: RewardModelConfig(
            members=1, hidden=(256, 256), use_actions=False, use_features=True, bootstrap=False
        )
    )
    """The reward model; by default it reads observation and factors."""

    ranking: tuple[str, ...] = ()
    """Names of the factors, the most important one first; empty: all, in the environment's order."""

    margins: tuple[NonNegative, ...] = ()
    """c_l, in standard deviations, for each level; empty: 1 for all."""

    reward_source: Literal["hierarchy", "weighted_sum", "true"] = "hierarchy"
    """What the learner is rewarded with: the learned reward, or for comparison the engineered sum
    sum_l beta^(l-1) z_l / s_l, or the environment's own reward."""

    beta: PositiveShare = 0.5
    """Weight of a level against the one above it, in the engineered sum."""

    normalize_factors: bool = True
    """Whether the engineered sum divides factors by their standard deviations (s_l; otherwise 1)."""

    level_scale: Annotated[float, Bounds(low=1)] = 1.0
    """alpha: separate the levels of the learned reward by this factor each; 1 leaves it as it is. See
    :func:`prefrl.functional.preferences.hierarchy.scale_by_level`; the paper describes such a scaling in
    words only."""

    segment_length: Count = 1
    """Steps of what is compared (the released code compares single steps)."""

    first_fit: Count = 1_000
    """Timesteps before the first fit; until then the reward is 0."""

    fit_every: Count = 400
    """Timesteps between two fits."""

    batches: Count = 16
    """Gradient steps of a fit."""

    batch_size: Annotated[int, Bounds(low=2)] = 16
    """Segments of a gradient step; all their pairs are compared."""

    spread_of: Literal["store", "batch"] = "store"
    """What standard deviations are of: everything kept, or (as in the paper's robotics) the batch at hand."""

    store_size: Count = 100_000
    """Transitions to keep for segments and relabelling."""

    def check(self) -> None:
        """Raise ValueError for a factor that is ranked twice, or margins that do not fit the ranking."""
        super().check()
        if type(self.reward) is not RewardModelConfig:
            raise ValueError(f"reward is a {type(self.reward).__name__}; it must be RewardModelConfig, since "
                             "a hierarchy decides without noise or circles, and for everybody")  # fmt: skip
        if len(set(self.ranking)) < len(self.ranking):
            raise ValueError(f"ranking is {list(self.ranking)}; a factor can have one rank only")
        if self.margins and self.ranking and len(self.margins) != len(self.ranking):
            raise ValueError(f"there are {len(self.margins)} margins for {len(self.ranking)} ranked factors")


class Heron(RewardLearner):
    """An agent rewarded by what it learns from a ranking of factors; see the module's text.

    Args:
        env: an environment with factors (``prefrl.envs.factors``), or :class:`prefrl.agents.base.Spaces`.
        config: settings.
        factors: the environment's factors (None: those it is known to have).
        rows: rows of a step (None: the environment's).
        device: torch device, or "auto".
        seed: seeds everything random.

    Raises:
        ValueError: if the environment has no factors, the ranking holds others, or a space does not suit.
    """

    config_class: ClassVar[type[HeronConfig]] = HeronConfig

    advice = "a factor, or the environment's reward, may not be finite"

    def __init__(
        self,
        env: Any,
        config: HeronConfig | None = None,
        *,
        factors: Factors | None = None,
        rows: int | None = None,
        device: torch.device | str = "auto",
        seed: int = 0,
    ) -> None:
        super().__init__(env, config or HeronConfig(), device=device, seed=seed)
        config = self.config
        if factors is None and not isinstance(env, Spaces):
            factors = factors_of(env)
        self.factors = factors
        self.ranking = config.ranking if factors is None else config.ranking or factors.names
        places, signs = ([], []) if factors is None else factors.ranked(config.ranking)
        levels = len(self.ranking)
        if config.margins and levels and len(config.margins) != levels:
            raise ValueError(f"there are {len(config.margins)} margins for {levels} ranked factors")
        self._turned = list(zip(places, signs, strict=True))
        self.info_keys = () if factors is None else factors.info_keys
        self._make_parts(config.store_size, rows, max(1, levels) if config.reward.use_features else 0)
        self._generator = make_generator(self.device, seed)
        with torch.device(self.device):
            self._multipliers = torch.ones(levels, dtype=torch.float64)
            for level, margin in enumerate(config.margins):
                self._multipliers[level] = margin
            self.spread = torch.zeros(levels, dtype=torch.float64)
            # The least value of each factor that was seen, and minus the largest.
            self._seen = torch.full((2, levels), torch.inf, dtype=torch.float64)
            self.shares = torch.zeros(levels + 1, dtype=torch.float64)
        self._reference: tuple[Tensor, Tensor] | None = None
        self.fits = 0

    # Stepping ---------------------------------------------------------------------------------------------

    def observe(self, transitions: Transitions) -> None:
        """Keep one step with its factors, and show it to the learner with the reward that it is to have."""
        layout = self.reward_model.layout
        factors = self.ranked_factors(transitions)
        real = torch.where(transitions.mask[:, None], factors, torch.inf)
        mirrored = torch.where(transitions.mask[:, None], -factors, torch.inf)
        self._seen = torch.minimum(self._seen, torch.stack([real.amin(0), mirrored.amin(0)]))
        obs, next_obs = layout.keep(transitions.obs), layout.keep(transitions.next_obs)
        self.store.add(transitions, obs, next_obs, factors.to(torch.float32))
        rewards = self._rewards(
            obs, transitions.actions, next_obs, factors.to(torch.float32), transitions.rewards
        )
        rewarded = self.fits > 0 or self.config.reward_source == "true"
        self.show(replace(transitions, rewards=rewards), rewarded=rewarded)

    def ranked_factors(self, transitions: Any) -> Tensor:
        """Return factors [n, levels] of a step, the most important first, turned so that more is better."""
        assert self.factors is not None
        values = self.factors.compute(transitions)
        columns = [values[:, place].to(torch.float64) * sign for place, sign in self._turned]
        return torch.stack(columns, 1)

    def _rewards(
        self, obs: Tensor, actions: Tensor, next_obs: Tensor, factors: Tensor, true: Tensor
    ) -> Tensor:
        """Return what the learner is rewarded with [n]."""
        config, model = self.config, self.reward_model
        if config.reward_source == "true":
            return true
        if not self.fits:
            return torch.zeros_like(true)
        if config.reward_source == "weighted_sum":
            varies = (self.spread > 0.0) & config.normalize_factors
            scales = torch.where(varies, self.spread, 1.0)
            return weighted_sum(factors, scales, config.beta)
        rewards = model.kept_rewards(obs, actions, next_obs, factors if config.reward.use_features else None)
        if config.level_scale == 1.0 or self._reference is None:
            return rewards
        against_rewards, against_factors = self._reference
        margins = (self.margins / config.segment_length).to(factors.dtype)  # these are means of steps
        return scale_by_level(rewards, factors, against_rewards, against_factors, margins,
                              config.level_scale)  # fmt: skip

    def update(self) -> dict[str, Tensor]:
        """Compare, fit and relabel where it is due, and let the learner learn."""
        metrics: dict[str, Tensor] = {}
        config = self.config
        due = config.first_fit + self.fits * config.fit_every
        if self.num_timesteps >= due and config.reward_source != "true" and self._can_fit():
            metrics = self._fit()
        self.learner.num_timesteps = self.num_timesteps
        return {**self.learner.update(), **metrics}

    # Learning the reward ----------------------------------------------------------------------------------

    @property
    def margins(self) -> Tensor:
        """[levels] delta_l = c_l std(z_l), in the factors' units."""
        return self._multipliers * self.spread

    def _can_fit(self) -> bool:
        """Whether as much is kept as before the first fit (not so after a load), and whole segments in it."""
        if len(self.store) < min(self.config.first_fit, self.store.ring.capacity):
            return False
        return self.config.segment_length == 1 or asked(self.store.starts(self.config.segment_length).any())

    def _segments(self, count: int) -> tuple[Segments, Tensor]:
        """Return segments, as the reward model reads them, and their factors [count, levels]."""
        segments = self.store.sample(count, self.config.segment_length, self._generator).segments
        assert segments.features is not None
        totals = partial_return(segments.features.transpose(1, 2), segments.mask[:, None])
        if not self.config.reward.use_features:
            segments = replace(segments, features=None)
        return segments, totals

    def _fit(self) -> dict[str, Tensor]:
        """Fit the reward model to comparisons of what is kept, and relabel."""
        config, model = self.config, self.reward_model
        reference, totals = self._segments(reference_size(config.segment_length))
        self.spread = self._spread_of_all() if config.segment_length == 1 else totals.std(0, correction=0)
        metrics: dict[str, Tensor] = {}
        if config.reward_source == "hierarchy":
            model.take_statistics(reference)
            metrics = self._compare_and_fit()
            model.take_scale(reference)
            self._reference = self._measured(reference, totals) if config.level_scale > 1.0 else None
        self.fits += 1
        self.relabel_learner(self._rewards, "features", "rewards")
        return metrics

    def _spread_of_all(self) -> Tensor:
        """Return the standard deviations [levels] of the factors of all steps that are kept."""
        storage, steps = self.store.ring.storage, self.store.steps
        values = storage["features"][:steps].flatten(0, 1).to(torch.float64)
        weights = storage["mask"][:steps].flatten().to(torch.float64)[:, None]
        mean = (weights * values).sum(0) / weights.sum()
        return ((weights * (values - mean).square()).sum(0) / weights.sum()).sqrt()

    def _measured(self, reference: Segments, totals: Tensor) -> tuple[Tensor, Tensor]:
        """Return normalised rewards per step [M] and factors per step [M, levels] of segments."""
        lengths = reference.lengths.to(torch.float32)
        rewards = self.reward_model.scores(reference).mean(0) / lengths
        return self.reward_model.normalized(rewards), (totals / lengths[:, None]).to(torch.float32)

    def _compare_and_fit(self) -> dict[str, Tensor]:
        config = self.config
        first, second = all_pairs(config.batch_size, self.device)
        losses, shares = [], []
        for _ in range(config.batches):
            segments, totals = self._segments(config.batch_size)
            spread = totals.std(0, correction=0) if config.spread_of == "batch" else self.spread
            labels, levels = hierarchy_verdicts(totals[first], totals[second], self._multipliers * spread)
            decided = levels < len(self.ranking)
            losses.append(self.reward_model.fit_pairs(segments, first, second, labels, decided)["loss"])
            shares.append(decided_shares(levels, len(self.ranking)))
        self.shares = torch.stack(shares).mean(0)
        named = zip((*self.ranking, "undecided"), self.shares, strict=True)
        return {
            "reward_model/loss": torch.stack(losses).mean(),
            **{f"preferences/decided_by_{name}": share for name, share in named if name != "undecided"},
            "preferences/undecided": self.shares[-1],
        }

    def check(self) -> None:
        """See :meth:`Agent.check`.

        Raises:
            LearningFailedError: if a factor with a margin does not vary at all.
        """
        super().check()
        if not self.fits or self.config.reward_source != "hierarchy":
            return
        constant = ((self._seen[0] == -self._seen[1]) & (self._multipliers > 0.0)).tolist()
        if any(constant):
            names = [name for name, flat in zip(self.ranking, constant, strict=True) if flat]
            raise LearningFailedError(f"the factor {names[0]!r} has been the same in all that was seen: its "
                                      "standard deviation, and with it its margin, is 0 (take it out of the "
                                      "ranking, give it margin 0, or explore more before the "
                                      "first fit)")  # fmt: skip

    def verdicts(self, num_segments: int = 256) -> tuple[Segments, Verdicts]:
        """Return fresh segments and what the hierarchy says of all their pairs (see ``all_pairs``)."""
        segments, totals = self._segments(num_segments)
        first, second = all_pairs(num_segments, self.device)
        return segments, hierarchy_verdicts(totals[first], totals[second], self.margins)

    def result(self) -> dict[str, Any]:
        """Return how many pairs are decided, by which level, and how often the reward model agrees."""
        if self.config.reward_source != "hierarchy" or not self.fits or not len(self.store):
            return {"decided_fraction": None, "decided_by_level": None, "reward_model_accuracy": None}
        segments, (labels, levels) = self.verdicts()
        first, second = all_pairs(len(segments), self.device)
        scores = self.reward_model.scores(segments).mean(0)
        right = (scores[second] > scores[first]) == (labels > 0.5)
        decided = levels < len(self.ranking)
        shares = decided_shares(levels, len(self.ranking)).tolist()
        return {
            "decided_fraction": 1.0 - shares[-1],
            "decided_by_level": dict(zip(self.ranking, shares, strict=False)),
            "reward_model_accuracy": known_or_none(float(right[decided].to(torch.float64).mean())),
        }

    # What a continuation needs ----------------------------------------------------------------------------

    def saved_state(self) -> dict[str, Any]:
        """See :meth:`Agent.saved_state`; what was visited stays behind."""
        return {
            **super().saved_state(),
            "rows": self.rows,
            "ranking": list(self.ranking),
            "generator": self._generator.get_state(),
            "counts": [self.fits, self.learner.num_timesteps],
            "spread": self.spread,
            "seen": self._seen,
            "shares": self.shares,
            "reference": None if self._reference is None else list(self._reference),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :meth:`Agent.load_state_dict`."""
        if list(state["ranking"]) != list(self.ranking):
            raise ValueError(
                f"it was trained with the ranking {list(state['ranking'])}, not {list(self.ranking)}"
            )
        super().load_state_dict(state)
        restore_generator(self._generator, state["generator"])
        self.fits, self.learner.num_timesteps = (int(count) for count in state["counts"])
        self._seen = state["seen"].to(self.device)
        self.spread, self.shares = state["spread"].to(self.device), state["shares"].to(self.device)
        reference = state["reference"]
        self._reference = None if reference is None else tuple(part.to(self.device) for part in reference)

    @classmethod
    def _rebuilt(cls, env: Any, config: Any, state: Mapping[str, Any], **settings: Any) -> Heron:
        if isinstance(env, Spaces):  # the names are all that is known of the factors
            config = replace(config, ranking=tuple(state["ranking"]))
        return super()._rebuilt(env, config, state, **settings)


def reference_size(segment_length: int) -> int:
    """Return how many segments standard deviations and scales are taken from."""
    return min(REFERENCE, max(FEWEST, MOST_STEPS // segment_length))
