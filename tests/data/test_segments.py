"""Segments and preferences: shapes, padding, slicing, and what is refused."""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from prefrl.data import Preferences, Segments, concatenate_preferences, concatenate_segments

STEPS = st.integers(1, 4)


def three_segments() -> Segments:
    """0 -> 1 -> 2; 5 -> 6 (terminal), padded; 7 -> 8, padded."""
    return Segments(
        obs=torch.tensor([[0, 1, 2], [5, 6, 6], [7, 8, 8]]),
        actions=torch.tensor([[3, 1], [2, 0], [1, 0]]),
        lengths=torch.tensor([2, 1, 1]),
        terminated=torch.tensor([False, True, False]),
        features=torch.tensor([[[1.0], [2.0]], [[4.0], [0.0]], [[8.0], [0.0]]], dtype=torch.float64),
    )


def three_preferences() -> Preferences:
    labels = torch.tensor([1.0, 0.5, -0.25], dtype=torch.float64)
    return Preferences(
        three_segments(),
        three_segments()[torch.tensor([2, 0, 1])],
        labels,
        torch.tensor([1.0, 0.0, 2.5], dtype=torch.float64),
        torch.tensor([0, 1, 1]),
        ("ann", "bob"),
        {"seed": 3},
    )


def assert_same_segments(one: Segments, other: Segments) -> None:
    for f in fields(Segments):
        a, b = getattr(one, f.name), getattr(other, f.name)
        assert (a is None) == (b is None)
        if a is not None:
            assert a.dtype == b.dtype
            assert torch.equal(a, b), f.name


@st.composite
def segments(draw: st.DrawFn, count: int | None = None, with_features: bool | None = None) -> Segments:
    """Canonically padded segments of vectors, made row by row."""
    n = draw(st.integers(0, 4)) if count is None else count
    longest = draw(STEPS)
    lengths = draw(st.lists(st.integers(1, longest), min_size=n, max_size=n))
    obs = torch.zeros(n, longest + 1, 2)
    actions = torch.zeros(n, longest, dtype=torch.int64)
    features = torch.zeros(n, longest, 3, dtype=torch.float64)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    for i, steps in enumerate(lengths):
        obs[i, : steps + 1] = torch.randn(steps + 1, 2, generator=generator)
        obs[i, steps + 1 :] = obs[i, steps]
        actions[i, :steps] = torch.randint(1, 5, (steps,), generator=generator)
        features[i, :steps] = torch.randn(steps, 3, generator=generator, dtype=torch.float64)
    terminated = torch.tensor(draw(st.lists(st.booleans(), min_size=n, max_size=n)), dtype=torch.bool)
    carry = draw(st.booleans()) if with_features is None else with_features
    return Segments(
        obs, actions, torch.tensor(lengths, dtype=torch.int64), terminated, features if carry else None
    )


def test_what_a_batch_says_of_itself() -> None:
    batch = three_segments().validate()
    assert len(batch) == 3
    assert batch.max_length == 2
    assert batch.mask.tolist() == [[True, True], [True, False], [True, False]]
    assert batch.last_obs.tolist() == [2, 6, 8]


def test_padded_repeats_the_last_observation() -> None:
    longer = three_segments().padded(4).validate()
    assert longer.obs.tolist() == [[0, 1, 2, 2, 2], [5, 6, 6, 6, 6], [7, 8, 8, 8, 8]]
    assert longer.actions.tolist() == [[3, 1, 0, 0], [2, 0, 0, 0], [1, 0, 0, 0]]
    assert longer.lengths.tolist() == [2, 1, 1]
    assert longer.features is not None
    assert longer.features[:, :, 0].tolist() == [[1, 2, 0, 0], [4, 0, 0, 0], [8, 0, 0, 0]]
    assert three_segments().padded(2).obs.shape == (3, 3)
    with pytest.raises(ValueError, match="max_length is 1; the segments already have 2"):
        three_segments().padded(1)


