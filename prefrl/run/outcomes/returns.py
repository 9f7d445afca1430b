"""Return distributions of trained agents with stocks: exact where the model is known, else from episodes."""

from __future__ import annotations

import warnings
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from prefrl.agents.base import Agent
from prefrl.agents.returns.stock_dqn import FROZEN, StockDQN
from prefrl.envs.wrappers.stock import VectorStockAugmentation
from prefrl.run.evaluate import Evaluation, rollout
from prefrl.tabular.return_distributions import StockPolicy, solve
from prefrl.tabular.stock_lattice import FiniteHorizon, StockLattice, TooManyTotalsError


def stock_outcome(agent: StockDQN, env: Any, rows: VectorStockAugmentation, *, seed: int) -> dict[str, Any]:
    """Return the objective's value for an agent's returns, and the best one where it is known.

    Args:
        agent: the agent.
        env: its scalar environment, without the stock.
        rows: the environment with stocks, one row per episode, on the host.
        seed: seeds the rows.
    """
    stock = agent.search_initial_stock(start_observations(rows, seed))
    criterion = agent.problem.criterion((stock,))
    found: dict[str, Any] = {"initial_stock": stock, "exact_optimum": None, "exact": False}
    if hasattr(env.unwrapped, "horizon_model"):
        model = FiniteHorizon.of_model(env.unwrapped.horizon_model(), gamma=agent.config.gamma)
        with suppress(TooManyTotalsError):
            frozen = agent.config.use_of_stock == FROZEN
            returns, probs = exact_distribution(agent_policy(agent, env, model, stock, frozen=frozen), stock)
            found |= {"exact": True, "objective_value": float(criterion.value(returns, probs)),
                      "mean_return": float(returns @ probs)}  # fmt: skip
            found["exact_optimum"] = solve(model, agent.problem).value
    if not found["exact"]:
        sampled = torch.as_tensor(sample_returns(agent, rows, stock, seed=seed))
        found |= {"objective_value": float(criterion.value(sampled)), "mean_return": float(sampled.mean())}
    return found


@dataclass(frozen=True)
class StockEvaluation(Evaluation):
    """Evaluates an agent with stocks during a run, from the initial stock that it thinks best by then."""

    env: VectorStockAugmentation

    def run(self, agent: Any, index: int) -> dict[str, float]:
        """Return the objective of the returns of fresh episodes, their mean, and the mean length.

        Returns are discounted with the stock's gamma, as in the objective.
        """
        seed = self.seed_of(index)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that stocks are too small is said at the end
            stock = agent.search_initial_stock(start_observations(self.env, seed))
        returns, lengths = rollout(
            agent, self.env, seed=seed, options={"stock": stock}, gamma=self.env.rule.gamma
        )
        value = agent.problem.criterion((stock,)).value(torch.as_tensor(returns))
        return {
            "objective": float(value),
            "mean_return": float(returns.mean()),
            "mean_length": float(lengths.mean()),
        }


def start_observations(env: VectorStockAugmentation, seed: int) -> torch.Tensor:
    """Return what is observed [n, ...] at the start of each row, without the stock."""
    obs, _ = env.reset(seed=seed)
    return torch.as_tensor(obs["obs"])


def agent_policy(
    agent: Agent, env: Any, problem: FiniteHorizon, initial_stock: float, *, frozen: bool = False
) -> StockPolicy:
    """Return the deterministic policy of an agent as a table over times, states and stocks.

    Args:
        agent: an agent that acts on observations with a stock.
        env: the environment, which offers ``observations(time)``.
        problem: its model, with rewards that are numbers.
        initial_stock: where the stock starts.
        frozen: the agent sees the initial stock throughout.
    """
    lattice = StockLattice(problem, problem.rewards.new_tensor([initial_stock]))
    inner, actions = env.unwrapped, []
    first = int(agent.action_space.start)
    for time in range(problem.horizon):
        stocks = lattice.points[time] / problem.gamma**time
        if frozen:
            stocks = stocks.new_tensor([initial_stock])
        obs = torch.as_tensor(inner.observations(time), device=agent.device)
        rows = {
            "obs": obs.repeat_interleave(len(stocks), 0),
            "stock": stocks.to(agent.device).repeat(len(obs))[:, None],
        }
        with torch.no_grad():
            taken = agent.act(rows, deterministic=True) - first
        actions.append(taken.view(1, len(obs), -1).to(problem.rewards.device))
    return StockPolicy(lattice, problem, actions)


def exact_distribution(policy: StockPolicy, initial_stock: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the values [Z] of G and their probabilities [Z] under a policy from an initial stock."""
    return policy.lattice.outcomes - initial_stock, policy.distribution()[0, 0]


def sample_returns(
    agent: Agent, env: VectorStockAugmentation, initial_stock: float, *, seed: int
) -> NDArray[np.float64]:
    """Return the discounted returns [n] of the deterministic policy, one episode per row.

    Args:
        agent: an agent that acts on observations with a stock.
        env: a vector environment on the host.
        initial_stock: where the stock starts.
        seed: seeds the environment.
    """
    options = {"stock": initial_stock}
    returns, _ = rollout(agent, env, seed=seed, options=options, gamma=env.rule.gamma)
    return returns
