"""Behaviour cloning: the policy that makes the actions of a data set most likely.

    L = -E log pi(a | s),  (s, a) from the data.

It does not look at rewards: what it comes to is what the data do, on average. That is the baseline of all
that learns from the same data, and the reference that preference optimisation starts from.

With another ``divergence`` than the total variation, which is plain cloning, the policy of a first stage of
plain cloning becomes a reference pi_ref, and the second stage goes down

    L = E f*(-h - V) + V,    h = beta log pi(a | s) / pi_ref(a | s),

whose h need not grow for ever: OUR RECONSTRUCTION of what arXiv 2507.00018 describes, not its equation; see
:mod:`prefrl.functional.actor_critic.divergence_cloning`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from prefrl.agents.shared import LikelihoodSettings, OfflineAgent
from prefrl.config import Natural, Positive
from prefrl.data import Segments, TransitionDataset
from prefrl.data.replay import Batch
from prefrl.functional.actor_critic.divergence_cloning import Divergence, divergence_loss
from prefrl.nn.likelihood_policies import LikelihoodPolicy


@dataclass(frozen=True)
class BehaviourCloningConfig(LikelihoodSettings):
    """Settings of :class:`BehaviourCloning`. Defaults of what follows ``divergence`` are ours."""

    divergence: Divergence = "total_variation"
    """By what the data's distribution is matched: total_variation is plain cloning; the others, a
    reconstruction, have a reference, and the settings that follow."""

    beta: Positive | None = None
    """Scale of h, the log-ratio to the reference (None: 1)."""

    value: Literal["optimal", "zero"] | None = None
    """V: the best for the batch (None), or 0."""

    reference_steps: Natural | None = None
    """Gradient steps of plain cloning, first; what comes of them is the reference (None: 1,000)."""

    def check(self) -> None:
        """Raise ValueError for settings that plain cloning does not take."""
        super().check()
        for name in ("beta", "value", "reference_steps"):
            given = getattr(self, name)
            if self.divergence == "total_variation" and given is not None:
                raise ValueError(f"{name} is {given!r}; plain cloning, of the total_variation, takes none: "
                                 "choose the divergence 'chi_square' or 'hellinger'")  # fmt: skip

    @property
    def plain_steps(self) -> int | None:
        """Gradient steps of plain cloning; None: all."""
        if self.divergence == "total_variation":
            return None
        return 1_000 if self.reference_steps is None else self.reference_steps


class BehaviourCloning(OfflineAgent):
    """Behaviour cloning; see the module's text.

    Args:
        env: an environment with Discrete or Box actions and Discrete or Box observations (no pictures), or
            :class:`prefrl.agents.base.Spaces`.
        config: settings.
        dataset: what to learn from; one timestep is one gradient step. Files of agents hold no data: a loaded
            agent acts, and learns on where it is given a data set again.
        device: torch device, or "auto".
        seed: seeds the network, batches and the actions that are drawn.

    Raises:
        TypeError: if ``dataset`` is none.
        ValueError: if a space is of another kind, or the data set's spaces are not the environment's.

    Attributes:
        policy: what learns.
        reference: [P] its parameters when the first stage was over; None before, and in plain cloning.
    """

    config_class: ClassVar[type[BehaviourCloningConfig]] = BehaviourCloningConfig
    config: BehaviourCloningConfig

    def __init__(
        self,
        env: Any,
        config: BehaviourCloningConfig | None = None,
        *,
        dataset: TransitionDataset | None = None,
        device: torch.device | str = "auto",
        seed: int = 0,
    ) -> None:
        super().__init__(env, config or BehaviourCloningConfig(), dataset=dataset, device=device, seed=seed)
        self.reference: Tensor | None = None

    def make_network(self) -> nn.Module:
        """See :class:`OfflineAgent`: the policy is all that there is."""
        return self.policy

    def reference_log_prob(self, segments: Segments) -> Tensor:
        """Return :meth:`log_prob` of the reference; ValueError where there is none, as in plain cloning."""
        if self.reference is None:
            raise ValueError("there is no reference: only stages after plain cloning have one")
        with self._update.weights.holding(self.reference):
            return self.log_prob(segments)

    def _step(self, batch: Batch) -> dict[str, Tensor]:
        plain = self.config.plain_steps
        if self.reference is None and plain is not None and self.num_timesteps > plain:
            self.reference = self._update.weights.vector.detach().clone()
        if self.reference is None:
            return super()._step(batch)
        with self._update.weights.holding(self.reference):
            base = self.policy.log_prob(batch.obs[None], batch.actions[None])
        return self._update.step(batch, base)

    def _loss(
        self, policy: LikelihoodPolicy, batch: Batch, base: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        log_probs = policy.log_prob(batch.obs[None], batch.actions[None])
        if base is None:
            loss = -log_probs.mean()
            return loss, {"train/loss": loss.detach()}
        config = self.config
        h = (1.0 if config.beta is None else config.beta) * (log_probs - base)[0]
        loss = divergence_loss(h, config.divergence, optimal_value=config.value != "zero")
        return loss, {"train/loss": loss.detach(), "train/implicit_reward": h.detach().mean()}

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`Agent.state_dict`; with the reference, where there is one."""
        known = {} if self.reference is None else {"reference": self.reference}
        return {**super().state_dict(), **known}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :meth:`Agent.load_state_dict`."""
        super().load_state_dict(state)
        self.reference = state["reference"].to(self.device) if "reference" in state else None
