"""What agents share that answer requests by prices: streams of requests, each with prices of its own.

A policy of dual prices answers request t with x in argmax f_t(x) - mu_t . b_t(x), and then changes the prices
by a rule that looks at what the answer was meant to consume. Dual mirror descent is one rule, the baselines
of ``prefrl.agents.allocation.baselines`` are others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import isfinite
from typing import Any, ClassVar, Protocol

import array_api_compat
import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prefrl.data import Transitions
from prefrl.envs.allocation.problems import Allocation, SingleChoice, problem_from_json

Array = Any
"""A numpy array or a tensor."""


class PriceRule(Protocol):
    """How prices change from request to request. Arrays are numpy's or torch's, and of their kind."""

    memory_rows: ClassVar[int]
    """How many vectors [m] the rule wants remembered for each stream; zeros at the start."""

    one_stream: ClassVar[bool]
    """Whether ``next_price`` also takes one stream's vectors [m], with a number ``t``."""

    def initial_price(self) -> NDArray[np.float64]:
        """Return the prices [m] of the first request."""

    def next_price(
        self, mu: Array, consumption: Array, t: Array, remaining: Array, memory: Array
    ) -> tuple[Array, Array]:
        """Return the prices of the next request, and what to remember.

        Args:
            mu: the prices [..., m] of the last request.
            consumption: what its answer was meant to consume [..., m].
            t: number of the next request [...], from 1 on.
            remaining: share of each budget that is left [..., m].
            memory: [..., memory_rows, m].
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
        }

    def answer(self, obs: Mapping[str, Array]) -> tuple[Array, Array | None]:
        """Return the best answers [n, ...] to requests, and what they are expected to consume [n, m].

        The latter is None where the request does not tell.
        """
        problem = self.allocation.problem
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
        mu, memory = self.rule.next_price(state["mu"], consumption, t, obs["remaining"], state["memory"])
        state["mu"] = xp.where(mask[:, None], mu, state["mu"])
        state["memory"] = xp.where(mask[:, None, None], memory, state["memory"])

    def account(self, rewards: Tensor, infos: Mapping[str, Tensor], mask: Tensor) -> None:
        """Take in what an answer earned [n], and what the environment reports of it."""
        state = self.state
        state["rewards"] = state["rewards"] + rewards * mask
        state["spent"] = state["spent"] + infos["consumption"] * mask[:, None]
        state["depletion"] = torch.where(mask, infos["depletion"], state["depletion"])
        state["served"] = state["served"] + mask

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


class PriceServer:
    """Serves requests one by one, or n at once, with prices that it keeps: ``predict`` of the agents.

    Works in NumPy: for one small request torch's calls would take longer than the decision.

    Args:
        allocation: see :class:`PriceStreams`.
        rule: see :class:`PriceStreams`.
    """

    def __init__(self, allocation: Allocation, rule: PriceRule) -> None:
        self.streams = PriceStreams(allocation, rule)
        self._budget = allocation.budget
        self._width = allocation.problem.num_seen
        self._shape = (self._width,)
        self._fast = isinstance(allocation.problem, SingleChoice) and rule.one_stream
        self._pending: dict[str, NDArray[np.float64]] = {}  # of the last answer: its consumption, if known
        self._horizon = allocation.horizon

    def serve(self, observation: Mapping[str, Any], episode_start: Any) -> Any:
        """Return the answer to one observation, or answers [n, ...] to n, as the action space has them.

        Raises:
            ValueError: if the observation is none of an allocation environment's, or not finite: nothing is
                then changed.
            FloatingPointError: if prices have become infinite or NaN.
        """
        if self._fast and episode_start is None and type(observation) is dict:
            request, remaining = observation.get("request"), observation.get("remaining")
            time = observation.get("time")
            # The sum of squares is finite where all are. What is wrong _serve_rows finds out, and says.
            if (
                type(request) is type(remaining) is type(time) is np.ndarray
                and request.shape == self._shape
                and remaining.shape == self._budget.shape
                and time.shape == (1,)
                and 0.0 <= (moment := time.item()) <= 1.0
                and isfinite(request.dot(request))
                and isfinite(remaining.dot(remaining))
            ):
                return self._serve_one(request, remaining, moment)
        return self._serve_rows(observation, episode_start)

    def _serve_one(self, request: NDArray[Any], remaining: NDArray[Any], moment: float) -> np.int64:
        """Serve one single choice: what :meth:`_serve_rows` does, without its arrays of one row."""
        streams, problem = self.streams, self.streams.allocation.problem
        assert isinstance(problem, SingleChoice)
        if moment == 0.0 or len(streams.state.get("mu", ())) != 1:
            self._pending = {}
            streams.begin({"time": np.array([[moment]]), "request": request[None].astype(np.float64)})
        state = streams.state
        mu = state["mu"][0]
        if self._pending:
            t = round(moment * self._horizon)
            mu = streams.rule.next_price(mu, self._pending["consumption"][0], t, remaining, None)[0]
            if not isfinite(mu.dot(mu)):
                self._refuse_infinite(mu)
            state["mu"][0] = mu
        action, consumption = problem.serve(request, mu)
        self._pending["consumption"] = consumption[None]
        return np.int64(action)

    @staticmethod
    def _refuse_infinite(mu: NDArray[np.float64]) -> None:
        if not isfinite(mu.sum()):
            raise FloatingPointError(f"the prices have become {mu}; smaller steps, or consumption in larger "
                                     "units, keep them finite")  # fmt: skip

    def _serve_rows(self, observation: Any, episode_start: Any) -> Any:
        obs, single = self._checked(observation)
        rows = len(obs["time"])
        if episode_start is not None:
            started = np.broadcast_to(np.asarray(episode_start, dtype=bool), (rows,))
            obs["time"] = np.where(started[:, None], 0.0, obs["time"])
        streams = self.streams
        if len(streams.state.get("mu", ())) == rows and self._pending:
            consumption = self._pending.get("consumption")
            if consumption is None:  # of an auction only the payment tells, and of that only the budget
                consumption = (self._pending["remaining"] - obs["remaining"]) * self._budget
            streams.advance(consumption, obs, obs["time"][:, 0] > 0.0)
            self._refuse_infinite(streams.state["mu"])
        streams.begin(obs)
        actions, consumption = streams.answer(obs)
        self._pending = (
            {"remaining": obs["remaining"]} if consumption is None else {"consumption": consumption}
        )
        space = streams.allocation.problem.action_space
        if isinstance(space, gym.spaces.Box):
            actions = np.clip(actions, space.low, space.high)
        actions = actions.astype(space.dtype)
        return actions[0] if single else actions

    def _checked(self, observation: Any) -> tuple[dict[str, NDArray[np.float64]], bool]:
        widths = {"request": self._width, "remaining": len(self._budget), "time": 1}
        if not isinstance(observation, Mapping) or not set(observation) >= set(widths):
            raise ValueError(f"observation is {observation!r}; it must be a dict of request, remaining, time")
        obs = {}
        for name, width in widths.items():
            try:
                values = np.asarray(observation[name], dtype=np.float64)
            except (TypeError, ValueError) as error:
                raise ValueError(f"observation: {name} is no array of numbers: {error}") from error
            if values.ndim not in (1, 2) or values.shape[-1] != width:
                raise ValueError(f"observation: {name} has shape {values.shape}; it must be ({width},) or "
                                 f"(n, {width})")  # fmt: skip
            if not np.isfinite(values).all():
                raise ValueError(f"observation: {name} is {values}; it must be finite")
            obs[name] = values
        if ((obs["time"] < 0.0) | (obs["time"] > 1.0)).any():
            raise ValueError(f"observation: time is {obs['time']}; it must lie in [0, 1]")
        single = obs["time"].ndim == 1
        obs = {name: np.atleast_2d(values) for name, values in obs.items()}
        if len({len(values) for values in obs.values()}) != 1:
            raise ValueError("observation: request, remaining and time have different numbers of rows")
        return obs, single

    def state_dict(self) -> dict[str, Any]:
        """Return the prices that are kept, and what the last answer left to be learned from."""
        state, pending = self.streams.state, self._pending
        return {
            "state": {name: _array(values) for name, values in state.items()},
            "pending": {name: _array(values) for name, values in pending.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint's copy of :meth:`state_dict`."""
        self.streams.state = {name: _array(values) for name, values in state["state"].items()}
        self._pending = {name: _array(values) for name, values in state["pending"].items()}


