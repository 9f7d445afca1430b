"""The run folder: made whole or not at all, never overwritten, JSON that is JSON."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import prefrl
from prefrl.processes import claimed
from prefrl.run import folder as folder_module
from prefrl.run.folder import RunFolder, write_json
from prefrl.run.study.study import run_study

CONFIG = {"recipe": "q_learning", "config": {"seed": 3}}


def test_create_and_open(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "deep" / "run", CONFIG)
    assert json.loads((folder.path / "config.json").read_text()) == {**CONFIG, "format": 3}
    assert RunFolder.open(folder.path).config == CONFIG
    assert list(folder.path.parent.iterdir()) == [folder.path]  # nothing half made beside it
    versions = json.loads((folder.path / "versions.json").read_text())
    assert versions["prefrl"] == prefrl.__version__
    for name in ("python", "torch", "numpy", "gymnasium", "stable_baselines3", "device"):
        assert versions[name]


def test_an_empty_folder_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    assert RunFolder.create(tmp_path / "run", CONFIG).config_path.exists()


def test_a_run_is_never_overwritten(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "run", CONFIG)
    with pytest.raises(FileExistsError, match=r"run is not empty: choose another --out$"):
        RunFolder.create(tmp_path / "run", {"recipe": "x", "config": {}})
    assert RunFolder.open(tmp_path / "run").config == CONFIG
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError, match="is a file: choose another --out"):
        RunFolder.create(tmp_path / "file", CONFIG)


def test_a_failure_while_making_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="seed is nan"):
        RunFolder.create(tmp_path / "run", {"recipe": "x", "config": {"seed": float("nan")}})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "damaged"),
        ("[]", "must hold a JSON object"),
        ('{"recipe": 3, "config": {}}', "must hold"),
        ('{"recipe": "x"}', "must hold"),
    ],
)
def test_open_refuses_a_damaged_config(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=rf"config\.json.*{message}"):
        RunFolder.open(tmp_path)


def test_open_refuses_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no run folder"):
        RunFolder.open(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"is no run folder: it holds no config\.json"):
        RunFolder.open(tmp_path)


def git(folder: Path, *arguments: str) -> None:
    identity = {f"GIT_{who}_{what}": "x" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    command = ["git", "-C", str(folder), *arguments]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, **identity})


def test_git_diff_and_commit_in_a_checkout_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "__init__.py").write_text("")
    (source / "module.py").write_text("old = 1\n")
    monkeypatch.setattr(folder_module.prefrl, "__file__", str(source / "__init__.py"))
    outside = RunFolder.create(tmp_path / "outside", CONFIG)
    assert not (outside.path / "git.diff").exists()
    assert json.loads((outside.path / "versions.json").read_text())["commit"] is None
    git(source, "init", "-q")
    git(source, "add", ".")
    git(source, "commit", "-q", "-m", "first")
    (source / "module.py").write_text("new = 1\n")
    (source / "fresh.py").write_text("")
    inside = RunFolder.create(tmp_path / "inside", CONFIG)
    assert "+new = 1" in (inside.path / "git.diff").read_text()
    versions = json.loads((inside.path / "versions.json").read_text())
    assert len(versions["commit"]) == 40
    assert versions["untracked_files"] == ["fresh.py"]
    git(source, "rm", "-q", "--cached", "__init__.py")  # as where prefrl is installed in another's repository
    other = RunFolder.create(tmp_path / "other", CONFIG)
    assert not (other.path / "git.diff").exists()
    assert json.loads((other.path / "versions.json").read_text())["commit"] is None


def test_result_is_sorted_json_of_finite_numbers(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", CONFIG)
    path = folder.write_result({"b": 1.5, "a": {"d": None, "c": [1, 2]}})
    assert (
        path.read_text()
        == '{\n  "a": {\n    "c": [\n      1,\n      2\n    ],\n    "d": null\n  },\n  "b": 1.5\n}\n'
    )
    values: list[Any] = [float("nan"), float("inf"), [1.0, float("nan")], {"deep": -float("inf")}]
    for value in values:
        with pytest.raises(ValueError, match="only finite numbers are written"):
            write_json(path, {"key": value})
    assert json.loads(path.read_text())["b"] == 1.5


def test_unused_folders_are_discarded_and_used_ones_are_not(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", CONFIG, quiet=True)
    folder.discard_if_unused()
    assert not folder.path.exists()
    folder = RunFolder.create(tmp_path / "run", CONFIG, quiet=True)
    (folder.path / "figure.png").write_text("")
    folder.discard_if_unused()
    assert folder.config_path.exists()


def test_the_working_directory_is_a_folder_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="seed is nan"):
        RunFolder.create(".", {"recipe": "x", "config": {"seed": float("nan")}})
    assert list(tmp_path.iterdir()) == []
    RunFolder.create(".", CONFIG)
    assert RunFolder.open(tmp_path).config == CONFIG


def test_only_the_run_of_a_recipe_is_said_to_be_resumable(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "run", {"recipe": "a_study", "config": {}})
    with pytest.raises(FileExistsError, match=r"not empty: choose another --out$"):
        RunFolder.create(tmp_path / "run", CONFIG)


@dataclass(frozen=True)
class Study:
    out: Path
    works: bool
    error: type[BaseException]

    def measure(self, folder: RunFolder) -> dict[str, Any]:
        if self.works:
            (folder.path / "figure.png").write_text("hours of work")
        raise self.error("no luck")


@pytest.mark.parametrize("works", [False, True])
@pytest.mark.parametrize("error", [ValueError, ZeroDivisionError, KeyboardInterrupt])
def test_a_study_that_fails_leaves_what_it_made(
    works: bool, error: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prefrl.run.study.study.to_json", lambda study: {})
    with pytest.raises(error, match="no luck"):
        run_study(Study(tmp_path / "run", works, error))
    assert (tmp_path / "run").exists() == works
    assert (tmp_path / "run" / "figure.png").exists() == works


# Two processes, and files that are damaged ---------------------------------------------------------------


def test_the_faster_of_two_processes_has_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one asks git, another begins a run in the same empty folder."""
    other, real = {"recipe": "dqn", "config": {"seed": 2}}, folder_module.git_state

    def slow() -> Any:
        monkeypatch.setattr(folder_module, "git_state", real)
        RunFolder.create(tmp_path, other)
        return real()

    monkeypatch.setattr(folder_module, "git_state", slow)
    with pytest.raises(FileExistsError, match="is not empty"):
        RunFolder.create(tmp_path, CONFIG)
    assert RunFolder.open(tmp_path).config == other
    assert {path.name for path in tmp_path.iterdir()} >= {"config.json", "versions.json"}


