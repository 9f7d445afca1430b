"""Rules that compose rewards of what an environment says: gates, potentials, novelty, information.

A rule returns the rewards of a batch of steps, on the host or on a device; ``prefrl.envs.wrappers.composers``
pays by them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import array_api_compat
import numpy as np
from numpy.typing import ArrayLike

from prefrl.envs.core.backend import Array
from prefrl.envs.core.checks import check_count, check_number

from .formulas import gain_of_facts, gated, nearest_distance, potential_difference


class RewardStep(NamedTuple):
    """A step of n rows, as rules see it: arrays of the environment's kind."""

    obs: Array
    """[n, ...] what was observed."""
    actions: Array
    """[n, ...] what was done."""
    next_obs: Array
    """[n, ...] what followed, also where a row ended."""
    rewards: Array
    """[n] what is paid so far."""
    terminations: Array
    """[n] bool, whether ``next_obs`` is an end."""
    starts: Array
    """[n] bool, whether an episode begins with this step, or with the pause before its first step."""
    counts: Array
    """[n] bool, whether the row is a transition, and no pause after an end."""
    info: Callable[[str], Array]
    """Returns what the environment's info says of the rows [n, ...] by a name; ValueError if it says
    nothing."""


class RewardRule(ABC):
    """A rule of payment; subclasses have memory or none."""

    @abstractmethod
    def __call__(self, step: RewardStep) -> Array:
        """Return rewards [n] of the step."""

    def state_dict(self) -> dict[str, Any]:
        """Return the rule's memory."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027  (most have no memory)
        """Continue from what :meth:`state_dict` returned."""


class GatedReward(RewardRule):
    """Pay hard + sigmoid(k (hard - tau)) soft of an episode, as it grows (TourPlanner, arXiv 2601.04698).

    The environment's info holds rewards of several parts; hard and soft are the sums of two of them so far in
    the episode. Each step pays what the gated sum has grown by, so that an undiscounted episode pays the
    gated sum of the whole. The paper's constants are not known to us: k and tau are parameters, and half of
    the soft part is paid at the threshold itself.

    Args:
        k: steepness of the gate, above 0.
        tau: sum of the hard part at which half of the soft part is paid.
        hard: column of the hard part.
        soft: column of the soft part.
        key: where the info holds the parts [n, columns].

    Raises:
        ValueError: for a bad argument; at a step, if the info has no such columns.
    """

    def __init__(
        self, k: float = 50.0, tau: float = 0.9, *, hard: int = 0, soft: int = 1, key: str = "reward_vector"
    ) -> None:
        if not 0.0 < check_number("k", k) < math.inf:
            raise ValueError(f"k is {k!r}; it must be a finite number above 0")
        if not math.isfinite(check_number("tau", tau)):
            raise ValueError(f"tau is {tau!r}; it must be a finite number")
        for name, column in (("hard", hard), ("soft", soft)):
            if isinstance(column, bool) or not isinstance(column, int) or column < 0:
                raise ValueError(f"{name} is {column!r}; it must be a column's number from 0 on")
        self.k, self.tau, self.columns, self.key = float(k), float(tau), (hard, soft), key
        self._sums: Array = None

    def __call__(self, step: RewardStep) -> Array:
        """See :class:`RewardRule`."""
        parts = step.info(self.key)
        if parts.ndim != 2 or parts.shape[1] <= max(self.columns):
            raise ValueError(f"info's {self.key} has shape {tuple(parts.shape)}; it must be [n, columns], "
                             f"with columns {self.columns}")  # fmt: skip
        xp = array_api_compat.array_namespace(parts)
        chosen = xp.stack([parts[:, column] for column in self.columns], axis=1)
        if self._sums is None:
            self._sums = xp.zeros_like(chosen)
        before = xp.where(step.starts[:, None], xp.zeros_like(chosen), self._sums)
        self._sums = xp.where(step.counts[:, None], before + chosen, before)
        return self._pay(self._sums) - self._pay(before)

    def _pay(self, sums: Array) -> Array:
        return gated(sums[:, 0], sums[:, 1], self.k, self.tau)

    def state_dict(self) -> dict[str, Any]:
        """See :class:`RewardRule`: the sums so far."""
        return {"sums": self._sums}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :class:`RewardRule`."""
        self._sums = state["sums"]


