"""Actor-critic in continuous time (Jia and Zhou 2022, JMLR 23(275):1-50).

A policy pi^phi draws an action every dt, its entropy H counts with weight gamma ("temperature"), and

    delta_k = J(t_{k+1}, X_{k+1}) - J(t_k, X_k) + (r_k + gamma p_k - beta J(t_k, X_k)) dt

is the temporal difference of the critic J^theta, p = -log pi(a | t, x) or H itself. On average rewards,
without a discount, r - V stands for r. The critic learns by CTD(lam)
(``prefrl.agents.continuous_time.evaluation``). The policy gradient needs no baseline, since delta is an
advantage already:

    theta += alpha xi delta,     xi = dJ/dtheta, or its trace
    phi   += alpha e^{-beta t} [ (dlog pi + zeta) delta + gamma dH dt ]
    V     += alpha delta,        zeta_k = lam^dt zeta_{k-1} + dlog pi_{k-1} dt

(the term with dH for p = H only; e^{-beta t} only with ``discount_policy``; zeta only with ``policy_lam``).
All of this is summed over time, so that step sizes are per unit of time: after every step (online), or after
every episode (offline).

In mean-variance problems (prefrl/MeanVariance-v0) the reward at the horizon is -(X_T - w)^2 + (w - z)^2, and
the multiplier w is learned as well: w -= alpha_w (mean X_T - z) after every episode of all rows. What phi1
answers with there is as small as sigma^2 (x - w)^2. So by default the policy moves along the natural gradient

    phi += alpha (gamma E dlog pi dlog pi')^-1 dlog pi delta

which near the best policy forgets at the rate alpha, whatever the coefficients: gamma E dlog pi dlog pi' is
what the direction answers with there. Wealth has heavy tails: a step goes only so far, and wealth far out
counts less, for critic and policy alike (delta is 0 on average in every state, so this moves no solution).

A timestep is one step of one row; all rows learn one theta and one phi together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from prefrl.config import PositiveShare
from prefrl.data import Transitions
from prefrl.functional.continuous_time.martingale import trace_step

from .control import ContinuousControl, ContinuousControlConfig, Seen
from .task import DTYPE


@dataclass(frozen=True)
class ContinuousActorCriticConfig(ContinuousControlConfig):
    """Settings of :class:`ContinuousActorCritic`."""

    entropy: Literal["sampled", "closed_form"] = "sampled"
    """p of the regulariser: -log pi(a) of the action drawn, or the entropy itself, whose gradient then
    counts."""

    policy_lam: PositiveShare | None = None
    """lambda of the policy's trace zeta, per unit of time, in (0, 1]; None: no trace."""

    discount_policy: bool = False
    """Weigh the policy's direction with e^{-beta t}, t the time since the start of the episode."""


class ContinuousActorCritic(ContinuousControl):
    """Actor-critic in continuous time; see the module's text.

    Args:
        env: a diffusion of prefrl with actions, or another environment with ``config.dt`` and
            ``config.beta``, or :class:`prefrl.agents.base.Spaces`.
        config: settings.
        device: torch device, or "auto".
        seed: seeds the policy's noise and networks' first weights.

    Raises:
        ValueError: if the settings do not suit the environment.
    """

    config_class: ClassVar[type[ContinuousActorCriticConfig]] = ContinuousActorCriticConfig
    config: ContinuousActorCriticConfig

    def _make_parts(self) -> None:
        self._policy_trace: Tensor | None = None
        super()._make_parts()
        if self.config.discount_policy and self.task.beta == 0.0:
            raise ValueError("discount_policy is True, but the task has no discount: beta is 0")
        if self.config.policy_lam is not None:
            P = len(self.policy.phi)
            self._policy_trace = torch.zeros(self._rows, P, dtype=DTYPE, device=self.device)
            self._keeps_rows = True

    def _learn(self, seen: Seen, step: Transitions) -> Tensor:
        """See :class:`ContinuousControl`."""
        config, dt = self.config, self.task.dt
        log_prob, score = self.policy.score(seen.t, seen.x, seen.actions)
        self._see_scores(score, seen)
        weights = seen.mask / seen.rows
        if config.discount_policy:
            weights = weights * torch.exp(-self.task.beta * self._age)
        if config.entropy == "sampled":
            delta = self._delta(seen, -config.temperature * log_prob)
        else:
            entropy, gradient = self.policy.entropy(seen.t, seen.x)
            delta = self._delta(seen, config.temperature * entropy)
            self._policy_direction += (config.temperature * dt) * (weights @ gradient)
        direction = score
        if self._policy_trace is not None:
            assert config.policy_lam is not None
            direction = score + self._policy_trace
            self._policy_trace = trace_step(self._policy_trace, score, config.policy_lam, dt)
        self._policy_direction += (delta * weights) @ direction
        self._critic_direction(seen, delta)
        return delta

    @property
    def _policy_lam(self) -> float | None:
        lam: float | None = self.config.policy_lam
        return lam

    @property
    def _needs_age(self) -> bool:
        return bool(self.config.discount_policy)

    def _own_traces(self) -> tuple[Tensor, ...]:
        return () if self._policy_trace is None else (self._policy_trace,)
