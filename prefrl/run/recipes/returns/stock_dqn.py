"""Train deep Q-learning with a stock."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import Annotated, Any

import gymnasium as gym
import torch
from tyro.conf import OmitArgPrefixes, arg

from prefrl.agents.returns.stock_dqn import FROZEN, StockDQN, StockDQNConfig
from prefrl.data.devices import resolve_device
from prefrl.envs.wrappers.stock import StockAugmentation, augment
from prefrl.run.environments import (
    make_evaluation_env,
    make_scalar_env,
    make_training_env,
    parse_env_args,
    restore,
    small_networks,
)
from prefrl.run.folder import RunFolder
from prefrl.run.loop import Loop
from prefrl.run.outcomes.returns import agent_policy, exact_law, sample_returns, start_observations
from prefrl.tabular.return_distributions import solve
from prefrl.tabular.stock_lattice import FiniteHorizon, TooManyTotalsError

from .distributional_dp import with_horizon


@dataclass(frozen=True)
class TrainStockDQN:
    """Deep Q-learning for objectives of the whole return distribution: CVaR, target returns, ..."""

    env_id: str = "prefrl/RiskyCliff-v0"
    """Environment with Discrete actions; prefrl's own are stepped on the device."""

    env_args: Annotated[tuple[str, ...], arg(metavar="[NAME=VALUE ...]", help_behavior_hint="")] = ()
    """Arguments of the environment, as in: slip=0.2 (or --env.slip 0.2)."""

    horizon: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: the environment's)")] = (
        None
    )
    """Steps of an episode, for environments with such an argument."""

    num_envs: int = 16
    """Environments stepped together."""

    total_timesteps: int = 240_000
    """Timesteps to train for; a step of n environments is n."""

    eval_episodes: int = 1000
    """Episodes, after training, from which the return distribution is estimated where no model is known."""

    log_every: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: 1 % of the run)")] = (
        None
    )
    """Timesteps between two rows of progress.csv."""

    checkpoint_every: Annotated[
        int | None, arg(metavar="INT", help_behavior_hint="(default: 10 % of the run)")
    ] = None
    """Timesteps between two checkpoints."""

    seed: int = 0
    """Seeds network, exploration, replay and environments."""

    device: str = "auto"
    """Torch device: auto (CUDA when present), cpu, cuda."""

    agent: OmitArgPrefixes[StockDQNConfig] = field(default_factory=StockDQNConfig)
    """What is wanted, and the settings of the agent."""

    def __post_init__(self) -> None:
        for name in (
            "horizon",
            "num_envs",
            "total_timesteps",
            "eval_episodes",
            "log_every",
            "checkpoint_every",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; it must not be negative")
        parse_env_args(self.env_args)
        resolve_device(self.device)

    def run(self, folder: RunFolder, *, resume: bool, progress_bar: bool) -> dict[str, Any]:
        """Train, evaluate, and save the agent as ``agent.pt``."""
        with small_networks():
            return self._run(folder, resume=resume, progress_bar=progress_bar)

    def _run(self, folder: RunFolder, *, resume: bool, progress_bar: bool) -> dict[str, Any]:
        args = with_horizon(self.env_args, self.horizon)
        env = make_training_env(self.env_id, args, self.num_envs, self.device)
        agent = self._agent(augment(env, **self._stock_rule()))
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
            **self._outcome(agent),
            "gradient_steps": agent.gradient_steps_done,
            "num_timesteps": agent.num_timesteps,
            "seconds": loop.seconds,
            "steps_per_second": agent.num_timesteps / loop.seconds,
        }

    def _outcome(self, agent: StockDQN) -> dict[str, Any]:
        """Return the objective's value for the agent's returns, and the best one where it is known."""
        args = with_horizon(self.env_args, self.horizon)
        rows = augment(make_evaluation_env(self.env_id, args, self.eval_episodes), **self._stock_rule())
        stock = agent.search_initial_stock(start_observations(rows, self.seed))
        criterion = agent.problem.criterion((stock,))
        scalar = make_scalar_env(self.env_id, args)
        found: dict[str, Any] = {"initial_stock": stock, "exact_optimum": None, "exact": False}
        if hasattr(scalar.unwrapped, "horizon_model"):
            model = FiniteHorizon.of_model(scalar.unwrapped.horizon_model(), gamma=self.agent.gamma)
            with suppress(TooManyTotalsError):
                frozen = self.agent.use_of_stock == FROZEN
                returns, probs = exact_law(agent_policy(agent, scalar, model, stock, frozen=frozen), stock)
                found |= {"exact": True, "objective_value": float(criterion.value(returns, probs)),
                          "mean_return": float(returns @ probs)}  # fmt: skip
                found["exact_optimum"] = solve(model, agent.problem).value
        if not found["exact"]:
            sampled = torch.as_tensor(sample_returns(agent, rows, stock, seed=self.seed))
            found |= {
                "objective_value": float(criterion.value(sampled)),
                "mean_return": float(sampled.mean()),
            }
        return found

    def evaluation(self, folder: RunFolder) -> tuple[StockDQN, gym.Env[Any, Any]]:
        """Return the agent of the folder's checkpoint and a fresh scalar environment for it."""
        args = with_horizon(self.env_args, self.horizon)
        agent = self._agent(StockAugmentation(make_scalar_env(self.env_id, args), **self._stock_rule()))
        restore(agent, folder)
        rows = augment(make_evaluation_env(self.env_id, args, 100), **self._stock_rule())
        stock = agent.search_initial_stock(start_observations(rows, self.seed))
        rule = {**self._stock_rule(), "stock_range": None, "initial_stock": stock}
        return agent, StockAugmentation(make_scalar_env(self.env_id, args), **rule)

    def _stock_rule(self) -> dict[str, Any]:
        config = self.agent
        return {
            "gamma": config.gamma,
            "stock_range": (config.stock_low, config.stock_high),
            "frozen": config.use_of_stock == FROZEN,
        }

    def _agent(self, env: Any) -> StockDQN:
        return StockDQN(env, self.agent, device=self.device, seed=self.seed)
