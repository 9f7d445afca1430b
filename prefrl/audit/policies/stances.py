"""Stances: categories of behaviour, over which a policy has a distribution at each checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, Literal

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prefrl.agents.base import Agent
from prefrl.config import Bounds, Count, Natural, Settings
from prefrl.data import Preferences
from prefrl.data.comparisons import check_segments
from prefrl.functional.preferences.audits.value_drift import stance_shares, value_gap

from .behaviour import acted, lived, seen_by_chance

Kind = Literal["action", "return", "end"]

MOST_NAMED = 12
"""Values that are stances one by one; of more, numbers are put in bins and ends are pooled."""

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class StanceSettings(Settings):
    """What a stance is, and how a policy is asked for its stances."""

    stance: Kind = "action"
    """What a stance is: the action, in situations that uniform actions lead to (of a Box, a bin of one of
    its numbers); the return of an episode, or a bin of it; or the observation that an episode ends with, if
    observations are Discrete."""

    bins: Annotated[int, Bounds(low=2, high=MOST_NAMED)] = 3
    """Bins of numbers: quantiles of those at all checkpoints together, so that each holds as many."""

    component: Natural = 0
    """Which number of the action, in a Box or a MultiDiscrete space."""

    situations: Count = 500
    """Situations in which an action is asked for, or episodes."""

    draws: Count = 4
    """Actions that are drawn in each situation."""

    seed: Natural = 0
    """Of situations and episodes."""


class Stances:
    """Asks agents for their stances, always in the same situations.

    Args:
        settings: see :class:`StanceSettings`.
        env: a scalar environment; it is stepped by uniform actions once, where stances are actions.
        recipe: what the agents were trained by: makes the environments of episodes.

    Raises:
        ValueError: if there is no such stance in these spaces.
    """

    def __init__(self, settings: StanceSettings, env: Any, recipe: Any = None) -> None:
        self.settings, self.recipe = settings, recipe
        self.action_space, self.observation_space = env.action_space, env.observation_space
        self._check()
        self.situations: Any = None
        if settings.stance == "action":
            self.situations = np.repeat(
                seen_by_chance(env, settings.situations, settings.seed), settings.draws, 0
            )

    def _check(self) -> None:
        settings, space = self.settings, self.action_space
        if settings.stance == "end" and not isinstance(self.observation_space, gym.spaces.Discrete):
            raise ValueError(f"stance is 'end' and observations are {self.observation_space}; ends are told "
                             "apart where they are Discrete: take 'return' or 'action'")  # fmt: skip
        if settings.stance != "action":
            if self.recipe is None:
                raise ValueError(f"stance is {settings.stance!r} and recipe None; episodes need a recipe")
            return
        if not isinstance(space, (gym.spaces.Discrete, gym.spaces.MultiDiscrete, gym.spaces.Box)):
            raise ValueError(f"stance is 'action' and actions are {space}; they must be Discrete, "
                             "MultiDiscrete or a Box: take 'return'")  # fmt: skip
        size = int(np.prod(space.shape or (1,)))
        if settings.component >= size:
            raise ValueError(f"component is {settings.component}; an action has {size} numbers, from 0 to "
                             f"{size - 1}")  # fmt: skip

    def ask(self, agent: Agent, *, deterministic: bool = False) -> Numbers:
        """Return what an agent does [N], as numbers that :class:`Categories` puts in order.

        Actions are drawn, by the agent's own generators.
        """
        if self.situations is not None:
            return self.numbers(acted(agent, self.situations, deterministic=deterministic))
        episodes = lived(agent, self.recipe, self.settings.situations, self.settings.seed)
        found = episodes.ends if self.settings.stance == "end" else episodes.returns
        assert found is not None  # asked for at the start
        return np.asarray(found.numpy(), dtype=np.float64)

    def numbers(self, actions: NDArray[Any]) -> Numbers:
        """Return the number [N] of actions [N, ...] that stances are about."""
        return np.asarray(actions.reshape(len(actions), -1)[:, self.settings.component], dtype=np.float64)

    def _possible(self) -> NDArray[Any]:
        """Return all numbers that an action may be, also those that no policy took."""
        space = self.action_space
        if isinstance(space, gym.spaces.Discrete):
            return np.arange(space.start, space.start + space.n)
        first, count = (int(each.flat[self.settings.component]) for each in (space.start, space.nvec))
        return np.arange(first, first + count)

    def categories(self, answers: Sequence[Numbers]) -> Categories:
        """Return the stances that there are, of all answers at all checkpoints."""
        space, settings = self.action_space, self.settings
        pooled = np.concatenate(answers)
        if settings.stance == "action" and not isinstance(space, gym.spaces.Box):
            return Categories.named(self._possible(), "action")
        values, counts = np.unique(pooled, return_counts=True)
        if len(values) <= MOST_NAMED:
            return Categories.named(values, settings.stance)
        if settings.stance == "end":
            common = np.sort(values[np.argsort(-counts, kind="stable")[: MOST_NAMED - 1]])
            return Categories(common, None, (*(f"end {value:g}" for value in common), "other ends"))
        return Categories.binned(pooled, settings.bins)


@dataclass(frozen=True, eq=False)
class Categories:
    """C stances, and which of them a number is."""

    values: Numbers | None
    """[C] or, where others are pooled as the last stance, [C - 1] values, ascending."""
    edges: Numbers | None
    """[C - 1] between bins, ascending."""
    names: tuple[str, ...]
    """Of the C stances."""

    @classmethod
    def named(cls, values: NDArray[Any], word: str) -> Categories:
        """Return a stance for each value."""
        numbers = np.asarray(values, dtype=np.float64)
        return cls(numbers, None, tuple(f"{word} {value:g}" for value in numbers))

    @classmethod
    def binned(cls, pooled: Numbers, bins: int) -> Categories:
        """Return a stance for each bin between quantiles; those that would be empty are left out.

        Edges are numbers that there are. Those at the largest, as many of a Box at its bound, are a bin where
        they fill one.
        """
        edges = np.quantile(pooled, np.arange(1, bins) / bins, method="inverted_cdf")
        below = pooled[pooled < pooled.max()]
        edges = np.unique(np.minimum(edges, below.max())) if len(below) else edges[:1]
        inner = [f"{low:.3g} to {high:.3g}" for low, high in pairwise(edges)]
        return cls(None, edges, (f"up to {edges[0]:.3g}", *inner, f"above {edges[-1]:.3g}"))

    def of(self, numbers: Numbers) -> Tensor:
        """Return which stance each number is [N] int64; of numbers that are none, the nearest.

        Where others are pooled, those are the last stance.
        """
        if self.edges is not None:
            return torch.from_numpy(np.searchsorted(self.edges, numbers, side="left"))
        assert self.values is not None
        values = self.values
        if len(self.names) == len(values):
            middles = 0.5 * (values[1:] + values[:-1])
            return torch.from_numpy(np.searchsorted(middles, numbers, side="left"))
        place = np.searchsorted(values, numbers).clip(max=len(values) - 1)
        return torch.from_numpy(np.where(values[place] == numbers, place, len(self.names) - 1))

    def shares(self, numbers: Numbers) -> Tensor:
        """Return how common each stance is [C] among numbers [N]."""
        return stance_shares(self.of(numbers), len(self.names))


def gap_of(preferences: Preferences, stances: Stances, categories: Categories) -> Tensor:
    """Return the value gap [C] of comparisons: how much commoner actions are in what was preferred.

    Raises:
        ValueError: if the segments are of other spaces, or every label is a tie.
    """
    decided = preferences.weights * (2.0 * preferences.labels - 1.0).abs()
    if not bool((decided > 0.0).any()):
        raise ValueError("every comparison is a tie, or has weight 0; none has a side that was preferred")
    shares = []
    for side in (preferences.first, preferences.second):
        check_segments("the segments", side, stances.observation_space, stances.action_space)
        numbers = stances.numbers(side.actions.flatten(0, 1).cpu().numpy())
        place = categories.of(numbers).view(side.mask.shape)
        shares.append(stance_shares(place, len(categories.names), side.mask.cpu().double()))
    return value_gap(torch.stack(shares, 1), preferences.labels.cpu().double(),
                     preferences.weights.cpu().double())  # fmt: skip
