"""Diffusion-DPO: a diffusion policy from comparisons, minus its denoising error standing for the likelihood.

Of segments cut into chunks a_1, a_2, ... at observations s_1, s_2, ...,

    log pi(segment) := -sum_i |eps_theta(alpha_t a_i + sigma_t eps_i, s_i, t_i) - eps_i|^2,

one time t_i and noise eps_i for each chunk and the same ones for the policy, its reference and the chunk in
the same place of the other segment, and then a loss on pairs as any other (Wallace et al. 2024,
arXiv 2311.12908, equation 14, whose beta T omega is beta here): rows of
:mod:`prefrl.functional.preferences.pair_rows` that are measured against a reference. Fresh times and noises
in every step stand inside the loss, which is an upper bound of that of the expectations (the same, Jensen).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from prefrl.agents.actor_critic.diffusion.diffusion_policy import DiffusionPolicy
from prefrl.config import Positive, Rows
from prefrl.data import Preferences, TransitionDataset
from prefrl.functional.draws import integers, permutation
from prefrl.functional.preferences.alignment import pair_accuracy
from prefrl.functional.preferences.pair_loss import pair_leads, pair_loss
from prefrl.nn.diffusion.policy import DenoisingPolicy, Draws

from .chunks import compared_chunks
from .tuning import TunedDiffusionPolicy, TunedDiffusionPolicyConfig


@dataclass(frozen=True)
class DiffusionDPOConfig(TunedDiffusionPolicyConfig):
    """Settings of :class:`DiffusionDPO`."""

    loss: Literal["dpo", "conservative_dpo", "robust_dpo", "ipo", "slic"] = "dpo"
    """What is made of a comparison; see ``prefrl.functional.preferences.pair_rows``."""

    beta: Positive = 0.1
    """Scale of log-ratios, which are differences of denoising errors."""

    pairs: Rows = 32
    """Comparisons of a gradient step of tuning."""


class DiffusionDPO(TunedDiffusionPolicy):
    """Tunes a cloned diffusion policy by comparisons; see the module's text.

    Args:
        env: see :class:`TunedDiffusionPolicy`.
        config: settings.
        dataset: what to clone.
        preferences: comparisons; None: an agent that does not learn.
        clone: a policy of the same networks that was cloned already.
        device: torch device, or "auto".
        seed: of everything random.

    Raises:
        TypeError: if ``preferences`` are none.
        ValueError: if they do not suit.
    """

    config_class: ClassVar[type[DiffusionDPOConfig]] = DiffusionDPOConfig
    config: DiffusionDPOConfig

    def __init__(
        self, env: Any, config: DiffusionDPOConfig | None = None, *,
        dataset: TransitionDataset | None = None, preferences: Preferences | None = None,
        clone: DiffusionPolicy | None = None, device: torch.device | str = "auto", seed: int = 0,
    ) -> None:  # fmt: skip
        config = config or DiffusionDPOConfig()
        super().__init__(env, config, dataset=dataset, clone=clone, device=device, seed=seed)
        self._pairs = None if preferences is None else compared_chunks(self, self.policy, preferences)

    def tuning_inputs(self) -> tuple[Tensor, ...]:
        """Return a batch of comparisons, times and noises, and what the reference says of all chunks."""
        if self._pairs is None:
            raise ValueError("there are no preferences; give them: "
                             "DiffusionDPO(env, config, preferences=...)")  # fmt: skip
        rows = integers(self._generator, len(self._pairs.labels), self.config.pairs, device=self.device)
        batch = self._pairs.rows(rows)
        pairs, _, steps = batch.mask.shape
        drawn = self.draws(pairs * steps)
        # Times are in order; of each pair every chunk shall have any.
        order = permutation(self._generator, drawn.times.shape[1], device=self.device)
        times, noise = drawn.times[:, order].repeat(1, 2), drawn.noise.repeat(1, 2, 1)
        obs, chunks = (
            values.transpose(0, 1).transpose(1, 2).flatten(0, 2)[None] for values in (batch.obs, batch.chunks)
        )  # [1, 2 c N, ...]
        with torch.no_grad():
            said = -self.reference.errors(obs, chunks, Draws(times, noise))
        return obs, chunks, times, noise, said, *batch[2:]

    def tuning_loss(self, policy: DenoisingPolicy, *inputs: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean loss of the pairs."""
        obs, chunks, times, noise, said, mask, labels, weights, offsets = inputs
        own, loss = -policy.errors(obs, chunks, Draws(times, noise)), self.config.loss
        pairs, _, steps = mask.shape
        own, said = (each.view(1, 2, steps, pairs).permute(0, 3, 1, 2) for each in (own, said))
        about: dict[str, Any] = {"reference": said, "beta": self.config.beta}
        losses = pair_loss(loss, own, mask, labels, weights=weights, offsets=offsets, **about)
        leads = pair_leads(loss, own.detach(), mask, **about)
        return losses.mean(), {
            "train/loss": losses.detach().mean(),
            "train/margin": (leads * torch.sign(labels - 0.5)).mean(),
            "train/accuracy": pair_accuracy(leads, labels, weights).mean(),
        }
