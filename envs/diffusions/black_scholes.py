"""A stock that pays what a call option does: its value is the formula of Black and Scholes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from prefrl.envs.core.backend import Array, Backend, Noise, State
from prefrl.envs.diffusions.checks import check_between, check_vector

from .checks import Floats
from .dynamics import DiffusionDynamics, Scheme

_normal_cdf = np.vectorize(lambda z: 0.5 * math.erfc(-z / math.sqrt(2.0)), otypes=[np.float64])


class BlackScholesCallDynamics(DiffusionDynamics):
    """Watch a stock, and be paid what a call option pays at its expiry.

    ## Description
    `dS = b S dt + s0 S dW`, with discount rate `beta = b`: the market's own measure, under which the value of
    `max(S_T - K, 0)` is the option's price by the formula of Black and Scholes.

    ## Action Space
    `Discrete(1)`: watch.

    ## Observation Space
    `Box` of 2 float32, unbounded: time and S.

    ## Rewards
    `max(S_T - K, 0)` in the last step, else 0. `info` tells `t`, `dt`, `discount`, `reward_rate` and
    `terminal_reward`.

    ## Starting State
    S0, or uniform within `x0_spread` of it; `options["x"]` of `reset` sets another.

    ## Episode End
    Terminates at T.

    ## Arguments
    `b` (float, .05), not negative; `s0` (float, .2) and `K` (float, 1), positive; `S0` (float, 1), positive,
    and `x0_spread` (float, 0); `T` (float, 1), `dt` (float, .02), which divides T. `scheme` ("exact", or
    "euler" with `substeps` per dt). `render_mode`: None, "rgb_array" or "human".

    ## Ground truth
    `true_value(t, x)`, `true_parameters()`; `simulate(None, n_paths)` draws paths on a device.

    ## Version History
    - v0: first version.
    """

    exact = True
    span = (0.0, 2.0)
    region = (0.5, 1.5)
    value_families: ClassVar[tuple[str, ...]] = ("implied_volatility", "neural")

    def __init__(
        self,
        b: float = 0.05,
        s0: float = 0.2,
        K: float = 1.0,
        T: float = 1.0,
        dt: float = 0.02,
        *,
        S0: float = 1.0,
        x0_spread: float = 0.0,
        scheme: Scheme | None = None,
        substeps: int = 1,
        backend: Backend | None = None,
    ) -> None:
        self.b = check_between("b", b, 0.0, math.inf, closed=True)
        self.s0 = check_between("s0", s0, 0.0, math.inf)
        self.K = check_between("K", K, 0.0, math.inf)
        super().__init__(1, 0, 1, dt=dt, T=T, beta=self.b, x0=S0, x0_spread=x0_spread, scheme=scheme,
                         substeps=substeps, backend=backend)  # fmt: skip
        if not self.x0_spread < self.x0[0]:
            raise ValueError(f"S0 is {S0} and x0_spread {x0_spread}; a stock starts above 0")

    def initial(self, noise: Noise, options: Mapping[str, Any] | None = None) -> State:
        """See :class:`DiffusionDynamics`: ``options["x"]`` must be positive."""
        if options and "x" in options and not (check_vector("x", options["x"], 1) > 0.0).all():
            raise ValueError(f"x is {options['x']!r}; a stock starts above 0")
        return super().initial(noise, options)

    def drift(self, t: Any, x: Array, actions: Array) -> Array:
        """See :class:`DiffusionDynamics`."""
        return self.b * x

    def diffuse(self, t: Any, x: Array, actions: Array, z: Array) -> Array:
        """See :class:`DiffusionDynamics`."""
        return self.s0 * x * z

    def exact_step(self, t: Any, x: Array, actions: Array, z: Array) -> Array:
        """See :class:`DiffusionDynamics`: geometric Brownian motion."""
        growth = (self.b - self.s0**2 / 2.0) * self.dt
        return x * self.xp.exp(growth + self.s0 * math.sqrt(self.dt) * z)

    def terminal_reward(self, x: Array) -> Array:
        """See :class:`DiffusionDynamics`: max(x - K, 0)."""
        return (x[..., 0] - self.K).clip(min=0.0)

    def true_value(self, t: ArrayLike, x: ArrayLike) -> Floats:
        """Return the price of the call at time t and stock price x > 0, in the shape that they broadcast to.

        S N(d1) - K e^{-b (T - t)} N(d2), with d1, d2 = (log(S / K) + (b +- s0^2 / 2)(T - t)) / (s0 sqrt(T -
        t)) (Black and Scholes 1973, Journal of Political Economy 81(3)).
        """
        assert self.T is not None
        s, tau = np.broadcast_arrays(
            np.asarray(x, dtype=np.float64), self.T - np.asarray(t, dtype=np.float64)
        )
        if not (s > 0.0).all():
            raise ValueError(f"x is {x!r}; a stock's price is above 0")
        ahead = np.maximum(tau, 1e-300)
        spread = self.s0 * np.sqrt(ahead)
        d1 = (np.log(s / self.K) + (self.b + self.s0**2 / 2.0) * ahead) / spread
        price = s * _normal_cdf(d1) - self.K * np.exp(-self.b * ahead) * _normal_cdf(d1 - spread)
        return np.asarray(np.where(tau <= 0.0, np.maximum(s - self.K, 0.0), price))

    def true_parameters(self, family: str = "implied_volatility") -> dict[str, float] | None:
        """Return the volatility theta that the option's price implies: s0; None for other families."""
        return {"theta": self.s0} if family == "implied_volatility" else None
