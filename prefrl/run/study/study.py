"""What the scripts that reproduce studies and measure speed share: a folder, a result, a command line."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch

from prefrl.config import to_json
from prefrl.data.files.atomic import remove_stale_temporaries
from prefrl.processes import claimed
from prefrl.run.folder import RunFolder, read_json
from prefrl.run.launch import resume, train
from prefrl.run.recipes import recipe_name
from prefrl.run.settings import flatten

MAY_DIFFER = ("out", "jobs")
"""Settings that say where and how a study runs, not what it finds."""


class Study(Protocol):
    """A frozen dataclass whose fields are flags: one experiment, from settings to ``result.json``."""

    @property
    def out(self) -> Path:
        """Run folder, new or empty."""

    def measure(self, folder: RunFolder) -> dict[str, Any]:
        """Do the work; return what goes in ``result.json``."""


def run_study(study: Study, *, resumable: bool = False) -> Path:
    """Run a study in a new folder; write, print and return the path of its ``result.json``.

    Studies do many small operations: they run on one thread.

    Args:
        study: the study.
        resumable: whether its ``measure`` finds in the folder what an earlier call had finished, and does
            only the rest. The folder may then be that of a study with the same settings (but for
            :data:`MAY_DIFFER`); one that is finished is left as it is.

    Raises:
        FileExistsError: if the folder holds something else already.
        ValueError: if it holds a study with other settings.
        BlockingIOError: if another process works on it.
    """
    torch.set_num_threads(1)
    config = {"recipe": Path(sys.argv[0]).stem, "config": to_json(study)}
    begun = resumable and (study.out / "config.json").exists()
    folder = _reopen(study.out, config) if begun else RunFolder.create(study.out, config, quiet=True)
    with claimed(folder.path) if resumable else nullcontext():
        if folder.result_path.exists():
            print(f"{folder.path} is finished")
        else:
            if begun:
                remove_stale_temporaries(folder.path)
            try:
                folder.write_result(study.measure(folder))
            except BaseException:  # also Ctrl-C
                folder.discard_if_unused()
                raise
    print(folder.result_path)
    return folder.result_path


def _reopen(path: Path, config: Mapping[str, Any]) -> RunFolder:
    """Return the folder of a study that was begun; raise ValueError unless it is the same one."""
    folder = RunFolder.open(path, quiet=True)
    there, here = flatten(folder.config), flatten(config)
    for key in sorted(there.keys() | here.keys()):
        name = key.removeprefix("config.")
        if name not in MAY_DIFFER and there.get(key) != here.get(key):
            raise ValueError(f"the study in {path} was begun with {name} = {there.get(key)}, "
                             f"now it is {here.get(key)}: choose another --out")  # fmt: skip
    return folder


def finish_run(recipe: Any, path: Path) -> dict[str, Any]:
    """Return the result of a recipe that is run in a folder of its own: done, gone on with, or begun.

    Raises:
        ValueError: if the folder holds a run with other settings.
    """
    if not (path / "config.json").exists():
        train(recipe_name(recipe), recipe, path, quiet=True)
    else:
        _reopen(path, {"recipe": recipe_name(recipe), "config": to_json(recipe)})
        resume(path, quiet=True)
    result: dict[str, Any] = read_json(path / "result.json")
    return result


def check_positive(study: object, *names: str) -> None:
    """Raise ValueError unless each named number is at least 1, each named tuple full of such numbers."""
    for name in names:
        value = getattr(study, name)
        numbers = value if isinstance(value, tuple) else (value,)
        if not numbers or min(numbers) < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1" if numbers else f"{name} is empty")
