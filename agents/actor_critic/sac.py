"""Soft actor-critic (Haarnoja et al. 2018, arXiv 1812.05905), with critics that can be kept smooth.

A squashed Gaussian policy pi maximises reward plus alpha times its entropy. Two critics Q_1, Q_2, of which
the smaller one counts, learn from a target that follows them slowly,

    y = r + gamma^K (min_i Q_i^-(s', a') - alpha log pi(a'|s')),  a' ~ pi(.|s'),
    L_Q = sum_i E (Q_i(s, a) - y)^2 / 2,
    L_pi = E (alpha log pi(a|s) - min_i Q_i(s, a)),  a ~ pi(.|s),
    L_alpha = -E log alpha (log pi(a|s) + H),

with H the target entropy; :func:`autograd_step` is one gradient step on all of them. ``critic_regularizer``
bounds how much the critics may change between close states (Zheng et al. 2023, arXiv 2302.01244, who found
that this is what an ensemble of models does for MBPO):

- spectral: every capped layer of critics and targets has a spectral norm of at most ``spectral_cap``;
- robust: L_Q + lambda sum_i E max_{|s~ - s| <= eps sd} (Q_i(s~, a) - Q_i(s, a))^2, the maximum found by an
  attack (``prefrl.functional.actor_critic.smoothness.adversarial_states``).

The paper's own coefficients could not be verified; the defaults here are this library's.

A gradient step is due after every environment step; in between, the policy acts, and what happens is kept.
Scalar, vector and on-device environments are the same to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from prefrl.config import Count, Natural
from prefrl.data.metrics import mean_of
from prefrl.data.off_policy import gathered, times_due
from prefrl.data.replay import Batch, ReplayBuffer
from prefrl.nn.update import check_cuda_graph

from .box import BoxAgent
from .by_hand import WholeStep
from .config import ActorCriticConfig
from .networks import SoftActorCritic, draw, pairs


@dataclass(frozen=True)
class SACConfig(ActorCriticConfig):
    """Settings of :class:`SAC`."""

    buffer_size: Count = 1_000_000
    """Transitions in the replay, over all environments together."""

    learning_starts: Natural = 100
    """Timesteps of uniform actions before learning starts."""

    train_freq: Count = 1
    """Timesteps between two rounds of learning."""

    gradient_steps: Count = 1
    """Gradient steps of each round."""

    compile: bool = False
    """Compile the gradient step: faster after up to half a minute; on the CPU it takes a C++ compiler."""

    cuda_graph: bool = False
    """Record the gradient step as a CUDA graph, whose kernels start together; for small networks on a GPU.
    Not tried on one yet."""

    def check(self) -> None:
        """See :class:`Settings`."""
        super().check()
        if self.compile and self.cuda_graph:
            raise ValueError("compile and cuda_graph are both True; one of them must be False")
        for name, what in (("compile", "compiled"), ("cuda_graph", "recorded")):
            if getattr(self, name) and self.critic_regularizer != "none":
                raise ValueError(f"{name} is True and critic_regularizer {self.critic_regularizer!r}; steps "
                                 f"are {what} without a regularizer")  # fmt: skip
            if getattr(self, name) and self.precision != "float32":
                raise ValueError(f"{name} is True and precision {self.precision!r}; steps are {what} in "
                                 "'float32'")  # fmt: skip

    def gradient_steps_due(
        self, replay: ReplayBuffer | None, before: int, now: int, learners: int = 1
    ) -> int:
        """Return the gradient steps due after timestep ``before`` and until ``now``, of each learner."""
        starts = self.learning_starts
        if now == starts or not gathered(replay, starts, now, learners):
            return 0
        return times_due(self.train_freq, max(before, starts), now) * self.gradient_steps


def autograd_step(networks: SoftActorCritic, batch: Batch) -> dict[str, Tensor]:
    """Take one gradient step of critics, actor and temperature; return their losses, detached.

    This is what is meant. Agents take :meth:`SoftActorCritic.step`, whose gradients are written by hand, and
    which the tests hold equal to this (but that it caps critics by norms that may be those of a step ago).

    Args:
        networks: what learns.
        batch: transitions, with actions in [-1, 1].
    """
    config, alpha = networks.config, networks.temperature
    noise = networks.noise(2, len(batch.returns), networks.num_actions)
    weights = batch.weights / batch.weights.sum().clamp(min=1.0)

    with torch.no_grad():
        next_actions, next_log_prob = draw(networks.actor(batch.next_obs[None])[0], noise[0])
        next_q = networks.frozen_target(pairs(batch.next_obs, next_actions)).amin(0)
        target = batch.returns + batch.discounts * (next_q - alpha * next_log_prob)
    q = networks.critic(pairs(batch.obs, batch.actions))
    critic_loss = 0.5 * ((q - target).square() @ weights).sum()
    states = networks.attacked_states(batch, q.detach(), target)
    if states is not None:
        clean = q.detach() if config.robust_stop_gradient else q
        gaps = networks.critic(pairs(states, batch.actions)) - clean
        critic_loss = critic_loss + networks.robust_weight() * (gaps.square() @ weights).sum()
    networks.descend("critic", critic_loss)

    actions, log_prob = draw(networks.actor(batch.obs[None])[0], noise[1])
    q = networks.frozen(pairs(batch.obs, actions)).amin(0)
    actor_loss = (alpha * log_prob - q) @ weights
    networks.descend("actor", actor_loss)
    temperature_loss = -networks.log_temperature * ((log_prob.detach() + networks.target_entropy) @ weights)
    if config.learn_temperature:
        networks.descend("temperature", temperature_loss)
    networks.follow()
    losses = {"critic_loss": critic_loss, "actor_loss": actor_loss, "ent_coef_loss": temperature_loss}
    return {f"train/{name}": loss.detach() for name, loss in losses.items()}


class SAC(BoxAgent):
    """Soft actor-critic; see the module's text.

    Args:
        env: an environment with a bounded Box of actions and a Box of observations, or
            :class:`prefrl.agents.base.Spaces`.
        config: settings.
        device: torch device, or "auto".
        seed: seeds networks, exploration and replay.

    Raises:
        ValueError: if a space is of another kind.
    """

    config_class: ClassVar[type[SACConfig]] = SACConfig
    advice = "a lower learning_rate or max_grad_norm = 10 may help"

    def __init__(
        self,
        env: Any,
        config: SACConfig | None = None,
        *,
        device: torch.device | str = "auto",
        seed: int = 0,
    ) -> None:
        super().__init__(env, config or SACConfig(), device=device, seed=seed)
        check_cuda_graph(self.config.cuda_graph, self.device)
        self._whole: WholeStep | None = None

    def update(self) -> dict[str, Tensor]:
        """Take the gradient steps that are due; see :meth:`Agent.update`."""
        before, self._learned_at = self._learned_at, self.num_timesteps
        steps = self.config.gradient_steps_due(self.replay, before, self.num_timesteps)
        return mean_of(self._gradient_step() for _ in range(steps))

    def _gradient_step(self) -> dict[str, Tensor]:
        assert self.replay is not None
        if self.config.compile or self.config.cuda_graph:
            graph = self.config.cuda_graph
            self._whole = self._whole or WholeStep(self.networks, self.replay, graph=graph)
            return self._whole(self.config.batch_size)
        with torch.inference_mode():
            return self.networks.step(self.replay.sample(self.config.batch_size, self.networks.generator))

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`Agent.state_dict`."""
        return {**super().state_dict(), "learned_at": self._learned_at}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :meth:`Agent.load_state_dict`; without a replay, learning goes on with an empty one."""
        super().load_state_dict(state)
        self._learned_at = int(state["learned_at"])
        self._whole = None  # the replay is another one from now on
