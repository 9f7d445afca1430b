"""Model-based policy optimisation (MBPO, Janner et al. 2019, arXiv 1906.08253), with one model or several.

Every F steps an ensemble of networks is fitted to all real transitions, and the policy is let run in it for k
steps from real states; soft actor-critic then learns from what was imagined, G gradient steps per real step::

    every F steps:  fit f_1 ... f_E;  from M F real states, for k steps:
                    a ~ pi(s),  (r, s') ~ a good f_e drawn for each row,  d = termination(s')  -> D_model
    every step:     act, keep; G gradient steps on 5 % real and 95 % imagined transitions, or by a schedule

Two of its parts have alternatives that belong together:

- ``ensemble_size=1, probabilistic=False`` with ``critic_regularizer`` spectral or robust: one deterministic
  model and a smooth critic instead of the ensemble (Zheng et al. 2023, arXiv 2302.01244; see
  ``prefrl.agents.actor_critic.sac``).
- ``model_loss="value_gradient"``: errors are weighted by how much the value depends on the entry (VaGraM,
  Voelcker et al. 2022, arXiv 2204.01464; see
  ``prefrl.functional.actor_critic.model_learning``). The gradient of each online critic
  is taken once at every observed next state, and gathered for each network; the authors' code
  accumulates gradients over critics and keeps those of one network for all, which is not repeated here.

What is known of an environment is not learned: where its episodes end, and if wanted its reward
(``prefrl.envs.known_parts``).
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor

from prefrl.data import Transitions, seeded_generator
from prefrl.data.devices import building, make_generator, restore_generator
from prefrl.data.metrics import mean_of
from prefrl.data.model_buffer import ModelBuffer
from prefrl.data.off_policy import gathered, times_due
from prefrl.data.replay import Batch
from prefrl.functional.actor_critic.model_learning import rollout_length
from prefrl.functional.draws import normal, uniform
from prefrl.nn.ensemble import DynamicsEnsemble, EnsembleFit, FitSettings

from .box import BoxAgent
from .mbpo_config import MBPOConfig
from .mbpo_parts import entry_weights, known_parts, smoothness, value_aware_error

ROLLOUT_ROWS = 20_000
"""Rows that are rolled out at once: on the CPU more fall out of its cache."""


class MBPO(BoxAgent):
    """Model-based policy optimisation; see the module's text.

    Args:
        env: an environment with a bounded Box of actions and a Box of observations, of which it is known
            where its episodes end; or :class:`prefrl.agents.base.Spaces`.
        config: settings.
        termination: tells where episodes end, next observations [n, D] to bool [n], on tensors; None: what
            is known of the environment.
        reward: observations [n, D], actions [n, A] in the environment's units and next observations to
            rewards [n], for ``MBPOConfig(reward="known")``; None: what is known of the environment.
        device: torch device, or "auto".
        seed: seeds networks, exploration, replay and model.

    Raises:
        ValueError: if a space is of another kind, or it is not known where episodes end, or what the reward
            is where the settings ask for it, or a function is given that they do not ask for, or that
            returns something else.

    Attributes:
        networks: actor and critics.
        model: the ensemble, and how it is fitted.
        replay: real transitions; None before the first one.
        imagined: transitions that the model made up; None before the first fit.
        seconds: wall-clock seconds spent on fits, rollouts and the policy.
    """

    config_class: ClassVar[type[MBPOConfig]] = MBPOConfig
    advice = "a lower learning_rate, standardize_targets or a lower model_max_grad_norm may help"

    def __init__(
        self,
        env: Any,
        config: MBPOConfig | None = None,
        *,
        termination: Callable[[Tensor], Tensor] | None = None,
        reward: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None,
        device: torch.device | str = "auto",
        seed: int = 0,
    ) -> None:
        super().__init__(env, config or MBPOConfig(), device=device, seed=seed)
        config = self.config
        tried = torch.zeros(2, self.observations, device=self.device)
        middle = self.to_env(torch.zeros(2, self.actions, device=self.device)).flatten(1)
        self.known = known_parts(
            env, termination, reward, use_reward=config.reward == "known", obs=tried, actions=middle
        )
        own = seeded_generator(seed, "model").initial_seed()  # unrelated to the policy's own noise
        self._generator = make_generator(self.device, own)
        self._learned_reward = config.reward == "learned"
        with building(self.device, own):
            ensemble = DynamicsEnsemble(
                config.ensemble_size,
                self.observations + self.actions,
                self.observations + int(self._learned_reward),
                config.model_hidden,
                probabilistic=config.probabilistic,
                learn_bounds=config.learn_variance_bounds,
            )
        several = config.ensemble_size > 1
        settings = FitSettings(
            batch_size=config.model_batch_size, holdout_fraction=config.holdout_fraction,
            holdout_max=config.holdout_max, patience=config.patience, max_steps=config.max_fit_steps,
            bootstrap=several if config.bootstrap is None else config.bootstrap,
            standardize_targets=config.standardize_targets,
        )  # fmt: skip
        self.model = EnsembleFit(
            ensemble, settings, elites=min(config.elites, config.ensemble_size),
            lr=config.model_learning_rate, decays=config.decays,
            max_grad_norm=math.inf if config.model_max_grad_norm is None else config.model_max_grad_norm,
        )  # fmt: skip
        self.imagined: ModelBuffer | None = None
        self.seconds = {"model": 0.0, "rollout": 0.0, "policy": 0.0}
        self._reach = torch.zeros(2, self.observations, device=self.device)
        """[2, D] what predictions are cut to."""
        self._fitted_at = self._diagnosed_at = 0
        self._unseen = 0
        """Steps of the environments since the last fit."""
        self.diagnostics: dict[str, Tensor] = {}
        """What the last look at critics and model found."""

    # Real transitions ------------------------------------------------------------------------------------

    def observe(self, transitions: Transitions) -> None:
        """Keep one step of the environments."""
        super().observe(transitions)
        self._unseen += 1

    def _rows(self, steps: int | None = None) -> dict[str, Tensor]:
        """Return all real transitions, or those of the newest steps, [n, ...] by name."""
        assert self.replay is not None
        filled = len(self.replay) // self.replay.num_envs
        stored = self.replay.storage
        if steps is None:
            return {name: values[:filled].flatten(0, 1) for name, values in stored.items()}
        places = self.replay.latest(min(steps, filled), self.device)
        return {name: values[places].flatten(0, 1) for name, values in stored.items()}

    # Learning --------------------------------------------------------------------------------------------

    def update(self) -> dict[str, Tensor]:
        """Fit, imagine and improve the policy as far as it is due; see :meth:`Agent.update`."""
        config, before, now = self.config, self._learned_at, self.num_timesteps
        self._learned_at = now
        if not gathered(self.replay, config.learning_starts, now):
            return {}
        metrics: dict[str, Tensor] = {}
        first = self.imagined is None
        if first or times_due(config.refit_every, self._fitted_at, now):
            never = not self.diagnostics  # and what the fit sees is lost to them
            if not first and (never or now - self._diagnosed_at >= config.diagnostics_every):
                self.diagnose()
                metrics |= self.diagnostics
            metrics |= self.fit_model()
            metrics |= self.imagine()
            self._fitted_at = now
        steps = (now - max(before, config.learning_starts - 1)) * config.updates_per_step
        return metrics | self._improve(steps) if steps else metrics

    def fit_model(self) -> dict[str, Tensor]:
        """Fit the ensemble to all real transitions; return metrics."""
        rows = self._rows()
        with self._timed("model"):
            inputs = torch.cat([rows["obs"], rows["actions"]], 1)
            change = rows["next_obs"] - rows["obs"]
            rewards = [rows["rewards"][:, None]] if self._learned_reward else []
            targets = torch.cat([*rewards, change], 1)
            metrics = self.model.fit(
                inputs, targets, self._generator, rows=rows["mask"], entries=self._entries(rows, change)
            )
        self._unseen = 0
        if self.config.clip_predictions is not None:
            seen = torch.cat([rows["obs"], rows["next_obs"]])
            low, high = seen.amin(0), seen.amax(0)
            margin = self.config.clip_predictions * (high - low)
            self._reach = torch.stack([low - margin, high + margin])
        return metrics

    def _entries(self, rows: Mapping[str, Tensor], change: Tensor) -> Tensor | None:
        """Return the weights [n, D] of squared errors by entry, those of a learned reward being 1."""
        config = self.config
        if config.loss != "value_gradient":
            return None
        ones = change.new_ones(len(change), int(self._learned_reward))
        if self.num_timesteps - config.learning_starts < config.value_gradient_warmup:
            return torch.cat([ones, torch.ones_like(change)], 1)
        return torch.cat([ones, entry_weights(self.networks, config, rows, change)], 1)

    @torch.no_grad()
    def model_step(
        self, obs: Tensor, actions: Tensor, *, deterministic: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Return next observations [N, D] and rewards [N] that the model draws, a network for each row.

        Args:
            obs: [N, D].
            actions: [N, A] in (-1, 1).
            deterministic: take the means.
        """
        mean, std = self.model.elite.predict_split(torch.cat([obs, actions], 1), self._generator)
        if std is not None and not deterministic:
            mean = mean + std * normal(self._generator, *mean.shape, device=self.device)
        next_obs = obs + mean[:, int(self._learned_reward) :]
        if self.config.clip_predictions is not None:
            next_obs = torch.minimum(torch.maximum(next_obs, self._reach[0]), self._reach[1])
        known = self.known
        if known is not None and known.project is not None:
            next_obs = known.project(next_obs)
        if self._learned_reward:
            return next_obs, mean[:, 0]
        assert known is not None
        assert known.reward is not None
        return next_obs, known.reward(obs, self.to_env(actions).flatten(1), next_obs)

    @torch.no_grad()
    def imagine(self) -> dict[str, Tensor]:
        """Let the policy run in the model from real states; return metrics."""
        config = self.config
        if self.known is None or self.replay is None:
            raise ValueError("an MBPO agent without an environment cannot learn; load it with env=")
        with self._timed("rollout"):
            epoch = (self.num_timesteps - config.learning_starts) / config.epoch_timesteps
            length = rollout_length(config.rollout_schedule, int(epoch))
            capacity = length * config.rollouts_per_step * config.epoch_timesteps * config.retain_epochs
            width = 2 * self.observations + self.actions + 2
            if self.imagined is None:
                self.imagined = ModelBuffer(capacity, width, self.device)
            self.imagined.resize(capacity)
            left = config.rollouts_per_step * config.refit_every
            done = torch.zeros(3, device=self.device)
            while left > 0:
                done += self._roll_out(min(left, ROLLOUT_ROWS), length)
                left -= ROLLOUT_ROWS
        return {
            "model/rollout_length": torch.full((), float(length), device=self.device),
            "model/mean_rollout_length": done[0] / done[2].clamp(min=1.0),
            "model/terminations": done[1] / done[0].clamp(min=1.0),
        }

    def _roll_out(self, count: int, length: int) -> Tensor:
        """Add rollouts from ``count`` states; return numbers of transitions, terminations and starts [3]."""
        assert self.replay is not None
        assert self.imagined is not None
        assert self.known is not None
        start = self.replay.sample(count, self._generator)
        obs, going = start.obs, start.weights > 0.0
        starts = going.sum()
        done = torch.zeros(2, device=self.device)
        for _ in range(length):
            actions = self.networks.act(obs)
            next_obs, rewards = self.model_step(obs, actions)
            ends = self.known.termination(next_obs)
            discounts = self._gamma * (~ends).to(torch.float32)
            row = torch.cat([obs, actions, rewards[:, None], discounts[:, None], next_obs], 1)
            going = going & torch.isfinite(row).all(1)  # what is not a number would spread over the critics
            self.imagined.add(row, going)
            done += torch.stack([going.sum(), (going & ends).sum()])
            going, obs = going & ~ends, next_obs
        return torch.cat([done, starts[None]])

    def _improve(self, steps: int) -> dict[str, Tensor]:
        """Take gradient steps of actor and critics; return the mean of their metrics."""
        with self._timed("policy"):
            return mean_of(self.networks.step(batch) for batch in self.batches(steps))

    def batches(self, steps: int) -> Iterator[Batch]:
        """Yield batches of real and imagined transitions, all drawn at once."""
        assert self.replay is not None
        assert self.imagined is not None
        real = int(self.config.real_share(self.num_timesteps) * self.config.batch_size)
        imagined = self.config.batch_size - real
        sizes = [self.observations, self.actions, 1, 1, self.observations]
        parts: list[list[Tensor]] = []
        if imagined:
            rows = self.imagined.sample(steps * imagined, self._generator).view(steps, imagined, -1)
            obs, actions, rewards, discounts, next_obs = torch.split(rows, sizes, -1)
            # Where every rollout failed there is nothing yet: rows of zeros, which must not count.
            weights = torch.ones_like(rewards[..., 0]) * (self.imagined.filled > 0)
            parts.append([obs, actions, rewards[..., 0], next_obs, discounts[..., 0], weights])
        if real:
            batch = self.replay.sample(steps * real, self._generator)
            found = batch.obs, batch.actions, batch.returns, batch.next_obs, batch.discounts, batch.weights
            parts.append([values.view(steps, real, *values.shape[1:]) for values in found])
        joined = [torch.cat(both, 1) for both in zip(*parts, strict=True)]
        for step in range(steps):
            obs, actions, rewards, next_obs, discounts, weights = (values[step] for values in joined)
            yield Batch(obs, actions, rewards, next_obs, discounts, weights)

    def schedules(self) -> dict[str, float]:
        """See :meth:`Agent.schedules`: the share of real transitions, where it moves."""
        moves = self.config.real_ratio_start is not None
        return {"train/real_ratio": self.config.real_share(self.num_timesteps)} if moves else {}

    def diagnose(self) -> None:
        """Look at how smooth the critics are on real states, and at the model on those no fit has seen."""
        config, rows = self.config, self._rows()
        draws = uniform(self._generator, config.diagnostics_states, device=self.device)
        chosen = (draws * len(rows["obs"])).long()
        found = smoothness(self.networks, rows["obs"][chosen], radius=config.diagnostics_radius,
                           generator=self._generator)  # fmt: skip
        if self._unseen:
            newest = self._rows(self._unseen)
            predicted, _ = self.model_step(newest["obs"], newest["actions"], deterministic=True)
            found |= value_aware_error(self.networks, newest["next_obs"], predicted, newest["mask"])
        self.diagnostics, self._diagnosed_at = found, self.num_timesteps

    @contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        """Add to the seconds; on an accelerator what was started may not be over, so they are the host's."""
        start = time.perf_counter()
        yield
        self.seconds[what] += time.perf_counter() - start

    # What came of it, and what a continuation needs --------------------------------------------------------

    def result(self) -> dict[str, Any]:
        """Return seconds, and what the last look at critics and model found."""
        if self.replay is not None and self.imagined is not None and not self.diagnostics:
            self.diagnose()
        names = {
            "local_lipschitz": "smoothness/local_normalized",
            "value_aware_model_error": "model/value_aware_error",
            "model_rmse": "model/rmse",
            "bound_holds": "model/bound_holds",
        }
        found = {key: self.diagnostics.get(name) for key, name in names.items()}
        return {
            **{f"seconds_{name}": value for name, value in self.seconds.items()},
            **{key: None if value is None else float(value) for key, value in found.items()},
            **super().result(),
        }

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        env: Any = None,
        device: torch.device | str = "auto",
        *,
        termination: Callable[[Tensor], Tensor] | None = None,
        reward: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None,
    ) -> MBPO:
        """See :meth:`Agent.load`; functions that the agent was given are given again, to go on learning."""
        if env is None or (termination is None and reward is None):
            return super().load(path, env=env, device=device)
        kept = super().load(path, device=device)
        agent = cls(env, kept.config, termination=termination, reward=reward, device=device, seed=kept.seed)
        spaces, theirs = ((one.observation_space, one.action_space) for one in (agent, kept))
        if spaces != theirs:
            raise ValueError(f"{path} was trained on {theirs[0]} and {theirs[1]}; env has {spaces[0]} and "
                             f"{spaces[1]}")  # fmt: skip
        agent.num_timesteps = kept.num_timesteps
        agent.load_state_dict(kept.saved_state())
        return agent

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`Agent.state_dict`."""
        return {
            **super().state_dict(),
            "model": self.model.state_dict(),
            "generator": self._generator.get_state(),
            "seconds": dict(self.seconds),
            "reach": self._reach,
            "times": [self._learned_at, self._fitted_at, self._diagnosed_at, self._unseen],
            "diagnostics": self.diagnostics,
            "imagined": None if self.imagined is None else self.imagined.state_dict(),
        }

    def saved_state(self) -> dict[str, Any]:
        """See :meth:`Agent.saved_state`; transitions stay behind, as with SB3."""
        return {**super().saved_state(), "imagined": None}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :meth:`Agent.load_state_dict`; without transitions, learning goes on with none."""
        super().load_state_dict(state)
        self.model.load_state_dict(state["model"])
        restore_generator(self._generator, state["generator"])
        self.seconds = {name: float(value) for name, value in state["seconds"].items()}
        self._reach = state["reach"].to(self.device)
        times = [int(entry) for entry in state["times"]]
        self._learned_at, self._fitted_at, self._diagnosed_at, self._unseen = times
        self.diagnostics = {name: value.to(self.device) for name, value in state["diagnostics"].items()}
        if state["imagined"] is not None:
            self.imagined = ModelBuffer(1, 2 * self.observations + self.actions + 2, self.device)
            self.imagined.load_state_dict(state["imagined"])
