"""What the scripts that reproduce studies and measure speed share: a folder, a result, a command line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Protocol

import torch

from .folder import RunFolder
from .recipes import recipe_to_json


class Study(Protocol):
    """A frozen dataclass whose fields are flags: one experiment, from settings to ``result.json``."""

    @property
    def out(self) -> Path:
        """Run folder, new or empty."""

    def measure(self, folder: RunFolder) -> dict[str, Any]:
        """Do the work; return what goes in ``result.json``."""


def run_study(study: Study) -> Path:
    """Run a study in a new folder; write, print and return the path of its ``result.json``.

    Studies do many small operations: they run on one thread.

    Raises:
        FileExistsError: if the folder holds something already.
    """
    torch.set_num_threads(1)
    name = Path(sys.argv[0]).stem
    folder = RunFolder.create(study.out, {"recipe": name, "config": recipe_to_json(study)}, quiet=True)
    try:
        path = folder.write_result(study.measure(folder))
    except BaseException:  # also Ctrl-C: a study cannot be resumed
        folder.discard_if_unused()
        raise
    print(path)
    return path


def check_positive(study: object, *names: str) -> None:
    """Raise ValueError unless each named number is at least 1, each named tuple full of such numbers."""
    for name in names:
        value = getattr(study, name)
        numbers = value if isinstance(value, tuple) else (value,)
        if not numbers or min(numbers) < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1" if numbers else f"{name} is empty")
