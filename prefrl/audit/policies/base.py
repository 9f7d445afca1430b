"""What audits of what was trained share: a folder, a picture, a table, a result; and how a run is opened."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple

import torch
import tyro
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from prefrl.agents.base import Agent
from prefrl.config import Settings, to_json
from prefrl.run.folder import RunFolder
from prefrl.run.launch import open_recipe
from prefrl.run.plot import save_figure

RunArgument = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
"""A run folder, as the first argument of a command."""


class Opened(NamedTuple):
    """An agent that was trained, and where."""

    agent: Agent
    """As of a checkpoint."""
    env: Any
    """A fresh scalar environment."""
    recipe: Any
    """What it was trained by."""


def open_run(folder: RunFolder) -> Opened:
    """Return the agent of a folder's checkpoint, and its environment.

    Raises:
        FileNotFoundError: if there is no checkpoint.
        ValueError: if a file is damaged, or the recipe has no single agent to look at.
    """
    recipe = open_recipe(folder)
    agent, env = recipe.evaluation(folder)
    return Opened(agent, env, recipe)


def refuse_file(source: Path) -> None:
    """Raise ValueError for a file that is no table, where a run folder or a table is asked for."""
    if source.is_file():
        raise ValueError(f"{source} is a file; give a run folder, or a table whose name ends in .csv")


@dataclass(frozen=True, kw_only=True)
class PolicyAudit(Settings, ABC):
    """An audit: settings that become flags; what it finds is printed, drawn and written."""

    kind: ClassVar[str]
    """Its name on the command line."""

    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Run folder of the audit, new or empty."""

    def run(self) -> None:
        """Look, print a table, draw ``audit.png``; the path of the result is the last line."""
        torch.set_num_threads(1)
        config = {"recipe": f"audit {self.kind}", "config": to_json(self)}
        folder = RunFolder.create(self.out, config, quiet=True)
        try:
            result = self.look()
            figure = self.draw(result)
            FigureCanvasAgg(figure)
            save_figure(figure, folder.path / "audit.png")
            folder.write_result(result)
        except BaseException:  # also Ctrl-C
            (folder.path / "audit.png").unlink(missing_ok=True)
            folder.discard_if_unused()
            raise
        for table in self.tables(result):
            Console().print(table)
        print(folder.result_path)

    @abstractmethod
    def look(self) -> dict[str, Any]:
        """Return what is found, as ``result.json`` has it."""

    @abstractmethod
    def draw(self, result: Mapping[str, Any]) -> Figure:
        """Return a picture of it."""

    @abstractmethod
    def tables(self, result: Mapping[str, Any]) -> Sequence[Table]:
        """Return it as tables."""


def facts(title: str, rows: Mapping[str, str]) -> Table:
    """Return a table of names and what is said of each."""
    table = Table(title=title, title_justify="left", show_header=False)
    for name, text in rows.items():
        table.add_row(name, text)
    return table


def figure(width: float, height: float = 3.9) -> Figure:
    """Return an empty picture of so many inches."""
    return Figure(figsize=(width, height), dpi=120, layout="constrained")
