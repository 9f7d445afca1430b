"""Preferences between whole trajectories, which need not come from any reward.

P(xi, xi') in [-1, 1] is antisymmetric: 1 where xi is always preferred, 0 where nobody minds. It may be
random, intransitive, and of the trajectory as a whole. Each kind reduces a trajectory to a few numbers once,
and compares those; so thousands of comparisons are one operation.

Source: SPO (Swamy et al. 2024, arXiv 2401.04056).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

import torch
from torch import Tensor

from prefrl.config import Bounds, Natural, NonNegative, Settings, Share
from prefrl.data import Segments
from prefrl.functional.preferences.games import check_preference_matrix

from .segment_pairs import PairModel


@dataclass(frozen=True, eq=False)
class Trajectory:
    """One episode of T steps."""

    obs: Tensor
    """[T + 1, ...] observations as they are kept (``prefrl.data.observations``)."""

    actions: Tensor
    """[T, ...] actions."""

    rewards: Tensor
    """[T] the environment's own rewards."""

    terminated: bool
    """Whether it ended in a terminal state."""

    infos: Mapping[str, Tensor] = field(default_factory=dict)
    """[T, ...] what the environment reported, of what a preference asks for."""

    def __len__(self) -> int:
        return len(self.rewards)

    def as_segment(self) -> Segments:
        """Return the trajectory as a segment [1, T]."""
        device = self.rewards.device
        return Segments(self.obs[None], self.actions[None], torch.tensor([len(self)], device=device),
                        torch.tensor([self.terminated], device=device))  # fmt: skip


class TrajectoryPreference(ABC):
    """Says which of two trajectories is preferred."""

    info_keys: tuple[str, ...] = ()
    """What it must be told of the environment's infos."""

    @abstractmethod
    def summarize(self, trajectory: Trajectory) -> Tensor:
        """Return the numbers [k], float64, that a trajectory is judged by."""

    @abstractmethod
    def compare(self, first: Tensor, second: Tensor, generator: torch.Generator) -> Tensor:
        """Return P [n, m] of n trajectories against m others, by their numbers [n, k] and [m, k].

        ``generator``, on the CPU, draws what is random in the answers.
        """


@dataclass(frozen=True)
class MaxReturn(Settings, TrajectoryPreference):
    """The larger return is preferred: P = sign(G - G'), or with a temperature tanh((G - G') / (2 tau)).

    (tanh(x / 2) = 2 logistic(x) - 1.)
    """

    temperature: NonNegative = 0.0
    """tau, in units of the return."""

    def summarize(self, trajectory: Trajectory) -> Tensor:
        """See :class:`TrajectoryPreference`: the return."""
        return trajectory.rewards.to(torch.float64).sum().reshape(1)

    def compare(self, first: Tensor, second: Tensor, generator: torch.Generator) -> Tensor:
        """See :class:`TrajectoryPreference`."""
        gap = first[:, None, 0] - second[None, :, 0]
        return gap.sign() if self.temperature == 0.0 else torch.tanh(gap / (2.0 * self.temperature))


@dataclass(frozen=True)
class Noisy(Settings, TrajectoryPreference):
    """Another preference, answered wrongly now and then: each answer is turned round with probability eps."""

    of: TrajectoryPreference
    """The preference without noise."""

    flip: Annotated[float, Bounds(low=0, high=0.5, below=True)] = 0.2
    """eps, in [0, 1/2)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "info_keys", self.of.info_keys)

    def summarize(self, trajectory: Trajectory) -> Tensor:
        """See :class:`TrajectoryPreference`."""
        return self.of.summarize(trajectory)

    def compare(self, first: Tensor, second: Tensor, generator: torch.Generator) -> Tensor:
        """See :class:`TrajectoryPreference`."""
        right = self.of.compare(first, second, generator)
        flips = torch.rand(right.shape, generator=generator).to(right.device) < self.flip
        return torch.where(flips, -right, right)


@dataclass(frozen=True, eq=False)
class ByOption(Settings, TrajectoryPreference):
    """A trajectory counts as one of K options, and a matrix says which options beat which.

    The option is told by the environment's ``info["reward_vector"]``: K columns of it count, over the
    episode, how often each option was reached. A trajectory that reached none loses to all that reached one.
    """

    matrix: Tensor
    """[K, K] preference matrix, see ``prefrl.functional.preferences.games``."""

    first_column: Natural = 1
    """Where the options' columns begin in the reward vector."""

    info_keys = ("reward_vector",)

    def __post_init__(self) -> None:
        super().__post_init__()
        k = len(self.matrix)
        whole = torch.zeros(k + 1, k + 1, dtype=torch.float64)
        whole[:k, :k] = check_preference_matrix(self.matrix)
        whole[:k, k], whole[k, :k] = 1.0, -1.0  # the last option is to have reached none
        object.__setattr__(self, "_whole", whole)

    def summarize(self, trajectory: Trajectory) -> Tensor:
        """See :class:`TrajectoryPreference`: the option's number, K for none."""
        k = len(self.matrix)
        counts = trajectory.infos["reward_vector"][:, self.first_column : self.first_column + k].sum(0)
        if len(counts) < k:
            raise ValueError(f"the environment's reward_vector has {len(counts)} columns for {k} options")
        option = torch.where(counts.max() > 0, counts.argmax(), k)
        return option.to(torch.float64).reshape(1)

    def compare(self, first: Tensor, second: Tensor, generator: torch.Generator) -> Tensor:
        """See :class:`TrajectoryPreference`."""
        whole: Tensor = self._whole.to(first.device)  # type: ignore[attr-defined]
        return whole[first[:, 0].long()][:, second[:, 0].long()]