def test_absorbing_transitions_continue_terminated_segments_only() -> None:
    absorbed = three_segments().with_absorbing().validate()
    assert absorbed.lengths.tolist() == [2, 2, 1]
    assert absorbed.mask.tolist() == [[True, True], [True, True], [True, False]]
    assert absorbed.obs.tolist() == three_segments().obs.tolist()


def test_index_by_slice_mask_and_order() -> None:
    batch = three_segments()
    assert batch[1:].obs.tolist() == [[5, 6, 6], [7, 8, 8]]
    assert batch[batch.terminated].actions.tolist() == [[2, 0]]
    assert batch[torch.tensor([2, 0])].lengths.tolist() == [1, 2]
    assert len(batch[:0]) == 0
    assert replace(batch, features=None)[1:].features is None
    pairs = three_preferences()[torch.tensor([2, 0])]
    assert pairs.first.last_obs.tolist() == [8, 2]
    assert pairs.second.last_obs.tolist() == [6, 8]
    assert pairs.labels.tolist() == [-0.25, 1.0]
    assert pairs.weights.tolist() == [2.5, 1.0]
    assert pairs.annotators.tolist() == [1, 0]
    assert pairs.annotator_names == ("ann", "bob")
    with pytest.raises(ValueError, match="do not fit together"):
        batch[0]  # type: ignore[index]


def test_to_moves_everything() -> None:
    pairs = three_preferences().to("meta")
    for side in (pairs.first, pairs.second):
        assert all(getattr(side, f.name).is_meta for f in fields(Segments))
    assert all(value.is_meta for value in (pairs.labels, pairs.weights, pairs.annotators))


def test_swapped_exchanges_segments_and_turns_labels() -> None:
    pairs = three_preferences()
    turned = pairs.swapped().validate()
    assert_same_segments(turned.first, pairs.second)
    assert_same_segments(turned.second, pairs.first)
    assert turned.labels.tolist() == [0.0, 0.5, 1.25]  # outside [0, 1] it is turned all the same
    assert turned.swapped().labels.tolist() == pairs.labels.tolist()


def test_offsets_go_wherever_the_labels_go() -> None:
    pairs = three_preferences()
    assert pairs.offsets is None
    assert pairs.margins.tolist() == [0.0, 0.0, 0.0]
    assert pairs[1:].offsets is None
    assert pairs.swapped().offsets is None
    marked = replace(pairs, offsets=torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)).validate()
    assert marked.margins.tolist() == [0.5, -1.0, 2.0]
    assert marked[torch.tensor([2, 0])].margins.tolist() == [2.0, 0.5]
    assert marked.swapped().margins.tolist() == [-0.5, 1.0, -2.0]
    assert marked.with_absorbing().margins.tolist() == [0.5, -1.0, 2.0]
    moved = marked.to("meta").offsets
    assert moved is not None
    assert moved.is_meta
    assert concatenate_preferences([marked, pairs]).margins.tolist() == [0.5, -1.0, 2.0, 0.0, 0.0, 0.0]
    assert concatenate_preferences([pairs, marked]).margins.tolist() == [0.0, 0.0, 0.0, 0.5, -1.0, 2.0]
    assert concatenate_preferences([pairs, pairs]).offsets is None


def test_from_labels_fills_in_the_rest() -> None:
    side = three_segments()
    pairs = Preferences.from_labels(side, side, torch.tensor([1, 0, 1]), {"seed": 1}).validate()
    assert pairs.labels.dtype == torch.float64
    assert pairs.weights.tolist() == [1.0, 1.0, 1.0]
    assert pairs.annotators.tolist() == [0, 0, 0]
    assert pairs.annotator_names == ("unknown",)
    assert pairs.metadata == {"seed": 1}


def test_comparing_batches_is_comparing_objects() -> None:
    batch = three_segments()
    assert batch == batch
    assert batch != three_segments()


@given(parts=st.booleans().flatmap(lambda f: st.lists(segments(with_features=f), min_size=1, max_size=4)))
def test_concatenation_keeps_every_row(parts: list[Segments]) -> None:
    whole = concatenate_segments(parts).validate()
    assert whole.max_length == max(part.max_length for part in parts)
    place = 0
    for part in parts:
        assert_same_segments(whole[place : place + len(part)], part.padded(whole.max_length))
        place += len(part)
    assert place == len(whole)


