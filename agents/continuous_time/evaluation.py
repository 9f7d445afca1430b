"""Policy evaluation in continuous time by martingales (Jia and Zhou 2022, JMLR 23(154):1-55).

A diffusion runs under a fixed policy, and J^theta is to become its value. Along a path, the temporal
difference

    delta_k = J(t_{k+1}, X_{k+1}) - J(t_k, X_k) + (r_k - beta J(t_k, X_k)) dt

is the increment of a martingale iff J is right (average rewards: r - V instead of the discount). The
objectives differ in what they make of it:

- martingale_loss: 1/2 E int (M_T - M_t)^2 dt, the regression on what a path earns, from whole paths;
- ctd: E sum xi delta = 0 for xi = dJ/dtheta (lam = 0) or its trace, xi_k = lam^dt xi_{k-1} + dJ_k dt;
- clstd: the same for a J linear in theta, solved from moments;
- cgtd: 1/2 |E sum xi delta|^2 in the norm of xi, by GTD2 or TDC;
- mstde: 1/2 E sum delta^2 / dt, the mean squared TD error, kept for comparison, since as dt -> 0 it makes J
  smooth, not right; solved by least squares where J is linear in theta.

Parameters move by alpha times the sum of these over time, so that step sizes are per unit of time and halving
dt keeps the result: after every step (online), or after every episode (offline). The gradient of the
martingale loss too is gathered step by step, as CTD(1) on discounted increments, which is the same thing.

A timestep is one step of one row; all rows run under the policy and learn one theta together.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from prefrl.agents.base import Agent, Spaces
from prefrl.agents.continuous_time.ascent import (
    Ascent,
    Pace,
    Scale,
    holding,
    pauses,
    step_factor,
)
from prefrl.config import NonNegative, Positive, Settings, Share, Sizes, Time
from prefrl.data import Transitions
from prefrl.data.devices import make_generator, restore_generator, tensor_on
from prefrl.envs.diffusions.dynamics import Policy
from prefrl.envs.diffusions.mean_variance import MeanVariancePolicy
from prefrl.envs.diffusions.riccati import LinearPolicy
from prefrl.functional.continuous_time.martingale import LinearSystem, gtd2_step, tdc_step, trace_step
from prefrl.nn.value_families import ValueFamily

from .task import (
    DTYPE,
    METRICS_EVERY,
    Decay,
    default_value,
    make_value,
    plain,
    scalars,
    split_rewards,
    task_of,
)

Objective = Literal["martingale_loss", "ctd", "clstd", "cgtd", "mstde"]
"""What theta is to do; see the module's text."""

Value = Literal["auto", "tau_squared", "tau_x", "quadratic", "mean_variance", "implied_volatility", "neural"]
"""Families of value functions; see ``prefrl.nn.value_families``."""


DEFAULT_RATE, DEFAULT_ADAM_RATE, DEFAULT_RIDGE = 0.25, 0.03, 1e-8

OWN_SETTINGS = {
    "correction": ("cgtd",),
    "loss_weight": ("martingale_loss",),
    "ridge": ("clstd", "mstde"),
    "learning_rate": ("martingale_loss", "ctd", "cgtd", "mstde"),
}
"""Settings that only some objectives have."""


