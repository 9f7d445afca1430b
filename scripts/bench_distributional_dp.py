"""How fast return distributions are optimised, how the cost grows, how much memory it takes.

Everything runs on one thread; medians, minima and maxima are reported, ratios within a repetition.

- cliff_table: the best CVaR of RiskyCliff at five tau, each with its search over the initial stock
- plain_python: one search, at tau 0.25, beside distributions as Python dicts, memoised over (time, state,
  stock) that can be reached, on RiskyCliff and on two larger boards; and beside plain Python without
  distributions, which carries expectations only, as our solver does for CVaR
- scaling: seconds per sweep of value iteration on a stock grid, with states, stocks and atoms doubled three
  times; "worst" is the largest ratio of two neighbours over 2, so that 1 is linear
- exact_scaling: the same of exact stages for a finite horizon, with states and stocks doubled
- memory: the peak of a fresh process above what it needed before, beside the formula of
  docs/returns/return_distributions.md
- relabelling: a gradient step of the deep agent with new stocks over one with the stocks that were there
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import prefrl.envs
from prefrl.agents.returns.stock_dqn import StockDQN, StockDQNConfig
from prefrl.cli import execute
from prefrl.envs.finite_horizon.small_mdps import random_mdp
from prefrl.envs.wrappers.stock import VectorStockAugmentation
from prefrl.functional.returns.objectives import TwoSlope
from prefrl.functional.returns.stock_problems import conditional_value_at_risk
from prefrl.run.flags import parse
from prefrl.run.folder import RunFolder
from prefrl.run.recipes.base import small_networks
from prefrl.run.study.study import check_positive, run_study
from prefrl.run.study.timing import seconds, spread
from prefrl.tabular import BackwardInduction, FiniteHorizon, StockGrid, StockGridSolver, TabularMDP, solve
from prefrl.tabular.return_distributions import candidate_stocks
from prefrl.tabular.stock_grid import Form, sweep_bytes

TAUS = (0.05, 0.1, 0.25, 0.5, 1.0)
SIZES: dict[str, tuple[int, ...]] = {
    "states": (40, 80, 160, 320), "stocks": (51, 101, 201, 401), "atoms": (51, 101, 201, 401),
}  # fmt: skip
BASE = {"states": 40, "stocks": 101, "atoms": 101}
BOARDS: tuple[dict[str, int], ...] = (
    {}, {"height": 6, "width": 12, "horizon": 40}, {"height": 8, "width": 20, "horizon": 80},
)  # fmt: skip
"""Arguments of RiskyCliff: its own size, and larger ones."""

FORMS: tuple[Form, ...] = ("categorical", "quantile")


@dataclass(frozen=True)
class Bench:
    """How fast return distributions are optimised."""

    out: Path = Path("runs/bench_distributional_dp")
    """Run folder, new or empty."""

    repeats: int = 3
    """Repetitions of each measurement."""

    updates: int = 300
    """Gradient steps in relabelling."""

    skip_compiled: bool = False
    """Leave compiled gradient steps out (they take a C++ compiler on the CPU)."""

    skip_memory: bool = False
    """Leave memory out, which is measured on Linux only."""

    def __post_init__(self) -> None:
        check_positive(self, "repeats", "updates")

    def run(self) -> None:
        """Measure, in the run folder."""
        with small_networks():
            run_study(self)

    def measure(self, folder: RunFolder) -> dict[str, Any]:
        """Return all measurements."""
        result = {
            **cliff(self.repeats),
            "scaling": {form: scaling(form, self.repeats) for form in FORMS},
            "exact_scaling": exact_scaling(self.repeats),
            "memory": {} if self.skip_memory else {form: memory(form) for form in FORMS},
            "relabelling": {"eager": relabelling(self, compile=False)},
        }
        if not self.skip_compiled:
            result["relabelling"]["compiled"] = relabelling(self, compile=True)
        show(result)
        return result


# The table of RiskyCliff, and plain Python
# -------------------------------------------------------------------


def cliff(repeats: int) -> dict[str, Any]:
    """Time the five searches, and one of them beside plain Python, on boards of several sizes."""
    table, beside = [], []
    for sizes in BOARDS:
        env: Any = gym.make("prefrl/RiskyCliff-v0", **sizes).unwrapped
        model = FiniteHorizon.of_model(env.horizon_model())
        wanted = conditional_value_at_risk(0.25)
        ours, plain, without_distributions, difference = [], [], [], 0.0
        for _ in range(repeats):
            found: list[float] = []
            ours.append(seconds(lambda: found.append(solve(model, wanted).value)))  # noqa: B023
            plain.append(seconds(lambda: found.append(plain_cvar(model, 0.25))))  # noqa: B023
            without_distributions.append(seconds(lambda: found.append(plain_expectations(model, 0.25))))  # noqa: B023
            difference = max(difference, *(abs(found[0] - other) for other in found[1:]))
            if not sizes:
                table.append(seconds(lambda: [solve(model, conditional_value_at_risk(tau)) for tau in TAUS]))  # noqa: B023
        ratios = [theirs / mine for theirs, mine in zip(plain, ours, strict=True)]
        beside.append({"board": sizes, "seconds": spread(ours), "plain_seconds": spread(plain),
                       "times_slower": spread(ratios), "difference": difference,
                       "times_slower_without_distributions": spread(
                           [theirs / mine for theirs, mine in zip(without_distributions, ours, strict=True)]
                       )})  # fmt: skip
    return {"cliff_table_seconds": spread(table), "plain_python": beside}


def plain_cvar(problem: FiniteHorizon, tau: float) -> float:
    """Return the best CVaR with distributions as dicts, by memoised recursion over (time, state, stock)."""
    mdp = problem.mdp
    p, successors = mdp.probabilities[0].tolist(), mdp.successors[0].tolist()
    rewards, terminal = problem.rewards[0].tolist(), mdp.terminal[0].tolist()
    assert problem.final_rewards is not None
    final = problem.final_rewards[0].tolist()

    def shortfall(distribution: dict[float, float], stock: float) -> float:
        return sum(chance * min(stock + g, 0.0) for g, chance in distribution.items())

    @cache
    def best(t: int, s: int, stock: float) -> dict[float, float]:
        if terminal[s]:
            return {0.0: 1.0}
        if t == problem.horizon:
            return {final[s]: 1.0}
        chosen: dict[float, float] = {}
        value = -np.inf
        for action in range(len(p[s])):
            distribution: dict[float, float] = {}
            for chance, nxt, paid in zip(
                p[s][action], successors[s][action], rewards[s][action], strict=True
            ):
                if chance:
                    for g, mass in best(t + 1, nxt, stock + paid).items():
                        distribution[paid + g] = distribution.get(paid + g, 0.0) + chance * mass
            if shortfall(distribution, stock) > value + 1e-12:
                chosen, value = distribution, shortfall(distribution, stock)
        return chosen

    start = int(mdp.start[0].argmax())
    stocks = candidate_stocks(problem, conditional_value_at_risk(tau)).tolist()
    return max(shortfall(best(0, start, c), c) / tau - c for c in stocks)


def plain_expectations(problem: FiniteHorizon, tau: float) -> float:
    """Return the same without distributions: memoised expectations of min(x, 0), as our solver has."""
    mdp = problem.mdp
    p, successors = mdp.probabilities[0].tolist(), mdp.successors[0].tolist()
    rewards, terminal = problem.rewards[0].tolist(), mdp.terminal[0].tolist()
    assert problem.final_rewards is not None
    final = problem.final_rewards[0].tolist()

    @cache
    def value(t: int, s: int, stock: float) -> float:
        if terminal[s] or t == problem.horizon:
            return min(stock + (0.0 if terminal[s] else final[s]), 0.0)
        return max(
            sum(
                chance * value(t + 1, nxt, stock + paid)
                for chance, nxt, paid in zip(p[s][a], successors[s][a], rewards[s][a], strict=True)
                if chance
            )
            for a in range(len(p[s]))
        )

    start = int(mdp.start[0].argmax())
    stocks = candidate_stocks(problem, conditional_value_at_risk(tau)).tolist()
    return max(value(0, start, c) / tau - c for c in stocks)


# How the cost grows ----------------------------------------------------------------------------------------


def grid_solver(form: Form, states: int, stocks: int, atoms: int) -> StockGridSolver:
    """Return a solver of a random MDP with discount 1/2."""
    mdp = TabularMDP.stack([random_mdp(0, states=states, actions=2).model])
    grid = StockGrid.linear(-6.0, 4.0, stocks)
    return StockGridSolver(mdp, mdp.features[..., 0], TwoSlope(1.0, 0.0), 0.5, grid, form=form, places=atoms)


def scaling(form: Form, repeats: int) -> dict[str, Any]:
    """Time sweeps with one size doubled three times, the others as they are."""
    found: dict[str, Any] = {}
    for name, sizes in SIZES.items():
        solvers = [grid_solver(form, **{**BASE, name: size}) for size in sizes]
        found[name] = grown(sizes, [solver.sweep for solver in solvers], repeats)
    return found


def exact_scaling(repeats: int) -> dict[str, Any]:
    """Time exact stages with twice as many states, or initial stocks: their totals grow as the stocks do."""
    found: dict[str, Any] = {}
    for name, sizes in (("states", (200, 400, 800, 1600)), ("stocks", (500, 1000, 2000, 4000))):
        inductions = []
        for size in sizes:
            states, stocks = (size, 1000) if name == "states" else (200, size)
            problem = FiniteHorizon.of_model(random_mdp(0, horizon=8, states=states, actions=2))
            start = torch.arange(stocks, dtype=torch.float64) - stocks / 2
            inductions.append(BackwardInduction(problem, TwoSlope(1.0, 0.0), start))
        found[name] = grown(sizes, [partial(again, induction) for induction in inductions], repeats)
    return found


def again(induction: BackwardInduction) -> None:
    """Do the first stage once more."""
    rows, actions = induction.rows, list(induction.actions)
    induction.stage()
    induction.rows, induction.time, induction.actions = rows, induction.time + 1, actions


def grown(sizes: tuple[int, ...], functions: list[Callable[[], Any]], repeats: int) -> dict[str, Any]:
    """Return seconds by size, and the worst ratio of two neighbours over that of a linear cost."""
    taken: list[list[float]] = []
    for _ in range(2 * repeats + 1):
        taken.append([seconds(function) for function in functions])
    median = np.median(np.array(taken[1:]), axis=0)  # the first one warms up
    ratios = (median[1:] / median[:-1]) / (np.array(sizes[1:]) / np.array(sizes[:-1]))
    return {"sizes": list(sizes), "seconds": median.tolist(), "ratios": ratios.tolist(),
            "worst": float(ratios.max())}  # fmt: skip


# Memory ----------------------------------------------------------------------------------------------------

PROBE = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
torch.set_num_threads(1)
from bench_distributional_dp import grid_solver, peak_bytes
grid_solver(sys.argv[2], 20, 21, 21).sweep()
before = peak_bytes()
solver = grid_solver(sys.argv[2], 300, 401, 201)
solver.sweep()
print(before, peak_bytes())
"""


