"""What actor-critic and q-learning in continuous time share: critic, policy, pace, and the multiplier."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from prefrl.agents.base import Agent, Spaces
from prefrl.agents.continuous_time.ascent import (
    Ascent,
    Moments,
    Pace,
    Scale,
    holding,
    pauses,
    step_factor,
)
from prefrl.config import NonNegative, Positive, Settings, Share, Sizes, Time
from prefrl.data import Transitions
from prefrl.data.devices import make_generator, restore_generator, tensor_on
from prefrl.envs.diffusions.dynamics import diffusion_from_json
from prefrl.functional.continuous_time.martingale import trace_step
from prefrl.nn.continuous_time.gaussian_policies import (
    AffineGaussian,
    GaussianPolicy,
    MeanVarianceGaussian,
    NeuralGaussian,
)

from .task import (
    DTYPE,
    METRICS_EVERY,
    Decay,
    Task,
    default_value,
    learns_multiplier,
    make_value,
    plain,
    scalars,
    split_rewards,
    task_in,
    task_of,
)

Value = Literal["auto", "quadratic", "mean_variance", "neural"]
"""Families of value functions for control; see ``prefrl.nn.value_families``."""

PolicyFamily = Literal["auto", "affine", "mean_variance", "neural"]
"""Families of Gaussian policies; see ``prefrl.nn.continuous_time.gaussian_policies``."""


@dataclass(frozen=True)
class ContinuousControlConfig(Settings):
    """Settings that :class:`ContinuousActorCritic` and :class:`ContinuousQLearning` share."""

    temperature: NonNegative = 0.1
    """Weight gamma of the policy's entropy in the reward rate; 0.1 in the paper's experiments."""

    policy: PolicyFamily = "auto"
    """Family of policies; auto: affine, mean_variance for prefrl/MeanVariance-v0, neural for others."""

    value: Value = "auto"
    """Family of value functions; auto: quadratic, mean_variance or neural, as the environment has it."""

    hidden: Sizes = (64, 64)
    """Sizes of the hidden layers of neural policies and value functions, tanh."""

    mode: Literal["auto", "online", "offline"] = "auto"
    """Learn after every step, or after every episode; auto: offline with a horizon."""

    path_time: Time | None = None
    """Length of what counts as an episode offline, in units of time, where there is no horizon."""

    policy_rate: Positive | None = None
    """Step size of the policy per unit of time; None: 0.5 (q-learning 1) or, for mean_variance, 0.3 along the
    natural gradient over the temperature (which needs no unit of rewards, wealth or volatility), both times
    num_envs / 64 where that is less than 1; 0.03 of Adam for neural policies."""

    value_rate: Positive | None = None
    """Step size of the value function per unit of time; None: likewise; mean_variance: 0.25 over the
    mean of |xi dJ/dtheta|, parameter by parameter. A quarter of it (of 1 for neural ones) is that of q with
    an unknown normaliser, along the solution."""

    average_reward_rate: NonNegative = 1.0
    """Step size of the average reward V per unit of time, relative to value_rate."""

    decay: Decay = "log"
    """How step sizes fall with time t: constant, log (1 / max(1, log t)), power ((1 + t / decay_time)^-p)."""

    decay_time: Time = 1.0
    """Time after which a power decay sets in."""

    decay_power: Positive = 0.51
    """Exponent p of a power decay; 0.51 in the paper's mean-variance experiments."""

    lam: Share = 0.0
    """lambda of the critic's test process, per unit of time, in [0, 1]."""

    averaging: NonNegative | None = 1.0
    """Weight eta of late parameters in their average, which is what is reported (see Ascent); None: none."""

    multiplier_rate: NonNegative = 0.0
    """Step size of the multiplier w of mean-variance per episode; 0: w is the environment's. It starts at
    z."""

    dt: Time | None = None
    """Time between two steps; None: the environment's."""

    beta: NonNegative | None = None
    """Discount rate per unit of time; None: the environment's."""


NATURAL_RATE = 0.3
"""Default step size of mean-variance policies per unit of time, along the natural gradient."""

TRUST = 0.01
"""Largest divergence of a mean-variance policy from the one before a natural step: tails are heavy, and one
episode must not lead far away."""

MANY = 64
"""Environments from which on default step sizes need not shrink with their number."""


