"""Starting and resuming runs."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from prefrl.config import from_json, to_json
from prefrl.data.files.atomic import remove_stale_temporaries
from prefrl.processes import claimed
from prefrl.reading.errors import reading

from .evaluate import MAX_STEPS, evaluate
from .folder import RunFolder, read_json, write_json
from .recipes import RECIPES, load_recipe

if TYPE_CHECKING:
    from .recipes.base import Recipe


def train(
    name: str, recipe: Recipe, out: Path | None = None, *, progress_bar: bool = False, quiet: bool = False
) -> Path:
    """Run a recipe in a new run folder; print and return the path of its ``result.json``.

    Args:
        name: the recipe's name in ``prefrl.run.recipes.RECIPES``.
        recipe: the recipe.
        out: the run folder (None: ``runs/NAME-SEED-TIME``).
        progress_bar: show rate and time left on stderr.
        quiet: print no tables of metrics.

    Raises:
        FileExistsError: if ``out`` holds something already.
        KeyboardInterrupt: on Ctrl-C, after a checkpoint.
    """
    if out is None:
        out = Path("runs") / f"{name}-{recipe.seed}-{time.strftime('%Y%m%d-%H%M%S')}"
    config = {"recipe": name, "config": to_json(recipe)}
    try:
        folder = RunFolder.create(out, config, quiet=quiet)
    except FileExistsError as error:
        if not _can_be_resumed(out):
            raise
        raise FileExistsError(f"{error}, or go on with `prefrl resume {out}`") from None
    with claimed(folder.path):
        try:
            return _finish(recipe, folder, resume=False, progress_bar=progress_bar)
        except Exception:
            folder.discard_if_unused()  # settings that were refused must not block it for better ones
            raise


def _can_be_resumed(folder: Path) -> bool:
    """Whether a folder is the run of a recipe; that of a study is not."""
    try:
        return read_json(folder / "config.json").get("recipe") in RECIPES
    except (OSError, ValueError, TypeError):
        return False


def resume(run: Path, *, progress_bar: bool = False, quiet: bool = False, patience: float = 0.0) -> Path:
    """Go on with an interrupted run, from its last checkpoint; print and return the path of its result.

    A finished run is left as it is.

    Args:
        run: the run folder.
        progress_bar: show rate and time left on stderr.
        quiet: print no tables of metrics.
        patience: seconds to wait for another process that works on the run.

    Raises:
        BlockingIOError: if another process works on the run.
        FileNotFoundError: if there is no run folder ``run``.
        ValueError: if its files are damaged.
        KeyboardInterrupt: on Ctrl-C, after a checkpoint.
    """
    folder = RunFolder.open(run, quiet=quiet)
    if not folder.result_path.exists():
        with claimed(folder.path, patience):
            if not folder.result_path.exists():  # the process that was waited for may have finished the run
                remove_stale_temporaries(folder.path)
                return _finish(open_recipe(folder), folder, resume=True, progress_bar=progress_bar)
    print(f"{run} is finished")
    print(folder.result_path)
    return folder.result_path


def open_recipe(folder: RunFolder) -> Recipe:
    """Return the recipe that a run folder was made for; ValueError if its ``config.json`` is no good."""
    with reading(folder.config_path, "config.json"):
        recipe: Recipe = from_json(load_recipe(folder.config["recipe"]), folder.config["config"])
        return recipe


def _finish(recipe: Recipe, folder: RunFolder, *, resume: bool, progress_bar: bool) -> Path:
    try:
        result = recipe.run(folder, resume=resume, progress_bar=progress_bar)
    except KeyboardInterrupt:
        print(f"stopped; go on with `prefrl resume {folder.path}`", file=sys.stderr)
        raise
    if folder.pause() == 1.0:
        folder.log_outcome(result)
    path = folder.write_result(result)
    folder.announce(path, result)
    return path


def evaluate_run(run: Path, *, episodes: int = 100, seed: int = 0, max_steps: int = MAX_STEPS) -> Path:
    """Evaluate the agent of a run's checkpoint; write, print and return ``evaluation.json``.

    Raises:
        FileNotFoundError: if there is no run folder ``run``, or no checkpoint in it.
        ValueError: if its files are damaged, or ``episodes`` or ``max_steps`` is not positive.
    """
    folder = RunFolder.open(run)
    agent, env = open_recipe(folder).evaluation(folder)
    evaluation = evaluate(agent, env, episodes=episodes, seed=seed, max_steps=max_steps)
    path = folder.path / "evaluation.json"
    found = {**evaluation, "seed": seed, "num_timesteps": agent.num_timesteps}
    write_json(path, found)
    folder.announce(path, found)
    return path