def peak_bytes() -> int:
    """Return the most memory that this process has had.

    Not by ``getrusage``: there a process begins with the peak of the one that started it.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        raise OSError("memory is measured on Linux only, in /proc/self/status; give --skip-memory")
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def memory(form: Form) -> dict[str, float]:
    """Return how much a process needed at its peak, above a small problem's, and the formula, in MiB."""
    folder = str(Path(__file__).resolve().parent)
    done = subprocess.run(
        [sys.executable, "-c", PROBE, folder, form], capture_output=True, text=True, check=True
    )
    before, after = map(int, done.stdout.split())
    measured = (after - before) / 2**20
    formula = sweep_bytes(states=300, stocks=401, actions=2, successors=2, places=201, form=form) / 2**20
    return {"measured_mib": measured, "formula_mib": formula, "ratio": measured / formula}


# Relabelling -----------------------------------------------------------------------------------------------


def relabelling(bench: Bench, *, compile: bool) -> dict[str, Any]:
    """Time gradient steps with and without new stocks."""
    agents = []
    for relabel in (True, False):
        config = StockDQNConfig(stock_low=-12.0, stock_high=14.0, relabel=relabel, compile=compile)
        env = prefrl.envs.make_device("prefrl/RiskyCliff-v0", 16)
        agent = StockDQN(VectorStockAugmentation(env, stock_range=(-12.0, 14.0)), config, device="cpu")
        agents.append(agent.learn(2_000))
    taken: dict[str, list[float]] = {"with": [], "without": [], "ratio": []}
    for _ in range(2 * bench.repeats + 1):
        times = [seconds(partial(repeat, agent, bench.updates)) / bench.updates for agent in agents]
        for name, value in zip(taken, (*times, times[0] / times[1]), strict=True):
            taken[name].append(value)
    return {name: spread(values[1:]) for name, values in taken.items()}


