"""Linear-quadratic control of diffusions, in one dimension or several, discounted or on average."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike
from typing_extensions import TypedDict, Unpack

from prefrl.envs.core.backend import Array, Backend
from prefrl.envs.diffusions.checks import check_array, check_between

from .checks import Floats
from .dynamics import DiffusionDynamics, Scheme
from .ornstein_uhlenbeck import integrated_exp
from .riccati import LinearPolicy, LinearQuadratic, LinearQuadraticOptimum

Numbers = float | Sequence[Any]
"""A number, or nested lists of them."""


class DiffusionArgs(TypedDict, total=False):
    """Arguments that every diffusion takes."""

    x0_spread: float
    scheme: Scheme | None
    substeps: int
    backend: Backend | None


class LinearQuadraticDynamics(DiffusionDynamics):
    """Linear-quadratic control with any coefficients; see :class:`LQDiscountedDynamics`."""

    region = (-1.0, 1.0)
    value_families: ClassVar[tuple[str, ...]] = ("quadratic", "neural")

    def __init__(
        self,
        A: Numbers = -1.0,
        B: Numbers = 0.0,
        C: Numbers = 0.0,
        D: Numbers = 1.0,
        M: Numbers = 2.0,
        N: Numbers = 2.0,
        Q: Numbers = 2.0,
        R: Numbers = 1.0,
        P: Numbers = 1.0,
        beta: float = 1.0,
        dt: float = 0.05,
        sigma: Numbers = 0.0,
        x0: float | Sequence[float] = 0.0,
        **settings: Unpack[DiffusionArgs],
    ) -> None:
        given = {"A": A, "B": B, "C": C, "D": D, "s": sigma, "M": M, "N": N, "R": R, "P": P, "Q": Q}
        beta = check_between("beta", beta, 0.0, math.inf, closed=True)
        self.problem = problem = coefficients(given, beta)
        problem.stable_feedback()  # or no policy has a finite value
        d, m = problem.B.shape
        # Without noise in proportion to it, a single coordinate moves as an Ornstein-Uhlenbeck process.
        self.exact = d == 1 and not problem.C.any()
        super().__init__(d, m, len(problem.s), dt=dt, T=None, beta=beta, x0=x0, **settings)
        dtype = self.backend.float_dtype
        # Constants in the order in which rows [n, d] multiply them.
        self._A, self._B = self.constant(problem.A.T, dtype), self.constant(problem.B.T, dtype)
        self._C = self.constant(problem.C.transpose(2, 0, 1).reshape(d, -1), dtype)  # [d, w d]
        self._D = self.constant(problem.D.transpose(2, 0, 1).reshape(m, -1), dtype)  # [m, w d]
        self._s = self.constant(problem.s.reshape(-1), dtype)
        # The reward rate as one quadratic in y = (x, a): -(y'G y + g'y).
        whole = np.block([[problem.M, problem.R.T], [problem.R, problem.N]]) / 2.0
        self._G, self._g = (
            self.constant(whole, dtype),
            self.constant(np.concatenate([problem.P, problem.Q]), dtype),
        )
        self._multiplied_noise = bool(problem.C.any())

    def drift(self, t: Any, x: Array, actions: Array) -> Array:
        """See :class:`DiffusionDynamics`: A x + B a."""
        return x @ self._A + actions @ self._B

    def diffuse(self, t: Any, x: Array, actions: Array, z: Array) -> Array:
        """See :class:`DiffusionDynamics`: sum_j (C_j x + D_j a + sigma_j) z_j."""
        volatility = actions @ self._D + self._s
        if self._multiplied_noise:
            volatility = volatility + x @ self._C
        if self.noise_dim == 1:
            return volatility * z
        by_noise = self.xp.reshape(volatility, (len(x), self.noise_dim, self.dim))
        return self.xp.sum(by_noise * z[:, :, None], axis=1)

    def exact_step(self, t: Any, x: Array, actions: Array, z: Array) -> Array:
        """See :class:`DiffusionDynamics`: for d = 1 and C = 0, an Ornstein-Uhlenbeck process of rate A."""
        rate = float(self.problem.A[0, 0])
        pushed = actions @ self._B * integrated_exp(rate, self.dt)
        spread = math.sqrt(integrated_exp(2.0 * rate, self.dt))
        return x * math.exp(rate * self.dt) + pushed + self.diffuse(t, x, actions, z) * spread

    def reward_rate(self, t: Any, x: Array, actions: Array) -> Array:
        """See :class:`DiffusionDynamics`: -(1/2 x'Mx + a'Rx + 1/2 a'Na + P'x + Q'a)."""
        y = self.xp.concat([x, actions], axis=1)
        return -self.xp.sum((y @ self._G + self._g) * y, axis=1)

    def true_optimum(self, temperature: float = 0.1) -> LinearQuadraticOptimum:
        """Return the best policy with entropy at a temperature (0: the best policy), and its value.

        Raises:
            ValueError: if there is none: the Riccati equation has no stabilising root, or N - D'k2 D is not
                positive definite.
        """
        return self.problem.optimum(check_between("temperature", temperature, 0.0, math.inf, closed=True))

    def true_value(
        self, t: ArrayLike, x: ArrayLike, policy: LinearPolicy | None = None, temperature: float = 0.1
    ) -> Floats:
        """Return J(x) of a linear policy, whatever the time t; None: of the best one.

        Args:
            t: time; it plays no part.
            x: states [..., d], or [...] where d = 1.
            policy: a :class:`~prefrl.envs.diffusions.riccati.LinearPolicy`.
            temperature: weight of the policy's entropy.

        Raises:
            ValueError: if the value is infinite: beta is too small for the policy.
        """
        value = self.problem.value(policy, temperature) if policy else self.true_optimum(temperature).value
        places = np.asarray(x, dtype=np.float64)
        if self.dim == 1 and (places.ndim == 0 or places.shape[-1] != 1):
            places = places[..., None]
        return value(places) + 0.0 * np.asarray(t, dtype=np.float64)

    def true_parameters(
        self, family: str = "quadratic", policy: LinearPolicy | None = None, temperature: float = 0.1
    ) -> dict[str, Any] | None:
        """Return k0, k1, k2 of J = 1/2 x'k2 x + k1'x + k0 (beta = 0: V, k1, k2); None for other families.

        Numbers for d = 1, else lists.
        """
        if family != "quadratic":
            return None
        value = self.problem.value(policy, temperature) if policy else self.true_optimum(temperature).value
        single = self.dim == 1
        level = {"k0": value.k0} if value.V is None else {"V": value.V}
        return {
            **level,
            "k1": float(value.k1[0]) if single else value.k1.tolist(),
            "k2": float(value.k2[0, 0]) if single else value.k2.tolist(),
        }


class LQDiscountedDynamics(LinearQuadraticDynamics):
    """Steer a linear diffusion at quadratic cost, discounted.

    ## Description
    `dX = (A X + B a) dt + (C X + D a + sigma) dW`, and the reward rate
    `-(1/2 M x^2 + R x a + 1/2 N a^2 + P x + Q a)`, discounted at rate beta. With the defaults the action does
    nothing but shake the state. The best policy with entropy is N(f1 x + f2, v), its value quadratic.
    Coefficients may also be matrices: A, M [d, d], B [d, m], C [w, d, d], D [w, d, m], sigma [w, d] for w
    Brownian motions (without the first axis for one), N [m, m], R [m, d], P [d], Q [m].

    ## Action Space
    `Box(-inf, inf, (m,), float32)`.

    ## Observation Space
    `Box` of d float32, unbounded: X.

    ## Rewards
    The reward rate at the start of the step times `dt`. `info` tells `t`, `dt`, `discount`, `reward_rate` and
    `terminal_reward` (0).

    ## Starting State
    `x0`, or uniform within `x0_spread` of it; `options["x"]` of `reset` sets another.

    ## Episode End
    Never terminates. `gym.make` truncates after 1000 steps.

    ## Arguments
    `A` (-1), `B` (0), `C` (0), `D` (1), `M` (2), `N` (2), `Q` (2), `R` (1), `P` (1), `sigma` (0): numbers or
    nested lists. `beta` (float, 1), positive; `dt` (float, .05); `x0` (float, 0) and `x0_spread` (float, 0).
    `scheme`: "exact" (the default for d = 1 and C = 0, where it is known), or "euler" with `substeps` per dt.
    `render_mode`: None, "rgb_array" or "human".

    ## Ground truth
    `true_optimum(temperature)`, `true_value(t, x, policy, temperature)`, `true_parameters("quadratic",
    policy, temperature)`, for any coefficients with a finite value; `simulate(policy, n_paths, steps)`.

    ## Version History
    - v0: first version.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        if self.beta == 0.0:
            raise ValueError("beta is 0; for average rewards take prefrl/LQErgodic-v0")


class LQErgodicDynamics(LinearQuadraticDynamics):
    """Steer a linear diffusion at quadratic cost, on average over time.

    ## Description
    The world of `prefrl/LQDiscounted-v0` with `beta = 0`: what counts is the average reward V, and J is the
    value relative to it.

    ## Action Space
    `Box(-inf, inf, (m,), float32)`.

    ## Observation Space
    `Box` of d float32, unbounded: X.

    ## Rewards
    The reward rate at the start of the step times `dt`; `info` as in `prefrl/LQDiscounted-v0`.

    ## Starting State
    `x0`, or uniform within `x0_spread` of it; `options["x"]` of `reset` sets another.

    ## Episode End
    Never terminates. `gym.make` truncates after 1000 steps.

    ## Arguments
    Those of `prefrl/LQDiscounted-v0`, with `beta` 0.

    ## Ground truth
    As in `prefrl/LQDiscounted-v0`; `true_optimum(temperature)` also has the average rewards.

    ## Version History
    - v0: first version.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"beta": 0.0, **settings})
        if self.beta > 0.0:
            raise ValueError(f"beta is {self.beta:g}; for discounted rewards take prefrl/LQDiscounted-v0")


