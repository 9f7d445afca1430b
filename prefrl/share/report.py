"""Runs on one page: an HTML file with its figures inside, which loads nothing and runs no script."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from matplotlib.figure import Figure

from prefrl.config import Settings, to_json
from prefrl.data.files.atomic import atomic_path
from prefrl.functional.statistics import bootstrap_interval, interquartile_mean
from prefrl.reading.text import read_json
from prefrl.run.curves import (
    EPISODES,
    EVALUATIONS,
    LOSS,
    OBJECTIVE,
    UNIMPORTANT,
    NothingLoggedError,
    differs,
    find_runs,
    group_labels,
    read_settings,
)
from prefrl.run.plot import AXIS_LABELS, PlotCommand
from prefrl.run.recipes import load_recipe
from prefrl.run.settings import flatten, value_text

DRAWN = (EVALUATIONS, EPISODES, OBJECTIVE, LOSS)
"""Columns that are drawn by default, those that the runs have."""

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.7rem; margin: .5rem 0; } h2 { font-size: 1.25rem; margin: 2rem 0 .5rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .25rem .75rem .25rem 0; }
tr { border-bottom: 1px solid var(--line); }
td:first-child, code, pre { font-family: ui-monospace, monospace; font-size: .9em; }
pre { background: var(--soft); padding: .75rem; overflow-x: auto; }
img { max-width: 100%; height: auto; background: white; border-radius: .25rem; }
.soft { opacity: .75; }
"""


@dataclass(frozen=True)
class ReportCommand(Settings):
    """Put runs, or a sweep, on one page: settings, curves, results, versions; one HTML file."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]")]
    """Run folders, or folders of them, such as a sweep."""

    y: Annotated[tuple[str, ...], tyro.conf.arg(metavar="COLUMN [COLUMN ...]", help_behavior_hint="")] = ()
    """Columns of progress.csv to draw; by default returns, the objective and the loss, where logged."""

    group_by: Annotated[tuple[str, ...], tyro.conf.arg(metavar="KEY [KEY ...]", help_behavior_hint="")] = ()
    """Settings whose values make a group, as in prefrl plot; by default those that differ."""

    out: Annotated[
        Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: report.html)")
    ] = None
    """The page to write; by default report.html in the folder given, or in the current one."""

    def run(self) -> None:
        """Write the page and print its path."""
        folder = self.runs[0] if len(self.runs) == 1 else Path()
        out = self.out or folder / "report.html"
        if out.suffix not in (".html", ".htm"):
            raise ValueError(f"out is {out}; its name must end in .html")
        page = report(self.runs, self.y, self.group_by)
        out.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(out) as path:
            path.write_text(page, "utf-8")
        print(out)


def report(paths: Sequence[Path], y: Sequence[str] = (), group_by: Sequence[str] = ()) -> str:
    """Return the page of run folders, or of folders of them.

    Args:
        paths: the folders.
        y: columns to draw; without any, those of :data:`DRAWN` that there are.
        group_by: settings whose values make a group.

    Raises:
        FileNotFoundError: if a path is no folder, or holds no run.
        ValueError: if a run is damaged, or has not logged what is asked for.
    """
    runs = find_runs(paths)
    settings = [read_settings(run) for run in runs]
    groups: dict[str, list[Path]] = {}
    for run, label in zip(runs, group_labels(settings, group_by), strict=True):
        groups.setdefault(label, []).append(run)
    recipes = list(dict.fromkeys(str(each["recipe"]) for each in settings))
    heading = f"{', '.join(recipes)}: {len(runs)} run{'s' * (len(runs) > 1)}"
    parts = [
        f"<h1>{escape(heading)}</h1>",
        f"<p class=soft>{escape(', '.join(map(str, paths)))}; written {datetime.now():%Y-%m-%d %H:%M}</p>",
        *_figures(paths, runs, y, group_by),
        "<h2>Results</h2>",
        _results(groups),
        "<h2>Settings</h2>",
        *_settings(settings),
        "<h2>Versions</h2>",
        *_versions(runs),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">\n"
        f"<title>{escape(heading)}</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of texts."""
    lines = ["".join(f"<th>{escape(text)}</th>" for text in head)]
    lines += ["".join(f"<td>{escape(text)}</td>" for text in row) for row in rows]
    return "<div class=wide><table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table></div>"


