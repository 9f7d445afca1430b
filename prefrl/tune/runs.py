"""The runs of a search: a folder for every setting, and in it a run folder for every seed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefrl.run.folder import RunFolder, paused_path, read_json, write_json
from prefrl.run.settings import flatten

from .search import REDUCTION, RunFailed
from .space import config_of

Engine = Callable[[Sequence[Path]], Mapping[Path, str]]
"""Finishes run folders; returns what went wrong with those that failed."""


@dataclass(frozen=True)
class Runs:
    """Runs settings of a recipe over seeds, rung by rung.

    Args:
        folder: where the run folders lie.
        recipe: name of the recipe.
        fixed: settings that are the same in all.
        rungs: how many lengths there are; the last is the whole run, each before a third of the next.
        engine: does the work.
    """

    folder: Path
    recipe: str
    fixed: Mapping[str, Any]
    rungs: int
    engine: Engine

    def __call__(
        self, name: str, settings: Mapping[str, Any], seeds: Iterable[int], rung: int
    ) -> list[dict[str, Any]]:
        """Return what came out of each seed at a rung, once all are run; RunFailed if one fails."""
        return self.all({name: settings}, seeds, rung)[name]

    def all(
        self, named: Mapping[str, Mapping[str, Any]], seeds: Iterable[int], rung: int
    ) -> dict[str, list[dict[str, Any]]]:
        """Return the same for several settings, all of whose runs may go on at once."""
        share = float(REDUCTION) ** (rung - self.rungs)
        places = {
            name: [self._made(name, {**self.fixed, **settings, "seed": seed}, share) for seed in seeds]
            for name, settings in named.items()
        }
        results = {run: run / "result.json" if share == 1.0 else paused_path(run, share)
                   for runs in places.values() for run in runs}  # fmt: skip
        failed = self.engine([run for run, result in results.items() if not result.exists()])
        if failed:
            raise RunFailed("; ".join(f"{run.name}: {problem}" for run, problem in failed.items()))
        return {name: [flatten(read_json(results[run])) for run in runs] for name, runs in places.items()}

    def _made(self, name: str, settings: Mapping[str, Any], share: float) -> Path:
        """Return a run's folder, made where it is missing, that is to stop after a share of the run."""
        run = self.folder / name / f"seed={settings['seed']}"
        if not (run / "config.json").exists():
            run.parent.mkdir(parents=True, exist_ok=True)
            RunFolder.create(run, {"recipe": self.recipe, "config": config_of(self.recipe, settings)})
        if share < 1.0:
            write_json(run / "pause.json", {"share": share})
        else:
            (run / "pause.json").unlink(missing_ok=True)
        return run
