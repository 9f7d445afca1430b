"""What diffusion policies have in common that are cloned first, and then tuned against their reference."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from prefrl.agents.actor_critic.diffusion.diffusion_policy import DiffusionPolicy, DiffusionPolicyConfig
from prefrl.config import Natural, NonNegative, Positive
from prefrl.data import Segments, TransitionDataset
from prefrl.nn.diffusion.policy import DenoisingPolicy, Guide

TunedType = TypeVar("TunedType", bound="TunedDiffusionPolicy")


@dataclass(frozen=True)
class TunedDiffusionPolicyConfig(DiffusionPolicyConfig):
    """Settings of :class:`TunedDiffusionPolicy`."""

    cloning_steps: Natural = 5_000
    """Gradient steps of cloning, first; what comes of it is the reference. 0 where a clone is given."""

    tuning_rate: Positive = 3e-4
    """Adam's step size after them."""

    guidance: NonNegative = 0.0
    """w: how far what acts keeps away from its negative, eps = (1 + w) eps_own - w eps_negative; 0: not."""


class TunedDiffusionPolicy(DiffusionPolicy):
    """Base of diffusion policies that are cloned first, and then tuned against what they were then.

    An algorithm returns the inputs of a gradient step (:meth:`tuning_inputs`) and the loss of them
    (:meth:`tuning_loss`).

    Args:
        env: see :class:`DiffusionPolicy`.
        config: settings.
        dataset: what to clone.
        clone: a policy of the same networks that was cloned already; ``cloning_steps`` must be 0 then.
        device: torch device, or "auto".
        seed: seeds networks, batches, noise and the actions that are drawn.

    Raises:
        ValueError: if cloning steps are asked for of a clone, or its networks are others.

    Attributes:
        reference: the average of the weights after cloning, what tuning measures against.
    """

    config_class: ClassVar[type[TunedDiffusionPolicyConfig]]
    config: TunedDiffusionPolicyConfig
    reference: DenoisingPolicy

    def __init__(
        self, env: Any, config: TunedDiffusionPolicyConfig, *, dataset: TransitionDataset | None = None,
        clone: DiffusionPolicy | None = None, device: torch.device | str = "auto", seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(env, config, dataset=dataset, device=device, seed=seed)
        self._cloned = config.cloning_steps > 0
        if clone is not None:
            self._take(clone)

    def _take(self, clone: DiffusionPolicy) -> None:
        """Begin with what a clone acts by."""
        if self.config.cloning_steps:
            raise ValueError(f"cloning_steps is {self.config.cloning_steps}; it must be 0 where a clone is "
                             "given")  # fmt: skip
        if not isinstance(clone, DiffusionPolicy):
            raise TypeError(f"clone is a {type(clone).__name__}; it must be a DiffusionPolicy")
        mine, theirs = (
            {name: getattr(config, name) for name in _OF_NETWORKS} for config in (self.config, clone.config)
        )
        for name, value in mine.items():
            if theirs[name] != value:
                raise ValueError(f"{name} is {value!r} and the clone's {theirs[name]!r}; they must be equal")
        spaces = clone.observation_space, clone.action_space
        if spaces != (self.observation_space, self.action_space):
            raise ValueError(f"clone is of {spaces[0]} and {spaces[1]}; env has {self.observation_space} and "
                             f"{self.action_space}")  # fmt: skip
        self.average.load_state_dict(clone.acting()[0].state_dict())
        self.reference.load_state_dict(self.average.state_dict())
        self._cloned = True

    def make_network(self) -> DenoisingPolicy:
        """See :class:`DiffusionPolicy`; the reference is made beside it."""
        network = super().make_network()
        self.reference = self.make_policy().requires_grad_(False)
        return network

    # Learning --------------------------------------------------------------------------------------------

    @property
    def tuned(self) -> int:
        """Gradient steps after those of cloning; below 0, how many of these are left, negative."""
        return self.num_timesteps - self.config.cloning_steps

    def update(self) -> dict[str, Tensor]:
        """Take a gradient step: of cloning first, then of tuning; see :meth:`Agent.update`.

        Raises:
            ValueError: if what is needed was not given.
        """
        if self.tuned < 0:
            return super().update()
        if self.tuned == 0:
            self.begin_tuning()
        self._update.loss, self._update.optimizer.lr = self.tuning_loss, self.config.tuning_rate
        inputs = self.tuning_inputs()
        self.num_timesteps += 1
        metrics = self._update.step(*inputs)
        self.follow()
        return metrics

    def begin_tuning(self) -> None:
        """Make what acts the reference, and go on from there, with Adam's averages empty."""
        if not self._cloned:
            name = type(self).__name__
            raise ValueError(f"cloning_steps is 0 and there is no clone; give {name}(env, config, clone=...)")
        for policy in (self.policy, self.reference):
            policy.load_state_dict(self.average.state_dict())
        self._update.optimizer.load_state_dict({"state": {}})

    @abstractmethod
    def tuning_inputs(self) -> tuple[Tensor, ...]:
        """Return the inputs of a gradient step of tuning, in which nothing of them changes."""

    @abstractmethod
    def tuning_loss(self, policy: DenoisingPolicy, *inputs: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of what :meth:`tuning_inputs` returned, and metrics."""

    # Acting ----------------------------------------------------------------------------------------------

    def acting(self) -> tuple[DenoisingPolicy, Guide | None]:
        """See :class:`DiffusionPolicy`: the average; if guided, away from the reference."""
        weight = self.config.guidance
        return self.average, Guide(self.reference, weight) if weight and self.tuned > 0 else None

    def reference_log_prob(self, segments: Segments) -> Tensor:
        """Return :meth:`log_prob` of the reference; ValueError before there is one."""
        if self.tuned <= 0:
            raise ValueError("there is no reference yet: it is what cloning comes to")
        return self._said_by(self.reference, segments)

    @classmethod
    def load(
        cls: type[TunedType], path: str | os.PathLike[str], env: Any = None,
        device: torch.device | str = "auto", **given: Any,
    ) -> TunedType:  # fmt: skip
        """See :meth:`Agent.load`; files hold no data, which are given again to go on learning."""
        return cls._from_file(path, env, device, given)

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`Agent.state_dict`."""
        kept = {"reference": self.reference.state_dict(), "cloned": self._cloned}
        return {**super().state_dict(), **kept}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :meth:`Agent.load_state_dict`."""
        super().load_state_dict(state)
        self.reference.load_state_dict(state["reference"])
        self._cloned = bool(state["cloned"])


_OF_NETWORKS = ("hidden", "noise_steps", "schedule", "horizon", "activation")
"""Settings that a clone's networks and noise hang on."""


def stops_on(policy: DenoisingPolicy, device: torch.device) -> Tensor:
    """Return the times that a policy's sampler stops at [K + 1] int64, on a device."""
    return torch.stack([torch.full((), stop, device=device) for stop in policy.stops])
