"""Learning curves out of run folders, and the names of the groups that they make."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import shorten

import numpy as np

from prefrl.functional.statistics import FloatArray
from prefrl.reading.errors import reading
from prefrl.reading.text import read_json

from .logger import STEP as STEP, read_progress
from .settings import as_now, flatten, full_name, value_text

EPISODES, EVALUATIONS, LOSS, OBJECTIVE = (
    "rollout/ep_rew_mean", "eval/mean_reward", "train/loss", "train/objective",
)  # fmt: skip
"""The columns drawn by default; agents that solve rather than step an environment have no episodes."""

MAX_COLUMNS = 250
"""Characters of a message that name the columns there are."""

UNIMPORTANT = ("seed", "seeds", "device", "log_every", "checkpoint_every")
"""Settings that make no group: they change nothing that is learned, or are what is averaged over."""


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
    """Return the column that ``prefrl plot`` draws of these runs where none is asked for.

    One that tells learners apart, where there is one; else that which most of the runs have.
    """
    columns = [name for run in runs for row in read_progress(run / "progress.csv")[:1] for name in row]
    of_learners = {name.rpartition("/")[0] for name in columns if name.rpartition("/")[2].isdigit()}
    known = (EPISODES, EVALUATIONS, LOSS, OBJECTIVE)
    return max(known, key=lambda name: (name in of_learners, columns.count(name)))


def read_settings(run: str | os.PathLike[str]) -> dict[str, object]:
    """Return the settings of a run: its recipe's name, and its config with dotted names.

    Raises:
        ValueError: if ``config.json`` is not the one of a run.
    """
    path = Path(run, "config.json")
    content = read_json(path, "config.json")
    with reading(path, "config.json of a run"):
        return {"recipe": content["recipe"], **flatten(as_now(content["config"], content.get("format")))}


def group_labels(settings: Sequence[Mapping[str, object]], group_by: Sequence[str] = ()) -> list[str]:
    """Return the name of each run's group, made of its values of ``group_by``.

    Args:
        settings: what :func:`read_settings` says of each run.
        group_by: settings to group by; if empty, recipe and environment where they differ, and what else
            differs between the runs of a recipe, except :data:`UNIMPORTANT`.

    Raises:
        ValueError: if no run has one of ``group_by``.
    """
    known = list(dict.fromkeys(key for each in settings for key in each))
    if group_by:
        chosen = [full_name(name, known, "the runs") for name in group_by]
        return [_label(each, chosen) for each in settings]
    together = [key for key in ("recipe", "env_id") if differs(settings, key)]
    names = {}
    for recipe in dict.fromkeys(each.get("recipe") for each in settings):
        runs = [each for each in settings if each.get("recipe") == recipe]
        own = [key for key in known if key.split(".")[-1] not in UNIMPORTANT and differs(runs, key)]
        names[recipe] = list(dict.fromkeys([*together, *own]))
    return [_label(each, names[each.get("recipe")]) for each in settings]


def differs(settings: Sequence[Mapping[str, object]], key: str) -> bool:
    """Whether a setting has different values."""
    return len({str(each.get(key)) for each in settings}) > 1


def _label(settings: Mapping[str, object], names: Sequence[str]) -> str:
    leaves = [name.split(".")[-1] for name in names]
    parts = []
    for name, leaf in zip(names, leaves, strict=True):
        value = value_text(settings.get(name)) or "none"
        short = leaf if leaves.count(leaf) == 1 else name
        parts.append(value if name == "recipe" else f"{short} = {value}")
    return ", ".join(parts) or str(settings.get("recipe", ""))


class NothingLoggedError(ValueError):
    """A run has not logged what is asked for, or not yet."""


def read_curves(run: str | os.PathLike[str], x: str, y: str) -> list[tuple[FloatArray, FloatArray]]:
    """Return the curve of a run, or those of its learners where it has several that were logged.

    Raises:
        NothingLoggedError: see :func:`read_curve`.
        ValueError: likewise.
    """
    names = {name for row in read_progress(Path(run, "progress.csv"))[:1] for name in row}
    learners = sum(name.startswith(f"{y}/") and name[len(y) + 1 :].isdigit() for name in names)
    return [read_curve(run, x, f"{y}/{learner}") for learner in range(learners)] or [read_curve(run, x, y)]


def read_curve(run: str | os.PathLike[str], x: str, y: str) -> tuple[FloatArray, FloatArray]:
    """Return two columns of a run's ``progress.csv`` where both have a value, x ascending [points].

    Of rows with the same x the last one counts.

    Raises:
        NothingLoggedError: if there is no ``progress.csv``, it is empty, lacks a column or holds no value of
            it.
        ValueError: if it holds something that is no number.
    """
    path = Path(run, "progress.csv")
    rows = read_progress(path)
    if not rows:
        state = "is empty" if path.exists() else "does not exist"
        raise NothingLoggedError(f"{path} {state}: the run has logged nothing yet")
    if missing := [name for name in (x, y) if name not in rows[0]]:
        columns = shorten(", ".join(sorted(rows[0])), MAX_COLUMNS, placeholder=" ...")
        raise NothingLoggedError(f"{path} has no column {' or '.join(missing)}; it has {columns}")
    with reading(path, "progress.csv"):
        points = {float(row[x]): float(row[y]) for row in rows if row[x] and row[y]}
    if not points:
        raise NothingLoggedError(f"{path} has no value of {y} yet")
    order = sorted(points)
    return np.array(order), np.array([points[each] for each in order])
