"""Train tabular Q-learning."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

import gymnasium as gym
import torch
from tyro.conf import arg

from prefrl.agents.value_based.q_learning import QLearning, QLearningConfig
from prefrl.data.devices import resolve_device
from prefrl.run.environments import make_scalar_env, make_training_env, parse_env_args, restore
from prefrl.run.evaluate import evaluate, scaled_return
from prefrl.run.folder import RunFolder
from prefrl.run.loop import Loop


@dataclass(frozen=True)
class TrainQLearning:
    """Tabular Q-learning, with thousands of environments at once."""

    env_id: str = "prefrl/Delivery-v0"
    """Environment with Discrete observations and actions; prefrl's own are stepped on the device."""

    env_args: Annotated[tuple[str, ...], arg(metavar="[NAME=VALUE ...]", help_behavior_hint="")] = ()
    """Arguments of the environment, as in: layout_seed=3 stochastic=true."""

    num_envs: int = 4096
    """Environments stepped together."""

    total_timesteps: int = 4_000_000
    """Timesteps to train for; a step of n environments is n."""

    log_every: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: 1 % of the run)")] = (
        None
    )
    """Timesteps between two rows of progress.csv."""

    checkpoint_every: Annotated[
        int | None, arg(metavar="INT", help_behavior_hint="(default: 10 % of the run)")
    ] = None
    """Timesteps between two checkpoints."""

    eval_episodes: int = 100
    """Episodes of the greedy policy, after training, whose mean return is the final return."""

    seed: int = 0
    """Seeds exploration and environments."""

    device: str = "auto"
    """Torch device: auto (CUDA when present), cpu, cuda."""

    agent: QLearningConfig = field(default_factory=QLearningConfig)
    """Settings of the agent."""

    def __post_init__(self) -> None:
        for name in ("num_envs", "total_timesteps", "log_every", "checkpoint_every", "eval_episodes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; it must not be negative")
        parse_env_args(self.env_args)
        resolve_device(self.device)

    def run(self, folder: RunFolder, *, resume: bool, progress_bar: bool) -> dict[str, Any]:
        """Train, evaluate, and save the agent as ``agent.pt``."""
        torch.set_num_threads(1)  # operations on small tables are several times slower on more
        env = make_scalar_env(self.env_id, self.env_args)  # first: it takes fewer arguments than the other
        agent = self._agent(make_training_env(self.env_id, self.env_args, self.num_envs, self.device))
        loop = Loop(
            agent,
            self.total_timesteps,
            folder=folder,
            resume=resume,
            progress_bar=progress_bar,
            log_every=self.log_every,
            checkpoint_every=self.checkpoint_every or max(1, self.total_timesteps // 10),
        )
        loop.run()
        agent.save(folder.path / "agent.pt")
        return {
            "scaled_return": scaled_return(agent, env),
            "final_return": evaluate(agent, env, episodes=self.eval_episodes, seed=self.seed)["mean_return"],
            "num_timesteps": agent.num_timesteps,
            "seconds": loop.seconds,
            "steps_per_second": agent.num_timesteps / loop.seconds,
        }

    def evaluation(self, folder: RunFolder) -> tuple[QLearning, gym.Env[Any, Any]]:
        """Return the agent of the folder's checkpoint and a fresh scalar environment for it."""
        env = make_scalar_env(self.env_id, self.env_args)
        agent = self._agent(env)
        restore(agent, folder)
        return agent, env

    def _agent(self, env: Any) -> QLearning:
        return QLearning(env, self.agent, device=self.device, seed=self.seed)
