"""The run folder: what was asked, with which versions and changes, what was logged, and what came out.

========================  ===================================================================
``config.json``           the recipe's name and its settings
``versions.json``         python, the libraries, the device, the commit
``git.diff``              uncommitted changes to tracked files, when prefrl runs from a git checkout
``progress.csv``          one row per logging interval
``events.out.tfevents.*`` the same for tensorboard
``checkpoint.pt``         everything needed to go on
``checkpoint.previous.pt`` the one before, for when that is damaged
``checkpoints``           the agent's state at the start and at each checkpoint, if they are kept
``labelling.json``        which study the run asks, where people are its teacher
``worker.pid``            the process at work on the run
``pause.json``            after which share of its timesteps the run stops for now, while it is tuned
``result.json``           written last: its presence says that the run is finished
========================  ===================================================================
"""

from __future__ import annotations

import json
import math
import os
import platform
import shutil
import subprocess
import warnings
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import stable_baselines3
import torch
from stable_baselines3.common.logger import Logger

import prefrl
from prefrl.data.files.atomic import atomic_path, remove_stale_temporaries
from prefrl.processes import claimed
from prefrl.reading.errors import reading
from prefrl.reading.text import read_json as read_json

from .checkpoint import load_checkpoint, save_checkpoint
from .logger import log_outcome, make_logger, print_numbers
from .settings import FORMAT, as_now, flatten, value_text

MADE = ("versions.json", "git.diff", "config.json")
"""What a new run folder holds; the last one makes it a run."""


