"""Learning curves of many seeds: interquartile mean, bootstrap interval, and the seeds themselves behind."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import ArrayLike

from prefrl.data.files.atomic import atomic_path
from prefrl.functional.statistics import FloatArray, bootstrap_interval, interquartile_mean

from .logger import STEP, read_progress
from .settings import as_now, flatten, full_name

MAX_POINTS = 400
"""Points of an aggregated curve; more than a figure can show."""

# Okabe and Ito's colours, which the colour-blind can tell apart; their yellow is too pale for a line.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINE_STYLES = ("-", "--", ":", "-.")

EPISODES, LOSS = "rollout/ep_rew_mean", "train/loss"
"""The columns drawn by default; agents that solve rather than step an environment have no episodes."""

AXIS_LABELS = {
    STEP: "timesteps",
    "time/time_elapsed": "time [s]",
    "time/fps": "speed [timesteps / s]",
    "time/iterations": "iterations",
    EPISODES: "mean return of an episode",
    "rollout/ep_len_mean": "mean length of an episode [steps]",
    LOSS: "training loss",
    "eval/mean_reward": "mean return of an evaluation episode",
    "eval/mean_ep_length": "mean length of an evaluation episode [steps]",
}


@dataclass(frozen=True)
class PlotCommand:
    """Draw learning curves: interquartile mean and bootstrap interval over the seeds of each group."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]")]
    """Run folders, or folders of them, such as a sweep."""

    y: Annotated[
        str | None,
        tyro.conf.arg(metavar="STR", help_behavior_hint=f"(default: {EPISODES}, else {LOSS})"),
    ] = None
    """Column of progress.csv to draw."""

    x: str = STEP
    """Column of progress.csv to draw it against."""

    group_by: Annotated[tuple[str, ...], tyro.conf.arg(metavar="KEY [KEY ...]")] = ()
    """Settings whose values make a group (dotted for nested ones); by default all that differ between the
    runs, except the seed."""

    out: Path | None = None
    """The PNG to write; by default curves.png, in the folder given if it is one, else in the current one."""

    interval: float = 0.95
    """Share of the bootstrap distribution that the band covers, in (0, 1)."""

    smooth: int = 1
    """Length of the centred moving average, in logged points; 1 draws what was logged."""

    def run(self) -> None:
        """Write the PNG and print its path."""
        folder = self.runs[0] if len(self.runs) == 1 else Path()
        out = self.out or folder / "curves.png"
        if out.suffix != ".png":
            raise ValueError(f"out is {out}; its name must end in .png")
        runs = find_runs(self.runs)
        y = self.y or default_column(runs)
        read = self._read(runs, y)
        labels = group_labels([read_settings(run) for run in read], self.group_by)
        curves: dict[str, list[tuple[FloatArray, FloatArray]]] = {}
        for curve, label in zip(read.values(), labels, strict=True):
            curves.setdefault(label, []).append(curve)
        figure = plot_curves(
            curves,
            x_label=AXIS_LABELS.get(self.x, self.x),
            y_label=AXIS_LABELS.get(y, y),
            interval=self.interval,
            smooth=self.smooth,
        )
        save_figure(figure, out)
        print(out)

    def _read(self, runs: Sequence[Path], y: str) -> dict[Path, tuple[FloatArray, FloatArray]]:
        """Read the curves of all runs but those of a sweep that have not come so far as to have one."""
        curves = {}
        for run in runs:
            try:
                curves[run] = read_curve(run, self.x, y)
            except NothingLoggedError as error:
                if run in self.runs or (run == runs[-1] and not curves):
                    raise
                print(f"left out: {error}", file=sys.stderr)
        return curves


# Runs ----------------------------------------------------------------------------------------------------


