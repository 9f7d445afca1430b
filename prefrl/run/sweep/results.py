"""What came out of a sweep: a row per trial, and aggregates over seeds."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from prefrl.data.files.atomic import atomic_path
from prefrl.functional.statistics import bootstrap_interval, interquartile_mean
from prefrl.reading.errors import reading
from prefrl.run.folder import read_json, write_json
from prefrl.run.logger import short_text
from prefrl.run.settings import flatten, value_text

from .trials import Trial

INTERVAL = 0.95
"""Share of the bootstrap distribution that the intervals cover."""

Results = Mapping[str, Mapping[str, Any]]
"""By the name of the trial, its ``result.json`` with dotted keys; empty for a trial that failed."""


def write_results(folder: Path, recipe: str, trials: Sequence[Trial], failures: Mapping[str, str]) -> None:
    """Write ``results.csv`` and ``result.json`` in the folder of a sweep, and print a table.

    Args:
        folder: the folder of the sweep.
        recipe: name of the recipe.
        trials: the trials, each finished or failed.
        failures: what went wrong with each trial that failed.
    """
    results: dict[str, dict[str, Any]] = {}
    for trial in trials:
        path = folder / trial.name / "result.json"
        results[trial.name] = read_result(path) if path.exists() else {}
    write_rows(folder / "results.csv", trials, results)
    groups = aggregate(trials, results)
    summary = {"recipe": recipe, "trials": len(trials), "failed": dict(failures), "interval": INTERVAL}
    write_json(folder / "result.json", {**summary, "settings": groups})
    console = Console()
    console.print(result_table(recipe, groups, console.width))


def read_result(path: Path) -> dict[str, Any]:
    """Return a trial's ``result.json`` with dotted keys; ValueError unless its numbers are finite."""
    result = flatten(read_json(path))
    with reading(path, "result.json"):
        for key, value in result.items():
            if isinstance(value, (int, float)) and not math.isfinite(value):
                raise ValueError(f"{key} is {value}; it must be finite")
    return result


def write_rows(path: Path, trials: Sequence[Trial], results: Results) -> None:
    """Write one row per trial, in their order: name, seed, settings, then the scalars of its result."""
    scalars = {
        name: {key: value for key, value in result.items() if not isinstance(value, list)}
        for name, result in results.items()
    }
    rows = []
    for trial in trials:
        settings = {key: value_text(value) for key, value in trial.settings.items()}
        # A result that repeats a setting would only say the same again.
        rows.append({**scalars[trial.name], "trial": trial.name, "seed": trial.seed, **settings})
    first = ["trial", "seed", *trials[0].settings]
    columns = dict.fromkeys([*first, *sorted(key for each in scalars.values() for key in each)])
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def aggregate(trials: Sequence[Trial], results: Results) -> list[dict[str, Any]]:
    """Return, for each combination of settings, its finished seeds and aggregates of their results.

    Of a number it is the interquartile mean (``iqm``), of a truth value the share of seeds where it holds
    (``share``), with the ends ``low`` and ``high`` of a bootstrap interval and the count ``n`` of seeds.
    """
    combinations: dict[str, list[Trial]] = {}
    for trial in trials:
        combinations.setdefault(json.dumps(trial.settings), []).append(trial)
    groups = []
    for members in combinations.values():
        finished = [trial for trial in members if results[trial.name]]
        keys = sorted({key for trial in finished for key in results[trial.name]})
        metrics = {}
        for key in keys:
            values = [results[trial.name].get(key) for trial in finished]
            if entry := _aggregate([value for value in values if isinstance(value, (bool, int, float))]):
                metrics[key] = entry
        seeds = [trial.seed for trial in finished]
        groups.append({"settings": members[0].settings, "seeds": seeds, "metrics": metrics})
    return groups


def _aggregate(values: Sequence[bool | int | float]) -> dict[str, float]:
    if not values:
        return {}
    truth = all(isinstance(value, bool) for value in values)
    statistic = np.mean if truth else interquartile_mean
    low, high = bootstrap_interval(values, statistic, interval=INTERVAL)
    centre = float(statistic(np.asarray(values, dtype=np.float64), axis=0))
    return {"share" if truth else "iqm": centre, "low": float(low), "high": float(high), "n": len(values)}


def result_table(recipe: str, groups: Sequence[Mapping[str, Any]], width: int) -> Group:
    """Return a table with a row per combination of settings, and as many results as fit into ``width``.

    Settings with a single value are in the line above.
    """
    values = {
        name: [value_text(group["settings"][name]) for group in groups] for name in groups[0]["settings"]
    }
    fixed = [f"{name} = {texts[0]}" for name, texts in values.items() if len(set(texts)) == 1]
    columns = {name: texts for name, texts in values.items() if len(set(texts)) > 1}
    columns["n"] = [str(len(group["seeds"])) for group in groups]
    hidden = 0
    for name in dict.fromkeys(key for group in groups for key in group["metrics"] if key not in values):
        texts = [_entry_text(group["metrics"].get(name)) for group in groups]
        if _width({**columns, name: texts}) <= width:
            columns[name] = texts
        else:
            hidden += 1
    more = f"; {hidden} more results are in results.csv" if hidden else ""
    caption = f"interquartile mean over n seeds, {100 * INTERVAL:g}% bootstrap interval{more}"
    table = Table()
    for name in columns:
        table.add_column(name, justify="left" if name in values else "right")
    for row in zip(*columns.values(), strict=True):
        table.add_row(*map(escape, row))
    # Not as the table's own title and caption, which are broken to its width.
    return Group(Text(", ".join([recipe, *fixed]), style="italic"), table, Text(caption, style="dim"))


def _width(columns: Mapping[str, Sequence[str]]) -> int:
    """Return the width of a table in characters."""
    lines = [
        [name, *(line for text in texts for line in text.splitlines())] for name, texts in columns.items()
    ]
    return 1 + sum(max(map(len, column)) + 3 for column in lines)


def _entry_text(entry: Mapping[str, float] | None) -> str:
    if entry is None:
        return ""
    centre = short_text(entry["share"] if "share" in entry else entry["iqm"])
    if entry["low"] == entry["high"]:
        return centre
    return f"{centre}\n[{short_text(entry['low'])}, {short_text(entry['high'])}]"
