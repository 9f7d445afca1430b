"""A Brownian motion that is paid its square at the end: the simplest value function that moves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from prefrl.envs.core.backend import Array, Backend

from .checks import Floats
from .dynamics import DiffusionDynamics, Scheme


class BrownianSquareDynamics(DiffusionDynamics):
    """Watch a Brownian motion, and be paid its square at the horizon.

    ## Description
    `X_t = x0 + W_t`. Its value `J(t, x) = x^2 + T - t` is what policy evaluation must find; with the family
    `J = x^2 + theta (T - t)^2`, which does not hold it, every method of evaluation has a limit of its own,
    and with `J = x^2 + (T - t) + theta (T - t) x`, which does (theta = 0), minimising the mean squared
    temporal difference goes to theta = -3 x0 / T.

    ## Action Space
    `Discrete(1)`: watch.

    ## Observation Space
    `Box` of 2 float32, unbounded: time and X.

    ## Rewards
    `X_T^2` in the last step, else 0. `info` tells `t`, `dt`, `discount`, `reward_rate` and `terminal_reward`.

    ## Starting State
    x0, or uniform within `x0_spread` of it; `options["x"]` of `reset` sets another.

    ## Episode End
    Terminates at T.

    ## Arguments
    `x0` (float, 0), `x0_spread` (float, 0), `T` (float, 1), `dt` (float, .01), which divides T. `scheme`
    ("exact", or "euler" with `substeps` per dt). `render_mode`: None, "rgb_array" or "human".

    ## Ground truth
    `true_value(t, x)`; `simulate(None, n_paths)` draws paths on a device.

    ## Version History
    - v0: first version.
    """

    exact = True
    region = (-2.0, 2.0)
    value_families: ClassVar[tuple[str, ...]] = ("tau_squared", "tau_x", "neural")

    def __init__(
        self,
        x0: float | Sequence[float] = 0.0,
        T: float = 1.0,
        dt: float = 0.01,
        *,
        x0_spread: float = 0.0,
        scheme: Scheme | None = None,
        substeps: int = 1,
        backend: Backend | None = None,
    ) -> None:
        super().__init__(1, 0, 1, dt=dt, T=T, beta=0.0, x0=x0, x0_spread=x0_spread, scheme=scheme,
                         substeps=substeps, backend=backend)  # fmt: skip

    def drift(self, t: Any, x: Array, actions: Array) -> Array:
        """See :class:`DiffusionDynamics`: none."""
        return x * 0.0

    def diffuse(self, t: Any, x: Array, actions: Array, z: Array) -> Array:
        """See :class:`DiffusionDynamics`: 1."""
        return z

    def terminal_reward(self, x: Array) -> Array:
        """See :class:`DiffusionDynamics`: x^2."""
        return x[..., 0] ** 2

    def true_value(self, t: ArrayLike, x: ArrayLike) -> Floats:
        """Return J(t, x) = x^2 + T - t, in the shape that t and x broadcast to."""
        assert self.T is not None
        return np.asarray(np.square(x) + (self.T - np.asarray(t, dtype=np.float64)))

    def true_parameters(self, family: str = "tau_x") -> dict[str, float] | None:
        """Return theta of a family of value functions that holds J ("tau_x": 0); None if it does not."""
        return {"theta": 0.0} if family == "tau_x" else None
