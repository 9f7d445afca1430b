"""Behaviour cloning: the policy that makes the actions of a data set most likely.

    L = -E log pi(a | s),  (s, a) from the data.

It does not look at rewards: what it comes to is what the data do, on average. That is the baseline of all
that learns from the same data, and the reference that preference optimisation starts from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from prefrl.agents.shared import OfflineAgent, OfflineSettings
from prefrl.data import TransitionDataset
from prefrl.data.replay import Batch
from prefrl.nn.likelihood_policies import LikelihoodPolicy


@dataclass(frozen=True)
class BehaviourCloningConfig(OfflineSettings):
    """Settings of :class:`BehaviourCloning`."""


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

    def make_network(self) -> nn.Module:
        """See :class:`OfflineAgent`: the policy is all that there is."""
        return self.policy

    def _loss(self, policy: LikelihoodPolicy, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        loss = -policy.log_prob(batch.obs[None], batch.actions[None]).mean()
        return loss, {"train/loss": loss.detach()}
