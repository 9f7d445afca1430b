"""Train deep Q-learning with a stock."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

from prefrl.agents.returns.stock_dqn import FROZEN, StockDQN, StockDQNConfig
from prefrl.config import Count, Rows
from prefrl.envs.wrappers.stock import StockAugmentation, augment
from prefrl.run.environments import make_evaluation_env, make_scalar_env
from prefrl.run.folder import RunFolder
from prefrl.run.loop import Loop
from prefrl.run.outcomes.returns import StockEvaluation, start_observations, stock_outcome
from prefrl.run.recipes.base import Pairs, SteppingRecipe, default

from .distributional_dp import with_horizon

MOST_EPISODES = 100
"""Episodes of an evaluation while training, of which there are ten."""


@dataclass(frozen=True)
class TrainStockDQN(SteppingRecipe):
    """Deep Q-learning for objectives of the whole return distribution: CVaR, target returns, ..."""

    env_id: str = "prefrl/RiskyCliff-v0"
    """Environment with Discrete actions; prefrl's own are stepped on the device."""

    env_args: Pairs = ()
    """Arguments of the environment, as in: slip=0.2 (or --env.slip 0.2)."""

    horizon: Annotated[Count | None, default("the environment's")] = None
    """Steps of an episode, for environments with such an argument."""

    num_envs: Rows = 16

    total_timesteps: Count = 240_000

    eval_episodes: Rows = 1000
    """Episodes, after training, from which the return distribution is estimated where no model is known."""

    agent: StockDQNConfig = field(default_factory=StockDQNConfig)
    """What is wanted, and the settings of the agent."""

    @property
    def made(self) -> tuple[str, tuple[str, ...]]:
        """Id and arguments of the environment, with the horizon."""
        return self.env_id, with_horizon(self.env_args, self.horizon)

    def scalar_env(self, **rule: Any) -> StockAugmentation:
        """Return the environment with a stock."""
        return StockAugmentation(make_scalar_env(*self.made), **{**self._stock_rule(), **rule})

    def training_env(self) -> Any:
        """Return ``num_envs`` environments with stocks."""
        return augment(super().training_env(), **self._stock_rule())

    def make_agent(self, env: Any) -> StockDQN:
        """See :meth:`Recipe.make_agent`."""
        return StockDQN(env, self.agent, device=self.device, seed=self.seed)

    def evaluations(self) -> StockEvaluation:
        """See :meth:`Recipe.evaluations`: a tenth of the run lies between two."""
        rows = self._rows(min(self.eval_episodes, MOST_EPISODES))
        return StockEvaluation(rows, every=max(1, self.total_timesteps // 10), seed=self.seed)

    def outcome(self, agent: StockDQN, loop: Loop, folder: RunFolder) -> dict[str, Any]:
        """Return the objective's value for the agent's returns, and the best one where it is known."""
        scalar = make_scalar_env(*self.made)
        return {
            **super().outcome(agent, loop, folder),
            **stock_outcome(agent, scalar, self._rows(self.eval_episodes), seed=self.seed),
            "gradient_steps": agent.gradient_steps_done,
        }

    def evaluation(self, folder: RunFolder) -> tuple[StockDQN, StockAugmentation]:
        """Return the agent of the folder's checkpoint and its environment, with the best initial stock."""
        agent = self.restored(self.scalar_env(), folder)
        stock = agent.search_initial_stock(start_observations(self._rows(100), self.seed))
        return agent, self.scalar_env(stock_range=None, initial_stock=stock)

    def _rows(self, episodes: int) -> Any:
        return augment(make_evaluation_env(*self.made, episodes), **self._stock_rule())

    def _stock_rule(self) -> dict[str, Any]:
        config = self.agent
        return {
            "gamma": config.gamma,
            "stock_range": (config.stock_low, config.stock_high),
            "frozen": config.use_of_stock == FROZEN,
        }
