"""Studies that compare recipes over seeds: each run in a folder of its own, and one picture of them all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from prefrl.run.plot import plot_curves, save_figure

from .study import finish_run

Results = dict[str, list[dict[str, Any]]]
"""What every seed of every arm found."""


def finish_arms(arms: Mapping[str, Any], seeds: int, folder: Path, first: int = 0) -> Results:
    """Run recipes with some seeds in folders below ``folder``, or go on with those that are there.

    One seed of every arm after the other, so that what is there of a study compares arms at any time.

    Args:
        arms: recipes by name.
        seeds: how many of each.
        folder: the study's.
        first: the first seed; the others follow it.
    """
    results: Results = {arm: [] for arm in arms}
    for seed in range(first, first + seeds):
        for arm, recipe in arms.items():
            path = folder / f"{arm.replace(' ', '_')}-{seed}"
            results[arm].append(finish_run(replace(recipe, seed=seed), path))
    return results


def save_evaluations(results: Results, path: Path, label: str) -> None:
    """Draw the evaluations of every arm over its seeds as a PNG, with ``label`` at their axis."""
    curves = {
        arm: [(run["eval_timesteps"], run["eval_returns"]) for run in runs] for arm, runs in results.items()
    }
    save_figure(plot_curves(curves, y_label=label), path)
