"""What online allocation is compared with: four other ways to set prices.

Each answers a request as dual mirror descent does, by x in argmax f(x) - mu . b(x), and differs in its
prices:

- ``greedy``: 0; it serves whatever pays, as long as the budget lasts.
- ``static``: the fluid optimum's prices, always; it knows the distribution of requests, but never looks at
  the budget. (Where the distribution has atoms, many requests may gain exactly nothing at these prices; all
  of them are left.)
- ``resolving``: the fluid optimum's prices for what is left, rho_t = G_t / (T - t): certainty equivalence. It
  knows the distribution, and solves the fluid problem again and again. Where the distribution changes with
  time, it takes that of the whole horizon for the rest.
- ``pid``: a controller on the rate of spending, which needs no distribution. With e_t = b_t(x_t) - rho the
  prices are

      mu_{t+1} = max(mu_t + eta (k_i e_t + k_p (e_t - e_{t-1}) + k_d (e_t - 2 e_{t-1} + e_{t-2})), 0)

  the velocity form, in which the cut at 0 winds nothing up. k_i = 1, k_p = k_d = 0 is dual mirror descent,
  whose steps pid has, also those that suit the units of reward and resources.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prefrl.agents.base import Spaces
from prefrl.config import Count, NonNegative, Positive, Settings
from prefrl.envs.allocation.problems import Allocation
from prefrl.functional.allocation.mirror_descent import euclidean_step, unit_free_steps

from .by_prices import ByPrices, Pricing
from .prices import Array, PriceRule, allocation_of

Kind = Literal["greedy", "static", "resolving", "pid"]
"""Baselines by name."""


@dataclass(frozen=True)
class AllocationBaselineConfig(Settings):
    """Settings of :class:`AllocationBaseline`."""

    kind: Kind = "resolving"
    """How prices are set; see the module's text."""

    resolve_every: Count | None = None
    """Of resolving: requests between two solutions; None: 1 with one resource, else a 20th of the horizon."""

    integral_gain: NonNegative = 1.0
    """k_i of pid."""

    proportional_gain: NonNegative = 1.0
    """k_p of pid."""

    derivative_gain: NonNegative = 0.0
    """k_d of pid."""

    step_scale: Positive | None = None
    """c of pid's eta = c / sqrt(T), in units of prices over consumption; None: steps that suit the units."""


@dataclass(frozen=True)
class ConstantPrice:
    """Prices that do not change: those of greedy and static."""

    price: NDArray[np.float64]
    """[m] prices."""
    memory_rows: ClassVar[int] = 0
    """See :class:`prefrl.agents.allocation.prices.PriceRule`."""
    needs_scale: ClassVar[bool] = False
    """See :class:`prefrl.agents.allocation.prices.PriceRule`."""
    target: ClassVar[None] = None
    """See :class:`prefrl.agents.allocation.prices.PriceRule`."""
    one_stream: ClassVar[bool] = True
    """See :class:`prefrl.agents.allocation.prices.PriceRule`."""

    def initial_price(self) -> NDArray[np.float64]:
        """See :class:`prefrl.agents.allocation.prices.PriceRule`."""
        return self.price

    def next_price(
        self, mu: Array, consumption: Array, t: Array, remaining: Array, memory: Array, scale: Array = 1.0
    ) -> tuple[Array, Array]:
        """See :class:`prefrl.agents.allocation.prices.PriceRule`."""
        return mu, memory


class Resolving:
    """The fluid optimum's prices for what is left.

    Args:
        allocation: problem, horizon and budgets.
        fluid_price: prices [n, m] for budgets per request [n, m], arrays of the environment.
        to_env: makes arrays of the environment.
        every: requests between two solutions.
    """

    memory_rows: ClassVar[int] = 0
    needs_scale: ClassVar[bool] = False
    target: ClassVar[None] = None
    one_stream: ClassVar[bool] = False

    def __init__(
        self,
        allocation: Allocation,
        fluid_price: Callable[[Array], Array],
        to_env: Callable[[Array], Array],
        every: int,
    ) -> None:
        self.horizon, self.every = allocation.horizon, every
        self.rho = np.array(allocation.rho)
        self.fluid_price, self.to_env = fluid_price, to_env

    def initial_price(self) -> NDArray[np.float64]:
        """See :class:`prefrl.agents.allocation.prices.PriceRule`."""
        price = self.fluid_price(self.to_env(self.rho[None]))[0]
        return np.asarray(price.cpu() if isinstance(price, Tensor) else price, dtype=np.float64)

    def next_price(
        self, mu: Array, consumption: Array, t: Array, remaining: Array, memory: Array, scale: Array = 1.0
    ) -> tuple[Array, Array]:
        """See :class:`prefrl.agents.allocation.prices.PriceRule`."""
        left = (self.horizon - t).clip(min=1)[:, None]
        rho = torch.as_tensor(self.rho).to(mu) if isinstance(mu, Tensor) else self.rho
        rate = remaining * rho * self.horizon / left
        due = (t % self.every == 0)[:, None]
        if self.every > 1:  # each solution is an optimisation on the host: only where one is due, and waiting
            rows = due[:, 0]
            if not bool(rows.any()):
                return mu, memory
            price = mu * 1.0
            price[rows] = _like(mu, self.fluid_price(self.to_env(rate[rows])))
            return price, memory
        return _like(mu, self.fluid_price(self.to_env(rate))), memory