class ShapedReward(RewardRule):
    """Add F = gamma Phi(s') - Phi(s), which leaves the optimal policies what they are.

    That holds for the discount given here, and with Phi 0 at an end, which the rule sees to. Any other bonus
    may pay loops: ``prefrl.tabular.reward_loops`` finds them.

    Args:
        potential: called with observations [n, ...], returns Phi [n] of the same kind of array.
        gamma: the agent's discount, from 0 to 1.

    Raises:
        ValueError: for a bad discount.
    """

    def __init__(self, potential: Callable[[Any], Any], gamma: float) -> None:
        if not 0.0 <= check_number("gamma", gamma) <= 1.0:
            raise ValueError(f"gamma is {gamma!r}; it must lie in [0, 1]")
        self.potential, self.gamma = potential, float(gamma)

    def __call__(self, step: RewardStep) -> Array:
        """See :class:`RewardRule`."""
        before, after = self.potential(step.obs), self.potential(step.next_obs)
        return step.rewards + potential_difference(before, after, step.terminations, self.gamma)


class CountNovelty(RewardRule):
    """Add scale / sqrt(N(s')), where N counts how often s' was reached, this time included.

    Rows of one step that reach the same observation count first and are paid the same.

    Args:
        num_observations: how many there are; observations are whole numbers from 0 on.
        scale: above 0.
    """

    def __init__(self, num_observations: int, scale: float = 1.0) -> None:
        self.num_observations, self.scale = check_count("num_observations", num_observations), _scale(scale)
        self._counts: Array = None

    def __call__(self, step: RewardStep) -> Array:
        """See :class:`RewardRule`."""
        xp = array_api_compat.array_namespace(step.rewards)
        reached = xp.asarray(step.next_obs)
        if reached.ndim != 1 or not xp.isdtype(reached.dtype, "integral"):
            shape, dtype = tuple(reached.shape), reached.dtype
            raise ValueError(f"observations have shape {shape} and dtype {dtype}; CountNovelty takes whole "
                             "numbers [n]: NeighbourNovelty takes others")  # fmt: skip
        once = xp.astype(step.counts, step.rewards.dtype)
        if self._counts is None:
            device = array_api_compat.device(step.rewards)
            self._counts = xp.zeros(self.num_observations, dtype=step.rewards.dtype, device=device)
        if isinstance(reached, np.ndarray):
            np.add.at(self._counts, reached, once)
        else:  # the array API has no scattered sum
            self._counts.index_put_((reached,), once, accumulate=True)
        counts = self._counts[reached]
        # A pause may show what was never counted; it is paid nothing.
        return step.rewards + self.scale / xp.sqrt(xp.where(counts > 0.0, counts, xp.ones_like(counts)))

    def state_dict(self) -> dict[str, Any]:
        """See :class:`RewardRule`: the counts."""
        return {"counts": self._counts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :class:`RewardRule`."""
        self._counts = state["counts"]


class NeighbourNovelty(RewardRule):
    """Add scale times the distance of s' to its k-th nearest among the observations remembered.

    Those are the last ``memory`` that were seen; nothing is paid until there are k of them. (Liu and Abbeel
    2021 and Seo et al. 2021 pay a logarithm of it, with features of their own.)

    Args:
        neighbours: k.
        memory: how many observations are remembered, at least k.
        scale: above 0.
    """

    def __init__(self, neighbours: int = 5, memory: int = 1_000, scale: float = 1.0) -> None:
        self.neighbours, self.memory = check_count("neighbours", neighbours), check_count("memory", memory)
        if self.memory < self.neighbours:
            raise ValueError(f"memory is {memory}; it must be at least neighbours, {neighbours}")
        self.scale = _scale(scale)
        self._seen: Array = None

    def __call__(self, step: RewardStep) -> Array:
        """See :class:`RewardRule`."""
        xp = array_api_compat.array_namespace(step.rewards)
        reached = xp.reshape(xp.astype(step.next_obs, step.rewards.dtype), (len(step.rewards), -1))
        bonus = xp.zeros_like(step.rewards)
        if self._seen is not None and len(self._seen) >= self.neighbours:
            bonus = self.scale * nearest_distance(reached, self._seen, self.neighbours)
        seen = reached if self._seen is None else xp.concat([self._seen, reached], axis=0)
        self._seen = seen[-self.memory :]
        return step.rewards + bonus

    def state_dict(self) -> dict[str, Any]:
        """See :class:`RewardRule`: what is remembered."""
        return {"seen": self._seen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :class:`RewardRule`."""
        self._seen = state["seen"]


class InformationGain(RewardRule):
    """Pay questions by the importance of what they revealed, for tasks like ``prefrl/TwentyQuestions-v0``.

    A question earns alpha SIG, SIG the importance of facts that became known; an episode that ends with the
    right answer earns beta times the SIG of all of it besides, and the environment's reward times ``answer``
    (ProMed, arXiv 2508.13514: the shape of the reward is from its description, the details are ours). The
    info names the hidden item (``item`` [n]) and says whether it has just been guessed (``correct`` [n]);
    the first columns of an observation are the facts, 0 while unknown.

    Args:
        importance: [M, F] of each fact for each item, as ``fact_importance`` of
            ``prefrl.functional.shapley`` makes it.
        alpha: weight of the gain (the description's 2).
        beta: weight of the whole gain of a right answer (1).
        answer: weight of the environment's reward (3).

    Raises:
        ValueError: if importance is no finite matrix, or a weight is no finite number.
    """

    def __init__(
        self, importance: ArrayLike, alpha: float = 2.0, beta: float = 1.0, answer: float = 3.0
    ) -> None:
        self.importance = np.array(importance, dtype=np.float64)
        if self.importance.ndim != 2 or not np.isfinite(self.importance).all():
            raise ValueError(f"importance has shape {self.importance.shape}; it must be finite, [M, F]")
        for name, weight in (("alpha", alpha), ("beta", beta), ("answer", answer)):
            if not math.isfinite(check_number(name, weight)):
                raise ValueError(f"{name} is {weight!r}; it must be a finite number")
        self.alpha, self.beta, self.answer = float(alpha), float(beta), float(answer)
        self._table: Array = None

    def __call__(self, step: RewardStep) -> Array:
        """See :class:`RewardRule`."""
        xp, facts = array_api_compat.array_namespace(step.rewards), self.importance.shape[1]
        if step.obs.ndim != 2 or step.obs.shape[1] < facts:
            raise ValueError(f"observations have shape {tuple(step.obs.shape)}; importance asks for {facts} "
                             "columns of facts")  # fmt: skip
        if self._table is None:
            device = array_api_compat.device(step.rewards)
            self._table = xp.asarray(self.importance, dtype=step.rewards.dtype, device=device)
        importance = self._table[step.info("item")]
        before, after = step.obs[:, :facts] != 0.0, step.next_obs[:, :facts] != 0.0
        gain = gain_of_facts(before, after, importance)
        whole = gain_of_facts(xp.zeros_like(after), after, importance)
        correct = xp.astype(step.info("correct"), step.rewards.dtype)
        return self.answer * step.rewards + self.alpha * gain + self.beta * correct * whole


def _scale(scale: float) -> float:
    if not 0.0 < check_number("scale", scale) < math.inf:
        raise ValueError(f"scale is {scale!r}; it must be a finite number above 0")
    return float(scale)