@dataclass(frozen=True)
class MartingaleConfig(Settings):
    """Settings of :class:`MartingaleEvaluation`."""

    objective: Objective = "ctd"
    """martingale_loss, ctd, clstd, cgtd, or the wrong one, mstde."""

    lam: Share = 0.0
    """lambda of the test process, per unit of time, in [0, 1]; ctd, clstd and cgtd only."""

    value: Value = "auto"
    """Family of value functions; auto: the first of the environment's."""

    hidden: Sizes = (32, 32)
    """Sizes of the hidden layers of a neural value function, tanh."""

    mode: Literal["auto", "online", "offline"] = "auto"
    """Learn after every step, or after every episode; auto: offline with a horizon or martingale_loss."""

    path_time: Time | None = None
    """Length of what counts as an episode offline, in units of time, where there is no horizon."""

    learning_rate: Positive | None = None
    """Step size per unit of time; None: 0.25 over the mean of |xi dJ/dtheta|, parameter by parameter, and for
    neural value functions 0.03 of Adam."""

    decay: Decay = "power"
    """How step sizes fall with time t: constant, log (1 / max(1, log t)), power ((1 + t / decay_time)^-p)."""

    decay_time: Time = 50.0
    """Time after which a power decay sets in."""

    decay_power: Positive = 0.6
    """Exponent p of a power decay."""

    averaging: NonNegative | None = 3.0
    """Weight eta of late parameters in their average, which is what is reported (see Ascent); None: none."""

    temperature: NonNegative | None = None
    """Weight gamma of the policy's entropy in the reward rate; None: 0.1 where it has one, as in the
    papers."""

    average_reward_rate: NonNegative = 1.0
    """Step size of the average reward V, per unit of time and relative to learning_rate."""

    loss_weight: Share | None = None
    """martingale_loss with a discount: 1 (None) compares values as seen from time 0, 0 as seen from t."""

    correction: Literal["gtd2", "tdc"] | None = None
    """Kind of cgtd; None: gtd2."""

    auxiliary_rate: Positive = 2.0
    """Step size of cgtd's auxiliary weights, relative to learning_rate."""

    ridge: NonNegative | None = None
    """Share of the mean diagonal that is added to the matrix where parameters are solved for; None: 1e-8."""

    dt: Time | None = None
    """Time between two steps; None: the environment's."""

    beta: NonNegative | None = None
    """Discount rate per unit of time; None: the environment's."""

    def check(self) -> None:
        """Refuse settings that the objective does not have."""
        for name, of in OWN_SETTINGS.items():
            if getattr(self, name) is not None and self.objective not in of:
                raise ValueError(f"{name} is {getattr(self, name)}, but only {' and '.join(of)} have it")
        if self.lam > 0.0 and self.objective in ("martingale_loss", "mstde"):
            raise ValueError(f"lam is {self.lam}; {self.objective} has no test process to choose")
        if self.objective == "martingale_loss" and self.mode == "online":
            raise ValueError("mode is 'online'; martingale_loss compares with the end of a path: offline")