class RunFolder:
    """One run on disk; made by :meth:`create` or :meth:`open`.

    Attributes:
        path: the folder.
        config: ``{"recipe": name, "config": settings}``.
        quiet: whether the logger leaves stdout alone.
        keeps: whether the agent's state at each checkpoint is kept.
    """

    def __init__(self, path: Path, config: Mapping[str, Any], *, quiet: bool) -> None:
        self.path = path
        self.keeps = False
        self.kept_path = path / "checkpoints"
        self.config = config
        self.quiet = quiet
        self.config_path = path / "config.json"
        self.progress_path = path / "progress.csv"
        self.checkpoint_path = path / "checkpoint.pt"
        self.previous_path = path / "checkpoint.previous.pt"
        self.result_path = path / "result.json"

    @classmethod
    def create(
        cls, path: str | os.PathLike[str], config: Mapping[str, Any], *, quiet: bool = False
    ) -> RunFolder:
        """Make a new run folder; after a kill it is there with all it needs, or not at all.

        (In an empty folder that is taken over, a kill may leave the beginnings of one.)

        Args:
            path: where; an empty folder is taken over.
            config: ``{"recipe": name, "config": settings}``, JSON values.
            quiet: whether the logger leaves stdout alone.

        Raises:
            BlockingIOError: if another process is making a run there.
            FileExistsError: if there is something at ``path`` already.
        """
        target = Path(path)
        _refuse_taken(target)
        state = git_state()
        if target.is_dir():  # it may be the working directory or a mount, which cannot be replaced
            _refuse_taken(target)
            with claimed(target):
                _refuse_taken(target)  # nobody else begins a run there from now on
                try:
                    _fill(target, config, state)
                except BaseException:
                    _unlink(target, (*MADE, "worker.pid"))
                    raise
            return cls(target, config, quiet=quiet)
        remove_stale_temporaries(target.parent, of=target.name)
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            temporary.mkdir(parents=True)
            _fill(temporary, config, state)
            try:
                temporary.replace(target)
            except OSError:  # somebody else was faster
                _refuse_taken(target)
                raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return cls(target, config, quiet=quiet)

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, quiet: bool = False) -> RunFolder:
        """Open an existing run folder.

        Raises:
            FileNotFoundError: if there is none.
            ValueError: if its ``config.json`` is damaged.
        """
        target = Path(path)
        if not target.is_dir():
            raise FileNotFoundError(f"there is no run folder {target}")
        if not (target / "config.json").is_file():
            raise FileNotFoundError(f"{target} is no run folder: it holds no config.json")
        config = read_json(target / "config.json")
        with reading(target / "config.json", "config.json"):
            if not isinstance(config.get("recipe"), str) or not isinstance(config.get("config"), dict):
                raise ValueError('it must hold {"recipe": NAME, "config": {...}}')
            settings = as_now(config["config"], config.get("format"))
        return cls(target, {"recipe": config["recipe"], "config": settings}, quiet=quiet)

    def discard_if_unused(self) -> None:
        """Delete the folder if it holds nothing but what :meth:`create` wrote, and a log without rows."""
        made = {*MADE, "worker.pid", "labelling.json"}
        if self.kept_path.exists() and not self.checkpoint_path.exists():  # the agent before the first step
            shutil.rmtree(self.kept_path)
        if not self.progress_path.exists() or not self.progress_path.stat().st_size:
            made |= {"progress.csv", *(path.name for path in self.path.glob("events.out.tfevents.*"))}
        if {path.name for path in self.path.iterdir()} <= made:
            _unlink(self.path, made)
            with suppress(OSError):  # the working directory may not be deleted everywhere
                self.path.rmdir()

    def open_logger(self, since: int | None = None, *, table_every: int = 1) -> Logger:
        """Return the run's logger; see :func:`prefrl.run.logger.make_logger`."""
        return make_logger(
            self.path, since=since, quiet=self.quiet, table_every=table_every, config=self.config
        )

    def log_outcome(self, result: Mapping[str, Any]) -> None:
        """Add settings and outcome to the tensorboard events, as a table over many runs shows them."""
        flat = {"recipe": self.config.get("recipe"), **flatten(self.config.get("config", {}))}
        settings = {
            name: value if isinstance(value, (bool, int, float, str)) else value_text(value)
            for name, value in flat.items()
        }
        log_outcome(self.path, settings, flatten(result), int(result["num_timesteps"]))

    def announce(self, path: Path, found: Mapping[str, Any]) -> None:
        """Print what a run or an evaluation found, unless quiet, and last the path of the file with it."""
        if not self.quiet:
            print_numbers(flatten(found))
        print(path)

    def save_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Write ``checkpoint.pt``; the one that was there becomes ``checkpoint.previous.pt``."""
        save_checkpoint(self.checkpoint_path, state, previous=self.previous_path)
        if self.keeps:
            self.keep(state["num_timesteps"], state["agent"])

    def keep(self, num_timesteps: int, agent: Mapping[str, Any]) -> None:
        """Keep the state of an agent as ``checkpoints/TIMESTEPS.pt``."""
        self.kept_path.mkdir(exist_ok=True)
        path = self.kept_path / f"{num_timesteps:012d}.pt"
        save_checkpoint(path, {"num_timesteps": num_timesteps, "agent": agent})

    def kept(self) -> list[RunFolder]:
        """Return this folder as it was at each checkpoint that is there, the earliest first.

        Those that are kept, the last one and the one before it; what else is in the folder is as it is now.

        Raises:
            ValueError: if one is damaged.
        """
        there = sorted(self.kept_path.glob("*.pt")) if self.kept_path.is_dir() else []
        places = [*there, *(path for path in (self.previous_path, self.checkpoint_path) if path.exists())]
        found = {int(load_checkpoint(path)["num_timesteps"]): path for path in places}
        views = []
        for _, path in sorted(found.items()):
            view = RunFolder(self.path, self.config, quiet=self.quiet)
            view.checkpoint_path = path
            view.previous_path = path.with_suffix(".none")  # a damaged one is not replaced by another
            views.append(view)
        return views

    def load_checkpoint(self) -> dict[str, Any] | None:
        """Return what the last checkpoint holds, or the one before it where that is damaged.

        None before the first.

        Raises:
            ValueError: if all that there are are damaged.
        """
        damage: ValueError | None = None
        for path in (self.checkpoint_path, self.previous_path):
            if not path.exists():
                continue
            try:
                found = load_checkpoint(path)
            except ValueError as error:
                damage = damage or error
                continue
            if path == self.previous_path:
                reason = damage or f"{self.checkpoint_path} is missing"
                warnings.warn(f"{reason}; going on from the one before it, {path.name}", stacklevel=2)
            return found
        if damage is not None:
            raise damage
        return None

    def pause(self) -> float:
        """Return the share of the run after which it stops, as ``pause.json`` says: 1 without one."""
        path = self.path / "pause.json"
        if not path.exists():
            return 1.0
        with reading(path, "pause.json"):
            share = float(read_json(path)["share"])
            if not 0.0 < share <= 1.0:
                raise ValueError(f"share is {share}; it must be above 0 and at most 1")
            return share

    def write_result(self, result: Mapping[str, Any]) -> Path:
        """Write ``result.json``, or that of a pause, and return its path.

        Raises:
            ValueError: if a number in it is not finite.
        """
        share = self.pause()
        path = self.result_path if share == 1.0 else paused_path(self.path, share)
        write_json(path, result)
        return path


def paused_path(run: Path, share: float) -> Path:
    """Return where a run keeps what had come out when it stopped after a share of its timesteps."""
    return run / f"result-{share:.4f}.json"


def _refuse_taken(target: Path) -> None:
    """Raise FileExistsError where no run can be made."""
    if target.is_dir() and any(path.name != "worker.pid" for path in target.iterdir()):
        raise FileExistsError(f"the folder {target} is not empty: choose another --out")
    if target.exists() and not target.is_dir():
        raise FileExistsError(f"{target} is a file: choose another --out")


GitState = tuple[str | None, list[str], bytes | None]


def _fill(folder: Path, config: Mapping[str, Any], state: GitState) -> None:
    """Write what a new run folder holds."""
    commit, untracked, diff = state
    write_json(folder / "versions.json", versions(commit, untracked))
    if diff is not None:
        (folder / "git.diff").write_bytes(diff)
    write_json(folder / "config.json", {**config, "format": FORMAT})


def _unlink(folder: Path, names: Iterable[str]) -> None:
    for name in names:
        (folder / name).unlink(missing_ok=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON with sorted keys, whole or not at all.

    Raises:
        ValueError: if a number is not finite; it names the key.
    """
    _check_finite(content, path.name)
    text = json.dumps(content, indent=2, sort_keys=True, allow_nan=False)
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", "utf-8")


