"""Studies that go on where they were stopped."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from prefrl.processes import claimed
from prefrl.run.folder import RunFolder
from prefrl.run.study.study import run_study


@dataclass(frozen=True)
class Study:
    """Does one piece of work at a call, and fails until there are three."""

    out: Path
    size: int = 3
    jobs: int = 2

    def measure(self, folder: RunFolder) -> dict[str, Any]:
        done = len(list(folder.path.glob("part*")))
        (folder.path / f"part{done}").write_text("hours of work")
        if done + 1 < self.size:
            raise KeyboardInterrupt
        return {"parts": done + 1}


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a study that was stopped after one piece of work."""
    monkeypatch.setattr(sys, "argv", ["reproduce_something.py"])
    with pytest.raises(KeyboardInterrupt):
        run_study(Study(tmp_path / "run"), resumable=True)
    return tmp_path / "run"


def test_a_stopped_study_goes_on_and_a_finished_one_is_left_alone(
    begun: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_study(Study(begun), resumable=True)
    (begun / ".part2.999999999.tmp").write_text("half a piece")
    path = run_study(Study(begun), resumable=True)
    assert json.loads(path.read_text()) == {"parts": 3}
    assert not (begun / ".part2.999999999.tmp").exists()
    capsys.readouterr()
    assert run_study(Study(begun), resumable=True) == path
    assert capsys.readouterr().out == f"{begun} is finished\n{path}\n"
    assert len(list(begun.glob("part*"))) == 3


def test_it_may_go_on_elsewhere_and_with_other_jobs(begun: Path, tmp_path: Path) -> None:
    moved = begun.rename(tmp_path / "moved")
    with pytest.raises(KeyboardInterrupt):
        run_study(Study(moved, jobs=1), resumable=True)
    assert len(list(moved.glob("part*"))) == 2


def test_other_settings_and_other_studies_are_refused(begun: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="was begun with size = 3, now it is 2: choose another --out"):
        run_study(Study(begun, size=2), resumable=True)
    monkeypatch.setattr(sys, "argv", ["reproduce_else.py"])
    with pytest.raises(ValueError, match="begun with recipe = reproduce_something, now it is reproduce_else"):
        run_study(Study(begun), resumable=True)
    assert len(list(begun.glob("part*"))) == 1


def test_what_is_no_study_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("")
    with pytest.raises(FileExistsError, match="not empty"):
        run_study(Study(tmp_path), resumable=True)


def test_other_studies_do_not_go_on(begun: Path) -> None:
    with pytest.raises(FileExistsError, match="not empty"):
        run_study(Study(begun))


@pytest.mark.skipif(sys.platform == "win32", reason="no locks there")
def test_one_process_at_a_time(begun: Path) -> None:
    with claimed(begun), pytest.raises(BlockingIOError, match="works on"):
        run_study(Study(begun), resumable=True)
