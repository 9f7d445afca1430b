"""``prefrl tune``: settings found by trying, judged on seeds that nothing was chosen on."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from prefrl.config import Count, Natural, Settings
from prefrl.data.files.atomic import atomic_path
from prefrl.functional.statistics import bootstrap_interval, interquartile_mean, probability_of_improvement
from prefrl.processes import claimed
from prefrl.run.folder import read_json, write_json
from prefrl.run.plot import PALETTE, save_figure, tidy
from prefrl.run.recipes import RECIPES
from prefrl.run.settings import FORMAT, nest, value_text
from prefrl.run.sweep.engines import import_ray, run_in_ray, run_locally
from prefrl.run.sweep.sweep import parse_settings

from .runs import Runs
from .search import Constraint, Objective, Outcome, Run, Search, import_optuna, parse_constraint
from .space import Choices, Range, Space, check_space, config_of, parse_space, settings_of

CANDIDATES = 3
"""Settings that are tried once more, on fresh seeds, beside the defaults."""

DEFAULT = "default"
"""The name of the settings that are not tuned."""


@dataclass(frozen=True)
class TuneCommand(Settings):
    """Find settings by trying (extra: tune); the same command again goes on."""

    recipe: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="{" + ",".join(RECIPES) + "}")]
    """What to train."""

    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Folder of the search."""

    space: Annotated[tuple[str, ...], tyro.conf.arg(metavar="FIELD=WHERE [FIELD=WHERE ...]")] = ()
    """Settings to tune, and where: gamma=0.9..0.999 learning_rate=log:1e-4..1e-2 loss=mse,huber"""

    set: Annotated[
        tuple[str, ...], tyro.conf.arg(metavar="FIELD=VALUE [FIELD=VALUE ...]", help_behavior_hint="")
    ] = ()
    """Settings that are the same in all trials, the defaults included: env_id=CartPole-v1"""

    trials: Count = 20
    """Settings to try; a later command may ask for more."""

    seeds: tuple[Natural, ...] = (0, 1, 2)
    """Seeds of each; their interquartile mean counts."""

    maximize: Annotated[
        tuple[str, ...], tyro.conf.arg(metavar="METRIC", help_behavior_hint="(default: final_return)")
    ] = ()
    """Number of result.json to make large."""

    minimize: Annotated[tuple[str, ...], tyro.conf.arg(metavar="METRIC", help_behavior_hint="")] = ()
    """Number of result.json to make small; with --maximize there are two objectives."""

    constraint: Annotated[
        tuple[str, ...], tyro.conf.arg(metavar="METRIC<=NUMBER", help_behavior_hint="")
    ] = ()
    """What must hold besides, as in: 'seconds<=60'"""

    rungs: Count = 3
    """Lengths that a setting is run for: 1/9, 1/3 and all of its timesteps; it goes on if it is among the
    best third. With 1 every setting is run to the end."""

    final_seeds: Count = 5
    """Fresh seeds on which the best three are run once more, beside the defaults."""

    sampler: Literal["tpe", "random"] = "tpe"
    """How Optuna chooses: tree-structured Parzen estimators, or at random."""

    seed: Natural = 0
    """Seeds the sampler."""

    jobs: Count = 2
    """Runs at once on this machine, one thread each; a cluster runs as many as it has CPUs."""

    engine: Literal["local", "ray"] = "local"
    """Processes of this machine, or tasks of Ray."""

    address: str | None = None
    """A Ray cluster, as HOST:PORT or auto, which must see DIR at the same path."""

    def check(self) -> None:
        """Raise ValueError for what the recipe, or the search, cannot take."""
        if self.address is not None and self.engine != "ray":
            raise ValueError("address is that of a Ray cluster; give --engine ray as well")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds is {self.seeds}; give at least one, each once")
        check_space(self.recipe, self.where, self.fixed)
        if len(self.objectives) > 2:
            raise ValueError(f"there are {len(self.objectives)} objectives; there may be one or two")
        _ = self.constraints

    @property
    def where(self) -> Space:
        """The parsed space."""
        return parse_space(self.recipe, self.space)

    @property
    def fixed(self) -> dict[str, Any]:
        """The parsed settings that are the same in all trials."""
        return settings_of(self.recipe, parse_settings(self.set))

    @property
    def objectives(self) -> list[Objective]:
        """What counts."""
        given = [
            *(Objective(name) for name in self.maximize),
            *(Objective(name, "minimize") for name in self.minimize),
        ]
        return given or [Objective("final_return")]

    @property
    def constraints(self) -> list[Constraint]:
        """What must hold."""
        return [parse_constraint(text) for text in self.constraint]

    def run(self) -> None:
        """Search, judge the best on fresh seeds; print a table, and the path of the result."""
        import_optuna()
        if self.engine == "ray":
            import_ray()
        _open(self.out, self)
        with claimed(self.out):
            result = _tune(self)
        print(result)


