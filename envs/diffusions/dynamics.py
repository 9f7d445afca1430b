"""Diffusions as environments: dX = b(t, X, a) dt + sigma(t, X, a) dW, seen and steered every ``dt``.

A step holds the action over [t, t + dt) and pays r(t, X_t, a) dt, the left end of the integral of the reward
rate r. With a finite horizon T the time is part of the observation, and the last step pays h(X_T) as well.
What a diffusion is worth,

    J(t, x) = E[ int_t^T e^{-beta (s - t)} r_s ds + e^{-beta (T - t)} h(X_T) | X_t = x ]

(without the last term for T = infinity; for beta = 0 then the average reward V takes its place), is known in
closed form for the families of prefrl: ``true_value`` and ``true_optimum``. The Gymnasium interface discounts
nothing; ``info["discount"]`` is exp(-beta dt). Setting of Jia and Zhou (2022, JMLR 23(154)).
"""

from __future__ import annotations

import inspect
import json
import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from prefrl.envs.core.backend import Array, Backend, Noise, Random, State
from prefrl.envs.core.checks import check_count, reject_unknown_options
from prefrl.envs.core.dynamics import Dynamics
from prefrl.envs.core.face import registered_dynamics, registered_id

from .checks import Floats, check_between, check_time, check_vector, whole_steps

Scheme = Literal["exact", "euler"]

Policy = Callable[[Any, Array, Array], Array]
"""Actions [n, m] of (t, x [n, d], z [n, m]), z standard normal numbers for what is random in them."""


