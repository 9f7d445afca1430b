"""Segments cut from a store, against a slow search of the same steps."""

from itertools import product

import pytest
import torch

from prefrl.data import Transitions
from prefrl.data.segment_store import SegmentStore


def filled(steps=37, rows=3, capacity=60, seed=0, pauses=False):
    """A store of made-up episodes, observed as the step's number and row, and a list of all steps."""
    generator = torch.Generator().manual_seed(seed)
    store, said = SegmentStore(capacity, rows), []
    mask = torch.ones(rows, dtype=torch.bool)
    for t in range(steps):
        obs = torch.stack([torch.full((rows,), float(t)), torch.arange(rows).float()], 1)
        ended = torch.rand(rows, generator=generator) < 0.15
        cut = torch.rand(rows, generator=generator) < 0.1
        step = Transitions(
            obs=obs, actions=obs[:, :1] * 10, rewards=obs[:, 0], next_obs=obs + 0.5,
            terminations=ended & mask, truncations=cut & ~ended & mask, mask=mask,
        )  # fmt: skip
        states = torch.stack([obs, step.next_obs], 1).double() / 3
        store.add(step, step.obs, step.next_obs, features=obs * 2, states=states)
        said.append(step)
        if pauses:
            mask = ~(step.terminations | step.truncations)
    return store, said


