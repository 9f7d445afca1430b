"""A diffusion policy: actions are made out of noise by a network that has learned to take it away.

Noise is added to chunks of the data's actions, and a network learns to tell it from them (Ho, Jain and Abbeel
2020, arXiv 2006.11239, equation 14; of policies Chi et al. 2023, arXiv 2303.04137):

    L = E |eps_theta(alpha_t a + sigma_t eps, s, t) - eps|^2,    (s, a) from the data, t uniform, eps normal.

A policy of normal numbers has one hill of likely actions; this one has as many as the data show. To act it
starts from noise and takes it away in a few steps, with or without fresh noise in each (ddpm, ddim). What
acts is the moving average of the weights, not the weights themselves: those of the last step make actions
that are as noisy as the last gradients were.

A chunk is the actions of the ``horizon`` steps to come. The first ``played`` of them are played before the
next chunk is made, which :meth:`DiffusionPolicy.predict` counts, in its state; ``act`` knows of no steps
before and always returns the first action of a new chunk.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from prefrl.agents.shared import OfflineAgent, OfflineSettings
from prefrl.config import Bounds, Count, Positive, Sizes
from prefrl.data import Segments, TransitionDataset
from prefrl.data.devices import tensor_on
from prefrl.data.observations import as_batch
from prefrl.functional.actor_critic.diffusion import Schedule
from prefrl.functional.draws import normal, uniform
from prefrl.nn.diffusion.denoiser import Activation
from prefrl.nn.diffusion.policy import DenoisingPolicy, Draws, Guide, Sampler, groups_of
from prefrl.nn.flat import FlatParameters

from .chunks import ChunkBatch, Chunks

AT_ONCE = 512
"""Chunks whose likelihoods are looked at together."""


@dataclass(frozen=True)
class DiffusionPolicyConfig(OfflineSettings):
    """Settings of :class:`DiffusionPolicy`. Defaults without a source are ours."""

    hidden: Sizes = (256, 256)
    """Sizes of the trunk's hidden layers; what reads observations and times is as wide as the first."""

    learning_rate: Positive = 1e-3
    """Adam's step size."""

    noise_steps: Annotated[int, Bounds(low=2)] = 50
    """T: steps in which noise is added."""

    schedule: Schedule = "cosine"
    """How it grows: cosine (Nichol and Dhariwal 2021, arXiv 2102.09672), or linear betas."""

    sampler: Sampler = "ddim"
    """How it is taken away: ddim without fresh noise in each step, or ddpm with it."""

    sampling_steps: Count = 10
    """Steps in which it is taken away, at most noise_steps."""

    horizon: Count = 1
    """Actions of a chunk."""

    played: Count = 1
    """How many of them are played before the next chunk is made, at most horizon."""

    averaging: Annotated[float, Bounds(low=0, high=1, below=True)] = 0.995
    """Share of what there was in the moving average of the weights at every gradient step, in [0, 1); it is
    less in the first ones, (1 + n) / (10 + n)."""

    activation: Activation = "relu"
    """What comes after a hidden layer; gradient steps with relu are worked out by hand, and faster."""

    def check(self) -> None:
        """Raise ValueError for more steps, or more actions, than there are."""
        super().check()
        for name, of in (("sampling_steps", "noise_steps"), ("played", "horizon")):
            given, most = getattr(self, name), getattr(self, of)
            if given > most:
                raise ValueError(f"{name} is {given}; it must be at most {of}, {most}")


