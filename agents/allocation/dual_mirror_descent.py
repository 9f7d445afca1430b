"""Dual mirror descent for online allocation (Balseiro, Lu, Mirrokni 2023, Operations Research 71(1):101-119).

T requests come one after the other, and the budgets are rho T. Each request t is answered at once,

    x_t in argmax_x  f_t(x) - mu_t . b_t(x)                    (the null answer, f = b = 0, is always allowed)

which prices what the answer consumes at mu_t. If the budgets do not suffice, nothing is served (the
environment sees to that). Then the prices move against the subgradient of the dual, g_t = rho - b_t(x_t): a
resource that is spent faster than rho becomes dearer, one that is spent more slowly cheaper,

    mu_{t+1} = argmin_{mu >= 0}  <g_t, mu> + V_h(mu, mu_t) / eta

with the Bregman divergence V_h of a reference function h (``prefrl.functional.allocation.mirror_descent``).
The gradient is that of the answer that was meant, also where it could not be served. With eta of order 1 /
sqrt(T) the
regret against the best in hindsight is O(sqrt(T)) for independent, periodic and ergodic requests alike (up to
factors of period and mixing time), and under an adversary the policy is max(1, sup b_j / rho_j)-competitive,
without knowing which it is.

Prices have a unit, reward over consumption, and so has the authors' eta = c / sqrt(T). Unless such a step is
given, prices are moved here in y_j = rho_j mu_j / f_t, with f_t the mean of the most that each request so far
could pay, by steps that follow the gradients seen so far, as in AdaGrad (``unit_free_steps``): another unit
of reward or of a resource changes the unit of prices and nothing else. The orders of regret above stay. With
steps eta_t = f_t / sqrt(S_t), S_t the sum of squared gradients, that of mirror descent is at most

    sum_t V_t max(1 / eta_t - 1 / eta_{t-1}, 0) + sum_t eta_t g_t^2 / 2,        V_t = V_h(mu, mu_t)

Prices stay bounded (at f-bar / rho_j no answer uses more than rho_j of a resource), and a mean falls by at
most f_{t-1} / t, so that 1 / eta rises by (sqrt(S_t) - sqrt(S_{t-1}) + sqrt(S_t) / t) / f_t at most: with S_t
of order t both sums are O(sqrt(T)), times f-bar over the smallest f_t.

With ``fairness`` the objective has T times r(a) = fairness min_j a_j / rho_j added, a the average consumption
(Balseiro, Lu, Mirrokni 2021, arXiv 2007.00514): prices may then be negative, down to a bound, so that what is
used little is pushed. With ``earliest_horizon`` the horizon may end early, and the target rho falls with
time.

A timestep is one request of one stream. All streams of a vector environment are priced by themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import array_api_compat
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from prefrl.agents.base import Spaces
from prefrl.config import Count, NonNegative, Positive, Settings
from prefrl.envs.allocation.problems import Allocation
from prefrl.functional.allocation.mirror_descent import (
    entropy_step,
    euclidean_step,
    fairness_projection,
    horizon_window_rates,
    projected_entropy_step,
    scaled_euclidean_step,
    unit_free_steps,
)

from .by_prices import ByPrices, Pricing
from .prices import Array, allocation_from_json, allocation_of

Reference = Literal["euclidean", "scaled_euclidean", "entropy", "projected_entropy"]
"""Reference functions h; see ``prefrl.functional.allocation.mirror_descent``."""

OwnReference = Callable[[Array, Array, float], Array]
"""A reference function of the user's own, as its step (mu [..., m], g [..., m], eta) -> mu [..., m]."""


