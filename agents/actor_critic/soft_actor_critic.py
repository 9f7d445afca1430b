"""Soft actor-critic (Haarnoja et al. 2018, arXiv 1812.05905), with critics that can be kept smooth.

A squashed Gaussian policy pi maximises reward plus alpha times its entropy. Two critics Q_1, Q_2, of which
the smaller one counts, learn from a target that follows them slowly,

    y = r + gamma^K (min_i Q_i^-(s', a') - alpha log pi(a'|s')),  a' ~ pi(.|s'),
    L_Q = sum_i E (Q_i(s, a) - y)^2 / 2,
    L_pi = E (alpha log pi(a|s) - min_i Q_i(s, a)),  a ~ pi(.|s),
    L_alpha = -E log alpha (log pi(a|s) + H),

with H the target entropy. ``critic_regularizer`` bounds how much the critics may change between close states
(Zheng et al. 2023, arXiv 2302.01244, who found that this is what an ensemble of models does for MBPO):

- spectral: every capped layer of critics and targets has a spectral norm of at most ``spectral_cap``;
- robust: L_Q + lambda sum_i E max_{|s~ - s| <= eps sd} (Q_i(s~, a) - Q_i(s, a))^2, the maximum found by an
  attack (``prefrl.functional.actor_critic.smoothness.adversarial_states``).

The paper's own coefficients could not be verified; the defaults here are this library's.

:class:`SoftActorCritic` holds the networks and takes one gradient step on a batch;
:class:`prefrl.agents.SAC` is the agent that keeps a replay for it, and :class:`prefrl.agents.MBPO` the one
that imagines its batches. Gradients are in closed form (``StackedMLP.backward``): on small networks the
record that autograd keeps costs a sixth of a step.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from prefrl.config import check_kinds
from prefrl.data import seeded_generator
from prefrl.data.devices import building, make_generator, restore_generator
from prefrl.data.moments import RunningMoments
from prefrl.data.replay import Batch
from prefrl.functional.actor_critic.smoothness import adversarial_states, with_gradient
from prefrl.functional.actor_critic.squashed_gaussian import squashed_gaussian, squashed_gaussian_gradient
from prefrl.functional.draws import normal, uniform
from prefrl.nn.flat import FlatParameters, fused_adam_step_
from prefrl.nn.mlp import Record, StackedMLP
from prefrl.nn.spectral import CappedLayers, SpectralMLP

CriticRegularizer = Literal["none", "spectral", "robust"]
"""What keeps the critics smooth; see the module's text."""

RobustAttack = Literal["uniform", "one_step", "multi_step"]
"""How the state within the box is found: at random, by one step of its gradient's sign, by several."""

STD_FLOOR = 1e-3
"""Least standard deviation of an observation's entry, where boxes are measured in it."""

ITERATES_EVERY, TARGET_ITERATES_EVERY = 2, 8
"""Gradient steps between two looks at the spectral norms of the critics, and of their targets."""

SLOW = 0.01
"""Largest tau of which targets are said to follow slowly."""

VARIANCE_RATE = 0.01
"""Share of the newest batch in the running variance of the targets."""


def check_counts(config: Any, *names: str) -> None:
    """Raise ValueError unless each named field is at least 1."""
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"{name} is {getattr(config, name)}; it must be at least 1")


