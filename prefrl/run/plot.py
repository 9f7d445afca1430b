"""Learning curves of many seeds: interquartile mean, bootstrap interval, and the seeds themselves behind."""

from __future__ import annotations

import math
import os
import sys
import textwrap
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

from .curves import (
    EPISODES,
    EVALUATIONS,
    LOSS,
    OBJECTIVE,
    STEP,
    NothingLoggedError,
    default_column,
    find_runs,
    group_labels,
    read_curves,
    read_settings,
)

MAX_POINTS = 400
"""Points of an aggregated curve; more than a figure can show."""

# Okabe and Ito's colours, which the colour-blind can tell apart; their yellow is too pale for a line.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINE_STYLES = ("-", "--", ":", "-.")

LABEL_WIDTH, LABEL_LINES = 42, 4
"""Characters and lines of a group's label at most."""

MOST_WITH_SEEDS = 4
"""Groups beside which there is room for the seeds themselves."""

SLACK = 0.02
"""Share of a curve by which seeds may be of different lengths and count as equally long."""

AXIS_LABELS = {
    STEP: "timesteps",
    "time/time_elapsed": "time [s]",
    "time/fps": "speed [timesteps / s]",
    "time/iterations": "iterations",
    EPISODES: "mean return of an episode",
    "rollout/ep_len_mean": "mean length of an episode [steps]",
    LOSS: "training loss",
    OBJECTIVE: "objective",
    EVALUATIONS: "mean return of an evaluation episode",
    "eval/mean_ep_length": "mean length of an evaluation episode [steps]",
}


