"""An Ornstein-Uhlenbeck process that pays for staying near 0: a value function that is quadratic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from prefrl.envs.core.backend import Array, Backend, Noise, Random
from prefrl.envs.core.checks import check_number
from prefrl.envs.diffusions.checks import check_between, check_discounted

from .checks import Floats
from .dynamics import DiffusionDynamics, Scheme


class OrnsteinUhlenbeckDynamics(DiffusionDynamics):
    """Watch an Ornstein-Uhlenbeck process that pays for staying near 0.

    ## Description
    `dX = -k X dt + sigma dW`, without end. With `beta > 0` its value is `J(x) = c0 + c1 x + c2 x^2`,
    `c2 = -q / (beta + 2k)`, `c1 = 0`, `c0 = c2 sigma^2 / beta`; with `beta = 0` the average reward is
    `V = c2 sigma^2`. In discrete time, with exact transitions, the fixed point of temporal differences is
    `c2 = -q dt / (1 + beta dt - e^{-2k dt})`, off by O(dt).

    ## Action Space
    `Discrete(1)`: watch.

    ## Observation Space
    `Box` of 1 float32, unbounded: X.

    ## Rewards
    `-q X^2 dt`, X at the start of the step. `info` tells `t`, `dt`, `discount`, `reward_rate` and
    `terminal_reward` (0).

    ## Starting State
    The stationary distribution N(0, sigma^2 / 2k); with `x0`, x0 or uniform within `x0_spread` of it;
    `options["x"]` of `reset` sets another.

    ## Episode End
    Never terminates. `gym.make` truncates after 1000 steps.

    ## Arguments
    `k` (float, 1), `sigma` (float, 1), `beta` (float, 1), `q` (float, 1), with `beta > -2k`; `dt` (float,
    .02); `x0` (float, None) and `x0_spread` (float, 0). `scheme` ("exact", or "euler" with `substeps` per
    dt). `render_mode`: None, "rgb_array" or "human".

    ## Ground truth
    `true_value(t, x)`, `true_parameters()`; `simulate(None, n_paths, steps)` draws paths on a device.

    ## Version History
    - v0: first version.
    """

    exact = True
    region = (-2.0, 2.0)
    value_families: ClassVar[tuple[str, ...]] = ("quadratic", "neural")

    def __init__(
        self,
        k: float = 1.0,
        sigma: float = 1.0,
        beta: float = 1.0,
        q: float = 1.0,
        dt: float = 0.02,
        *,
        x0: float | Sequence[float] | None = None,
        x0_spread: float = 0.0,
        scheme: Scheme | None = None,
        substeps: int = 1,
        backend: Backend | None = None,
    ) -> None:
        self.k, self.q = check_number("k", k), check_number("q", q)
        for name, value in (("k", self.k), ("q", self.q)):
            if not math.isfinite(value):
                raise ValueError(f"{name} is {value}; it must be finite")
        self.sigma = check_between("sigma", sigma, 0.0, math.inf)
        self.stationary_start = x0 is None
        super().__init__(1, 0, 1, dt=dt, T=None, beta=beta, x0=0.0 if x0 is None else x0,
                         x0_spread=x0_spread, scheme=scheme, substeps=substeps, backend=backend)  # fmt: skip
        check_discounted(self.beta, -2.0 * self.k, "-2 k")
        if self.stationary_start and self.k <= 0.0:
            raise ValueError(f"k is {k}; without a stationary distribution (k > 0) a start x0 must be given")
        if self.stationary_start and self.x0_spread > 0.0:
            raise ValueError(
                f"x0_spread is {x0_spread}, but starts are drawn from the stationary distribution; give x0"
            )

    def reset_noise(self, rng: Random, n: int) -> Noise:
        """See :meth:`Dynamics.reset_noise`: normal where starts are stationary."""
        return {"start": rng.normal(n, 1)} if self.stationary_start else super().reset_noise(rng, n)

    def start(self, noise: Array) -> Array:
        """See :class:`DiffusionDynamics`: N(0, sigma^2 / 2k) where starts are stationary."""
        if self.stationary_start:
            return noise * (self.sigma / math.sqrt(2.0 * self.k))
        return super().start(noise)

    def drift(self, t: Any, x: Array, actions: Array) -> Array:
        """See :class:`DiffusionDynamics`."""
        return -self.k * x

    def diffuse(self, t: Any, x: Array, actions: Array, z: Array) -> Array:
        """See :class:`DiffusionDynamics`."""
        return self.sigma * z

    def exact_step(self, t: Any, x: Array, actions: Array, z: Array) -> Array:
        """See :class:`DiffusionDynamics`: e^{-k dt} X + noise of variance sigma^2 (1 - e^{-2k dt}) / 2k."""
        return x * math.exp(-self.k * self.dt) + z * (
            self.sigma * math.sqrt(integrated_exp(-2.0 * self.k, self.dt))
        )

    def reward_rate(self, t: Any, x: Array, actions: Array) -> Array:
        """See :class:`DiffusionDynamics`: -q x^2."""
        return -self.q * x[:, 0] ** 2

    def true_parameters(self, family: str = "quadratic") -> dict[str, float] | None:
        """Return c0, c1, c2 of J = c0 + c1 x + c2 x^2; with beta = 0 V, c1 and c2 of J = c1 x + c2 x^2.

        None for a family that has no parameters of its own to compare.
        """
        if family != "quadratic":
            return None
        c2 = -self.q / (self.beta + 2.0 * self.k)
        level = c2 * self.sigma**2
        if self.beta == 0.0:
            return {"V": level, "c1": 0.0, "c2": c2}
        return {"c0": level / self.beta, "c1": 0.0, "c2": c2}

    def true_value(self, t: ArrayLike, x: ArrayLike) -> Floats:
        """Return J(x), whatever the time t, of the shape of t + x; for beta = 0 with J(0) = 0."""
        known = self.true_parameters()
        assert known is not None
        place = np.asarray(x, dtype=np.float64) + 0.0 * np.asarray(t, dtype=np.float64)
        return np.asarray(known.get("c0", 0.0) + known["c2"] * place**2)


def integrated_exp(rate: float, time: float) -> float:
    """Return int_0^time e^{rate s} ds."""
    return math.expm1(rate * time) / rate if rate else time
