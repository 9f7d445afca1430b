"""What agents share that answer requests by prices: streams of requests, each with prices of its own.

A policy of dual prices answers request t with x in argmax f_t(x) - mu_t . b_t(x), and then changes the prices
by a rule that looks at what the answer was meant to consume. Dual mirror descent is one rule, the baselines
of ``prefrl.agents.allocation.baselines`` are others.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

import array_api_compat
import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prefrl.envs.allocation.problems import Allocation, problem_from_json

Array = Any
"""A numpy array or a tensor."""


class PriceRule(Protocol):
    """How prices change from request to request. Arrays are numpy's or torch's, and of their kind."""

    one_stream: ClassVar[bool]
    """Whether ``next_price`` also takes one stream's vectors [m], with numbers ``t`` and ``scale``."""

    @property
    def memory_rows(self) -> int:
        """How many vectors [m] the rule wants remembered for each stream; zeros at the start."""

    @property
    def needs_scale(self) -> bool:
        """Whether the rule looks at ``scale``."""

    @property
    def target(self) -> NDArray[np.float64] | None:
        """What prices aim at using per request [m], in the second quarter; None where they do not learn."""

    def initial_price(self) -> NDArray[np.float64]:
        """Return the prices [m] of the first request."""

    def next_price(
        self, mu: Array, consumption: Array, t: Array, remaining: Array, memory: Array, scale: Array = 1.0
    ) -> tuple[Array, Array]:
        """Return the prices of the next request, and what to remember.

        Args:
            mu: the prices [..., m] of the last request.
            consumption: what its answer was meant to consume [..., m].
            t: number of the next request [...], from 1 on.
            remaining: share of each budget that is left [..., m].
            memory: [..., memory_rows, m].
            scale: mean of the most that each request so far could pay [..., 1].
        """


def allocation_of(env: Any) -> Allocation:
    """Return problem, horizon and budgets of an allocation environment, wrapped or not.

    Raises:
        ValueError: if it is none.
    """
    first = env.envs[0] if isinstance(env, gym.vector.SyncVectorEnv) else env
    allocation = getattr(getattr(first, "unwrapped", first), "allocation", None)
    if not isinstance(allocation, Allocation):
        raise ValueError(f"{env} is no allocation environment; give one of prefrl's, such as "
                         "prefrl/MultiSecretary-v0, or allocation=")  # fmt: skip
    return allocation


def allocation_to_json(allocation: Allocation) -> str:
    """Describe an allocation in JSON."""
    problem = allocation.problem.to_json()
    return json.dumps({"problem": problem, "horizon": allocation.horizon, "rho": list(allocation.rho)})


