"""Train model-based policy optimisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prefrl.agents.actor_critic.mbpo import MBPO
from prefrl.agents.actor_critic.mbpo_config import MBPOConfig, Preset, mbpo_preset

from .box import BoxRecipe

FROM_PRESET = MBPOConfig()
"""Stands for the preset's settings, which depend on the environment."""


@dataclass(frozen=True)
class TrainMBPO(BoxRecipe):
    """MBPO: soft actor-critic on what an ensemble imagines, or one model with smooth critics, or VaGraM."""

    preset: Preset = "cpu"
    """Where the settings of the agent come from that no flag gives: cpu, for a laptop, or paper."""

    agent: MBPOConfig = FROM_PRESET
    """Settings of the agent."""

    def check(self) -> None:
        """See :meth:`Recipe.check`; take the agent's settings from the preset where none are given."""
        super().check()
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

    def make_agent(self, env: Any) -> MBPO:
        """See :meth:`Recipe.make_agent`."""
        return MBPO(env, self.agent, device=self.device, seed=self.seed)
