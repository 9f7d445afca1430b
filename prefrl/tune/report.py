"""What a search found: tables, files and a figure."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from prefrl.data.files.atomic import atomic_path
from prefrl.functional.statistics import bootstrap_interval, interquartile_mean
from prefrl.run.folder import write_json
from prefrl.run.plot import PALETTE, save_figure, tidy
from prefrl.run.settings import value_text

from .search import Outcome, Search, number
from .space import Range

Metrics = Mapping[str, Mapping[str, float]]
"""Of each metric its interquartile mean ``iqm`` over seeds, the ends ``low`` and ``high`` of a 95 % bootstrap
interval, and the count ``n`` of seeds."""

SHOWN = 11
"""Settings that have a panel in the figure at most."""


@dataclass
class Fresh:
    """How a setting did with fresh seeds."""

    settings: Mapping[str, Any]
    metrics: Metrics
    problem: str = ""

    @property
    def means(self) -> dict[str, float]:
        """The interquartile means."""
        return {name: each["iqm"] for name, each in self.metrics.items()}


def aggregated(results: Sequence[Mapping[str, Any]], search: Search) -> Metrics:
    """Return the metrics of objectives and constraints over the results of several seeds."""
    found = {}
    for metric in search.metrics:
        values = [number(result, metric) for result in results]
        low, high = bootstrap_interval(values, interquartile_mean, interval=0.95)
        centre = float(interquartile_mean(values))
        found[metric] = {"iqm": centre, "low": float(low), "high": float(high), "n": len(values)}
    return found


def write_report(
    folder: Path,
    recipe: str,
    search: Search,
    outcomes: Sequence[Outcome],
    seen: Mapping[int, Metrics],
    fresh: Mapping[str, Fresh],
    chosen: str | None,
) -> None:
    """Write ``trials.csv``, ``tuning.png`` and ``result.json``; print what was found.

    Args:
        folder: the folder of the search.
        recipe: name of the recipe.
        search: what was searched.
        outcomes: what came of each setting.
        seen: metrics at the last rung that each finished, by its number.
        fresh: the defaults and the best settings with fresh seeds.
        chosen: the one of them that ``best.json`` holds.
    """
    write_trials(folder / "trials.csv", search, outcomes, seen)
    save_figure(draw(search, outcomes), folder / "tuning.png")
    states = [each.state for each in outcomes]
    rows = {name: {"settings": _json(each.settings), "metrics": each.metrics, "problem": each.problem}
            for name, each in fresh.items()}  # fmt: skip
    complete = [each for each in outcomes if each.state == "complete" and search.allowed(each.metrics)]
    write_json(folder / "result.json", {
        "recipe": recipe,
        "objectives": [f"{each.direction} {each.metric}" for each in search.objectives],
        "constraints": [str(each) for each in search.constraints],
        "trials": len(outcomes),
        **{state: states.count(state) for state in ("complete", "stopped", "failed")},
        "pareto": [each.number for each in search.front(complete)] if len(search.objectives) == 2 else None,
        "fresh": rows,
        "chosen": chosen,
    })  # fmt: skip
    console = Console()
    console.print(trials_table(search, outcomes, seen))
    console.print(fresh_table(search, fresh, chosen))


def write_trials(
    path: Path, search: Search, outcomes: Sequence[Outcome], seen: Mapping[int, Metrics]
) -> None:
    """Write a row per setting: number, state, rungs, settings, metrics with intervals."""
    rows = []
    for each in outcomes:
        row: dict[str, Any] = {
            "trial": each.number,
            "state": each.state,
            "rungs": len(each.history),
            "problem": each.problem,
        }
        row |= {name: value_text(value) for name, value in _json(each.settings).items()}
        for metric, entry in seen.get(each.number, {}).items():
            row |= {metric: entry["iqm"], f"{metric}_low": entry["low"], f"{metric}_high": entry["high"]}
        rows.append(row)
    columns = dict.fromkeys(["trial", "state", "rungs", *search.space, *(key for row in rows for key in row)])
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _json(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value if isinstance(value, (bool, int, float))
            or value is None else str(value) for name, value in settings.items()}  # fmt: skip


def _entry(entry: Mapping[str, float] | None) -> str:
    return "" if entry is None else f"{entry['iqm']:.4g} [{entry['low']:.4g}, {entry['high']:.4g}]"


def _setting(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else value_text(value)


def trials_table(search: Search, outcomes: Sequence[Outcome], seen: Mapping[int, Metrics]) -> Table:
    """Return the complete settings, best first; with two objectives, those of the Pareto front."""
    two = len(search.objectives) == 2
    shown = [each for each in outcomes if each.state == "complete"]
    allowed = [each for each in shown if search.allowed(each.metrics)]
    first = search.objectives[0]
    rows = search.front(allowed) if two else allowed
    rows.sort(key=lambda each: -first.sign * each.metrics[first.metric])
    title = f"{'Pareto front' if two else 'Trials'}: {len(rows)} of {len(outcomes)}, the others stopped early"
    title += ", failed or are worse" if two else ", failed or broke a constraint"
    metrics = search.metrics
    table = Table("trial", *(name.split(".")[-1] for name in search.space), *metrics, title=title,
                  title_justify="left")  # fmt: skip
    for each in rows:
        settings = [_setting(each.settings[name]) for name in search.space]
        table.add_row(str(each.number), *settings, *(_entry(seen[each.number].get(m)) for m in metrics))
    return table


def fresh_table(search: Search, fresh: Mapping[str, Fresh], chosen: str | None) -> Table:
    """Return how the best settings and the defaults did with fresh seeds."""
    metrics = search.metrics
    title = "With fresh seeds: interquartile mean and 95 % interval"
    table = Table("", *metrics, title=title, title_justify="left")
    for name, each in fresh.items():
        text = name + (" (best.json)" if name == chosen else "")
        table.add_row(
            text, *([_entry(each.metrics.get(m)) for m in metrics] if each.metrics else [each.problem])
        )
    return table


# The figure ----------------------------------------------------------------------------------------------

MARKS = {"complete": ("o", "complete", 0), "stopped": (".", "stopped early", 5)}


def draw(search: Search, outcomes: Sequence[Outcome]) -> Figure:
    """Return the objective by trial and by setting; with two, one by the other in the first panel."""
    names = list(search.space)[:SHOWN]
    columns = min(4, len(names) + 1)
    rows = math.ceil((len(names) + 1) / columns)
    figure = Figure(figsize=(3.2 * columns, 2.8 * rows), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    first, *more = [each.metric for each in search.objectives]
    by = more[0] if more else None
    _scatter(panels[0], outcomes, lambda each: each.metrics[by] if by else each.number, first)
    panels[0].set(xlabel=by or "trial", ylabel=first)
    panels[0].legend(frameon=False, fontsize=8)
    for axes, name in zip(panels[1:], names, strict=False):
        where = search.space[name]
        _scatter(axes, outcomes, lambda each, name=name: _place(each.settings[name]), first)
        if isinstance(where, Range) and where.log:
            axes.set_xscale("log")
        axes.set_xlabel(name.split(".")[-1])
    for axes in panels:
        tidy(axes)
    for axes in panels[len(names) + 1 :]:
        axes.set_visible(False)
    return figure


def _place(value: Any) -> Any:
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else value_text(value)


def _scatter(axes: Axes, outcomes: Sequence[Outcome], x: Any, metric: str) -> None:
    for state, (marker, label, colour) in MARKS.items():
        there = [each for each in outcomes if each.state == state]
        axes.plot([x(each) for each in there], [each.metrics[metric] for each in there], marker,
                  color=PALETTE[colour], label=label)  # fmt: skip