class DiffusionDynamics(Dynamics):
    """A controlled diffusion as batched dynamics; families give b, sigma, r and h.

    Args:
        dim: d, numbers in the state.
        action_dim: m, numbers in an action; 0 for a diffusion that nobody steers (its only action is 0).
        noise_dim: w, independent Brownian motions.
        dt: time between two steps.
        T: horizon, a whole number of steps; None: none.
        beta: discount rate per unit of time, not negative.
        x0: start, a number for all coordinates, or d of them.
        x0_spread: starts are uniform within this distance of x0, in every coordinate.
        scheme: "exact" transitions, where they are known in closed form, or "euler" (Euler-Maruyama); None:
            exact if possible.
        substeps: steps of Euler's scheme within dt.
        backend: where the arrays live.

    Raises:
        ValueError: for a setting out of range.
    """

    render_fps = 30

    exact: bool = False
    """Whether transitions are known in closed form."""

    region: tuple[float, float] = (-1.0, 1.0)
    """Range of each coordinate over which value functions are compared with the truth."""

    value_families: ClassVar[tuple[str, ...]] = ("neural",)
    """Families of value functions that suit it, the one to take first in front."""

    T: float | None
    dt: float
    beta: float
    _settings: dict[str, Any]

    def __new__(cls, *args: Any, **settings: Any) -> Self:
        """Remember the settings, which make the same diffusion on another backend, or from a file."""
        self = super().__new__(cls)
        names = list(inspect.signature(cls.__init__).parameters)[1:]
        self._settings = {**dict(zip(names, args, strict=False)), **settings}
        self._settings.pop("backend", None)
        return self

    def __init__(
        self,
        dim: int,
        action_dim: int,
        noise_dim: int,
        *,
        dt: float,
        T: float | None,
        beta: float,
        x0: float | Sequence[float],
        x0_spread: float = 0.0,
        scheme: Scheme | None = None,
        substeps: int = 1,
        backend: Backend | None = None,
    ) -> None:
        super().__init__(backend)
        self.dim, self.action_dim, self.noise_dim = dim, action_dim, noise_dim
        self.dt = check_time("dt", dt)
        self.beta = check_between("beta", beta, 0.0, math.inf, closed=True)
        self.T = None if T is None else check_time("T", T)
        self.num_steps = None if self.T is None else whole_steps(self.T, self.dt)
        self.endless = self.T is None
        self.scheme = self._checked_scheme(scheme)
        self.substeps = check_count("substeps", substeps)
        if self.substeps > 1 and self.scheme == "exact":
            raise ValueError(f"substeps is {substeps}, but exact transitions have none; give scheme='euler'")
        self.x0 = check_vector("x0", x0, dim)
        self.x0_spread = check_between("x0_spread", x0_spread, 0.0, math.inf, closed=True)
        self.single_observation_space = gym.spaces.Box(-np.inf, np.inf, (dim + (self.T is not None),))
        self.single_action_space = (
            gym.spaces.Box(-np.inf, np.inf, (action_dim,)) if action_dim else gym.spaces.Discrete(1)
        )

    def _checked_scheme(self, scheme: Any) -> Scheme:
        allowed: tuple[Scheme, ...] = ("exact", "euler") if self.exact else ("euler",)
        if scheme is None:
            return allowed[0]
        if scheme not in allowed:
            known = "" if self.exact else ", since its exact transitions are not known"
            raise ValueError(
                f"scheme is {scheme!r}; {type(self).__name__} allows {', '.join(allowed)}{known}"
            )
        found: Scheme = scheme
        return found

    # The diffusion ---------------------------------------------------------------------------------------

    @abstractmethod
    def drift(self, t: Any, x: Array, actions: Array) -> Array:
        """Return b [n, d] at states x [n, d], actions [n, m] and a time t, one or [n]."""

    @abstractmethod
    def diffuse(self, t: Any, x: Array, actions: Array, z: Array) -> Array:
        """Return sigma z [n, d], the effect of noise z [n, w]."""

    def reward_rate(self, t: Any, x: Array, actions: Array) -> Array:
        """Return r [n], reward per unit of time; by default 0."""
        return self.xp.zeros_like(x[:, 0])

    def terminal_reward(self, x: Array) -> Array:
        """Return h [n] of states x [..., d] at the horizon; by default 0."""
        return x[..., 0] * 0.0

    def exact_step(self, t: Any, x: Array, actions: Array, z: Array) -> Array:
        """Return X_{t + dt} [n, d] given X_t, with standard normal z [n, w], for families with ``exact``.

        By default for b and sigma that depend on the action alone, where Euler's step is exact.
        """
        return self._euler_step(t, x, actions, z, self.dt)

    def _euler_step(self, t: Any, x: Array, actions: Array, z: Array, h: float) -> Array:
        return x + self.drift(t, x, actions) * h + self.diffuse(t, x, actions, z) * math.sqrt(h)

    def advance(self, t: Any, x: Array, actions: Array, z: Array) -> Array:
        """Return X_{t + dt} [n, d] by the scheme, for standard normal z [n, substeps, w]."""
        if self.scheme == "exact":
            return self.exact_step(t, x, actions, z[:, 0])
        h = self.dt / self.substeps
        for i in range(self.substeps):
            x = self._euler_step(t + i * h, x, actions, z[:, i], h)
        return x

    # The faces' world ------------------------------------------------------------------------------------

    def reset_noise(self, rng: Random, n: int) -> Noise:
        """See :meth:`Dynamics.reset_noise`."""
        return {"start": rng.uniform(n, self.dim)}

    def step_noise(self, rng: Random, n: int) -> Noise:
        """See :meth:`Dynamics.step_noise`."""
        return {"z": rng.normal(n, self.substeps, self.noise_dim)}

    def start(self, noise: Array) -> Array:
        """Return X_0 [n, d] from what :meth:`reset_noise` drew."""
        return self.constant(self.x0, noise.dtype) + (2.0 * noise - 1.0) * self.x0_spread

    def constant(self, values: Floats, dtype: Any) -> Array:
        """Return numbers as an array on the device."""
        if values.size > 1:
            return self.backend.asarray(values, dtype=dtype)
        # a single number is made there: copied, it counts as a look at a value under fake tensors
        return self.xp.full(values.shape, float(values.flat[0]), dtype=dtype, device=self.backend.device)

    def initial(self, noise: Noise, options: Mapping[str, Any] | None = None) -> State:
        """Start at x0; ``options["x"]``, d finite numbers, starts all rows there."""
        reject_unknown_options(options, ("x",))
        x = self.start(noise["start"])
        if options:
            x = x * 0.0 + self.constant(check_vector("x", options["x"], self.dim), x.dtype)
        zeros = x[:, 0] * 0.0
        return {
            "x": x,
            "k": self.xp.zeros_like(zeros, dtype=self.xp.int64),
            "reward_rate": zeros,
            "terminal_reward": zeros,
        }

    def observe(self, state: State) -> Array:
        """See :meth:`Dynamics.observe`: with a finite horizon the time, then the state."""
        columns = [state["x"][:, i] for i in range(self.dim)]
        return self.observation(*([] if self.T is None else [self._time(state)]), *columns)

    def _time(self, state: State) -> Array:
        return self.xp.astype(state["k"], state["x"].dtype) * self.dt

    def step(self, state: State, actions: Array, noise: Noise) -> tuple[State, Array, Array]:
        """See :meth:`Dynamics.step`."""
        xp, x = self.xp, state["x"]
        t = self._time(state)[:, None]
        rate = self.reward_rate(t[:, 0], x, actions)
        x = self.advance(t, x, actions, noise["z"])
        k = state["k"] + 1
        rewards = rate * self.dt
        if self.num_steps is None:
            terminated = xp.zeros_like(k, dtype=xp.bool)
            terminal = xp.zeros_like(rate)
        else:
            terminated = k >= self.num_steps
            terminal = xp.where(terminated, self.terminal_reward(x), xp.zeros_like(rate))
            rewards = rewards + terminal
        return {"x": x, "k": k, "reward_rate": rate, "terminal_reward": terminal}, rewards, terminated

    def info(self, state: State) -> dict[str, Array]:
        """See :meth:`Dynamics.info`."""
        t = self._time(state)
        return {
            "t": t,
            "dt": self.xp.full_like(t, self.dt),
            "discount": self.xp.full_like(t, math.exp(-self.beta * self.dt)),
            "reward_rate": state["reward_rate"],
            "terminal_reward": state["terminal_reward"],
        }

    # What it tells ---------------------------------------------------------------------------------------

    @property
    def diffusion(self) -> DiffusionDynamics:
        """This: what a face's ``diffusion`` is."""
        return self

    def diffusion_to_json(self) -> str:
        """Return what :func:`diffusion_from_json` reads; "" for a family of your own."""
        env_id = registered_id(self)
        if env_id is None:
            return ""
        content = {"env_id": env_id, "settings": self._settings}
        return json.dumps(content, default=lambda value: np.asarray(value).tolist())

    def simulate(
        self,
        policy: Policy | None = None,
        n_paths: int = 1,
        steps: int | None = None,
        *,
        x0: Any = None,
        device: Any = "cpu",
        float_dtype: Any = None,
        generator: Any = None,
        seed: int = 0,
    ) -> Paths:
        """Return paths as torch tensors, all advanced together on a device.

        They run until the horizon, and are independent of any face's episodes and generators.

        Args:
            policy: actions [n, m] of (t, x [n, d], z [n, m]), z standard normal; None where nobody steers.
            n_paths: n.
            steps: K, number of steps; None: all until the horizon.
            x0: where paths start, d numbers for all or [n, d]; None: as episodes do.
            device: torch device.
            float_dtype: torch float type; None: float64.
            generator: a ``torch.Generator``, which may live on the host; None: a new one on the device.
            seed: seeds that.

        Raises:
            ValueError: for a policy too many or missing, or a number of steps that does not fit the horizon.
        """
        from prefrl.envs.core.device import simulation

        backend, rng, no_grad = simulation(device, float_dtype, generator, seed)
        dynamics = type(self)(**{**self._settings, "backend": backend})
        if (policy is None) != (dynamics.action_dim == 0):
            there = "is None" if policy is None else "is given"
            raise ValueError(f"policy {there}; this diffusion takes actions of {dynamics.action_dim} numbers")
        limit = dynamics.num_steps
        if steps is None and limit is None:
            raise ValueError("steps is None; without a horizon the number of steps must be given")
        steps = check_count("steps", limit if steps is None else steps)
        if limit is not None and steps > limit:
            raise ValueError(f"steps is {steps}; the horizon is {limit} steps away")
        n_paths = check_count("n_paths", n_paths)
        with no_grad:
            start = dynamics.start(dynamics.reset_noise(rng, n_paths)["start"])
            if x0 is not None:
                given = backend.asarray(x0, dtype=start.dtype)
                if tuple(given.shape) not in ((dynamics.dim,), (n_paths, dynamics.dim)):
                    raise ValueError(f"x0 has shape {tuple(given.shape)}; it must be ({dynamics.dim},) or "
                                     f"({n_paths}, {dynamics.dim})")  # fmt: skip
                if not bool(dynamics.xp.all(dynamics.xp.isfinite(given))):
                    raise ValueError("x0 holds numbers that are not finite")
                start = start * 0.0 + given
            return simulate(dynamics, policy, n_paths, steps, start, rng)

    span: tuple[float, float] = (-3.0, 3.0)
    """What a picture shows of the axes; beyond it, the dot stays at the edge."""

    def draw(self, state: State, index: int, last_action: Any) -> NDArray[np.uint8]:
        """See :meth:`Dynamics.draw`: a dot on its axis, or in the plane; an arrow shows the last action."""
        from prefrl.envs.rendering.scenes import draw_diffusion

        action = None if last_action is None or not self.action_dim else float(last_action[0])
        place = [float(value) for value in state["x"][index][:2]]
        gone = None if self.num_steps is None else int(state["k"][index]) / self.num_steps
        return draw_diffusion(place, self.span, action, gone)