def _open(folder: Path, command: TuneCommand) -> None:
    """Make the folder of a search, or see that the one that is there is the same search."""
    same = (
        "recipe",
        "space",
        "set",
        "seeds",
        "maximize",
        "minimize",
        "constraint",
        "rungs",
        "sampler",
        "seed",
    )
    asked = {name: value_of(getattr(command, name)) for name in same}
    path = folder / "tune.json"
    if path.exists():
        there = read_json(path)
        for name, value in asked.items():
            if there.get(name) != value:
                raise ValueError(
                    f"{folder} is a search with {name} = {there.get(name)}, not {value}; choose another --out"
                )
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} is no search and not empty: choose another --out")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, asked)


def value_of(value: Any) -> Any:
    """Return a value as JSON gives it back."""
    return list(value) if isinstance(value, tuple) else value


def _tune(command: TuneCommand) -> Path:
    folder, console = command.out, Console(stderr=True)
    tell = partial(console.print, markup=False, highlight=False, soft_wrap=True)
    if command.engine == "ray":
        engine = lambda runs: run_in_ray(runs, command.jobs, command.address, tell=_nothing, tick=_nothing)  # noqa: E731
    else:
        engine = lambda runs: run_locally(runs, command.jobs, tell=_nothing, tick=_nothing)  # noqa: E731
    tried = Runs(folder / "trials", command.recipe, command.fixed, command.rungs, engine)
    search = Search(
        folder / "journal.log", command.where, command.objectives, command.constraints,
        rungs=command.rungs, seed=command.seed, sampler=command.sampler, tell=tell,
    )  # fmt: skip
    run: Run = lambda number, settings, rung: tried(f"{number:04d}", settings, command.seeds, rung)  # noqa: E731
    outcomes = search.run(command.trials, run)
    best = search.best(outcomes, CANDIDATES)
    write_trials(folder / "trials.csv", outcomes, command)
    save_figure(draw(outcomes, command.where, command.objectives), folder / "tune.png")
    if not best:
        raise ValueError(
            f"no setting of {len(outcomes)} was run to the end within the constraints; see {folder / 'trials.csv'}"
        )
    fresh = tuple(range(max(command.seeds) + 1, max(command.seeds) + 1 + command.final_seeds))
    tell(f"the best {len(best)} once more, beside the defaults, with seeds {fresh[0]} to {fresh[-1]}")
    again = Runs(folder / "final", command.recipe, command.fixed, 1, engine)
    named = {DEFAULT: {}, **{f"{each.number:04d}": each.settings for each in best}}
    judged = judge(again.all(named, fresh, 1), command.objectives, command.constraints)
    chosen = max((name for name in judged if name != DEFAULT), key=lambda name: _first(judged[name], command))
    settings = {**command.fixed, **named[chosen]}
    write_json(folder / "best.json", {"recipe": command.recipe, "config": nest(_json(command.recipe, settings)),
                                      "format": FORMAT})  # fmt: skip
    states = [each.state for each in outcomes]
    write_json(folder / "result.json", {
        "recipe": command.recipe, "trials": len(outcomes), "stopped": states.count("stopped"),
        "failed": states.count("failed"), "fresh_seeds": list(fresh), "chosen": chosen,
        "better_than_default": _first(judged[chosen], command) > _first(judged[DEFAULT], command),
        "settings": {name: dict(of) for name, of in named.items()}, "fresh": judged,
    })  # fmt: skip
    show(judged, named, chosen, command)
    return folder / "result.json"


def _nothing(*_: Any) -> None:
    """Say nothing: the search tells what came of a setting."""


