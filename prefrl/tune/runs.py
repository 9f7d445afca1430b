"""The runs of a search: a folder for each setting and seed, which stops at rungs and goes on from there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefrl.reading.errors import reading
from prefrl.run.folder import RunFolder, paused_path, read_json, write_json
from prefrl.run.settings import as_now, flatten
from prefrl.run.sweep.results import read_result

from .search import REDUCTION, RunFailed
from .space import config_of

Engine = Callable[[Sequence[Path]], dict[Path, str]]
"""Finishes run folders; returns what went wrong with those that failed."""


@dataclass
class Runs:
    """Where the settings of a search are run.

    Args:
        recipe: name of the recipe.
        fixed: settings that all runs share, by dotted names.
        rungs: how many lengths there are; the last is the whole run.
        engine: what works on the folders.
    """

    recipe: str
    fixed: Mapping[str, Any]
    rungs: int
    engine: Engine

    def results(
        self, folder: Path, settings: Mapping[str, Any], seeds: Sequence[int], rung: int
    ) -> list[dict[str, Any]]:
        """Run a setting with each seed up to a rung; return the results, with dotted keys.

        Raises:
            RunFailed: if the recipe refuses the settings together, or a run failed.
            ValueError: if a run folder there was made with other settings.
        """
        runs = self.prepared(folder, settings, seeds, rung)
        if failed := self.engine([run for run in runs if not self.result_path(run, rung).exists()]):
            run, problem = next(iter(failed.items()))
            raise RunFailed(f"{run.name}: {problem}")
        return self.read(folder, seeds, rung)

    def prepared(
        self, folder: Path, settings: Mapping[str, Any], seeds: Sequence[int], rung: int
    ) -> list[Path]:
        """Return the run folders of a setting's seeds, made where they are missing, set to stop at a rung."""
        runs = [folder / f"seed={seed}" for seed in seeds]
        for run, seed in zip(runs, seeds, strict=True):
            try:
                config = config_of(self.recipe, {**self.fixed, **settings}, seed)
            except ValueError as error:
                raise RunFailed(str(error)) from error
            if (run / "config.json").exists():
                _refuse_other(run, config)
            else:
                RunFolder.create(run, {"recipe": self.recipe, "config": config})
            if rung == self.rungs:
                (run / "pause.json").unlink(missing_ok=True)
            else:
                write_json(run / "pause.json", {"share": self._share(rung)})
        return runs

    def read(self, folder: Path, seeds: Sequence[int], rung: int) -> list[dict[str, Any]]:
        """Return what came out of each seed at a rung, with dotted keys."""
        return [read_result(self.result_path(folder / f"seed={seed}", rung)) for seed in seeds]

    def result_path(self, run: Path, rung: int) -> Path:
        """Return where a run writes what has come out at a rung."""
        return run / "result.json" if rung == self.rungs else paused_path(run, self._share(rung))

    def _share(self, rung: int) -> float:
        return float(1.0 / REDUCTION ** (self.rungs - rung))


def _refuse_other(run: Path, config: Mapping[str, Any]) -> None:
    """Raise ValueError unless a run folder was made with these settings."""
    path = run / "config.json"
    there = read_json(path)
    with reading(path, "config.json"):
        old, new = flatten(as_now(there["config"], there.get("format"))), flatten(config)
        for name in sorted(old.keys() | new.keys()):
            if old.get(name) != new.get(name):
                raise ValueError(f"{run} was made with {name} = {old.get(name)}, now it is {new.get(name)}: "
                                 "choose another --out")  # fmt: skip