def _like(mu: Array, prices: Array) -> Array:
    """Return prices of the environment, which may live elsewhere, where and as mu is."""
    if isinstance(mu, Tensor):
        return torch.as_tensor(prices).to(mu)
    return np.asarray(prices.cpu() if isinstance(prices, Tensor) else prices, dtype=mu.dtype)


class PID:
    """A controller on the rate of spending; see the module's text.

    Args:
        allocation: problem, horizon and budgets.
        config: settings.
    """

    one_stream: ClassVar[bool] = False

    def __init__(self, allocation: Allocation, config: AllocationBaselineConfig) -> None:
        self.config = config
        self.target = self.rho = np.array(allocation.rho)
        self.step_size = None if config.step_scale is None else config.step_scale / allocation.horizon**0.5
        self.needs_scale = self.step_size is None
        self.memory_rows = 3 if self.needs_scale else 2  # the last two errors, and the squares so far

    def initial_price(self) -> NDArray[np.float64]:
        """See :class:`prefrl.agents.allocation.prices.PriceRule`."""
        return np.zeros_like(self.rho)

    def next_price(
        self, mu: Array, consumption: Array, t: Array, remaining: Array, memory: Array, scale: Array = 1.0
    ) -> tuple[Array, Array]:
        """See :class:`prefrl.agents.allocation.prices.PriceRule`."""
        config = self.config
        rho = torch.as_tensor(self.rho).to(mu) if isinstance(mu, Tensor) else self.rho
        error, before, earlier = consumption - rho, memory[..., 0, :], memory[..., 1, :]
        change = (
            config.integral_gain * error
            + config.proportional_gain * (error - before)
            + config.derivative_gain * (error - 2.0 * before + earlier)
        )
        stack = torch.stack if isinstance(mu, Tensor) else np.stack
        if self.step_size is not None:
            return euclidean_step(mu, -change, self.step_size), stack([error, before], -2)
        squares = memory[..., 2, :] + (error / rho) ** 2
        move = unit_free_steps(squares, "euclidean") * (scale / rho) * (change / rho)
        return euclidean_step(mu, -move, 1.0), stack([error, before, squares], -2)


class AllocationBaseline(ByPrices):
    """Greedy, static prices, re-solving or PID pacing; see the module's text.

    Args:
        env: an allocation environment of prefrl; its distribution of requests is what static and resolving
            know.
        config: settings.
        device: torch device, or "auto".
        seed: seeds the environment; the agent draws nothing.

    Raises:
        ValueError: if there is no allocation environment.
    """

    config_class: ClassVar[type[AllocationBaselineConfig]] = AllocationBaselineConfig

    def __init__(
        self,
        env: Any,
        config: AllocationBaselineConfig | None = None,
        *,
        device: torch.device | str = "auto",
        seed: int = 0,
    ) -> None:
        super().__init__(env, config or AllocationBaselineConfig(), device=device, seed=seed)
        if isinstance(env, Spaces):
            raise ValueError("a baseline knows the distribution of requests from its environment; give one: "
                             "load(path, env=...)")  # fmt: skip
        allocation = allocation_of(env)
        self._pricing = Pricing(allocation, self._rule(allocation, env.unwrapped), self.device)

    def _rule(self, allocation: Allocation, env: Any) -> PriceRule:
        config, m = self.config, len(allocation.rho)
        if config.kind == "greedy":
            return ConstantPrice(np.zeros(m))
        if config.kind == "static":
            return ConstantPrice(env.fluid_optimum().mu)
        if config.kind == "pid":
            return PID(allocation, config)
        every = config.resolve_every or (1 if m == 1 else max(1, allocation.horizon // 20))
        return Resolving(allocation, env.fluid_price, env.dynamics.backend.asarray, every)

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`Agent.state_dict`."""
        return self.pricing.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :meth:`Agent.load_state_dict`."""
        self.pricing.load_state_dict(state)
