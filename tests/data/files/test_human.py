"""The importer of the published human comparisons, on made-up files and on the real ones."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prefrl.data import load_human_preferences, load_human_statistics, load_preferences, save_preferences
from prefrl.data.files import human
from prefrl.envs.grids.delivery import BOARD, DeliveryDynamics
from prefrl.tabular import TabularMDP, value_iteration

STEPS = {(-1, 0): 0, (1, 0): 1, (0, -1): 2, (0, 1): 3}
GAS, GOAL, SHEEP, COIN, ROADBLOCK, BRICK = range(6)
WEIGHTS = (-1, 50, -50, 1, -1, -2)


def drive(cell: tuple[int, int], step: tuple[int, int]) -> tuple[tuple[int, int], list[int], bool]:
    """Plain twin of one step: the next cell, its six features, and whether it is terminal."""

    def gas(row: int, col: int) -> int:
        return BRICK if BOARD[row, col] >= 6 else GAS

    features = [0] * 6
    row, col = cell[0] + step[0], cell[1] + step[1]
    if not (0 <= row < 10 and 0 <= col < 10) or BOARD[row, col] % 6 == 2:
        features[gas(*cell)] = 1
        return cell, features, False
    kind = BOARD[row, col] % 6
    if kind in (1, 3):
        features[{1: GOAL, 3: SHEEP}[int(kind)]] = 1
        return (row, col), features, True
    features[gas(row, col)] = 1
    if kind in (4, 5):
        features[{4: COIN, 5: ROADBLOCK}[int(kind)]] = 1
    return (row, col), features, False


def expected(segment: Any) -> dict[str, Any]:
    """Plain twin of the replay of one segment of three steps."""
    cell, vectors = tuple(map(int, segment[0])), [tuple(map(int, v)) for v in segment[1:]]
    obs, actions, features, over = [10 * cell[0] + cell[1]], [], [], False
    for vector in vectors:
        if over or vector == (0, 0):
            break
        cell, phi, over = drive((cell[0], cell[1]), vector)
        obs.append(10 * cell[0] + cell[1])
        actions.append(STEPS[vector])
        features.append(phi)
    length = len(actions)
    short = 3 - length
    return {
        "obs": obs + obs[-1:] * short,
        "actions": actions + [0] * short,
        "features": features + [[0] * 6] * short,
        "lengths": length,
        "terminated": over,
    }


def random_segment(rng: np.random.Generator) -> list[tuple[int, int]]:
    starts = [(r, c) for r in range(10) for c in range(10) if BOARD[r, c] % 6 not in (1, 2, 3)]
    cell = starts[rng.integers(len(starts))]
    segment, over = [cell], False
    for _ in range(3):
        vector = (0, 0) if over else list(STEPS)[rng.integers(4)]
        segment.append(vector)
        if not over:
            cell, _, over = drive(cell, vector)
    return segment


def total(segment: Any) -> float:
    return float(np.sum(np.array(expected(segment)["features"]) @ WEIGHTS))


def write(folder: Path, condition: str, pairs: Any, **changes: Any) -> None:
    """Write the three files of a condition; V* columns of X are 0."""
    returns = [total(second) - total(first) for first, second in pairs]
    files = {
        "segment_pairs": np.array(pairs, dtype=np.int64),
        "X": np.stack([returns, np.zeros(len(pairs)), np.zeros(len(pairs))], 1),
        "Y": np.array([0.0, 0.5, 1.0] * len(pairs))[: len(pairs)],
        **changes,
    }
    for kind, array in files.items():
        np.save(folder / f"{condition}_{kind}.npy", array)


GOAL_FIRST = [(8, 8), (0, 1), (0, 0), (0, 0)]
SHEEP_SECOND = [(1, 1), (1, 0), (0, 1), (0, 0)]
BUMPS = [(6, 0), (0, 1), (0, -1), (-1, 0)]  # a house, the edge, brick
PLAIN = [(1, 3), (0, 1), (0, -1), (1, 0)]  # a coin, and back


def test_replay_worked_out_by_hand(tmp_path: Path) -> None:
    write(tmp_path, "Made-Up", [(GOAL_FIRST, SHEEP_SECOND), (BUMPS, PLAIN)])
    preferences = load_human_preferences(tmp_path, "Made-Up")
    first, second = preferences.first, preferences.second
    assert first.obs.tolist() == [[88, 89, 89, 89], [60, 60, 60, 50]]
    assert first.actions.tolist() == [[3, 0, 0], [3, 2, 0]]
    assert first.lengths.tolist() == [1, 3]
    assert first.terminated.tolist() == [True, False]
    assert second.obs.tolist() == [[11, 21, 22, 22], [13, 14, 13, 23]]
    assert second.actions.tolist() == [[1, 3, 0], [3, 2, 1]]
    assert second.lengths.tolist() == [2, 3]
    assert second.terminated.tolist() == [True, False]
    assert first.features is not None
    assert second.features is not None
    weights = torch.tensor(WEIGHTS, dtype=torch.float64)
    assert (first.features @ weights).tolist() == [[50, 0, 0], [-2, -2, -2]]
    assert (second.features @ weights).tolist() == [[-1, -50, 0], [0, -1, -1]]
    assert preferences.labels.tolist() == [0.0, 0.5]
    assert preferences.weights.tolist() == [1.0, 1.0]
    assert preferences.metadata == {"environment": "prefrl/Delivery-v0", "condition": "Made-Up"}
    assert load_human_statistics(tmp_path, "Made-Up").tolist() == [[-101, 0, 0], [4, 0, 0]]


def test_replay_equals_the_plain_twin(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pairs = [(random_segment(rng), random_segment(rng)) for _ in range(400)]
    write(tmp_path, "Random", pairs)
    preferences = load_human_preferences(tmp_path, "Random")
    for side, batch in enumerate((preferences.first, preferences.second)):
        assert bool(batch.terminated.any())
        assert not bool(batch.terminated.all())
        twins = [expected(pair[side]) for pair in pairs]
        for name in ("obs", "actions", "features", "lengths", "terminated"):
            assert getattr(batch, name).tolist() == [twin[name] for twin in twins], name


def test_vectors_after_the_end_do_not_count(tmp_path: Path) -> None:
    """After a terminal cell the segment stays; (0, 0) elsewhere says that a segment is shorter."""
    goes_on = [(8, 8), (0, 1), (0, 1), (-1, 0)]
    shorter = [(1, 3), (0, 1), (0, 0), (0, 0)]
    write(tmp_path, "Ends", [(goes_on, shorter)])
    preferences = load_human_preferences(tmp_path, "Ends")
    assert preferences.first.obs.tolist() == [[88, 89, 89, 89]]
    assert preferences.first.lengths.tolist() == [1]
    assert preferences.second.obs.tolist() == [[13, 14, 14, 14]]
    assert preferences.second.lengths.tolist() == [1]
    assert preferences.second.terminated.tolist() == [False]


def test_what_is_loaded_can_be_saved(tmp_path: Path) -> None:
    write(tmp_path, "Made-Up", [(GOAL_FIRST, SHEEP_SECOND), (BUMPS, PLAIN)])
    preferences = load_human_preferences(tmp_path, "Made-Up")
    save_preferences(tmp_path / "made_up.npz", preferences)
    assert load_preferences(tmp_path / "made_up.npz").first.obs.tolist() == preferences.first.obs.tolist()


def test_no_rows_and_other_lengths(tmp_path: Path) -> None:
    write(tmp_path, "None", [], segment_pairs=np.zeros((0, 2, 4, 2), int), X=np.zeros((0, 3)), Y=np.zeros(0))
    assert len(load_human_preferences(tmp_path, "None")) == 0
    assert load_human_statistics(tmp_path, "None").shape == (0, 3)
    write(
        tmp_path,
        "One",
        [],
        segment_pairs=np.array([[PLAIN[:2], PLAIN[:2]]]),
        X=np.zeros((1, 3)),
        Y=np.ones(1),
    )
    assert load_human_preferences(tmp_path, "One").first.obs.tolist() == [[13, 14]]


def test_unknown_conditions_and_missing_files(tmp_path: Path) -> None:
    for condition in ("B", "A_b"):
        write(tmp_path, condition, [(PLAIN, BUMPS)])
    for load in (load_human_preferences, load_human_statistics):
        with pytest.raises(ValueError, match=r"condition 'C' is not in .*; there are \['A_b', 'B'\]"):
            load(tmp_path, "C")
        with pytest.raises(ValueError, match=r"condition '\.\./B' is not in"):
            load(tmp_path, "../B")
        with pytest.raises(FileNotFoundError, match="there is no folder"):
            load(tmp_path / "nowhere", "B")
        with pytest.raises(NotADirectoryError, match="is a file"):
            load(tmp_path / "B_X.npy", "B")
    (tmp_path / "B_X.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"there is no file .*B_X\.npy"):
        load_human_preferences(tmp_path, "B")
    assert len(load_human_preferences(tmp_path, "B", check=False)) == 1
    (tmp_path / "B_Y.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"there is no file .*B_Y\.npy"):
        load_human_preferences(tmp_path, "B", check=False)


def test_stored_returns_are_compared(tmp_path: Path) -> None:
    wrong = np.array([[-101.0, 0, 0], [4.0, 0, 0], [5.0, 0, 0], [4.0, 0, 0]])
    write(tmp_path, "Wrong", [(GOAL_FIRST, SHEEP_SECOND)] + [(BUMPS, PLAIN)] * 3, X=wrong)
    with pytest.raises(
        ValueError, match=r"Wrong_X\.npy: row 2 says .* differ by 5\.0; .* they differ by 4\.0"
    ):
        load_human_preferences(tmp_path, "Wrong")
    assert len(load_human_preferences(tmp_path, "Wrong", check=False)) == 4
    assert load_human_statistics(tmp_path, "Wrong").tolist() == wrong.tolist()


SEGMENT_MISTAKES = [
    ([(0, 0), (0, 2), (0, 1), (0, 1)], "an action vector is neither a step to a neighbour nor"),
    ([(0, 0), (1, 1), (0, 1), (0, 1)], "an action vector is neither"),
    ([(0, 0), (0, 1), (0, 1), (0, -2)], "an action vector is neither"),
    ([(0, 0), (0, 0), (0, 0), (0, 0)], "it has no transition"),
    ([(0, 0), (0, 1), (0, 0), (0, 1)], r"it goes on after \(0, 0\)"),
    ([(10, 0), (0, 1), (0, 1), (0, 1)], "its start cell is off the 10 x 10 board"),
    ([(0, -1), (0, 1), (0, 1), (0, 1)], "its start cell is off"),
    ([(2**62, 2**62), (0, 1), (0, 1), (0, 1)], "its start cell is off"),
    ([(8, 9), (0, 0), (0, 0), (0, 0)], "it starts at the goal"),
    ([(3, 4), (0, 1), (0, 1), (0, 1)], "it starts at the goal, at a sheep or in a house"),
    ([(2, 2), (0, 1), (0, 1), (0, 1)], "it starts at the goal"),
]


@pytest.mark.parametrize(("segment", "message"), SEGMENT_MISTAKES)
def test_segments_that_cannot_be_driven(segment: Any, message: str, tmp_path: Path) -> None:
    pairs = np.array([(PLAIN, BUMPS), (PLAIN, segment)])
    write(tmp_path, "Bad", [], segment_pairs=pairs, X=np.zeros((2, 3)), Y=np.zeros(2))
    with pytest.raises(ValueError, match=rf"Bad_segment_pairs\.npy: row 1, second segment is .*: {message}"):
        load_human_preferences(tmp_path, "Bad")


FILE_MISTAKES: list[tuple[str, Callable[[Any], Any], str]] = [
    ("segment_pairs", lambda x: x.astype(float), r"float64 \[2, 2, 4, 2\]; it must be signed integers"),
    ("segment_pairs", lambda x: x.astype("u1"), "uint8 .* it must be signed integers"),
    ("segment_pairs", lambda x: x[:, 0], r"int64 \[2, 4, 2\]; it must be signed integers \[N, 2, L\+1, 2\]"),
    ("segment_pairs", lambda x: x[:, :1], r"int64 \[2, 1, 4, 2\]"),
    ("segment_pairs", lambda x: x[..., :1], r"int64 \[2, 2, 4, 1\]"),
    ("segment_pairs", lambda x: x[:, :, :1], r"int64 \[2, 2, 1, 2\]"),
    ("segment_pairs", lambda x: x.astype(object), r"its dtype is '\|O'"),
    ("X", lambda x: x[:1], r"float64 \[1, 3\]; it must be float64 \[2, 3\]"),
    ("X", lambda x: x[:, :2], r"float64 \[2, 2\]; it must be float64 \[2, 3\]"),
    ("X", lambda x: x.astype(int), r"int64 \[2, 3\]; it must be float64"),
    ("X", lambda x: x * np.nan, "row 0 holds NaN or infinity"),
    ("Y", lambda x: x[:1], r"float64 \[1\]; it must be float64 \[2\]"),
    ("Y", lambda x: x[:, None], r"float64 \[2, 1\]"),
    ("Y", lambda x: np.array(1.0), r"float64 \[\]"),
    ("Y", lambda x: np.array([0.0, np.inf]), "row 1 holds NaN or infinity"),
]


@pytest.mark.parametrize(("kind", "change", "message"), FILE_MISTAKES)
def test_files_outside_the_layout(
    kind: str, change: Callable[[Any], Any], message: str, tmp_path: Path
) -> None:
    write(tmp_path, "Bad", [(PLAIN, BUMPS), (BUMPS, PLAIN)])
    path = tmp_path / f"Bad_{kind}.npy"
    np.save(path, change(np.load(path)))
    with pytest.raises(ValueError, match=rf"Bad_{kind}\.npy.*{message}"):
        load_human_preferences(tmp_path, "Bad")


def test_damaged_files(tmp_path: Path) -> None:
    """Every byte of every header, and every length."""
    write(tmp_path, "Bad", [(PLAIN, BUMPS)])
    for kind in ("segment_pairs", "X", "Y"):
        path = tmp_path / f"Bad_{kind}.npy"
        content = path.read_bytes()
        for end in range(len(content)):
            path.write_bytes(content[:end])
            with pytest.raises(ValueError, match=rf"\A[^\n]*Bad_{kind}\.npy[^\n]*\Z"):
                load_human_preferences(tmp_path, "Bad")
        path.write_bytes(content + b"\0")
        with pytest.raises(ValueError, match=r"bytes, and \d+ are there"):
            load_human_preferences(tmp_path, "Bad")
        path.write_bytes(content)
    assert len(load_human_preferences(tmp_path, "Bad")) == 1


@pytest.mark.needs_human_data
def test_every_published_row_is_replayed_exactly(human_data: Path) -> None:
    """Replayed differences of partial return, V*(first state), V*(last state) equal the stored ones."""
    mdp = TabularMDP.stack([DeliveryDynamics().model])
    value = value_iteration(mdp, mdp.linear_rewards(mdp.weights), 1.0)[0]
    ending = "_segment_pairs.npy"
    conditions = sorted(file.name.removesuffix(ending) for file in human_data.glob(f"*{ending}"))
    assert conditions
    published = {"Privileged-Control": 1793, "Pr-Privileged": 2532, "Regret-Privileged": 2531}
    for condition in conditions:
        preferences = load_human_preferences(human_data, condition)
        stored = load_human_statistics(human_data, condition)
        assert len(preferences) == len(stored) == published.get(condition, len(stored))
        columns = []
        for side in (preferences.first, preferences.second):
            assert side.features is not None
            returns = (side.features @ mdp.weights[0]).sum(1)
            columns.append(torch.stack([returns, value[side.obs[:, 0]], value[side.last_obs]], 1))
        assert torch.allclose(columns[1] - columns[0], stored, rtol=0.0, atol=1e-9), condition
        assert set(preferences.labels.tolist()) <= {0.0, 0.5, 1.0}


def test_no_segments_of_endless_steps(tmp_path: Path) -> None:
    """No byte of the file stands behind such an axis, along which the replay walks."""
    np.save(tmp_path / "None_segment_pairs.npy", np.zeros((0, 2, human.MAX_STEPS + 1, 2), np.int64))
    np.save(tmp_path / "None_Y.npy", np.zeros(0))
    with pytest.raises(ValueError, match="holds segments of 10000 steps; they must have fewer than 10000"):
        load_human_preferences(tmp_path, "None", check=False)
