"""Studies that compare recipes over seeds: each run in a folder of its own, and one picture of them all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from .plot import PALETTE, save_figure, tidy
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
    """Draw the evaluations of every seed as a PNG, with ``label`` at their axis."""
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    for place, (arm, runs) in enumerate(results.items()):
        for seed, run in enumerate(runs):
            axes.plot(run["eval_timesteps"], run["eval_returns"], color=PALETTE[place % len(PALETTE)],
                      linewidth=1.1, alpha=0.85, label=arm if seed == 0 else None)  # fmt: skip
    axes.set_xlabel("timesteps")
    axes.set_ylabel(label)
    axes.legend(frameon=False, fontsize=8.5)
    tidy(axes)
    save_figure(figure, path)