def _check_finite(value: Any, where: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where} is {value}; only finite numbers are written")
    if isinstance(value, Mapping):
        for key, entry in value.items():
            _check_finite(entry, f"{where}: {key}")
    if isinstance(value, (list, tuple)):
        for entry in value:
            _check_finite(entry, where)


def versions(commit: str | None, untracked: list[str]) -> dict[str, Any]:
    """Return what a reader needs to repeat the run."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine(),
        "prefrl": prefrl.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "gymnasium": gymnasium.__version__,
        "stable_baselines3": stable_baselines3.__version__,
        "commit": commit,
        "untracked_files": untracked,
    }


def git_state() -> GitState:
    """Return commit, untracked files and uncommitted changes of the checkout that prefrl runs from.

    Outside of one they are None, nothing and None: also where prefrl is installed in an environment that
    lies within somebody's repository, which does not track it.
    """
    commit = _git("rev-parse", "HEAD")
    if commit is None or _git("ls-files", "--error-unmatch", "__init__.py") is None:
        return None, [], None
    untracked = _git("ls-files", "--others", "--exclude-standard", "--full-name", "-z", ":/") or b""
    names = [name.decode("utf-8", "replace") for name in untracked.split(b"\0") if name]
    return commit.decode().strip(), names, _git("diff", "--no-ext-diff", "HEAD")


def _git(*arguments: str) -> bytes | None:
    source = Path(prefrl.__file__).parent
    try:
        return subprocess.run(
            ["git", "-C", str(source), *arguments], capture_output=True, check=True, timeout=30
        ).stdout
    except (OSError, subprocess.SubprocessError):  # no git, or no checkout
        return None