class MartingaleEvaluation(Agent):
    """Policy evaluation by martingales; see the module's text.

    Args:
        env: a diffusion of prefrl, or another environment with ``config.dt`` and ``config.beta``.
        config: settings.
        policy: what is evaluated: actions [n, m] of (t, x [n, d], z [n, m]), z standard normal; None where
            nobody steers. With a temperature it must have an ``entropy(t)``.
        value: value functions of your own (``prefrl.nn.value_families``), in place of ``config.value``; an
            agent with such is not read by :meth:`load`, but made anew and given its ``state_dict``.
        device: torch device, or "auto".
        seed: seeds the policy's noise and a network's first weights.

    Raises:
        ValueError: if the settings do not suit the environment, or a policy is missing or too many.
    """

    config_class: ClassVar[type[MartingaleConfig]] = MartingaleConfig
    advice = "a lower learning_rate or more environments may help"

    def __init__(
        self,
        env: Any,
        config: MartingaleConfig | None = None,
        policy: Policy | None = None,
        *,
        value: ValueFamily | None = None,
        device: torch.device | str = "auto",
        seed: int = 0,
    ) -> None:
        super().__init__(env, config or MartingaleConfig(), device=device, seed=seed)
        if isinstance(env, Spaces):
            raise ValueError(
                "env is missing; what is evaluated belongs to an environment: load(path, env=...)"
            )
        self.policy = policy
        given = self.config.temperature
        self.temperature = (0.1 if hasattr(policy, "entropy") else 0.0) if given is None else given
        self.task = task = task_of(self, self.config.dt, self.config.beta)
        self.info_keys = task.info_keys
        self._generator = make_generator(self.device, seed)
        w = torch.full((), float(getattr(task.diffusion, "w", 0.0)), dtype=DTYPE, device=self.device)
        name = default_value(task) if self.config.value == "auto" else self.config.value
        if value is not None:
            name = type(value).__name__
        self.value = value or make_value(name, task, self.config.hidden, w, self._generator, self.device)
        self._check_suits(name)
        config = self.config
        ml = config.objective == "martingale_loss"
        offline = config.mode == "offline" or (config.mode == "auto" and (ml or task.T is not None))
        mode = "offline" if offline else "online"
        self.pace = Pace(task, mode=mode, path_time=config.path_time, lam=config.lam, pauses=pauses(env))
        neural = name == "neural"
        self.ascent = Ascent(self.value.theta, adam=neural, averaging=config.averaging)
        self.learning_rate = config.learning_rate or (DEFAULT_ADAM_RATE if neural else DEFAULT_RATE)
        window = round(max(50.0, 20.0 * self.pace.interval) / task.dt)
        self._scale = (
            None
            if neural or config.learning_rate
            else Scale(self.value.theta, window, warm=round(1.0 / task.dt))
        )
        self.average_reward = torch.zeros(1, dtype=DTYPE, device=self.device)
        self._average = Ascent(self.average_reward, adam=False, averaging=self.config.averaging)
        P, self._rows = len(self.value.theta), int(getattr(env, "num_envs", 1))
        size = P + task.ergodic if self._solves else 0
        zeros: dict[str, Any] = {"dtype": DTYPE, "device": self.device}
        self._trace = torch.zeros(self._rows, P, **zeros)
        self._age = torch.zeros(self._rows, **zeros)
        """[n] time since the start of each row's path."""
        self._direction = torch.zeros(P, **zeros)
        self._average_direction = torch.zeros(1, **zeros)
        self._u = torch.zeros(P, **zeros)
        self._moments = LinearSystem(torch.zeros(size, size, **zeros), torch.zeros(size, **zeros))
        # CTD(0) needs no row's gradient by itself, and those of a network are many numbers.
        self._sums_up = name == "neural" and self.config.objective == "ctd" and self.config.lam == 0.0
        self._none = torch.zeros(self._rows, 0, **zeros)
        self._transitions: Transitions | None = None

    def _check_suits(self, name: str) -> None:
        config, task = self.config, self.task
        if (self.policy is None) != (task.action_dim == 0):
            problem = "policy is None, but" if self.policy is None else "policy is given, but"
            raise ValueError(f"{problem} the environment's actions have {task.action_dim} numbers")
        if config.temperature and not hasattr(self.policy, "entropy"):
            raise ValueError(f"temperature is {config.temperature}, but the policy has no entropy(t)")
        if config.objective in ("clstd", "cgtd") and not self.value.linear:
            raise ValueError(f"value is {name!r}; {config.objective} needs a family that is linear in theta")
        if config.objective == "martingale_loss" and task.ergodic:
            raise ValueError("martingale_loss needs a horizon or a discount: average rewards have no end to "
                             "compare with; take ctd or clstd")  # fmt: skip

    def act(self, obs: Tensor, *, deterministic: bool = False) -> Tensor:
        """Return the evaluated policy's actions [n, m] at observations; zeros where nobody steers."""
        if self.policy is None:
            return torch.zeros(len(obs), dtype=torch.int64, device=obs.device)
        t, x = self.task.split(obs)
        shape = (len(obs), self.task.action_dim)
        generator = self._generator
        z = torch.zeros(shape, dtype=DTYPE, device=self.device)
        if not deterministic:
            z = torch.randn(shape, generator=generator, device=generator.device, dtype=DTYPE).to(self.device)
        return self.policy(t[:, None], x, z)  # type: ignore[no-any-return]

    def observe(self, transitions: Transitions) -> None:
        """Take in one step of the environments; :meth:`update` learns from it."""
        self._transitions = transitions

    def restarted(self) -> None:
        """See :meth:`Agent.restarted`: what was gathered along the old paths is dropped."""
        for part in (self._trace, self._age, self._direction, self._average_direction):
            part.zero_()
        self.pace.phase = 0

    @torch.no_grad()
    def update(self) -> dict[str, Tensor]:
        """Learn from the last observed step, once; see :meth:`Agent.update`."""
        step, self._transitions = self._transitions, None
        if step is None:
            return {}
        config, dt = self.config, self.task.dt
        seen = self._seen(step)
        self._learn(seen)
        if self.task.ergodic:
            self._average_direction += seen.delta.sum() / seen.rows
        rate = self.learning_rate * step_factor(config, self.pace.time)
        due = self.pace.tick()
        if due:
            self._apply(rate)
        if config.lam > 0.0 or config.objective == "martingale_loss":
            # without a horizon an offline path ends where its gradient is applied
            ended = step.terminations | step.truncations | ~step.mask
            alive = torch.zeros_like(seen.delta) if due and self.pace.cuts else (~ended).to(DTYPE)
            self._trace *= alive[:, None]
            self._age.add_(dt).mul_(alive)
        if self.pace.steps % METRICS_EVERY != 1:
            return {}
        return {
            "train/td_error": (seen.delta.square().sum() / (seen.rows * dt)).sqrt(),
            "train/learning_rate": torch.full((), rate, device=self.device),
            **scalars("parameters", self._named()),
        }

    def _seen(self, step: Transitions) -> _Seen:
        """Return values, gradients and temporal differences of a step."""
        dt, beta = self.task.dt, self.task.beta
        (t, x), (next_t, next_x) = self.task.split(step.obs), self.task.split(step.next_obs)
        gradient = next_gradient = self._none
        if self._sums_up:
            value, next_value = self.value.value(t, x), self.value.value(next_t, next_x)
        else:
            value, gradient = self.value.gradient(t, x)
            next_value, next_gradient = self.value.gradient(next_t, next_x)
        rewards, next_value = split_rewards(step, next_value)
        if self.temperature > 0.0:
            rewards = rewards + self.temperature * self.policy.entropy(t) * dt  # type: ignore[union-attr]
        rewards = rewards - self.average_reward * dt
        next_gradient = next_gradient * (~step.terminations).to(DTYPE)[:, None]
        mask = step.mask.to(DTYPE)
        delta = (rewards + next_value - (1.0 + beta * dt) * value) * mask
        # e^{beta t} dM: it differs from delta by O(dt^2)
        discounted = (rewards + math.exp(-beta * dt) * next_value - value) * mask
        slope = (next_gradient - (1.0 + beta * dt) * gradient) * mask[:, None]
        rows = mask.sum().clamp(min=1.0)
        return _Seen(t, x, delta, discounted, gradient, next_gradient, slope, mask, rows)

    def _learn(self, seen: _Seen) -> None:
        """Add what one step says to the direction that is gathered, or to the moments."""
        config, dt, beta = self.config, self.task.dt, self.task.beta
        objective, rows = config.objective, seen.rows
        if self._sums_up:
            self._direction += self.value.gradient_sum(seen.t, seen.x, seen.delta / rows)
            return
        if objective == "mstde":
            if self.value.linear:
                self._gather(seen, None)
            else:
                self._direction -= seen.delta @ seen.slope / rows
                self._respond(seen, seen.slope, seen.slope / dt)
            return
        if objective == "martingale_loss":
            discount = torch.exp(-beta * self._age)
            weight = 1.0 if config.loss_weight is None else config.loss_weight
            scale = torch.exp((1.0 - 2.0 * weight) * beta * self._age)
            self._trace = trace_step(self._trace, seen.gradient * scale[:, None], 1.0, dt)
            self._direction += (seen.discounted * discount) @ self._trace / rows
            self._respond(seen, self._trace, seen.gradient)
            return
        # rows that are no transitions count for nothing as tests either
        xi = self._trace = trace_step(self._trace, seen.gradient, config.lam, dt) * seen.mask[:, None]
        self._respond(seen, xi, seen.gradient)
        if objective == "ctd":
            self._direction += seen.delta @ xi / rows
        elif objective == "cgtd":
            take = tdc_step if config.correction == "tdc" else gtd2_step
            found = take(self._u, xi, seen.delta, seen.gradient, seen.next_gradient, dt, beta)
            share = len(xi) / rows  # of means over all rows in those over transitions
            rate = self.learning_rate * config.auxiliary_rate * step_factor(config, self.pace.time)
            self._direction += found.d_theta * share
            d_u = found.d_u * share
            self._u.add_(d_u if self._scale is None else self._scale.applied(d_u), alpha=rate)
        else:
            self._gather(seen, xi)

    def _respond(self, seen: _Seen, xi: Tensor, gradient: Tensor) -> None:
        """Take note of the size of what directions respond with to parameters."""
        if self._scale is not None and not self._solves:
            self._scale.add((xi * gradient).abs().sum(0) / seen.rows, seen.mask.mean())

    def _gather(self, seen: _Seen, xi: Tensor | None) -> None:
        """Add a step to the moments A theta = c of E xi delta = 0; of least squares over delta if xi is None.

        J is affine in theta, so that delta at theta = 0 follows from it.
        """
        dt, slope = self.task.dt, seen.slope
        rest = seen.delta - slope @ self.value.theta
        if self.task.ergodic:
            slope = torch.cat([slope, -dt * seen.mask[:, None]], 1)
            rest = rest + self.average_reward * dt
            xi = xi if xi is None else torch.cat([xi, seen.mask[:, None]], 1)
        tests = -slope if xi is None else xi
        self._moments.A.add_(tests.T @ -slope / seen.rows)
        self._moments.c.add_(tests.T @ rest / seen.rows)

    @property
    def _solves(self) -> bool:
        """Whether parameters are solved for: a linear clstd, or the least squares of a linear mstde."""
        return self.config.objective == "clstd" or (self.config.objective == "mstde" and self.value.linear)

    def _apply(self, rate: float) -> None:
        """Move along the direction gathered, or solve for what the moments say."""
        config, interval = self.config, self.pace.interval
        if not self._solves:
            scale, direction = self._scale, self._direction
            self.ascent.step(direction if scale is None else scale.applied(direction), rate, interval)
            if self.task.ergodic:
                self._average.step(self._average_direction, rate * config.average_reward_rate, interval)
            for part in (self._direction, self._average_direction):
                part.zero_()
            return
        found = self._moments.solve(DEFAULT_RIDGE if config.ridge is None else config.ridge)
        P = len(self.value.theta)
        for part, ascent in ((found[:P], self.ascent), (found[P:], self._average)):
            if len(part):
                ascent.parameters.copy_(part)
                ascent.average.copy_(part)

    # What it found ---------------------------------------------------------------------------------------

    def _named(self) -> dict[str, Tensor]:
        level = {"V": self._average.best[0]} if self.task.ergodic else {}
        return {**level, **self.value.named(self.ascent.best)}

    def parameters(self) -> dict[str, Any]:
        """Return the parameters by their symbols, averaged over time (``config.averaging``); V if ergodic."""
        return plain(self._named())

    @torch.no_grad()
    def value_at(self, t: ArrayLike, x: ArrayLike) -> NDArray[np.float64]:
        """Return J [n] at times t, [n] or one, and states x [n, d], for the averaged parameters.

        Raises:
            ValueError: if x is not [n, d].
        """
        places = tensor_on(self.device, np.asarray(x, dtype=np.float64))
        if places.ndim != 2 or places.shape[1] != self.task.dim:
            raise ValueError(f"x has shape {tuple(places.shape)}; it must be [n, {self.task.dim}]")
        times = tensor_on(self.device, np.asarray(t, dtype=np.float64)).expand(len(places))
        with holding(self.value, "theta", self.ascent.best):
            values: NDArray[np.float64] = self.value.value(times, places).cpu().numpy()
        return values

    def result(self) -> dict[str, Any]:
        """See :meth:`Agent.result`."""
        return {"parameters": self.parameters()}

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`Agent.state_dict`."""
        return {
            "ascent": self.ascent.state_dict(),
            "average_reward": self._average.state_dict(),
            "pace": self.pace.state_dict(),
            "scale": {} if self._scale is None else self._scale.state_dict(),
            "average_direction": self._average_direction,
            "trace": self._trace,
            "age": self._age,
            "direction": self._direction,
            "u": self._u,
            "A": self._moments.A,
            "c": self._moments.c,
            "generator": self._generator.get_state(),
            "policy": policy_to_json(self.policy),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :meth:`Agent.load_state_dict`; with another number of rows paths start anew."""
        self.ascent.load_state_dict(state["ascent"])
        self._average.load_state_dict(state["average_reward"])
        self.pace.load_state_dict(state["pace"])
        if self._scale is not None:
            self._scale.load_state_dict(state["scale"])
        for name, here in (("direction", self._direction), ("average_direction", self._average_direction),
                           ("u", self._u), ("A", self._moments.A), ("c", self._moments.c)):  # fmt: skip
            here.copy_(state[name])
        if state["trace"].shape == self._trace.shape:
            self._trace.copy_(state["trace"])
            self._age.copy_(state["age"])
        else:
            self.restarted()
        restore_generator(self._generator, state["generator"])

    @classmethod
    def _rebuilt(
        cls, env: Any, config: Any, state: Mapping[str, Any], **settings: Any
    ) -> MartingaleEvaluation:
        """See :meth:`Agent._rebuilt`: the file knows the policy, if it is one of prefrl's."""
        return cls(env, config, policy_from_json(str(state.get("policy", ""))), **settings)


