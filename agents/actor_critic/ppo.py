"""Proximal policy optimisation (Schulman et al. 2017, arXiv 1707.06347), for one learner or for many.

T steps of all environments are a rollout. Its rows have advantages A by generalised advantage estimation
(:func:`~prefrl.functional.actor_critic.policy_gradient.generalized_advantages`) and returns R = A + V(s).
For some epochs the policy climbs, batch by batch,

    L = E[ min(rho A, clip(rho, 1 - eps, 1 + eps) A) + c_H H(pi(.|s)) - c_V (V(s) - R)^2 ],
    rho = pi(a|s) / pi_old(a|s),

with A normalised in each batch; then the rollout is thrown away. (A may also be of whole episodes among those
that started alike, without V; see :mod:`prefrl.functional.actor_critic.grouped`.) Policy and value are
multilayer perceptrons of their own, or read the features of a torso: a convolution for pictures, or any torch
module. L's gradients in what the networks say are written out; from there they go back to the parameters by
hand or, through a torso, by autograd.

A time limit is not an end: the value of the true successor stands for what would have followed, whatever
the environment does with the row afterwards, and also where a rollout or a call of ``learn`` stops.

**Many learners.** With ``num_learners`` S, all of this has an axis of learners: S policies of S seeds act in
S times as many environments, and learn by the same number of operations as one. Learner i has seed
``seed + i``, and is the same whoever its neighbours are. Step size, entropy's weight and discount may be
given for each.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from prefrl.agents.base import Spaces
from prefrl.agents.shared import ManyLearners, check_torso
from prefrl.data import Transitions
from prefrl.data.moments import StackedMoments
from prefrl.data.observations import ObservationLayout
from prefrl.data.rollouts import Rollout, by_learner, each, in_time, one_of
from prefrl.functional.actor_critic.policy_gradient import (
    clipped_surrogate,
    discounted_sums,
    explained_variance,
    generalized_advantages,
    squared_errors,
    standardized,
)
from prefrl.functional.streams import Ahead, Streams
from prefrl.nn.adam import Descent
from prefrl.nn.likelihood_policies import Actions
from prefrl.nn.update import GraphedStep, check_cuda_graph

from .grouped.episodes import GroupedEpisodes
from .policy_value import PolicyValue, policy_value
from .ppo_config import LARGEST, ROLLOUT, SHORTEST, TERMS, TOO_FAR, PPOConfig as PPOConfig


class PPO(ManyLearners):
    """Proximal policy optimisation; see the module's text.

    Args:
        env: an environment, with as many rows for each learner, or :class:`prefrl.agents.base.Spaces`.
            Discrete, MultiDiscrete or Box actions; observations as reward models take them, with one picture
            at most.
        config: settings.
        num_learners: S.
        torso: a network from observations to features in place of the settings'; see
            :func:`prefrl.nn.torsos.given_torso`. It learns by autograd, of several learners if ``torch.vmap``
            can call it, and is given again to :meth:`load`.
        device: torch device, or "auto".
        seed: of the first learner, the others having the next ones; or one of each.

    Raises:
        ValueError: if a space is of another kind, or settings are for another number of learners.

    Attributes:
        network: policy and value; every parameter is [S, ...].
        rollout: what was seen since the last update; None before the first step.
        acted: [n, ...] what must be told again with an action: what was drawn before it was cut to the
            space, and its log-probability; who observes an action later than the next step puts it into the
            ``infos`` of its transitions.
    """

    config_class: ClassVar[type[PPOConfig]] = PPOConfig
    config: PPOConfig
    keeps_rewards = True
    advice = "a lower learning_rate may help"

    def __init__(
        self,
        env: Any,
        config: PPOConfig | None = None,
        *,
        num_learners: int = 1,
        torso: nn.Module | None = None,
        device: torch.device | str = "auto",
        seed: int | Sequence[int] = 0,
    ) -> None:
        super().__init__(env, config or PPOConfig(), num_learners=num_learners, device=device, seed=seed)
        config, device, learners, seeds = self.config, self.device, self.num_learners, self.seeds
        if "linear" in (config.schedule, config.clip_schedule) and config.schedule_timesteps is None:
            raise ValueError("schedule_timesteps is None; a linear schedule needs a number of timesteps")
        self._by_learner = partial(by_learner, learners=learners)
        self.layout = ObservationLayout(self.observation_space)
        if config.normalize_observations and not self.layout.vector_size:
            raise ValueError(f"normalize_observations is True; it must be False where observation_space is "
                             f"{self.observation_space}: pictures are read as shares of 255")  # fmt: skip
        self.actions = Actions(self.action_space, device, "PPO")
        distribution = self.actions.distribution
        self._torso = torso
        self.network = policy_value(self.layout, distribution, config, seeds, device, torso)
        self.descent = Descent(self.network.vectors, rates=config.learning_rate, eps=config.adam_eps,
                               max_grad_norm=config.max_grad_norm)  # fmt: skip
        check_cuda_graph(config.cuda_graph, device)
        if config.cuda_graph and not isinstance(self.network, PolicyValue):
            raise ValueError("cuda_graph is True; with a torso, given or of the settings, it must be False")
        self._graph = GraphedStep(self._step, device) if config.cuda_graph else None
        self._noise = Ahead(Streams(seeds, "actions", device), distribution.noise)
        self._orders = Streams(seeds, "batches", device)
        self._gamma, self._ent_coef = (
            each(value, learners, device) for value in (config.gamma, config.ent_coef)
        )
        self._seen = StackedMoments(learners, self.layout.vector_size, device, self.layout.numeric)
        self._sums = StackedMoments(learners, 1, device)
        self.rollout: Rollout | None = None
        self._since_start: Tensor | None = None  # discounted rewards [S * n] of the episodes under way
        self._groups = None if config.advantage == "gae" else GroupedEpisodes(env, config, learners)
        self._vf_coef = config.vf_coef if self._groups is None else 0.0
        self.acted: dict[str, Tensor] = {}

    # Acting ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def act(self, obs: Any, *, deterministic: bool = False) -> Tensor:
        """Return actions [S * n, ...] for observations [S * n, ...]: drawn, or the most likely ones."""
        inputs = self._normalized(self._read(self._by_learner(self.layout.keep(obs)[None])))
        outputs, distribution = self.network.outputs(*inputs), self.actions.distribution
        if deterministic:
            return self.actions.to_env(distribution.mode(outputs).flatten(0, 1))
        free = self.network.free.detach()
        raw = distribution.draw(outputs, free, self._noise.next(outputs.shape[1]))
        log_probs = distribution.evaluate(outputs, free, raw).log_probs
        self.acted = {"raw_actions": raw.flatten(0, 1), "log_probs": log_probs.flatten()}
        return self.actions.to_env(self.acted["raw_actions"])

    def _read(self, kept: Tensor) -> tuple[Tensor, ...]:
        """Return observations as they are kept [S, M, ...] as numbers [S, M, D], and pictures, if any."""
        parts = self.layout.split(kept.flatten(0, 1))
        return tuple(part.view(*kept.shape[:2], *part.shape[1:]) for part in parts if part is not None)

    def _normalized(self, read: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return what the networks read of what :meth:`_read` returned."""
        if not self.config.normalize_observations:
            return read
        return self._seen.normalized(read[0], LARGEST), *read[1:]

    # Observing -------------------------------------------------------------------------------------------

    def observe(self, transitions: Transitions) -> None:
        """Keep one step of the environments."""
        rows = len(transitions.rewards) // self.num_learners
        if self.rollout is None:
            self.rollout = Rollout(self.config.n_steps or max(SHORTEST, ROLLOUT // rows))
        if self._since_start is None:
            self._since_start = torch.zeros(len(transitions.rewards), device=self.device)
        acted = {name: transitions.infos.get(name, known) for name, known in self.acted.items()}
        self.rollout.add(
            {
                "obs": self.layout.keep(transitions.obs),
                "next_obs": self.layout.keep(transitions.next_obs),
                "rewards": transitions.rewards.to(torch.float32),
                "terminations": transitions.terminations,
                "truncations": transitions.truncations,
                "mask": transitions.mask,
                **acted,
                **({} if self._groups is None else self._groups.aged(transitions)),
            }
        )

    def restarted(self) -> None:
        """See :meth:`Agent.restarted`: what was cut off is worth what would have followed."""
        if self._groups is not None:
            self._groups.ages = None  # what was under way is never over
            return
        if self.rollout is None:
            return
        self.rollout.cut()
        if not self.rollout.size and self._since_start is not None:
            self._since_start.zero_()  # the row before the first is another episode's

    def kept_steps(self) -> int:
        """See :meth:`Agent.kept_steps`: those of the rollout under way."""
        return 0 if self.rollout is None else self.rollout.size

    def relabel(self, rewards: Tensor) -> None:
        """See :meth:`Agent.relabel`: all steps of a rollout are then paid by the same reward."""
        if self.rollout is not None:
            self.rollout.relabel(rewards)

    # Learning --------------------------------------------------------------------------------------------

    def update(self) -> dict[str, Tensor]:
        """Learn from a rollout that is full; see :meth:`Agent.update`."""
        if self.rollout is None or not self.rollout.full:
            return {}
        with torch.no_grad():
            metrics = self._learn(self.rollout.storage)
        self.rollout.clear()
        return metrics

    def advantages(self, steps: Mapping[str, Tensor], values: Tensor, next_values: Tensor) -> Tensor:
        """Return advantages [T, S * n]; another kind of them goes here.

        Args:
            steps: the rollout, [T, S * n, ...] by name.
            values: [T, S * n] of the observations.
            next_values: [T, S * n] of the true successors.
        """
        if self._groups is not None:
            return steps["advantages"]
        return generalized_advantages(
            steps["rewards"], values, next_values, steps["terminations"], steps["truncations"],
            self._gamma_of_rows(values.shape[1]), self.config.gae_lambda,
        )  # fmt: skip

    def _gamma_of_rows(self, rows: int) -> Tensor:
        return self._gamma.expand(-1, rows // self.num_learners).flatten()

    def _learn(self, steps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Take the gradient steps of a rollout, [T, S * n, ...] by name; return metrics."""
        config, learners = self.config, self.num_learners
        if config.normalize_rewards:
            steps = {**steps, "rewards": self._scaled(steps)}
        if self._groups is not None:
            steps = {**steps, **self._groups.advantages(steps)}
        seen, successors = (self._read(self._by_learner(steps[name])) for name in ("obs", "next_obs"))
        inputs = self._normalized(seen)
        values = self.network.values(*inputs)
        next_values = self.network.values(*self._normalized(successors))
        length = len(steps["rewards"])
        advantages = self.advantages(steps, in_time(values, length), in_time(next_values, length))
        advantages = self._by_learner(advantages)
        raw, log_probs, mask = (
            self._by_learner(steps[name]) for name in ("raw_actions", "log_probs", "mask")
        )
        returns, weights = advantages + values, mask.to(torch.float32)
        columns = torch.stack([advantages, returns, log_probs, weights, values])

        clip_range = config.clip_range * config.share(config.clip_schedule, self.num_timesteps)
        rate, going, terms = config.share(config.schedule, self.num_timesteps), self.descent.going, []
        size = mask.shape[1]
        shares: Sequence[float | Tensor] = (clip_range, rate)
        step: Callable[..., tuple[Tensor, Tensor]] = self._graph or self._step
        if self._graph is not None:  # which would keep numbers as they are now
            shares = [torch.full((), share, device=self.device) for share in (clip_range, rate)]
        firsts = size * torch.arange(learners, device=self.device)[:, None]
        for _ in range(config.n_epochs):
            order = (self._orders.permutations(size) + firsts).flatten()
            *x, acted = (
                rows.flatten(0, 1).index_select(0, order).view(rows.shape) for rows in (*inputs, raw)
            )
            shuffled = columns.flatten(1).index_select(1, order).view(columns.shape)
            for start in range(0, size, config.batch_size):
                part = slice(start, start + config.batch_size)
                batch = acted[:, part], shuffled[:, :, part], going, *shares
                going, found = step(*batch, *(rows[:, part] for rows in x))
                terms.append(found)
        if config.normalize_observations:
            self._seen.add(seen[0], weights)
        metrics = dict(zip(TERMS, torch.stack(terms).mean(0), strict=True))
        metrics["loss"] = (metrics["policy_gradient_loss"] + self._vf_coef * metrics["value_loss"]
                           + self._ent_coef[:, 0] * metrics["entropy_loss"])  # fmt: skip
        if self._groups is None:
            metrics["explained_variance"] = explained_variance(values, returns, weights)
        else:  # which have no value function
            del metrics["value_loss"]
            metrics["counted"] = weights.mean(1)
        metrics["learning_rate"] = rate * self.descent.optimizer.rates.expand(learners, 1)[:, 0]
        metrics["clip_range"] = torch.full_like(metrics["loss"], clip_range)
        if self.actions.distribution.width:
            metrics["std"] = self.network.free.exp().mean((1, 2))
        return {f"train/{name}": self.descent.mean(value) for name, value in metrics.items()}

    @torch.inference_mode()
    def _step(
        self, raw: Tensor, columns: Tensor, going: Tensor, clip_range: float | Tensor, rate: float | Tensor,
        *inputs: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Take a gradient step of the learners that are going; return who still is, and :data:`TERMS` [5, S].

        The gradients of the module's L in what the networks say are written by hand; tests hold them equal
        to autograd's.
        """
        config, network, distribution = self.config, self.network, self.actions.distribution
        advantages, returns, old_log_probs, mask, old_values = columns
        weights = mask / mask.sum(1, keepdim=True).clamp(min=1.0)
        if config.normalize_advantage:
            advantages = standardized(advantages, weights)
        passed = network.record(*inputs)
        said = distribution.evaluate(passed.outputs, network.free, raw)
        log_ratio = said.log_probs - old_log_probs
        ratio = log_ratio.exp()
        objective, moves = clipped_surrogate(ratio, advantages, clip_range)
        errors, slopes = squared_errors(passed.values, returns, old_values, config.clip_range_vf)

        of_log_probs = -(weights * moves * ratio * advantages)
        of_outputs, of_free = distribution.slopes(said.kept, of_log_probs, -self._ent_coef * weights)
        network.backward(passed, of_outputs, self._vf_coef * weights * slopes, of_free)
        clipped = ((ratio - 1.0).abs() > clip_range).to(ratio.dtype)
        terms = torch.stack([-objective, errors, -said.entropies, ratio - 1.0 - log_ratio, clipped])
        terms = (terms * weights).sum(-1)
        if config.target_kl is not None:
            going = going & (terms[3] <= TOO_FAR * config.target_kl)[:, None]
        self.descent.step(going, rate)
        return going, terms

    def check(self) -> None:
        """See :meth:`Agent.check`: of groups, also whether any can be learned from."""
        super().check()
        if self._groups is not None:
            self._groups.check()

    def _scaled(self, steps: Mapping[str, Tensor]) -> Tensor:
        """Return rewards [T, S * n] in units of the standard deviation of their discounted sums."""
        rewards, ended = steps["rewards"], steps["terminations"] | steps["truncations"]
        assert self._since_start is not None
        sums = discounted_sums(rewards, ended, self._since_start, self._gamma_of_rows(rewards.shape[1]))
        self._since_start = sums[-1] * ~ended[-1]
        self._sums.add(self._by_learner(sums)[..., None], self._by_learner(steps["mask"]).to(torch.float32))
        scales = self._sums.scale.expand(-1, rewards.shape[1] // self.num_learners, 1).flatten()
        return (rewards * scales).clamp(-LARGEST, LARGEST)

    # What came of it, and what a continuation needs -------------------------------------------------------

    def learner(self, index: int) -> PPO:
        """See :class:`ManyLearners`."""
        self._check_index(index)
        agent = type(self)(Spaces(self.observation_space, self.action_space), self.config.of_learner(index),
                           torso=self._torso, device=self.device, seed=self.seeds[index])  # fmt: skip
        agent.num_timesteps = self.num_timesteps
        agent.load_state_dict(one_of(self.saved_state(), index))
        return agent

    def saved_state(self) -> dict[str, Any]:
        """See :meth:`Agent.saved_state`; the rollout under way stays behind."""
        return {
            "seeds": torch.tensor(self.seeds),
            "torso": None if self._torso is None else type(self._torso).__name__,
            "network": self.network.state_dict(),
            "descent": self.descent.state_dict(),
            "noise": self._noise.state_dict(),
            "orders": self._orders.state_dict(),
            "seen": self._seen.state_dict(),
            "sums": self._sums.state_dict(),
        }

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`Agent.state_dict`."""
        return {
            **self.saved_state(),
            "rollout": None if self.rollout is None else self.rollout.state_dict(),
            "since_start": self._since_start,
            "ages": None if self._groups is None else self._groups.ages,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :meth:`Agent.load_state_dict`; without a rollout, a new one begins."""
        self.network.load_state_dict(state["network"])
        self.descent.load_state_dict(state["descent"])
        self._noise.load_state_dict(state["noise"])
        self._orders.load_state_dict(state["orders"])
        self._seen.load_state_dict(state["seen"])
        self._sums.load_state_dict(state["sums"])
        self.rollout = self._since_start = None
        if state.get("rollout") is not None:
            self.rollout = Rollout.restored(state["rollout"], self.device)
            self._since_start = state["since_start"].to(self.device)
        if self._groups is not None:
            ages = state.get("ages")
            self._groups.ages = None if ages is None else ages.to(self.device)

    @classmethod
    def _rebuilt(cls, env: Any, config: Any, state: Mapping[str, Any], **settings: Any) -> PPO:
        check_torso(cls, settings.get("torso"), state)
        if "torso" not in state:  # a file of when there was nothing else
            config = replace(config, network="mlp")
        seeds = state["seeds"].tolist()
        return cls(env, config, **{**settings, "num_learners": len(seeds), "seed": seeds})

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], env: Any = None, device: torch.device | str = "auto", *,
        torso: nn.Module | None = None,
    ) -> PPO:  # fmt: skip
        """See :meth:`Agent.load`; a torso that the agent was given is given again, for what it learned."""
        return cls._from_file(path, env, device, {"torso": torso})
