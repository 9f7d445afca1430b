"""Reports of sweeps on tuning: is what was chosen on N tasks as good on others as it looked (G3)?"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from prefrl.functional.tuning import SHARE, tuning_gap
from prefrl.run.folder import read_json, write_json
from prefrl.run.plot import PALETTE, save_figure, tidy

from .results import read_result
from .trials import Trial

Floats = NDArray[np.float64]


def check_tuning(trials: Sequence[Trial], over: str | None, utility: str | None) -> None:
    """Raise ValueError unless tasks and utility are both named, or none is, and there are enough tasks."""
    if over is None and utility is None:
        return
    if over is None or utility is None:
        raise ValueError("tune_over names the tasks and utility what is tuned for; give both or none")
    if over != "seed" and over not in trials[0].settings:
        raise ValueError(f"tune_over is {over!r}; it must be one of {[*trials[0].settings, 'seed']}")
    settings, tasks = ({one(trial, over) for trial in trials} for one in (_setting, _task))
    if len(settings) < 2 or len(tasks) < SHARE:
        raise ValueError(f"the sweep has {len(settings)} settings and {len(tasks)} tasks (values of {over}); "
                         f"to tune takes at least 2 and {SHARE}")  # fmt: skip


def _task(trial: Trial, over: str) -> str:
    return json.dumps(trial.seed if over == "seed" else trial.settings[over])


def _setting(trial: Trial, over: str) -> str:
    return json.dumps({name: value for name, value in trial.settings.items() if name != over})


def utility_table(
    trials: Sequence[Trial], results: Mapping[str, Mapping[str, Any]], over: str, utility: str
) -> tuple[list[str], list[str], Floats]:
    """Return settings, tasks, and utilities [settings, tasks] as means over what else differs (seeds).

    Tasks on which some setting has no result are left out.

    Args:
        trials: the trials of a sweep.
        results: what each found, by its name; empty for a trial that failed.
        over: the setting whose values are tasks, or "seed".
        utility: key of the results; with a minus in front, the less the better.

    Raises:
        ValueError: if a result has no such number.
    """
    key, sign = utility.removeprefix("-"), -1.0 if utility.startswith("-") else 1.0
    seen: dict[tuple[str, str], list[float]] = {}
    for trial in trials:
        if not (result := results[trial.name]):
            continue
        value = result.get(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            numbers = [name for name, v in result.items() if isinstance(v, (int, float))]
            raise ValueError(f"utility is {utility!r}, which is no number in the result of {trial.name}; "
                             f"there are {', '.join(numbers)}")  # fmt: skip
        seen.setdefault((_setting(trial, over), _task(trial, over)), []).append(sign * value)
    settings = list(dict.fromkeys(_setting(trial, over) for trial in trials))
    every = list(dict.fromkeys(_task(trial, over) for trial in trials))
    tasks = [task for task in every if all((setting, task) in seen for setting in settings)]
    table = [[float(np.mean(seen[setting, task])) for task in tasks] for setting in settings]
    return settings, tasks, np.array(table)


def write_tuning(folder: Path, trials: Sequence[Trial], over: str, utility: str) -> None:
    """Add ``tuning`` to the ``result.json`` of a finished sweep, and draw ``tuning.png``.

    Args:
        folder: the folder of the sweep.
        trials: its trials.
        over: see :func:`utility_table`.
        utility: see :func:`utility_table`.

    Raises:
        ValueError: as :func:`utility_table` and :func:`tuning_gap`.
    """
    paths = {trial.name: folder / trial.name / "result.json" for trial in trials}
    results = {name: read_result(path) if path.exists() else {} for name, path in paths.items()}
    settings, tasks, table = utility_table(trials, results, over, utility)
    gap = tuning_gap(table)
    best = json.loads(settings[int(table.mean(1).argmax())])
    summary = {"over": over, "utility": utility, "tasks": len(tasks), "best": best, **gap}
    write_json(folder / "result.json", {**read_json(folder / "result.json"), "tuning": summary})
    save_figure(plot_tuning(gap, utility), folder / "tuning.png")


def plot_tuning(gap: Mapping[str, Any], utility: str) -> Figure:
    """Return a picture of what :func:`tuning_gap` found: utilities, and the gap, by the number of tasks."""
    figure = Figure(figsize=(8.0, 3.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for name, label, colour in (("train", "on these tasks", 1), ("test", "on others", 0)):
        left.plot(gap["num_tasks"], gap[name], "o-", color=PALETTE[colour], label=label)
    left.set(xscale="log", xlabel="tasks to choose on")
    left.set_ylabel(f"{utility} of the chosen setting", fontsize=8)
    left.legend(frameon=False)
    right.plot(gap["num_tasks"], gap["gap"], "o-", color=PALETTE[2])
    slope = "" if gap["slope"] is None else f" (slope {gap['slope']:.2f})"
    right.set(xscale="log", yscale="log", xlabel="tasks to choose on", ylabel="mean |train - test|")
    right.set_title(f"what tuning overrates{slope}", fontsize=10)
    for axes in (left, right):
        axes.set_xticks(gap["num_tasks"], [str(count) for count in gap["num_tasks"]])
        axes.minorticks_off()
        tidy(axes)
    return figure
