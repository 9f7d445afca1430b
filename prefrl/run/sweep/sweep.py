"""Sweeps: a recipe over seeds and settings, several runs at once, and what came out of them."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from prefrl.run.logger import logged_step, read_progress
from prefrl.run.recipes import RECIPES

from .engines import import_ray, run_in_ray, run_locally
from .results import write_results
from .stacks import make_stacks, open_stack
from .trials import make_trials, open_sweep
from .tuning import check_tuning, write_tuning


@dataclass(frozen=True)
class SweepCommand:
    """Train a recipe over seeds and settings, several runs at once; the same command again goes on."""

    recipe: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="{" + ",".join(RECIPES) + "}")]
    """What to train."""

    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Folder of the sweep; each trial is a run folder in it."""

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds of each combination of settings."""

    set: Annotated[
        tuple[tuple[str, ...], ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="FIELD=V1,V2,...")
    ] = ()
    """Settings and their values, as in: gamma=0.9,0.99 num_envs=64"""

    stack: bool = False
    """Train trials that differ in seeds, or in what each learner may have for itself (as learning_rate and
    gamma), side by side as one run: dqn, ppo, sac. Each is as random as by itself, but not the same run."""

    jobs: int = 2
    """Runs at once on this machine, one thread each; a cluster runs as many as it has CPUs."""

    engine: Literal["local", "ray"] = "local"
    """Processes of this machine, or tasks of Ray."""

    address: str | None = None
    """A Ray cluster, as HOST:PORT or auto, which must see DIR at the same path; without one, Ray is started
    on this machine."""

    tune_over: str | None = None
    """A swept setting (or seed) whose values are tasks, as env_args: result.json then says how far what is
    chosen on N of them is as good on the others."""

    utility: str | None = None
    """What to tune for: a number of the results, with a minus in front where less is better."""

    def run(self) -> None:
        """Finish all trials, write results.csv and result.json, print a table and the path of the result.

        Raises:
            SystemExit: with status 1 if a trial failed.
        """
        if self.jobs < 1:
            raise ValueError(f"jobs is {self.jobs}; it must be at least 1")
        if self.address is not None and self.engine != "ray":
            raise ValueError("address is that of a Ray cluster; give --engine ray as well")
        settings = parse_settings([text for given in self.set for text in given])
        result, failed = sweep(
            self.recipe,
            self.out,
            seeds=self.seeds,
            settings=settings,
            stack=self.stack,
            jobs=self.jobs,
            engine=self.engine,
            address=self.address,
            tune_over=self.tune_over,
            utility=self.utility,
        )
        print(result)
        if failed:
            raise SystemExit(1)


def parse_settings(texts: Sequence[str]) -> dict[str, list[str]]:
    """Return ``["a=1,2", "b=3"]`` as ``{"a": ["1", "2"], "b": ["3"]}``; ValueError for anything else."""
    settings: dict[str, list[str]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        if not name or not equals:
            raise ValueError(f"set has {text!r}; each must be FIELD=V1,V2,..., as in gamma=0.9,0.99")
        if name in settings:
            raise ValueError(f"set names {name} twice; give all its values at once")
        settings[name] = values.split(",")
    return settings


def sweep(
    recipe: str,
    out: str | os.PathLike[str],
    *,
    seeds: Sequence[int],
    settings: Mapping[str, Sequence[str]],
    stack: bool = False,
    jobs: int = 2,
    engine: Literal["local", "ray"] = "local",
    address: str | None = None,
    tune_over: str | None = None,
    utility: str | None = None,
) -> tuple[Path, dict[str, str]]:
    """Train a recipe over a grid of settings and seeds, or go on with it; print a table of the results.

    Args:
        recipe: name of the recipe.
        out: folder of the sweep.
        seeds: seeds of each combination of settings.
        settings: the texts of each setting's values, as on a command line.
        stack: train trials side by side, as far as they can be learners of one run.
        jobs: runs at once on this machine.
        engine: processes of this machine, or Ray.
        address: a Ray cluster, as HOST:PORT or "auto"; None starts Ray on this machine.
        tune_over: the setting (or "seed") whose values are tasks, for a report on tuning; None: no report.
        utility: what to tune for, see :func:`prefrl.run.sweep.tuning.utility_table`.

    Returns:
        The path of ``result.json``, and what went wrong with each trial that failed.

    Raises:
        ValueError: if an argument is wrong, or the sweep in ``out`` has other trials.
        FileExistsError: if there is something else in ``out``.
        ImportError: if Ray is asked for and not installed.
        KeyboardInterrupt: on Ctrl-C, once the trials have checkpointed.
    """
    folder = Path(out)
    trials = make_trials(recipe, seeds, settings)
    check_tuning(trials, tune_over, utility)
    if engine == "ray":
        import_ray()  # or say that it is missing, before anything is made
    stacks = make_stacks(recipe, trials) if stack else []
    open_sweep(folder, recipe, trials)
    # Where each trial is trained: in its own folder, or in that of its stack.
    places = {folder / trial.name: folder / trial.name for trial in trials}
    for each in stacks:
        members = [folder / trial.name for trial in each.trials]
        if (folder / each.name).exists() or not any(map(_finished, members)):
            places.update(dict.fromkeys(members, open_stack(folder, recipe, each)))
    unfinished = list(dict.fromkeys(place for run, place in places.items() if not _finished(run)))
    failed: dict[Path, str] = {}
    if unfinished:
        timesteps = {folder / trial.name: trial.config.get("total_timesteps") for trial in trials}
        with Display(timesteps, places) as display:
            if engine == "ray":
                failed = run_in_ray(unfinished, jobs, address, tell=display.tell, tick=display.tick)
            else:
                failed = run_locally(unfinished, jobs, tell=display.tell, tick=display.tick)
    failures = {
        run.name: failed[place] for run, place in places.items() if place in failed and not _finished(run)
    }
    write_results(folder, recipe, trials, failures)
    if tune_over is not None and utility is not None:
        write_tuning(folder, trials, tune_over, utility)
    return folder / "result.json", failures


def _finished(run: Path) -> bool:
    return (run / "result.json").exists()


class Display:
    """A progress bar over all trials of a sweep, and lines above it.

    Args:
        timesteps: the run folders of the trials, and how many timesteps each takes, if that is known.
        places: the run folder in which each of them is trained.
    """

    def __init__(self, timesteps: Mapping[Path, int | None], places: Mapping[Path, Path]) -> None:
        self._timesteps, self._places = timesteps, places
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[finished]} of {task.total} trials"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task = self._progress.add_task("sweep", total=len(timesteps), finished=0)
        self._shown = -math.inf

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.tick(at_once=True)
        self._progress.stop()

    def tell(self, message: str) -> None:
        """Print a line."""
        self._progress.console.print(message, markup=False, highlight=False, soft_wrap=True)

    def tick(self, *, at_once: bool = False) -> None:
        """Bring the bar up to date, once a second."""
        if time.monotonic() - self._shown < 1 and not at_once:
            return
        done = [self._fraction(run) for run in self._timesteps]
        self._progress.update(self._task, completed=sum(done), finished=done.count(1.0))
        self._shown = time.monotonic()

    def _fraction(self, run: Path) -> float:
        """Return how much of a run is done, as far as its files tell; 1 only once it is finished."""
        if _finished(run):
            return 1.0
        total = self._timesteps[run]
        path = self._places[run] / "progress.csv"
        try:
            rows = read_progress(path) if total else []
            return min(logged_step(path, rows[-1]) / total, 0.99) if rows and total else 0.0
        except ValueError:  # a damaged file is for the trial to complain of
            return 0.0
