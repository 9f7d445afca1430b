"""Trials of a sweep that train side by side as the learners of one run.

Where a recipe trains many learners as one, trials that differ in their seeds, and in settings that each
learner may have for itself, need no process each. Such a stack is a run in a hidden folder of the sweep. Once
it is finished, each trial's folder is filled from it with what a run of its own leaves: agent, curves of
evaluations and result. The stack's folder is deleted then.
"""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefrl.agents.base import load
from prefrl.config import Settings, from_json, to_json
from prefrl.data.files.atomic import atomic_path
from prefrl.run.folder import RunFolder, read_json, write_json
from prefrl.run.logger import STEP, read_progress
from prefrl.run.recipes import load_recipe
from prefrl.run.recipes.stacked import StackedRecipe
from prefrl.run.settings import flatten, nest

from .trials import Trial

MEMBERS = "stack.json"
"""Names the folders of a stack's trials, learner by learner."""


@dataclass(frozen=True)
class Stack:
    """Trials that are one run."""

    trials: tuple[Trial, ...]
    """Learner by learner; two or more."""

    config: dict[str, Any]
    """The whole recipe of the run, as JSON."""

    @property
    def name(self) -> str:
        """Name of the run folder, hidden beside those of the trials."""
        names = "\n".join(trial.name for trial in self.trials)
        return f".stack-{hashlib.sha256(names.encode()).hexdigest()[:8]}"


def make_stacks(recipe: str, trials: Sequence[Trial]) -> list[Stack]:
    """Return the stacks that trials make; the trials in none of them must be runs of their own.

    Raises:
        ValueError: if the recipe cannot train several learners.
    """
    recipe_class = load_recipe(recipe)
    if issubclass(recipe_class, StackedRecipe) and recipe_class.data_by_seed:
        raise ValueError(f"recipe is {recipe!r}, whose trials each learn from data of their own seed; leave "
                         "--stack out")  # fmt: skip
    if not issubclass(recipe_class, StackedRecipe):
        raise ValueError(f"recipe is {recipe!r}, whose runs cannot be stacked; leave --stack out")
    settings: Settings = recipe_class().agent  # type: ignore[attr-defined]
    of_each = [f"agent.{name}" for name in settings.of_each]
    alike: dict[str, list[Trial]] = {}
    for trial in trials:
        flat = flatten(trial.config)
        own = {"seed", *(name for name in of_each if isinstance(flat[name], float))}
        key = {name: "own" if name in own else value for name, value in flat.items()}
        alike.setdefault(json.dumps(key), []).append(trial)
    found = [_stack(recipe_class, members, of_each) for members in alike.values() if len(members) > 1]
    return [stack for stack in found if stack is not None]


def _stack(recipe_class: type[Any], trials: Sequence[Trial], of_each: Sequence[str]) -> Stack | None:
    """Return trials that differ in what learners may have for themselves as one; None if they cannot be."""
    flat = [flatten(trial.config) for trial in trials]
    config = {**flat[0], "num_learners": len(trials), "seeds": [trial.seed for trial in trials]}
    for name in of_each:
        values = [each[name] for each in flat]
        config[name] = values if len(set(values)) > 1 else values[0]
    try:
        return Stack(tuple(trials), to_json(from_json(recipe_class, nest(config))))
    except ValueError:  # several learners do not go with some other setting
        return None


def open_stack(folder: Path, recipe: str, stack: Stack) -> Path:
    """Make the run folder of a stack in the folder of its sweep, or find it there; return it."""
    path = folder / stack.name
    if not (path / "config.json").exists():
        RunFolder.create(path, {"recipe": recipe, "config": stack.config})
    if not is_stack(path):
        write_json(path / MEMBERS, {"trials": [trial.name for trial in stack.trials]})
    return path


def is_stack(run: Path) -> bool:
    """Whether a run folder is that of a stack."""
    return (run / MEMBERS).exists()


def unpack(run: Path) -> None:
    """Fill the folders of a finished stack's trials, and delete the stack's.

    Where learners diverged, their trials get no result, and the stack stays.

    Raises:
        ValueError: if a file of the stack is damaged.
        RuntimeError: if learners diverged; names their trials.
    """
    folder = RunFolder.open(run)
    names, result = read_json(run / MEMBERS)["trials"], read_json(folder.result_path)
    rows, agents = read_progress(folder.progress_path), load(run / "agent.pt", device="cpu").alone()
    shared = {name: result[name] for name in ("num_timesteps", "seconds")}
    frozen = set(result["frozen_learners"])
    for learner, (name, agent) in enumerate(zip(names, agents, strict=True)):
        trial = RunFolder.open(run.parent / name)
        if learner in frozen or trial.result_path.exists():
            continue
        agent.save(trial.path / "agent.pt")
        _write_progress(trial.progress_path, rows, learner)
        found = {**shared, **result["learners"][learner], "learners_side_by_side": len(names)}
        trial.log_outcome(found)
        trial.write_result(found)  # last: it says that all is there
    if frozen:
        raise RuntimeError(f"diverged: {', '.join(names[learner] for learner in sorted(frozen))}")
    shutil.rmtree(run)


def _write_progress(path: Path, rows: Sequence[Mapping[str, str]], learner: int) -> None:
    """Write what a stack logged of one learner as the ``progress.csv`` of its trial."""
    suffix = f"/{learner}"
    kept = []
    for row in rows:
        own = {name.removesuffix(suffix): value for name, value in row.items() if name.endswith(suffix)}
        if any(own.values()):
            kept.append({STEP: row[STEP], **own})
    columns = dict.fromkeys(name for row in kept for name in row)
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept)
