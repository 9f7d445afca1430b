"""Optimise a return distribution exactly."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

import gymnasium as gym
import torch
from tyro.conf import OmitArgPrefixes, arg

from prefrl.agents.returns.distributional_dp import DistributionalDP, DistributionalDPConfig
from prefrl.data.devices import resolve_device
from prefrl.envs.wrappers.stock import StockAugmentation
from prefrl.run.environments import make_scalar_env, parse_env_args, restore
from prefrl.run.folder import RunFolder
from prefrl.run.loop import Loop
from prefrl.run.outcomes.return_figures import save_policy_figure, save_returns_figure


@dataclass(frozen=True)
class TrainDistributionalDP:
    """Exact distributional dynamic programming with stock augmentation: CVaR, target returns, budgets, ..."""

    env_id: str = "prefrl/RiskyCliff-v0"
    """Environment that offers horizon_model(), as prefrl/RiskyCliff-v0 does."""

    env_args: Annotated[tuple[str, ...], arg(metavar="[NAME=VALUE ...]", help_behavior_hint="")] = ()
    """Arguments of the environment, as in: slip=0.2 (or --env.slip 0.2)."""

    horizon: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: the environment's)")] = (
        None
    )
    """Steps of an episode."""

    figures: bool = True
    """Whether to draw the law of returns and, on a board, the policy by stock."""

    seed: int = 0
    """Not used: nothing is random."""

    device: str = "auto"
    """Torch device: auto (CUDA when present), cpu, cuda."""

    agent: OmitArgPrefixes[DistributionalDPConfig] = field(default_factory=DistributionalDPConfig)
    """What is wanted, and how it is found."""

    def __post_init__(self) -> None:
        if self.horizon is not None and self.horizon < 1:
            raise ValueError(f"horizon is {self.horizon}; it must be at least 1")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; it must not be negative")
        parse_env_args(self.env_args)
        resolve_device(self.device)

    def run(self, folder: RunFolder, *, resume: bool, progress_bar: bool) -> dict[str, Any]:
        """Do all stages, evaluate, and save the agent as ``agent.pt``."""
        torch.set_num_threads(1)  # operations on small tables are several times slower on more
        env = self._env()
        agent = self._agent(env)
        stages = agent.stages_left
        loop = Loop(agent, stages, folder=folder, resume=resume, progress_bar=progress_bar,
                    log_every=max(1, stages // 10),
                    checkpoint_every=max(1, stages // 4))  # fmt: skip
        loop.run()
        agent.save(folder.path / "agent.pt")
        result = {**agent.result(), "num_timesteps": agent.num_timesteps, "seconds": loop.seconds}
        if self.figures:
            save_returns_figure(folder.path / "returns.png", agent)
            save_policy_figure(folder.path / "policy.png", agent)
        return result

    def evaluation(self, folder: RunFolder) -> tuple[DistributionalDP, gym.Env[Any, Any]]:
        """Return the agent of the folder's checkpoint and a fresh scalar environment for it."""
        env = self._env()
        agent = self._agent(env)
        restore(agent, folder)
        assert agent.solution is not None
        return agent, self._env(initial_stock=agent.solution.initial_stock)

    def _env(self, **settings: Any) -> StockAugmentation:
        env = make_scalar_env(self.env_id, with_horizon(self.env_args, self.horizon))
        vector = self.agent.takes_vectors
        return StockAugmentation(
            env, self.agent.gamma, reward_key="reward_vector" if vector else None, **settings
        )

    def _agent(self, env: Any) -> DistributionalDP:
        return DistributionalDP(env, self.agent, device=self.device, seed=self.seed)


def with_horizon(env_args: tuple[str, ...], horizon: int | None) -> tuple[str, ...]:
    """Return arguments of an environment, the horizon among them where it is given."""
    return env_args if horizon is None else (*env_args, f"horizon={horizon}")
