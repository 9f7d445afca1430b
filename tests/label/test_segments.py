"""Segments into a store and back: nothing is lost, and padding is as it must be."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from labelling_study import make_study, segment

from prefrl.data import Segments
from prefrl.label.records import StoredSegment
from prefrl.label.segments import segments_from, stacked


def batch(seed: int, count: int, longest: int, *, tabular: bool, features: bool) -> tuple[Segments, Any]:
    rng = np.random.default_rng(seed)
    lengths = torch.from_numpy(rng.integers(1, longest + 1, count))
    lengths[int(rng.integers(count))] = longest
    shape = () if tabular else (2, 3)
    obs = torch.from_numpy(rng.integers(0, 9, (count, longest + 1, *shape)))
    actions = torch.from_numpy(rng.integers(1, 4, (count, longest)))
    extra = torch.from_numpy(rng.normal(size=(count, longest, 2)))
    for row, length in enumerate(lengths.tolist()):  # padding as it must be
        obs[row, length + 1 :] = obs[row, length]
        actions[row, length:] = 0
        extra[row, length:] = 0.0
    parts = Segments(obs if tabular else obs.float(), actions, lengths,
                     torch.from_numpy(rng.random(count) < 0.5), extra if features else None)  # fmt: skip
    return parts.validate(), rng.normal(size=(count, longest + 1, 5))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 99), count=st.integers(1, 5), longest=st.integers(1, 6), tabular=st.booleans(),
       features=st.booleans())  # fmt: skip
def test_there_and_back(seed: int, count: int, longest: int, tabular: bool, features: bool) -> None:
    given_ones, states = batch(seed, count, longest, tabular=tabular, features=features)
    stored = segments_from(given_ones, states)
    back = stacked(stored).validate()
    for name in ("obs", "actions", "lengths", "terminated", "features"):
        one, other = getattr(given_ones, name), getattr(back, name)
        assert (one is None) == (other is None)
        assert one is None or (one.dtype == other.dtype and torch.equal(one, other))
    for row, found in enumerate(stored):
        assert found.states is not None
        assert np.array_equal(found.states, states[row, : int(given_ones.lengths[row]) + 1])


def test_through_the_store(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (4, 8, 6, 3), np.uint8)
    arrays = segment(0).arrays
    one = StoredSegment({**arrays, "features": np.ones((3, 2))}, segment(0).states, frames)
    store = make_study(tmp_path / "s", 1)
    store.post([one, one], [])
    found = store.segment(one.digest)
    assert found.digest == one.digest
    assert found.frames is not None
    assert np.array_equal(found.frames, frames)
    assert {name: value.dtype for name, value in found.arrays.items()} == {
        name: value.dtype for name, value in one.arrays.items()
    }
    with pytest.raises(LookupError, match="there is no segment 'nothing'"):
        store.segment("nothing")


def test_a_digest_is_of_everything() -> None:
    one = segment(0)
    changed = [
        StoredSegment({**one.arrays, "terminated": np.array(True)}, one.states),
        StoredSegment({**one.arrays, "obs": one.arrays["obs"].astype(np.float64)}, one.states),
        StoredSegment({**one.arrays, "features": np.zeros((3, 1))}, one.states),
        StoredSegment(one.arrays, None),
        StoredSegment(one.arrays, np.asarray(one.states) + 1),
        StoredSegment(one.arrays, one.states, np.zeros((4, 2, 2, 3), np.uint8)),
    ]
    digests = [found.digest for found in (one, *changed)]
    assert len(set(digests)) == len(digests)
    assert segment(0).digest == one.digest


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"more": np.zeros(1)}, ValueError, "has the array 'more'"),
        ({"obs": np.zeros((3, 2))}, ValueError, "obs have shape"),
        ({"obs": np.full((4, 2), np.nan)}, ValueError, "obs holds NaN"),
        ({"actions": np.zeros((0, 1)), "obs": np.zeros((1, 2))}, ValueError, "at least one"),
        ({"actions": np.array(1.0)}, ValueError, "obs have shape"),
        ({"terminated": np.array(1)}, ValueError, "one bool"),
        ({"terminated": np.array([True])}, ValueError, "one bool"),
        ({"features": np.zeros(3)}, ValueError, "features have shape"),
        ({"obs": np.array([["a"] * 2] * 4)}, TypeError, "obs has dtype"),
        ({"obs": np.array([[None] * 2] * 4)}, TypeError, "obs has dtype object"),
    ],
)
def test_wrong_segments_are_refused(changed: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        StoredSegment({**segment(0).arrays, **changed})


def test_wrong_states_and_frames_are_refused() -> None:
    one = segment(0)
    for states in (np.zeros((3, 2)), np.zeros((4,)), np.zeros((4, 0))):
        with pytest.raises(ValueError, match="states"):
            StoredSegment(one.arrays, states)
    with pytest.raises(TypeError, match="states are float32"):
        StoredSegment(one.arrays, np.zeros((4, 2), np.float32))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="frames have shape"):
        StoredSegment(one.arrays, None, np.zeros((4, 2, 2, 4), np.uint8))
    parts, states = batch(0, 3, 4, tabular=False, features=False)
    with pytest.raises(ValueError, match="states have shape"):
        segments_from(parts, states[:2])
    with pytest.raises(ValueError, match="frames of 1 segments"):
        segments_from(parts, None, [np.zeros((1, 2, 2, 3), np.uint8)])