class _Seen(NamedTuple):
    """What one step says of the value function, for n rows."""

    t: Tensor
    """[n] times."""
    x: Tensor
    """[n, d] states."""
    delta: Tensor
    """[n] temporal differences, 0 in rows that are no transitions; so are the next two."""
    discounted: Tensor
    """[n] e^{beta t} dM."""
    gradient: Tensor
    """[n, P] dJ/dtheta."""
    next_gradient: Tensor
    """[n, P] at the successor, 0 where that is terminal."""
    slope: Tensor
    """[n, P] d(delta)/dtheta."""
    mask: Tensor
    """[n] 1 in rows that are transitions, else 0."""
    rows: Tensor
    """[] number of those."""


def policy_to_json(policy: Any) -> str:
    """Return a policy of prefrl's environments as JSON; "" for none; "own" for any other."""
    if policy is None:
        return ""
    if isinstance(policy, LinearPolicy):
        return json.dumps({"f1": policy.f1.tolist(), "f2": policy.f2.tolist(), "v": policy.v.tolist()})
    return json.dumps(asdict(policy)) if isinstance(policy, MeanVariancePolicy) else "own"


def policy_from_json(text: str) -> Policy | None:
    """Return the policy of :func:`policy_to_json`; ValueError for one that was the user's own."""
    if not text:
        return None
    if text == "own":
        raise ValueError("the policy was one of your own: make the agent with it, and load its state")
    fields = json.loads(text)
    return LinearPolicy(**fields) if "f1" in fields else MeanVariancePolicy(**fields)
