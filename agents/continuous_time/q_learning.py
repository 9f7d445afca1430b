"""q-learning in continuous time (Jia and Zhou 2023, "q-Learning in continuous time", JMLR 24(161):1-61).

As dt -> 0 the Q-function tends to J and forgets the action; what is left of it is its rate,

    q(t, x, a) = dJ/dt + H(t, x, a, dJ/dx, d2J/dx2) - beta J,

with which e^{-beta s} J + int e^{-beta u} (r - q) du is a martingale under ANY behaviour policy. J^theta and
q^psi are learned together from the temporal difference (average rewards, without a discount: r - V)

    delta_k = J(t_{k+1}, X_{k+1}) - J(t_k, X_k) + (r_k - q(t_k, X_k, a_k) - beta J(t_k, X_k)) dt
    theta += alpha dJ/dtheta delta,    psi += alpha dq/dpsi delta,    V += alpha delta

"known" normaliser: the best q obeys int exp(q / gamma) da = 1 and the best policy is exp(q / gamma), which
for a Gaussian family is built in, q = gamma log pi^psi(a | t, x): learning q is learning the policy. psi1,
psi2 are the coefficients of its mean, and its variance is gamma e^{psi3} in the affine family.

"unknown" normaliser: q is a quadratic in the action of its own, kept at int (q - gamma log pi) pi da = 0
for the policy at hand, which q's definition demands, by taking its mean under pi off; and the policy
descends the divergence from exp(q / gamma),

    phi += alpha dlog pi(a) (q(t, x, a) - gamma log pi(a)) dt,    a ~ pi,

which needs no integral. (The form of this step and the family are our choice, since the paper's own
could not be checked: the span of a_i, a_i x_j and a_i a_j, which holds q of linear-quadratic problems.)
Of the features f = dq/dpsi the squares of actions are as small as the policy's variance, so that along E f
delta they would take ages; psi moves along the solution instead,

    psi += alpha (E f f')^-1 f delta,

with a running mean of f f'. This forgets at the rate alpha, whatever the features' sizes.

A timestep is one step of one row; all rows learn together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from prefrl.agents.continuous_time.ascent import Ascent, Moments
from prefrl.data import Transitions
from prefrl.nn.continuous_time.gaussian_policies import AffineGaussian, GaussianPolicy, NeuralGaussian
from prefrl.nn.value_families import NeuralValue

from .control import MANY, ContinuousControl, ContinuousControlConfig, Seen
from .task import Task

WARM = 1.0
"""Time of 64 chains or more before which psi does not move: E f f' is not known yet."""

WINDOW = 10
"""How many times that E f f' is a mean over."""

SHARE = 0.25
"""Step size of psi over the critic's: faster than the policy's variance, which follows it, and no noisier
than need be."""


@dataclass(frozen=True)
class ContinuousQLearningConfig(ContinuousControlConfig):
    """Settings of :class:`ContinuousQLearning`."""

    normalizer: Literal["known", "unknown"] = "known"
    """Whether q is normalised by its form, q = gamma log pi, or by the policy at hand."""

    def check(self) -> None:
        """Refuse settings without an entropy."""
        if self.temperature == 0.0:
            raise ValueError(
                "temperature is 0; q-learning needs an entropy, or the best policy has no density"
            )


