"""Published human comparisons: labels by the letter, clips where indices point, sets that do not fit."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from archives import unpack

from prefrl.cli import main
from prefrl.data import load_human_archive, load_preferences
from prefrl.data.files import human_archives
from prefrl.data.files.human_archives import read_clip_labels

h5py = pytest.importorskip("h5py")

HERE = "PREFRL_HUMAN_ARCHIVES"
TASK = "domain_adroit_env_pen-human-v1_num_4_len_5_0a1b"

Archive = Callable[..., Path]
PT = {
    "label_human": [0, 1, -1, 1],
    "indices_num4": [0, 3, 9, 10, 5, 6],
    "indices_2_num4": [4, 18, 1, 2, 7, 8],
}
UNI = {f"human_label_{TASK}.pkl": [0, 1, -1, 1], f"indices_1_{TASK}.pkl": [0, 3, 9, 10],
       f"indices_2_{TASK}.pkl": [4, 18, 1, 2]}  # fmt: skip


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    """Writes a folder of pickles: lists as they are, indices as arrays."""

    def write(files: dict[str, Any], name: str = "pen-human-v1", protocol: int = 4) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "LICENSE").write_text("MIT")
        for file, value in files.items():
            if file.startswith("indices") and isinstance(value, list):
                value = np.array(value, np.int32)
            content = value if isinstance(value, bytes) else pickle.dumps(value, protocol)
            (folder / file).write_bytes(content)
        return folder

    return write


def write_rows(path: Path, episodes: int, steps: int, width: int = 3) -> Path:
    """Episodes that time out after so many steps; observations say which episode and step they are of."""
    count = episodes * steps
    episode, step = np.divmod(np.arange(count), steps)
    rng = np.random.default_rng(0)
    timeouts = step == steps - 1
    with h5py.File(path, "w") as file:
        file["observations"] = np.stack([episode, step, *rng.normal(size=(width - 2, count))], 1)
        file["actions"] = rng.uniform(-1.0, 1.0, (count, 1))
        file["rewards"] = np.zeros(count)
        file["terminals"] = np.zeros(count, bool)
        file["timeouts"] = timeouts
    return path


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Three episodes of 11 rows, of which 10 are kept."""
    return write_rows(tmp_path / "pen.hdf5", 3, 11)


# Labels and indices ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_labels_say_whether_the_second_is_preferred_and_surplus_indices_are_left(
    archive: Archive, protocol: int
) -> None:
    said = read_clip_labels(archive(PT, protocol=protocol))
    assert said.labels.tolist() == [0.0, 1.0, 0.5, 1.0]
    assert said.first.tolist() == [0, 3, 9, 10]
    assert said.second.tolist() == [4, 18, 1, 2]
    assert (said.length, said.surplus, len(said)) == (100, 2, 4)


def test_the_length_is_in_the_name_or_given(archive: Archive) -> None:
    renamed = {f"{name}_q50" if "indices" in name else name: value for name, value in PT.items()}
    assert read_clip_labels(archive(renamed, "named")).length == 50
    assert read_clip_labels(archive(UNI, "crowd")).length == 5
    plain = archive(PT, "plain")
    assert read_clip_labels(plain, length=7).length == 7
    with pytest.raises(ValueError, match=r"length is 7; the names in .* say 50"):
        read_clip_labels(plain.parent / "named", length=7)
    with pytest.raises(ValueError, match="length is 0; it must be at least 1"):
        read_clip_labels(plain, length=0)


