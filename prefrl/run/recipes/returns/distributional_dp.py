"""Optimise a return distribution exactly."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from prefrl.agents.returns.distributional_dp import DistributionalDP, DistributionalDPConfig
from prefrl.config import Count, Natural
from prefrl.envs.wrappers.stock import StockAugmentation
from prefrl.run.environments import make_scalar_env
from prefrl.run.folder import RunFolder
from prefrl.run.loop import Loop
from prefrl.run.outcomes.return_figures import save_policy_figure, save_returns_figure
from prefrl.run.recipes.base import Pairs, Recipe, default


@dataclass(frozen=True)
class TrainDistributionalDP(Recipe):
    """Exact distributional dynamic programming with stock augmentation: CVaR, target returns, budgets, ..."""

    logs: ClassVar[int] = 10
    checkpoints: ClassVar[int] = 4

    env_id: str = "prefrl/RiskyCliff-v0"
    """Environment that offers horizon_model(), as prefrl/RiskyCliff-v0 does."""

    env_args: Pairs = ()
    """Arguments of the environment, as in: slip=0.2 (or --env.slip 0.2)."""

    horizon: Annotated[Count | None, default("the environment's")] = None
    """Steps of an episode."""

    figures: bool = True
    """Whether to draw the distribution of returns and, on a board, the policy by stock."""

    log_every: Annotated[Count | None, default("10 % of the run")] = None
    """Stages between two rows of progress.csv."""

    checkpoint_every: Annotated[Count | None, default("25 % of the run")] = None
    """Stages between two checkpoints."""

    seed: Natural = 0
    """Not used: nothing is random."""

    agent: DistributionalDPConfig = field(default_factory=DistributionalDPConfig)
    """What is wanted, and how it is found."""

    def scalar_env(self, **settings: Any) -> StockAugmentation:
        """Return the environment with a stock."""
        env = make_scalar_env(self.env_id, with_horizon(self.env_args, self.horizon))
        vector = self.agent.takes_vectors
        return StockAugmentation(
            env, self.agent.gamma, reward_key="reward_vector" if vector else None, **settings
        )

    def make_agent(self, env: Any) -> DistributionalDP:
        """See :meth:`Recipe.make_agent`."""
        return DistributionalDP(env, self.agent, device=self.device, seed=self.seed)

    def timesteps(self, agent: DistributionalDP) -> int:
        """See :meth:`Recipe.timesteps`: they are stages."""
        return agent.stages_left

    def outcome(self, agent: DistributionalDP, loop: Loop, folder: RunFolder) -> dict[str, Any]:
        """Draw what was found; return nothing more."""
        if self.figures:
            save_returns_figure(folder.path / "returns.png", agent)
            save_policy_figure(folder.path / "policy.png", agent)
        return {}

    def evaluation(self, folder: RunFolder) -> tuple[DistributionalDP, StockAugmentation]:
        """Return the agent of the folder's checkpoint and its environment, with the best initial stock.

        Raises:
            ValueError: if stages are left to solve at the checkpoint.
        """
        agent = self.restored(self.scalar_env(), folder)
        if agent.solution is None:
            raise ValueError(
                f"{folder.checkpoint_path} has {agent.stages_left} stages left; it must be solved"
            )
        return agent, self.scalar_env(initial_stock=agent.solution.initial_stock)


def with_horizon(env_args: tuple[str, ...], horizon: int | None) -> tuple[str, ...]:
    """Return arguments of an environment, the horizon among them where it is given."""
    return env_args if horizon is None else (*env_args, f"horizon={horizon}")
