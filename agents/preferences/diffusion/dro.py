"""Diffusion-DRO: an expert's actions must gain more against the reference than the policy's own.

Of a demonstrated chunk a^E and one that the policy makes itself at the same observation s, both as noisy as
at time t,

    L = max(0, m + [e_theta(x_t^E) - e_ref(x_t^E)] - [e_theta(x_t^pi) - e_ref(x_t^pi)]),

with e(x) = |eps(x, s, t) - target|^2 (Diffusion-DRO, arXiv 2510.18353: inverse reinforcement learning as a
ranking of the two). x_t^E is the demonstration with noise added, and the target that noise; x_t^pi is a state
that the policy's sampler came through, and the target what the sampler predicted there. It is the hinge row
"diffusion_dro" of the table of pair losses, with -e as the log-likelihood.

Where the sampler is the policy itself, e_theta(x_t^pi) is 0 and has no gradient. What pushes the policy away
from its own actions is the lag between them: paths are made every ``refresh_steps`` gradient steps, and older
ones are learned from again, out of a replay. At policy = reference every argument of the hinge is m, whatever
the states are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from prefrl.agents.actor_critic.diffusion.diffusion_policy import DiffusionPolicy
from prefrl.config import Count, Positive
from prefrl.data import Preferences, TransitionDataset
from prefrl.functional.actor_critic.diffusion import denoising_error, noised
from prefrl.functional.draws import integers, normal
from prefrl.functional.preferences.pair_loss import pair_leads, pair_loss
from prefrl.nn.diffusion.policy import DenoisingPolicy, groups_of

from .chunks import demonstrated_chunks, preferred_chunks
from .tuning import TunedDiffusionPolicy, TunedDiffusionPolicyConfig, stops_on

ROW = "diffusion_dro"
"""Of the table of pair losses."""


@dataclass(frozen=True)
class DiffusionDROConfig(TunedDiffusionPolicyConfig):
    """Settings of :class:`DiffusionDRO`."""

    margin: Positive = 0.001
    """m: what an expert's actions must gain more than the policy's own (arXiv 2510.18353)."""

    averaged: Count = 64
    """Noisy states of a side whose errors are averaged in one argument of the hinge; divides batch_size."""

    refresh_steps: Count = 16
    """Gradient steps after which the policy makes new actions to learn from (the same)."""

    replay_refreshes: Count = 1
    """How many times made actions are kept, batch_size chunks each time."""

    def check(self) -> None:
        """Raise ValueError for averages over a part of a batch that does not go into it."""
        super().check()
        if self.batch_size % self.averaged:
            raise ValueError(f"averaged is {self.averaged}; it must divide batch_size, {self.batch_size}")


class DiffusionDRO(TunedDiffusionPolicy):
    """Tunes a cloned diffusion policy by demonstrations; see the module's text.

    Args:
        env: see :class:`TunedDiffusionPolicy`.
        config: settings.
        dataset: what to clone.
        demonstrations: what an expert did; or
        preferences: comparisons, whose preferred sides stand for it. Neither: an agent that does not learn.
        clone: a policy of the same networks that was cloned already.
        device: torch device, or "auto".
        seed: of everything random.

    Raises:
        ValueError: if both are given, or do not suit.
    """

    config_class: ClassVar[type[DiffusionDROConfig]] = DiffusionDROConfig
    config: DiffusionDROConfig

    def __init__(
        self, env: Any, config: DiffusionDROConfig | None = None, *,
        dataset: TransitionDataset | None = None, demonstrations: TransitionDataset | None = None,
        preferences: Preferences | None = None, clone: DiffusionPolicy | None = None,
        device: torch.device | str = "auto", seed: int = 0,
    ) -> None:  # fmt: skip
        config = config or DiffusionDROConfig()
        super().__init__(env, config, dataset=dataset, clone=clone, device=device, seed=seed)
        if demonstrations is not None and preferences is not None:
            raise ValueError("demonstrations and preferences are both given; give one of them")
        self._experts = None
        if demonstrations is not None:
            self._experts = demonstrated_chunks(self, self.policy, demonstrations)
        if preferences is not None:
            self._experts = preferred_chunks(self, self.policy, preferences)
        self._refreshes, kept = 0, config.replay_refreshes * config.batch_size
        shape = kept, config.sampling_steps, self.policy.size
        self._places = torch.zeros(kept, dtype=torch.int64, device=self.device)
        self._states, self._predicted = (torch.zeros(shape, device=self.device) for _ in range(2))
        self._stops = stops_on(self.policy, self.device)[:-1]

    # Learning --------------------------------------------------------------------------------------------

    def tuning_inputs(self) -> tuple[Tensor, ...]:
        """Return observations, noisy chunks of both sides, targets, times and what the reference says."""
        experts = self._experts
        if experts is None:
            raise ValueError("there are no demonstrations and no preferences; give one of them: "
                             "DiffusionDRO(env, config, demonstrations=...)")  # fmt: skip
        if self.tuned % self.config.refresh_steps == 0 or not self._refreshes:
            self.refresh()
        batch, groups = self.config.batch_size, groups_of(self.config.batch_size)
        filled = min(self._refreshes, self.config.replay_refreshes) * batch
        rows = integers(self._generator, filled, batch, device=self.device)
        step = integers(self._generator, len(self._stops), groups, device=self.device)
        steps = step.repeat_interleave(batch // groups)  # neighbours are looked at at the same time
        place = self._places[rows]
        noise = normal(self._generator, batch, self.policy.size, device=self.device)
        levels = (of[self._stops[steps]][:, None] for of in (self.policy.alphas, self.policy.sigmas))
        expert = noised(experts.chunks[place], noise, *levels)
        noisy = torch.cat([self._states[rows, steps], expert])[None]
        targets = torch.cat([self._predicted[rows, steps], noise])[None]
        obs, times = experts.obs[place.repeat(2)][None], self._stops[step].repeat(2)[None]
        with torch.no_grad():
            said = -denoising_error(self.reference.predict(obs, noisy, times), targets)
        return obs, noisy, targets, times, said

    @torch.no_grad()
    def refresh(self) -> None:
        """Have the policy make chunks at some of the experts' observations; keep what its sampler saw."""
        assert self._experts is not None
        batch = self.config.batch_size
        place = integers(self._generator, len(self._experts.obs), batch, device=self.device)
        path = self.policy.path(self._experts.obs[place][None], self.policy.noise(self._noise, batch))
        start = self._refreshes % self.config.replay_refreshes * batch
        self._places[start : start + batch] = place
        self._states[start : start + batch] = path.states[:, 0].transpose(0, 1)
        self._predicted[start : start + batch] = path.noise[:, 0].transpose(0, 1)
        self._refreshes += 1

    def tuning_loss(self, policy: DenoisingPolicy, *inputs: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean hinge loss of rows [1, 2 B]: the policy's own before the experts'."""
        obs, noisy, targets, times, said = inputs
        own = self._by_pair(-denoising_error(policy.predict(obs, noisy, times), targets))
        mask, labels = torch.ones_like(own, dtype=torch.bool), torch.ones_like(own[:, :, 0, 0])
        about: dict[str, Any] = {
            "reference": self._by_pair(said), "settings": {"margin": self.config.margin},
        }  # fmt: skip
        losses = pair_loss(ROW, own, mask, labels, **about)
        leads = pair_leads(ROW, own.detach(), mask, **about)
        return losses.mean(), {
            "train/loss": losses.detach().mean(),
            "train/margin": leads.mean(),
            "train/active": (leads < self.config.margin).to(torch.float32).mean(),
        }

    def _by_pair(self, said: Tensor) -> Tensor:
        """Return [1, 2 B] as [1, N, 2, A]: of N pairs what is said of A states a side, at many times."""
        return said.view(1, 2, self.config.averaged, -1).permute(0, 3, 1, 2)

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`Agent.state_dict`."""
        kept = {"refreshes": self._refreshes, "places": self._places}
        return {**super().state_dict(), **kept, "states": self._states, "predicted": self._predicted}

    def saved_state(self) -> dict[str, Any]:
        """See :meth:`Agent.saved_state`; the replay stays behind, and is empty afterwards."""
        empty = dict.fromkeys(("places", "states", "predicted"))
        return {**self.state_dict(), **empty, "refreshes": 0}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :meth:`Agent.load_state_dict`; without a replay, new chunks are made at once."""
        super().load_state_dict(state)
        self._refreshes = int(state["refreshes"])
        for name in ("places", "states", "predicted"):
            if state[name] is not None:
                getattr(self, f"_{name}").copy_(state[name])
