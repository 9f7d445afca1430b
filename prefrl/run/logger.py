"""Stable-Baselines3's logger over a run folder, with files that survive a kill and a resume."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from textwrap import indent
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from stable_baselines3.common.logger import (
    Figure,
    FormatUnsupportedError,
    HParam,
    HumanOutputFormat,
    Image,
    KVWriter,
    Logger,
    TensorBoardOutputFormat,
    Video,
    filter_excluded_keys,
)
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from prefrl.data.files.atomic import atomic_path
from prefrl.reading.errors import reading
from prefrl.reading.text import MAX_TABLE_BYTES, read_text, table_of

STEP = "time/total_timesteps"
"""The column of progress.csv that says when a row was written."""


def make_logger(
    folder: Path,
    *,
    since: int | None,
    quiet: bool,
    table_every: int = 1,
    config: Mapping[str, Any] | None = None,
) -> Logger:
    """Return a logger to ``progress.csv`` and tensorboard events in ``folder``, and to stdout unless quiet.

    Args:
        folder: the run folder.
        since: the timestep that the run goes on from; what was logged later is dropped. None: a fresh run.
        quiet: write nothing to stdout.
        table_every: timesteps between two tables on stdout, of all that are logged.
        config: settings of a fresh run, which tensorboard shows as text.
    """
    writers: list[KVWriter] = [
        ProgressWriter(folder / "progress.csv", since),
        events := TensorBoardWriter(folder, None if since is None else since + 1),
    ]
    if since is None and config is not None:
        events.writer.add_text("config", indent(json.dumps(config, indent=2), " " * 4))  # Markdown for code
    if not quiet:
        writers.append(Tables(table_every, since or 0))
    return Logger(str(folder), writers)


class Tables(HumanOutputFormat):
    """Prints tables of metrics as SB3 does, but not of every row that is logged.

    Args:
        every: timesteps between two tables.
        since: the timestep that the run goes on from.
    """

    def __init__(self, every: int, since: int) -> None:
        super().__init__(_CurrentStdout())
        self.every, self.shown = every, since

    def write(
        self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0
    ) -> None:
        """Print the first row in every ``every`` timesteps."""
        if step // self.every > self.shown // self.every:
            self.shown = step
            super().write(key_values, key_excluded, step)


def log_outcome(folder: Path, settings: Mapping[str, Any], found: Mapping[str, Any], step: int) -> None:
    """Add what came out of a run to its tensorboard events: scalars, and what the tab of settings shows.

    Args:
        folder: the run folder.
        settings: numbers, words and truth values by their names.
        found: the outcome by its names; what is no finite number is left out.
        step: the last timestep.
    """
    metrics = {
        f"result/{name}": float(value)
        for name, value in found.items()
        if isinstance(value, (bool, int, float)) and math.isfinite(value)
    }
    with SummaryWriter(log_dir=str(folder)) as writer:
        for summary in hparams(dict(settings), metrics):  # type: ignore[no-untyped-call]
            writer.file_writer.add_summary(summary)  # SummaryWriter.add_hparams would open another folder
        for name, value in metrics.items():
            writer.add_scalar(name, value, step)


def print_numbers(values: Mapping[str, Any]) -> None:
    """Print numbers and words by their names, as a small table; lists are for a file."""
    table = Table(show_header=False)
    for name, value in values.items():
        if not isinstance(value, list):
            table.add_row(escape(name), escape(short_text(value)))
    Console().print(table)


def short_text(value: Any) -> str:
    """Return a value in few characters; numbers with four digits, or all that stand before the point."""
    if value is None:
        return "unknown"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}"


class _CurrentStdout(io.StringIO):
    """Whatever ``sys.stdout`` is at the moment of writing: a progress bar puts itself there to make room."""

    def write(self, text: str) -> int:
        return sys.stdout.write(text)

    def flush(self) -> None:
        sys.stdout.flush()


class TensorBoardWriter(TensorBoardOutputFormat):
    """SB3's tensorboard writer, which on resume tells tensorboard to forget what was logged too late."""

    def __init__(self, folder: Path, purge_step: int | None) -> None:
        self.writer = SummaryWriter(log_dir=str(folder), purge_step=purge_step)
        self._is_closed = False


class ProgressWriter(KVWriter):
    """Writes ``progress.csv``; unlike SB3's writer it loses no row when killed, and goes on after a resume.

    Args:
        path: the file.
        since: keep the rows up to this timestep; None: keep none.
    """

    def __init__(self, path: Path, since: int | None) -> None:
        self.path = path
        self.columns: list[str] = []
        self._rewrite([] if since is None else self._kept(since))

    def _kept(self, since: int) -> list[dict[str, Any]]:
        """Return the rows up to a timestep; a damaged file is set aside, since a run does not need it."""
        try:
            return [row for row in read_progress(self.path) if logged_step(self.path, row) <= since]
        except ValueError as error:
            aside = self.path.with_name(f"{self.path.stem}.damaged{self.path.suffix}")
            self.path.replace(aside)
            warnings.warn(f"{error}; it is set aside as {aside.name}, and its rows are missing from "
                          f"{self.path.name}", stacklevel=4)  # fmt: skip
            return []

    def write(
        self, key_values: dict[str, Any], key_excluded: Mapping[str, tuple[str, ...]], step: int = 0
    ) -> None:
        """Append one row; a new key becomes a new column, empty in the rows before."""
        values = {STEP: step, **filter_excluded_keys(key_values, dict(key_excluded), "csv")}
        for value in values.values():
            if isinstance(value, (Video, Figure, Image, HParam)):
                raise FormatUnsupportedError(["csv"], type(value).__name__.lower())
        if not values.keys() <= set(self.columns):
            self._rewrite([*read_progress(self.path), values])
            return
        with self.path.open("a", encoding="utf-8", newline="") as file:
            csv.DictWriter(file, self.columns, lineterminator="\n").writerow(values)

    def _rewrite(self, rows: list[dict[str, Any]]) -> None:
        # Columns in order of first appearance, sorted within a row: the same after a resume as without.
        columns: dict[str, None] = {}
        for row in rows:
            columns.update(dict.fromkeys(sorted(key for key, value in row.items() if value != "")))
        self.columns = list(columns)
        with (
            atomic_path(self.path) as temporary,
            temporary.open("w", encoding="utf-8", newline="") as file,
        ):
            writer = csv.DictWriter(file, self.columns, lineterminator="\n", extrasaction="ignore")
            if rows:
                writer.writeheader()
            writer.writerows(rows)

    def close(self) -> None:
        """Nothing is held open."""


def read_progress(path: Path) -> list[dict[str, str]]:
    """Return the rows of a ``progress.csv``, without a last one that a kill cut short.

    Raises:
        ValueError: if it is no such file.
    """
    if not path.exists():
        return []
    text = read_text(path, "progress.csv", MAX_TABLE_BYTES)
    with reading(path, "progress.csv"):
        header, *rows = table_of(text[: text.rfind("\n") + 1]) or [[]]
        if any(len(row) != len(header) for row in rows):
            raise ValueError(f"{path} is damaged: a row has another number of entries than the header")
        return [dict(zip(header, row, strict=True)) for row in rows]


def logged_step(path: Path, row: Mapping[str, str]) -> float:
    """Return the timestep of a row of ``progress.csv``; ValueError if it has none."""
    try:
        return float(row[STEP])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: a row has no number in the column {STEP}") from error