def folded(summary: str, content: str) -> str:
    """Return something that is shown when its summary is clicked."""
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def _figures(
    paths: Sequence[Path], runs: Sequence[Path], y: Sequence[str], group_by: Sequence[str]
) -> list[str]:
    drawn = []
    for column in y or DRAWN:
        try:
            figure = PlotCommand(
                tuple(runs) if y else tuple(paths), y=column, group_by=tuple(group_by)
            ).figure()
        except NothingLoggedError:
            if y:
                raise
            continue
        name = AXIS_LABELS.get(column, column)
        drawn.append(f"<h2>{escape(name[:1].upper() + name[1:])}</h2>\n{_image(figure, name)}")
    return drawn or ["<p>Nothing was logged yet that could be drawn.</p>"]


def _image(figure: Figure, alt: str) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{escape(alt)}" src="data:image/png;base64,{data}">'


def _results(groups: Mapping[str, Sequence[Path]]) -> str:
    """Return what each group of runs came to: of several runs the interquartile mean and its interval."""
    found: dict[str, dict[str, list[float]]] = {label: {} for label in groups}
    finished: list[str] = []
    for label, runs in groups.items():
        finished.append(f"{sum((run / 'result.json').exists() for run in runs)} of {len(runs)}")
        for run in runs:
            for name, value in outcome(run).items():
                found[label].setdefault(name, []).append(value)
    names = list(dict.fromkeys(name for of in found.values() for name in of))
    rows = [["runs that are finished", *finished]]
    rows += [[name, *(_entry(of.get(name, [])) for of in found.values())] for name in names]
    whole = table(["", *(label or "all" for label in groups)], rows)
    if sum(map(len, groups.values())) == 1:
        return whole
    each = [
        [run.name, *(f"{values[name]:.6g}" if name in values else "" for name in names)]
        for runs in groups.values()
        for run in runs
        for values in [outcome(run)]
    ]
    return whole + folded("Every run", table(["run", *names], each))


def outcome(run: Path) -> dict[str, float]:
    """Return the numbers of a run's ``result.json``, and of its ``evaluation.json``."""
    numbers = {}
    for name, prefix in (("result", ""), ("evaluation", "evaluation/")):
        if (run / f"{name}.json").exists():
            for key, value in flatten(read_json(run / f"{name}.json")).items():
                if isinstance(value, (int, float)) and not isinstance(value, bool):
                    numbers[prefix + key] = float(value)
    return numbers


def _entry(values: Sequence[float]) -> str:
    if not values:
        return ""
    if len(values) == 1:
        return f"{values[0]:.6g}"
    low, high = bootstrap_interval(np.array(values))
    return f"{interquartile_mean(np.array(values)):.6g} ({low:.4g} to {high:.4g})"


def _settings(settings: Sequence[Mapping[str, object]]) -> list[str]:
    """Return what was set otherwise than by default, and all the rest to be unfolded."""
    parts = []
    for recipe in dict.fromkeys(str(each["recipe"]) for each in settings):
        runs = [each for each in settings if each["recipe"] == recipe]
        defaults = flatten(to_json(load_recipe(recipe)()))
        changed: list[list[str]] = []
        rest: list[list[str]] = []
        for name in (name for name in runs[0] if name != "recipe"):
            values = list(dict.fromkeys(value_text(each.get(name)) for each in runs))
            row = [name, "; ".join(values), value_text(defaults.get(name))]
            important = name.split(".")[-1] not in UNIMPORTANT or differs(runs, name)
            (changed if important and values != row[2:] else rest).append(row)
        head = ["setting", "of these runs", "default"]
        parts.append(f"<h3>{escape(recipe)}</h3>")
        parts.append(table(head, changed) if changed else "<p>Everything is as by default.</p>")
        parts.append(folded(f"{len(rest)} settings as by default", table(head, rest)))
    return parts


def _versions(runs: Sequence[Path]) -> list[str]:
    told: dict[str, list[str]] = {}
    diffs: dict[str, str] = {}
    for run in runs:
        if (run / "versions.json").exists():
            for name, value in flatten(read_json(run / "versions.json")).items():
                values = told.setdefault(name, [])
                if value_text(value) not in values:
                    values.append(value_text(value))
        if (run / "git.diff").exists() and (text := (run / "git.diff").read_text("utf-8", "replace").strip()):
            diffs.setdefault(text, run.name)
    parts = [table(["", ""], [[name, "; ".join(values)] for name, values in told.items()])]
    for text, name in diffs.items():
        parts.append(folded(f"Changes that were not committed ({name})", f"<pre>{escape(text)}</pre>"))
    return parts