@dataclass(frozen=True)
class ActorCriticConfig:
    """Settings of actor and critics; the defaults are Stable-Baselines3's where it has the same setting."""

    hidden: tuple[int, ...] = (256, 256)
    """Sizes of the hidden layers of actor and critics, ReLU."""

    learning_rate: float = 3e-4
    """Adam's step size, of everything that has none of its own."""

    actor_learning_rate: float | None = None
    """Adam's step size of the actor; None: learning_rate."""

    temperature_learning_rate: float | None = None
    """Adam's step size of the temperature; None: learning_rate."""

    batch_size: int = 256
    """Transitions of a gradient step."""

    gamma: float = 0.99
    """Discount per step, in [0, 1]."""

    tau: float = 0.005
    """Share of the critics in their targets at every update of those, in (0, 1]."""

    target_update_interval: int = 1
    """Gradient steps between two updates of the targets."""

    initial_temperature: float = 1.0
    """Weight alpha of the entropy at the start, positive."""

    learn_temperature: bool = True
    """Learn alpha, so that the entropy comes to target_entropy; else it stays as it is."""

    target_entropy: float | None = None
    """Entropy that the temperature aims at, in nats; None: minus the number of action entries."""

    max_grad_norm: float | None = None
    """Gradients of critics and actor are cut to this norm; None: they are not."""

    critic_regularizer: CriticRegularizer = "none"
    """What keeps the critics smooth: nothing (none), a cap on the spectral norms of their layers (spectral),
    or a penalty on how much the worst close state changes them (robust)."""

    spectral_cap: float = 1.0
    """Largest spectral norm of a capped layer, positive; hidden layers only: 1 and a free output layer."""

    spectral_layers: CappedLayers = "hidden"
    """Cap the layers below the output layer, or all."""

    robust_eps: float = 0.02
    """Half side of the box around a state, in standard deviations of each entry, positive."""

    robust_weight: float = 0.1
    """Weight lambda of the robust term, not negative."""

    robust_normalize: bool = False
    """Divide the weight by the running variance of the targets plus one. Squared errors and robust term grow
    alike with the scale of the rewards, so this is not needed to serve rewards of any scale."""

    robust_attack: RobustAttack = "one_step"
    """uniform noise, one_step (FGSM) or multi_step (PGD)."""

    robust_attack_steps: int = 3
    """Steps of a multi_step attack."""

    robust_every: int = 1
    """Gradient steps between two with the robust term."""

    robust_stop_gradient: bool = False
    """Let the robust term move the critics at the attacked state only, not at the state itself."""

    def __post_init__(self) -> None:
        check_kinds(self)
        object.__setattr__(self, "hidden", tuple(self.hidden))  # a file holds a list
        for name, kind in (("critic_regularizer", CriticRegularizer), ("robust_attack", RobustAttack),
                           ("spectral_layers", CappedLayers)):  # fmt: skip
            if getattr(self, name) not in get_args(kind):
                allowed = ", ".join(get_args(kind))
                raise ValueError(f"{name} is {getattr(self, name)!r}; allowed are {allowed}")
        if not self.hidden or min(self.hidden) < 1:
            raise ValueError(f"hidden is {self.hidden}; give at least one size, each at least 1")
        check_counts(self, "batch_size", "target_update_interval", "robust_attack_steps", "robust_every")
        for name in ("learning_rate", "actor_learning_rate", "temperature_learning_rate",
                     "initial_temperature", "max_grad_norm", "spectral_cap", "robust_eps"):  # fmt: skip
            value = getattr(self, name)
            if value is not None and not value > 0.0:
                raise ValueError(f"{name} is {value}; it must be positive")
        if not self.robust_weight >= 0.0:
            raise ValueError(f"robust_weight is {self.robust_weight}; it must not be negative")
        if not 0.0 <= self.gamma <= 1.0:
            raise ValueError(f"gamma is {self.gamma}; it must lie in [0, 1]")
        if not 0.0 < self.tau <= 1.0:
            raise ValueError(f"tau is {self.tau}; it must lie in (0, 1]")

    @property
    def attack_steps(self) -> int:
        """Steps of the attack."""
        return {"uniform": 0, "one_step": 1, "multi_step": self.robust_attack_steps}[self.robust_attack]


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
            self._frozen, self._frozen_target = (
                StackedMLP(2, observations + actions, config.hidden).requires_grad_(False) for _ in range(2)
            )
            self.log_temperature = torch.full((), math.log(config.initial_temperature))
        self.target.load_state_dict(self.critic.state_dict())
        self._actor_weights, self._critic_weights, self._target_weights = (
            FlatParameters(network) for network in (self.actor, self.critic, self.target)
        )
        self.log_temperature.grad = torch.zeros_like(self.log_temperature)
        rate = config.learning_rate
        learned = {
            "actor": (self._actor_weights.vector, config.actor_learning_rate or rate),
            "critic": (self._critic_weights.vector, rate),
            "temperature": (self.log_temperature, config.temperature_learning_rate or rate),
        }
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
        self._share(self.critic, self._frozen)
        self._share(self.target, self._frozen_target)

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

    # The policy and its value ----------------------------------------------------------------------------

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
        values: Tensor = self._frozen(pairs(obs, self.mode(obs))).amin(0)
        return values

    def partial_gradients(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Return Q_i(s, tanh(mu(s))) [2, N] and dQ_i/ds [2, N, D] at fixed actions."""
        with torch.no_grad():
            inputs = pairs(obs, self.mode(obs))
        return self._frozen.input_gradient(inputs, slice(obs.shape[-1]))

    def total_gradients(self, obs: Tensor) -> Tensor:
        """Return d/ds Q_i(s, tanh(mu(s))) [2, N, D], the policy's answer to the state included."""

        def of(member: int) -> Tensor:
            def q(states: Tensor) -> Tensor:
                values: Tensor = self._frozen(pairs(states, self.mode(states)))[member]
                return values

            return with_gradient(q)(obs)[1]

        return torch.stack([of(0), of(1)])

    def critic_weights(self) -> list[Tensor]:
        """Return the weights [2, in, out] of the critics' layers, as they are used."""
        return self._frozen.weights()

    @property
    def temperature(self) -> Tensor:
        """Weight alpha [] of the entropy."""
        return self.log_temperature.exp()

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
            fused_adam_step_(self._optimizers["temperature"], self.log_temperature)
        self.updates += 1
        if self.updates % config.target_update_interval == 0:
            self._target_weights.follow(self._critic_weights, config.tau)
            # The norms of targets that follow slowly change as slowly.
            jumps = config.tau > SLOW or config.target_update_interval > 1
            due = jumps or self.updates % TARGET_ITERATES_EVERY == 0
            self._cap(self.target, self._frozen_target, iterate=due)
        torch.maximum(self.largest, torch.stack([metrics["train/q_largest"], soft]), out=self.largest)
        return metrics

    def _targets(self, batch: Batch, noise: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
        """Return y [B], and the largest |reward - alpha log pi| []."""
        actions, log_density = draw(self.actor(batch.next_obs[None])[0], noise)
        following = self._frozen_target(pairs(batch.next_obs, actions)).amin(0)
        soft = batch.returns - batch.discounts * alpha * log_density
        return soft + batch.discounts * following, (soft * batch.weights).abs().amax()

    def _improve_critics(self, batch: Batch, targets: Tensor, weights: Tensor) -> dict[str, Tensor]:
        """Step down the gradient of L_Q; the weights [B] sum to 1."""
        critic = self.critic
        clean = self._frozen.record(pairs(batch.obs, batch.actions))  # as they are, caps included
        errors = clean.outputs - targets
        slopes = errors * weights  # dL_Q/dQ
        metrics = {
            "train/critic_loss": 0.5 * (errors * slopes).sum(),
            "train/q": clean.outputs.mean(),
            "train/q_largest": (clean.outputs * (weights > 0.0)).abs().amax(),
        }
        moved = self._attacked(batch, clean.outputs, targets)
        if moved is None:
            critic.backward(clean, slopes)
        else:
            gaps = moved.outputs - clean.outputs
            of_gaps = 2.0 * self._robust_weight() * weights * gaps
            critic.backward(moved, of_gaps)
            critic.backward(clean, slopes if self.config.robust_stop_gradient else slopes - of_gaps, add=True)
            metrics["train/robust_gap"] = (gaps.square() @ weights).mean().sqrt()
        if isinstance(critic, SpectralMLP):
            critic.pull_back()
        self._take_step("critic", self._critic_weights)
        self._cap(critic, self._frozen, iterate=self.updates % ITERATES_EVERY == 0)
        return metrics

    def _attacked(self, batch: Batch, clean: Tensor, targets: Tensor) -> Record | None:
        """Return the critics' pass at states s~ that change them most; None if the robust term is not due."""
        config, obs = self.config, batch.obs
        if config.critic_regularizer != "robust":
            return None
        rate = VARIANCE_RATE if self.updates else 1.0
        self._target_variance.lerp_(targets.var(correction=0), rate)
        if self.updates % config.robust_every:
            return None
        draws = uniform(self.generator, 2, *obs.shape, device=self.device)
        moved = adversarial_states(
            lambda states: self._frozen.input_gradient(pairs(states, batch.actions), slice(obs.shape[1])),
            obs, clean, config.robust_eps * self.moments.std(STD_FLOOR), 2.0 * draws - 1.0,
            config.attack_steps,
        )  # fmt: skip
        return self._frozen.record(pairs(moved, batch.actions))

    def _robust_weight(self) -> Tensor | float:
        weight = self.config.robust_weight
        return weight / (self._target_variance + 1.0) if self.config.robust_normalize else weight

    def _improve_actor(self, obs: Tensor, noise: Tensor, alpha: Tensor, weights: Tensor) -> dict[str, Tensor]:
        """Step down the gradient of L_pi; the critics' parameters need none."""
        record = self.actor.record(obs[None])
        actions, log_density = draw(record.outputs[0], noise)
        critics = self._frozen.record(pairs(obs, actions))
        worth, smaller = critics.outputs.min(0)
        chosen = torch.arange(2, device=self.device)[:, None] == smaller
        slopes = self._frozen.backward(
            critics, -weights * chosen, parameters=False, inputs=slice(obs.shape[1], None)
        )
        assert slopes is not None
        of_output = squashed_gaussian_gradient(
            record.outputs[0], noise, actions, slopes.sum(0), alpha * weights
        )
        self.actor.backward(record, of_output[None])
        self._take_step("actor", self._actor_weights)
        entropy = -(log_density @ weights)
        return {"train/actor_loss": -alpha * entropy - worth @ weights, "train/entropy": entropy}

    def _take_step(self, name: str, weights: FlatParameters) -> None:
        if self.config.max_grad_norm is not None:
            weights.clip_gradient(self.config.max_grad_norm)
        fused_adam_step_(self._optimizers[name], weights.vector)

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
        self._share(self.critic, self._frozen)
        self._share(self.target, self._frozen_target)

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
