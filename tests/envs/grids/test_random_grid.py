"""The random grids: reproducible, drawn as the study drew them, and fair lotteries."""

import itertools
from collections import Counter

import gymnasium as gym
import numpy as np
import pytest
import torch
from scipy.stats import chisquare

import prefrl.envs
from prefrl.envs.grids.random_grid import RandomGridDynamics, generate_grid, generate_lottery_grid

GOAL, SHEEP, COIN, ROADBLOCK = 1, 3, 4, 5


@pytest.fixture(scope="module")
def grids():
    return [generate_grid(seed) for seed in range(4000)]


@pytest.fixture(scope="module")
def lotteries():
    return [generate_lottery_grid(seed, 7.5) for seed in range(1500)]


def assert_likely(counts, shares):
    """Chi-square test of counts {outcome: n} against shares {outcome: p}; the seeds are fixed."""
    assert set(counts) <= set(shares), set(counts) - set(shares)
    observed = np.array([counts.get(key, 0) for key in shares])
    assert chisquare(observed, np.array(list(shares.values())) * observed.sum()).pvalue > 1e-4


def even(*outcomes):
    return {outcome: 1.0 / len(outcomes) for outcome in outcomes}


def test_golden_layouts():
    """The same seed gives the same grid, on every machine and in every version."""
    cells, weights = generate_grid(2)
    assert cells.tolist() == GOLDEN_GRID
    assert weights.tolist() == [-1.0, 10.0, -10.0, 1.0, -5.0, -1.0]
    cells, weights = generate_lottery_grid(2, 100.0)
    assert cells.tolist() == GOLDEN_LOTTERY
    assert weights.tolist() == [-1.0, 50.0, -50.0, 1.0, -1.0, -2.0, 100.0]


GOLDEN_GRID = [
    [0, 0, 0, 0, 0],
    [0, 0, 0, 0, 0],
    [0, 0, 0, 0, 4],
    [0, 0, 0, 5, 4],
    [0, 0, 0, 0, 0],
    [5, 0, 0, 0, 0],
    [0, 0, 0, 0, 4],
    [5, 0, 0, 4, 0],
    [5, 0, 0, 0, 0],
    [0, 0, 0, 0, 0],
    [0, 0, 0, 0, 0],
    [0, 0, 1, 0, 0],
    [0, 4, 0, 0, 5],
    [5, 0, 4, 0, 0],
    [5, 4, 0, 0, 0],
]
GOLDEN_LOTTERY = [
    [0, 0, 0, 0, 0],
    [0, 0, 3, 0, 0],
    [0, 0, 0, 0, 3],
    [1, 3, 0, 3, 0],
    [3, 0, 3, 0, 3],
]


@pytest.mark.parametrize("stochastic", [False, True])
def test_every_face_shows_the_grid_of_the_seed(stochastic):
    kwargs = {"layout_seed": 2, "stochastic": stochastic}
    faces = (
        gym.make("prefrl/RandomGrid-v0", **kwargs).unwrapped,
        gym.make_vec("prefrl/RandomGrid-v0", 2, **kwargs),
        prefrl.envs.make_device("prefrl/RandomGrid-v0", 2, **kwargs),
    )
    for env in faces:
        env.reset(seed=99)
        assert env.cells.tolist() == (GOLDEN_LOTTERY if stochastic else GOLDEN_GRID)
    assert not np.array_equal(RandomGridDynamics(0).cells, RandomGridDynamics(2).cells)


# The generator ---------------------------------------------------


def test_sizes_and_weights(grids):
    assert_likely(Counter(cells.shape[0] for cells, _ in grids), even(3, 6, 10, 15))
    assert_likely(Counter(cells.shape[1] for cells, _ in grids), even(5, 6, 10))
    weights = np.array([w for _, w in grids])
    for column, allowed in enumerate([(-1,), (0, 1, 5, 10, 50), (-5, -10, -50, -100), (1,), (-2, -5, -10),
                                      (-1, -2, -3)]):  # fmt: skip
        counts = Counter(weights[:, column].tolist())
        if len(allowed) == 1:
            assert set(counts) == set(allowed)
        else:
            assert_likely(counts, even(*allowed))


def test_one_goal_no_bricks_no_houses(grids, lotteries):
    for cells, _ in grids + lotteries:
        assert (cells == GOAL).sum() == 1
        assert set(cells.ravel().tolist()) <= {0, GOAL, SHEEP, COIN, ROADBLOCK}
    assert all(not np.isin(cells, (COIN, ROADBLOCK)).any() for cells, _ in lotteries)


def shares_of(cells):
    """Return the tenths of sheep, roadblocks and coins that were scattered before the goal came.

    The goal may have taken the place of one object; from 50 cells on that cannot hide a share.
    """
    found = []
    for code, tenths in ((SHEEP, (0, 1, 3)), (ROADBLOCK, (0, 1, 5, 8)), (COIN, (0, 1, 2))):
        count = int((cells == code).sum())
        found.append([t for t in tenths if count in (int(t * cells.size / 10), int(t * cells.size / 10) - 1)])
    (sheep,), (bad,), (good,) = found
    return sheep, bad, good


def test_shares_of_objects(grids):
    """Sheep evenly; roadblocks evenly among what leaves room; then coins likewise."""
    shares = {}
    for sheep in (0, 1, 3):
        bads = [bad for bad in (0, 1, 5, 8) if sheep + bad < 10]
        for bad in bads:
            goods = [good for good in (0, 1, 2) if sheep + bad + good < 10]
            shares.update({(sheep, bad, good): 1 / 3 / len(bads) / len(goods) for good in goods})
    assert sum(shares.values()) == pytest.approx(1.0)
    large = [cells for cells, _ in grids if cells.size >= 50]
    assert_likely(Counter(shares_of(cells) for cells in large), shares)