def repeat(agent: StockDQN, updates: int) -> None:
    """Take gradient steps."""
    for _ in range(updates):
        agent._gradient_step()


def show(result: dict[str, Any]) -> None:
    """Print what was measured."""
    table = Table("measurement", "median", "min", "max")

    def row(name: str, entry: dict[str, float], scale: float = 1.0) -> None:
        table.add_row(name, *(f"{scale * entry[key]:.3g}" for key in ("median", "min", "max")))

    row("table of RiskyCliff [s]", result["cliff_table_seconds"])
    for entry in result["plain_python"]:
        row(f"plain Python, times slower {entry['board'] or ''}", entry["times_slower"])
        row("the same without distributions", entry["times_slower_without_distributions"])
    for kind, entry in result["relabelling"].items():
        row(f"gradient step, {kind} [ms]", entry["with"], 1e3)
        row(f"with over without relabelling, {kind}", entry["ratio"])
    Console().print(table)
    grown_table = Table("doubling", *SIZES, title="worst ratio over a linear cost's", title_justify="left")
    for form, entry in {**result["scaling"], "exact": result["exact_scaling"]}.items():
        cells = [f"{entry[name]['worst']:.2f}" if name in entry else "" for name in SIZES]
        grown_table.add_row(form, *cells)
    Console().print(grown_table)
    for form, entry in result["memory"].items():
        Console().print(
            f"peak memory, {form}: {entry['measured_mib']:.0f} MiB; by the formula {entry['formula_mib']:.0f}"
        )


def main() -> int:
    """Run the benchmark that the flags describe; return the exit status."""
    return execute(lambda: parse(Bench, description=__doc__))


if __name__ == "__main__":
    sys.exit(main())
