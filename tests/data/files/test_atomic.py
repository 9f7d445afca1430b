"""Files that are either whole or absent, whatever interrupts the writing."""

import os
import signal
import subprocess
import sys
import threading

import matplotlib.pyplot as plt
import numpy as np
import pytest

from prefrl.data import atomic_path
from prefrl.data.files.atomic import remove_stale_temporaries


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", ["checkpoint", "result.json", "data.tar.gz", ".hidden"])
def test_the_file_appears_whole_and_alone(tmp_path, name):
    for text in ("first", "second"):
        with atomic_path(tmp_path / name) as temporary:
            assert temporary.parent == tmp_path, "a rename must not leave the file system"
            temporary.write_text(text)
            assert (tmp_path / name).exists() == (text == "second")
        assert (tmp_path / name).read_text() == text
        assert names(tmp_path) == [name]
    with atomic_path(str(tmp_path / name)) as temporary:
        temporary.write_text("given as a string")
    assert (tmp_path / name).read_text() == "given as a string"


def test_an_exception_leaves_the_previous_file(tmp_path):
    path = tmp_path / "result.json"

    def write_half():
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        write_half()
    assert names(tmp_path) == []
    path.write_text("whole")
    with pytest.raises(RuntimeError, match="interrupted"):
        write_half()
    assert path.read_text() == "whole"
    assert names(tmp_path) == ["result.json"]


def test_a_kill_leaves_the_previous_file(tmp_path):
    path = tmp_path / "checkpoint"
    path.write_text("whole")
    code = f"""
import time
from prefrl.data.files.atomic import atomic_path
with atomic_path({str(path)!r}) as temporary:
    file = temporary.open("w")
    file.write("half")
    file.flush()
    print("writing", flush=True)
    time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "writing\n"
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=30)
    process.stdout.close()
    assert path.read_text() == "whole"
    with atomic_path(path) as temporary:
        temporary.write_text("next")
    assert path.read_text() == "next"


def test_readers_never_see_a_part(tmp_path):
    """While another thread writes again and again, every read gives one of the whole texts."""
    path = tmp_path / "progress"
    path.write_text("0" * 100_000)

    def write():
        for number in range(1, 60):
            with atomic_path(path) as temporary:
                temporary.write_text(str(number % 10) * 100_000)

    writer, seen = threading.Thread(target=write), set()
    writer.start()
    while writer.is_alive():
        text = path.read_text()
        assert len(text) == 100_000
        assert len(set(text)) == 1
        seen.add(text[0])
    writer.join()
    assert len(seen) > 1


def test_writers_that_look_at_the_suffix(tmp_path):
    with atomic_path(tmp_path / "arrays.npz") as temporary:
        np.savez(temporary, a=np.arange(3))
    figure = plt.figure()
    with atomic_path(tmp_path / "figure.png") as temporary:
        figure.savefig(temporary)
    plt.close(figure)
    assert names(tmp_path) == ["arrays.npz", "figure.png"]
    assert np.load(tmp_path / "arrays.npz")["a"].tolist() == [0, 1, 2]
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_wrong_paths(tmp_path):
    def write(path):
        with atomic_path(path) as temporary:
            temporary.write_text("x")

    with pytest.raises(FileNotFoundError, match=r"folder .*missing does not exist"):
        write(tmp_path / "missing" / "file")
    with pytest.raises(IsADirectoryError, match="is a folder"):
        write(tmp_path)
    assert names(tmp_path) == []


def test_the_file_is_as_readable_as_any_other(tmp_path):
    (tmp_path / "usual").write_text("x")
    with atomic_path(tmp_path / "atomic") as temporary:
        temporary.write_text("x")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_stale_temporaries_are_those_of_dead_processes(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait(timeout=30)
    stale = [f".checkpoint.{process.pid}.tmp.pt", f".notes.{process.pid}.tmp"]
    kept = [f".checkpoint.{os.getpid()}.tmp.pt", ".x.tmp.pt", f"checkpoint.{process.pid}.tmp.pt", "a.pt"]
    for name in stale + kept:
        (tmp_path / name).write_text("x")
    remove_stale_temporaries(tmp_path)
    assert names(tmp_path) == sorted(kept)
