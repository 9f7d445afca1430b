"""Actor, critics and their targets: what they are, how they act, what they say of states, how they go down.

The losses are those of ``prefrl.agents.actor_critic.sac``, where a gradient step is written by autograd;
``prefrl.agents.actor_critic.by_hand`` has the one that agents take.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from prefrl.data import seeded_generator
from prefrl.data.devices import building, low_dtype, make_generator, restore_generator
from prefrl.data.moments import RunningMoments
from prefrl.data.replay import Batch
from prefrl.functional.actor_critic.smoothness import adversarial_states, with_gradient
from prefrl.functional.actor_critic.squashed_gaussian import squashed_sample
from prefrl.functional.draws import normal, uniform
from prefrl.nn.adam import Adam
from prefrl.nn.flat import FlatParameters, cut_
from prefrl.nn.mlp import Chain, StackedMLP, joined
from prefrl.nn.spectral import SpectralMLP

from .by_hand import draw as draw, pairs as pairs, step_by_hand
from .config import ActorCriticConfig

STD_FLOOR = 1e-3
"""Least standard deviation of an observation's entry, where boxes are measured in it."""

ITERATES_EVERY, TARGET_ITERATES_EVERY = 2, 8
"""Gradient steps between two looks at the spectral norms of the critics, and of their targets."""

SLOW = 0.01
"""Largest tau of which targets are said to follow slowly."""

VARIANCE_RATE = 0.01
"""Share of the newest batch in the running variance of the targets."""


