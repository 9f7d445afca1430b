"""Allocate online by dual mirror descent."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import torch

import prefrl.envs
from prefrl.agents.allocation.dual_mirror_descent import DualMirrorDescent, DualMirrorDescentConfig
from prefrl.config import Count, Natural, Rows
from prefrl.run.environments import make_training_env, parse_env_args
from prefrl.run.folder import RunFolder
from prefrl.run.loop import Loop
from prefrl.run.outcomes.allocation import allocation_outcome, check_whole_horizons, has_instances
from prefrl.run.recipes.base import Pairs, Recipe, default


@dataclass(frozen=True)
class TrainDualMirrorDescent(Recipe):
    """Online allocation by dual mirror descent: many horizons at once, beside the best in hindsight."""

    env_id: str = "prefrl/MultiSecretary-v0"
    """An allocation environment of prefrl; it is stepped on the device."""

    env_args: Pairs = ()
    """Arguments of the environment, as in: rho=0.3 input_model=periodic (or --env.rho 0.3)."""

    horizon: Annotated[Count | None, default("1000, or all requests of a file")] = None
    """Number T of requests."""

    replications: Rows = 100
    """Independent horizons, which are run together."""

    float_dtype: Literal["float32", "float64"] = "float32"
    """Type of rewards, requests and prices; what is spent is counted in float64 either way."""

    log_every: Annotated[Count | None, default("1 % of the run")] = None
    """Requests, of all replications, between two rows of progress.csv."""

    checkpoint_every: Annotated[Count | None, default("10 % of the run")] = None
    """Requests, of all replications, between two checkpoints."""

    seed: Natural = 0
    """Seeds the requests and, unless env_args give an instance_seed, the instance, where it is drawn."""

    agent: DualMirrorDescentConfig = field(default_factory=DualMirrorDescentConfig)
    """Settings of the agent."""

    def check(self) -> None:
        """Raise ValueError for arguments of the environment that do not go with whole horizons."""
        super().check()
        check_whole_horizons(parse_env_args(self.env_args))

    @property
    def made(self) -> tuple[str, tuple[str, ...]]:
        """Id and arguments of the environment, with the horizon and the seed of its instance."""
        arguments = self.env_args if self.horizon is None else (*self.env_args, f"horizon={self.horizon}")
        if "instance_seed" not in parse_env_args(arguments) and has_instances(self.env_id):
            arguments = (*arguments, f"instance_seed={self.seed}")
        return self.env_id, arguments

    def training_env(self) -> Any:
        """Return a row for each replication."""
        if prefrl.envs.bare_id(self.env_id) not in prefrl.envs.REGISTRY:
            raise ValueError(f"env_id is {self.env_id!r}; allocation environments are those of prefrl")
        dtype = getattr(torch, self.float_dtype)
        return make_training_env(*self.made, self.replications, self.device, float_dtype=dtype)

    def make_agent(self, env: Any) -> DualMirrorDescent:
        """See :meth:`Recipe.make_agent`."""
        return DualMirrorDescent(env, self.agent, device=self.device, seed=self.seed)

    def timesteps(self, agent: DualMirrorDescent) -> int:
        """See :meth:`Recipe.timesteps`."""
        return self.replications * agent.pricing.allocation.horizon

    def outcome(self, agent: DualMirrorDescent, loop: Loop, folder: RunFolder) -> dict[str, Any]:
        """Return how well the horizons were served."""
        env = agent.env.unwrapped
        stationary = env.dynamics.stationary
        return {
            **allocation_outcome(agent, agent.env).summary(),
            "fluid_dual": env.fluid_optimum().mu.tolist() if stationary else None,
            "horizon": agent.pricing.allocation.horizon,
            "microseconds_per_request": loop.seconds / agent.num_timesteps * 1e6,
        }
