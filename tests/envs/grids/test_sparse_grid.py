"""The sparse grid: its maze, its success rate, refusals."""

import gymnasium as gym
import numpy as np
import pytest

import prefrl.envs
from prefrl.envs.grids.sparse_grid import distances, draw_cells

assert prefrl.envs.REGISTRY


def test_distances_by_hand_and_reachable_goals() -> None:
    assert distances(np.array([[1, 2, 0], [0, 0, 0]])).tolist() == [[0, -1, 4], [1, 2, 3]]
    for seed in range(20):
        cells = draw_cells(seed, 5, 6)
        assert [int((cells == code).sum()) for code in (1, 2)] == [1, 6]
        assert (distances(cells) >= 0).sum() == 19


def test_the_success_rate_is_what_episodes_say() -> None:
    task = gym.make("prefrl/SparseGrid-v0", layout_seed=3).unwrapped
    rows = gym.make_vec("prefrl/SparseGrid-v0", num_envs=4_000, layout_seed=3)
    rows.reset(seed=0)
    rows.action_space.seed(1)  # with the same seed, first actions would follow from starts
    won, over = np.zeros(4_000, dtype=bool), np.zeros(4_000, dtype=bool)
    for _ in range(12):
        _, rewards, terminations, truncations, _ = rows.step(rows.action_space.sample())
        won |= (rewards > 0) & ~over
        over |= terminations | truncations
    assert over.all()
    exact = task.success_rate(np.full((25, 4), 0.25))
    assert won.mean() == pytest.approx(exact, abs=4 * np.sqrt(0.25 / 4_000))
    assert 0.0 < exact < 0.3


def test_refusals() -> None:
    for settings, message in (
        ({"walls": 24}, "walls is 24; it must be a whole number from 0 to 23"),
        ({"size": 0}, "size is 0"),
        ({"layout_seed": -1}, "layout_seed is -1"),
    ):
        with pytest.raises(ValueError, match=message):
            gym.make("prefrl/SparseGrid-v0", **settings)
    with pytest.raises(ValueError, match=r"policy has shape \(2, 2\)"):
        gym.make("prefrl/SparseGrid-v0").unwrapped.success_rate(np.ones((2, 2)))
