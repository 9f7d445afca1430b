"""Segments drawn from MDPs: where they start, how they end, how often what happens, and pairs of them."""

import re
from collections import Counter
from collections.abc import Callable

import gymnasium as gym
import numpy as np
import pytest
import torch
from scipy import stats

import prefrl.envs  # noqa: F401
from prefrl.data import Segments
from prefrl.envs.grids.grid import TabularModel
from prefrl.tabular import TabularMDP
from prefrl.tabular.segments import distinct_segments, random_pairs, random_segments

MakeModel = Callable[..., TabularModel]


@pytest.fixture(scope="module")
def delivery() -> TabularMDP:
    return TabularMDP.from_env(gym.make("prefrl/Delivery-v0"))


@pytest.fixture(scope="module")
def lottery() -> TabularMDP:
    return TabularMDP.from_env(gym.make("prefrl/RandomGrid-v0", layout_seed=2, stochastic=True))


def key(segments: Segments, i: int) -> tuple[object, ...]:
    n = int(segments.lengths[i])
    return tuple(segments.obs[i, : n + 1].tolist()), tuple(segments.actions[i, :n].tolist())


@pytest.mark.parametrize("kind", ["delivery", "lottery"])
def test_segments_follow_the_mdp(kind: str, request: pytest.FixtureRequest) -> None:
    mdp: TabularMDP = request.getfixturevalue(kind)
    segments = random_segments(mdp, 500, 6, seed=1).validate()
    assert segments.obs.shape == (500, 7)
    assert segments.features is not None
    for i in range(500):
        n = int(segments.lengths[i])
        assert n == 6 or mdp.terminal[0, segments.obs[i, n]]
        assert bool(segments.terminated[i]) == bool(mdp.terminal[0, segments.obs[i, n]])
        for t in range(n):
            s, a, following = int(segments.obs[i, t]), int(segments.actions[i, t]), segments.obs[i, t + 1]
            assert not mdp.terminal[0, s]
            outcomes = torch.nonzero(
                (mdp.successors[0, s, a] == following) & (mdp.probabilities[0, s, a] > 0.0)
            )
            assert len(outcomes) == 1
            assert torch.equal(segments.features[i, t], mdp.features[0, s, a, outcomes[0, 0]])
    assert (segments.lengths < 6).any()
    assert (segments.lengths == 6).any()


def test_starts_and_actions_are_uniform(delivery: TabularMDP) -> None:
    segments = random_segments(delivery, 20_000, 1, seed=5)
    starts = np.bincount(segments.obs[:, 0].numpy(), minlength=100)
    allowed = delivery.start[0].numpy() > 0
    assert not starts[~allowed].any()
    assert stats.chisquare(starts[allowed]).pvalue > 1e-3
    assert stats.chisquare(np.bincount(segments.actions[:, 0].numpy(), minlength=4)).pvalue > 1e-3


def test_outcomes_have_their_probabilities(random_model: MakeModel) -> None:
    model = random_model(11, states=4, outcomes=3)
    mdp = TabularMDP.stack([model])
    segments = random_segments(mdp, 40_000, 1, seed=0)
    for s in range(3):
        for a in range(3):
            rows = (segments.obs[:, 0] == s) & (segments.actions[:, 0] == a)
            chances = np.zeros(4)
            np.add.at(chances, model.successors[s, a], model.probabilities[s, a])
            counts = np.bincount(segments.obs[rows, 1].numpy(), minlength=4)
            assert not counts[chances == 0].any()
            observed, expected = counts[chances > 0], chances[chances > 0]
            if len(expected) > 1:
                assert stats.chisquare(observed, expected * observed.sum()).pvalue > 1e-4


def test_outcomes_are_drawn_anew_at_every_step() -> None:
    """A coin tossed four times over: all sixteen sequences are as likely."""
    ended = np.array([False, True])
    successors, probabilities = np.zeros((2, 1, 2), dtype=np.int64), np.full((2, 1, 2), 0.5)
    successors[1] = 1
    heads = np.zeros((2, 1, 2, 1))
    heads[0, 0, 1] = 1.0
    start = np.array([1.0, 0.0])
    model = TabularModel(successors, probabilities, heads, np.ones(1), ended, start, ("heads",))
    segments = random_segments(TabularMDP.stack([model]), 16_000, 4, seed=0)
    assert segments.features is not None
    tosses = (segments.features[..., 0] @ torch.tensor([1.0, 2.0, 4.0, 8.0], dtype=torch.float64)).long()
    assert stats.chisquare(np.bincount(tosses.numpy(), minlength=16)).pvalue > 1e-3