def _array(values: Any) -> NDArray[Any]:
    """Return a copy of an array, or of a checkpoint's tensor, in NumPy."""
    return np.array(values.numpy() if isinstance(values, Tensor) else values)


class Pricing:
    """The two faces of a policy of dual prices: streams that the loop steps, and requests that come by hand.

    Args:
        allocation: see :class:`PriceStreams`.
        rule: see :class:`PriceStreams`.
        device: where the streams of the loop live.
    """

    def __init__(self, allocation: Allocation, rule: PriceRule, device: torch.device) -> None:
        self.allocation = allocation
        self.streams = PriceStreams(allocation, rule)
        self.server = PriceServer(allocation, rule)
        self.device = device
        self._consumption: Tensor | None = None
        self._transitions: Transitions | None = None

    def act(self, obs: Mapping[str, Tensor]) -> Tensor:
        """Return the best answers [n, ...] at the present prices."""
        self.streams.begin(obs)
        actions: Tensor
        actions, self._consumption = self.streams.answer(obs)
        return actions

    def observe(self, transitions: Transitions) -> None:
        """Take in one step of the environments."""
        self._transitions = transitions

    def update(self) -> dict[str, Tensor]:
        """Change the prices after the last observed step, once; return the mean price."""
        step, self._transitions = self._transitions, None
        if step is None:
            return {}
        intended = self._consumption
        if intended is None:
            intended = step.infos["intended_consumption"]
        self.streams.account(step.rewards, step.infos, step.mask)
        self.streams.advance(intended, step.next_obs, step.mask)
        return {
            "train/price": self.streams.state["mu"].mean(),
            "train/intended_consumption": intended.mean(),
        }

    def restart(self) -> None:
        """Forget the streams of the loop: the environment was reset. Those of ``predict`` go on."""
        self.streams.restart()
        self._consumption = self._transitions = None

    def state_dict(self) -> dict[str, Any]:
        """Return everything a bit-equal continuation needs."""
        return {
            "allocation": allocation_to_json(self.allocation),
            "streams": dict(self.streams.state),
            "horizons": self.streams.horizons,
            "server": self.server.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned; ValueError for that of another allocation."""
        saved = allocation_from_json(state["allocation"])
        if saved != self.allocation:
            raise ValueError(f"its state is for {saved}, not for {self.allocation}")
        self.streams.state = {name: values.to(self.device) for name, values in state["streams"].items()}
        horizons = state["horizons"]
        self.streams.horizons = horizons.to(self.device) if isinstance(horizons, Tensor) else horizons
        self.server.load_state_dict(state["server"])


class ByPrices:
    """What the faces of agents that answer by prices have in common (mixin; they set ``self._pricing``)."""

    info_keys: tuple[str, ...] = ("consumption", "intended_consumption", "depletion")
    _pricing: Pricing | None = None

    @property
    def pricing(self) -> Pricing:
        """The prices, of the streams in the loop and of the requests that come by ``predict``."""
        if self._pricing is None:
            raise ValueError("the agent does not know its allocation yet; give an environment or allocation=")
        return self._pricing

    @property
    def streams(self) -> PriceStreams:
        """Prices of the streams that the loop steps, and the account of what they earned and spent."""
        return self.pricing.streams

    def act(self, obs: Any, *, deterministic: bool = False) -> Tensor:
        """Return the best answers [n, ...] to requests at the present prices."""
        return self.pricing.act(obs)

    def observe(self, transitions: Transitions) -> None:
        """Take in one step of the environments; :meth:`update` moves the prices."""
        self.pricing.observe(transitions)

    def restarted(self) -> None:
        """Take note that the environment was reset: all streams begin."""
        self.pricing.restart()

    def update(self) -> dict[str, Tensor]:
        """Move the prices after the last observed step, once; see ``Agent.update``."""
        return self.pricing.update()

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[Any, Any]:
        """Answer one request, or n of as many streams, and move the prices, which the agent keeps.

        So it can stand in a service's loop. A stream begins where the observation's ``time`` is 0 or
        ``episode_start`` is True, or where the number of streams is another than before. What an auction cost
        is read off the budget that remains at the next call.

        Args:
            observation: dict of ``request``, ``remaining`` and ``time``, as the environment gives them.
            state: returned as it is.
            episode_start: [n] bool, which streams begin.
            deterministic: makes no difference.

        Raises:
            ValueError: if the observation is none of such an environment's, or not finite: nothing changes.
            FloatingPointError: if prices have become infinite or NaN.
        """
        return self.pricing.server.serve(observation, episode_start), state

    def result(self) -> dict[str, Any]:
        """Return the mean price [m] over streams in the second half of the horizon, as ``final_dual``."""
        return {"final_dual": self.streams.final_dual()}
