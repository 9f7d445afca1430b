"""What a preference between two segments is taken to say about the reward (Knox et al. 2022, section 3).

A model scores each segment under a reward function; the second segment of a pair is preferred with
probability logistic(scale x difference of scores), optionally mixed with uniform responses.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from prefrl.config import Positive, Settings
from prefrl.data import Segments
from prefrl.functional.preferences import preferences as F


@dataclass(frozen=True)
class Valuation:
    """What a reward function says along N segments; any leading batch axes ``[...]`` (reward functions).

    Raises:
        ValueError: if the shapes contradict each other.
    """

    rewards: Tensor
    """[..., N, L] reward of each transition."""
    mask: Tensor
    """[N, L] bool, True for transitions."""
    state_value: Tensor
    """[..., N, L+1] V* of each observation, 0 after the end; without use for partial return."""
    action_value: Tensor
    """[..., N, L] Q* of each observation and action; without use for partial return."""

    def __post_init__(self) -> None:
        count, length = self.mask.shape
        expected = {"rewards": length, "state_value": length + 1, "action_value": length}
        for name, columns in expected.items():
            shape = tuple(getattr(self, name).shape)
            if shape[-2:] != (count, columns):
                raise ValueError(f"{name} has shape {shape}; it must end in [{count}, {columns}]")

    @property
    def start_value(self) -> Tensor:
        """[..., N] V* of the first observation."""
        return self.state_value[..., 0]

    @property
    def end_value(self) -> Tensor:
        """[..., N] V* of the last observation."""
        last = self.mask.sum(-1, keepdim=True).expand(*self.state_value.shape[:-1], 1)
        return torch.gather(self.state_value, -1, last)[..., 0]


def valuate(segments: Segments, rewards: Tensor, state_value: Tensor, action_value: Tensor) -> Valuation:
    """Look values of a tabular environment up along segments.

    Args:
        segments: N segments with state numbers as observations.
        rewards: [..., N, L] reward of each transition.
        state_value: [..., S] V*.
        action_value: [..., S, A] Q*.
    """
    num_actions = action_value.shape[-1]
    pair = segments.obs[:, :-1] * num_actions + segments.actions
    return Valuation(
        rewards, segments.mask, state_value[..., segments.obs], action_value.flatten(-2)[..., pair]
    )


@dataclass(frozen=True)
class PreferenceModel(Settings, ABC):
    """Base of the models: a score per segment, and logistic noise.

    Raises:
        ValueError: unless ``scale`` is positive.
    """

    scale: Positive = 1.0
    """Factor of the score difference in the log-odds: 1 / temperature."""
    uniform_logit: float | None = None
    """With e = logistic of it, a share e of answers is uniform; None: no such answers."""

    @abstractmethod
    def score(self, valuation: Valuation) -> Tensor:
        """Return the score [..., N] of each segment."""

    def logit(self, first: Valuation, second: Valuation) -> Tensor:
        """Return the log-odds [..., N] that the second segment is preferred, before any uniform answers."""
        return F.preference_logit(self.score(first), self.score(second), self.scale)

    def probability(self, first: Valuation, second: Valuation) -> Tensor:
        """Return P(second preferred) [..., N]."""
        return F.preference_probability(self.logit(first, second), self.uniform_logit)

    def loss(self, first: Valuation, second: Valuation, labels: Tensor) -> Tensor:
        """Return the cross-entropy [..., N] of each comparison with labels [N]."""
        return F.preference_cross_entropy(self.logit(first, second), labels, self.uniform_logit)


class StepwiseModel(PreferenceModel):
    """A model whose score is a sum over transitions."""

    @abstractmethod
    def contributions(self, valuation: Valuation) -> Tensor:
        """Return what each transition adds to the score, [..., N, L] (padding unspecified)."""

    def score(self, valuation: Valuation) -> Tensor:
        """See :meth:`PreferenceModel.score`."""
        return F.partial_return(self.contributions(valuation), valuation.mask)


class PartialReturn(StepwiseModel):
    """Score: the sum of rewards, G (Christiano et al. 2017)."""

    def contributions(self, valuation: Valuation) -> Tensor:
        """See :meth:`StepwiseModel.contributions`."""
        return valuation.rewards


class DeterministicRegret(StepwiseModel):
    """Score: G + V*(s_n) - V*(s_0), minus the regret where transitions are deterministic (eq. 2)."""

    def contributions(self, valuation: Valuation) -> Tensor:
        """See :meth:`StepwiseModel.contributions`; they telescope to the score."""
        value = valuation.state_value
        return valuation.rewards + value[..., 1:] - value[..., :-1]


class Regret(StepwiseModel):
    """Score: sum_t A*(s_t, a_t) = sum_t [Q*(s_t, a_t) - V*(s_t)], minus the regret in general (eq. 3)."""

    def contributions(self, valuation: Valuation) -> Tensor:
        """See :meth:`StepwiseModel.contributions`."""
        return valuation.action_value - valuation.state_value[..., :-1]


@dataclass(frozen=True)
class Expanded(PreferenceModel):
    """Score: w_G G + w_0 V*(s_0) + w_T V*(s_n), three weights fitted to people's answers."""

    return_weight: float = 1.0
    """w_G."""
    start_weight: float = -1.0
    """w_0."""
    end_weight: float = 1.0
    """w_T."""

    def score(self, valuation: Valuation) -> Tensor:
        """See :meth:`PreferenceModel.score`."""
        returns = F.partial_return(valuation.rewards, valuation.mask)
        return (
            self.return_weight * returns
            + self.start_weight * valuation.start_value
            + self.end_weight * valuation.end_value
        )