def test_segments_are_seeded(delivery: TabularMDP) -> None:
    first, same, other = (random_segments(delivery, 50, 3, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.obs, same.obs)
    assert torch.equal(first.actions, same.actions)
    assert not torch.equal(first.obs, other.obs)


def test_distinct_segments_keeps_the_first_of_its_kind(delivery: TabularMDP) -> None:
    segments = random_segments(delivery, 3_000, 3, seed=0)
    assert segments.features is not None
    for by_actions in (False, True):
        seen: dict[object, int] = {}
        for i in range(len(segments)):
            end, total = int(segments.last_obs[i]), tuple(segments.features[i].sum(0).tolist())
            path = key(segments, i) if by_actions else ()
            seen.setdefault((int(segments.obs[i, 0]), end, int(segments.lengths[i]), total, path), i)
        expected = segments[torch.tensor(sorted(seen.values()))]
        kept = distinct_segments(segments, by_actions=by_actions)
        assert torch.equal(kept.obs, expected.obs)
        assert torch.equal(kept.actions, expected.actions)
    assert len(distinct_segments(segments, by_actions=True)) > len(
        distinct_segments(segments, by_actions=False)
    )


@pytest.mark.parametrize("length", [3, (3, 6), (2, 2, 5)])
@pytest.mark.parametrize("kind", ["delivery", "lottery"])
def test_pairs_are_distinct_pairs_of_distinct_segments(
    kind: str, length: int | tuple[int, ...], request: pytest.FixtureRequest
) -> None:
    mdp: TabularMDP = request.getfixturevalue(kind)
    first, second = random_pairs(mdp, 4_000, length=length, seed=3)
    first.validate()
    second.validate()
    lengths = [length] if isinstance(length, int) else list(length)
    assert len(first) == len(second) == 4_000
    assert first.max_length == second.max_length == max(lengths)
    for segments in (first, second):
        full = segments.lengths[~segments.terminated].unique().tolist()
        assert full == sorted(set(lengths))
    pairs = Counter((key(first, i), key(second, i)) for i in range(4_000))
    assert pairs.most_common(1)[0][1] == 1
    assert all(one != other for one, other in pairs)


def test_pairs_are_seeded(delivery: TabularMDP) -> None:
    first, same, other = (random_pairs(delivery, 50, seed=seed) for seed in (1, 1, 2))
    for a, b, c in zip(first, same, other, strict=True):
        assert torch.equal(a.obs, b.obs)
        assert not torch.equal(a.obs, c.obs)


def test_all_pairs_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    mdp = TabularMDP.from_env(gym.make("prefrl/RandomGrid-v0", layout_seed=12))
    monkeypatch.setattr("prefrl.tabular.segments.POOL_SIZE", 20)
    size = len(distinct_segments(random_segments(mdp, 20, 1, seed=0), by_actions=False))
    first, second = random_pairs(mdp, size * (size - 1), length=1, seed=0)
    pairs = {(key(first, i), key(second, i)) for i in range(len(first))}
    assert len(pairs) == size * (size - 1)
    assert len({one for one, _ in pairs}) == len({other for _, other in pairs}) == size
    with pytest.raises(ValueError, match=rf"count is {size * (size - 1) + 1}; {size} distinct segments make"):
        random_pairs(mdp, size * (size - 1) + 1, length=1, seed=0)


def test_a_segment_that_ended_early_does_not_come_again_among_the_longer_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mdp = TabularMDP.from_env(gym.make("prefrl/RandomGrid-v0", layout_seed=12))
    monkeypatch.setattr("prefrl.tabular.segments.POOL_SIZE", 40)
    with pytest.raises(ValueError, match="distinct segments") as refused:
        random_pairs(mdp, 10**9, length=(1, 2, 2))
    total = int(re.findall(r"1 to (\d+) pairs", str(refused.value))[0])
    first, second = random_pairs(mdp, total, length=(1, 2, 2))
    pairs = {(key(first, i), key(second, i)) for i in range(total)}
    assert len(pairs) == total
    assert all(one != other for one, other in pairs)
    assert (first.lengths[first.terminated] == 1).any()


@pytest.mark.parametrize("seed", [0, 1])
def test_both_sides_of_a_few_pairs_cover_the_pool_evenly(delivery: TabularMDP, seed: int) -> None:
    """Pairs drawn from far more than are needed: neither side prefers some part of the pool."""
    pool = distinct_segments(random_segments(delivery, 30_000, 3, seed=seed), by_actions=False)
    place = {key(pool, i): i for i in range(len(pool))}
    for side in random_pairs(delivery, 2_000, seed=seed):
        places = [place[key(side, i)] / len(pool) for i in range(len(side))]
        assert stats.kstest(places, "uniform").pvalue > 1e-3


def test_wrong_counts_are_refused(delivery: TabularMDP) -> None:
    with pytest.raises(ValueError, match="count is 0 and length 3; both must be at least 1"):
        random_segments(delivery, 0, 3)
    with pytest.raises(ValueError, match="count is 5 and length 0"):
        random_segments(delivery, 5, 0)
    with pytest.raises(ValueError, match=r"count is 0; \d+ distinct segments make 1 to"):
        random_pairs(delivery, 0)
    with pytest.raises(ValueError, match="length 0; both must be at least 1"):
        random_pairs(delivery, 5, length=(3, 0))
    with pytest.raises(ValueError, match="length is empty"):
        random_pairs(delivery, 5, length=())


def test_several_mdps_are_refused(delivery: TabularMDP) -> None:
    two = delivery.select(torch.tensor([0, 0]))
    for draw in (random_segments, random_pairs):
        with pytest.raises(ValueError, match=r"mdp holds 2 MDPs; segments belong to one: use mdp\.select"):
            draw(two, 5, length=3)