def test_the_goal_falls_on_any_cell_and_replaces_what_stood_there(grids):
    square = [cells for cells, _ in grids if cells.shape == (10, 10)]
    goals = Counter(int(np.flatnonzero(cells == GOAL)[0]) // 5 for cells in square)
    assert_likely(goals, even(*range(20)))
    large = [cells for cells, _ in grids if cells.size >= 50]
    scattered = np.array([sum(int(t * cells.size / 10) for t in shares_of(cells)) for cells in large])
    left = np.array([np.isin(cells, (SHEEP, COIN, ROADBLOCK)).sum() for cells in large])
    assert set(scattered - left) == {0, 1}
    expected = np.mean(scattered / [cells.size for cells in large])
    assert np.mean(scattered - left) == pytest.approx(expected, abs=0.04)


def test_objects_are_scattered_evenly(grids):
    square = [cells for cells, _ in grids if cells.shape == (10, 10)]
    for code in (SHEEP, COIN, ROADBLOCK):
        per_row = sum((cells == code).sum(1) for cells in square)
        per_column = sum((cells == code).sum(0) for cells in square)
        assert chisquare(per_row).pvalue > 1e-4
        assert chisquare(per_column).pvalue > 1e-4


def test_lottery_family(lotteries):
    for cells, weights in lotteries:
        assert cells.shape == (5, 5)
        assert weights.tolist() == [-1.0, 50.0, -50.0, 1.0, -1.0, -2.0, 7.5]
    counts = Counter(int((cells == SHEEP).sum()) for cells, _ in lotteries)
    # 1, 2 or 7 sheep on 25 cells; the goal takes one's place as often as it meets one.
    shares = Counter()
    for sheep in (1, 2, 7):
        shares[sheep] += (1 - sheep / 25) / 3
        shares[sheep - 1] += sheep / 25 / 3
    assert_likely(counts, shares)


# The lottery -----------------------------------------------------


def test_a_sheep_wins_every_other_time():
    """100,000 steps into a sheep, on the device: a fair coin, and each outcome a state of its own."""
    env = prefrl.envs.make_device("prefrl/RandomGrid-v0", 10_000, seed=0, layout_seed=2, stochastic=True,
                                  win_reward=30.0)  # fmt: skip
    won, lost = 0, 0
    for _ in range(10):  # (2, 3) lies left of the sheep at (2, 4)
        env.reset(options={"cell": (2, 3)})
        _, rewards, terminated, _, infos = env.step(torch.full((10_000,), 3))
        assert terminated.all()
        won += int((rewards == 30.0).sum())
        lost += int((rewards == -50.0).sum())
        dead = infos["final_obs"] == 14
        assert torch.equal(dead, rewards == -50.0)
        assert set(infos["final_obs"][~dead].tolist()) == {25 + 1}, "the second sheep's winning state"
    assert won + lost == 100_000
    assert chisquare([won, lost]).pvalue > 1e-3


def test_a_lottery_needs_no_luck_elsewhere():
    env = gym.make("prefrl/RandomGrid-v0", layout_seed=2, stochastic=True)
    for seed in range(20):
        env.reset(seed=seed, options={"cell": (0, 0)})
        assert env.step(3)[:2] == (1, -1.0)
        assert env.step(0)[:2] == (1, -1.0)
    env.reset(options={"cell": (2, 0)})
    assert env.step(1)[:3] == (15, 50.0, True)


def test_win_reward_decides_what_is_optimal():
    """A safe goal against a lottery with mean (win_reward - 50) / 2."""
    timid, bold = (
        RandomGridDynamics(2, stochastic=True, win_reward=r).optimal_value(1.0) for r in (-50.0, 1000.0)
    )
    start = RandomGridDynamics(2, stochastic=True).tabular_model().start > 0
    assert timid[start].max() == 50.0
    assert (bold[start] > 460).all()


# Errors at the door ----------------------------------------------


@pytest.mark.parametrize("layout_seed", [-1, 1.0, "a", None, True])
def test_layout_seed_must_be_a_whole_number(layout_seed):
    makers = (gym.make, gym.make_vec, lambda i, **k: prefrl.envs.make_device(i, 2, **k))
    for make, stochastic in itertools.product(makers, (False, True)):
        with pytest.raises(ValueError, match=f"layout_seed is {layout_seed!r}"):
            make("prefrl/RandomGrid-v0", layout_seed=layout_seed, stochastic=stochastic)


@pytest.mark.parametrize("win_reward", [float("inf"), float("nan"), "much", None])
def test_win_reward_must_be_finite(win_reward):
    with pytest.raises(ValueError, match=f"win_reward is {win_reward!r}"):
        RandomGridDynamics(stochastic=True, win_reward=win_reward)


def test_numpy_numbers_will_do():
    assert np.array_equal(RandomGridDynamics(np.int64(2)).cells, GOLDEN_GRID)
    assert RandomGridDynamics(2, True, np.float32(2.5)).tabular_model().weights[-1] == 2.5


@pytest.mark.parametrize("stochastic", ["False", "no", "yes", 0, 1, None])
def test_stochastic_must_be_a_truth_value(stochastic):
    with pytest.raises(ValueError, match=f"stochastic is {stochastic!r}; it must be True or False"):
        RandomGridDynamics(stochastic=stochastic)
    assert RandomGridDynamics(stochastic=np.True_).cells.shape == (5, 5)
