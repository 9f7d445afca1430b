"""Actor, critics and their targets: how they act, what they say of states, one gradient step of all.

The losses are those of ``prefrl.agents.actor_critic.sac``, where the same step is written by autograd; the
tests hold the two equal. Here the gradients are written by hand (``StackedMLP.record`` and ``backward``):
autograd's step takes 1.09 times as long with networks of 256 x 256 and batches of 256, and 1.29 times with
64 x 64 and 128 (CPU time, medians of 24 turns in one process, one thread).
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from prefrl.data import seeded_generator
from prefrl.data.devices import building, make_generator, restore_generator
from prefrl.data.moments import RunningMoments
from prefrl.data.replay import Batch
from prefrl.functional.actor_critic.smoothness import adversarial_states, with_gradient
from prefrl.functional.actor_critic.squashed_gaussian import squashed_gaussian, squashed_gaussian_gradient
from prefrl.functional.draws import normal, uniform
from prefrl.nn.flat import FlatParameters, clip_factor, fused_adam_step_
from prefrl.nn.mlp import StackedMLP
from prefrl.nn.spectral import SpectralMLP

from .config import ActorCriticConfig

STD_FLOOR = 1e-3
"""Least standard deviation of an observation's entry, where boxes are measured in it."""

ITERATES_EVERY, TARGET_ITERATES_EVERY = 2, 8
"""Gradient steps between two looks at the spectral norms of the critics, and of their targets."""

SLOW = 0.01
"""Largest tau of which targets are said to follow slowly."""

VARIANCE_RATE = 0.01
"""Share of the newest batch in the running variance of the targets."""


