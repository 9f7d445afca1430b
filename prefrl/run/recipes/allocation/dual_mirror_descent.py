"""Allocate online by dual mirror descent."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import gymnasium as gym
import torch
from tyro.conf import arg

import prefrl.envs
from prefrl.agents.allocation.dual_mirror_descent import DualMirrorDescent, DualMirrorDescentConfig
from prefrl.data.devices import resolve_device
from prefrl.run.environments import make_scalar_env, make_training_env, parse_env_args, restore
from prefrl.run.folder import RunFolder
from prefrl.run.loop import Loop
from prefrl.run.outcomes.allocation import allocation_outcome, check_whole_horizons, has_instances


@dataclass(frozen=True)
class TrainDualMirrorDescent:
    """Online allocation by dual mirror descent: many horizons at once, beside the best in hindsight."""

    env_id: str = "prefrl/MultiSecretary-v0"
    """An allocation environment of prefrl; it is stepped on the device."""

    env_args: Annotated[tuple[str, ...], arg(metavar="[NAME=VALUE ...]", help_behavior_hint="")] = ()
    """Arguments of the environment, as in: rho=0.3 input_model=periodic (or --env.rho 0.3)."""

    horizon: Annotated[
        int | None, arg(metavar="INT", help_behavior_hint="(default: 1000, or all requests of a file)")
    ] = None
    """Number T of requests."""

    replications: int = 100
    """Independent horizons, which are run together."""

    float_dtype: Literal["float32", "float64"] = "float32"
    """Type of rewards, requests and prices; what is spent is counted in float64 either way."""

    log_every: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: 1 % of the run)")] = (
        None
    )
    """Requests, of all replications, between two rows of progress.csv."""

    checkpoint_every: Annotated[
        int | None, arg(metavar="INT", help_behavior_hint="(default: 10 % of the run)")
    ] = None
    """Requests, of all replications, between two checkpoints."""

    seed: int = 0
    """Seeds the requests and, unless env_args give an instance_seed, the instance, where it is drawn."""

    device: str = "auto"
    """Torch device: auto (CUDA when present), cpu, cuda."""

    agent: DualMirrorDescentConfig = field(default_factory=DualMirrorDescentConfig)
    """Settings of the agent."""

    def __post_init__(self) -> None:
        for name in ("horizon", "replications", "log_every", "checkpoint_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; it must not be negative")
        check_whole_horizons(parse_env_args(self.env_args))
        resolve_device(self.device)

    def run(self, folder: RunFolder, *, resume: bool, progress_bar: bool) -> dict[str, Any]:
        """Serve the horizon in every replication; save the agent as ``agent.pt``."""
        torch.set_num_threads(1)  # more slow the small operations of most problems down
        dtype = getattr(torch, self.float_dtype)
        if prefrl.envs.bare_id(self.env_id) not in prefrl.envs.REGISTRY:
            raise ValueError(f"env_id is {self.env_id!r}; allocation environments are those of prefrl")
        env = make_training_env(
            self.env_id, self._arguments(), self.replications, self.device, float_dtype=dtype
        )
        agent = DualMirrorDescent(env, self.agent, device=self.device, seed=self.seed)
        total = self.replications * agent.pricing.allocation.horizon
        loop = Loop(
            agent,
            total,
            folder=folder,
            resume=resume,
            progress_bar=progress_bar,
            log_every=self.log_every,
            checkpoint_every=self.checkpoint_every or max(1, total // 10),
        )
        loop.run()
        agent.save(folder.path / "agent.pt")
        stationary = env.unwrapped.dynamics.stationary
        return {
            **allocation_outcome(agent, env).summary(),
            "fluid_dual": env.unwrapped.fluid_optimum().mu.tolist() if stationary else None,
            "horizon": agent.pricing.allocation.horizon,
            "num_timesteps": agent.num_timesteps,
            "microseconds_per_request": loop.seconds / total * 1e6,
            "seconds": loop.seconds,
        }

    def evaluation(self, folder: RunFolder) -> tuple[DualMirrorDescent, gym.Env[Any, Any]]:
        """Return the agent of the folder's checkpoint and a fresh scalar environment for it."""
        env = make_scalar_env(self.env_id, self._arguments())
        agent = DualMirrorDescent(env, self.agent, device=self.device, seed=self.seed)
        restore(agent, folder)
        return agent, env

    def _arguments(self) -> tuple[str, ...]:
        arguments = self.env_args if self.horizon is None else (*self.env_args, f"horizon={self.horizon}")
        if "instance_seed" not in parse_env_args(arguments) and has_instances(self.env_id):
            arguments = (*arguments, f"instance_seed={self.seed}")
        return arguments
