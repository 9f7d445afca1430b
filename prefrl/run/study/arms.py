"""Studies that compare recipes over seeds: each run in a folder of its own, and one picture of them all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.figure import Figure

from prefrl.run.plot import PALETTE, save_figure, tidy

from .study import finish_run

Results = dict[str, list[dict[str, Any]]]
"""What every seed of every arm found."""


def finish_arms(arms: Mapping[str, Any], seeds: int, folder: Path) -> Results:
    """Run recipes with seeds 0, 1, ... in folders below ``folder``, or go on with those that are there.

    Args:
        arms: recipes by name.
        seeds: how many of each.
        folder: the study's.
    """
    return {
        arm: [
            finish_run(replace(recipe, seed=seed), folder / f"{arm.replace(' ', '_')}-{seed}")
            for seed in range(seeds)
        ]
        for arm, recipe in arms.items()
    }


def save_evaluations(results: Results, path: Path, label: str) -> None:
    """Draw the evaluations of every seed, and their medians, as a PNG, with ``label`` at their axis."""
    figure = Figure(figsize=(7.4, 3.6), layout="constrained")
    axes = figure.subplots()
    for place, (arm, runs) in enumerate(results.items()):
        color, timesteps = PALETTE[place % len(PALETTE)], runs[0]["eval_timesteps"]
        for run in runs:
            axes.plot(run["eval_timesteps"], run["eval_returns"], color=color, linewidth=0.8, alpha=0.4)
        medians = [median(values) for values in zip(*(run["eval_returns"] for run in runs), strict=False)]
        axes.plot(timesteps[: len(medians)], medians, color=color, linewidth=1.8, label=arm)
    axes.set_xlabel("timesteps")
    axes.set_ylabel(label)
    figure.legend(frameon=False, fontsize=8.5, loc="outside right upper")
    tidy(axes)
    save_figure(figure, path)
