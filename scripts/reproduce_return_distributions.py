"""Return distributions optimised exactly and by a deep agent, beside exact optima.

Experiments, all of them by default:

- exact: CVaR of RiskyCliff over tau, target returns of StochasticApples, Homeostasis and BudgetedCollection,
  beside risk-neutral, naive and stock-blind policies; with pictures
- two_coins: the deep agent on TwoCoins, where CVaR needs memory
- apples: the deep agent generates returns from -7 to 7 in StochasticApples
- cliff: the deep agent's CVaR in RiskyCliff, one network for all tau
- cartpole: a demonstration without a known optimum, CartPole stopped at a wanted return

The deep experiments run the agent beside its ablations: no relabelling (replayed with the stock that was
there), frozen (the stock stays where it started), naive (greedy on CVaR of what is still to come) and
risk-neutral. Policies on prefrl's tabular environments are evaluated exactly, by enumeration of what can
happen. The same command goes on with a study that was stopped.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import gymnasium as gym
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

import prefrl.envs
from prefrl.agents.returns.distributional_dp import DistributionalDP, DistributionalDPConfig
from prefrl.agents.returns.stock_dqn import StockDQN, StockDQNConfig
from prefrl.cli import execute
from prefrl.envs.wrappers.stock import StockAugmentation, VectorStockAugmentation
from prefrl.functional.returns.objectives import MEAN
from prefrl.functional.returns.risk_measures import CVaR
from prefrl.functional.returns.stock_problems import StockProblem, conditional_value_at_risk, target_return
from prefrl.run.flags import parse
from prefrl.run.folder import RunFolder, read_json, write_json
from prefrl.run.loop import learn
from prefrl.run.outcomes.return_figures import (
    draw_frontier,
    draw_returns,
    save_plane_figure,
    save_policy_figure,
)
from prefrl.run.outcomes.returns import agent_policy, exact_distribution, sample_returns
from prefrl.run.plot import PALETTE, save_figure, tidy
from prefrl.run.recipes.base import small_networks
from prefrl.run.study.study import check_positive, run_study
from prefrl.run.study.timing import seconds
from prefrl.tabular.blind_policies import open_loop_distributions, return_to_go_policy
from prefrl.tabular.return_distributions import policy_value, solve
from prefrl.tabular.stock_lattice import FiniteHorizon

Experiment = Literal["exact", "two_coins", "apples", "cliff", "cartpole"]

TAUS = (0.05, 0.1, 0.25, 0.5, 0.75, 1.0)
TARGETS = tuple(range(-7, 8))
POLE_TARGETS = (20, 40, 60, 80, 100)
KINDS: dict[str, dict[str, Any]] = {
    "agent": {},
    "no relabelling": {"relabel": False},
    "frozen": {"use_of_stock": "frozen"},
    "naive": {"use_of_stock": "naive"},
    "risk-neutral": {"objective": "mean"},
}
"""The agent and its ablations, as what differs in its settings."""

RECORDS = 20
"""Evaluations along a run."""


@dataclass(frozen=True)
class ReturnStudy:
    """Return distributions optimised exactly and by a deep agent."""

    out: Path = Path("runs/return_distributions")
    """Run folder: new, empty, or of the same study."""

    experiments: tuple[Experiment, ...] = get_args(Experiment)
    """Which; see above."""

    seeds: int = 3
    """Seeds 0, 1, ... of the deep experiments."""

    two_coins_updates: int = 20_000
    """Gradient steps in two_coins."""

    updates: int = 60_000
    """Gradient steps in apples and cliff."""

    cartpole_timesteps: int = 150_000
    """Timesteps in cartpole."""

    compile: bool = True
    """Compile gradient steps (three times as fast; takes a C++ compiler on the CPU)."""

    def __post_init__(self) -> None:
        check_positive(self, "seeds", "two_coins_updates", "updates", "cartpole_timesteps")
        if not self.experiments:
            raise ValueError(f"experiments is empty; give some of {', '.join(get_args(Experiment))}")

    def run(self) -> None:
        """Run the study in its folder, or go on with it."""
        with small_networks():
            run_study(self, resumable=True)

    def measure(self, folder: RunFolder) -> dict[str, Any]:
        """Measure what has not been measured yet; draw, print and return all of it."""
        parts = folder.path / "parts"
        parts.mkdir(exist_ok=True)
        result: dict[str, Any] = {}
        for name in self.experiments:
            if name == "exact":
                result[name] = self._part(parts / "exact.json", lambda: exact(folder.path))
                continue
            rows: dict[str, list[Any]] = {}
            for kind in EXPERIMENTS[name].kinds:
                for seed in range(self.seeds):
                    path = parts / f"{name}-{kind.replace(' ', '_')}-{seed}.json"
                    found = self._part(path, lambda: EXPERIMENTS[name].measure(self, kind, seed))  # noqa: B023
                    rows.setdefault(kind, []).append(found)
            result[name] = rows
            show(name, rows)
        draw(result, folder.path)
        return result

    @staticmethod
    def _part(path: Path, measure: Callable[[], dict[str, Any]]) -> Any:
        if not path.exists():
            found: dict[str, Any] = {}
            taken = seconds(lambda: found.update(measure()))
            write_json(path, {**found, "seconds": taken})
        return read_json(path)


# Exact -----------------------------------------------------------------------------------------------------


def model_of(env_id: str, *, vector: bool = False) -> tuple[Any, FiniteHorizon]:
    """Return a scalar environment and its model."""
    env = gym.make(env_id)
    return env, FiniteHorizon.of_model(env.unwrapped.horizon_model(), vector=vector)


def exact(folder: Path) -> dict[str, Any]:
    """Solve, and draw what was found."""
    return {
        "cliff": exact_cliff(folder),
        "apples": exact_apples(),
        "homeostasis": exact_vectors("prefrl/Homeostasis-v0", "homeostasis", folder),
        "budget": exact_vectors("prefrl/BudgetedCollection-v0", "constraint", folder),
    }


def solved(env_id: str, **settings: Any) -> DistributionalDP:
    """Return an exact agent that is done."""
    config = DistributionalDPConfig(**settings)
    key = "reward_vector" if config.takes_vectors else None
    agent = DistributionalDP(StockAugmentation(gym.make(env_id), reward_key=key), config)
    return agent.learn(agent.stages_left)


def exact_cliff(folder: Path) -> dict[str, Any]:
    """Return CVaR over tau of the best, the naive and the risk-neutral policy."""
    _, model = model_of("prefrl/RiskyCliff-v0")
    neutral = return_to_go_policy(model, MEAN)[0]
    found: dict[str, Any] = {
        "tau": list(TAUS),
        "best": [],
        "initial_stock": [],
        "naive": [],
        "risk-neutral": [],
    }
    for tau in TAUS:
        solution = solve(model, conditional_value_at_risk(tau))
        found["best"].append(solution.value)
        found["initial_stock"].append(solution.initial_stock[0])
        found["naive"].append(policy_value(return_to_go_policy(model, CVaR(tau))[0], CVaR(tau)))
        found["risk-neutral"].append(policy_value(neutral, CVaR(tau)))
    curves = {name: found[name] for name in ("risk-neutral", "naive", "best")}
    agent = solved("prefrl/RiskyCliff-v0", objective="cvar", tau=0.25)
    figure = Figure(figsize=(11.0, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    draw_returns(left, agent)
    draw_frontier(right, TAUS, curves)
    save_figure(figure, folder / "returns_cliff.png")
    save_policy_figure(folder / "policy_cliff.png", agent)
    return found


def exact_apples() -> dict[str, Any]:
    """Return the least E|G - g| for every g, with a stock and without."""
    _, model = model_of("prefrl/StochasticApples-v0")
    returns, distributions = open_loop_distributions(model)
    best = [-solve(model, target_return(g)).value for g in TARGETS]
    blind = [-float(target_return(g).criterion().value(returns, distributions).max()) for g in TARGETS]
    return {"target": list(TARGETS), "best": best, "blind": blind, "mean_best": float(np.mean(best)),
            "mean_blind": float(np.mean(blind))}  # fmt: skip


def exact_vectors(env_id: str, objective: Any, folder: Path) -> dict[str, Any]:
    """Return keys of the best policy, the best without a stock, and the risk-neutral one; draw them."""
    agent = solved(env_id, objective=objective)
    solution, model = agent.solution, agent.problem
    assert solution is not None
    assert model is not None
    criterion = agent.wanted.criterion(solution.initial_stock)
    returns, distributions = open_loop_distributions(model)
    keys = criterion.keys(returns, distributions)
    order = sorted(range(len(distributions)), key=lambda n: keys[n].tolist())
    blind, neutral = distributions[order[-1]], agent.risk_neutral_policy()
    drawn = {
        "best, with a stock": (solution.returns, solution.probs),
        "best without": (returns, blind),
        "risk-neutral": (neutral.lattice.outcomes, neutral.distribution()[0, 0]),
    }
    found = {name: criterion.keys(*distribution).tolist() for name, distribution in drawn.items()}
    values = {name: key[0] for name, key in found.items()}
    save_plane_figure(folder / f"returns_{objective}.png", drawn, values, solution.initial_stock)
    save_policy_figure(folder / f"policy_{objective}.png", agent)
    return {**found, "expected_component": (solution.probs @ solution.returns).tolist()}


# Deep ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Deep:
    """A deep experiment: where, with which settings, which kinds, and what is measured along a run."""

    env_id: str
    settings: dict[str, Any]
    kinds: tuple[str, ...]
    evaluate: Callable[[StockDQN, bool], dict[str, Any]]
    budget: str
    """Name of the study's field that says how long to train."""

    def measure(self, study: ReturnStudy, kind: str, seed: int) -> dict[str, Any]:
        """Train an agent of a kind; return what it was worth along the run."""
        config = StockDQNConfig(**{**self.settings, **KINDS[kind], "compile": study.compile})
        frozen = config.use_of_stock == "frozen"
        env = VectorStockAugmentation(
            prefrl.envs.make_device(self.env_id, 16),
            stock_range=(config.stock_low, config.stock_high),
            frozen=frozen,
        )
        agent = StockDQN(env, config, seed=seed, device="cpu")
        total = getattr(study, self.budget)
        if self.budget.endswith("updates"):
            total = total * config.train_freq + config.learning_starts
        records: list[dict[str, Any]] = []
        for part in range(1, RECORDS + 1):
            learn(agent, total * part // RECORDS - agent.num_timesteps)
            records.append({"updates": agent.gradient_steps_done, **self.evaluate(agent, frozen)})
        return {"final": records[-1], "records": records}


def first_observation(env: Any) -> torch.Tensor:
    """Return what is observed [1, d] at the start of a tabular environment."""
    inner = env.unwrapped
    return torch.as_tensor(inner.observations(0))[inner.tabular_model().start.argmax()][None]


def cvar_over_taus(env_id: str, taus: tuple[float, ...]) -> Callable[[StockDQN, bool], dict[str, Any]]:
    """Return a measurement: exact CVaR, and the initial stock that was chosen, for each tau."""
    env, model = model_of(env_id)
    obs = first_observation(env)
    optimum = {tau: solve(model, conditional_value_at_risk(tau)) for tau in taus}

    def evaluate(agent: StockDQN, frozen: bool) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for tau in taus:
            problem: StockProblem = conditional_value_at_risk(tau)
            stock = agent.search_initial_stock(obs, problem) if agent.problem.searched else 0.0
            returns, probs = exact_distribution(agent_policy(agent, env, model, stock, frozen=frozen), stock)
            found[f"cvar {tau:g}"] = float(CVaR(tau).value(returns, probs))
            found[f"stock {tau:g}"] = stock
        if agent.config.use_of_stock == "stock" and agent.problem.searched and env_id == "prefrl/TwoCoins-v0":
            solution = optimum[0.5]
            inside = (solution.stocks >= -6.0) & (solution.stocks <= 2.0)
            stocks = solution.stocks[inside].to(torch.float32)
            learned = agent.scores(obs, stocks, conditional_value_at_risk(0.5)).to(torch.float64)
            found["h_error"] = float((learned - solution.scores[inside]).abs().max())
        return found

    return evaluate


def target_errors() -> Callable[[StockDQN, bool], dict[str, Any]]:
    """Return a measurement: exact E|G - g| in StochasticApples for every g, and their mean."""
    env, model = model_of("prefrl/StochasticApples-v0")

    def evaluate(agent: StockDQN, frozen: bool) -> dict[str, Any]:
        errors = []
        for target in TARGETS:
            stock = -float(target)
            returns, probs = exact_distribution(agent_policy(agent, env, model, stock, frozen=frozen), stock)
            errors.append(float(((returns - target).abs() * probs).sum()))
        return {"error": float(np.mean(errors)), "errors": errors}

    return evaluate


def pole_errors() -> Callable[[StockDQN, bool], dict[str, Any]]:
    """Return a measurement: mean |G - g| in CartPole over episodes, for every g."""
    rows = VectorStockAugmentation(gym.make_vec("prefrl/CartPole-v0", 50, max_episode_steps=500))

    def evaluate(agent: StockDQN, frozen: bool) -> dict[str, Any]:
        errors = [
            float(np.abs(sample_returns(agent, rows, -float(target), seed=target) - target).mean())
            for target in POLE_TARGETS
        ]
        return {"error": float(np.mean(errors)), "errors": errors}

    return evaluate


def experiments() -> dict[str, Deep]:
    """Return the deep experiments by name."""
    cvar = {"objective": "cvar", "tau": 0.25}
    every = tuple(KINDS)
    return {
        "two_coins": Deep(
            "prefrl/TwoCoins-v0",
            {**cvar, "tau": 0.5, "stock_low": -7.0, "stock_high": 3.0, "quantiles": 32, "hidden": (64, 64),
             "epsilon_timesteps": 20_000, "stock_scale": 1.0, "target_update_gradient_steps": 1,
             "polyak": 0.01},
            every, cvar_over_taus("prefrl/TwoCoins-v0", (0.25, 0.5, 0.75, 1.0)), "two_coins_updates",
        ),
        "apples": Deep(
            "prefrl/StochasticApples-v0",
            {"objective": "target_return", "stock_low": -9.0, "stock_high": 9.0},
            ("agent", "no relabelling", "frozen"), target_errors(), "updates",
        ),
        "cliff": Deep(
            "prefrl/RiskyCliff-v0",
            {**cvar, "stock_low": -12.0, "stock_high": 14.0},
            every, cvar_over_taus("prefrl/RiskyCliff-v0", TAUS), "updates",
        ),
        "cartpole": Deep(
            "prefrl/CartPole-v0",
            {"objective": "target_return", "stock_low": -110.0, "stock_high": 10.0, "kappa": 1.0},
            ("agent",), pole_errors(), "cartpole_timesteps",
        ),
    }  # fmt: skip


EXPERIMENTS = experiments()


# What is shown ---------------------------------------------------------------------------------------------


def show(name: str, rows: dict[str, list[Any]]) -> None:
    """Print what every seed ended with."""
    keys = [
        key for key, value in next(iter(rows.values()))[0]["final"].items() if not isinstance(value, list)
    ]
    table = Table("kind", *keys, title=name, title_justify="left")
    for kind, seeds in rows.items():
        cells = [" ".join(f"{row['final'].get(key, float('nan')):.4g}" for row in seeds) for key in keys]
        table.add_row(kind, *cells)
    Console(width=160).print(table)


def draw(result: dict[str, Any], folder: Path) -> None:
    """Draw curves of the deep experiments."""
    for name, key, label, best in (
        ("apples", "error", "mean over g of E|G - g|", "mean_best"),
        ("cliff", "cvar 0.25", "CVaR at 0.25", None),
        ("two_coins", "cvar 0.5", "CVaR at 0.5", None),
        ("cartpole", "error", "mean over g of |G - g|", None),
    ):
        if name not in result:
            continue
        figure = Figure(figsize=(6.0, 3.6), layout="constrained")
        axes = figure.subplots()
        draw_curves(axes, result[name], key)
        if best is not None and "exact" in result:
            axes.axhline(
                result["exact"][name][best], color="0.25", linestyle="--", linewidth=1.0, label="best"
            )
        if key == "error":  # from far above its smallest value to close to it
            axes.set_yscale("log")
        axes.set_xlabel("gradient steps")
        axes.set_ylabel(label)
        axes.legend(frameon=False, fontsize=8.5)
        tidy(axes)
        save_figure(figure, folder / f"deep_{name}.png")


def draw_curves(axes: Axes, rows: dict[str, list[Any]], key: str) -> None:
    """Draw the median over seeds of every kind, and the seeds behind it."""
    for place, (kind, seeds) in enumerate(rows.items()):
        updates = [record["updates"] for record in seeds[0]["records"]]
        values = np.array([[record[key] for record in row["records"]] for row in seeds])
        axes.plot(updates, values.T, color=PALETTE[place], linewidth=0.8, alpha=0.35)
        axes.plot(
            updates, np.median(values, 0), color=PALETTE[place], linewidth=1.8, label=f"{kind} (median)"
        )


def main() -> int:
    """Run the study that the flags describe; return the exit status."""
    return execute(lambda: parse(ReturnStudy, description=__doc__))


if __name__ == "__main__":
    sys.exit(main())
