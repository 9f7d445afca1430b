"""Checkpoints: what may be in them, that they come back, that damage is noticed and the last one survives."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prefrl.run.checkpoint import global_rng_state, load_checkpoint, save_checkpoint, set_global_rng_state

STATE: dict[str, Any] = {
    "weights": torch.arange(2000.0),
    "array": np.arange(3, dtype=np.int32),
    "numbers": [1, 2.5, True, None, np.float64(0.5)],
    "generator": np.random.default_rng(0).bit_generator.state,
    "nested": {"name": "text", "empty": {}},
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "checkpoint.pt", STATE)
    return tmp_path / "checkpoint.pt"


def test_round_trip(path: Path) -> None:
    loaded = load_checkpoint(path)
    assert torch.equal(loaded["weights"], STATE["weights"])
    assert loaded["array"].dtype == torch.int32
    assert loaded["array"].tolist() == [0, 1, 2]
    assert loaded["numbers"] == [1, 2.5, True, None, 0.5]
    assert loaded["nested"] == STATE["nested"]
    generator = np.random.default_rng(99)
    generator.bit_generator.state = loaded["generator"]  # 128-bit integers
    assert generator.random() == np.random.default_rng(0).random()


def test_a_view_is_saved_without_the_rest_of_its_storage(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "view.pt", {"view": torch.zeros(1_000_000)[:3]})
    assert (tmp_path / "view.pt").stat().st_size < 5_000


def test_objects_are_refused_by_name_and_the_old_checkpoint_stays(path: Path) -> None:
    with pytest.raises(TypeError, match=r"content\['state'\]\['a'\]\[1\] is a Random"):
        save_checkpoint(path, {"a": [1, random.Random()]})
    assert set(load_checkpoint(path)) == set(STATE)
    assert list(path.parent.iterdir()) == [path]


def test_every_kind_of_damage_is_one_clear_error(path: Path) -> None:
    content, rng = path.read_bytes(), random.Random(0)
    for _ in range(60):
        damaged = bytearray(content)
        if rng.random() < 0.3:
            damaged = damaged[: rng.randrange(len(content))]
        else:
            start = content.index(STATE["weights"].numpy().tobytes())
            position = start + rng.randrange(8000)  # in the weights themselves: it still unpickles
            damaged[position] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"checkpoint\.pt is damaged or no checkpoint of prefrl"):
            load_checkpoint(path)


def test_other_files_are_refused(path: Path, tmp_path: Path) -> None:
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match="is no checkpoint"):
        load_checkpoint(path)
    torch.save({"format": 99, "state": {}}, path)
    with pytest.raises(ValueError, match="has format 99; this version reads 1"):
        load_checkpoint(path)
    torch.save({"format": 1, "state": {"object": Path("x")}}, path)  # would have to be unpickled
    with pytest.raises(ValueError, match="is damaged or no checkpoint"):
        load_checkpoint(path)
    with pytest.raises(FileNotFoundError, match="there is no checkpoint"):
        load_checkpoint(tmp_path / "none.pt")


def test_global_generator(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    save_checkpoint(tmp_path / "rng.pt", {"rng": global_rng_state()})
    drawn = torch.rand(3)
    set_global_rng_state(load_checkpoint(tmp_path / "rng.pt")["rng"])
    assert torch.equal(torch.rand(3), drawn)
    torch.set_rng_state(before)