def draw(output: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Return actions [N, A] within (-1, 1) and log-densities [N] of an actor's output [N, 2A]."""
    mean, log_std = output.chunk(2, -1)
    return squashed_gaussian(mean, log_std, noise)


def pairs(obs: Tensor, actions: Tensor) -> Tensor:
    """Return the critics' inputs [2, N, D + A] of states [N, D], or [2, N, D], and actions [N, A]."""
    if obs.ndim == 2:
        return torch.cat([obs, actions], -1).expand(2, -1, -1)
    return torch.cat([obs, actions.expand(2, -1, -1)], -1)


class SoftActorCritic:
    """Networks and gradient step of soft actor-critic; actions are in (-1, 1) here.

    Args:
        observations: D, size of an observation.
        actions: A, size of an action.
        config: settings.
        device: torch device.
        seed: seeds networks and noise.

    Attributes:
        actor: the policy, a stack of one: mean and log standard deviation [1, N, 2A] before squashing.
        critic: both critics as one stack.
        target: their targets.
        log_temperature: [] log alpha.
        moments: of the observations of real transitions.
        frozen: the critics as they are now, caps worked out, without gradients of their parameters.
        frozen_target: their targets, likewise.
    """

    def __init__(
        self, observations: int, actions: int, config: ActorCriticConfig, *, device: torch.device, seed: int
    ) -> None:
        self.config, self.device, self.num_actions = config, device, actions
        self.generator = make_generator(device, seed)
        with building(device, seeded_generator(seed, "network").initial_seed()):
            self.actor = StackedMLP(1, observations, config.hidden, 2 * actions)
            self.critic = self._critics(observations + actions)
            self.target = self._critics(observations + actions).requires_grad_(False)
            self.frozen, self.frozen_target = (
                StackedMLP(2, observations + actions, config.hidden).requires_grad_(False) for _ in range(2)
            )
            self.log_temperature = torch.full((), math.log(config.initial_temperature), requires_grad=True)
        self.target.load_state_dict(self.critic.state_dict())
        self._actor_weights, self._critic_weights, self._target_weights = (
            FlatParameters(network) for network in (self.actor, self.critic, self.target)
        )
        self.log_temperature.grad = torch.zeros_like(self.log_temperature)
        rate = config.learning_rate
        learned: dict[str, tuple[Tensor, float]] = {
            "actor": (self._actor_weights.vector, config.actor_learning_rate or rate),
            "critic": (self._critic_weights.vector, rate),
            "temperature": (self.log_temperature, config.temperature_learning_rate or rate),
        }
        self._learned = {name: vector for name, (vector, _) in learned.items()}
        self._optimizers = {
            name: torch.optim.Adam([vector], lr=lr, fused=True) for name, (vector, lr) in learned.items()
        }
        entropy = config.target_entropy
        self.target_entropy = -float(actions) if entropy is None else entropy
        self.moments = RunningMoments(observations, device)
        self.updates = 0
        """Gradient steps so far."""
        self._target_variance = torch.zeros((), device=device)
        self._warned = False
        self.largest = torch.zeros(2, device=device)
        """Largest |Q| and largest |reward - alpha log pi| of the batches so far."""
        self._share(self.critic, self.frozen)
        self._share(self.target, self.frozen_target)

    def _critics(self, inputs: int) -> StackedMLP:
        config = self.config
        if config.critic_regularizer == "spectral":
            return SpectralMLP(
                2, inputs, config.hidden, cap=config.spectral_cap, layers=config.spectral_layers
            )
        return StackedMLP(2, inputs, config.hidden)

    @staticmethod
    def _share(critics: StackedMLP, frozen: StackedMLP) -> None:
        """Let a stack without gradients, which actor and targets look at, be the critics as they are now.

        Without a cap it has their memory; capped weights are worked out after every update (:meth:`_cap`).
        """
        if isinstance(critics, SpectralMLP):
            critics.show(frozen)
            return
        for mine, theirs in zip(frozen.parameters(), critics.parameters(), strict=True):
            mine.data = theirs.data

    @staticmethod
    def _cap(critics: StackedMLP, frozen: StackedMLP, *, iterate: bool) -> None:
        """Work out the capped weights anew, if there are any."""
        if isinstance(critics, SpectralMLP):
            if iterate:
                critics.iterate()
            critics.show(frozen)

    # The policy and its values ---------------------------------------------------------------------------

    def noise(self, *shape: int) -> Tensor:
        """Return standard normal numbers on the device."""
        return normal(self.generator, *shape, device=self.device)

    @torch.no_grad()
    def act(self, obs: Tensor, *, deterministic: bool = False) -> Tensor:
        """Return actions [N, A] in (-1, 1) for observations [N, D]."""
        if deterministic:
            return self.mode(obs)
        return draw(self.actor(obs[None])[0], self.noise(len(obs), self.num_actions))[0]

    def mode(self, obs: Tensor) -> Tensor:
        """Return tanh(mu(s)) [N, A] of observations [N, D], differentiable by autograd."""
        output: Tensor = self.actor(obs[None])[0]
        return torch.tanh(output[:, : self.num_actions])

    def value(self, obs: Tensor) -> Tensor:
        """Return V(s) = min_i Q_i(s, tanh(mu(s))) [N] of observations [N, D]; gradients reach them alone."""
        values: Tensor = self.frozen(pairs(obs, self.mode(obs))).amin(0)
        return values

    def partial_gradients(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Return Q_i(s, tanh(mu(s))) [2, N] and dQ_i/ds [2, N, D] at fixed actions."""
        with torch.no_grad():
            inputs = pairs(obs, self.mode(obs))
        return self.frozen.input_gradient(inputs, slice(obs.shape[-1]))

    def total_gradients(self, obs: Tensor) -> Tensor:
        """Return d/ds Q_i(s, tanh(mu(s))) [2, N, D], the policy's answer to the state included."""

        def of(member: int) -> Tensor:
            def q(states: Tensor) -> Tensor:
                values: Tensor = self.frozen(pairs(states, self.mode(states)))[member]
                return values

            return with_gradient(q)(obs)[1]

        return torch.stack([of(0), of(1)])

    def critic_weights(self) -> list[Tensor]:
        """Return the weights [2, in, out] of the critics' layers, as they are used."""
        return self.frozen.weights()

    @property
    def temperature(self) -> Tensor:
        """Weight alpha [] of the entropy."""
        return self.log_temperature.detach().exp()

    # One gradient step -----------------------------------------------------------------------------------

    @torch.no_grad()
    def step(self, batch: Batch, *, evaluate: bool = False) -> dict[str, Tensor]:
        """Take one gradient step of critics, actor and temperature; return detached metrics.

        Args:
            batch: transitions, with actions in [-1, 1].
            evaluate: leave actor and temperature as they are: the critics learn what this policy is worth.
        """
        config = self.config
        noise = self.noise(2, len(batch.returns), self.num_actions)
        weights = batch.weights / batch.weights.sum().clamp(min=1.0)
        alpha = self.temperature
        targets, soft = self._targets(batch, noise[0], alpha)
        metrics = {"train/ent_coef": alpha, "train/target": targets @ weights}
        metrics |= self._improve_critics(batch, targets, weights)
        if not evaluate:
            metrics |= self._improve_actor(batch.obs, noise[1], alpha, weights)
        if config.learn_temperature and not evaluate:
            slope = self.log_temperature.grad
            assert slope is not None
            slope.copy_(metrics["train/entropy"] - self.target_entropy)
            self.descend("temperature")
        self.follow()
        torch.maximum(self.largest, torch.stack([metrics["train/q_largest"], soft]), out=self.largest)
        return metrics

    def descend(self, name: str, loss: Tensor | None = None) -> None:
        """Take Adam's step of actor, critic or temperature.

        Args:
            name: which of them.
            loss: step down its gradient, by autograd; None: down the gradient that is there.
        """
        vector, max_norm = self._learned[name], self.config.max_grad_norm
        assert vector.grad is not None
        if loss is not None:
            vector.grad.zero_()
            loss.backward()  # type: ignore[no-untyped-call]
        if max_norm is not None and name != "temperature":
            vector.grad.mul_(clip_factor(vector.grad, max_norm))
        fused_adam_step_(self._optimizers[name], vector)
        if name == "critic":
            self._cap(self.critic, self.frozen, iterate=self.updates % ITERATES_EVERY == 0)

    def follow(self) -> None:
        """Count a gradient step, and let the targets follow the critics if that is due."""
        config = self.config
        self.updates += 1
        if self.updates % config.target_update_gradient_steps == 0:
            self._target_weights.follow(self._critic_weights, config.tau)
            # The norms of targets that follow slowly change as slowly.
            jumps = config.tau > SLOW or config.target_update_gradient_steps > 1
            due = jumps or self.updates % TARGET_ITERATES_EVERY == 0
            self._cap(self.target, self.frozen_target, iterate=due)

    def _targets(self, batch: Batch, noise: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
        """Return y [B], and the largest |reward - alpha log pi| []."""
        actions, log_density = draw(self.actor(batch.next_obs[None])[0], noise)
        next_q = self.frozen_target(pairs(batch.next_obs, actions)).amin(0)
        soft = batch.returns - batch.discounts * alpha * log_density
        return soft + batch.discounts * next_q, (soft * batch.weights).abs().amax()

    def _improve_critics(self, batch: Batch, targets: Tensor, weights: Tensor) -> dict[str, Tensor]:
        """Step down the gradient of L_Q; the weights [B] sum to 1."""
        critic = self.critic
        clean = self.frozen.record(pairs(batch.obs, batch.actions))  # as they are, caps included
        errors = clean.outputs - targets
        slopes = errors * weights  # dL_Q/dQ
        metrics = {
            "train/critic_loss": 0.5 * (errors * slopes).sum(),
            "train/q": clean.outputs.mean(),
            "train/q_largest": (clean.outputs * (weights > 0.0)).abs().amax(),
        }
        states = self.attacked_states(batch, clean.outputs, targets)
        if states is None:
            critic.backward(clean, slopes)
        else:
            moved = self.frozen.record(pairs(states, batch.actions))
            gaps = moved.outputs - clean.outputs
            of_gaps = 2.0 * self.robust_weight() * weights * gaps
            critic.backward(moved, of_gaps)
            critic.backward(clean, slopes if self.config.robust_stop_gradient else slopes - of_gaps, add=True)
            metrics["train/robust_gap"] = (gaps.square() @ weights).mean().sqrt()
        if isinstance(critic, SpectralMLP):
            critic.pull_back()
        self.descend("critic")
        return metrics

    def attacked_states(self, batch: Batch, clean: Tensor, targets: Tensor) -> Tensor | None:
        """Return states s~ [2, B, D] that change the critics most; None if the robust term is not due.

        Args:
            batch: transitions.
            clean: [2, B] the critics at the states themselves.
            targets: [B] what they should be.
        """
        config, obs = self.config, batch.obs
        if config.critic_regularizer != "robust":
            return None
        rate = VARIANCE_RATE if self.updates else 1.0
        self._target_variance.lerp_(targets.var(correction=0), rate)
        if self.updates % config.robust_every:
            return None
        draws = uniform(self.generator, 2, *obs.shape, device=self.device)
        return adversarial_states(
            lambda states: self.frozen.input_gradient(pairs(states, batch.actions), slice(obs.shape[1])),
            obs, clean, config.robust_eps * self.moments.std(STD_FLOOR), 2.0 * draws - 1.0,
            config.attack_steps,
        )  # fmt: skip

    def robust_weight(self) -> Tensor | float:
        """Return the weight of the robust term, normalised if wanted."""
        weight = self.config.robust_weight
        return weight / (self._target_variance + 1.0) if self.config.robust_normalize else weight

    def _improve_actor(self, obs: Tensor, noise: Tensor, alpha: Tensor, weights: Tensor) -> dict[str, Tensor]:
        """Step down the gradient of L_pi; the critics' parameters need none."""
        record = self.actor.record(obs[None])
        actions, log_density = draw(record.outputs[0], noise)
        critics = self.frozen.record(pairs(obs, actions))
        q, smaller = critics.outputs.min(0)
        chosen = torch.arange(2, device=self.device)[:, None] == smaller
        slopes = self.frozen.backward(
            critics, -weights * chosen, parameters=False, inputs=slice(obs.shape[1], None)
        )
        assert slopes is not None
        of_output = squashed_gaussian_gradient(
            record.outputs[0], noise, actions, slopes.sum(0), alpha * weights
        )
        self.actor.backward(record, of_output[None])
        self.descend("actor")
        entropy = -(log_density @ weights)
        return {"train/actor_loss": -alpha * entropy - q @ weights, "train/entropy": entropy}

    # What a continuation needs ---------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return everything a bit-equal continuation needs."""
        return {
            "actor": self.actor.state_dict(),
            "critic": self.critic.state_dict(),
            "target": self.target.state_dict(),
            "log_temperature": self.log_temperature.detach(),
            "optimizers": {name: part.state_dict() for name, part in self._optimizers.items()},
            "moments": self.moments.state_dict(),
            "target_variance": self._target_variance,
            "updates": self.updates,
            "largest": self.largest,
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned."""
        for name in ("actor", "critic", "target"):
            getattr(self, name).load_state_dict(state[name])
        with torch.no_grad():
            self.log_temperature.copy_(state["log_temperature"])
        for name, part in self._optimizers.items():
            part.load_state_dict(copy.deepcopy(state["optimizers"][name]))
        self.moments.load_state_dict(state["moments"])
        self._target_variance.copy_(state["target_variance"])
        self.updates = int(state["updates"])
        restore_generator(self.generator, state["generator"])
        self.largest.copy_(state["largest"])
        self._share(self.critic, self.frozen)
        self._share(self.target, self.frozen_target)

    @property
    def largest_q(self) -> float:
        """Largest |Q| of the batches so far; waits for the device."""
        return float(self.largest[0])

    def check(self) -> None:
        """Warn of values that no policy could have; waits for the device."""
        largest, reward = self.largest.tolist()
        bound = reward / (1.0 - self.config.gamma) if self.config.gamma < 1.0 else math.inf
        if largest > bound and not self._warned:
            self._warned = True
            warnings.warn(f"|Q| reaches {largest:.4g}, but rewards with the entropy's part are at most "
                          f"{reward:.4g}, so that no policy is worth more than {bound:.4g}: the critics "
                          "diverge", stacklevel=2)  # fmt: skip
