"""Mean-variance investment: reach a wealth on average, with as little variance as possible."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from prefrl.envs.core.backend import Array, Backend
from prefrl.envs.core.checks import check_number
from prefrl.envs.diffusions.checks import check_between

from .checks import Floats
from .dynamics import DiffusionDynamics, Scheme


@dataclass(frozen=True)
class MeanVariancePolicy:
    """Invest a ~ N(-phi1 (x - w), e^{phi2 + phi3 (T - t)}) at time t and wealth x."""

    phi1: float
    phi2: float
    phi3: float
    w: float
    T: float

    def __call__(self, t: Any, x: Array, z: Array) -> Array:
        """Return actions [n, 1] at (t, x [n, 1]) for standard normal z [n, 1]."""
        spread = (self.phi2 + self.phi3 * (self.T - t)) / 2.0
        return -self.phi1 * (x - self.w) + z * math.e**spread

    def entropy(self, t: Any) -> Any:
        """Return the entropy at times t, 1/2 (log(2 pi e) + phi2 + phi3 (T - t))."""
        return 0.5 * (math.log(2.0 * math.pi * math.e) + self.phi2 + self.phi3 * (self.T - t))


@dataclass(frozen=True)
class MeanVarianceOptimum:
    """The best exploratory investment at a temperature; see :meth:`MeanVarianceDynamics.true_optimum`."""

    policy: MeanVariancePolicy
    """Its parameters are phi1, phi2, phi3 and the multiplier w."""
    theta: tuple[float, float, float]
    """Parameters of the cost V = (x - w)^2 e^{-theta3 (T - t)} + theta2 (t^2 - T^2) + theta1 (t - T) - (w -
    z)^2."""
    mean: float
    """E X_T, which is z unless the environment was given another w."""
    variance: float
    """Var X_T, exploration included."""
    exploration_variance: float
    """The part of it that exploration adds, lam T / 2."""


class MeanVarianceDynamics(DiffusionDynamics):
    """Invest so that wealth at the horizon has mean z and little variance.

    ## Description
    Wealth X, discounted at the riskless rate r, of which a is held in a stock with drift mu and volatility
    sigma: `dX = a ((mu - r) dt + sigma dW)`. Minimising Var X_T for E X_T = z is minimising `E (X_T - w)^2 -
    (w - z)^2` for the right multiplier w, which an agent may learn by `w -= alpha (mean X_T - z)`.

    ## Action Space
    `Box(-inf, inf, (1,), float32)`: a, the discounted amount in the stock.

    ## Observation Space
    `Box` of 2 float32, unbounded: time and X.

    ## Rewards
    `-(X_T - w)^2 + (w - z)^2` in the last step, else 0. `info` tells `t`, `dt`, `discount`, `reward_rate` and
    `terminal_reward`.

    ## Starting State
    x0, or uniform within `x0_spread` of it; `options["x"]` of `reset` sets another.

    ## Episode End
    Terminates at T.

    ## Arguments
    `mu` (float, .3), `sigma` (float, .2), `r` (float, .02), `x0` (float, 1), `x0_spread` (float, 0), `z`
    (float, 1.4), `T` (float, 1), `dt` (float, 1/252), which divides T. `w` (float, None): the multiplier;
    None: the one with which the best policy has mean z. `scheme` ("exact", or "euler" with `substeps` per
    dt). `render_mode`: None, "rgb_array" or "human".

    ## Ground truth
    `true_optimum(temperature)`: policy, value, mean and variance of X_T; `true_value(t, x, temperature)`,
    `true_parameters("mean_variance", temperature)`; `simulate(policy, n_paths)` draws paths on a device.

    ## Version History
    - v0: first version.
    """

    exact = True
    span = (0.0, 2.5)
    region = (0.5, 1.5)
    value_families: ClassVar[tuple[str, ...]] = ("mean_variance", "neural")

    def __init__(
        self,
        mu: float = 0.3,
        sigma: float = 0.2,
        r: float = 0.02,
        x0: float | Sequence[float] = 1.0,
        z: float = 1.4,
        T: float = 1.0,
        dt: float = 1.0 / 252.0,
        w: float | None = None,
        *,
        x0_spread: float = 0.0,
        scheme: Scheme | None = None,
        substeps: int = 1,
        backend: Backend | None = None,
    ) -> None:
        super().__init__(1, 1, 1, dt=dt, T=T, beta=0.0, x0=x0, x0_spread=x0_spread, scheme=scheme,
                         substeps=substeps, backend=backend)  # fmt: skip
        for name, value in {"mu": mu, "r": r, "z": z, **({} if w is None else {"w": w})}.items():
            if not math.isfinite(check_number(name, value)):
                raise ValueError(f"{name} is {value!r}; it must be finite")
        self.sigma = check_between("sigma", sigma, 0.0, math.inf)
        self.mu, self.r, self.z = float(mu), float(r), float(z)
        self.rho = (self.mu - self.r) / self.sigma
        if w is None and self.rho == 0.0:
            raise ValueError(f"mu is {mu} and r {r}; where they are equal no multiplier reaches z: give w")
        growth = self.rho**2 * T
        if growth > 500.0:
            raise ValueError(f"((mu - r) / sigma)^2 T is {growth:g}; it must not exceed 500")
        self.w = self._multiplier() if w is None else float(w)

    def _multiplier(self) -> float:
        """Return w = (z e^{rho^2 T} - x0) / (e^{rho^2 T} - 1), with which E X_T = z."""
        assert self.T is not None
        growth = self.rho**2 * self.T
        return (self.z * math.exp(growth) - float(self.x0[0])) / math.expm1(growth)

    def drift(self, t: Any, x: Array, actions: Array) -> Array:
        """See :class:`DiffusionDynamics`."""
        return actions * (self.mu - self.r)

    def diffuse(self, t: Any, x: Array, actions: Array, z: Array) -> Array:
        """See :class:`DiffusionDynamics`."""
        return actions * self.sigma * z

    def terminal_reward(self, x: Array, w: Any = None) -> Array:
        """See :class:`DiffusionDynamics`: -(x - w)^2 + (w - z)^2, for the environment's w or another."""
        w = self.w if w is None else w
        return (w - self.z) ** 2 - (x[..., 0] - w) ** 2

    def true_optimum(self, temperature: float = 0.1) -> MeanVarianceOptimum:
        """Return the best exploratory policy for the environment's w, and what it comes to.

        The policy is N(-(rho / sigma)(x - w), lam / (2 sigma^2) e^{rho^2 (T - t)}) with rho = (mu - r) /
        sigma and lam the temperature (Wang and Zhou 2020, Mathematical Finance 30(4); HJB checked here).

        Args:
            temperature: lam, weight of the policy's entropy, positive.
        """
        assert self.T is not None
        lam = check_between("temperature", temperature, 0.0, math.inf)
        rho, sigma, T, w = self.rho, self.sigma, self.T, self.w
        policy = MeanVariancePolicy(rho / sigma, math.log(lam / (2.0 * sigma**2)), rho**2, w, T)
        theta = (lam / 2.0 * (rho**2 * T - math.log(sigma**2 / (math.pi * lam))), -lam * rho**2 / 4.0, rho**2)
        gap = w - float(self.x0[0])
        # E (w - X_T) = (w - x0) e^{-rho^2 T}, E (w - X_T)^2 = (w - x0)^2 e^{-rho^2 T} + lam T / 2
        mean = w - gap * math.exp(-(rho**2) * T)
        # a start that is uniform within x0_spread adds its own variance to (w - x0)^2
        variance = gap**2 * math.exp(-(rho**2) * T) * -math.expm1(-(rho**2) * T) + lam * T / 2.0
        variance += self.x0_spread**2 / 3.0 * math.exp(-(rho**2) * T)
        return MeanVarianceOptimum(policy, theta, mean, variance, lam * T / 2.0)

    def true_value(self, t: ArrayLike, x: ArrayLike, temperature: float = 0.1) -> Floats:
        """Return J = -V of the best policy, entropy included, in the shape that t and x broadcast to."""
        assert self.T is not None
        theta1, theta2, theta3 = self.true_optimum(temperature).theta
        t = np.asarray(t, dtype=np.float64)
        cost = (
            np.square(np.asarray(x, dtype=np.float64) - self.w) * np.exp(-theta3 * (self.T - t))
            + theta2 * (t**2 - self.T**2)
            + theta1 * (t - self.T)
            - (self.w - self.z) ** 2
        )
        return np.asarray(-cost)

    def true_parameters(
        self, family: str = "mean_variance", temperature: float = 0.1
    ) -> dict[str, float] | None:
        """Return theta1, theta2, theta3 of the best policy's value; None for other families."""
        if family != "mean_variance":
            return None
        theta = self.true_optimum(temperature).theta
        return {f"theta{i + 1}": value for i, value in enumerate(theta)}
