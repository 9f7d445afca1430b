"""progress.csv, tensorboard and stdout: what is written, what a kill leaves, what a resume keeps."""

import csv
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure as MatplotlibFigure
from stable_baselines3.common.logger import Figure, FormatUnsupportedError, Logger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from prefrl.run.logger import STEP, ProgressWriter, make_logger, print_numbers, read_progress


def log(logger: Logger, step: int, **values: float) -> None:
    for name, value in values.items():
        logger.record(name, value)
    logger.record(STEP, step, exclude="tensorboard")
    logger.dump(step)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "progress.csv"


def test_a_new_key_becomes_a_column_and_no_row_is_lost(path: Path) -> None:
    logger = Logger(None, [ProgressWriter(path, None)])
    log(logger, 1, b=np.float32(0.5), a=2)
    log(logger, 2, a=3)
    log(logger, 3, c=1.25)
    assert path.read_text() == f"a,b,{STEP},c\n2,0.5,1,\n3,,2,\n,,3,1.25\n"


def test_a_row_without_the_timestep_gets_it(path: Path) -> None:
    logger = Logger(None, [ProgressWriter(path, None)])
    logger.record("x", 1)
    logger.dump(7)
    assert read_progress(path) == [{"x": "1", STEP: "7"}]


def test_excluded_keys_stay_out_and_figures_are_refused(path: Path) -> None:
    logger = Logger(None, [ProgressWriter(path, None)])
    figure = Figure(MatplotlibFigure(), close=True)
    logger.record("figure", figure, exclude="csv")
    log(logger, 1, x=1)
    assert set(read_progress(path)[0]) == {"x", STEP}
    logger.record("figure", figure)
    with pytest.raises(FormatUnsupportedError, match="csv"):
        logger.dump(2)


@pytest.mark.parametrize("text", ['a "quoted", comma', "plain"])
def test_text_survives(path: Path, text: str) -> None:
    logger = Logger(None, [ProgressWriter(path, None)])
    logger.record("note", text)
    logger.dump(1)
    with path.open(newline="") as file:
        assert next(csv.DictReader(file))["note"] == text


def test_resume_keeps_the_rows_up_to_the_checkpoint_and_their_columns(path: Path) -> None:
    logger = Logger(None, [ProgressWriter(path, None)])
    log(logger, 10, a=1)
    log(logger, 20, a=2)
    log(logger, 30, late=3)
    resumed = Logger(None, [ProgressWriter(path, since=20)])
    assert path.read_text() == f"a,{STEP}\n1,10\n2,20\n"
    log(resumed, 30, a=3)
    assert [row["a"] for row in read_progress(path)] == ["1", "2", "3"]


def test_a_fresh_run_starts_with_an_empty_file(path: Path) -> None:
    log(Logger(None, [ProgressWriter(path, None)]), 10, a=1)
    ProgressWriter(path, None)
    assert read_progress(path) == []


def test_a_row_that_a_kill_cut_short_is_dropped(path: Path) -> None:
    log(Logger(None, [ProgressWriter(path, None)]), 10, a=1)
    with path.open("a") as file:
        file.write("2,1")  # of "2,1234\n"
    assert [row[STEP] for row in read_progress(path)] == ["10"]
    log(Logger(None, [ProgressWriter(path, since=10)]), 20, a=2)
    assert path.read_text() == f"a,{STEP}\n1,10\n2,20\n"


def test_a_kill_while_a_column_is_added_loses_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = ProgressWriter(path, None)
    log(Logger(None, [writer]), 10, a=1)
    before = path.read_text()

    class Killed(BaseException):
        pass

    def kill(*_: object) -> None:
        raise Killed

    monkeypatch.setattr(csv.DictWriter, "writerows", kill)
    with pytest.raises(Killed):
        log(Logger(None, [writer]), 20, b=1)
    assert path.read_text() == before


def test_tensorboard_forgets_what_was_logged_after_the_checkpoint(tmp_path: Path) -> None:
    first = make_logger(tmp_path, since=None, quiet=True)
    for step in (10, 20, 30):
        log(first, step, value=step)
    first.close()
    # A second within the same second would sort by process id and count; make the order plain.
    (old,) = tmp_path.glob("events.*")
    old.rename(tmp_path / "events.out.tfevents.0000000001.host.1.0")
    second = make_logger(tmp_path, since=20, quiet=True)
    log(second, 30, value=-1)
    second.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("value")] == [(10, 10), (20, 20), (30, -1)]


@pytest.mark.parametrize("quiet", [True, False])
def test_quiet(quiet: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logger = make_logger(tmp_path, since=None, quiet=quiet)
    log(logger, 10, value=123)
    logger.close()
    assert ("123" in capsys.readouterr().out) is not quiet
    assert not sys.stdout.closed


def test_a_damaged_file_is_set_aside(path: Path) -> None:
    content = b"time/total_timesteps,x\n10,1\n20,\xff\n30,3\n"
    path.write_bytes(content)
    with pytest.warns(
        UserWarning, match=r"progress\.csv is damaged.*; it is set aside as progress\.damaged\.csv"
    ):
        writer = ProgressWriter(path, 30)
    writer.write({"x": 4.0}, {}, 40)
    assert [row["x"] for row in read_progress(path)] == ["4.0"]
    assert path.with_name("progress.damaged.csv").read_bytes() == content


def test_tables_are_printed_now_and_then(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logger = make_logger(tmp_path, since=None, quiet=False, table_every=100)
    for step in range(30, 301, 30):
        log(logger, step, value=step)
    logger.close()
    printed = capsys.readouterr().out
    shown = [step for step in range(30, 301, 30) if f" {step} " in printed]
    assert shown == [120, 210, 300]
    resumed = make_logger(tmp_path, since=270, quiet=False, table_every=100)
    log(resumed, 290, value=290)
    resumed.close()
    assert "290" not in capsys.readouterr().out


def test_numbers_are_printed_as_a_small_table(capsys: pytest.CaptureFixture[str]) -> None:
    found = {"a": 1234567.0, "b.c": 0.123456, "b.d": True, "e": [1.0, 2.0], "f": None, "g": "[x]"}
    print_numbers(found)
    cells = [[cell.strip() for cell in line.split("│")[1:3]] for line in capsys.readouterr().out.splitlines()]
    assert [row for row in cells if row] == [
        ["a", "1,234,567"], ["b.c", "0.1235"], ["b.d", "True"], ["f", "unknown"], ["g", "[x]"],
    ]  # fmt: skip