def allocation_from_json(text: str) -> Allocation:
    """Return the allocation that :func:`allocation_to_json` described; ValueError if it is none."""
    try:
        content = json.loads(text)
        problem = problem_from_json(content["problem"])
        return Allocation(problem, int(content["horizon"]), tuple(float(rho) for rho in content["rho"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{text!r} describes no allocation: {error}") from error


class PriceStreams:
    """Prices of n streams of requests, and the account of what they earned and spent.

    A stream begins where the observation's ``time`` is 0.

    Args:
        allocation: what the requests ask, how many there are, and the budgets.
        rule: how prices change.
    """

    def __init__(self, allocation: Allocation, rule: PriceRule) -> None:
        self.allocation, self.rule = allocation, rule
        self._initial = rule.initial_price()
        self._warned = False
        self._start: dict[str, Array] = {}
        self.state: dict[str, Array] = {}
        """Named arrays [n, ...]; empty before the first request."""
        self.horizons: Array = 0
        """[n] horizons begun since :meth:`restart`; the account is that of the last one."""

    def restart(self) -> None:
        """Forget everything: the environment was reset."""
        self.state, self.horizons = {}, 0

    def begin(self, obs: Mapping[str, Array]) -> None:
        """Give the streams that begin their first prices."""
        time = obs["time"]
        if len(self._start.get("mu", ())) != len(time):
            self._start = self._starts(time, obs["request"].dtype)
        if len(self.state.get("mu", ())) != len(time):
            self.state = {name: values * 1 for name, values in self._start.items()}  # it may be written into
            self.horizons = self._start["served"] + 1
            return
        xp, first = array_api_compat.array_namespace(time), time[:, 0] == 0
        # Of a stream that served no request since it began, nothing is lost.
        self.horizons = self.horizons + (first & (self.state["served"] > 0))
        for name, values in self._start.items():
            where = first.reshape((-1,) + (1,) * (values.ndim - 1))
            self.state[name] = xp.where(where, values, self.state[name])

    def _starts(self, time: Array, dtype: Any) -> dict[str, Array]:
        """Return the state of streams that begin, one for each row of ``time`` [n, 1]."""
        xp, device = array_api_compat.array_namespace(time), array_api_compat.device(time)
        n, m = len(time), len(self._initial)
        return {
            "mu": xp.asarray(self._initial, dtype=dtype, device=device) * xp.ones_like(time),
            "memory": xp.zeros((n, self.rule.memory_rows, m), dtype=dtype, device=device),
            "rewards": xp.zeros(n, dtype=xp.float64, device=device),
            "spent": xp.zeros((n, m), dtype=xp.float64, device=device),
            "tail_price": xp.zeros((n, m), dtype=xp.float64, device=device),
            "tail_count": xp.zeros(n, dtype=xp.int64, device=device),
            "depletion": xp.zeros(n, dtype=xp.int64, device=device),
            "served": xp.zeros(n, dtype=xp.int64, device=device),
            "best_reward": xp.zeros(n, dtype=xp.float64, device=device),
            "best_rewards": xp.zeros(n, dtype=xp.float64, device=device),
            "use": xp.zeros((n, m), dtype=xp.float64, device=device),
            "use_squares": xp.zeros((n, m), dtype=xp.float64, device=device),
        }

    def restore(self, state: dict[str, Array]) -> None:
        """Go on from a state, which in files of older versions lacks what was not kept then."""
        self.state = state
        if state:
            self.state = {**self._starts(state["mu"][:, :1], state["mu"].dtype), **state}

    def answer(self, obs: Mapping[str, Array]) -> tuple[Array, Array | None]:
        """Return the best answers [n, ...] to requests, and what they are expected to consume [n, m].

        The latter is None where the request does not tell.
        """
        problem = self.allocation.problem
        if self.rule.needs_scale:
            self.state["best_reward"] = problem.best_reward(obs["request"])
        actions = problem.best_response(obs["request"], self.state["mu"])
        return actions, problem.expected_consumption(obs["request"], actions)

    def advance(self, consumption: Array, obs: Mapping[str, Array], mask: Array) -> None:
        """Change the prices after an answer.

        Args:
            consumption: what it was meant to consume [n, m].
            obs: the observation after it.
            mask: [n] bool, the streams that got a request at all.
        """
        xp = array_api_compat.array_namespace(obs["time"])
        state, horizon = self.state, self.allocation.horizon
        t = xp.astype(xp.round(obs["time"][:, 0] * horizon), xp.int64)
        late = mask & (2 * t > horizon)  # the request that was answered lies in the second half
        state["tail_price"] = state["tail_price"] + late[:, None] * state["mu"]
        state["tail_count"] = state["tail_count"] + late
        second = (mask & (4 * t > horizon) & (2 * t <= horizon))[:, None]
        state["use"] = state["use"] + second * consumption
        state["use_squares"] = state["use_squares"] + second * consumption**2
        state["best_rewards"] = state["best_rewards"] + mask * state["best_reward"]
        scale = xp.astype(state["best_rewards"] / t.clip(min=1), state["mu"].dtype)[:, None]
        mu, memory = self.rule.next_price(
            state["mu"], consumption, t, obs["remaining"], state["memory"], scale
        )
        state["mu"] = xp.where(mask[:, None], mu, state["mu"])
        state["memory"] = xp.where(mask[:, None, None], memory, state["memory"])

    def account(self, rewards: Tensor, infos: Mapping[str, Tensor], mask: Tensor) -> None:
        """Take in what an answer earned [n], and what the environment reports of it."""
        state = self.state
        state["rewards"] = state["rewards"] + rewards * mask
        state["spent"] = state["spent"] + infos["consumption"] * mask[:, None]
        state["depletion"] = torch.where(mask, infos["depletion"], state["depletion"])
        state["served"] = state["served"] + mask

    def warn_of_rising_prices(self, past_half: Array) -> None:
        """Warn, once, where prices still rise at half the horizon; waits for the device.

        They rise where answers are meant to use more than the target. It is said of a quarter more in the
        second quarter of the horizon, if that is beyond twice the noise of single requests.

        Args:
            past_half: [n] bool, the streams that have come so far.
        """
        target, horizon = self.rule.target, self.allocation.horizon
        if target is None or self._warned or not self.state or not bool(past_half.any()):
            return
        use, squares = (
            np.asarray(self.state[name][past_half].sum(0).tolist()) for name in ("use", "use_squares")
        )
        expected = target * float(past_half.sum()) * (horizon // 2 - horizon // 4)
        rising = (use > 1.25 * expected) & (use - expected > 2.0 * squares**0.5)
        if rising.any():
            self._warned = True
            worst = int(np.argmax(np.where(rising, use / expected.clip(min=1e-300), 0.0)))
            warnings.warn(f"prices still rise at half the horizon: in its second quarter answers were meant "
                          f"to use {use[worst] / max(expected[worst], 1e-300):.3g} times the budget of "
                          f"resource {worst} for that time; larger steps, or a higher initial_price, make "
                          "budgets last", stacklevel=2)  # fmt: skip

    def tail_price(self) -> Array:
        """Return the mean price [n, m] over the second half of the horizon, as far as it has come.

        NaN where it has not come that far.
        """
        return self.state["tail_price"] / self.state["tail_count"][:, None]

    def final_dual(self) -> list[float] | None:
        """Return the mean of :meth:`tail_price` over streams [m]; None where there is none yet."""
        if not self.state or not bool((self.state["tail_count"] > 0).all()):
            return None
        mean: list[float] = self.tail_price().mean(0).tolist()
        return mean
