"""Online allocation as an environment: T requests, m budgets, an irrevocable answer to each request.

The world of Balseiro, Lu and Mirrokni (2023, "The best of many worlds: dual mirror descent for online
allocation problems", Operations Research 71(1), section 2). What a request asks is an
:class:`~prefrl.envs.allocation.problems.AllocationProblem`, where requests come from a
:class:`~prefrl.envs.allocation.request_streams.RequestStream`; the families are made of the two.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from prefrl.envs.core.backend import Array, Backend, Noise, Random, State
from prefrl.envs.core.checks import check_count, reject_unknown_options
from prefrl.envs.core.dynamics import Dynamics, Episodes, of_episodes

from .checks import check_rho, to_host
from .hindsight import Optimum, dual_minimum, hindsight_values
from .problems import Allocation, AllocationProblem
from .request_streams import InputModel, Requests, RequestStream, check_requests

DEFAULT_HORIZON = 1000
"""Requests of an episode, where neither a horizon nor requests are given."""

FLUID_SAMPLE, FLUID_SEED = 5000, 0
"""Size and seed of the sample that stands for the distribution of requests, where there is no closed form."""

FLUID_NUMBERS = 1_000_000
"""Numbers that the requests of the sample may have, all together."""

FLUID_PRICES = 2001
"""Prices in the table of :meth:`AllocationDynamics.fluid_price`."""


class AllocationDynamics(Dynamics):
    """Online allocation as batched dynamics; families give the problem and the distribution of requests.

    What is spent is counted in float64, whatever the float type of the rest, and never exceeds the budget.

    Args:
        problem: what a request asks.
        horizon: number T of requests; None: as many as ``requests`` has, or :data:`DEFAULT_HORIZON`.
        rho: budget per request, one number for all resources or one for each; the budget is rho T.
        stop_when_empty: terminate where of every budget less is left than an answer may consume; else after
            T requests only, which keeps regrets comparable.
        input_model: how requests hang together; see :class:`RequestStream`, also for what follows.
        period: of ``periodic``.
        persistence: of ``ergodic``.
        corrupted_rounds: of ``corrupted``.
        drift_start: of ``drift``.
        requests: a file or an array to ``replay``, which is then the input model.
        backend: where the arrays live.

    Raises:
        ValueError: if an argument lies outside its range, or the budget is too small to serve any request.
    """

    foretells = True

    def __init__(
        self,
        problem: AllocationProblem,
        horizon: int | None,
        rho: float | Sequence[float] | NDArray[np.float64],
        *,
        stop_when_empty: bool = False,
        input_model: InputModel = "iid",
        period: int = 20,
        persistence: float = 0.9,
        corrupted_rounds: int | None = None,
        drift_start: float = 0.5,
        requests: Requests | None = None,
        backend: Backend | None = None,
    ) -> None:
        super().__init__(backend)
        if horizon is not None:
            check_count("horizon", horizon)
        if requests is not None:
            if input_model not in ("iid", "replay"):
                raise ValueError(f"input_model is {input_model!r}, but requests are replayed as they are")
            input_model = "replay"
            requests = check_requests(requests, problem, horizon)
            problem, horizon = problem.fitted(requests), len(requests)
        if not isinstance(stop_when_empty, (bool, np.bool_)):
            raise ValueError(f"stop_when_empty is {stop_when_empty!r}; it must be True or False")
        self.problem = problem
        self.horizon = horizon = DEFAULT_HORIZON if horizon is None else int(horizon)
        self.stop_when_empty = bool(stop_when_empty)
        self.stream = RequestStream(
            problem, horizon, input_model, period, persistence, corrupted_rounds, drift_start, requests
        )
        self.rho = check_rho(rho, problem.num_resources)
        self.allocation = Allocation(problem, horizon, tuple(self.rho.tolist()))
        """Problem, horizon and budget per request, as a policy needs them."""
        self._check_budget()
        low, high = (bound[: problem.num_seen].astype(np.float32) for bound in problem.column_bounds())
        self.single_observation_space = gym.spaces.Dict(
            {
                "request": gym.spaces.Box(low, high),
                "remaining": gym.spaces.Box(0.0, 1.0, (problem.num_resources,)),
                "time": gym.spaces.Box(0.0, 1.0, (1,)),
            }
        )
        self.single_action_space = problem.action_space
        self._budget = self._vector(self.budget)
        self._most = self._vector(problem.largest_uses(requests))
        asarray, dtype = self.backend.asarray, self.backend.float_dtype
        self._requests = None if requests is None else asarray(np.array(requests), dtype=dtype)

    def _vector(self, values: NDArray[np.float64]) -> Array:
        """Return an array [m] of the backend, made there: under fake tensors one number cannot be moved."""
        kind = {"dtype": self.xp.float64, "device": self.backend.device}
        return self.xp.concat([self.xp.full((1,), value, **kind) for value in values.tolist()])

    @property
    def budget(self) -> NDArray[np.float64]:
        """[m] whole budget of an episode."""
        return self.allocation.budget

    def _check_budget(self) -> None:
        least, requests = self.problem.least_consumption, self.stream.requests
        if (self.budget < least).all() or not (
            requests is None or self.problem.servable(requests, self.budget)
        ):
            raise ValueError(f"the budget, rho * horizon, is {self.budget.tolist()}, and every request "
                             "consumes more: nothing could be served")  # fmt: skip

    @abstractmethod
    def request_noise(self, rng: Random, n: int) -> Noise:
        """Draw the randomness of ``n`` single requests."""

    @abstractmethod
    def draw_requests(self, noise: Noise) -> Array:
        """Return single requests [n, columns], in the backend's float."""

    def known_fluid(self, rho: Array) -> tuple[Array, Array] | None:
        """Return the fluid optimum for budgets per request [..., m], where it is known in closed form.

        Value per request [...], and prices [..., m].
        """
        return None

    def _request_noise(self, rng: Random, n: int) -> Noise:
        if self._requests is None:
            return self.request_noise(rng, n)
        return {"rows": self.xp.zeros(n, dtype=self.backend.float_dtype, device=self.backend.device)}

    def reset_noise(self, rng: Random, n: int) -> Noise:
        """See :meth:`Dynamics.reset_noise`."""
        return self._request_noise(rng, n)

    def step_noise(self, rng: Random, n: int) -> Noise:
        """See :meth:`Dynamics.step_noise`."""
        return {**self._request_noise(rng, n), **self.stream.noise(rng, n)}

    def _fresh(self, noise: Noise, t: Array) -> Array:
        if self._requests is None:
            return self.draw_requests(noise)
        return self._requests[t.clip(max=self.horizon - 1)]

    def _emitted(self, drawn: Array, t: Array) -> dict[str, Array]:
        """Return the part of the state that is the request at the times ``t`` [n]."""
        times = self.xp.astype(t, self.backend.float_dtype)
        emitted = {"request": self.stream.scaled(drawn, times, self.xp)}
        if self.stream.input_model == "ergodic":
            emitted["drawn"] = drawn
        return emitted

    def initial(self, noise: Noise, options: Mapping[str, Any] | None = None) -> State:
        """See :meth:`Dynamics.initial`; there are no options."""
        reject_unknown_options(options, ())
        xp, device, real = self.xp, self.backend.device, self.backend.float_dtype
        n, m = len(next(iter(noise.values()))), self.problem.num_resources
        t = xp.zeros(n, dtype=xp.int64, device=device)
        return {
            **self._emitted(self._fresh(noise, t), t),
            "t": t,
            "spent": xp.zeros((n, m), dtype=xp.float64, device=device),
            "depletion": xp.full((n,), self.horizon, dtype=xp.int64, device=device),
            "consumption": xp.zeros((n, m), dtype=real, device=device),
            "intended": xp.zeros((n, m), dtype=real, device=device),
            "rejected": xp.zeros(n, dtype=xp.bool, device=device),
            "f_max": xp.zeros(n, dtype=real, device=device),
        }

    def observe(self, state: State) -> dict[str, Array]:
        """See :meth:`Dynamics.observe`: request, share of each budget that remains, share of time gone."""
        dtype = self.backend.float_dtype if self.backend.on_device else np.float32
        remaining = (self._budget - state["spent"]) / self._budget
        seen = state["request"][:, : self.problem.num_seen]
        return {
            "request": self.xp.asarray(seen, dtype=dtype, copy=True),
            "remaining": self.xp.astype(remaining, dtype),
            "time": self.xp.astype(state["t"], dtype)[:, None] / self.horizon,
        }

    def step(self, state: State, actions: Array, noise: Noise) -> tuple[State, Array, Array]:
        """See :meth:`Dynamics.step`."""
        xp, problem = self.xp, self.problem
        request, spent = state["request"], state["spent"]
        rewards, intended = problem.outcome(request, actions)
        offered = problem.without(actions, spent + problem.least_consumption <= self._budget)
        consumption, reduced = intended, xp.zeros_like(state["rejected"])
        if offered is not actions:
            rewards, consumption = problem.outcome(request, offered)
            reduced = xp.any(offered != actions, axis=1)
        after = spent + xp.astype(consumption, xp.float64)
        feasible = xp.all(after <= self._budget, axis=1)
        spent = xp.where(feasible[:, None], after, spent)
        t = state["t"] + 1
        low = self._budget - spent < self._most
        depleted = state["depletion"] < self.horizon
        drawn = self.stream.drawn(state.get("drawn", request), self._fresh(noise, t), noise)
        next_state = {
            **self._emitted(drawn, t),
            "t": t,
            "spent": spent,
            "depletion": xp.where(xp.any(low, axis=1) & ~depleted, t, state["depletion"]),
            "consumption": xp.where(feasible[:, None], consumption, xp.zeros_like(consumption)),
            "intended": intended,
            "rejected": reduced | ~feasible,
            "f_max": problem.best_reward(request),
        }
        terminated = t >= self.horizon
        if self.stop_when_empty:
            terminated = terminated | xp.all(low, axis=1)
        return next_state, xp.where(feasible, rewards, xp.zeros_like(rewards)), terminated

    def info(self, state: State) -> dict[str, Array]:
        """See :meth:`Dynamics.info`."""
        return {
            "consumption": state["consumption"],
            "intended_consumption": state["intended"],
            "rejected": state["rejected"],
            "f_max": state["f_max"],
            "t": state["t"],
            "depletion": state["depletion"],
        }

    def draw(self, state: State, index: int, last_action: Any) -> NDArray[np.uint8]:
        """See :meth:`Dynamics.draw`: budgets, the line of even spending, and a dot for the last request."""
        from prefrl.envs.rendering.scenes import draw_budgets

        spent, consumption = (to_host(state[name][index]) for name in ("spent", "consumption"))
        return draw_budgets(
            1.0 - spent / self.budget,
            int(state["t"][index]) / self.horizon,
            bool(consumption.any()),
            bool(state["rejected"][index]),
        )

    def replayed(self, rng: Random, n: int, restarts: bool) -> NDArray[np.float64]:
        """Return the requests [T, n, columns] of an episode that starts with the generator's next numbers.

        Answers have no influence on them.

        Args:
            rng: the generator.
            n: number of rows.
            restarts: whether a start is drawn with every step too, as on-device faces do.
        """
        state = self.initial(self.reset_noise(rng, n))
        stream = []
        for step in range(self.horizon):
            stream.append(to_host(state["request"]).copy())
            if step + 1 < self.horizon:
                noise = self.step_noise(rng, n)
                if restarts:
                    self.reset_noise(rng, n)
                t = state["t"] + 1
                drawn = self.stream.drawn(state.get("drawn", state["request"]), self._fresh(noise, t), noise)
                state = {**self._emitted(drawn, t), "t": t}
        return np.stack(stream)

    @of_episodes
    def request(self, episodes: Episodes) -> NDArray[np.float64]:
        """Return the seen part [num_seen] of the request that waits for an answer, in the first row.

        Raises:
            gymnasium.error.ResetNeeded: before the first reset.
        """
        if episodes.state is None:
            raise gym.error.ResetNeeded("call reset() before request()")
        return to_host(episodes.state["request"][0, : self.problem.num_seen]).copy()

    @of_episodes
    def requests(self, episodes: Episodes) -> NDArray[np.float64]:
        """Return all requests of the episodes that the last ``reset`` of all rows began, also those to come.

        [T, columns], with hidden columns and in float64; [T, n, columns] for n rows.

        Raises:
            gymnasium.error.ResetNeeded: before the first reset, and after one of some rows only.
            ValueError: where rows on the host restart before the horizon, which shifts the others' requests.
        """
        if episodes.start_rng is None:
            raise gym.error.ResetNeeded("call reset() of all rows before requests(), without num_streams")
        limit, on_device = episodes.max_episode_steps, self.backend.on_device
        early = self.stop_when_empty or (limit is not None and limit < self.horizon)
        if episodes.restarts and early and not on_device:
            raise ValueError("rows may restart before the horizon, by stop_when_empty or max_episode_steps; "
                             "then the requests to come cannot be told")  # fmt: skip
        rng = self.backend.random(0)
        rng.set_state(episodes.start_rng)
        stream = self.replayed(rng, episodes.num_envs or 1, episodes.restarts and on_device)
        return stream if episodes.num_envs else stream[:, 0]

    @of_episodes
    def hindsight_optimum(self, episodes: Episodes) -> Any:
        """Return the most that could be collected from :meth:`requests` with all of them known at the start.

        A float; [n] for n rows. Requests may be served in part: an upper bound, exact where they can be, and
        within the reward of a request per resource elsewhere. Sorting where there is one resource, HiGHS for
        single choices, else the minimum of the dual function (a customer's choice counts by its expectation).
        """
        stream = self.requests(episodes)
        single = stream.ndim == 2
        values = hindsight_values(self.problem, stream[:, None] if single else stream, self.budget)
        return float(values[0]) if single else values

    def fluid_optimum(self, rho: NDArray[np.float64] | None = None) -> Optimum:
        """Return value per request and prices of the fluid problem, min_mu rho . mu + E f*(mu).

        In closed form where that is known, else over a sample of :data:`FLUID_SAMPLE` requests, or over those
        that are replayed.

        Args:
            rho: budget per request [m]; None: the environment's.
        """
        rho = self.rho if rho is None else rho
        known = self.known_fluid(rho) if self.stationary else None
        if known is not None:
            value, mu = known
            return Optimum(float(value), mu)
        sample = self._fluid_sample
        found = dual_minimum(self.problem, sample, rho * len(sample))
        return Optimum(found.value / len(sample), found.mu)

    @property
    def stationary(self) -> bool:
        """Whether requests always follow the distribution."""
        return self.stream.input_model in ("iid", "ergodic")

    def fluid_price(self, rho: Array) -> Array:
        """Return the fluid optimum's prices [n, m] for budgets per request [n, m], not negative.

        In closed form where that is known, from a table over :data:`FLUID_PRICES` prices where there is one
        resource, else by an optimisation for each row, on the host, over a fifth of the sample. Where the
        distribution changes with time it is that of the whole horizon.
        """
        known = self.known_fluid(rho) if self.stationary else None
        if known is not None:
            return known[1]
        xp = self.xp
        if self.problem.num_resources == 1:
            prices, consumption = self._price_table
            # The first price at which no more is consumed than there is.
            index = xp.sum(xp.astype(consumption > rho, xp.int64), axis=1)
            return prices[index.clip(max=len(prices) - 1)][:, None]
        sample = self._fluid_sample[::5]
        rows = to_host(rho).clip(min=1e-9)
        found = [dual_minimum(self.problem, sample, row * len(sample), tolerance=1e-4).mu for row in rows]
        return self.backend.asarray(np.stack(found), dtype=rho.dtype)

    @cached_property
    def _price_table(self) -> tuple[Array, Array]:
        """Prices [FLUID_PRICES] of one resource, from 0 on, and what requests consume at each on average."""
        sample = self._fluid_sample

        def consumed(price: float) -> float:
            return -float(self.problem.bound_terms(sample, np.full((len(sample), 1), price))[1].mean())

        low, high = 0.0, self.problem.reward_bound / self.rho[0]
        for _ in range(40):  # where the last request is priced out
            middle = (low + high) / 2.0
            low, high = (middle, high) if consumed(middle) > 0.0 else (low, middle)
        prices = np.linspace(0.0, high, FLUID_PRICES)
        consumption = [consumed(price) for price in prices]
        dtype = self.backend.float_dtype
        return self.backend.asarray(prices, dtype=dtype), self.backend.asarray(consumption, dtype=dtype)

    @cached_property
    def _fluid_sample(self) -> NDArray[np.float64]:
        """Requests [FLUID_SAMPLE, columns] from all over the horizon; fewer where they are long."""
        if self.stream.requests is not None:
            return self.stream.requests
        count = min(FLUID_SAMPLE, max(200, FLUID_NUMBERS // len(self.problem.columns)))
        noise = self.request_noise(self.backend.random(FLUID_SEED), count)
        # Multiples of the golden ratio: evenly over the horizon, and in step with no period.
        t = np.floor(np.arange(count) * ((math.sqrt(5.0) - 1.0) / 2.0) % 1.0 * self.horizon)
        times = self.backend.asarray(t, dtype=self.backend.float_dtype)
        return to_host(self.stream.scaled(self.draw_requests(noise), times, self.xp))