@dataclass(frozen=True)
class DualMirrorDescentConfig(Settings):
    """Settings of :class:`DualMirrorDescent`."""

    reference: Reference = "euclidean"
    """Reference function: squared norm of mu or of rho mu, or entropy of mu or, projected, of rho mu."""

    relative_step: Positive = 1.0
    """Factor of the steps that suit the units of reward and resources; it has no unit itself."""

    step_scale: Positive | None = None
    """c of a step size eta = c / sqrt(T) in units of prices over consumption (1 in the authors' experiments);
    None: steps that suit the units."""

    step_size: Positive | None = None
    """Step size eta itself, positive; None: from step_scale, if that is given."""

    initial_price: tuple[NonNegative, ...] = ()
    """First prices, one for all resources or one for each; none given: 0, and with entropies
    f-bar / ((m + 1) rho), or, with step_scale or step_size, the authors' 1 / sqrt(m) and rho / sqrt(m)
    (projected)."""

    fairness: NonNegative = 0.0
    """Weight of max-min fairness of consumption, not negative; with Euclidean references only."""

    earliest_horizon: Count | None = None
    """Requests after which the stream may end; None: at the horizon, for sure."""

    def check(self) -> None:
        """Refuse prices and fairness that the reference function does not allow, and two sizes of steps."""
        if self.relative_step != 1.0 and self.has_unit:
            raise ValueError(f"relative_step is {self.relative_step}, but step_scale or step_size is given; "
                             "it is a factor of the steps without them")  # fmt: skip
        if self.fairness > 0.0 and "entropy" in self.reference:
            raise ValueError(f"fairness needs prices below 0, which reference {self.reference!r} has not; "
                             "take 'euclidean' or 'scaled_euclidean'")  # fmt: skip
        if "entropy" in self.reference and 0.0 in self.initial_price:
            raise ValueError(
                f"initial_price is {self.initial_price}; it must be above 0 with reference {self.reference!r}"
            )

    @property
    def has_unit(self) -> bool:
        """Whether steps are given in units of prices over consumption."""
        return self.step_scale is not None or self.step_size is not None