class Paths(NamedTuple):
    """n paths of K steps, time first."""

    t: Array
    """[K + 1] times."""
    x: Array
    """[K + 1, n, d] states."""
    actions: Array
    """[K, n, m] actions, each held over one step; m = 0 where nobody steers."""
    reward_rates: Array
    """[K, n] r(t, x, a) at the start of each step."""
    terminal_rewards: Array
    """[n] h(x) at the end; 0 without a horizon."""


def simulate(
    dynamics: DiffusionDynamics, policy: Policy | None, n_paths: int, steps: int, start: Array, rng: Random
) -> Paths:
    """Return paths of a diffusion from ``start`` [n, d]; see :meth:`DiffusionDynamics.simulate`."""
    xp, backend = dynamics.xp, dynamics.backend
    d, m, w = dynamics.dim, dynamics.action_dim, dynamics.noise_dim
    place: dict[str, Any] = {"dtype": start.dtype, "device": backend.device}
    x = xp.empty((steps + 1, n_paths, d), **place)
    actions = xp.zeros((steps, n_paths, m), **place)
    rates = xp.empty((steps, n_paths), **place)
    x[0] = start
    for k in range(steps):
        t = k * dynamics.dt
        if policy is not None:
            actions[k] = policy(t, x[k], rng.normal(n_paths, m))
        rates[k] = dynamics.reward_rate(t, x[k], actions[k])
        x[k + 1] = dynamics.advance(t, x[k], actions[k], rng.normal(n_paths, dynamics.substeps, w))
    times = xp.arange(steps + 1, **place) * dynamics.dt
    terminal = dynamics.terminal_reward(x[-1]) if dynamics.T is not None else x[-1, :, 0] * 0.0
    return Paths(times, x, actions, rates, terminal)


def diffusion_from_json(text: str) -> DiffusionDynamics:
    """Return the diffusion that :meth:`DiffusionDynamics.diffusion_to_json` described, with NumPy arrays.

    Raises:
        ValueError: if it describes none.
    """
    try:
        content = json.loads(text)
        dynamics = registered_dynamics(content["env_id"])(**content["settings"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{text!r} describes no diffusion: {error}") from error
    if not isinstance(dynamics, DiffusionDynamics):
        raise ValueError(f"{content['env_id']} is no diffusion")
    return dynamics


# Arguments -------------------------------------------------------------------------------------------
