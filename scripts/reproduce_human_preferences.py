"""What people's preferences are about: likelihoods, and rewards learned from them, for one condition.

Reproduces the human part of Knox et al. 2022 (arXiv 2206.02231): how well partial return, regret and the
expanded model explain people's answers (10-fold cross-entropy), and how good the policies are that come from
rewards learned by either model, from all comparisons and from disjoint random partitions of them.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

import prefrl.envs
from prefrl.cli import execute
from prefrl.data import Preferences, load_human_preferences, load_human_statistics, split_preferences
from prefrl.preferences.likelihood import DESIGNS, accuracy, cross_validated_cross_entropy, fit_scale
from prefrl.preferences.reward_fit import RegretConfig, RewardFit
from prefrl.run.flags import parse
from prefrl.run.folder import RunFolder
from prefrl.run.plot import PALETTE, save_figure
from prefrl.run.study.study import check_positive, run_study
from prefrl.tabular import TabularMDP

assert prefrl.envs.REGISTRY  # importing the package registers the ids

MODELS = {"partial_return": "partial-return", "regret": "regret"}
"""Keys of the result, and what the agent calls the models."""


@dataclass(frozen=True)
class HumanPreferences:
    """Likelihoods of people's answers, and rewards learned from them."""

    data: Path
    """Folder with the published files CONDITION_segment_pairs.npy, CONDITION_X.npy, CONDITION_Y.npy."""

    condition: str = "Privileged-Control"
    """Name of the condition: what stands before _X.npy."""

    out: Path = Path("runs/human_preferences")
    """Run folder, new or empty."""

    partitions: tuple[int, ...] = (10, 20, 50, 100)
    """Numbers of disjoint parts that rewards are learned from."""

    shuffles: int = 3
    """Random partitionings of each kind; percentages are over all their parts."""

    fit_steps: int = 3_000
    """Optimiser steps of the regret fits (partial return is solved exactly)."""

    repeats: int = 10
    """Repeats of the 10-fold cross-validation."""

    def __post_init__(self) -> None:
        check_positive(self, "partitions", "shuffles", "fit_steps", "repeats")

    def measure(self, folder: RunFolder) -> dict[str, Any]:
        """Return every number of the study; draw ``near_optimal.png``."""
        statistics = load_human_statistics(self.data, self.condition)
        preferences = load_human_preferences(self.data, self.condition)
        if len(preferences) < max(self.partitions):
            raise ValueError(f"partitions go up to {max(self.partitions)}; there are {len(preferences)} rows")
        labels = preferences.labels
        mdp = TabularMDP.from_env(gym.make("prefrl/Delivery-v0"))
        everything = {key: self._fit(mdp, [preferences], key) for key in MODELS}
        parts = self._partitions(mdp, preferences)
        result = {
            "condition": self.condition,
            "n": len(preferences),
            "cross_entropy": {
                model: cross_validated_cross_entropy(statistics, labels, model, repeats=self.repeats)
                for model in DESIGNS
            },
            "accuracy": {key: accuracy(statistics, labels, key) for key in MODELS},
            "scaled_return": {key: float(scaled[0]) for key, (scaled, _) in everything.items()},
            "scale": {key: float(fit_scale(statistics, labels, key)) for key in MODELS},
            "train_cross_entropy": {key: loss for key, (_, loss) in everything.items()},
            "near_optimal_percent": _percent(parts, 0.9),
            "better_than_random_percent": _percent(parts, 0.0),
            "near_optimal_percent_by_shuffle": _by_shuffle(parts, 0.9),
            "better_than_random_percent_by_shuffle": _by_shuffle(parts, 0.0),
        }
        save_figure(draw(result), folder.path / "near_optimal.png")
        show(result)
        return result

    def _partitions(self, mdp: TabularMDP, preferences: Preferences) -> dict[str, dict[str, Tensor]]:
        """Return scaled returns [shuffles, parts] by model and number of parts."""
        parts: dict[str, dict[str, Tensor]] = {key: {} for key in MODELS}
        jobs = [(key, count) for key in MODELS for count in self.partitions]
        for key, count in track(jobs, "partitions", console=Console(stderr=True), transient=True):
            rows = [
                self._fit(mdp, split_preferences(preferences, count, seed=shuffle), key)[0]
                for shuffle in range(self.shuffles)
            ]
            parts[key][str(count)] = torch.stack(rows)
        return parts

    def _fit(self, mdp: TabularMDP, data: list[Preferences], key: str) -> tuple[Tensor, float]:
        """Return scaled returns [len(data)] of one batch of fits, and their mean training cross-entropy."""
        fit = RewardFit(mdp, data, RegretConfig(preference_model=MODELS[key]))  # type: ignore[arg-type]
        fit.step(self.fit_steps)
        return fit.scaled_returns(), float(fit.best_loss.mean())

    def run(self) -> None:
        """Run the study in its folder."""
        run_study(self)


def _percent(parts: dict[str, dict[str, Tensor]], above: float) -> dict[str, dict[str, float]]:
    return {
        key: {count: 100.0 * float((scaled > above).double().mean()) for count, scaled in row.items()}
        for key, row in parts.items()
    }


def _by_shuffle(parts: dict[str, dict[str, Tensor]], above: float) -> dict[str, dict[str, list[float]]]:
    return {
        key: {count: (100.0 * (scaled > above).double().mean(1)).tolist() for count, scaled in row.items()}
        for key, row in parts.items()
    }


def draw(result: dict[str, Any]) -> Figure:
    """Draw the share of near-optimal policies against the comparisons each reward was learned from."""
    figure = Figure(figsize=(7, 4.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for color, (key, name) in zip(PALETTE, MODELS.items(), strict=False):
        shuffles = result["near_optimal_percent_by_shuffle"][key]
        sizes = np.array([result["n"] / int(count) for count in shuffles])
        axes.plot(sizes, list(result["near_optimal_percent"][key].values()), "o-", color=color, label=name)
        for size, percents in zip(sizes, shuffles.values(), strict=True):
            axes.plot([size] * len(percents), percents, ".", color=color, alpha=0.4)
    axes.set(xscale="log", ylim=(0, 102), xlabel="human comparisons per learned reward")
    axes.set(ylabel="near-optimal policies (%)", title=f"Rewards learned from people: {result['condition']}")
    axes.set_xticks(sizes, [f"{size:.0f}" for size in sizes], minor=False)
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(title="preference model (dots: single shuffles)", frameon=False)
    return figure


def show(result: dict[str, Any]) -> None:
    """Print the numbers as tables."""
    console = Console()
    likelihood = Table("model", "10-fold cross-entropy", "accuracy (no ties)", "scaled return, all data",
                       title=f"{result['condition']}: {result['n']} comparisons")  # fmt: skip
    for model, entropy in result["cross_entropy"].items():
        cells = [
            f"{result[key][model]:.3f}" if model in result[key] else ""
            for key in ("accuracy", "scaled_return")
        ]
        likelihood.add_row(model, f"{entropy:.4f}", *cells)
    console.print(likelihood)
    columns = [f"{count} parts" for count in result["near_optimal_percent"]["regret"]]
    shares = Table("near-optimal (better than random), %", *columns)
    for model, near in result["near_optimal_percent"].items():
        better = result["better_than_random_percent"][model]
        shares.add_row(model, *(f"{near[count]:.0f} ({better[count]:.0f})" for count in near))
    console.print(shares)


if __name__ == "__main__":
    sys.exit(execute(lambda: parse(HumanPreferences, description=__doc__)))