class MirrorDescentRule:
    """The step of dual mirror descent; see the module's text.

    Args:
        allocation: problem, horizon and budgets.
        config: settings.
        reference: a step of the user's own, instead of ``config.reference``.
        target_rates: what to consume at each request, [T] or [T, m], instead of rho.

    Raises:
        ValueError: if the settings do not suit the allocation.
    """

    one_stream: ClassVar[bool] = True

    def __init__(
        self,
        allocation: Allocation,
        config: DualMirrorDescentConfig,
        reference: OwnReference | None = None,
        target_rates: ArrayLike | None = None,
    ) -> None:
        self.config, self.reference = config, reference
        self.horizon = allocation.horizon
        self.reward_bound = allocation.problem.reward_bound
        self.step_size: float | None = None
        if config.has_unit or reference is not None:  # a reference function of one's own knows its units
            scale = config.step_scale or config.relative_step
            self.step_size = config.step_size or scale / allocation.horizon**0.5
        self.needs_scale = self.step_size is None
        self.memory_rows = 0 if self.step_size else 1 + ("entropy" in config.reference)
        self.rho = np.array(allocation.rho)
        m = len(self.rho)
        if len(config.initial_price) not in (0, 1, m):
            raise ValueError(f"initial_price has {len(config.initial_price)} entries; give one, or {m}")
        if config.fairness > 0.0 and (m == 1 or reference is not None):
            raise ValueError("fairness is between several resources, with one of the built-in references")
        changing = target_rates is not None or config.earliest_horizon is not None
        if changing and (config.fairness > 0.0 or config.reference == "projected_entropy"):
            raise ValueError("target_rates and earliest_horizon go neither with fairness nor with "
                             "projected_entropy, whose bounds of prices are for a constant rho")  # fmt: skip
        self.rates = self._rates(config.earliest_horizon, target_rates)
        self._first = self.initial_price()
        self._tensors: dict[Any, tuple[Tensor, Tensor | None, Tensor]] = {}

    @property
    def target(self) -> NDArray[np.float64]:
        """See :class:`prefrl.agents.allocation.prices.PriceRule`."""
        quarter = slice(self.horizon // 4, max(self.horizon // 2, self.horizon // 4 + 1))
        return self.rho if self.rates is None else np.asarray(self.rates[quarter].mean(0))

    def _rates(self, earliest: int | None, given: ArrayLike | None) -> NDArray[np.float64] | None:
        """Return target rates [T, m], or None where they are rho throughout."""
        shape = (self.horizon, len(self.rho))
        if given is not None:
            if earliest is not None:
                raise ValueError(
                    "earliest_horizon and target_rates are both given; one of them sets the rates"
                )
            rates = np.asarray(given, dtype=np.float64)
            rates = rates[:, None] if rates.ndim == 1 else rates
            if rates.shape not in (shape, (shape[0], 1)):
                raise ValueError(
                    f"target_rates has shape {np.shape(given)}; it must be {shape[:1]} or {shape}"
                )
            if not (np.isfinite(rates).all() and (rates >= 0.0).all()):
                raise ValueError("target_rates must be finite and not negative")
            return np.array(np.broadcast_to(rates, shape))
        if earliest is None:
            return None
        if earliest > self.horizon:
            raise ValueError(
                f"earliest_horizon is {earliest}; it must not lie after the horizon, {self.horizon}"
            )
        return self.rho * horizon_window_rates(float(self.horizon), earliest, self.horizon)[:, None]

    def initial_price(self) -> NDArray[np.float64]:
        """See :class:`prefrl.agents.allocation.prices.PriceRule`."""
        m = len(self.rho)
        if self.config.initial_price:
            return np.array(np.broadcast_to(np.array(self.config.initial_price, dtype=np.float64), (m,)))
        if self.reference is not None or "entropy" not in self.config.reference:
            return np.zeros(m)
        if self.step_size is None:
            return np.asarray(self.reward_bound / ((m + 1) * self.rho))
        if self.config.reference == "entropy":
            return np.full(m, 1.0 / m**0.5)
        return np.asarray(self.rho / m**0.5)

    def next_price(
        self, mu: Array, consumption: Array, t: Array, remaining: Array, memory: Array, scale: Array = 1.0
    ) -> tuple[Array, Array]:
        """See :class:`prefrl.agents.allocation.prices.PriceRule`."""
        rho, rates, first = self._like(mu)
        gradient = (rho if rates is None else rates[t - 1]) - consumption
        if self.step_size is not None:
            return self._step(mu, gradient, rho, self.step_size), memory
        if not self.config.initial_price:
            first = scale / (rho * (len(rho) + 1))
        return self._unit_free_step(mu, gradient / rho, rho, memory, scale, first)

    def _unit_free_step(
        self, mu: Array, slope: Array, rho: Array, memory: Array, scale: Array, first: Array
    ) -> tuple[Array, Array]:
        """Return the step in y = rho mu / scale against the gradient in units of rho, and what to remember.

        That is the sum of squared gradients and, for entropies, the logarithm of y over its first value. That
        is 1 / (m + 1) of the scale, with which these prices grow, unless first prices are given.
        """
        reference, fairness = self.config.reference, self.config.fairness
        xp = array_api_compat.array_namespace(mu)
        squares = memory[..., 0, :] + slope * slope
        eta = unit_free_steps(squares, reference) * self.config.relative_step
        if "entropy" not in reference:
            move = eta * slope * (scale / rho)
            if fairness > 0.0:
                return _fair_step(mu, move, rho, eta**0.5, fairness), squares[..., None, :]
            return euclidean_step(mu, move, 1.0), squares[..., None, :]
        logs = memory[..., 1, :] - eta * slope
        if reference == "projected_entropy":  # over rho . mu <= f-bar
            total = xp.sum(rho * first * xp.exp(logs), axis=-1, keepdims=True)
            logs = logs - xp.log(total.clip(min=self.reward_bound) / self.reward_bound)
        return first * xp.exp(logs), xp.stack([squares, logs], axis=-2)

    def _step(self, mu: Array, gradient: Array, rho: Array, eta: float) -> Array:
        """Return the mirror-descent step against the gradient, of a size that has a unit."""
        config = self.config
        if self.reference is not None:
            return self.reference(mu, gradient, eta)
        if config.fairness > 0.0:
            if config.reference == "euclidean":
                return _fair_step(mu, eta * gradient, rho, rho, config.fairness)
            return _fair_step(mu, eta * gradient / rho**2, rho, rho / rho, config.fairness)
        if config.reference == "euclidean":
            return euclidean_step(mu, gradient, eta)
        if config.reference == "scaled_euclidean":
            return scaled_euclidean_step(mu, gradient, eta, rho)
        if config.reference == "entropy":
            return entropy_step(mu, gradient, eta)
        return projected_entropy_step(mu, gradient, eta, rho, self.reward_bound)

    def _like(self, mu: Array) -> tuple[Array, Array | None, Array]:
        """Return rho [m], the target rates [T, m] and first prices [m] as arrays of the kind of ``mu``."""
        if not isinstance(mu, Tensor):
            return self.rho, self.rates, self._first
        key = (mu.dtype, mu.device)
        if key not in self._tensors:
            rho, first = (torch.as_tensor(each).to(mu.device, mu.dtype) for each in (self.rho, self._first))
            rates = None if self.rates is None else torch.as_tensor(self.rates).to(mu.device, mu.dtype)
            self._tensors[key] = rho, rates, first
        return self._tensors[key]


def _fair_step(mu: Array, move: Array, rho: Array, root: Array, fairness: float) -> Array:
    """Return the prices with sum_j rho_j max(-mu_j, 0) <= fairness that are nearest to mu - move.

    In the distance in which the step was made, that of rho mu / root.
    """
    point, weights, root = (torch.as_tensor(values) for values in (mu - move, rho, root))
    stepped = fairness_projection(weights * point / root, fairness, root) * root / weights
    return stepped if isinstance(mu, Tensor) else stepped.numpy()


class DualMirrorDescent(ByPrices):
    """Dual mirror descent; see the module's text.

    Args:
        env: an allocation environment of prefrl, or any whose observations are like theirs, or
            :class:`prefrl.agents.base.Spaces`.
        config: settings.
        allocation: problem, horizon and budgets; None: the environment's.
        reference: a reference function of your own instead of ``config.reference``, as its step
            (mu [..., m], g [..., m], eta) -> mu [..., m]. It gets tensors in the loop, and NumPy arrays from
            ``predict``.
        target_rates: what to consume at each request, [T] or [T, m], instead of rho: for requests that are
            known to come in waves. They should sum to at most the budgets.
        device: torch device, or "auto".
        seed: seeds the environment; the agent draws nothing.

    Raises:
        ValueError: if the environment is no allocation environment, or the settings do not suit it.
    """

    config_class: ClassVar[type[DualMirrorDescentConfig]] = DualMirrorDescentConfig

    def __init__(
        self,
        env: Any,
        config: DualMirrorDescentConfig | None = None,
        *,
        allocation: Allocation | None = None,
        reference: OwnReference | None = None,
        target_rates: ArrayLike | None = None,
        device: torch.device | str = "auto",
        seed: int = 0,
    ) -> None:
        super().__init__(env, config or DualMirrorDescentConfig(), device=device, seed=seed)
        self._reference, self._target_rates = reference, target_rates
        if allocation is not None or not isinstance(env, Spaces):
            self._price(allocation or allocation_of(env))

    @classmethod
    def _rebuilt(cls, env: Any, config: Any, state: Mapping[str, Any], **settings: Any) -> DualMirrorDescent:
        """See :meth:`Agent._rebuilt`: where the environment does not know the allocation, the file does."""
        try:
            allocation = allocation_of(env)
        except ValueError:
            allocation = allocation_from_json(str(state.get("allocation")))
        return cls(env, config, allocation=allocation, **settings)

    def _price(self, allocation: Allocation) -> None:
        rule = MirrorDescentRule(allocation, self.config, self._reference, self._target_rates)
        self._pricing = Pricing(allocation, rule, self.device)

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`Agent.state_dict`."""
        rates = self._target_rates
        return {
            "own_reference": self._reference is not None,
            "target_rates": None if rates is None else np.array(rates, dtype=np.float64),
            **self.pricing.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :meth:`Agent.load_state_dict`.

        Raises:
            ValueError: if it is the state of an agent with another allocation, or with a reference function
                of its own where this agent has none (then make one with it, and give that the state).
        """
        if state["own_reference"] != (self._reference is not None):
            kind = "of its own" if state["own_reference"] else "that is built in"
            has = f"a reference function {kind}"
            raise ValueError(f"the saved agent had {has}; make this one with the same, and load its state")
        rates = state["target_rates"]
        self._target_rates = None if rates is None else torch.as_tensor(rates).numpy()
        known = None if self._pricing is None else self._pricing.allocation
        self._price(known or allocation_from_json(state["allocation"]))
        self.pricing.load_state_dict(state)