def changed(files: dict[str, Any], **changes: Any) -> dict[str, Any]:
    kept = {**files, **{name.replace("__", "."): value for name, value in changes.items()}}
    return {name: value for name, value in kept.items() if value is not None}


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        (changed(PT, label_human=[0, 1, 2]), "label 2 is 2; it must be 0"),
        (changed(PT, label_human=[0, 1, True]), "it holds list"),
        (changed(PT, label_human=[0, 1, 0.5]), "it holds list"),
        (changed(PT, label_human=np.zeros(4)), r"it holds float64 \[4\]"),
        (changed(PT, label_human=np.zeros((4, 2), int)), r"it holds int64 \[4, 2\]"),
        (changed(PT, label_human=np.full(4, 2**64 - 1, np.uint64)), "18446744073709551615"),
        (changed(PT, label_human=[]), "has 0 labels"),
        (changed(PT, label_human=[0] * 7), "has 7 labels, 6 first and 6 second indices"),
        (changed(PT, indices_num4=[1, 2, 3, 4]), "4 labels, 4 first and 6 second"),
        (changed(PT, label_human=b"cos\nsystem\n(Vfalse\ntR."), "it calls for 'os.system'"),
        (changed(PT, indices_num4=None), "it must hold one file of labels"),
        (changed(PT, indices_num8=[1] * 6), "it must hold one file of labels"),
        (changed(PT, indices_num4=None, indices_num8=[1] * 6), "of different sets"),
        (changed(PT, indices_num4=None, indices_num4_q50=[1] * 6), "of different sets"),
        (changed(UNI, **{f"indices_1_{TASK}__pkl": None, "indices_1_x_len_5_y__pkl": [1]}), "different sets"),
        ({"labels.csv": b""}, "holds neither label_human nor human_label_<TASK>.pkl"),
    ],
)  # fmt: skip
def test_other_folders_are_refused(archive: Archive, files: dict[str, Any], problem: str) -> None:
    folder = archive(files)
    with pytest.raises(ValueError, match=problem) as caught:
        read_clip_labels(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_folder(tmp_path: Path, rows: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        read_clip_labels(tmp_path / "none")
    with pytest.raises(NotADirectoryError, match="is a file"):
        read_clip_labels(rows)


# Clips ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("files", [PT, UNI], ids=["list", "crowd"])
def test_clips_are_those_that_were_shown(archive: Archive, rows: Path, files: dict[str, Any]) -> None:
    preferences = load_human_archive(
        archive(changed(files, **{name.replace(".", "__"): WITHIN[name.split("_")[0], "_2_" in name]
                                  for name in files if "indices" in name})),
        rows, length=None if files is UNI else 5,
    )  # fmt: skip
    assert preferences.labels.tolist() == [0.0, 1.0, 0.5, 1.0]
    assert preferences.weights.tolist() == [1.0] * 4
    assert preferences.annotator_names == ("unknown",)
    # row 10 of those that are kept is the first of the second episode
    assert preferences.first.obs[:, 0, :2].tolist() == [[0, 0], [0, 3], [1, 5], [1, 0]]
    assert preferences.second.obs[:, 0, :2].tolist() == [[0, 4], [2, 4], [0, 1], [0, 2]]
    assert preferences.first.obs[2, :, 1].tolist() == [
        5,
        6,
        7,
        8,
        9,
        10,
    ]  # the row that timed out comes after
    assert preferences.first.lengths.tolist() == [5] * 4
    assert preferences.metadata == {
        "labels": "pen-human-v1", "transitions": "pen.hdf5", "clip_length": 5, "ties": 1,
        "surplus_indices": 0, "left_out": 0,
    }  # fmt: skip


WITHIN = {("indices", False): [0, 3, 15, 10], ("indices", True): [4, 24, 1, 2]}


def test_clips_outside_the_data_are_refused(archive: Archive, rows: Path) -> None:
    folder = archive(changed(PT, indices_num4=[0, 3, 15, 26, 1], indices_2_num4=[4, 24, -1, 2, 1]))
    match = (r"2 of 8 clips \(the first is the second one of comparison 2, rows -1 to 3 of the 30 that are "
             r"kept\) lie outside the data; these labels belong to another data set")  # fmt: skip
    with pytest.raises(ValueError, match=match):
        load_human_archive(folder, rows, length=5)


def test_clips_that_cross_an_episode_are_refused_by_number_and_place(archive: Archive, rows: Path) -> None:
    folder = archive(changed(PT, indices_num4=[0, 3, 6, 17], indices_2_num4=[4, 16, 1, 2]))
    match = (r"3 of 8 clips \(the first is the second one of comparison 1, rows 16 to 20 of the 30 that are "
             r"kept\) cross the end of an episode; these labels belong to another data set")  # fmt: skip
    for crossing in ("refuse", "leave_out"):  # of so many, none is left out
        with pytest.raises(ValueError, match=match):
            load_human_archive(folder, rows, length=5, crossing=crossing)


def test_few_that_cross_may_be_left_out(archive: Archive, rows: Path) -> None:
    first, second = [0] * 200, [10] * 200
    first[150] = 8
    labels = [1] * 200
    labels[150] = 0
    files = {"label_human": labels, "indices_num200": first, "indices_2_num200": second}
    folder = archive(files)
    with pytest.raises(ValueError, match=r"1 of 400 clips .*crossing='leave_out' leaves"):
        load_human_archive(folder, rows, length=5)
    preferences = load_human_archive(folder, rows, length=5, crossing="leave_out")
    assert preferences.metadata["left_out"] == 1
    assert preferences.labels.tolist() == [1.0] * 199
    with pytest.raises(ValueError, match="crossing is 'drop'"):
        load_human_archive(folder, rows, length=5, crossing="drop")


def test_a_wrong_base_is_found_out(archive: Archive, tmp_path: Path) -> None:
    """Clips drawn within episodes of 10 kept rows do not lie within episodes of 11."""
    starts = [10 * episode + step for episode in range(40) for step in (0, 3, 5)]
    files = {"label_human": [0] * 120, "indices_num120": starts, "indices_2_num120": starts[::-1]}
    folder = archive(files)
    load_human_archive(folder, write_rows(tmp_path / "right.hdf5", 40, 11), length=5)
    wrong = write_rows(tmp_path / "wrong.hdf5", 40, 12)
    with pytest.raises(ValueError, match="cross the end of an episode; these labels belong to another"):
        load_human_archive(folder, wrong, length=5)


def test_sets_that_are_nearly_all_ties_are_warned_of(archive: Archive, rows: Path) -> None:
    def files(ties: int) -> dict[str, Any]:
        return {"label_human": [-1] * ties + [1] * (20 - ties), "indices_num20": [0] * 20,
                "indices_2_num20": [10] * 20}  # fmt: skip

    with pytest.warns(UserWarning, match="18 of 20 labels in .* are ties"):
        load_human_archive(archive(files(18), "ties"), rows, length=5)
    load_human_archive(archive(files(17), "fewer"), rows, length=5)  # a warning would be an error


def test_clips_that_fill_the_memory_are_refused(
    archive: Archive, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(human_archives, "MAX_EXPANDED_BYTES", 700)
    folder = archive(changed(PT, indices_num4=[0, 3, 15, 10], indices_2_num4=[4, 24, 1, 2]))
    with pytest.raises(ValueError, match="4 pairs of clips of 5 steps take more than 700 bytes"):
        load_human_archive(folder, rows, length=5)


# The command ----------------------------------------------------------------------------------------------


def test_the_command_writes_a_file_that_trains_and_is_audited(
    archive: Archive, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(1)
    starts = 20 * rng.integers(0, 8, (2, 60)) + rng.integers(0, 16, (2, 60))
    labels = rng.integers(-1, 2, 60).tolist()
    folder = archive({"label_human": labels, "indices_num60": starts[0], "indices_2_num60": starts[1]})
    data, out = write_rows(tmp_path / "data.hdf5", 8, 21), tmp_path / "prefs.npz"
    assert main(["convert", str(folder), "--d4rl", str(data), "--out", str(out), "--length", "5"]) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] == str(out)
    assert str(labels.count(0)) in printed
    preferences = load_preferences(out)
    assert len(preferences) == 60
    assert int((preferences.labels == 0.0).sum()) == labels.count(0)
    train = ["train", "preference_optimization", "--env-id", "prefrl/Pendulum-v0", "--preferences", str(out)]
    quick = ["--cloning-steps", "2", "--total-timesteps", "3", "--eval-episodes", "1", "--device", "cpu",
             "--quiet", "--out", str(tmp_path / "run")]  # fmt: skip
    assert main([*train, *quick]) == 0
    audit = ["--folds", "2", "--draws", "199", "--out", str(tmp_path / "audit")]
    assert main(["audit", "preferences", str(out), *audit]) == 0


def test_the_command_refuses_in_one_line(
    archive: Archive, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = archive(PT)
    for out, problem in (("prefs.csv", "its name must end in .npz"), ("no/prefs.npz", "there is no folder"),
                         ("prefs.npz", "lie outside the data")):  # fmt: skip
        assert main(["convert", str(folder), "--d4rl", str(rows), "--out", str(tmp_path / out)]) == 2
        assert problem in capsys.readouterr().err
        assert not (tmp_path / out).exists()


# The published archives -----------------------------------------------------------------------------------


@pytest.mark.skipif(HERE not in os.environ, reason=f"{HERE} does not name a folder")
@pytest.mark.parametrize(
    ("name", "counts"),
    [("preference_transformer", (38, 27, 35)), ("uni_rlhf", (854, 829, 317))],
)
def test_published_clips_of_pen_lie_within_its_25_episodes(
    name: str, counts: tuple[int, ...], tmp_path: Path
) -> None:
    unpack(Path(os.environ[HERE]) / f"{name}_pen-human-v1.tar", tmp_path)
    folder = tmp_path / f"{name}_pen-human-v1"
    preferences = load_human_archive(folder, write_rows(tmp_path / "pen.hdf5", 25, 200))
    labels = preferences.labels
    assert tuple(int((labels == value).sum()) for value in (0.0, 1.0, 0.5)) == counts
    for segments in (preferences.first, preferences.second):
        episode, step = segments.obs[..., 0], segments.obs[..., 1]
        assert bool((episode == episode[:, :1]).all())
        assert bool((step.diff(dim=1) == 1.0).all())
    with pytest.raises(ValueError, match="belong to another data set"):
        load_human_archive(folder, write_rows(tmp_path / "pen.hdf5", 25, 201))
