"""Train a diffusion policy."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from tyro.conf import arg

from prefrl.agents.actor_critic.diffusion.diffusion_policy import DiffusionPolicy, DiffusionPolicyConfig
from prefrl.data import TransitionDataset
from prefrl.run.collect import collect_mixture
from prefrl.run.folder import RunFolder
from prefrl.run.loop import Loop
from prefrl.run.recipes.offline import OfflineRecipe

REFERENCE_ACTIONS = 10_000
"""Actions of the reference mixture that are cloned in an environment that knows one, without a file."""

MASS_ACTIONS = 4_096
"""Actions by whose nearest modes the mass of the experts' is measured."""


@dataclass(frozen=True)
class DiffusionRecipe(OfflineRecipe):
    """What recipes of diffusion policies share: data that an environment draws, and the experts' share."""

    dataset: Annotated[
        Path | None,
        arg(metavar="FILE", help_behavior_hint="(required, but where the environment draws its own)"),
    ] = None
    """File of transitions to learn from, as save_transitions writes it; prefrl/Ring-v0 needs none."""

    def drawn(self, env: Any) -> TransitionDataset:
        """Return what the environment's reference does; see :meth:`OfflineRecipe.drawn`."""
        if not hasattr(env.unwrapped, "draw_actions"):
            return super().drawn(env)
        return collect_mixture(env, REFERENCE_ACTIONS, seed=self.seed)

    def outcome(self, agent: DiffusionPolicy, loop: Loop, folder: RunFolder) -> dict[str, Any]:
        """Return the returns and, in an environment of modes, where drawn actions lie and what they earn."""
        found, task = super().outcome(agent, loop, folder), self.scalar_env().unwrapped
        if not hasattr(task, "expert_mass"):
            return found
        obs, _, _ = task.draw_actions(MASS_ACTIONS, seed=self.seed)
        actions = agent.act(torch.as_tensor(obs, device=agent.device)).cpu().numpy()
        masses = {name: getattr(task, name)(actions, obs) for name in ("expert_mass", "off_mode_mass")}
        return {**found, **masses, "drawn_return": float(task.score(actions, obs).mean())}


@dataclass(frozen=True)
class TrainDiffusionPolicy(DiffusionRecipe):
    """A diffusion policy: actions made out of noise, cloned from a file of transitions; Box actions."""

    method: Literal["clone"] = "clone"
    """What it learns by: clone takes the data's actions for good."""

    agent: DiffusionPolicyConfig = field(default_factory=DiffusionPolicyConfig)
    """Settings of the agent."""

    def make_agent(self, env: Any, dataset: TransitionDataset | None = None) -> DiffusionPolicy:
        """See :meth:`Recipe.make_agent`."""
        return DiffusionPolicy(env, self.agent, dataset=dataset, device=self.device, seed=self.seed)