class SoftActorCritic:
    """Networks and gradient step of soft actor-critic; actions are in (-1, 1) here.

    Args:
        observations: D, size of an observation.
        actions: A, size of an action.
        config: settings.
        device: torch device.
        seed: seeds networks and noise; those of S learners: each has networks of its own (only for
            :class:`prefrl.agents.actor_critic.sac_learners.ManyActorCritics`).

    Attributes:
        num_learners: S; 1 here.
        actor: the policy, a stack of S: mean and log standard deviation [S, N, 2A] before squashing.
        critic: the critics as one stack of 2 S, both of a learner side by side.
        target: their targets.
        log_temperature: [] log alpha.
        moments: of the observations of real transitions.
        frozen: the critics as they are now, caps worked out, without gradients of their parameters.
        frozen_target: their targets, likewise.
        chains: tensors of these stacks, by name.
        flat: parameters of actor, critic and target as vectors, by name.
        optimizers: of actor, critic and temperature, by name.
    """

    moments: Any
    target_entropy: Any

    def __init__(
        self, observations: int, actions: int, config: ActorCriticConfig, *, device: torch.device,
        seed: int | Sequence[int],
    ) -> None:  # fmt: skip
        seeds = [seed] if isinstance(seed, int) else list(seed)
        self.config, self.device, self.num_learners = config, device, len(seeds)
        self.observations, self.num_actions = observations, actions
        self.generator = make_generator(device, seeds[0])
        made = [self._made(seed) for seed in seeds]
        self.actor, self.critic = (joined(stacks) for stacks in zip(*made, strict=True))
        with building(device, seeds[0]):
            self.target, self.frozen, self.frozen_target = (
                network.requires_grad_(False)
                for network in (joined([self._critics() for _ in seeds]), *(self._uncapped() for _ in "12"))
            )
        self.target.load_state_dict(self.critic.state_dict())
        self._make_learned()
        gamma = config.gamma
        self._gammas = gamma if isinstance(gamma, tuple) else [gamma] * self.num_learners
        self._acting = [
            (weight.detach(), bias.detach())
            for weight, bias in zip(self.actor.weights(), self.actor.biases(), strict=True)
        ]
        self.updates = 0
        """Gradient steps so far."""
        self._target_variance = torch.zeros((), device=device)
        self._warned = False
        self._share(self.critic, self.frozen)
        self._share(self.target, self.frozen_target)
        names = "actor", "critic", "frozen", "frozen_target"
        low = low_dtype(config.precision, device, config.hidden)
        self.chains = {name: Chain.of(getattr(self, name), low) for name in names}

    def _made(self, seed: int) -> tuple[StackedMLP, StackedMLP]:
        """Return actor and critics of a learner."""
        with building(self.device, seeded_generator(seed, "network").initial_seed()):
            actor = StackedMLP(1, self.observations, self.config.hidden, 2 * self.num_actions)
            return actor, self._critics()

    def _make_learned(self) -> None:
        """Make flat weights, temperature and optimisers, and what is known of observations and targets."""
        config, device = self.config.of_learner(0), self.device
        rate, start, entropy = config.learning_rate, config.initial_temperature, config.target_entropy
        assert not isinstance(start, tuple)
        self.flat = {name: FlatParameters(getattr(self, name)) for name in ("actor", "critic", "target")}
        self.log_temperature = torch.full((), math.log(start), device=device, requires_grad=True)
        self.log_temperature.grad = torch.zeros_like(self.log_temperature)
        self.target_entropy = -float(self.num_actions) if entropy is None else entropy
        learned: dict[str, tuple[Tensor, Any]] = {
            "actor": (self.flat["actor"].vector, config.actor_learning_rate or rate),
            "critic": (self.flat["critic"].vector, rate),
            "temperature": (self.log_temperature, config.temperature_learning_rate or rate),
        }
        self._learned = {name: vector for name, (vector, _) in learned.items()}
        self.optimizers: dict[str, Any] = {
            name: Adam([vector], lr=lr) for name, (vector, lr) in learned.items()
        }
        self.moments = RunningMoments(self.observations, device)
        self.largest = torch.zeros(2, device=device)
        """Largest |Q| and largest |reward - alpha log pi| of the batches so far."""

    def _critics(self) -> StackedMLP:
        """Return two critics."""
        config, inputs = self.config, self.observations + self.num_actions
        if config.critic_regularizer == "spectral":
            return SpectralMLP(
                2, inputs, config.hidden, cap=config.spectral_cap, layers=config.spectral_layers
            )
        return StackedMLP(2, inputs, config.hidden)

    def _uncapped(self) -> StackedMLP:
        """Return a stack of plain critics for all learners."""
        return StackedMLP(2 * self.num_learners, self.observations + self.num_actions, self.config.hidden)

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

    def act(self, obs: Tensor, *, deterministic: bool = False) -> Tensor:
        """Return actions [N, A] in (-1, 1) for observations [N, D], without gradients."""
        if deterministic:
            with torch.no_grad():
                return self.mode(obs)
        # The actor's own pass, less what modules cost: half of the time for a single row.
        x, (*inner, (weight, bias)) = obs[None], self._acting
        for inner_weight, inner_bias in inner:
            x = torch.relu_(torch.baddbmm(inner_bias, x, inner_weight))
        mean, log_std = torch.baddbmm(bias, x, weight)[0].chunk(2, -1)
        return squashed_sample(mean, log_std, self.noise(len(obs), self.num_actions))

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

    @torch.inference_mode()  # which makes small networks' step 1.16 times as fast as no_grad does
    def step(self, batch: Batch, *, evaluate: bool = False) -> dict[str, Tensor]:
        """Take one gradient step of critics, actor and temperature; return detached metrics.

        Args:
            batch: transitions, with actions in [-1, 1].
            evaluate: leave actor and temperature as they are: the critics learn what this policy is worth.
        """
        noise = self.noise(1, 2 * len(batch.returns), self.num_actions)
        found = step_by_hand(self, batch, noise, evaluate=evaluate)
        self.remember(found)
        return dict(zip(found, torch.stack(list(found.values()))[:, 0].unbind(0), strict=True))

    def remember(self, found: dict[str, Tensor]) -> None:
        """Keep the largest numbers of a step's metrics [S]."""
        both = torch.stack([found["train/q_largest"], found.pop("reward_largest")], -1)
        torch.fmax(self.largest, both.view_as(self.largest), out=self.largest)

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
        elif name == "critic" and isinstance(self.critic, SpectralMLP):
            self.critic.pull_back()
        if max_norm is not None and name != "temperature":
            cut_(vector.grad, max_norm)
        self.optimizers[name].step()
        if name == "critic":
            self._cap(self.critic, self.frozen, iterate=self.updates % ITERATES_EVERY == 0)

    def learn_temperature(self, slopes: Tensor) -> None:
        """Step down the gradient [S] of L_alpha in log alpha."""
        gradient = self.log_temperature.grad
        assert gradient is not None
        gradient.copy_(slopes.view_as(gradient))
        self.descend("temperature")

    def follow(self) -> None:
        """Count a gradient step, and let the targets follow the critics if that is due."""
        config = self.config
        self.updates += 1
        if self.updates % config.target_update_gradient_steps == 0:
            self.flat["target"].follow(self.flat["critic"], config.tau)
            # The norms of targets that follow slowly change as slowly.
            jumps = config.tau > SLOW or config.target_update_gradient_steps > 1
            due = jumps or self.updates % TARGET_ITERATES_EVERY == 0
            self._cap(self.target, self.frozen_target, iterate=due)

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

    # What a continuation needs ---------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return everything a bit-equal continuation needs."""
        return {
            "actor": self.actor.state_dict(),
            "critic": self.critic.state_dict(),
            "target": self.target.state_dict(),
            "log_temperature": self.log_temperature.detach(),
            "optimizers": {name: part.state_dict() for name, part in self.optimizers.items()},
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
        for name, part in self.optimizers.items():
            part.load_state_dict(state["optimizers"][name])
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
        return float(self.largest[..., 0].amax())

    def check(self) -> None:
        """Warn of values that no policy could have; waits for the device."""
        for learner, (largest, reward) in enumerate(self.largest.view(-1, 2).tolist()):
            gamma = self._gammas[learner]
            bound = reward / (1.0 - gamma) if gamma < 1.0 else math.inf
            if largest > bound and not self._warned:
                self._warned = True
                of = f" of learner {learner}" if self.num_learners > 1 else ""
                warnings.warn(f"|Q|{of} reaches {largest:.4g}, but rewards with the entropy's part are at "
                              f"most {reward:.4g}, so that no policy is worth more than {bound:.4g}: the "
                              "critics diverge", stacklevel=2)  # fmt: skip
