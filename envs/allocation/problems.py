"""Sub-problems of online allocation: what a request asks, what answering it pays, and the best answer.

A request is a row of numbers, first those that are seen before deciding, then those that are not (a rival's
bid, the draw behind a customer's choice). With prices ``mu`` on the resources the best answer to a request is

    x in argmax_x  f(x) - mu . b(x)

(Balseiro, Lu, Mirrokni 2023, Operations Research 71(1), Algorithm 1), where f is what it pays and b what it
consumes; not to serve, f = b = 0, is always allowed. Each class solves it exactly, for all rows at once.

All arrays have leading axis ``[n]`` and are numpy's or torch's; m is the number of resources.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import array_api_compat
import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from prefrl.envs.core.backend import Array


@dataclass(frozen=True)
class AllocationProblem(ABC):
    """One kind of request; subclasses are frozen dataclasses of numbers, which JSON can hold."""

    reward_bound: float
    """No answer pays more than this (the paper's f-bar)."""

    @property
    @abstractmethod
    def num_resources(self) -> int:
        """Number m of resources."""

    @property
    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """Names of a request's numbers, the seen ones first."""

    @property
    def num_seen(self) -> int:
        """How many of the columns are seen before deciding."""
        return len(self.columns)

    @property
    @abstractmethod
    def num_reward_columns(self) -> int:
        """How many of the columns, from the first, say what answers pay: those that input models scale."""

    @property
    def unit_columns(self) -> tuple[str, ...]:
        """Those of the columns whose numbers lie in [0, 1)."""
        return ()

    @abstractmethod
    def fitted(self, requests: NDArray[np.float64]) -> AllocationProblem:
        """Return the same problem with the bounds of given requests [T, columns]."""

    @property
    @abstractmethod
    def consumption_bound(self) -> float:
        """No answer consumes more of a resource than this (the paper's b-bar)."""

    def largest_uses(self, requests: Any) -> NDArray[np.float64]:
        """Return the most [m] that an answer consumes of each resource, to given requests or (None) to any.

        Resources may have units of their own, which one bound for all would mix.

        Args:
            requests: [T, columns].
        """
        return np.full(self.num_resources, self.consumption_bound)

    @property
    def least_consumption(self) -> float:
        """An answer that consumes anything consumes at least this of some resource (0: as little as any)."""
        return 0.0

    @property
    @abstractmethod
    def action_space(self) -> gym.Space[Any]:
        """Space of answers."""

    @abstractmethod
    def column_bounds(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return lowest and highest value of each column."""

    @abstractmethod
    def best_response(self, seen: Array, mu: Array) -> Array:
        """Return an answer [n, ...] that maximises f(x) - mu . b(x), the null one where nothing is gained.

        Args:
            seen: the seen part [n, num_seen] of requests.
            mu: prices [n, m].
        """

    @abstractmethod
    def outcome(self, requests: Array, actions: Array) -> tuple[Array, Array]:
        """Return what answers [n, ...] to whole requests [n, columns] pay [n] and consume [n, m]."""

    @abstractmethod
    def expected_consumption(self, seen: Array, actions: Array) -> Array | None:
        """Return what answers consume [n, m], or its mean where chance has a say.

        None where the seen part of a request does not tell: it then shows in the remaining budget only.
        """

    def without(self, actions: Array, available: Array) -> Array:
        """Return the answers without the parts that need a resource with ``available`` [n, m] False.

        By default answers have no parts, and stay as they are.
        """
        return actions

    def bound_terms(self, requests: Array, mu: Array) -> tuple[Array, Array]:
        """Return f*(mu) [n] and a subgradient of it, -b [n, m]: the terms of the dual function.

        Expectations over what chance decides after the answer; hidden columns that are known in hindsight
        (a rival's bid) are known here.
        """
        actions = self.best_response(requests[:, : self.num_seen], mu)
        rewards, consumption = self.outcome(requests, actions)
        return rewards - (mu * consumption).sum(-1), -consumption

    def best_reward(self, requests: Array) -> Array:
        """Return the most [n] that an answer to each request pays, as far as its seen part tells: f*(0).

        Where chance decides after the answer, in expectation.
        """
        return self.bound_terms(requests, requests[:, : self.num_resources] * 0.0)[0]

    def servable(self, requests: NDArray[np.float64], budget: NDArray[np.float64]) -> bool:
        """Whether the budget [m] is enough for some answer to some of the requests [T, columns]."""
        return True

    def to_json(self) -> dict[str, Any]:
        """Describe the problem in JSON, for :func:`problem_from_json`."""
        return {"kind": type(self).__name__, **asdict(self)}


@dataclass(frozen=True)
class SingleChoice(AllocationProblem):
    """Serve a request with one of d products, or not at all: the online linear program.

    A request holds rewards f [d], then the consumption b [m, d], resource by resource. The best answer is
    the product with the largest f_j - mu . b_j, if that is positive (ties with 0: do not serve).
    """

    m: int
    """Resources."""
    d: int
    """Products."""
    largest_consumption: float = 1.0
    """Bound of the entries of b."""
    smallest_consumption: float = 0.0
    """Least of the largest entries of the products' b, where it is known."""

    @property
    def num_resources(self) -> int:
        """See :class:`AllocationProblem`."""
        return self.m

    @property
    def columns(self) -> tuple[str, ...]:
        """See :class:`AllocationProblem`: ``reward_j``, then ``consumption_i_j``."""
        rewards = tuple(f"reward_{j}" for j in range(self.d))
        return rewards + tuple(f"consumption_{i}_{j}" for i in range(self.m) for j in range(self.d))

    @property
    def num_reward_columns(self) -> int:
        """See :class:`AllocationProblem`."""
        return self.d

    def fitted(self, requests: NDArray[np.float64]) -> AllocationProblem:
        """See :class:`AllocationProblem`."""
        rewards, consumption = requests[:, : self.d], requests[:, self.d :]
        return replace(
            self,
            reward_bound=float(rewards.max()),
            largest_consumption=float(consumption.max()),
            smallest_consumption=0.0,
        )

    @property
    def consumption_bound(self) -> float:
        """See :class:`AllocationProblem`."""
        return self.largest_consumption

    @property
    def least_consumption(self) -> float:
        """See :class:`AllocationProblem`."""
        return self.smallest_consumption

    @property
    def action_space(self) -> gym.Space[Any]:
        """See :class:`AllocationProblem`: 0 does not serve, j + 1 is product j."""
        return gym.spaces.Discrete(self.d + 1)

    def column_bounds(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """See :class:`AllocationProblem`."""
        high = np.full(self.d * (self.m + 1), self.largest_consumption)
        high[: self.d] = self.reward_bound
        return np.zeros_like(high), high

    def largest_uses(self, requests: Any) -> NDArray[np.float64]:
        """See :class:`AllocationProblem`."""
        if requests is None:
            return super().largest_uses(requests)
        return np.asarray(self._parts(np.asarray(requests))[1].max((0, 2)))

    def _parts(self, requests: Array) -> tuple[Array, Array]:
        """Return rewards [n, d] and consumption [n, m, d]."""
        return requests[:, : self.d], requests[:, self.d :].reshape((len(requests), self.m, self.d))

    def best_response(self, seen: Array, mu: Array) -> Array:
        """See :class:`AllocationProblem`."""
        xp = array_api_compat.array_namespace(seen)
        rewards, consumption = self._parts(seen)
        gains = rewards - (mu[:, :, None] * consumption).sum(1)
        if self.d == 1:
            return xp.astype(gains[:, 0] > 0, xp.int64)
        best = xp.argmax(gains, axis=1)
        return (best + 1) * (xp.max(gains, axis=1) > 0)

    def serve(self, seen: NDArray[np.float64], mu: NDArray[np.float64]) -> tuple[int, NDArray[np.float64]]:
        """Return best answer and its consumption [m] for one request [num_seen], faster than for many."""
        d = self.d
        seen = seen.astype(np.float64)
        consumption = seen[d:].reshape(self.m, d)
        gains = seen[:d] - mu.dot(consumption)
        best = gains.argmax()
        if gains[best] > 0.0:
            return best + 1, consumption[:, best]
        return 0, np.zeros(self.m)

    def outcome(self, requests: Array, actions: Array) -> tuple[Array, Array]:
        """See :class:`AllocationProblem`."""
        xp = array_api_compat.array_namespace(requests)
        rewards, consumption = self._parts(requests)
        if self.d == 1:
            served = xp.astype(actions, requests.dtype)
            return rewards[:, 0] * served, consumption[:, :, 0] * served[:, None]
        rows = xp.arange(len(requests), device=array_api_compat.device(requests))
        product = (actions - 1).clip(min=0)
        served = xp.astype(actions > 0, requests.dtype)
        return rewards[rows, product] * served, consumption[rows, :, product] * served[:, None]

    def expected_consumption(self, seen: Array, actions: Array) -> Array | None:
        """See :class:`AllocationProblem`."""
        return self.outcome(seen, actions)[1]

    def best_reward(self, requests: Array) -> Array:
        """See :class:`AllocationProblem`."""
        xp = array_api_compat.array_namespace(requests)
        return xp.max(requests[:, : self.d], axis=1)

    def servable(self, requests: NDArray[np.float64], budget: NDArray[np.float64]) -> bool:
        """See :class:`AllocationProblem`."""
        return bool((self._parts(requests)[1] <= budget[:, None]).all(1).any())


@dataclass(frozen=True)
class SecondPriceBid(AllocationProblem):
    """Bid in a second-price auction out of one budget.

    A request holds the own value v (seen) and the highest rival bid (not seen, not even afterwards). A bid of
    at least the rival's wins, gains v - rival and pays the rival's bid. The best bid is v / (1 + mu),
    whatever the rival's: v - rival - mu rival >= 0 exactly where the rival bids at most that (Balseiro and
    Gur 2019).
    """

    @property
    def num_resources(self) -> int:
        """See :class:`AllocationProblem`: money."""
        return 1

    @property
    def columns(self) -> tuple[str, ...]:
        """See :class:`AllocationProblem`."""
        return "value", "rival_bid"

    @property
    def num_seen(self) -> int:
        """See :class:`AllocationProblem`: the value."""
        return 1

    @property
    def num_reward_columns(self) -> int:
        """See :class:`AllocationProblem`: the value."""
        return 1

    def fitted(self, requests: NDArray[np.float64]) -> AllocationProblem:
        """See :class:`AllocationProblem`."""
        return replace(self, reward_bound=float(requests.max()))

    @property
    def consumption_bound(self) -> float:
        """See :class:`AllocationProblem`: nobody pays more than the own bid."""
        return self.reward_bound

    @property
    def action_space(self) -> gym.Space[Any]:
        """See :class:`AllocationProblem`: the bid."""
        return gym.spaces.Box(0.0, self.reward_bound, (1,))

    def column_bounds(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """See :class:`AllocationProblem`."""
        return np.zeros(2), np.full(2, self.reward_bound)

    def best_response(self, seen: Array, mu: Array) -> Array:
        """See :class:`AllocationProblem`."""
        return seen[:, :1] / (1.0 + mu)

    def outcome(self, requests: Array, actions: Array) -> tuple[Array, Array]:
        """See :class:`AllocationProblem`; a bid of 0 does not take part."""
        value, rival = requests[:, 0], requests[:, 1]
        bid = actions[:, 0]
        won = (bid >= rival) & (bid > 0)
        return (value - rival) * won, (rival * won)[:, None]

    def bound_terms(self, requests: Array, mu: Array) -> tuple[Array, Array]:
        """See :class:`AllocationProblem`."""
        gain = requests[:, 0] - (1.0 + mu[:, 0]) * requests[:, 1]
        won = gain > 0
        return gain.clip(min=0.0), -(requests[:, 1] * won)[:, None]

    def expected_consumption(self, seen: Array, actions: Array) -> Array | None:
        """See :class:`AllocationProblem`: nobody knows before the auction."""
        return None

    def best_reward(self, requests: Array) -> Array:
        """See :class:`AllocationProblem`: the value, if the rival bids nothing."""
        return requests[:, 0] * 1.0

    def servable(self, requests: NDArray[np.float64], budget: NDArray[np.float64]) -> bool:
        """See :class:`AllocationProblem`."""
        return bool((requests[:, 1] <= budget[0]).any())


@dataclass(frozen=True)
class EntropyMatch(AllocationProblem):
    """Spread one unit of a request over d resources, with an entropy bonus for spreading.

    A request holds qualities q [d]; x >= 0 with sum at most 1 pays q . x - lam sum_j x_j log x_j and consumes
    x. The best answer is y / max(1, sum y) with y = exp((q - mu) / lam - 1).
    """

    d: int
    """Resources, and ways to serve."""
    lam: float
    """Weight of the entropy, above 0."""

    @property
    def num_resources(self) -> int:
        """See :class:`AllocationProblem`."""
        return self.d

    @property
    def columns(self) -> tuple[str, ...]:
        """See :class:`AllocationProblem`."""
        return tuple(f"quality_{j}" for j in range(self.d))

    @property
    def num_reward_columns(self) -> int:
        """See :class:`AllocationProblem`."""
        return self.d

    @property
    def consumption_bound(self) -> float:
        """See :class:`AllocationProblem`."""
        return 1.0

    def fitted(self, requests: NDArray[np.float64]) -> AllocationProblem:
        """See :class:`AllocationProblem`."""
        return replace(self, reward_bound=float(requests.max()) + self.lam * largest_entropy(self.d))

    @property
    def quality_bound(self) -> float:
        """Largest quality: the reward bound, less the largest entropy bonus."""
        return self.reward_bound - self.lam * largest_entropy(self.d)

    @property
    def action_space(self) -> gym.Space[Any]:
        """See :class:`AllocationProblem`; what sums to more than 1 is divided by its sum."""
        return gym.spaces.Box(0.0, 1.0, (self.d,))

    def column_bounds(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """See :class:`AllocationProblem`."""
        return np.zeros(self.d), np.full(self.d, self.quality_bound)

    def best_response(self, seen: Array, mu: Array) -> Array:
        """See :class:`AllocationProblem`."""
        xp = array_api_compat.array_namespace(seen)
        exponent = (seen - mu) / self.lam - 1.0
        largest = xp.max(exponent, axis=1, keepdims=True)
        log_sum = largest + xp.log(xp.exp(exponent - largest).sum(1)[:, None])
        return xp.exp(exponent - log_sum.clip(min=0.0))

    def outcome(self, requests: Array, actions: Array) -> tuple[Array, Array]:
        """See :class:`AllocationProblem`."""
        xp = array_api_compat.array_namespace(requests)
        actions = self._on_simplex(actions)
        safe = xp.where(actions > 0, actions, xp.ones_like(actions))
        return (actions * requests).sum(1) - self.lam * (actions * xp.log(safe)).sum(1), actions

    @staticmethod
    def _on_simplex(actions: Array) -> Array:
        return actions / actions.sum(1)[:, None].clip(min=1.0)

    def expected_consumption(self, seen: Array, actions: Array) -> Array | None:
        """See :class:`AllocationProblem`."""
        return self._on_simplex(actions)


def largest_entropy(d: int) -> float:
    """Return the largest -sum_j x_j log x_j over x >= 0 [d] with sum at most 1."""
    return math.log(d) if d > math.e else d / math.e


@dataclass(frozen=True)
class AssortmentOffer(AllocationProblem):
    """Offer a customer a set of d products, of which each has a stock; the customer chooses one or none.

    A request holds prices r [d], attractions v [d], and a number u in [0, 1), not seen, that decides: of the
    set S the customer buys j with probability v_j / (1 + sum_S v) (multinomial logit), u falling into the
    intervals of these lengths one after the other, j by j. With prices on stock, the best set contains the
    products whose margin r_j - mu_j exceeds the best expected margin over sets; that is attained by one of
    the d sets of the largest margins (Talluri and van Ryzin 2004). What is out of stock is not offered.
    """

    d: int
    """Products, and resources."""
    attraction_bound: float
    """Largest attraction."""

    @property
    def num_resources(self) -> int:
        """See :class:`AllocationProblem`: the stocks."""
        return self.d

    @property
    def columns(self) -> tuple[str, ...]:
        """See :class:`AllocationProblem`."""
        return (*(f"{name}_{j}" for name in ("price", "attraction") for j in range(self.d)), "choice")

    @property
    def num_seen(self) -> int:
        """See :class:`AllocationProblem`: all but the draw."""
        return 2 * self.d

    @property
    def num_reward_columns(self) -> int:
        """See :class:`AllocationProblem`: the prices."""
        return self.d

    @property
    def unit_columns(self) -> tuple[str, ...]:
        """See :class:`AllocationProblem`: the draw."""
        return ("choice",)

    def fitted(self, requests: NDArray[np.float64]) -> AllocationProblem:
        """See :class:`AllocationProblem`."""
        prices, attractions = requests[:, : self.d], requests[:, self.d : 2 * self.d]
        return replace(self, reward_bound=float(prices.max()), attraction_bound=float(attractions.max()))

    @property
    def consumption_bound(self) -> float:
        """See :class:`AllocationProblem`."""
        return 1.0

    @property
    def least_consumption(self) -> float:
        """See :class:`AllocationProblem`: one piece."""
        return 1.0

    @property
    def action_space(self) -> gym.Space[Any]:
        """See :class:`AllocationProblem`: 1 for the products that are offered."""
        return gym.spaces.MultiBinary(self.d)

    def column_bounds(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """See :class:`AllocationProblem`."""
        high = np.concatenate(
            [np.full(self.d, self.reward_bound), np.full(self.d, self.attraction_bound), [1.0]]
        )
        return np.zeros_like(high), high

    def best_response(self, seen: Array, mu: Array) -> Array:
        """See :class:`AllocationProblem`."""
        xp = array_api_compat.array_namespace(seen)
        margins = seen[:, : self.d] - mu
        return xp.astype(margins > self._best_margin(seen, margins)[:, None], xp.int64)

    def _best_margin(self, seen: Array, margins: Array) -> Array:
        """Return the best expected margin [n] over sets."""
        xp = array_api_compat.array_namespace(seen)
        order = xp.argsort(margins, axis=1, descending=True)
        rows = xp.arange(len(seen), device=array_api_compat.device(seen))[:, None]
        sorted_margins, attraction = margins[rows, order], seen[:, self.d :][rows, order]
        expected = xp.cumulative_sum(attraction * sorted_margins, axis=1) / (
            1.0 + xp.cumulative_sum(attraction, axis=1)
        )
        return xp.max(expected, axis=1).clip(min=0.0)

    def _probabilities(self, seen: Array, actions: Array) -> Array:
        """Return the probability [n, d] that each product is bought."""
        xp = array_api_compat.array_namespace(seen)
        weight = seen[:, self.d : 2 * self.d] * xp.astype(actions, seen.dtype)
        return weight / (1.0 + weight.sum(1)[:, None])

    def outcome(self, requests: Array, actions: Array) -> tuple[Array, Array]:
        """See :class:`AllocationProblem`."""
        xp = array_api_compat.array_namespace(requests)
        upper = xp.cumulative_sum(self._probabilities(requests, actions), axis=1)
        reached = xp.astype(requests[:, -1:] < upper, requests.dtype)  # 0 ... 0 1 ... 1, first 1: the choice
        before = xp.concat([xp.zeros_like(reached[:, :1]), reached[:, :-1]], axis=1)
        bought = reached - before
        return (bought * requests[:, : self.d]).sum(1), bought

    def bound_terms(self, requests: Array, mu: Array) -> tuple[Array, Array]:
        """See :class:`AllocationProblem`: in expectation over the customer's choice."""
        seen = requests[:, : self.num_seen]
        chances = self._probabilities(seen, self.best_response(seen, mu))
        return (chances * (seen[:, : self.d] - mu)).sum(1), -chances

    def expected_consumption(self, seen: Array, actions: Array) -> Array | None:
        """See :class:`AllocationProblem`: the mean over the customer's choice."""
        return self._probabilities(seen, actions)

    def without(self, actions: Array, available: Array) -> Array:
        """See :class:`AllocationProblem`."""
        return actions * available


KINDS: dict[str, type[AllocationProblem]] = {
    kind.__name__: kind for kind in (SingleChoice, SecondPriceBid, EntropyMatch, AssortmentOffer)
}
"""Problems by name."""


def problem_from_json(description: Mapping[str, Any]) -> AllocationProblem:
    """Return the problem that :meth:`AllocationProblem.to_json` described; ValueError if it is none."""
    fields = dict(description)
    kind = fields.pop("kind", None)
    if kind not in KINDS:
        raise ValueError(f"the allocation problem is of kind {kind!r}; known are {sorted(KINDS)}")
    return KINDS[kind](**fields)


@dataclass(frozen=True)
class Allocation:
    """What a policy must know of an allocation environment besides the request before it."""

    problem: AllocationProblem
    """What requests ask."""
    horizon: int
    """Number T of requests."""
    rho: tuple[float, ...]
    """[m] budget per request."""

    @property
    def budget(self) -> NDArray[np.float64]:
        """[m] whole budget rho T; a whole number where it is one but for rounding, as in 0.29 * 100."""
        product = np.array(self.rho) * self.horizon
        whole = np.rint(product)
        return np.where(np.abs(product - whole) <= 1e-9 * np.maximum(whole, 1.0), whole, product)
