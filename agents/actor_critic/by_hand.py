"""One gradient step of soft actor-critic without autograd, of one learner or of many; perhaps compiled.

The losses are those of ``prefrl.agents.actor_critic.sac``, where the same step is written by autograd; the
tests hold the two equal. With S learners there is an axis of them: actors are a stack of S, critics and
targets stacks of 2 S, those of a learner side by side. Targets and actor's loss need the same actor, so that
it reads both kinds of states in one pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from prefrl.data.replay import Batch, ReplayBuffer
from prefrl.functional.actor_critic.squashed_gaussian import squashed_gaussian, squashed_gaussian_gradient
from prefrl.nn.adam import adam_step_
from prefrl.nn.flat import clip_factor
from prefrl.nn.mlp import Chain, Record
from prefrl.nn.update import CompiledMethod, GraphedStep

from .config import ActorCriticConfig

if TYPE_CHECKING:
    from .networks import SoftActorCritic


class Learning(Protocol):
    """What a gradient step asks of S learners; :class:`~prefrl.agents.actor_critic.networks.SoftActorCritic`.

    Attributes:
        config: settings.
        num_learners: S.
        chains: tensors of the stacks actor [S], critic and frozen, which has them as they are used, and
            frozen_target [2 S], by name.
        target_entropy: a number, or [S].
    """

    config: ActorCriticConfig
    num_learners: int
    chains: dict[str, Chain]
    target_entropy: Any

    @property
    def temperature(self) -> Tensor:
        """[], or [S, 1]."""

    def descend(self, name: str) -> None:
        """Take Adam's step of actor or critic, down the gradient that the chain has."""

    def learn_temperature(self, slopes: Tensor) -> None:
        """Take that of the temperature, down the gradient [S] in log alpha."""

    def follow(self) -> None:
        """Let the targets follow."""

    def attacked_states(self, batch: Batch, clean: Tensor, targets: Tensor) -> Tensor | None:
        """Return the states of the robust term, if there is one; of a single learner."""

    def robust_weight(self) -> Tensor | float:
        """Return the weight of that term."""