@pytest.mark.parametrize("pauses", [False, True])
@pytest.mark.parametrize(
    ("steps", "capacity"), [(11, 60), (37, 60), (4, 60), (11, 12)]
)  # the last two hold 4
def test_segments_are_stretches_of_episodes(steps, capacity, pauses):
    store, said = filled(steps, capacity=capacity, pauses=pauses)
    cut = store.sample(40, 6, torch.Generator().manual_seed(1))
    segments = cut.segments.validate()
    assert len(segments) == 40
    whole = [(t, row) for t, row in product(range(max(0, steps - capacity // 3), steps), range(3))
             if whole_at(said, t, row, 6)]  # fmt: skip
    assert torch.equal(cut.weights, torch.full((40,), float(bool(whole)), dtype=torch.float64))
    assert store.starts(6).nonzero().add(torch.tensor([max(0, steps - capacity // 3), 0])).tolist() == [
        [t, row] for t, row in whole
    ]
    for i in range(40):
        if cut.weights[i] == 0.0:
            continue
        n, row = int(segments.lengths[i]), int(segments.obs[i, 0, 1])
        first = int(segments.obs[i, 0, 0])
        assert first >= max(0, steps - capacity // 3), "only what is still kept"
        for k in range(n):
            step = said[first + k]
            assert bool(step.mask[row])
            assert segments.obs[i, k].tolist() == step.obs[row].tolist()
            assert segments.actions[i, k].tolist() == step.actions[row].tolist()
            assert float(cut.rewards[i, k]) == float(step.rewards[row])
            assert segments.features[i, k].tolist() == (2 * step.obs[row]).tolist()
            ended = bool(step.terminations[row] | step.truncations[row])
            assert not ended or k == n - 1, "nothing follows an end"
        last = said[first + n - 1]
        assert segments.obs[i, n].tolist() == last.next_obs[row].tolist()
        assert torch.equal(cut.states[i], segments.obs[i].double() / 3), "the same way through the padding"
        assert bool(segments.terminated[i]) == bool(last.terminations[row])
        assert n == 6 or bool(last.terminations[row])
        assert cut.rewards[i, n:].abs().sum() == 0.0


def whole_at(said, first, row, length):
    """Whether a whole segment starts at a step, by going through the steps one by one."""
    if not said[first].mask[row]:
        return False
    for t in range(first, min(first + length, len(said))):
        if said[t].terminations[row]:
            return True
        if said[t].truncations[row]:
            return t == first + length - 1
    return first + length <= len(said)


def test_starts_are_drawn_evenly_among_all_whole_segments():
    store, _ = filled(37)
    starts = store.starts(4)
    number = int(starts.sum())
    drawn = store.sample(400 * number, 4, torch.Generator().manual_seed(0)).segments.obs[:, 0]
    counts = torch.zeros_like(starts, dtype=torch.int64)
    counts.index_put_((drawn[:, 0].long() - 17, drawn[:, 1].long()), torch.tensor(1), accumulate=True)
    assert bool((counts[~starts] == 0).all())
    assert abs(counts[starts] - 400).max() < 5 * 20


def test_pairs_are_of_different_segments():
    store, _ = filled(37)
    starts = store.starts(4)
    first, second = store.sample_pairs(3000, 4, torch.Generator().manual_seed(0))
    a, b = first.segments.obs[:, 0], second.segments.obs[:, 0]
    assert bool((a != b).any(1).all())
    assert len(torch.cat([a, b], 1).unique(dim=0)) > 0.8 * int(starts.sum()) * (int(starts.sum()) - 1) * 0.9
    assert bool((first.weights * second.weights == 1.0).all())


def test_of_one_whole_segment_there_is_no_pair():
    store, obs = SegmentStore(8, 1), torch.zeros(1, 2)
    for time in range(4):
        over = torch.tensor([time == 2])
        nothing = torch.zeros(1, dtype=torch.bool)
        step = Transitions(obs + time, obs[:, :1], obs[:, 0], obs + time, nothing, over, mask=~nothing)
        store.add(step, step.obs, step.next_obs)
    assert store.starts(3).flatten().tolist() == [True, False, False, False]
    assert store.sample(2, 3, torch.Generator()).weights.tolist() == [1.0, 1.0]
    first, second = store.sample_pairs(2, 3, torch.Generator())
    assert (first.weights * second.weights).tolist() == [0.0, 0.0]
    assert bool(store.starts(1).all())
    store.cut()
    assert store.sample(50, 2, torch.Generator()).segments.obs[:, 0, 0].unique().tolist() == [0.0, 1.0]


def test_recent_segments_start_in_the_latest_steps():
    store, _ = filled(60, capacity=180)
    segments = store.sample(30, 2, torch.Generator().manual_seed(0), recent=0.25).segments
    tight = store.sample(30, 12, torch.Generator().manual_seed(0), recent=0.05)
    counted = tight.segments[tight.weights > 0]
    assert bool(((counted.lengths == 12) | counted.terminated).all()), "whole segments, however recent"
    assert float(segments.obs[:, 0, 0].min()) >= 60 - 15
    assert float(store.sample(200, 2, torch.Generator().manual_seed(0)).segments.obs[:, 0, 0].min()) < 15


def test_pairs_without_a_transition_have_weight_zero():
    store = SegmentStore(4, 1)
    nothing = torch.zeros(1, dtype=torch.bool)
    obs = torch.zeros(1, 2)
    step = Transitions(obs, obs[:, :1], obs[:, 0], obs, nothing, nothing, mask=nothing)
    store.add(step, step.obs, step.next_obs)
    assert store.sample(3, 2, torch.Generator()).weights.tolist() == [0.0, 0.0, 0.0]


def test_an_empty_store_says_so():
    with pytest.raises(ValueError, match="the store is empty"):
        SegmentStore(4, 1).sample(1, 1, torch.Generator())


def test_latest_is_in_order_and_the_state_goes_on():
    store, said = filled(37)
    assert store.latest()["rewards"][:, 0].tolist() == [float(step.rewards[0]) for step in said[-20:]]
    other = SegmentStore(60, 3)
    other.load_state_dict(store.state_dict(), torch.device("cpu"))
    one, two = (s.sample(8, 3, torch.Generator().manual_seed(5)).segments.obs for s in (store, other))
    assert torch.equal(one, two)


def test_relabelling_reaches_the_latest_steps_only():
    store, _ = filled(37)
    before = store.latest()["rewards"]
    store.ring.relabel(torch.full((5, 3), -1.0))
    after = store.latest()["rewards"]
    assert torch.equal(after[:-5], before[:-5])
    assert bool((after[-5:] == -1.0).all())
    store.ring.relabel(torch.arange(90.0).reshape(30, 3))
    assert torch.equal(store.latest()["rewards"], torch.arange(90.0).reshape(30, 3)[-20:])


def test_states_are_kept_to_the_bit_or_refused():
    store, _ = filled(steps=5)
    assert store.sample(2, 3, torch.Generator().manual_seed(0)).states.dtype == torch.float64
    again = SegmentStore(60, 3)
    again.load_state_dict(store.state_dict(), torch.device("cpu"))
    cuts = [each.sample(9, 3, torch.Generator().manual_seed(0)) for each in (store, again)]
    assert torch.equal(cuts[0].states, cuts[1].states)
    part = cuts[0].at(torch.tensor([4, 2]))
    assert torch.equal(part.states, cuts[0].states[[4, 2]])
    assert torch.equal(part.rewards, cuts[0].rewards[[4, 2]])
    step = Transitions(*(torch.zeros(3, 1) for _ in range(2)), torch.zeros(3), torch.zeros(3, 1),
                       *(torch.zeros(3, dtype=torch.bool) for _ in range(3)))  # fmt: skip
    for states in (torch.zeros(3, 2, 4), torch.zeros(3, 4).double(), torch.zeros(2, 2, 4).double()):
        with pytest.raises(ValueError, match=r"states are torch.float\d\d \[.*must be float64 \[3, 2, D\]"):
            store.add(step, step.obs, step.next_obs, states=states)
