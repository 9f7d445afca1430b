"""Serving requests one by one, at prices that are learned meanwhile."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from prefrl.envs.allocation.problems import Allocation, SingleChoice

from .prices import PriceRule, PriceStreams


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
            used = self._pending["consumption"][0]
            if self._horizon < 4 * t <= 2 * self._horizon:
                state["use"][0] += used
                state["use_squares"][0] += used * used
            elif t == self._horizon // 2 + 1:
                streams.warn_of_rising_prices(np.ones(1, dtype=bool))
            state["best_rewards"][0] += state["best_reward"][0]
            scale = state["best_rewards"][0] / t
            mu, state["memory"][0] = streams.rule.next_price(
                mu, used, t, remaining, state["memory"][0], scale
            )
            if not isfinite(mu.dot(mu)):
                self._refuse_infinite(mu)
            state["mu"][0] = mu
        if streams.rule.needs_scale:
            state["best_reward"][0] = request[: problem.d].max()
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
            past_half = 2.0 * obs["time"][:, 0] > 1.0
            if past_half.any():
                streams.warn_of_rising_prices(past_half)
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
        self.streams.restore({name: _array(values) for name, values in state["state"].items()})
        self._pending = {name: _array(values) for name, values in state["pending"].items()}


def _array(values: Any) -> NDArray[Any]:
    """Return a copy of an array, or of a checkpoint's tensor, in NumPy."""
    return np.array(values.numpy() if isinstance(values, Tensor) else values)