def find_runs(paths: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """Return the run folders among and below ``paths``, each once, sorted within each path.

    Raises:
        FileNotFoundError: if a path is no folder, or neither is nor holds a run folder.
        ValueError: if there are no paths.
    """
    if not paths:
        raise ValueError("runs is empty; give a run folder, or a folder of them")
    found: dict[Path, Path] = {}
    for path in map(Path, paths):
        if not path.is_dir():
            raise FileNotFoundError(f"{path} is not a folder; give a run folder, or a folder of them")
        # A name with a dot in front is that of a run folder that is being made.
        runs = sorted(file.parent for file in path.rglob("config.json") if file.parent.name[:1] != ".")
        if not runs:
            raise FileNotFoundError(f"{path} holds no run: there is no config.json in it or below it")
        found.update({run.resolve(): run for run in reversed(runs) if run.resolve() not in found})
    return sorted(found.values())


def default_column(runs: Sequence[Path]) -> str:
    """Return the column that ``prefrl plot`` draws of these runs where none is asked for."""
    columns = {name for run in runs for row in read_progress(run / "progress.csv")[:1] for name in row}
    return LOSS if LOSS in columns and EPISODES not in columns else EPISODES


def read_settings(run: str | os.PathLike[str]) -> dict[str, object]:
    """Return the settings of a run: its recipe's name, and its config with dotted names.

    Raises:
        ValueError: if ``config.json`` is not the one of a run.
    """
    path = Path(run, "config.json")
    try:
        content = json.loads(path.read_text("utf-8"))
        return {"recipe": content["recipe"], **flatten(as_now(content["config"], content.get("format")))}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not the config.json of a run: {error!r}") from error


def group_labels(settings: Sequence[Mapping[str, object]], group_by: Sequence[str] = ()) -> list[str]:
    """Return the name of each run's group, made of its values of ``group_by``.

    Args:
        settings: what :func:`read_settings` says of each run.
        group_by: settings to group by; all that differ between the runs, except the seed, if empty.

    Raises:
        ValueError: if no run has one of ``group_by``.
    """
    known = list(dict.fromkeys(key for each in settings for key in each))
    if group_by:
        group_by = [full_name(name, known, "the runs") for name in group_by]
    else:
        group_by = [
            key
            for key in known
            if key.split(".")[-1] != "seed" and len({str(each.get(key)) for each in settings}) > 1
        ]
    leaves = [key.split(".")[-1] for key in group_by]
    names = [leaf if leaves.count(leaf) == 1 else key for key, leaf in zip(group_by, leaves, strict=True)]
    labels = []
    for each in settings:
        parts = [
            str(each.get(key)) if key == "recipe" else f"{name} = {each.get(key)}"
            for key, name in zip(group_by, names, strict=True)
        ]
        labels.append(", ".join(parts) or str(each.get("recipe", "")))
    return labels


class NothingLoggedError(ValueError):
    """A run has not logged anything yet."""


def read_curve(run: str | os.PathLike[str], x: str, y: str) -> tuple[FloatArray, FloatArray]:
    """Return two columns of a run's ``progress.csv`` where both have a value, x ascending [points].

    Of rows with the same x the last one counts.

    Raises:
        NothingLoggedError: if there is no ``progress.csv``, or it is empty.
        ValueError: if it lacks a column, holds no value of it, or something that is no number.
    """
    path = Path(run, "progress.csv")
    rows = read_progress(path)
    if not rows:
        state = "is empty" if path.exists() else "does not exist"
        raise NothingLoggedError(f"{path} {state}: the run has logged nothing yet")
    if missing := [name for name in (x, y) if name not in rows[0]]:
        raise ValueError(f"{path} has no column {' or '.join(missing)}; it has {', '.join(sorted(rows[0]))}")
    try:
        points = {float(row[x]): float(row[y]) for row in rows if row[x] and row[y]}
    except ValueError as error:
        raise ValueError(f"{path} holds something else than numbers: {error}") from error
    if not points:
        raise ValueError(f"{path} has no value of {y} yet")
    order = sorted(points)
    return np.array(order), np.array([points[each] for each in order])


# Curves --------------------------------------------------------------------------------------------------


def plot_curves(
    curves: Mapping[str, Sequence[tuple[ArrayLike, ArrayLike]]],
    *,
    x_label: str = "timesteps",
    y_label: str = "",
    title: str = "",
    interval: float = 0.95,
    smooth: int = 1,
) -> Figure:
    """Draw one line per group: the interquartile mean over its seeds, its bootstrap interval as a band.

    The seeds themselves are faint thin lines. Seeds logged at different x are interpolated linearly onto
    one grid over the range that all of the group share.

    Args:
        curves: by the name of the group, x and y [points] of each of its seeds, x strictly ascending.
        x_label: what x is, with its unit.
        y_label: what y is, with its unit.
        title: printed above.
        interval: share of the bootstrap distribution that the band covers, in (0, 1).
        smooth: length of the centred moving average, in points; 1 for none.

    Raises:
        ValueError: if there is nothing to draw, a curve is malformed, the seeds of a group share no range of
            x, or an argument is out of range.
    """
    if not curves or not all(curves.values()):
        raise ValueError("curves is empty, or has a group without a curve")
    if smooth < 1:
        raise ValueError(f"smooth is {smooth}; it must be at least 1")
    if not 0 < interval < 1:
        raise ValueError(f"interval is {interval}; it must lie between 0 and 1")
    many = len(curves) > 3  # then the legend stands beside the axes, not to hide a curve
    figure = Figure(figsize=(9 if many else 7, 4.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for number, (label, group) in enumerate(curves.items()):
        seeds = [(x, moving_average(y, smooth)) for x, y in (_checked(label, *curve) for curve in group)]
        style: dict[str, Any] = {
            "color": PALETTE[number % len(PALETTE)],
            "linestyle": LINE_STYLES[number // len(PALETTE) % len(LINE_STYLES)],
        }
        count = f"n = {len(seeds)}"
        _draw_group(axes, f"{label} ({count})" if label else count, seeds, style, interval)
    _dress(axes, x_label, y_label, title)
    _legend(figure, axes, interval, many=many)
    return figure


def _checked(label: str, x: ArrayLike, y: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Return a curve as arrays; raise ValueError if it is none."""
    xs, ys = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if xs.ndim != 1 or xs.shape != ys.shape or not xs.size:
        raise ValueError(f"a curve of {label!r} has x {xs.shape} and y {ys.shape}; both must be [points]")
    if not np.isfinite(xs).all() or (np.diff(xs) <= 0).any():
        raise ValueError(f"a curve of {label!r} has an x that is not finite or not ascending")
    return xs, ys


def moving_average(y: ArrayLike, length: int) -> FloatArray:
    """Return the centred moving average of y [points], over ``length`` of them, rounded up to an odd count.

    Near the ends the window shrinks on both sides, so that a straight line stays as it is.
    """
    values = np.asarray(y, dtype=np.float64)
    n = len(values)
    halves = [min(length // 2, i, n - 1 - i) for i in range(n)]
    return np.array([values[i - half : i + half + 1].mean() for i, half in enumerate(halves)])


def on_common_grid(
    label: str, curves: Sequence[tuple[FloatArray, FloatArray]]
) -> tuple[FloatArray, FloatArray]:
    """Return the x that all curves share [points], and y of each interpolated there [seeds, points].

    Raises:
        ValueError: if the curves share no range of x.
    """
    start, end = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    if start > end:
        raise ValueError(
            f"the {len(curves)} seeds of {label!r} share no range of x: "
            f"one starts at {start:g}, another ends at {end:g}"
        )
    grid = np.unique(np.concatenate([x for x, _ in curves]))
    grid = grid[(grid >= start) & (grid <= end)]
    if len(grid) > MAX_POINTS:
        grid = np.linspace(start, end, MAX_POINTS)
    return grid, np.stack([np.interp(grid, x, y) for x, y in curves])


# The figure ----------------------------------------------------------------------------------------------


def _draw_group(
    axes: Axes,
    label: str,
    seeds: Sequence[tuple[FloatArray, FloatArray]],
    style: dict[str, Any],
    interval: float,
) -> None:
    """Draw the band, the seeds and the line of one group."""
    grid, values = on_common_grid(label, seeds)
    marker = "o" if len(grid) == 1 else ""  # a line through a single point is invisible
    if len(seeds) > 1:
        for x, y in seeds:
            axes.plot(
                x, y, color=style["color"], linewidth=0.6, alpha=0.25, marker=marker, markersize=3, zorder=2
            )
        low, high = bootstrap_interval(values, interval=interval)
        axes.fill_between(grid, low, high, color=style["color"], alpha=0.2, linewidth=0, zorder=1)
        if len(grid) == 1:
            axes.vlines(grid, low, high, color=style["color"], alpha=0.5, linewidth=2, zorder=1)
    axes.plot(grid, interquartile_mean(values), **style, linewidth=1.8, marker=marker, label=label, zorder=3)


def _dress(axes: Axes, x_label: str, y_label: str, title: str) -> None:
    """Label the axes and take away what carries no information."""
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.set_title(title, loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.margins(x=0.01)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 2.5, 5, 10]))
        axis.set_major_formatter(FuncFormatter(lambda value, _: tick_label(value)))


def tick_label(value: float) -> str:
    """Return a short label: 0.25, 40, 1.5k, 2M, -3B."""
    for size, suffix in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.10g}{suffix}".replace("-", "\N{MINUS SIGN}")
    return f"{value:.10g}".replace("-", "\N{MINUS SIGN}")


def _legend(figure: Figure, axes: Axes, interval: float, *, many: bool) -> None:
    """Name the groups, beside the axes where there are many, and say what line and band are."""
    explanation = f"interquartile mean over n seeds,\n{100 * interval:g}% bootstrap interval"
    look: dict[str, Any] = {"title": explanation, "title_fontsize": 7.5, "fontsize": 8.5, "alignment": "left"}
    legend = figure.legend(loc="outside right upper", **look) if many else axes.legend(loc="best", **look)
    legend.get_title().set_color("0.4")
    legend.get_frame().set(edgecolor="none", facecolor="white", alpha=0.8)


def tidy(axes: Axes) -> None:
    """Take away what distracts."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.92")
    axes.set_axisbelow(True)


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure as PNG, whole or not at all; its folder is made where it is missing."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")