PLANE: dict[str, Any] = {
    "A": [[0.0, 1.0], [-1.0, -1.0]],
    "B": [[0.0], [1.0]],
    "C": 0.0,
    "D": [[[0.0], [0.3]], [[0.0], [0.0]]],
    "sigma": [[0.0, 0.0], [0.0, 0.5]],
    "M": [[2.0, 0.0], [0.0, 1.0]],
    "N": 1.0,
    "Q": 0.0,
    "R": 0.0,
    "P": [1.0, 0.0],
}
"""A damped spring, pushed by a noisy force."""


class LQPlaneDynamics(LinearQuadraticDynamics):
    """Steer a damped spring with a noisy force: linear-quadratic control in two dimensions.

    ## Description
    Position and velocity of a spring, `dx = v dt`, `dv = (-x - v + a) dt + .3 a dW_1 + .5 dW_2`, and the
    reward rate `-(x^2 + v^2 / 2 + a^2 / 2 + x)`. The world of `prefrl/LQDiscounted-v0` with other defaults.

    ## Action Space
    `Box(-inf, inf, (m,), float32)`, m = 1 by default.

    ## Observation Space
    `Box` of d = 2 float32, unbounded: position and velocity.

    ## Rewards
    The reward rate at the start of the step times `dt`; `info` as in `prefrl/LQDiscounted-v0`.

    ## Starting State
    `x0`, or uniform within `x0_spread` of it; `options["x"]` of `reset` sets another.

    ## Episode End
    Never terminates. `gym.make` truncates after 1000 steps.

    ## Arguments
    Those of `prefrl/LQDiscounted-v0`; `beta` may be 0, for average rewards. Exact transitions are not known:
    Euler's scheme.

    ## Ground truth
    As in `prefrl/LQDiscounted-v0`.

    ## Version History
    - v0: first version.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{**PLANE, **settings})


def coefficients(given: dict[str, Any], beta: float) -> LinearQuadratic:
    """Return coefficients as arrays of the shapes of :class:`LinearQuadratic`.

    A number stands for a matrix [1, 1], or where more is expected for that multiple of the identity (A, C, M,
    N) or for that number in all entries (P, Q, R, sigma); C, D and sigma may leave out their first axis where
    there is one noise.

    Raises:
        ValueError: naming the one that does not fit.
    """
    arrays = {name: check_array("sigma" if name == "s" else name, value) for name, value in given.items()}
    d = len(arrays["A"]) if arrays["A"].ndim == 2 else max((len(arrays["B"]) if arrays["B"].ndim else 1), 1)
    m = arrays["B"].shape[1] if arrays["B"].ndim == 2 else 1
    w = 1
    for name, plain in (("C", 2), ("D", 2), ("s", 1)):
        if arrays[name].ndim == plain + 1:
            w = max(w, len(arrays[name]))
    shapes = {"A": (d, d), "B": (d, m), "C": (w, d, d), "D": (w, d, m), "s": (w, d), "M": (d, d), "N": (m, m),
              "R": (m, d), "P": (d,), "Q": (m,)}  # fmt: skip
    fitted = {}
    for name, shape in shapes.items():
        array = arrays[name]
        if array.ndim == 0:
            array = np.broadcast_to(
                array * np.eye(shape[-1]) if name in ("A", "C", "M", "N") else array, shape
            )
        elif w == 1 and name in ("C", "D", "s") and array.shape == shape[1:]:
            array = array[None]
        if array.shape != shape:
            symbol = "sigma" if name == "s" else name
            problem = f"with {d} states, {m} actions and {w} noises it must be {shape}"
            raise ValueError(f"{symbol} has shape {array.shape}; {problem}")
        fitted[name] = np.array(array)
    for name in ("M", "N"):
        if not np.array_equal(fitted[name], fitted[name].T):
            raise ValueError(f"{name} is {fitted[name].tolist()}; it must be symmetric")
    return LinearQuadratic(**fitted, beta=beta)
