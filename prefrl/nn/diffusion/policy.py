"""A policy over Boxes that makes its actions out of noise, by a network that takes the noise away.

It draws chunks of ``horizon`` actions that are to be played one after another, in units of half the Box
around its middle, so between -1 and 1. How likely a chunk is under it cannot be said exactly; in its place
stands minus the denoising error,

    log pi(a | s) := - |eps_theta(alpha_t a + sigma_t eps, s, t) - eps|^2,

which the likelihood's lower bound is made of (Ho, Jain and Abbeel 2020, arXiv 2006.11239, equation 14), and
which compares policies when both are asked at the same times t and noises eps (:class:`Draws`), as
Diffusion-DPO (Wallace et al. 2024, arXiv 2311.12908) and Diffusion-DRO (arXiv 2510.18353) do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from prefrl.functional.actor_critic.diffusion import (
    Schedule,
    denoising_error,
    guided,
    noise_schedule,
    noised,
    sampling_times,
    step_spread,
)
from prefrl.functional.streams import Streams
from prefrl.nn.likelihood_policies import LikelihoodPolicy
from prefrl.nn.torsos import Numbers

from .denoiser import ROWS, Activation, Denoiser, Steps

if TYPE_CHECKING:
    import gymnasium as gym

Sampler = Literal["ddim", "ddpm"]
"""Steps without fresh noise (Song, Meng and Ermon 2021, arXiv 2010.02502, eta 0), or with the noise of
q(x_s | x_t, x_0) (arXiv 2006.11239, eta 1)."""

PROBES = 16
"""Times and noises at which a chunk's error is looked at where none are given."""

GROUP = 16
"""Rows of a batch that have the same time, at most: what is worked out of times is worked out less often."""


class Draws(NamedTuple):
    """Times and noises at which the denoising errors of N rows are looked at.

    Rows come in G groups of as many neighbours, of one time each.
    """

    times: Tensor
    """[S, G] int64, from 1 to T."""
    noise: Tensor
    """[S, N, C] standard normal."""


class Path(NamedTuple):
    """What a sampler came by."""

    times: list[int]
    """Of the K steps, from T down."""
    states: Tensor
    """[K, S, N, C] samples before each step."""
    noise: Tensor
    """[K, S, N, C] noise that was predicted in them."""
    chunks: Tensor
    """[S, N, C] what came of it, clean."""


class Guide(NamedTuple):
    """A worse policy to keep away from: eps = (1 + w) eps_own - w eps_negative."""

    negative: DenoisingPolicy
    """Of the same sizes and noise."""
    weight: float
    """w."""


