"""The command ``prefrl tune``: settings are tried, the best are run again with fresh seeds, and compared."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from prefrl.processes import claimed
from prefrl.run.folder import read_json, write_json
from prefrl.run.recipes import RECIPES
from prefrl.run.settings import FORMAT
from prefrl.run.sweep.engines import connected, finish_in_ray, import_ray, run_locally
from prefrl.run.sweep.sweep import parse_settings

from .report import Fresh, aggregated, write_report
from .runs import Engine, Runs
from .search import Objective, Outcome, Search, import_optuna, parse_constraint
from .space import check_space, config_of, parse_space, settings_of

COMPARED = 3
"""How many of the best settings are run with fresh seeds, beside the defaults."""

DEFAULTS = "defaults"


@dataclass(frozen=True)
class TuneCommand:
    """Look for good settings of a recipe with Optuna; the same command again goes on."""

    recipe: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="{" + ",".join(RECIPES) + "}")]
    """What to train."""

    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Folder of the search; each setting and seed is a run folder in it."""

    space: Annotated[
        tuple[tuple[str, ...], ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="FIELD=LOW..HIGH")
    ]
    """Where to look, as in: learning_rate=log:1e-4..1e-2 batch_size=32..256 loss=mse,hl_gauss"""

    metric: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME [NAME]")]
    """The number of result.json that counts, or two of them."""

    direction: tuple[Literal["maximize", "minimize"], ...] = ("maximize",)
    """Whether more of it is better: one word for each metric, or for all."""

    constraint: Annotated[tuple[str, ...], tyro.conf.arg(metavar="[NAME<=NUMBER ...]")] = ()
    """What must hold of other numbers, as in: "seconds<=60"."""

    set: Annotated[
        tuple[tuple[str, ...], ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="FIELD=VALUE")
    ] = ()
    """Settings of all runs, the defaults' too."""

    trials: int = 20
    """How many settings are tried; more, later, go on with those that are there."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of each setting; their interquartile mean counts."""

    fresh_seeds: tuple[int, ...] = (100, 101, 102, 103, 104)
    """Seeds with which the best three and the defaults are compared at the end."""

    rungs: int = 3
    """Lengths a setting is run for: with 3, a ninth, a third and the whole of its timesteps, and one in three
    goes on. With 1 all settings are run to the end."""

    sampler: Literal["tpe", "random"] = "tpe"
    """What asks: Optuna's tree-structured Parzen estimator, or chance."""

    sampler_seed: int = 0
    """Seeds it."""

    jobs: int = 2
    """Runs at once on this machine, one thread each."""

    engine: Literal["local", "ray"] = "local"
    """Processes of this machine, or tasks of Ray."""

    address: str | None = None
    """A Ray cluster, as HOST:PORT or auto, which must see DIR at the same path."""

    def run(self) -> None:
        """Finish the search; write result.json and what stands beside it, print tables and the path."""
        search, fixed = self._search()
        import_optuna()
        if self.engine == "ray":
            import_ray()  # or say that it is missing, before anything is made
        self._open(search, fixed)
        with claimed(self.out), self._engine() as engine:
            runs = Runs(self.recipe, fixed, self.rungs, engine)
            outcomes = search.run(
                self.trials,
                lambda number, settings, rung: runs.results(self._place(number), settings, self.seeds, rung),
            )
            best = search.best(outcomes, COMPARED)
            fresh = self._fresh(runs, search, best)
        chosen = self._chosen(search, fresh)
        if chosen is None:
            (self.out / "best.json").unlink(missing_ok=True)
        else:
            config = config_of(self.recipe, {**fixed, **fresh[chosen].settings})
            del config["seed"]
            write_json(self.out / "best.json", {"recipe": self.recipe, "config": config, "format": FORMAT})
        seen = {
            each.number: aggregated(
                runs.read(self._place(each.number), self.seeds, len(each.history)), search
            )
            for each in outcomes
            if each.history
        }
        write_report(self.out, self.recipe, search, outcomes, seen, fresh, chosen)
        print(self.out / "result.json")

    def _search(self) -> tuple[Search, dict[str, Any]]:
        """Return what is searched, and the settings of all runs; ValueError for a wrong argument."""
        for name, low in {"trials": 1, "rungs": 1, "jobs": 1, "sampler_seed": 0}.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {low}")
        for name in ("seeds", "fresh_seeds"):
            given = getattr(self, name)
            if not given or len({*given}) < len(given) or min(given) < 0:
                raise ValueError(f"{name} is {given}; it must hold numbers from 0 on, each once")
        if both := sorted({*self.seeds} & {*self.fresh_seeds}):
            raise ValueError(f"fresh_seeds has {both[0]}, which is in seeds; what was tried is not fresh")
        if len(self.metric) not in (1, 2) or len({*self.metric}) < len(self.metric):
            raise ValueError(f"metric is {self.metric}; it must be one name, or two")
        if len(self.direction) not in (1, len(self.metric)):
            raise ValueError(f"direction has {len(self.direction)} words for {len(self.metric)} metrics")
        if self.address is not None and self.engine != "ray":
            raise ValueError("address is that of a Ray cluster; give --engine ray as well")
        directions = self.direction * (len(self.metric) if len(self.direction) == 1 else 1)
        space = parse_space(self.recipe, [text for given in self.space for text in given])
        fixed = settings_of(self.recipe, parse_settings([text for given in self.set for text in given]))
        check_space(self.recipe, space, fixed)
        search = Search(
            self.out / "journal.log",
            space,
            [Objective(*each) for each in zip(self.metric, directions, strict=True)],
            [parse_constraint(text) for text in self.constraint],
            rungs=self.rungs,
            seed=self.sampler_seed,
            sampler=self.sampler,
            tell=tell,
        )
        return search, fixed

    def _open(self, search: Search, fixed: Mapping[str, Any]) -> None:
        """Make the folder, or go on with the search there; more trials and other fresh seeds may be given.

        Raises:
            FileExistsError: if there is something else.
            ValueError: if there is another search.
        """
        path = self.out / "tune.json"
        asked = {
            "recipe": self.recipe,
            "space": {name: str(where) for name, where in search.space.items()},
            "set": {name: str(value) for name, value in fixed.items()},
            "objectives": [f"{each.direction} {each.metric}" for each in search.objectives],
            "constraints": [str(each) for each in search.constraints],
            "seeds": list(self.seeds),
            "rungs": self.rungs,
            "sampler": f"{self.sampler} {self.sampler_seed}",
        }
        if path.exists():
            there = read_json(path)
            for name, value in asked.items():
                if there.get(name) != value:
                    raise ValueError(f"the search in {self.out} was made with {name} = {there.get(name)}, "
                                     f"now it is {value}: choose another --out")  # fmt: skip
        elif self.out.exists() and (not self.out.is_dir() or any(self.out.iterdir())):
            raise FileExistsError(f"{self.out} is no search and not empty: choose another --out")
        self.out.mkdir(parents=True, exist_ok=True)
        write_json(path, asked)

    def _place(self, number: int) -> Path:
        return self.out / "trials" / f"{number:04d}"

    @contextmanager
    def _engine(self) -> Iterator[Engine]:
        if self.engine == "local":
            yield partial(run_locally, jobs=self.jobs, tell=tell_trouble, tick=_nothing)
            return
        with connected(self.jobs, self.address) as ray:
            yield partial(finish_in_ray, ray, tell=tell_trouble, tick=_nothing)

    def _fresh(self, runs: Runs, search: Search, best: Sequence[Outcome]) -> dict[str, Fresh]:
        """Return how the best settings and the defaults do with fresh seeds, all run at once."""
        settings = {DEFAULTS: {}, **{f"trial {each.number}": each.settings for each in best}}
        places = {name: self.out / "fresh" / name.replace(" ", "-") for name in settings}
        tell(f"with fresh seeds: {', '.join(settings)}")
        unfinished = [
            run
            for name, place in places.items()
            for run in runs.prepared(place, settings[name], self.fresh_seeds, self.rungs)
            if not runs.result_path(run, self.rungs).exists()
        ]
        failed = runs.engine(unfinished)
        found = {}
        for name, place in places.items():
            problems = [text for run, text in failed.items() if run.parent == place]
            results = [] if problems else runs.read(place, self.fresh_seeds, self.rungs)
            metrics = {} if problems else aggregated(results, search)
            found[name] = Fresh(settings[name], metrics, problems[0] if problems else "")
        return found

    def _chosen(self, search: Search, fresh: Mapping[str, Fresh]) -> str | None:
        """Return which did best in the first metric with fresh seeds, of those that keep the constraints."""
        objective = search.objectives[0]
        scores = {
            name: objective.sign * each.means[objective.metric]
            for name, each in fresh.items()
            if each.metrics and search.allowed(each.means)
        }
        return max(scores, key=scores.__getitem__) if scores else None


def _nothing() -> None:
    """Do what is to be done between two looks at running trials."""


def tell(text: str) -> None:
    """Print a line on stderr."""
    print(text, file=sys.stderr, flush=True)


def tell_trouble(text: str) -> None:
    """Print a line of an engine, unless it only says that a run is finished."""
    if not text.endswith(" finished"):
        tell(text)