def draw(output: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Return actions [..., A] within (-1, 1) and log-densities [...] of an actor's output [..., 2A]."""
    mean, log_std = output.chunk(2, -1)
    return squashed_gaussian(mean, log_std, noise)


def twins(obs: Tensor, actions: Tensor) -> Tensor:
    """Return the critics' inputs [2 S, B, D + A] of states [S, B, D] and actions [S, B, A]."""
    joined = torch.cat([obs, actions], -1)
    if joined.shape[0] == 1:
        return joined.expand(2, -1, -1)
    return joined[:, None].expand(-1, 2, -1, -1).flatten(0, 1)


def pairs(obs: Tensor, actions: Tensor) -> Tensor:
    """Return the same of a single learner's states [N, D], or [2, N, D], and actions [N, A]."""
    if obs.ndim == 2:
        return torch.cat([obs, actions], -1).expand(2, -1, -1)
    return torch.cat([obs, actions.expand(2, -1, -1)], -1)


def step_by_hand(
    networks: Learning, batch: Batch, noise: Tensor, *, evaluate: bool = False
) -> dict[str, Tensor]:
    """Take one gradient step of critics, actor and temperature, with autograd off; return metrics [S].

    Args:
        networks: what learns.
        batch: [S * B, ...] transitions, learner by learner, with actions in [-1, 1].
        noise: [S, 2 B, A] standard normal numbers, for the actions after the transitions and at them.
        evaluate: leave actor and temperature as they are: the critics learn what this policy is worth.
    """
    learners, size = networks.num_learners, batch.returns.shape[0] // networks.num_learners

    def split(values: Tensor) -> Tensor:
        return values.view(learners, size, -1)

    obs, next_obs = split(batch.obs), split(batch.next_obs)
    mask = batch.weights.view(learners, size)
    weights = mask / mask.sum(1, keepdim=True).clamp_(min=1.0)
    alpha = networks.temperature
    record = networks.chains["actor"].record(torch.cat([next_obs, obs], 1))
    drawn, log_density = draw(record.outputs, noise)
    next_log_density, log_density = log_density[:, :size], log_density[:, size:]

    discounts = batch.discounts.view(learners, size)
    returns = batch.returns.view(learners, size)
    soft = torch.addcmul(returns, discounts * alpha, next_log_density, value=-1.0)
    next_q = networks.chains["frozen_target"].record(twins(next_obs, drawn[:, :size])).outputs
    targets = torch.addcmul(soft, discounts, next_q.view(learners, 2, size).amin(1))
    metrics = {
        "train/ent_coef": alpha.expand(learners, 1)[:, 0],
        "train/target": torch.linalg.vecdot(targets, weights),
        "reward_largest": torch.linalg.vector_norm(soft * mask, math.inf, 1),
    }
    metrics |= _improve_critics(networks, batch, targets, weights, mask)
    if not evaluate:
        later = Record([flow[:, size:] for flow in record.flows], record.weights, record.outputs[:, size:])
        metrics |= _improve_actor(networks, obs, later, noise[:, size:], drawn[:, size:], alpha * weights,
                                  weights)  # fmt: skip
        entropy = -torch.linalg.vecdot(log_density, weights)
        metrics["train/entropy"] = entropy
        metrics["train/actor_loss"] -= metrics["train/ent_coef"] * entropy
        if networks.config.learn_temperature:
            networks.learn_temperature(entropy - networks.target_entropy)
    networks.follow()
    return metrics


def _improve_critics(
    networks: Learning, batch: Batch, targets: Tensor, weights: Tensor, mask: Tensor
) -> dict[str, Tensor]:
    """Step down the gradient of L_Q, given targets, weights that sum to 1, and who counts, [S, B] each."""
    critic, frozen = networks.chains["critic"], networks.chains["frozen"]  # the latter as they are, capped
    obs, actions = (values.view(*targets.shape, -1) for values in (batch.obs, batch.actions))
    clean = frozen.record(twins(obs, actions))
    q = clean.outputs.view(targets.shape[0], 2, -1)
    errors = q - targets[:, None]
    slopes = errors * weights[:, None]  # dL_Q/dQ
    metrics = {
        "train/critic_loss": 0.5 * (errors * slopes).sum((1, 2)),
        "train/q": q.mean((1, 2)),
        "train/td_error": 0.5 * torch.linalg.vector_norm(slopes, 1, (1, 2)),
        "train/q_largest": torch.linalg.vector_norm(q * mask[:, None], math.inf, (1, 2)),
    }
    states = networks.attacked_states(batch, clean.outputs[..., 0], targets[0])
    if states is None:
        critic.pull(clean, slopes.view_as(clean.outputs))
    else:
        metrics["train/robust_gap"] = _pull_smooth(networks, batch, clean, slopes, states, weights)
    networks.descend("critic")
    return metrics


def _pull_smooth(
    networks: Learning, batch: Batch, clean: Record, slopes: Tensor, states: Tensor, weights: Tensor
) -> Tensor:
    """Put the gradients of L_Q with the robust term in place; return its root of the mean square [1]."""
    critic = networks.chains["critic"]
    moved = networks.chains["frozen"].record(pairs(states, batch.actions))
    gaps = moved.outputs - clean.outputs
    of_gaps = 2.0 * networks.robust_weight() * weights[..., None] * gaps
    critic.pull(moved, of_gaps)
    slopes = slopes.view_as(of_gaps)
    critic.pull(clean, slopes if networks.config.robust_stop_gradient else slopes - of_gaps, add=True)
    return (gaps[..., 0].square() @ weights[0]).mean().sqrt()[None]


def _improve_actor(
    networks: Learning, obs: Tensor, record: Record, noise: Tensor, actions: Tensor,
    of_log_density: Tensor, weights: Tensor,
) -> dict[str, Tensor]:  # fmt: skip
    """Step down the gradient of L_pi; the critics' parameters need none.

    Returns:
        The part of the loss that the critics give.
    """
    critics = networks.chains["frozen"].record(twins(obs, actions))
    learners, size = weights.shape
    q = critics.outputs.view(learners, 2, size)
    smaller, which = q.min(1, keepdim=True)
    of_q = torch.zeros_like(q).scatter_(1, which, -weights[:, None])
    slopes = networks.chains["frozen"].pull_inputs(
        critics, of_q.view_as(critics.outputs), slice(obs.shape[2], None)
    )
    of_actions = slopes.view(learners, 2, size, -1).sum(1)
    of_output = squashed_gaussian_gradient(record.outputs, noise, actions, of_actions, of_log_density)
    networks.chains["actor"].pull(record, of_output)
    networks.descend("actor")
    return {"train/actor_loss": -torch.linalg.vecdot(smaller[:, 0], weights)}


# Whole -------------------------------------------------------------------------------------------------


class WholeStep:
    """A gradient step as one function, from the reading of the replay to Adam, compiled or as a CUDA graph.

    Args:
        networks: what learns: a single learner whose critics have no regularizer.
        replay: with a step in it, so that its storage stays where it is.
        graph: whether it is a graph.
    """

    def __init__(self, networks: SoftActorCritic, replay: ReplayBuffer, *, graph: bool) -> None:
        self.networks, self.replay = networks, replay
        vectors = {name: flat.vector.detach() for name, flat in networks.flat.items()}
        self._vectors = {**vectors, "temperature": networks.log_temperature.detach()}
        self._adams = {name: adam.states[0] for name, adam in networks.optimizers.items()}
        self._rates = {
            name: torch.full((), adam.lr, device=networks.device)
            for name, adam in networks.optimizers.items()
        }
        fixed = self._vectors, self._adams, self._rates, replay.storage
        self._step: Callable[..., dict[str, Tensor]]
        if graph:
            self._step = GraphedStep(partial(self._functional, *fixed), networks.device)
        else:
            self._step = partial(CompiledMethod(self._functional), *fixed)

    @torch.no_grad()
    def __call__(self, batch_size: int) -> dict[str, Tensor]:
        """Take a step; see :meth:`SoftActorCritic.step`."""
        networks = self.networks
        drawn = self.replay.draw(batch_size, networks.generator)
        noise = networks.noise(1, 2 * batch_size, networks.num_actions)
        found = self._step(*drawn, noise)
        networks.follow()
        networks.remember(found)
        return {name: value[0] for name, value in found.items()}

    def _functional(
        self, vectors: dict[str, Tensor], adams: dict[str, dict[str, Tensor]], rates: dict[str, Tensor],
        storage: Mapping[str, Tensor], index: Tensor, newest: Tensor, noise: Tensor,
    ) -> dict[str, Tensor]:  # fmt: skip
        """Do the same as a function of tensors, but for the targets."""
        traced = Traced(self.networks, vectors, adams, rates)
        return step_by_hand(traced, self.replay.batch(storage, index, newest), noise)


class Traced:
    """A single learner in a step that is compiled or recorded, whose tensors are given.

    Args:
        networks: the learner.
        vectors: parameters of actor, critic and target, and log alpha.
        adams: states of Adam, by the same names.
        rates: step sizes [].
    """

    def __init__(
        self, networks: SoftActorCritic, vectors: dict[str, Tensor], adams: dict[str, dict[str, Tensor]],
        rates: dict[str, Tensor],
    ) -> None:  # fmt: skip
        self.config, self.num_learners, self.target_entropy = networks.config, 1, networks.target_entropy
        self.vectors, self.adams, self.rates = vectors, adams, rates
        self.gradients = {name: torch.empty_like(vectors[name]) for name in adams}
        self.chains = {}
        for name, flat in networks.flat.items():
            slopes = flat.named(self.gradients[name]) if name in adams else None
            self.chains[name] = Chain.named(flat.named(vectors[name]), slopes)
        self.chains |= {"frozen": self.chains["critic"], "frozen_target": self.chains["target"]}

    @property
    def temperature(self) -> Tensor:
        """See :class:`~prefrl.agents.actor_critic.by_hand.Learning`."""
        return self.vectors["temperature"].exp()

    def descend(self, name: str) -> None:
        """See there."""
        gradient, max_norm = self.gradients[name], self.config.max_grad_norm
        if max_norm is not None and name != "temperature":
            gradient = gradient * clip_factor(gradient, max_norm)
        adam_step_(self.vectors[name], gradient, self.adams[name], lr=self.rates[name])

    def learn_temperature(self, slopes: Tensor) -> None:
        """See there."""
        self.gradients["temperature"] = slopes[0]
        self.descend("temperature")

    def follow(self) -> None:
        """Do nothing: whether the targets follow is known outside."""

    def attacked_states(self, batch: Batch, clean: Tensor, targets: Tensor) -> None:
        """Return None: there is no robust term."""

    def robust_weight(self) -> float:
        """Return 0."""
        return 0.0