@dataclass(frozen=True)
class PlotCommand:
    """Draw learning curves: interquartile mean and bootstrap interval over the seeds of each group."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]")]
    """Run folders, or folders of them, such as a sweep."""

    y: Annotated[
        str | None,
        tyro.conf.arg(
            metavar="STR", help_behavior_hint=f"(default: {EPISODES}, {EVALUATIONS}, {LOSS} or {OBJECTIVE})"
        ),
    ] = None
    """Column of progress.csv to draw; by default the first that most of the runs have."""

    x: str = STEP
    """Column of progress.csv to draw it against."""

    group_by: Annotated[tuple[str, ...], tyro.conf.arg(metavar="KEY [KEY ...]")] = ()
    """Settings whose values make a group (dotted for nested ones); by default the recipe, the environment and
    all that differ between runs of the same recipe, except seed, device, log_every and checkpoint_every."""

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
        save_figure(self.figure(), out)
        print(out)

    def figure(self) -> Figure:
        """Return what is drawn."""
        runs = find_runs(self.runs)
        y = self.y or default_column(runs)
        read = self._read(runs, y)
        labels = group_labels([read_settings(run) for run in read], self.group_by)
        curves: dict[str, list[tuple[FloatArray, FloatArray]]] = {}
        for found, label in zip(read.values(), labels, strict=True):
            curves.setdefault(label, []).extend(found)
        return plot_curves(
            curves,
            x_label=AXIS_LABELS.get(self.x, self.x),
            y_label=AXIS_LABELS.get(y, y),
            interval=self.interval,
            smooth=self.smooth,
        )

    def _read(self, runs: Sequence[Path], y: str) -> dict[Path, list[tuple[FloatArray, FloatArray]]]:
        """Read the curves of all runs but those in folders of runs that have not come so far."""
        curves, problems = {}, []
        for run in runs:
            try:
                curves[run] = read_curves(run, self.x, y)
            except NothingLoggedError as error:
                if run in self.runs:
                    raise
                problems.append(error)
        if not curves:
            raise max(problems, key=lambda error: len(str(error)))  # the one that says what there is
        for problem in problems:
            print(f"left out: {problem}", file=sys.stderr)
        return curves


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

    The seeds themselves are faint thin lines, where there are few groups. Seeds logged at different x are
    interpolated linearly onto one grid over the range that all of the group share; beyond it the line of
    those that go on is dotted.

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
    names = {label: _folded(label) for label in curves}
    lines = sum(name.count("\n") + 1 for name in names.values())
    many = lines > 3  # then the legend stands beside the axes, not to hide a curve
    figure = Figure(figsize=(10 if many else 7, max(4.2, 0.9 + 0.17 * lines)), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes, fewer = figure.add_subplot(), False
    for number, (label, group) in enumerate(curves.items()):
        seeds = [(x, moving_average(y, smooth)) for x, y in (_checked(label, *curve) for curve in group)]
        style: dict[str, Any] = {
            "color": PALETTE[number % len(PALETTE)],
            "linestyle": LINE_STYLES[number // len(PALETTE) % len(LINE_STYLES)],
        }
        count = f"n = {len(seeds)}"
        name = f"{names[label]} ({count})" if label else count
        fewer |= _draw_group(axes, name, seeds, style, interval, faint=len(curves) <= MOST_WITH_SEEDS)
    _dress(axes, x_label, y_label, title)
    explanation = f"interquartile mean over n seeds,\n{100 * interval:g}% bootstrap interval"
    explanation += ";\ndotted where only some of them go on" if fewer else ""
    several = any(len(group) > 1 for group in curves.values())
    _legend(figure, axes, explanation if several else "", many=many)
    return figure


def _folded(label: str) -> str:
    """Return a label in lines, none of which ends with half of NAME = VALUE."""
    whole = label.replace(" = ", "\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}")
    return textwrap.fill(whole, LABEL_WIDTH, max_lines=LABEL_LINES, placeholder=" ...")


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


Curve = tuple[FloatArray, FloatArray]


def stretches(label: str, curves: Sequence[Curve]) -> list[Curve]:
    """Return what all curves share, then, stretch after stretch, what those share that go on longer.

    Each is as :func:`on_common_grid` returns it.

    Raises:
        ValueError: if the curves share no range of x.
    """
    found = [on_common_grid(label, curves)]
    slack = SLACK * (max(x[-1] for x, _ in curves) - min(x[0] for x, _ in curves))
    end = min(x[-1] for x, _ in curves)
    while going := [curve for curve in curves if curve[0][-1] > end + slack]:
        found.append(on_common_grid(label, going, end))
        end = min(x[-1] for x, _ in going)
    return found


def on_common_grid(label: str, curves: Sequence[Curve], start: float = -math.inf) -> Curve:
    """Return the x that all curves share [points], and y of each interpolated there [seeds, points].

    Args:
        label: of the curves.
        curves: x and y [points] of each.
        start: where the grid begins at the earliest.

    Raises:
        ValueError: if the curves share no range of x.
    """
    start, end = max(start, *(x[0] for x, _ in curves)), min(x[-1] for x, _ in curves)
    if start > end:
        raise ValueError(
            f"the {len(curves)} seeds of {label!r} share no range of x: "
            f"one starts at {start:g}, another ends at {end:g}"
        )
    grid = np.unique(np.concatenate([[start], *(x for x, _ in curves)]))
    grid = grid[(grid >= start) & (grid <= end)]
    if len(grid) > MAX_POINTS:
        grid = np.linspace(start, end, MAX_POINTS)
    return grid, np.stack([np.interp(grid, x, y) for x, y in curves])


# The figure ----------------------------------------------------------------------------------------------


def _draw_group(
    axes: Axes, label: str, seeds: Sequence[Curve], style: dict[str, Any], interval: float, *, faint: bool
) -> bool:
    """Draw bands, faint seeds and line of one group; return whether some seeds are longer than others."""
    parts = stretches(label, seeds)
    single: dict[str, Any] = (
        {"marker": "o"} if len(parts[0][0]) == 1 else {}
    )  # a line through one point is invisible
    if len(seeds) > 1 and faint:
        for x, y in seeds:
            axes.plot(x, y, color=style["color"], linewidth=0.6, alpha=0.25, **single, markersize=3, zorder=2)
    for place, (grid, values) in enumerate(parts):
        if len(values) > 1:
            low, high = bootstrap_interval(values, interval=interval)
            alpha = (0.1 if place else 0.2) if faint else 0.08
            axes.fill_between(grid, low, high, color=style["color"], alpha=alpha, linewidth=0, zorder=1)
            if len(grid) == 1:
                axes.vlines(grid, low, high, color=style["color"], alpha=0.5, linewidth=2, zorder=1)
        mean = interquartile_mean(values)
        if place:
            axes.plot(grid, mean, **{**style, "linestyle": ":"}, linewidth=1.8, zorder=3)
        else:
            axes.plot(grid, mean, **style, linewidth=1.8, **single, label=label, zorder=3)
    return len(parts) > 1


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


def _legend(figure: Figure, axes: Axes, explanation: str, *, many: bool) -> None:
    """Name the groups, beside the axes where there are many, and say what line and band are."""
    look: dict[str, Any] = {"title_fontsize": 7.5, "fontsize": 8.5, "alignment": "left"}
    look["title"] = explanation or None
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