class DiffusionPolicy(OfflineAgent):
    """Clones a data set by diffusion; see the module's text.

    Args:
        env: an environment with Box actions of finite bounds and Discrete or Box observations (no
            pictures), or :class:`prefrl.agents.base.Spaces`.
        config: settings.
        dataset: what to learn from; one timestep is one gradient step. Files of agents hold no data: a loaded
            agent acts, and learns on where it is given a data set again.
        device: torch device, or "auto".
        seed: seeds the network, batches, noise and the actions that are drawn.

    Raises:
        TypeError: if ``dataset`` is none.
        ValueError: if a space is of another kind, the data set's spaces are not the environment's, or no
            episode is as long as the horizon.

    Attributes:
        policy: what learns.
        average: the moving average of it, which acts.
        keeps_state: whether :meth:`predict` goes on with a chunk, so that its state must be given back.
    """

    config_class: ClassVar[type[DiffusionPolicyConfig]] = DiffusionPolicyConfig
    config: DiffusionPolicyConfig
    policy: DenoisingPolicy
    average: DenoisingPolicy

    def __init__(
        self,
        env: Any,
        config: DiffusionPolicyConfig | None = None,
        *,
        dataset: TransitionDataset | None = None,
        device: torch.device | str = "auto",
        seed: int = 0,
    ) -> None:
        super().__init__(env, config or DiffusionPolicyConfig(), dataset=dataset, device=device, seed=seed)
        self._average_weights = FlatParameters(self.average)
        self.keeps_state = self.config.played > 1

    def make_policy(self) -> DenoisingPolicy:
        """See :class:`OfflineAgent`."""
        config = self.config
        return DenoisingPolicy(
            1, self.observation_space, self.action_space, config.hidden, horizon=config.horizon,
            noise_steps=config.noise_steps, schedule=config.schedule, sampler=config.sampler,
            sampling_steps=config.sampling_steps, activation=config.activation, device=self.device,
        )  # fmt: skip

    def make_network(self) -> DenoisingPolicy:
        """See :class:`OfflineAgent`: the policy is all that learns; its average is made beside it."""
        self.average = self.make_policy().requires_grad_(False)
        self.average.load_state_dict(self.policy.state_dict())
        return self.policy

    def make_replay(self, dataset: TransitionDataset) -> Chunks:
        """See :class:`OfflineAgent`."""
        return Chunks(dataset, self.config.horizon, self.policy.actions, self.device)

    # Learning --------------------------------------------------------------------------------------------

    def _step(self, batch: ChunkBatch) -> dict[str, Tensor]:  # type: ignore[override]
        draws = self.draws(len(batch.obs))
        if self.config.activation == "relu":
            errors = self.policy.pull_errors(batch.obs[None], batch.chunks[None], draws)
            self._update.descend()
            metrics = {"train/loss": errors.mean()}
        else:
            metrics = self._update.step(batch, draws)
        self.follow()
        return metrics

    def _loss(
        self, policy: DenoisingPolicy, batch: ChunkBatch, draws: Draws
    ) -> tuple[Tensor, dict[str, Tensor]]:
        loss = policy.errors(batch.obs[None], batch.chunks[None], draws).mean()
        return loss, {"train/loss": loss.detach()}

    def draws(self, rows: int) -> Draws:
        """Return times and noises for a gradient step on a number of rows."""
        generator, device = self._generator, self.device
        places = uniform(generator, 1, groups_of(rows), device=device)
        return self.policy.draws(places, normal(generator, 1, rows, self.policy.size, device=device))

    def follow(self) -> None:
        """Move the average towards the weights, after a gradient step."""
        kept = min(self.config.averaging, (1 + self.num_timesteps) / (10 + self.num_timesteps))
        self._average_weights.follow(self._update.weights, 1.0 - kept)

    # Acting ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def act(self, obs: Tensor, *, deterministic: bool = False) -> Tensor:
        """Return the first actions [n, ...] of chunks for observations [n, ...]; see :meth:`chunks`."""
        return self.chunks(obs, deterministic=deterministic)[:, 0]

    @torch.no_grad()
    def chunks(self, obs: Tensor, *, deterministic: bool = False) -> Tensor:
        """Return chunks of actions [n, H, ...] for observations [n, ...], on the device.

        Deterministic ones come of no noise, by ddim; see :meth:`DenoisingPolicy.mode_chunks`.
        """
        policy, guide = self.acting()
        if deterministic:
            return policy.mode_chunks(obs[None], guide)[0]
        noise = policy.noise(self._noise, len(obs))
        return policy.draw_chunks(obs[None], noise, guide)[0]

    def acting(self) -> tuple[DenoisingPolicy, Guide | None]:
        """Return the policy that acts, and what it keeps away from, if anything."""
        return self.average, None

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[Any, Any]:
        """See :meth:`Agent.predict`; where chunks are played on, ``state`` is what is left of them.

        Args:
            observation: one, or a batch of n.
            state: what the last call returned; None: new chunks are made.
            episode_start: [n] bool, rows that begin an episode: they get a new chunk.
            deterministic: whether chunks are drawn.

        Returns:
            Actions, and the chunks [n, played, ...] with how many of their actions were played [n].
        """
        if not self.keeps_state:
            return super().predict(observation, state, episode_start, deterministic)
        rows, single = as_batch("observation", observation, self.observation_space)
        count, played = len(rows), self.config.played
        plans = np.zeros((count, played, *self.action_space.shape), self.action_space.dtype)
        places = np.full(count, played)
        if state is not None:
            if len(state[1]) != count:
                raise ValueError(f"state is of {len(state[1])} rows; there are {count} observations")
            plans, places = (np.array(kept) for kept in state)
        if episode_start is not None:
            places[np.broadcast_to(np.asarray(episode_start, dtype=bool), places.shape)] = played
        due = places >= played
        if due.any():
            made = self.chunks(tensor_on(self.device, rows[due]), deterministic=deterministic)
            plans[due], places[due] = made[:, :played].cpu().numpy(), 0
        actions = plans[np.arange(count), places]
        return (actions[0] if single else actions), (plans, places + 1)

    def log_prob(self, segments: Segments) -> Tensor:
        """Return minus the denoising error of the acting policy [N, L] in the steps of N segments.

        It stands for the log-likelihood; see :mod:`prefrl.nn.diffusion.policy`. Segments are cut into
        chunks from their first step on; each step of a chunk has an equal share of its error. Steps after
        the last whole chunk, and padding, have 0.
        """
        return self._said_by(self.acting()[0], segments)

    @torch.no_grad()
    def _said_by(self, policy: DenoisingPolicy, segments: Segments) -> Tensor:
        """Return what a policy says of the steps of segments [N, L]; see :meth:`log_prob`."""
        segments, horizon = segments.to(self.device), self.config.horizon
        count = segments.max_length // horizon
        whole = count * horizon
        if not count:
            return torch.zeros(segments.mask.shape, device=self.device)
        obs = segments.obs[:, :whole:horizon].flatten(0, 1)
        acted = segments.actions[:, :whole].reshape(len(obs), horizon, *segments.actions.shape[2:])
        parts = zip(torch.split(obs, AT_ONCE), torch.split(acted, AT_ONCE), strict=True)
        said = torch.cat([policy.log_prob(seen[None], taken[None])[0] for seen, taken in parts])
        inside = segments.mask[:, horizon - 1 : whole : horizon]
        found = torch.where(inside, said.view(inside.shape) / horizon, 0.0).repeat_interleave(horizon, 1)
        return torch.nn.functional.pad(found, (0, segments.max_length - whole))

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`Agent.state_dict`."""
        return {**super().state_dict(), "average": self.average.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :meth:`Agent.load_state_dict`."""
        super().load_state_dict(state)
        self.average.load_state_dict(state["average"])