def _json(recipe: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings by dotted names as JSON has them."""
    from prefrl.run.settings import flatten

    whole = flatten(config_of(recipe, settings))
    return {name: whole[name] for name in settings}


def _first(of: Mapping[str, Any], command: TuneCommand) -> float:
    """Return how good something is by the first objective, the more the better."""
    objective = command.objectives[0]
    return float(objective.sign * of[objective.metric]["iqm"])


def judge(
    results: Mapping[str, Sequence[Mapping[str, Any]]],
    objectives: Sequence[Objective],
    constraints: Sequence[Constraint],
) -> dict[str, dict[str, Any]]:
    """Return of each of several settings what fresh seeds say, and how likely it is better than the defaults.

    By name and metric: ``iqm``, ``low``, ``high`` (95 % bootstrap interval), ``values`` of the seeds; of
    objectives also ``improves``, the probability that a run is better than one of the defaults, with its
    interval.
    """
    found: dict[str, dict[str, Any]] = {}
    signs = {each.metric: each.sign for each in objectives}
    for name, runs in results.items():
        found[name] = {}
        for metric in dict.fromkeys([*signs, *(each.metric for each in constraints)]):
            values = np.array([run[metric] for run in runs], dtype=np.float64)
            low, high = bootstrap_interval(values)
            told: dict[str, Any] = {"iqm": float(interquartile_mean(values)), "low": float(low), "high": float(high),
                                    "values": values.tolist()}  # fmt: skip
            if metric in signs and name != DEFAULT:
                theirs = signs[metric] * np.array([run[metric] for run in results[DEFAULT]])
                chance = probability_of_improvement([signs[metric] * values], [theirs])
                told["improves"] = dict(zip(("probability", "low", "high"), map(float, chance), strict=True))
            found[name][metric] = told
    return found


def show(judged: Mapping[str, Any], named: Mapping[str, Any], chosen: str, command: TuneCommand) -> None:
    """Print what fresh seeds say."""
    table = Table(title=f"{command.recipe}: on {command.final_seeds} fresh seeds", title_justify="left")
    names = [name.split(".")[-1] for name in command.where]
    metrics = list(judged[DEFAULT])
    improves = [f"P(better {each.metric})" for each in command.objectives]
    for name in ("trial", *names, *metrics, *improves):
        table.add_column(name)
    for name, of in judged.items():
        cells = [f"{name}{' (best.json)' * (name == chosen)}"]
        cells += [_short(named[name].get(each)) for each in command.where]
        cells += [f"{of[m]['iqm']:.4g} [{of[m]['low']:.4g}, {of[m]['high']:.4g}]" for m in metrics]
        cells += [
            f"{of[each.metric]['improves']['probability']:.2f}" if name != DEFAULT else ""
            for each in command.objectives
        ]
        table.add_row(*cells)
    Console().print(table)
    if _first(judged[chosen], command) <= _first(judged[DEFAULT], command):
        print("no tried setting was better than the defaults on fresh seeds")


def _short(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else value_text(value)


def write_trials(path: Path, outcomes: Sequence[Outcome], command: TuneCommand) -> None:
    """Write a row for every setting that was tried."""
    metrics = dict.fromkeys(
        [*(each.metric for each in command.objectives), *(each.metric for each in command.constraints)]
    )
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["trial", "state", "rungs", *command.where, *metrics, "problem"])
        for each in outcomes:
            last = each.rungs[-1] if each.rungs else {}
            row = [
                each.number,
                each.state,
                len(each.rungs),
                *(value_text(each.settings[name]) for name in command.where),
            ]
            writer.writerow([*row, *(last.get(name, "") for name in metrics), each.problem])


def draw(outcomes: Sequence[Outcome], space: Space, objectives: Sequence[Objective]) -> Figure:
    """Draw the first objective by trial, or both, and against every setting; what was stopped is hollow."""
    panels = 1 + len(space)
    columns = min(3, panels)
    rows = -(-panels // columns)
    figure = Figure(figsize=(4.0 * columns, 3.0 * rows), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    for unused in axes[panels:]:
        unused.remove()
    shown = [each for each in outcomes if each.rungs]
    values = [each.rungs[-1][objectives[0].metric] for each in shown]
    faces = [PALETTE[0] if each.state == "complete" else "none" for each in shown]
    look: dict[str, Any] = {"facecolors": faces, "edgecolors": PALETTE[0], "s": 28}
    if len(objectives) == 2:
        axes[0].scatter([each.rungs[-1][objectives[1].metric] for each in shown], values, **look)
        axes[0].set_xlabel(objectives[1].metric)
    else:
        axes[0].scatter([each.number for each in shown], values, **look)
        axes[0].set_xlabel("trial (hollow: stopped before the end)")
    for axis, (name, where) in zip(axes[1:], space.items(), strict=False):
        tried = [each.settings[name] for each in shown]
        if isinstance(where, Choices):
            places = list(where.values)
            texts = {repr(value): place for place, value in enumerate(where.values.values())}
            axis.scatter([texts[repr(value)] for value in tried], values, **look)
            axis.set_xticks(range(len(places)), places)
        else:
            axis.scatter(tried, values, **look)
            axis.set_xscale("log" if isinstance(where, Range) and where.log else "linear")
        axis.set_xlabel(name)
    for axis in axes[:panels]:
        axis.set_ylabel(objectives[0].metric)
        tidy(axis)
    return figure