class Seen(NamedTuple):
    """One step of n rows."""

    t: Tensor
    """[n] times."""
    x: Tensor
    """[n, d] states."""
    actions: Tensor
    """[n, m]."""
    value: Tensor
    """[n] J at (t, x)."""
    gradient: Tensor
    """[n, P] dJ/dtheta."""
    next_value: Tensor
    """[n] J at the successor, h where that is terminal."""
    rewards: Tensor
    """[n] r dt, without h."""
    mask: Tensor
    """[n] 1 where the row is a transition, else 0; of mean-variance less where wealth lies far out."""
    rows: Tensor
    """[] number of those."""


class ContinuousControl(Agent):
    """Base of the agents that learn a Gaussian policy and a value function together.

    An algorithm is its :meth:`_learn`, which adds to the directions of policy and critic.
    """

    default_rate: ClassVar[float] = 0.5
    """Step size of affine policies and quadratic value functions per unit of time."""

    advice = "a lower policy_rate and value_rate or more environments may help"

    def __init__(
        self,
        env: Any,
        config: Any = None,
        *,
        device: torch.device | str = "auto",
        seed: int = 0,
        known_task: Task | None = None,
    ) -> None:
        super().__init__(env, config or self.config_class(), device=device, seed=seed)
        self.task = known_task or task_of(self, self.config.dt, self.config.beta)
        if self.task.action_dim == 0:
            raise ValueError("nobody steers this diffusion; evaluate it with MartingaleEvaluation")
        self.info_keys = self.task.info_keys
        self._rows = int(getattr(env, "num_envs", 1))
        self._generator = make_generator(self.device, seed)
        self._transitions: Transitions | None = None
        self._drawn: Tensor | None = None
        self._bounds: tuple[Tensor, Tensor] | None = None
        low, high = self.action_space.low, self.action_space.high
        if np.isfinite(low).any() or np.isfinite(high).any():
            lowest, highest = (torch.as_tensor(bound, dtype=DTYPE).to(self.device) for bound in (low, high))
            self._bounds = lowest, highest
        self._make_parts()

    def _make_parts(self) -> None:
        """Make policy, critic and what gathers their directions."""
        config, task = self.config, self.task
        learned = learns_multiplier(task) and config.multiplier_rate > 0.0
        if config.multiplier_rate > 0.0 and not learned:
            raise ValueError(f"multiplier_rate is {config.multiplier_rate}, but the task has no multiplier")
        self.learns_multiplier = learned
        start = (task.diffusion.z if learned else task.diffusion.w) if learns_multiplier(task) else 0.0
        self.w = torch.full((), float(start), dtype=DTYPE, device=self.device)
        """[] multiplier of mean-variance."""
        self.policy = self._make_policy()
        value = default_value(task) if config.value == "auto" else config.value
        self.value = make_value(value, task, config.hidden, self.w, self._generator, self.device)
        # few chains are noisy: they must move in smaller steps
        few = min(1.0, self._rows / MANY)
        policy_rates = {
            AffineGaussian: self.default_rate * few,
            MeanVarianceGaussian: (NATURAL_RATE if config.temperature > 0.0 else 0.1) * few,
            NeuralGaussian: 0.03,
        }
        value_rates = {"quadratic": self.default_rate * few, "mean_variance": 0.25 * few, "neural": 0.03}
        self.policy_rate = config.policy_rate or policy_rates[type(self.policy)]
        self.value_rate = config.value_rate or value_rates[value]
        offline = config.mode == "offline" or (config.mode == "auto" and task.T is not None)
        mode = "offline" if offline else "online"
        lam = max(config.lam, self._policy_lam or 0.0)
        self.pace = Pace(task, mode=mode, path_time=config.path_time, lam=lam, pauses=pauses(self.env))
        scaled = value == "mean_variance" and config.value_rate is None
        self._scale = Scale(self.value.theta, 20 * self.pace.every) if scaled else None
        natural = isinstance(self.policy, MeanVarianceGaussian) and config.policy_rate is None
        self._fisher: Moments | None = None
        if natural and config.temperature > 0.0:
            self._fisher = Moments(self.policy.phi, 20 * self.pace.every, self.pace.every)
            self._places = Moments(self.policy.phi[:2], 20 * self.pace.every, 1)
        self._policy_ascent = Ascent(
            self.policy.phi, adam=isinstance(self.policy, NeuralGaussian), averaging=config.averaging
        )
        self._value_ascent = Ascent(self.value.theta, adam=value == "neural", averaging=config.averaging)
        place: dict[str, Any] = {"dtype": DTYPE, "device": self.device}
        self.average_reward = torch.zeros(1, **place)
        self._average_ascent = Ascent(self.average_reward, adam=False, averaging=config.averaging)
        self._policy_direction = torch.zeros_like(self.policy.phi)
        self._value_direction = torch.zeros_like(self.value.theta)
        self._average_direction = torch.zeros(1, **place)
        self._trace = torch.zeros(self._rows, len(self.value.theta), **place)
        self._age = torch.zeros(self._rows, **place)
        """[n] time since the start of each row's path."""
        self._keeps_rows = config.lam > 0.0 or bool(self._own_traces()) or self._needs_age
        self._miss = torch.zeros(2, **place)
        """Sum of X_T - z over the episodes that ended, and their number."""

    def _make_policy(self) -> GaussianPolicy:
        config, task = self.config, self.task
        place: dict[str, Any] = {"device": self.device, "dtype": DTYPE}
        name = config.policy
        if name == "auto":
            kinds = {"quadratic": "affine", "mean_variance": "mean_variance"}
            name = kinds.get(default_value(task), "neural")
        if (name == "mean_variance") != (learns_multiplier(task) and name != "neural"):
            raise ValueError(f"policy is {name!r}; mean_variance is for prefrl/MeanVariance-v0, "
                             "and affine for problems without a horizon")  # fmt: skip
        if name == "mean_variance":
            assert task.T is not None
            return MeanVarianceGaussian(task.T, self.w)
        if name == "affine":
            return AffineGaussian(task.dim, task.action_dim, **place)
        timed = task.T is not None
        return NeuralGaussian(task.dim, task.action_dim, config.hidden, timed, self._generator, **place)

    # Inside face -----------------------------------------------------------------------------------------

    def _noise(self, n: int) -> Tensor:
        """Return standard normal numbers [n, m]."""
        generator = self._generator
        shape = (n, self.task.action_dim)
        return torch.randn(shape, generator=generator, device=generator.device, dtype=DTYPE).to(self.device)

    @torch.no_grad()
    def act(self, obs: Tensor, *, deterministic: bool = False) -> Tensor:
        """Return actions [n, m] of the policy; deterministic: its mean, for the averaged parameters."""
        t, x = self.task.split(obs)
        if deterministic:
            with self.averaged():
                actions = self.policy.distribution(t, x)[0]
        else:
            actions = self.policy.sample(t, x, self._noise(len(x)))
        if self._bounds is None:
            return actions
        # The environment gets what it allows; what was drawn is what the score is of.
        self._drawn = None if deterministic else actions
        return actions.clamp(*self._bounds)

    def observe(self, transitions: Transitions) -> None:
        """Take in one step of the environments; :meth:`update` learns from it."""
        self._transitions = transitions

    def restarted(self) -> None:
        """See :meth:`Agent.restarted`: what was gathered along the old paths is dropped."""
        for part in (self._trace, self._age, *self._own_traces(), *self._gathered()):
            part.zero_()
        self.pace.phase = 0

    def _gathered(self) -> tuple[Tensor, ...]:
        """Return what is gathered between two applications."""
        return self._policy_direction, self._value_direction, self._average_direction, self._miss

    @torch.no_grad()
    def update(self) -> dict[str, Tensor]:
        """Learn from the last observed step, once; see :meth:`Agent.update`."""
        step, self._transitions = self._transitions, None
        if step is None:
            return {}
        seen = self._seen(step)
        delta = self._learn(seen, step)
        due = self.pace.tick()
        if due:
            self._apply()
        if self._keeps_rows:
            # without a horizon an offline path ends where its gradient is applied
            alive = torch.zeros_like(seen.mask) if due and self.pace.cuts else self._alive(step)
            for trace in (self._trace, *self._own_traces()):
                trace *= alive[:, None]
            self._age.add_(self.task.dt).mul_(alive)
        return self._metrics(seen, delta) if self.pace.steps % METRICS_EVERY == 1 else {}

    def _metrics(self, seen: Seen, delta: Tensor) -> dict[str, Tensor]:
        rate = self.policy_rate * step_factor(self.config, self.pace.time)
        return {
            "train/td_error": (delta.square().sum() / (seen.rows * self.task.dt)).sqrt(),
            "train/learning_rate": torch.full((), rate, device=self.device),
            **scalars("parameters", self._named()),
        }

    @abstractmethod
    def _learn(self, seen: Seen, step: Transitions) -> Tensor:
        """Add what one step says to the directions of policy and critic; return temporal differences [n]."""

    def _seen(self, step: Transitions) -> Seen:
        (t, x), (next_t, next_x) = self.task.split(step.obs), self.task.split(step.next_obs)
        value, gradient = self.value.gradient(t, x)
        rewards, next_value = split_rewards(step, self.value.gradient(next_t, next_x)[0])
        mask = step.mask.to(DTYPE)
        rows = mask.sum().clamp(min=1.0)
        if self.learns_multiplier:
            terminal = self.task.diffusion.terminal_reward(next_x, self.w)
            next_value = torch.where(step.terminations, terminal, next_value)
            ended = step.terminations.to(DTYPE) * mask
            self._miss += torch.stack([(next_x[:, 0] - self.task.diffusion.z) @ ended, ended.sum()])
        if self._fisher is not None:
            places = torch.cat([x, torch.ones_like(x)], 1)
            self._places.add(places, mask / rows, mask.mean())
            mask = mask * self._places.trust(places)
        actions = step.actions if self._drawn is None else self._drawn
        return Seen(t, x, actions.to(DTYPE), value, gradient, next_value, rewards, mask,
                    rows)  # fmt: skip

    def _delta(self, seen: Seen, regularizer: Tensor) -> Tensor:
        """Return temporal differences [n] with a regulariser [n] of the reward rate, 0 off the mask."""
        dt, beta = self.task.dt, self.task.beta
        paid = seen.rewards + (regularizer - self.average_reward) * dt
        return (paid + seen.next_value - (1.0 + beta * dt) * seen.value) * (seen.mask > 0.0)

    def _critic_direction(self, seen: Seen, delta: Tensor) -> None:
        """Add CTD(lam) to the critic's direction, and move the average reward."""
        xi = seen.gradient
        if self.config.lam > 0.0:
            xi = self._trace = trace_step(self._trace, xi, self.config.lam, self.task.dt)
        self._value_direction += (delta * seen.mask) @ xi / seen.rows
        if self._scale is not None:
            share = (seen.mask > 0.0).to(DTYPE).mean()
            self._scale.add(seen.mask @ (xi * seen.gradient).abs() / seen.rows, share)
        if self.task.ergodic:
            self._average_direction += delta.sum() / seen.rows

    @property
    def _price(self) -> float:
        """What the policy's direction responds with to phi, over the mean of score score'."""
        return float(self.config.temperature)

    def _see_scores(self, score: Tensor, seen: Seen) -> None:
        """Take in the scores [n, P] of actions that were drawn from the policy."""
        if self._fisher is not None:
            self._fisher.add(score, seen.mask / seen.rows, (seen.mask > 0.0).to(DTYPE).mean())

    def _alive(self, step: Transitions) -> Tensor:
        """Return 1 in rows [n] whose path goes on."""
        return (~(step.terminations | step.truncations) & step.mask).to(DTYPE)

    def _apply(self) -> None:
        """Move along what was gathered."""
        factor, interval = step_factor(self.config, self.pace.time), self.pace.interval
        towards = self._value_direction
        towards = towards if self._scale is None else self._scale.applied(towards)
        ahead, rate = self._policy_direction, self.policy_rate * factor
        if self._fisher is not None:
            ahead = self._fisher.solved(ahead) / self._price
            far = rate * rate * (ahead @ self._fisher.mean @ ahead) / (2.0 * TRUST)
            ahead = ahead / far.clamp(min=1.0).sqrt()
        self._policy_ascent.step(ahead, rate, interval)
        self._value_ascent.step(towards, self.value_rate * factor, interval)
        if self.task.ergodic:
            rate = self.value_rate * self.config.average_reward_rate * factor
            self._average_ascent.step(self._average_direction, rate, interval)
        if self.learns_multiplier:
            self.w -= self.config.multiplier_rate * self._miss[0] / self._miss[1].clamp(min=1.0)
        self._apply_own(factor)
        for part in self._gathered():
            part.zero_()

    def _apply_own(self, factor: float) -> None:
        """Move what an algorithm has beyond policy and critic, with step sizes times ``factor``."""

    # What it found ---------------------------------------------------------------------------------------

    def _named(self) -> dict[str, Tensor]:
        """Return all parameters by their symbols, averaged over time."""
        level = {"V": self._average_ascent.best[0]} if self.task.ergodic else {}
        multiplier = {"w": self.w} if self.learns_multiplier else {}
        value = self.value.named(self._value_ascent.best)
        return {**level, **value, **self.policy.named(self._policy_ascent.best), **multiplier}

    def parameters(self) -> dict[str, Any]:
        """Return critic's and policy's parameters by their symbols, averaged over time; V if ergodic."""
        return plain(self._named())

    def policy_parameters(self) -> dict[str, Any]:
        """Return the policy alone: phi1, phi2 and variance, or phi1, phi2, phi3 and w of mean-variance."""
        named = self.policy.named(self._policy_ascent.best)
        if isinstance(self.policy, AffineGaussian):
            named["variance"] = torch.exp(named.pop("phi3"))
        if isinstance(self.policy, MeanVarianceGaussian):
            named["w"] = self.w
        return plain(named)

    @torch.no_grad()
    def value_at(self, t: ArrayLike, x: ArrayLike) -> NDArray[np.float64]:
        """Return J [n] at times t, [n] or one, and states x [n, d], for the averaged parameters."""
        places = tensor_on(self.device, np.asarray(x, dtype=np.float64))
        times = tensor_on(self.device, np.asarray(t, dtype=np.float64)).expand(len(places))
        with holding(self.value, "theta", self._value_ascent.best):
            values: NDArray[np.float64] = self.value.value(times, places).cpu().numpy()
        return values

    def averaged(self) -> AbstractContextManager[None]:
        """Let the policy be that of the averaged parameters for a while."""
        return holding(self.policy, "phi", self._policy_ascent.best)

    def result(self) -> dict[str, Any]:
        """See :meth:`Agent.result`."""
        return {"policy": self.policy_parameters(), "parameters": self.parameters()}

    # Files -----------------------------------------------------------------------------------------------

    @property
    def _policy_lam(self) -> float | None:
        """Lambda of a policy's trace, where an algorithm has one."""
        return None

    @property
    def _needs_age(self) -> bool:
        """Whether an algorithm looks at the time since the start of paths."""
        return False

    def _own_traces(self) -> tuple[Tensor, ...]:
        """Return what an algorithm keeps per row beyond the critic's trace."""
        return ()

    def _own_state(self) -> dict[str, Any]:
        """Return what an algorithm must keep beyond what all do."""
        return {}

    def _load_own_state(self, state: Mapping[str, Any]) -> None:
        """Take back what :meth:`_own_state` returned."""

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`Agent.state_dict`."""
        return {
            "task": self.task.description,
            "policy": self._policy_ascent.state_dict(),
            "value": self._value_ascent.state_dict(),
            "average_reward": self._average_ascent.state_dict(),
            "pace": self.pace.state_dict(),
            "scale": {} if self._scale is None else self._scale.state_dict(),
            **self._natural_state(),
            "w": self.w,
            "rows": [self._trace, self._age, *self._own_traces()],
            "gathered": list(self._gathered()),
            "generator": self._generator.get_state(),
            **self._own_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :meth:`Agent.load_state_dict`; with another number of rows paths start anew."""
        self._policy_ascent.load_state_dict(state["policy"])
        self._value_ascent.load_state_dict(state["value"])
        self._average_ascent.load_state_dict(state["average_reward"])
        self._load_own_state(state)
        self.pace.load_state_dict(state["pace"])
        if self._scale is not None:
            self._scale.load_state_dict(state["scale"])
        if self._fisher is not None and "fisher" in state:  # files of before have none
            self._fisher.load_state_dict(state["fisher"])
            self._places.load_state_dict(state["places"])
        self.w.copy_(state["w"])
        for here, kept in zip(self._gathered(), state["gathered"], strict=True):
            here.copy_(kept)
        rows = [self._trace, self._age, *self._own_traces()]
        if [part.shape for part in rows] == [part.shape for part in state["rows"]]:
            for here, kept in zip(rows, state["rows"], strict=True):
                here.copy_(kept)
        else:
            self.restarted()
        restore_generator(self._generator, state["generator"])

    def _natural_state(self) -> dict[str, Any]:
        if self._fisher is None:
            return {}
        return {"fisher": self._fisher.state_dict(), "places": self._places.state_dict()}

    @classmethod
    def _rebuilt(cls, env: Any, config: Any, state: Mapping[str, Any], **settings: Any) -> Any:
        """See :meth:`Agent._rebuilt`: without an environment the file knows the diffusion."""
        text = str(state.get("task", ""))
        known = task_in(diffusion_from_json(text), text) if isinstance(env, Spaces) and text else None
        return cls(env, config, known_task=known, **settings)