class QuadraticAdvantage:
    """q(x, a) = psi . (f(x, a) - E_pi f(x, .)) - gamma H(pi), f = (a_i a_j, i <= j; a_i x_j; a_i).

    Args:
        policy: pi, whose mean and entropy keep q normalised.
        dim: d.
        action_dim: m.
        temperature: gamma.
    """

    def __init__(self, policy: GaussianPolicy, dim: int, action_dim: int, temperature: float) -> None:
        self.policy, self.temperature = policy, temperature
        self.pairs = [(i, j) for i in range(action_dim) for j in range(i, action_dim)]
        self.dim, self.action_dim = dim, action_dim
        size = len(self.pairs) + action_dim * (dim + 1)
        self.psi = torch.zeros(size, dtype=policy.phi.dtype, device=policy.phi.device)

    def gradient(self, t: Tensor, x: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Return q [n] and dq/dpsi [n, P] of actions [n, m]."""
        mean, log_variance = self.policy.distribution(t, x)
        variance = torch.exp(log_variance)
        squares = [
            actions[:, i] * actions[:, j] - mean[:, i] * mean[:, j] - (variance[:, i] if i == j else 0.0)
            for i, j in self.pairs
        ]
        error = actions - mean
        products = (error[:, :, None] * x[:, None, :]).flatten(1)
        features = torch.cat([torch.stack(squares, 1), products, error], 1)
        entropy, _ = self.policy.entropy(t, x)
        return features @ self.psi - self.temperature * entropy, features


class ContinuousQLearning(ContinuousControl):
    """q-learning in continuous time; see the module's text.

    Args:
        env: a diffusion of prefrl with actions, or another environment with ``config.dt`` and
            ``config.beta``, or :class:`prefrl.agents.base.Spaces`.
        config: settings.
        behavior: the policy that acts while learning, actions [n, m] of (t, x, z); None: the one learned.
        device: torch device, or "auto".
        seed: seeds the policy's noise and networks' first weights.

    Raises:
        ValueError: if the settings do not suit the environment.
    """

    config_class: ClassVar[type[ContinuousQLearningConfig]] = ContinuousQLearningConfig
    config: ContinuousQLearningConfig
    default_rate: ClassVar[float] = 1.0

    def __init__(
        self,
        env: Any,
        config: ContinuousQLearningConfig | None = None,
        *,
        behavior: Any = None,
        device: torch.device | str = "auto",
        seed: int = 0,
        known_task: Task | None = None,
    ) -> None:
        super().__init__(env, config, device=device, seed=seed, known_task=known_task)
        self.behavior = behavior

    def act(self, obs: Tensor, *, deterministic: bool = False) -> Tensor:
        """Return actions [n, m]: the behaviour policy's while learning; deterministic: the learned mean."""
        if self.behavior is None or deterministic:
            return super().act(obs, deterministic=deterministic)
        t, x = self.task.split(obs)
        actions: Tensor = self.behavior(t[:, None], x, self._noise(len(obs)))
        return actions if self._bounds is None else actions.clamp(*self._bounds)

    def _make_parts(self) -> None:
        super()._make_parts()
        config, task = self.config, self.task
        self.advantage: QuadraticAdvantage | None = None
        if config.normalizer == "known" and not isinstance(self.policy, NeuralGaussian):
            # psi = 0: a variance of gamma (at the horizon)
            place = -task.action_dim if isinstance(self.policy, AffineGaussian) else 1
            self.policy.phi[place : None if place < 0 else 2] = math.log(config.temperature)
            self._policy_ascent.average.copy_(self.policy.phi)
        if config.normalizer == "unknown":
            if not isinstance(self.policy, AffineGaussian):
                raise ValueError(
                    "normalizer is 'unknown', which goes with affine policies only; take 'known'"
                )
            self.advantage = QuadraticAdvantage(self.policy, task.dim, task.action_dim, config.temperature)
            self._advantage_direction = torch.zeros_like(self.advantage.psi)
            self._advantage_ascent = Ascent(self.advantage.psi, adam=False, averaging=config.averaging)
            few = min(1.0, self._rows / MANY)
            given = None if isinstance(self.value, NeuralValue) else config.value_rate
            self.advantage_rate = SHARE * (given or self.default_rate * few)
            """Step size of psi per unit of time, which needs no unit of rewards, as the critic's does not."""
            warm = max(1, round(WARM / (few * task.dt)))
            window = max(WINDOW * warm, self.pace.every)
            self._moments = Moments(self.advantage.psi, window, warm)
            self._places = Moments(self.advantage.psi.new_zeros(task.dim + 1), window, warm)

    def _learn(self, seen: Seen, step: Transitions) -> Tensor:
        """See :class:`ContinuousControl`."""
        gamma, weights = self.config.temperature, seen.mask / seen.rows
        log_prob, score = self.policy.score(seen.t, seen.x, seen.actions)
        if self.advantage is None:
            self._see_scores(score, seen)
            delta = self._delta(seen, -gamma * log_prob)
            self._critic_direction(seen, delta)
            # dq/dpsi = gamma dlog pi, in the symbols of the paper
            self._policy_direction += gamma * ((delta * weights) @ score)
            return delta
        q, gradient = self.advantage.gradient(seen.t, seen.x, seen.actions)
        delta = self._delta(seen, -q)
        self._critic_direction(seen, delta)
        share = seen.mask.mean()
        places = torch.cat([seen.x, torch.ones_like(seen.x[:, :1])], 1)
        self._places.add(places, weights, share)
        # f delta grows with x^4: places far out say little for their noise, and one may say it all.
        trusted = weights * self._places.trust(places)
        self._advantage_direction += (delta * trusted) @ gradient
        self._moments.add(gradient, trusted, share)
        own = self.policy.sample(seen.t, seen.x, self._noise(len(delta)))
        log_prob, score = self.policy.score(seen.t, seen.x, own)
        better = self.advantage.gradient(seen.t, seen.x, own)[0] - gamma * log_prob
        self._policy_direction += (better * weights * self.task.dt) @ score
        return delta

    @property
    def _price(self) -> float:
        return float(self.config.temperature**2)  # delta answers to psi, and the direction to delta

    def _gathered(self) -> tuple[Tensor, ...]:
        gathered = super()._gathered()
        return gathered if self.advantage is None else (*gathered, self._advantage_direction)

    def _apply_own(self, factor: float) -> None:
        if self.advantage is not None:
            rate = self.advantage_rate * factor
            rate /= max(1.0, rate * self.pace.interval)  # after long paths: to the solution, not beyond
            towards = self._moments.solved(self._advantage_direction)
            self._advantage_ascent.step(towards, rate, self.pace.interval)

    def _named(self) -> dict[str, Tensor]:
        """Return all parameters, the policy's as psi where the normaliser is known."""
        named = super()._named()
        if self.advantage is not None:
            return {**named, "psi": self._advantage_ascent.best}
        if not isinstance(self.policy, AffineGaussian):
            return named
        psi = {name.replace("phi", "psi"): value for name, value in named.items()}
        log_gamma = torch.full_like(psi["psi3"], self.config.temperature).log()
        return {**psi, "psi3": psi["psi3"] - log_gamma}

    def _own_state(self) -> dict[str, Any]:
        if self.advantage is None:
            return {}
        return {"advantage": self._advantage_ascent.state_dict(), "moments": self._moments.state_dict(),
                "places": self._places.state_dict()}  # fmt: skip

    def _load_own_state(self, state: Any) -> None:
        if self.advantage is not None:
            self._advantage_ascent.load_state_dict(state["advantage"])
            if "moments" in state:  # files of before have none; they are gathered anew
                self._moments.load_state_dict(state["moments"])
                self._places.load_state_dict(state["places"])
