"""Self-NPO: a policy keeps away from a worse one, which was tuned on the policy's own unfinished generations.

A teacher, the moving average of what learns, makes chunks and is stopped early, at x_t; what it believes to
come of it, x_0 = E[x_0 | x_t] (Tweedie's formula), is what the network learns to see in more noise,

    x_s = (alpha_s / alpha_t) x_t + sqrt(sigma_s^2 - sigma_t^2 alpha_s^2 / alpha_t^2) z,    s >= t,
    L = |x_0 - f_theta(x_s, s)|^2 alpha_s^2 / sigma_s^2,

f the clean chunk that a prediction of the noise comes to (Self-NPO, arXiv 2505.11777; the weight, which makes
the loss one of noises, is ours, and the paper's is 1). There are two forms of the truncated generation:

- unguided: from pure noise, at the data's observations, a random number of steps;
- unconditional: as released, ``truncated_steps`` of ddim with guidance -1, which leaves the unconditional
  prediction alone, from noised actions of the data. Unconditional means here that the network reads zeros in
  place of the observation, as it does in a share ``dropped`` of the cloning (Ho and Salimans 2022,
  arXiv 2207.12598, whose learned token is zeros). So the target of what is conditional is not.

To act, noises are eps = (1 + w) eps_positive - w eps_negative, where the positive is the clone itself, or a
policy that was tuned from it, and the negative's weights are

    theta + alpha eta + beta delta,    eta = positive - theta,    delta = tuned on own generations - theta.

A warning that is ours: E[E[x_0 | x_t] | x_s] = E[x_0 | x_s], so with exact networks, many steps and endless
data the unguided form comes to the clone again, and there is nothing to keep away from. All that it learns is
what few steps, little data and hasty training did to the clone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor

from prefrl.agents.actor_critic.diffusion.chunks import ChunkBatch
from prefrl.agents.actor_critic.diffusion.diffusion_policy import DiffusionPolicy
from prefrl.config import Bounds, Count, NonNegative, Share
from prefrl.data import TransitionDataset
from prefrl.functional.actor_critic.diffusion import (
    ddim_step,
    denoising_error,
    mixed_weights,
    noised,
    predicted_clean,
    predicted_noise,
    renoised,
)
from prefrl.functional.draws import integers, normal, uniform
from prefrl.nn.diffusion.policy import DenoisingPolicy, Draws, Guide, groups_of
from prefrl.nn.flat import FlatParameters

from .tuning import TunedDiffusionPolicy, TunedDiffusionPolicyConfig, stops_on


@dataclass(frozen=True)
class SelfNPOConfig(TunedDiffusionPolicyConfig):
    """Settings of :class:`SelfNPO`."""

    form: Literal["unguided", "unconditional"] = "unguided"
    """How generations are truncated; see the module's text."""

    truncated_steps: Count = 5
    """Of the form unconditional: steps of ddim before it is stopped, fewer than sampling_steps."""

    dropped: Share = 0.1
    """Of the form unconditional: share of observations that are zeros in cloning."""

    guidance: NonNegative = 1.0
    """w: how far what acts keeps away from the negative; 0: not."""

    positive_share: NonNegative = 0.0
    """alpha: how much of what a given positive learned the negative has too."""

    negative_share: NonNegative = 1.0
    """beta: how much of what was learned of own generations the negative has."""

    averaging: Annotated[float, Bounds(low=0, high=1, below=True)] = 0.999
    """Share of what there was in the moving average of the weights, which acts and teaches (.999: as
    released)."""

    def check(self) -> None:
        """Raise ValueError for a truncation that is none."""
        super().check()
        if self.form == "unconditional" and self.truncated_steps >= self.sampling_steps:
            raise ValueError(f"truncated_steps is {self.truncated_steps}; it must be below sampling_steps, "
                             f"{self.sampling_steps}")  # fmt: skip


