"""Train soft actor-critic."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym

from prefrl.agents.actor_critic.sac import SAC, SACConfig
from prefrl.run.environments import make_scalar_env, restore, small_networks
from prefrl.run.folder import RunFolder
from prefrl.run.recipes.box import BoxRecipe


@dataclass(frozen=True)
class TrainSAC(BoxRecipe):
    """Soft actor-critic, with plain, spectrally capped or robust critics."""

    agent: SACConfig = field(default_factory=SACConfig)
    """Settings of the agent."""

    def __post_init__(self) -> None:
        self.check()

    def run(self, folder: RunFolder, *, resume: bool, progress_bar: bool) -> dict[str, Any]:
        """Train, evaluate, and save the agent as ``agent.pt``."""
        with small_networks():
            agent = self._agent(self.training_env())
            loop = self.train(agent, folder, resume=resume, progress_bar=progress_bar)
            return self.outcome(agent, loop)

    def evaluation(self, folder: RunFolder) -> tuple[SAC, gym.Env[Any, Any]]:
        """Return the agent of the folder's checkpoint and a fresh scalar environment for it."""
        env = make_scalar_env(*self.made)
        agent = self._agent(env)
        restore(agent, folder)
        return agent, env

    def _agent(self, env: Any) -> SAC:
        return SAC(env, self.agent, device=self.device, seed=self.seed)