@given(batch=segments(), extra=st.integers(0, 3))
def test_padding_changes_nothing_that_counts(batch: Segments, extra: int) -> None:
    longer = batch.padded(batch.max_length + extra).validate()
    assert torch.equal(longer.last_obs, batch.last_obs)
    assert torch.equal(longer.mask.sum(1), batch.lengths)
    assert torch.equal(longer.obs[longer.mask.nonzero(as_tuple=True)],
                       batch.obs[batch.mask.nonzero(as_tuple=True)])  # fmt: skip
    assert torch.equal(longer.with_absorbing().obs, longer.obs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": None}, "only some of the segments to concatenate carry features"),
        ({"obs": torch.zeros(3, 3)}, r"obs of the segments .* torch.int64 \[\] .* torch.float32 \[\]"),
        ({"actions": torch.zeros(3, 2, 2, dtype=torch.int64)}, r"actions of the segments .* \[2\]"),
    ],
)
def test_parts_of_different_kinds_are_not_concatenated(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        concatenate_segments([three_segments(), replace(three_segments(), **change)])
    with pytest.raises(ValueError, match="at least one batch"):
        concatenate_segments([])


NAN = float("nan")

SEGMENT_MISTAKES: list[tuple[str, Callable[[Tensor], Any], str]] = [
    ("obs", lambda x: x.tolist(), "obs is a list; it must be a torch.Tensor"),
    ("actions", lambda x: x.numpy(), "actions is a ndarray"),
    ("lengths", lambda x: None, "lengths is a NoneType"),
    ("features", lambda x: x.tolist(), "features is a list"),
    ("obs", lambda x: x[:, :-1], r"obs have shape \(3, 2\), not \[3, 3, ...\]"),
    ("obs", lambda x: x[:-1], r"obs have shape \(2, 3\)"),
    ("obs", lambda x: x[0], r"obs have shape \(3,\)"),
    ("actions", lambda x: x[0], r"actions have shape \(2,\), not \[N, L, ...\]"),
    ("actions", lambda x: x[:, :1], r"obs have shape \(3, 3\), not \[3, 2, ...\]"),
    ("lengths", lambda x: x[:2], r"lengths have shape \(2,\), not \[3\]"),
    ("lengths", lambda x: x[:, None], r"lengths have shape \(3, 1\)"),
    ("terminated", lambda x: x[0], r"terminated have shape \(\), not \[3\]"),
    ("features", lambda x: x[..., 0], r"features have shape \(3, 2\), not \[3, 2, F\]"),
    ("features", lambda x: x[:, :1], r"features have shape \(3, 1, 1\)"),
    ("lengths", lambda x: x.float(), "lengths have dtype torch.float32; it must be torch.int64"),
    ("lengths", lambda x: x.int(), "lengths have dtype torch.int32"),
    ("lengths", lambda x: x - 1, r"lengths\[1\] is 0; lengths must lie in 1 to 2"),
    ("lengths", lambda x: x + 1, r"lengths\[0\] is 3; lengths must lie in 1 to 2"),
    ("terminated", lambda x: x.long(), "terminated have dtype torch.int64; it must be torch.bool"),
    ("features", lambda x: x.float(), "features have dtype torch.float32; it must be torch.float64"),
    ("features", lambda x: x * NAN, r"features\[0\] hold NaN or infinity"),
    ("obs", lambda x: x / 0.0, r"obs\[0\] hold NaN or infinity"),
    ("actions", lambda x: torch.full(x.shape, complex("inf")), r"actions\[0\] hold NaN"),
    ("obs", lambda x: x + torch.tensor([0, 0, 1]), r"obs\[1\] hold something else after the segment's 1 "),
    ("actions", lambda x: x + 1, r"actions\[1\] hold .* padding must be 0"),
    ("features", lambda x: x + 1, r"features\[1\] hold .* padding must be 0"),
]


@pytest.mark.parametrize(("name", "change", "message"), SEGMENT_MISTAKES)
def test_bad_segments_are_refused(name: str, change: Callable[[Tensor], Any], message: str) -> None:
    good = three_segments()
    with pytest.raises((TypeError, ValueError), match=message):
        replace(good, **{name: change(getattr(good, name))}).validate()


PREFERENCE_MISTAKES: list[tuple[str, Callable[[Any], Any], str]] = [
    ("first", lambda x: x.obs, "first is a Tensor; it must be Segments"),
    ("second", lambda x: None, "second is a NoneType"),
    ("second", lambda x: x[:2], "there are 3 first segments and 2 second ones"),
    ("second", lambda x: replace(x, features=None), "only some of the two sides"),
    (
        "second",
        lambda x: replace(x, features=x.features.repeat(1, 1, 2)),
        "features of the two sides .* differ",
    ),
    ("second", lambda x: replace(x, obs=x.obs.int()), "obs of the two sides .* torch.int32"),
    ("second", lambda x: replace(x, lengths=x.lengths + 2), r"second segments: lengths\[0\] is 3"),
    ("labels", lambda x: x.tolist(), "labels is a list"),
    ("labels", lambda x: x[:2], r"labels have shape \(2,\), not \[3\]"),
    ("labels", lambda x: x.float(), "labels have dtype torch.float32; it must be torch.float64"),
    ("labels", lambda x: x * NAN, r"labels\[0\] hold NaN"),
    ("weights", lambda x: x[:, None], r"weights have shape \(3, 1\)"),
    ("weights", lambda x: x - 0.5, r"weights\[1\] is -0.5; weights must not be negative"),
    ("weights", lambda x: x / 0, r"weights\[0\] hold NaN or infinity"),
    ("annotators", lambda x: x[0], r"annotators have shape \(\)"),
    ("annotators", lambda x: x.double(), "annotators have dtype torch.float64"),
    ("annotators", lambda x: x + 1, r"annotators\[1\] is 2; .* the 2 annotator_names"),
    ("annotators", lambda x: x - 1, r"annotators\[0\] is -1"),
    ("offsets", lambda x: [0.0, 0.0, 0.0], "offsets is a list; it must be a torch.Tensor"),
    ("offsets", lambda x: torch.zeros(3, 1), r"offsets have shape \(3, 1\), not \[3\]"),
    ("offsets", lambda x: torch.zeros(3), "offsets have dtype torch.float32; it must be torch.float64"),
    ("offsets", lambda x: torch.full((3,), NAN).double(), r"offsets\[0\] hold NaN or infinity"),
    ("annotator_names", lambda x: list(x), "must be a tuple of strings"),
    ("annotator_names", lambda x: (1, 2), "must be a tuple of strings"),
    ("annotator_names", lambda x: (), "the 0 annotator_names"),
    ("metadata", lambda x: [1], "metadata are a list; they must be a mapping"),
    ("metadata", lambda x: {"x": NAN}, "metadata must hold JSON values only"),
    ("metadata", lambda x: {"x": {1, 2}}, "metadata must hold JSON values only"),
    ("metadata", lambda x: {"x": (1, 2)}, "metadata change on their way through JSON"),
    ("metadata", lambda x: {1: 2}, "metadata change on their way through JSON"),
]


@pytest.mark.parametrize(("name", "change", "message"), PREFERENCE_MISTAKES)
def test_bad_preferences_are_refused(name: str, change: Callable[[Any], Any], message: str) -> None:
    good = three_preferences()
    with pytest.raises((TypeError, ValueError), match=message):
        replace(good, **{name: change(getattr(good, name))}).validate()


def test_metadata_that_holds_itself_is_refused() -> None:
    endless: dict[str, Any] = {}
    endless["x"] = endless
    with pytest.raises(ValueError, match="JSON values only"):
        replace(three_preferences(), metadata=endless).validate()


@settings(max_examples=60)
@given(batch=segments())
def test_generated_segments_are_valid(batch: Segments) -> None:
    assert batch.validate() is batch