class SelfNPO(TunedDiffusionPolicy):
    """Acts by guidance away from what its own unfinished generations teach; see the module's text.

    Args:
        env: see :class:`TunedDiffusionPolicy`.
        config: settings.
        dataset: what to clone, and whose observations (and noised actions) generations begin with.
        clone: a policy of the same networks that was cloned already; or
        positive: one that was tuned, which is to act, its reference being what is tuned here.
        device: torch device, or "auto".
        seed: of everything random.

    Raises:
        ValueError: if both are given, or do not suit.

    Attributes:
        positive: what acts.
    """

    config_class: ClassVar[type[SelfNPOConfig]] = SelfNPOConfig
    config: SelfNPOConfig
    positive: DenoisingPolicy

    def __init__(
        self, env: Any, config: SelfNPOConfig | None = None, *, dataset: TransitionDataset | None = None,
        clone: DiffusionPolicy | None = None, positive: TunedDiffusionPolicy | None = None,
        device: torch.device | str = "auto", seed: int = 0,
    ) -> None:  # fmt: skip
        config = config or SelfNPOConfig()
        if clone is not None and positive is not None:
            raise ValueError("clone and positive are both given; the reference of the positive is the clone")
        super().__init__(env, config, dataset=dataset, clone=clone or positive, device=device, seed=seed)
        self._given = positive is not None
        if positive is not None:
            self.positive.load_state_dict(self.average.state_dict())
            for policy in (self.average, self.reference):
                policy.load_state_dict(positive.reference.state_dict())
        self._stops = stops_on(self.policy, self.device)

    def make_network(self) -> DenoisingPolicy:
        """See :class:`TunedDiffusionPolicy`; the positive and the negative are made beside it."""
        network = super().make_network()
        self.positive, self._negative = (self.make_policy().requires_grad_(False) for _ in range(2))
        self._positive_weights, self._mixed = FlatParameters(self.positive), FlatParameters(self._negative)
        self._reference_weights = FlatParameters(self.reference)
        return network

    # Learning --------------------------------------------------------------------------------------------

    def _step(self, batch: ChunkBatch) -> dict[str, Tensor]:  # type: ignore[override]
        if self.config.form == "unguided":
            return super()._step(batch)
        metrics = self._update.step(batch, self.draws(len(batch.obs)))
        self.follow()
        return metrics

    def _loss(
        self, policy: DenoisingPolicy, batch: ChunkBatch, draws: Draws
    ) -> tuple[Tensor, dict[str, Tensor]]:
        if self.config.form == "unguided":
            return super()._loss(policy, batch, draws)
        groups, rows = draws.times.shape[1], len(batch.obs)
        kept = uniform(self._generator, 1, rows, 1, device=self.device) >= self.config.dropped
        numbers = grouped(policy.numbers(batch.obs[None], torch.float32) * kept, groups)
        clean, noise = (grouped(each, groups) for each in (batch.chunks[None], draws.noise))
        noisy = noised(clean, noise, *self._levels(draws.times))
        loss = denoising_error(policy.network(noisy, numbers, draws.times), noise).mean()
        return loss, {"train/loss": loss.detach()}

    def begin_tuning(self) -> None:
        """See :class:`TunedDiffusionPolicy`; without another one, what acts so far is the positive."""
        super().begin_tuning()
        if not self._given:
            self.positive.load_state_dict(self.reference.state_dict())

    @torch.no_grad()
    def tuning_inputs(self) -> tuple[Tensor, ...]:
        """Return observations, noisy chunks, times and the noises that the teacher's belief comes to."""
        if self._replay is None:
            raise ValueError("dataset is None; its observations are what generations begin with: give "
                             "SelfNPO(env, config, dataset=...)")  # fmt: skip
        batch, steps = self._replay.sample(self.config.batch_size, self._generator), self.policy.noise_steps
        x, clean, t = self._own(batch) if self.config.form == "unguided" else self._unconditional(batch)
        share = uniform(self._generator, len(t), device=self.device)
        later = (t + (share * (steps + 1 - t)).to(torch.int64)).clamp(max=steps)
        fresh = normal(self._generator, *x.shape, device=self.device)
        noisy = renoised(x, fresh, *self._levels(t), *self._levels(later))
        target = predicted_noise(noisy, clean, *self._levels(later))
        return batch.obs[None], noisy.flatten(0, 1)[None], later[None], target.flatten(0, 1)[None]

    def tuning_loss(self, policy: DenoisingPolicy, *inputs: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean error of what is believed."""
        obs, noisy, times, target = inputs
        loss = denoising_error(policy.predict(obs, noisy, times), target).mean()
        return loss, {"train/loss": loss.detach()}

    def _levels(self, times: Tensor) -> tuple[Tensor, Tensor]:
        """Return alpha and sigma [..., 1, 1] at times [...] of groups of rows."""
        return self.policy.alphas[times][..., None, None], self.policy.sigmas[times][..., None, None]

    def _own(self, batch: ChunkBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Return where the teacher, from noise, was stopped, what it believed, and when.

        Returns:
            [G, R, C] samples and [G, R, C] clean ones of G groups of rows, and [G] times.
        """
        rows, teacher = len(batch.obs), self.average
        path, groups = teacher.path(batch.obs[None], teacher.noise(self._noise, rows)), groups_of(rows)
        step = integers(self._generator, len(path.times), groups, device=self.device)
        every = torch.arange(groups, device=self.device)
        x, predicted = (grouped(each[:, 0], groups)[step, every] for each in (path.states, path.noise))
        t = self._stops[step]
        return x, predicted_clean(x, predicted, *self._levels(t)).clamp(-1.0, 1.0), t

    def _unconditional(self, batch: ChunkBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Return the same of ddim from noised actions of the data, at no observation."""
        steps, groups = self.config.truncated_steps, groups_of(len(batch.obs))
        first = integers(self._generator, self.config.sampling_steps - steps, groups, device=self.device)
        data = grouped(batch.chunks, groups)
        zeros = torch.zeros_like(grouped(self.average.numbers(batch.obs, torch.float32), groups))

        def believed(x: Tensor, t: Tensor) -> Tensor:
            predicted = self.average.network(x[None], zeros[None], t[None])[0]
            return predicted_clean(x, predicted, *self._levels(t)).clamp(-1.0, 1.0)

        t = self._stops[first]
        x = noised(data, normal(self._generator, *data.shape, device=self.device), *self._levels(t))
        for step in range(steps):
            clean, then = believed(x, t), self._stops[first + step + 1]
            x = ddim_step(clean, predicted_noise(x, clean, *self._levels(t)), *self._levels(then))
            t = then
        return x, believed(x, t), t

    # Acting ----------------------------------------------------------------------------------------------

    def acting(self) -> tuple[DenoisingPolicy, Guide | None]:
        """See :class:`DiffusionPolicy`: the positive, away from the negative."""
        if self.tuned <= 0:
            return (self.positive if self._given else self.average), None
        if not self.config.guidance:
            return self.positive, None
        theta = self._reference_weights.vector.detach()
        learned = (
            self._positive_weights.vector.detach() - theta,
            self._average_weights.vector.detach() - theta,
        )
        config = self.config
        mixed = mixed_weights(theta, *learned, config.positive_share, config.negative_share)
        self._mixed.vector.detach().copy_(mixed)
        return self.positive, Guide(self._negative, self.config.guidance)

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`Agent.state_dict`."""
        return {**super().state_dict(), "positive": self.positive.state_dict(), "given": self._given}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :meth:`Agent.load_state_dict`."""
        super().load_state_dict(state)
        self.positive.load_state_dict(state["positive"])
        self._given = bool(state["given"])


def grouped(rows: Tensor, groups: int) -> Tensor:
    """Return rows [..., N, C] as groups of neighbours [..., G, R, C]."""
    return rows.view(*rows.shape[:-2], groups, -1, rows.shape[-1])
