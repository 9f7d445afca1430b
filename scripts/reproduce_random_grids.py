"""Rewards learned from simulated preferences in many random grid worlds, by either preference model.

Reproduces the synthetic study of Knox et al. 2022 (arXiv 2206.02231, section 6.2): each model learns from
labels of its own kind (noiseless, and logistic with temperature 1), from sets of increasing size, in MDPs
drawn at random; how often is the policy that is optimal under the learned reward near-optimal under the true
one? All MDPs and sizes of a model are fitted as one batch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from scipy.stats import wilcoxon
from torch import Tensor

from prefrl.cli import execute
from prefrl.envs.grids.grid import TabularModel
from prefrl.envs.grids.random_grid import RandomGridDynamics
from prefrl.preferences import DeterministicRegret, PartialReturn, Regret, StepwiseModel, ask_teacher
from prefrl.preferences.reward_fit import RegretConfig, RewardFit
from prefrl.run.flags import parse
from prefrl.run.folder import RunFolder
from prefrl.run.plot import PALETTE, save_figure
from prefrl.run.study.study import check_positive, run_study
from prefrl.tabular import TabularMDP
from prefrl.tabular.segments import count_pairs

ENTRIES = (50.0, -50.0, 1.0, -1.0, -2.0, 0.0, -10.0, 10.0, 5.0)
"""Reward weights of the policies in a set, for random MDPs."""

LABELS: tuple[Literal["noiseless", "logistic"], ...] = ("noiseless", "logistic")

MODELS = {"partial_return": "partial-return", "regret": "regret"}
"""Keys of the result, and what the agent calls the models."""


@dataclass(frozen=True)
class RandomGrids:
    """Rewards learned from simulated preferences in random grid worlds."""

    out: Path = Path("runs/random_grids")
    """Run folder, new or empty."""

    num_mdps: int = 30
    """Random grids."""

    first_layout: int = 100
    """Layout seed of the first grid; the others follow."""

    sizes: tuple[int, ...] = (30, 300, 3_000)
    """Numbers of comparisons to learn from; a grid with fewer distinct pairs gives all that it has."""

    segment_length: int = 3
    """Transitions per segment (fewer where an episode ends)."""

    stochastic: bool = False
    """The 5 x 5 family in which entering a sheep is a lottery."""

    win_reward: float = 100.0
    """What a sheep that wins pays (stochastic family)."""

    max_policies: int = 200
    """Policies in a set at most."""

    fit_steps: int = 3_000
    """Optimiser steps of the regret fits (partial return is solved exactly)."""

    seed: int = 0
    """Seeds pairs, answers and policy sets."""

    def __post_init__(self) -> None:
        check_positive(self, "num_mdps", "sizes", "segment_length", "max_policies", "fit_steps")

    def measure(self, folder: RunFolder) -> dict[str, Any]:
        """Return every number of the study; draw ``near_optimal.png``."""
        models = [
            RandomGridDynamics(self.first_layout + i, self.stochastic, self.win_reward).model
            for i in range(self.num_mdps)
        ]
        scaled: dict[str, dict[str, Tensor]] = {}
        with Progress(console=Console(stderr=True), transient=True) as progress:
            jobs = progress.add_task("fits", total=len(LABELS) * len(MODELS))
            for labels in LABELS:
                scaled[labels] = {}
                for key in MODELS:
                    scaled[labels][key] = self._fit(models, labels, key)
                    progress.advance(jobs)
        result = self._summary(scaled)
        save_figure(draw(result), folder.path / "near_optimal.png")
        show(result)
        return result

    def _fit(self, models: list[TabularModel], labels: Literal["noiseless", "logistic"], key: str) -> Tensor:
        """Return scaled returns [sizes, MDPs] of rewards learned by one model from labels of its kind."""
        own: StepwiseModel = PartialReturn()
        if key == "regret":
            own = Regret() if self.stochastic else DeterministicRegret()
        data = []
        for i, model in enumerate(models):
            mdp, seed = TabularMDP.stack([model]), self.seed + i
            available = count_pairs(mdp, length=self.segment_length, seed=seed)
            data += [
                ask_teacher(
                    mdp, min(size, available), kind=labels, model=own, length=self.segment_length, seed=seed
                )
                for size in self.sizes
            ]
        config = RegretConfig(
            preference_model=MODELS[key],  # type: ignore[arg-type]
            policy_entries=ENTRIES,
            max_policies=self.max_policies,
        )
        fit = RewardFit(TabularMDP.stack(models), data, config, seed=self.seed)
        fit.step(self.fit_steps)
        return fit.scaled_returns().reshape(len(models), len(self.sizes)).T

    def _summary(self, scaled: dict[str, dict[str, Tensor]]) -> dict[str, Any]:
        def over(function: Callable[[Tensor], Any]) -> dict[str, Any]:
            return {
                labels: {
                    key: {str(size): function(row) for size, row in zip(self.sizes, rows, strict=True)}
                    for key, rows in by_model.items()
                }
                for labels, by_model in scaled.items()
            }

        return {
            "num_mdps": self.num_mdps,
            "near_optimal_percent": over(lambda row: 100.0 * float((row > 0.9).double().mean())),
            "better_than_random_percent": over(lambda row: 100.0 * float((row > 0.0).double().mean())),
            "mean_scaled_return_clipped": over(lambda row: float(row.clamp(min=-1.0).mean())),
            "regret_beats_partial_return_p": {labels: one_sided_p(rows) for labels, rows in scaled.items()},
            "scaled_return": over(lambda row: row.tolist()),
        }

    def run(self) -> None:
        """Run the study in its folder."""
        run_study(self)


def one_sided_p(scaled: dict[str, Tensor]) -> float:
    """Return the p-value of a paired Wilcoxon test, pooled over MDPs and sizes, that regret is better.

    Scaled returns are clipped at -1: how bad a bad policy is says nothing about the model.
    """
    difference = (scaled["regret"].clamp(min=-1) - scaled["partial_return"].clamp(min=-1)).flatten()
    if bool((difference == 0).all()):
        return 1.0
    return float(wilcoxon(difference.numpy(), alternative="greater").pvalue)


def draw(result: dict[str, Any]) -> Figure:
    """Draw the share of near-optimal policies against the number of comparisons, by kind of label."""
    figure = Figure(figsize=(9, 4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (labels, by_model) in zip(
        figure.subplots(1, 2, sharey=True), result["near_optimal_percent"].items(), strict=True
    ):
        for color, (key, name) in zip(PALETTE, MODELS.items(), strict=False):
            sizes = [int(size) for size in by_model[key]]
            axes.plot(sizes, list(by_model[key].values()), "o-", color=color, label=name)
        axes.set(xscale="log", ylim=(0, 102), xlabel="comparisons per learned reward")
        axes.set_title(f"{labels} labels, {result['num_mdps']} random grids")
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    axes.legend(title="preference model, on its own labels", frameon=False)
    figure.axes[0].set_ylabel("near-optimal policies (%)")
    return figure


def show(result: dict[str, Any]) -> None:
    """Print the numbers as a table."""
    sizes = list(result["near_optimal_percent"]["noiseless"]["regret"])
    table = Table("labels", "model", *(f"{size} pairs" for size in sizes), "regret better, p",
                  title=f"near-optimal (better than random), % of {result['num_mdps']} grids")  # fmt: skip
    for labels, by_model in result["near_optimal_percent"].items():
        for model, near in by_model.items():
            better = result["better_than_random_percent"][labels][model]
            p = f"{result['regret_beats_partial_return_p'][labels]:.2g}" if model == "regret" else ""
            table.add_row(labels, model, *(f"{near[s]:.0f} ({better[s]:.0f})" for s in sizes), p)
    Console().print(table)


if __name__ == "__main__":
    sys.exit(execute(lambda: parse(RandomGrids, description=__doc__)))
