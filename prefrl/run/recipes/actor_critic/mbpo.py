"""Train model-based policy optimisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
from tyro.conf import FlagConversionOff

from prefrl.agents.actor_critic.mbpo import MBPO
from prefrl.agents.actor_critic.mbpo_config import MBPOConfig, Preset, mbpo_preset
from prefrl.run.environments import make_scalar_env, restore, small_networks
from prefrl.run.folder import RunFolder
from .box import BoxRecipe

FROM_PRESET = MBPOConfig()
"""Stands for the preset's settings, which depend on the environment."""


@dataclass(frozen=True)
class TrainMBPO(BoxRecipe):
    """MBPO: soft actor-critic on what an ensemble imagines, or one model with smooth critics, or VaGraM."""

    preset: Preset = "cpu"
    """Where the settings of the agent come from that no flag gives: cpu, for a laptop, or paper."""

    agent: FlagConversionOff[MBPOConfig] = FROM_PRESET
    """Settings of the agent."""

    def __post_init__(self) -> None:
        self.check()
        if self.agent is FROM_PRESET:
            object.__setattr__(self, "agent", mbpo_preset(self.env_id, self.preset))

    @classmethod
    def with_preset(cls, arguments: Sequence[str]) -> TrainMBPO:
        """Return the recipe that flags start from, for the environment and the preset that they name."""
        given = {"env-id": cls.env_id, "preset": cls.preset}
        for name in given:
            for place, argument in enumerate(arguments):
                flag, equals, value = argument.partition("=")
                if flag.replace("_", "-") == f"--{name}" and (equals or place + 1 < len(arguments)):
                    given[name] = value if equals else arguments[place + 1]
        # What is no preset is refused when the flags themselves are read.
        return cls(env_id=given["env-id"], preset="paper" if given["preset"] == "paper" else "cpu")

    def run(self, folder: RunFolder, *, resume: bool, progress_bar: bool) -> dict[str, Any]:
        """Train, evaluate, and save the agent as ``agent.pt``."""
        with small_networks():
            agent = self._agent(self.training_env())
            loop = self.train(agent, folder, resume=resume, progress_bar=progress_bar)
            return self.outcome(agent, loop)

    def evaluation(self, folder: RunFolder) -> tuple[MBPO, gym.Env[Any, Any]]:
        """Return the agent of the folder's checkpoint and a fresh scalar environment for it."""
        env = make_scalar_env(*self.made)
        agent = self._agent(env)
        restore(agent, folder)
        return agent, env

    def _agent(self, env: Any) -> MBPO:
        return MBPO(env, self.agent, device=self.device, seed=self.seed)