def test_a_folder_in_which_somebody_begins_a_run_is_taken(tmp_path: Path) -> None:
    with claimed(tmp_path), pytest.raises(BlockingIOError, match=f"process {os.getpid()} works on"):
        RunFolder.create(tmp_path, CONFIG)
    assert not (tmp_path / "config.json").exists()


def test_a_folder_that_a_kill_left_half_made_is_removed(tmp_path: Path) -> None:
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True
    )
    stale, alive, other = (
        tmp_path / name
        for name in (f".run.{dead.stdout.strip()}.tmp", f".run.{os.getppid()}.tmp", ".run2.1.tmp")
    )
    for path in (stale, alive, other):
        path.mkdir()
        (path / "versions.json").write_text("{}")
    RunFolder.create(tmp_path / "run", CONFIG)
    assert [path.exists() for path in (stale, alive, other)] == [False, True, True]


def test_a_damaged_checkpoint_costs_one_interval(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", CONFIG)
    assert folder.load_checkpoint() is None
    for number in range(3):
        folder.save_checkpoint({"number": number})
    assert folder.load_checkpoint() == {"number": 2}
    folder.checkpoint_path.write_bytes(folder.checkpoint_path.read_bytes()[:-30])
    with pytest.warns(UserWarning, match=r"checkpoint\.pt is damaged.*going on from the one before it"):
        assert folder.load_checkpoint() == {"number": 1}
    folder.checkpoint_path.unlink()
    with pytest.warns(UserWarning, match=r"checkpoint\.pt is missing; going on from the one before it"):
        assert folder.load_checkpoint() == {"number": 1}
    for path in (folder.checkpoint_path, folder.previous_path):
        path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"checkpoint\.pt is damaged"):
        folder.load_checkpoint()


def test_a_run_that_failed_before_its_first_row_does_not_block_its_folder(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", CONFIG, quiet=True)
    folder.open_logger().close()
    folder.discard_if_unused()
    assert not folder.path.exists()
    folder = RunFolder.create(tmp_path / "run", CONFIG, quiet=True)
    logger = folder.open_logger()
    logger.record("time/total_timesteps", 3)
    logger.dump(3)
    logger.close()
    folder.discard_if_unused()
    assert folder.progress_path.exists()


def test_states_of_an_agent_are_kept(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", CONFIG)
    folder.keeps = True
    folder.keep(0, {"x": 0})
    for timesteps in (10, 20):
        folder.save_checkpoint({"num_timesteps": timesteps, "agent": {"x": timesteps}, "more": 1})
    names = [path.name for path in sorted((tmp_path / "run" / "checkpoints").iterdir())]
    assert names == ["000000000000.pt", "000000000010.pt", "000000000020.pt"]
    (tmp_path / "run" / "checkpoints" / names[1]).unlink()  # the one before the last stands beside it too
    views = RunFolder.open(tmp_path / "run").kept()
    states = [view.load_checkpoint() for view in views]
    assert [state and state["agent"]["x"] for state in states] == [0, 10, 20]
    folder.discard_if_unused()
    assert folder.checkpoint_path.exists()
    (tmp_path / "run" / "checkpoints" / names[0]).write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"000000000000\.pt"):
        folder.kept()


def test_a_run_that_only_kept_its_start_is_unused(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", CONFIG)
    folder.keep(0, {"x": 0})
    folder.discard_if_unused()
    assert not folder.path.exists()
