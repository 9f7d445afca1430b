"""Two preference models learn a reward from the same comparisons: which one gives the better policy?

A simulated person compares short drives on the delivery board and answers with noise, either by regret (how
far from optimal was this driving?) or by partial return (how much reward did it bring?). From the same
answers, a reward is learned under each preference model, planned in, and judged by the true reward.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text
from scipy.stats import binomtest
from torch import Tensor

import prefrl.envs
from prefrl.cli import execute
from prefrl.data import Preferences
from prefrl.preferences import DeterministicRegret, PartialReturn, ask_teacher
from prefrl.preferences.reward_fit import RegretConfig, RewardFit
from prefrl.run.flags import parse
from prefrl.run.folder import RunFolder
from prefrl.run.outcomes.figures import draw_policy
from prefrl.run.plot import PALETTE, save_figure
from prefrl.run.study.study import check_positive, run_study
from prefrl.tabular import TabularMDP

assert prefrl.envs.REGISTRY  # importing the package registers the ids

TEACHERS = {"regret": DeterministicRegret(), "partial return": PartialReturn()}
"""What the simulated person answers by."""

MODELS = {"partial return": "partial-return", "regret": "regret"}
"""What is believed about the answers, and what the agent calls it."""


WHY = "Partial returns of equally long drives hardly tell what a step costs, whoever answers."
"""Why the partial return model finds no good policy even where the answers are by partial return."""


@dataclass(frozen=True)
class Demo:
    """Two preference models learn a reward from the same comparisons."""

    out: Path = field(default_factory=lambda: Path("runs") / f"demo-{time.strftime('%Y%m%d-%H%M%S')}")
    """Run folder, new or empty."""

    sizes: tuple[int, ...] = (30, 100, 300, 1_000)
    """Numbers of comparisons to learn from."""

    seeds: int = 10
    """Data sets of each size."""

    fit_steps: int = 2_000
    """Optimiser steps of the regret fits (partial return is solved exactly)."""

    def __post_init__(self) -> None:
        check_positive(self, "sizes", "seeds", "fit_steps")

    def measure(self, folder: RunFolder) -> dict[str, Any]:
        """Return the shares of near-optimal policies; draw ``demo.png``."""
        mdp = TabularMDP.from_env(gym.make("prefrl/Delivery-v0"))
        data = {name: self._ask(mdp, name) for name in TEACHERS}
        fits = {
            (teacher, model): RewardFit(mdp, sets, RegretConfig(preference_model=kind))  # type: ignore[arg-type]
            for teacher, sets in data.items()
            for model, kind in MODELS.items()
        }
        scaled: dict[tuple[str, str], Tensor] = {}
        with Live(console=Console(), refresh_per_second=4) as live:
            for done in range(0, self.fit_steps, 250):
                for key, fit in fits.items():
                    fit.step(min(250, self.fit_steps - done))
                    scaled[key] = fit.scaled_returns().reshape(len(self.sizes), self.seeds)
                    live.update(self._table(scaled, fits, done))
        save_figure(self._figure(mdp, fits, scaled), folder.path / "demo.png")
        Console().print(f"\nThe picture: [bold]{folder.path / 'demo.png'}[/bold]")
        share = {f"{t} teacher, {m} model": _near(row).tolist() for (t, m), row in scaled.items()}
        return {"sizes": list(self.sizes), "seeds": self.seeds, "near_optimal_percent": share}

    def _ask(self, mdp: TabularMDP, teacher: str) -> list[Preferences]:
        return [
            ask_teacher(mdp, size, kind="logistic", model=TEACHERS[teacher], seed=seed)
            for size in self.sizes
            for seed in range(self.seeds)
        ]

    def _table(
        self, scaled: dict[tuple[str, str], Tensor], fits: dict[tuple[str, str], RewardFit], done: int
    ) -> Group:
        table = Table("the person answers by", "the model believes", "cross-entropy",
                      *(f"{size:,}" for size in self.sizes))  # fmt: skip
        for (teacher, model), row in scaled.items():
            loss = f"{float(fits[teacher, model].best_loss.mean()):.3f}"
            shares = [f"{share:.0f} %" for share in _near(row)]
            style = "bold green" if model == "regret" else ""
            table.add_row(
                teacher, Text(model, style), loss, *(Text(s, style, justify="right") for s in shares)
            )
        heading = (
            f"Near-optimal policies by number of comparisons ({self.seeds} data sets each), "
            f"{min(done + 250, self.fit_steps):,} of {self.fit_steps:,} steps"
        )
        return Group(Text(heading, "bold"), table)

    def _figure(
        self, mdp: TabularMDP, fits: dict[tuple[str, str], RewardFit], scaled: dict[tuple[str, str], Tensor]
    ) -> Figure:
        figure = Figure(figsize=(16.5, 4.9), dpi=110, layout="constrained")
        FigureCanvasAgg(figure)
        boards = figure.subplots(1, 3, width_ratios=(1, 1, 1.15))
        cells, live = gym.make("prefrl/Delivery-v0").unwrapped.cells, (~mdp.terminal[0]).numpy()  # type: ignore[attr-defined]
        shown = len(self.sizes) // 2  # in the middle of the sizes, at its median data set
        for axes, model in zip(boards, MODELS, strict=False):
            row = scaled["regret", model][shown]
            seed = int(row.argsort()[len(row) // 2])
            policy = fits["regret", model].policy()[shown * self.seeds + seed].numpy()
            title = (
                f"{model} model, {self.sizes[shown]:,} comparisons by regret\nscaled return {row[seed]:.2f}"
            )
            draw_policy(axes, cells, policy, live, title=title)
        self._draw_shares(boards[2], scaled)
        return figure

    def _draw_shares(self, axes: Axes, scaled: dict[tuple[str, str], Tensor]) -> None:
        """Draw the shares of near-optimal policies, with intervals, over numbers of comparisons."""
        for place, ((teacher, model), row) in enumerate(scaled.items()):
            style, color = "o-" if teacher == "regret" else "s:", PALETTE[list(MODELS).index(model)]
            share = _near(row)
            counts = np.round(share / 100.0 * self.seeds).astype(int)
            ends = [
                100.0 * np.array(binomtest(int(k), self.seeds).proportion_ci(method="wilson")) for k in counts
            ]
            beyond = np.maximum(0.0, np.abs(np.array(ends).T - share))
            beside = np.array(self.sizes) * 1.04 ** (place - 1.5)  # so that no interval hides another
            axes.errorbar(beside, share, beyond, fmt=style, color=color, capsize=2, elinewidth=0.9,
                          label=f"{model} model, answers by {teacher}")  # fmt: skip
        axes.set(xscale="log", ylim=(-2, 102), xlabel="comparisons", ylabel="near-optimal policies (%)")
        axes.set_xticks(self.sizes, [f"{size:,}" for size in self.sizes])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2, frameon=False, fontsize=8.5)
        axes.set_title(
            f"Which model learns the reward? (95% intervals, {self.seeds} data sets)\n{WHY}", fontsize=10
        )

    def run(self) -> None:
        """Run the demonstration in its folder."""
        console = Console()
        console.print(" ".join((__doc__ or "").split("\n\n", 1)[1].split()), end="\n\n")
        started = time.perf_counter()
        run_study(self)
        console.print(f"{time.perf_counter() - started:.0f} seconds")


def _near(scaled: Tensor) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the percentage of near-optimal policies of each row."""
    percent = (100.0 * (scaled > 0.9).to(torch.float64).mean(-1)).numpy()
    return np.asarray(percent)


if __name__ == "__main__":
    sys.exit(execute(lambda: parse(Demo, description=__doc__)))
