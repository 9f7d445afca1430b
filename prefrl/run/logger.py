"""Stable-Baselines3's logger over a run folder, with files that survive a kill and a resume."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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

from prefrl.data.files.atomic import atomic_path

STEP = "time/total_timesteps"
"""The column of progress.csv that says when a row was written."""


def make_logger(folder: Path, *, since: int | None, quiet: bool) -> Logger:
    """Return a logger to ``progress.csv`` and tensorboard events in ``folder``, and to stdout unless quiet.

    Args:
        folder: the run folder.
        since: the timestep that the run goes on from; what was logged later is dropped. None: a fresh run.
        quiet: write nothing to stdout.
    """
    writers: list[KVWriter] = [
        ProgressWriter(folder / "progress.csv", since),
        TensorBoardWriter(folder, None if since is None else since + 1),
    ]
    if not quiet:
        writers.append(HumanOutputFormat(_CurrentStdout()))
    return Logger(str(folder), writers)


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
        rows = (
            [] if since is None else [row for row in read_progress(path) if logged_step(path, row) <= since]
        )
        self._rewrite(rows)

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
    try:
        text = path.read_text("utf-8")
        whole = text[: text.rfind("\n") + 1]
        return list(csv.DictReader(io.StringIO(whole, newline="")))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def logged_step(path: Path, row: Mapping[str, str]) -> float:
    """Return the timestep of a row of ``progress.csv``; ValueError if it has none."""
    try:
        return float(row[STEP])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: a row has no number in the column {STEP}") from error
