"""How many simulations per second the tree search over many roots makes, beside a plain tree in Python.

Every part is one problem, searched from the same roots with the same priors, 0 for what is to come, w = 1 and
gamma = .95, to a depth of 12; visits of all roots are compared first, and must be equal.

- grid: prefrl/SparseGrid-v0 of 20 x 20 cells, 100 of them walls, from as many cells as there are roots
- small_grid: the same of 5 x 5 cells, as it is made by default, with short paths, which a plain tree is
  quickest on; 18 starts only, of which the engine in NumPy searches each once, the others as often as it is a
  root; plain_once is a plain tree that does so too
- two_actions, four_actions, sixteen_actions: 400 states, successors and rewards at random, nothing ends

ours is the engine in NumPy; torch the one for devices, here on the host. One thread; sides take turns; ratios
are processor seconds of the plain tree over theirs, and seconds on the clock as ``..._wall``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import gymnasium as gym
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import prefrl.envs
from prefrl.cli import execute
from prefrl.run.flags import parse
from prefrl.run.folder import RunFolder
from prefrl.run.study.plain_search import PlainSearch
from prefrl.run.study.study import check_positive, run_study
from prefrl.run.study.timing import clocked, spread
from prefrl.tabular import DeterministicModel, tree_search

assert prefrl.envs.REGISTRY

Part = Literal["grid", "small_grid", "two_actions", "four_actions", "sixteen_actions"]
SETTINGS: dict[str, Any] = {"exploration": 1.0, "gamma": 0.95, "max_depth": 12}


class Problem(NamedTuple):
    """What is searched, from where, with which priors."""

    model: DeterministicModel
    roots: Tensor
    priors: Tensor


@dataclass(frozen=True)
class Bench:
    """How fast the search is."""

    out: Path = Path("runs/bench_search")
    """Run folder, new or empty."""

    parts: tuple[Part, ...] = get_args(Part)
    """Which; see above."""

    roots: int = 256
    """Roots that are searched at once."""

    simulations: int = 64
    """Of each root."""

    repeats: int = 7
    """Turns."""

    def __post_init__(self) -> None:
        check_positive(self, "roots", "simulations", "repeats")

    def run(self) -> None:
        """Run the benchmark in its folder."""
        run_study(self)

    def measure(self, folder: RunFolder) -> dict[str, Any]:
        """Return microseconds per simulation, and ratios."""
        torch.set_num_threads(1)
        result: dict[str, Any] = {part: self.compared(problem(part, self.roots)) for part in self.parts}
        show(result)
        return result

    def compared(self, found: Problem) -> dict[str, Any]:
        """Return how long sides take in turns.

        Raises:
            RuntimeError: if they do not visit the same.
        """
        model, roots, priors = found
        plain = PlainSearch.of(model, priors.tolist(), [0.0] * len(model.start), **SETTINGS)
        given: dict[str, Any] = {**SETTINGS, "simulations": self.simulations}
        sides: dict[str, Callable[[], Any]] = {
            "ours": lambda: tree_search(model, roots, priors, **given),
            "torch": lambda: tree_search(model, roots, priors, engine="torch", **given),
            "plain": lambda: [plain.search(root, self.simulations) for root in roots.tolist()],
        }
        distinct = sorted(set(roots.tolist()))
        if len(distinct) < len(roots):
            sides["plain_once"] = lambda: [plain.search(root, self.simulations) for root in distinct]
        visits = {name: sides[name]().visits[:, 0].tolist() for name in ("ours", "torch")}
        visits["plain"] = [node.visits for node in sides["plain"]()]
        if not visits["ours"] == visits["torch"] == visits["plain"]:
            raise RuntimeError("the searches do not visit the same edges of their roots")
        return self.in_turns(sides)

    def in_turns(self, sides: dict[str, Callable[[], Any]]) -> dict[str, Any]:
        """Return microseconds of the processor per simulation, and the plain tree's over the others'."""
        rows = [{name: clocked(side) for name, side in sides.items()} for _ in range(self.repeats)]
        count = self.roots * self.simulations
        found = {f"{name}_us": spread([1e6 * row[name][1] / count for row in rows]) for name in sides}
        for name in ("ours", "torch"):
            for plain in (side for side in sides if side.startswith("plain")):
                for place, unit in enumerate(("_wall", "")):
                    ratios = [row[plain][place] / row[name][place] for row in rows]
                    found[f"{plain}_over_{name}{unit}"] = spread(ratios)
        return found


def problem(part: Part, roots: int) -> Problem:
    """Return what a part searches."""
    rng = np.random.default_rng(0)
    if part in ("grid", "small_grid"):
        settings: dict[str, Any] = {"size": 20, "walls": 100} if part == "grid" else {}
        model = DeterministicModel.from_env(gym.make("prefrl/SparseGrid-v0", **settings))
        priors = torch.full_like(model.rewards, 0.25)
        starts = rng.permutation(np.flatnonzero(model.start.numpy()))
        return Problem(model, torch.as_tensor(np.resize(starts, roots)), priors)
    states = 400
    count = {"two_actions": 2, "four_actions": 4, "sixteen_actions": 16}[part]
    model = DeterministicModel.of_tables(
        rng.integers(states, size=(states, count)), rng.standard_normal((states, count)),
        np.zeros(states, np.bool_), np.full(states, 1.0 / states),
    )  # fmt: skip
    priors = torch.as_tensor(rng.dirichlet(np.ones(count), states))
    return Problem(model, torch.arange(roots) % states, priors)


def show(result: dict[str, Any]) -> None:
    """Print the numbers as a table."""
    table = Table("part", "what", "median", "min", "max")
    for part, found in result.items():
        for name, value in found.items():
            table.add_row(part, name, *(f"{value[key]:.3g}" for key in ("median", "min", "max")))
    Console(width=110).print(table)


if __name__ == "__main__":
    sys.exit(execute(lambda: parse(Bench, description=__doc__)))
