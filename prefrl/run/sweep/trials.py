"""The trials of a sweep: one run folder for each combination of settings and each seed."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefrl.config import from_json, to_json
from prefrl.reading.errors import reading
from prefrl.run.folder import RunFolder, read_json, write_json
from prefrl.run.recipes import load_recipe
from prefrl.run.settings import (
    FORMAT,
    as_now,
    flatten,
    full_name,
    nest,
    parse_setting,
    present_name,
    setting_types,
    value_text,
)

MAX_NAME = 150
"""Characters of a trial's name, so that it may be the name of a folder on any file system."""


@dataclass(frozen=True)
class Trial:
    """One run of a sweep."""

    name: str
    """Name of its run folder."""

    seed: int
    """Its seed."""

    settings: dict[str, Any]
    """The swept settings, by dotted names, as JSON values."""

    config: dict[str, Any]
    """The whole recipe, as JSON."""


def make_trials(recipe: str, seeds: Sequence[int], settings: Mapping[str, Sequence[str]]) -> list[Trial]:
    """Return the grid of settings, in the recipe's order, and seeds, which vary fastest.

    Args:
        recipe: name of the recipe.
        seeds: the seeds of each combination of settings.
        settings: the texts of the values of each setting, as on a command line.

    Raises:
        ValueError: if a name is unknown, a text is none of its setting's values, a value is given twice, or
            the recipe refuses it.
    """
    recipe_class = load_recipe(recipe)
    grid = _parsed(recipe, recipe_class, settings)
    if not seeds:
        raise ValueError("seeds is empty; a sweep needs at least one")
    trials: dict[str, Trial] = {}
    for values in itertools.product(*grid.values(), seeds):
        # Tuples and paths become what they are in a config.json.
        given = json.loads(json.dumps(dict(zip([*grid, "seed"], values, strict=True)), default=str))
        config = to_json(from_json(recipe_class, nest(given)))
        chosen = {name: flatten(config)[name] for name in grid}
        trial = Trial(trial_name({**chosen, "seed": given["seed"]}), given["seed"], chosen, config)
        if trial.name in trials:
            raise ValueError(f"the sweep has the trial {trial.name} twice; give each value and seed once")
        trials[trial.name] = trial
    return list(trials.values())


def _parsed(
    recipe: str, recipe_class: type[Any], settings: Mapping[str, Sequence[str]]
) -> dict[str, list[Any]]:
    """Return the values of each setting, by full names and in the recipe's order."""
    types = setting_types(recipe_class)
    parsed: dict[str, list[Any]] = {}
    for given, texts in settings.items():
        name = full_name(present_name(recipe_class, given), types, f"the recipe {recipe}")
        if name == "seed":
            raise ValueError("seed is no setting to sweep over; seeds has a place of its own")
        if name in parsed or not texts:
            raise ValueError(f"setting {name} {'is given twice' if name in parsed else 'has no value'}")
        parsed[name] = [parse_setting(recipe_class, name, text) for text in texts]
    return {name: parsed[name] for name in types if name in parsed}


def trial_name(settings: Mapping[str, Any]) -> str:
    """Return a name that tells settings apart and may be that of a folder: ``gamma=0.9,seed=3``."""
    leaves = [name.split(".")[-1] for name in settings]
    exact = ",".join(
        f"{leaf if leaves.count(leaf) == 1 else name}={value_text(value)}"
        for (name, value), leaf in zip(settings.items(), leaves, strict=True)
    )
    name = re.sub(r"[^\w.=,+-]+", "-", exact)
    if len(name) <= MAX_NAME:
        return name
    return f"{name[:MAX_NAME]}-{hashlib.sha256(exact.encode()).hexdigest()[:6]}"


def open_sweep(folder: Path, recipe: str, trials: Sequence[Trial]) -> None:
    """Make the folder of a sweep and the run folders in it, or go on with those that are there.

    ``sweep.json`` says what the sweep consists of; a later call may add trials and nothing else.

    Raises:
        FileExistsError: if there is something else at ``folder``.
        ValueError: if the sweep there is damaged, or has other trials.
    """
    path = folder / "sweep.json"
    trial_configs = {trial.name: trial.config for trial in trials}
    if path.exists():
        there = read_json(path)
        with reading(path, "sweep.json"):
            _refuse_other_trials(folder, there, recipe, trial_configs)
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} is no sweep and not empty: choose another --out")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, {"recipe": recipe, "trials": trial_configs, "format": FORMAT})
    for trial in trials:
        if not (folder / trial.name / "config.json").exists():
            RunFolder.create(folder / trial.name, {"recipe": recipe, "config": trial.config})


def _refuse_other_trials(
    folder: Path, there: Mapping[str, Any], recipe: str, configs: Mapping[str, Mapping[str, Any]]
) -> None:
    """Raise ValueError unless all that is there is also in ``configs``."""
    if not isinstance(there.get("trials"), dict):
        raise ValueError(f"{folder / 'sweep.json'} is damaged: it names no trials")
    if there.get("recipe") != recipe:
        raise ValueError(
            f"{folder} is a sweep of {there.get('recipe')}, not of {recipe}: choose another --out"
        )
    for name, config in there["trials"].items():
        if name not in configs:
            raise ValueError(f"the sweep in {folder} has a trial {name}, which is not in this one: "
                             "give its settings and seeds too, or another --out")  # fmt: skip
        old, new = flatten(as_now(config, there.get("format"))), flatten(configs[name])
        for key in sorted(old.keys() | new.keys()):
            if old.get(key) != new.get(key):
                raise ValueError(f"the trial {name} in {folder} was made with {key} = {old.get(key)}, "
                                 f"now it is {new.get(key)}: choose another --out")  # fmt: skip