class DenoisingPolicy(LikelihoodPolicy):
    """A policy that makes actions out of noise; see the module's text.

    Args:
        learners: S.
        observation_space: Discrete, or a Box without pictures.
        action_space: a Box of floating-point numbers with finite bounds.
        hidden: sizes of the trunk's hidden layers.
        horizon: H, actions of a chunk.
        noise_steps: T.
        schedule: how noise grows.
        sampler: how it is taken away.
        sampling_steps: K, steps of the sampler, at most T.
        activation: of the network.
        device: torch device.

    Raises:
        ValueError: for another space, or too many sampling steps.

    Attributes:
        size: C, numbers of a chunk.
        probes: the draws of :meth:`log_prob` where none are given: the same in every policy of this size.
    """

    def __init__(
        self, learners: int, observation_space: gym.Space[Any], action_space: gym.Space[Any],
        hidden: Sequence[int] = (256, 256), *, horizon: int = 1, noise_steps: int = 50,
        schedule: Schedule = "cosine", sampler: Sampler = "ddim", sampling_steps: int = 10,
        activation: Activation = "relu", device: torch.device | str = "cpu",
    ) -> None:  # fmt: skip
        if not _is_bounded(action_space):
            raise ValueError(f"action_space is {action_space}; a DenoisingPolicy takes a Box of "
                             "floating-point numbers with finite bounds, low below high")  # fmt: skip
        super().__init__(learners, action_space, device)
        self.horizon, self.size = horizon, horizon * self.distribution.outputs
        self.noise_steps, self.sampler = noise_steps, sampler
        self.numbers = Numbers(observation_space, torch.device(device))
        self.stops = sampling_times(noise_steps, sampling_steps)
        with torch.device(device):
            self.network = Denoiser(learners, self.numbers.size, self.size, hidden, noise_steps, activation)
            alphas, sigmas = noise_schedule(schedule, noise_steps)
            self.alphas, self.sigmas = alphas.to(torch.float32), sigmas.to(torch.float32)
        self._coefficients = [sampler_coefficients(alphas, sigmas, self.stops, eta) for eta in (0.0, 1.0)]
        self.probes = self.make_probes()

    def make_probes(self) -> Draws:
        """Return the draws of :attr:`probes`, [1, K] and [1, K, C]."""
        device = self.alphas.device
        places = torch.arange(PROBES, device=device) * self.noise_steps + self.noise_steps // 2
        noise = Streams([0], "probes", device).normal(PROBES, self.size)
        return Draws((places // PROBES + 1).clamp(max=self.noise_steps)[None], noise)

    # Likelihood ------------------------------------------------------------------------------------------

    def draws(self, places: Tensor, noise: Tensor) -> Draws:
        """Return times and noises for a batch whose rows are in no order.

        Times are uniform from 1 to T, one in each of G equal parts of that.

        Args:
            places: [S, G] uniform in [0, 1); see :func:`groups_of`.
            noise: [S, N, C] standard normal.
        """
        groups = places.shape[1]
        spread = (torch.arange(groups, device=places.device) + places) / groups
        times = (spread * self.noise_steps).long().clamp_(max=self.noise_steps - 1) + 1
        return Draws(times, noise)

    def raw_chunks(self, actions: Tensor) -> Tensor:
        """Return the environment's actions as chunks [S, N, C] between -1 and 1.

        Args:
            actions: [S, N, H, ...], or [S, N, ...] where the horizon is 1.

        Raises:
            ValueError: for another shape.
        """
        shape = tuple(self.actions.space.shape or ())
        if actions.shape[2:] not in ((self.horizon, *shape), *([shape] if self.horizon == 1 else [])):
            raise ValueError(f"actions are {list(actions.shape)}; they must be [S, N, {self.horizon}, "
                             f"*{list(shape)}], a chunk of the policy's horizon in each row")  # fmt: skip
        raw = self.actions.from_env(actions.reshape(-1, *shape).to(torch.float32))
        return raw.view(*actions.shape[:2], self.size)

    def errors(self, obs: Tensor, chunks: Tensor, draws: Draws) -> Tensor:
        """Return |eps_theta - eps|^2 [S, N] of chunks, with gradients.

        Args:
            obs: [S, N, ...] observations.
            chunks: [S, N, C] of :meth:`raw_chunks`.
            draws: times and noises.

        Raises:
            ValueError: if the rows do not fall into as many groups as there are times.
        """
        noisy = self._noised(chunks, draws)
        return denoising_error(self.predict(obs, noisy.flatten(1, 2), draws.times), draws.noise)

    def pull_errors(self, obs: Tensor, chunks: Tensor, draws: Draws) -> Tensor:
        """Return the same without, and put those of its mean into the parameters' ``grad``; of ReLU only."""
        noisy = self._noised(chunks, draws)
        numbers = self.numbers(obs, torch.float32).view(*noisy.shape[:3], -1)
        return self.network.pull_errors(noisy, numbers, draws.times, draws.noise)

    def _noised(self, chunks: Tensor, draws: Draws) -> Tensor:
        """Return chunks [S, N, C] with noise, by groups [S, G, R, C]."""
        groups, rows = draws.times.shape[1], chunks.shape[1]
        if rows % groups:
            raise ValueError(f"draws have {groups} times; they must be a divisor of the {rows} rows")
        shape = len(chunks), groups, rows // groups, self.size
        noise, clean = (each.reshape(shape) for each in (draws.noise, chunks))
        levels = (of[draws.times][..., None, None] for of in (self.alphas, self.sigmas))
        return noised(clean, noise, *levels)

    def predict(self, obs: Tensor, noisy: Tensor, times: Tensor) -> Tensor:
        """Return the noise [S, N, C] predicted in samples, with gradients.

        Args:
            obs: [S, N, ...] observations.
            noisy: [S, N, C] samples, in G groups of as many neighbours.
            times: [S, G] int64, from 1 to T, of the groups.
        """
        shape = *times.shape, noisy.shape[1] // times.shape[1], -1
        numbers = self.numbers(obs, torch.float32).reshape(shape)
        predicted: Tensor = self.network(noisy.reshape(shape), numbers, times)
        return predicted.flatten(1, 2)

    def log_prob(self, obs: Tensor, actions: Tensor, draws: Draws | None = None) -> Tensor:
        """Return minus the denoising error [S, N]; see the module's text.

        Args:
            obs: [S, N, ...] observations.
            actions: [S, N, ...]; of a horizon above 1 chunks [S, N, H, ...].
            draws: times and noises; None: the mean over :attr:`probes`, which are the same for all rows, in
                every call and in every policy of this size.
        """
        chunks = self.raw_chunks(actions)
        if draws is not None:
            return -self.errors(obs, chunks, draws)
        times = self.probes.times.expand(len(chunks), -1)
        alphas, sigmas = (of[times][..., None, None] for of in (self.alphas, self.sigmas))
        noise = self.probes.noise[:, :, None]  # [1, K, 1, C]
        numbers = self.numbers(obs, torch.float32)[:, None]
        predicted = self.network(noised(chunks[:, None], noise, alphas, sigmas), numbers, times)
        return -denoising_error(predicted, noise).mean(1)

    # Sampling --------------------------------------------------------------------------------------------

    def noise(self, streams: Streams, rows: int) -> Tensor:
        """See :class:`LikelihoodPolicy`: what a sample starts from and, for ddpm, the noise of its steps."""
        return streams.normal(rows, self.size * (1 if self.sampler == "ddim" else len(self.stops)))

    def draw(self, obs: Tensor, noise: Tensor) -> Tensor:
        """See :class:`LikelihoodPolicy`: the first actions of :meth:`draw_chunks`."""
        return self.draw_chunks(obs, noise)[:, :, 0]

    def mode(self, obs: Tensor) -> Tensor:
        """See :class:`LikelihoodPolicy`: the first actions of :meth:`mode_chunks`."""
        return self.mode_chunks(obs)[:, :, 0]

    def draw_chunks(self, obs: Tensor, noise: Tensor, guide: Guide | None = None) -> Tensor:
        """Return chunks of actions [S, N, H, ...] drawn from the policy."""
        return self.to_env_chunks(self.sample(obs, noise, guide))

    def mode_chunks(self, obs: Tensor, guide: Guide | None = None) -> Tensor:
        """Return the chunks [S, N, H, ...] that come of no noise at all, by ddim.

        The start is the middle of all noise, and what comes of it the middle of the likely actions: where
        they lie on one hill, its top, nearly. (A noise that is drawn once comes to the same side of the hill
        everywhere, by which a pendulum falls.) Of several hills it is one, or what lies between.
        """
        start = self.numbers(obs, torch.float32).new_zeros(*obs.shape[:2], self.size)
        return self.to_env_chunks(self.sample(obs, start, guide))

    def to_env_chunks(self, chunks: Tensor) -> Tensor:
        """Return chunks [S, N, C] as the environment's actions [S, N, H, ...]."""
        actions = self.actions.to_env(chunks.reshape(-1, self.distribution.outputs))
        return actions.view(*chunks.shape[:2], self.horizon, *actions.shape[1:])

    @torch.no_grad()
    def sample(self, obs: Tensor, noise: Tensor, guide: Guide | None = None) -> Tensor:
        """Return chunks [S, N, C], between -1 and 1.

        Args:
            obs: [S, N, ...] observations.
            noise: [S, N, C], of which ddim makes them, or [S, N, C (K + 1)], as ddpm does.
            guide: a policy to keep away from.
        """
        numbers, networks = self.numbers(obs, torch.float32), self._networks(guide)
        at_once = ROWS if noise.device.type == "cpu" else max(1, noise.shape[1])
        parts = zip(*(torch.split(rows, at_once, 1) for rows in (numbers, noise)), strict=True)
        return torch.cat([self._denoised(networks, seen, start, guide) for seen, start in parts], 1)

    @torch.no_grad()
    def path(self, obs: Tensor, noise: Tensor, guide: Guide | None = None) -> Path:
        """Do the same, and return all that the sampler came by."""
        seen: list[tuple[Tensor, Tensor]] = []
        numbers = self.numbers(obs, torch.float32)
        chunks = self._denoised(self._networks(guide), numbers, noise, guide, seen)
        states, predicted = (torch.stack(column) for column in zip(*seen, strict=True))
        return Path(self.stops[:-1], states, predicted, chunks)

    def _networks(self, guide: Guide | None) -> list[Steps]:
        policies = [self] if guide is None else [self, guide.negative]
        return [policy.network.for_steps(self.stops[:-1]) for policy in policies]

    def _denoised(
        self, networks: list[Steps], numbers: Tensor, noise: Tensor, guide: Guide | None,
        seen: list[tuple[Tensor, Tensor]] | None = None,
    ) -> Tensor:  # fmt: skip
        """Return chunks [S, n, C] of conditions [S, n, D]; what was come by is appended to ``seen``."""
        for network in networks:
            network.begin(numbers)
        start, *fresh = torch.split(noise, self.size, -1)
        rows = torch.cat([start, torch.ones_like(start[..., :1])], -1)
        x = rows[..., :-1]
        for step, numbers_of_step in enumerate(self._coefficients[len(fresh) > 0]):
            predicted = networks[0](step, rows)
            if guide is not None:
                predicted = guided(predicted, networks[1](step, rows), guide.weight)
            if seen is not None:
                seen.append((x.clone(), predicted.clone()))
            of_x, of_noise, next_clean, next_x, spread = numbers_of_step
            clean = torch.addcmul(x * of_x, predicted, of_noise).clamp_(-1.0, 1.0)
            x.mul_(next_x).addcmul_(clean, next_clean)
            if fresh:
                x.addcmul_(fresh[step], spread)
        return x.clone()


def groups_of(rows: int) -> int:
    """Return G, of how many times a batch of rows is: groups are of :data:`GROUP` rows, if they can be."""
    return rows // math.gcd(rows, GROUP)


def sampler_coefficients(
    alphas: Tensor, sigmas: Tensor, stops: Sequence[int], eta: float
) -> list[tuple[Tensor, ...]]:
    """Return the five factors of every step of a sampler, each [], float32.

    With a prediction eps of the noise a step from t down to s is

        x_0 = x_t / alpha_t - eps sigma_t / alpha_t,    cut to where actions are,
        x_s = alpha_s x_0 + k (x_t - alpha_t x_0) / sigma_t + spread z,    k^2 = sigma_s^2 - spread^2

    (:func:`predicted_clean`, :func:`predicted_noise` and :func:`ddim_step` in one.)

    Args:
        alphas: [T + 1].
        sigmas: [T + 1].
        stops: K + 1 times, from T down to 0.
        eta: 0 for ddim, 1 for ddpm.

    Returns:
        Of each step what x_t and eps are multiplied with to give x_0, then x_0, x_t and z to give x_s.
    """
    rows = []
    for now, then in pairwise(stops):
        alpha, sigma, next_alpha, next_sigma = alphas[now], sigmas[now], alphas[then], sigmas[then]
        spread = step_spread(alpha, sigma, next_alpha, next_sigma, eta)
        kept = (next_sigma.square() - spread.square()).clamp(min=0.0).sqrt() / sigma
        factors = 1.0 / alpha, -sigma / alpha, next_alpha - kept * alpha, kept, spread
        rows.append(tuple(factor.to(torch.float32) for factor in factors))
    return rows


def _is_bounded(space: Any) -> bool:
    """Whether a space is a Box of floating-point numbers with finite bounds, the low ones below the high."""
    if not hasattr(space, "low") or not np.issubdtype(space.dtype, np.floating):
        return False
    low, high = np.asarray(space.low, np.float64), np.asarray(space.high, np.float64)
    return bool((np.isfinite(low) & np.isfinite(high) & (low < high)).all())