@dataclass(frozen=True)
class WithinBudget(Settings, TrajectoryPreference):
    """Return counts only for trajectories that spend at most a share of their steps in a region.

    One within the budget is preferred to one beyond it; of two within, the larger return; of two beyond, the
    smaller share. A column of ``info["reward_vector"]`` is 1 for steps in the region. No reward of single
    steps means the same: what one step more in the region is worth depends on how many there were.
    """

    share: Share = 0.5
    """Largest share of steps in the region."""

    column: int = 1
    """The region's column of the reward vector."""

    info_keys = ("reward_vector",)

    def summarize(self, trajectory: Trajectory) -> Tensor:
        """See :class:`TrajectoryPreference`: the return, and the share of steps in the region."""
        inside = trajectory.infos["reward_vector"][:, self.column].to(torch.float64).mean()
        return torch.stack([trajectory.rewards.to(torch.float64).sum(), inside])

    def compare(self, first: Tensor, second: Tensor, generator: torch.Generator) -> Tensor:
        """See :class:`TrajectoryPreference`."""
        a, b = first[:, None], second[None]
        within = [side[..., 1] <= self.share + 1e-9 for side in (a, b)]
        budget = within[0].to(torch.float64) - within[1].to(torch.float64)
        both = within[0] & within[1]
        otherwise = torch.where(both, (a[..., 0] - b[..., 0]).sign(), (b[..., 1] - a[..., 1]).sign())
        return torch.where(budget == 0.0, otherwise, budget)


@dataclass(frozen=True, eq=False)
class ByModel(Settings, TrajectoryPreference):
    """A fitted model of segments says how often which is preferred: P = 2 P(preferred) - 1, exactly.

    Reward models will do, and general preference models with or without scores: with GPM, self-play is
    General Preference Optimization's game (arXiv 2410.02197) between trajectories.
    """

    model: PairModel
    """On the device of the trajectories."""

    user: Natural | None = None
    """Whose preference, of models that tell users apart; None: the model's own."""

    def summarize(self, trajectory: Trajectory) -> Tensor:
        """See :class:`TrajectoryPreference`: the members' embeddings, one after the other."""
        return self.model.embeddings(trajectory.as_segment()).flatten().to(torch.float64)

    def compare(self, first: Tensor, second: Tensor, generator: torch.Generator) -> Tensor:
        """See :class:`TrajectoryPreference`."""
        members = self.model.members
        sides = [side.view(len(side), members, -1).transpose(0, 1) for side in (second, first)]
        margins = self.model.margins_between(sides[0], sides[1], self.user).T
        return torch.tanh(margins / 2.0)  # 2 sigmoid - 1


def majority_matrix(rankings: Tensor) -> Tensor:
    """Return P [K, K] of a majority of people, each of whom ranks K options.

    P[i, j] is the share of people who rank i above j, less the share who rank it below. Three people with the
    rankings 0 1 2, 1 2 0 and 2 0 1 make a cycle, though none of them is inconsistent (Condorcet).

    Args:
        rankings: [people, K] options, the best first.

    Raises:
        ValueError: if a row is no ranking of all options.
    """
    k = rankings.shape[1]
    if not bool((rankings.sort(1).values == torch.arange(k)).all()):
        raise ValueError(f"each row must rank the options 0 to {k - 1}; got {rankings.tolist()}")
    ranks = torch.argsort(rankings, 1).to(torch.float64)
    return (ranks[:, None, :] - ranks[:, :, None]).sign().mean(0)
