"""The delivery board: golden numbers, a slow twin of its rules, and where the van is drawn."""

import gymnasium as gym
import numpy as np
import pytest

import prefrl.envs
from prefrl.envs.core.scalar import ScalarEnv
from prefrl.envs.core.vector import BatchedEnv
from prefrl.envs.grids.delivery import BOARD, WEIGHTS, DeliveryDynamics

# Once more, by hand: 0 road, 1 goal, 2 house, 3 sheep, 4 coin, 5 roadblock; 6 more on bricks.
ROWS = """
0 0 5 0 0 0 0 0 0 0
0 0 0 0 4 0 0 0 0 6
0 0 3 0 0 0 0 6 6 6
4 0 5 0 2 3 3 6 6 0
6 6 0 0 0 0 0 0 0 0
6 0 4 0 0 0 0 0 0 0
6 2 0 3 5 2 0 0 0 0
0 4 0 0 0 0 0 10 6 6
0 0 5 0 0 0 0 6 6 7
0 0 0 0 0 0 5 0 0 4
"""
TABLE = [[int(code) for code in row.split()] for row in ROWS.strip().splitlines()]


@pytest.fixture(scope="module")
def env():
    return ScalarEnv(DeliveryDynamics)


def test_board_and_weights(env):
    assert env.cells.tolist() == TABLE
    assert WEIGHTS.tolist() == [-1.0, 50.0, -50.0, 1.0, -1.0, -2.0]
    model = env.tabular_model()
    assert model.feature_names == ("gas", "goal", "sheep", "coin", "roadblock", "brick gas")
    assert (model.start > 0).sum() == 92
    assert set(model.start[model.start > 0]) == {1.0 / 92.0}
    assert model.terminal.sum() == 1 + 4 + 3


def test_golden_values(env):
    start, uniform = env.tabular_model().start, np.full((100, 4), 0.25)
    assert start @ env.optimal_value() == pytest.approx(41.20794768831405, abs=1e-9)
    assert start @ env.true_value(uniform) == pytest.approx(-71.25738281279433, abs=1e-9)
    assert start @ env.true_value(uniform, gamma=1.0) == pytest.approx(-73.92457929, abs=1e-8)
    value = env.optimal_value(gamma=1.0).reshape(10, 10)
    golden = {(0, 0): 34, (1, 4): 36, (2, 7): 41, (5, 5): 43, (6, 9): 48, (8, 8): 50, (9, 9): 50, (9, 0): 41}
    for cell, expected in golden.items():
        assert value[cell] == pytest.approx(expected, abs=1e-9), cell


def test_golden_value_by_driving(env):
    """Greedy in V*, from every start, the undiscounted return is V* itself."""
    model, value = env.tabular_model(), env.optimal_value(gamma=1.0)
    greedy = (model.rewards + value[model.successors])[..., 0].argmax(1)
    vector = BatchedEnv(DeliveryDynamics, 1000, autoreset_mode="SameStep")
    seen, _ = vector.reset(seed=0)
    first, total, running = seen.copy(), np.zeros(1000), np.ones(1000, dtype=bool)
    assert len(set(first)) == 92
    for _ in range(40):
        seen, rewards, terminated, _, _ = vector.step(greedy[seen])
        total += rewards * running
        running &= ~terminated
    assert not running.any()
    np.testing.assert_allclose(total, value[first], atol=1e-9)


def slow_step(row, col, action):
    """The rules in words, one cell at a time: next row, next column, features, whether the episode ends."""
    gas = goal = sheep = coin = roadblock = brick = 0
    new_row, new_col = row, col
    if action == 0:
        new_row = row - 1
    elif action == 1:
        new_row = row + 1
    elif action == 2:
        new_col = col - 1
    else:
        new_col = col + 1
    outside = new_row < 0 or new_row > 9 or new_col < 0 or new_col > 9
    if outside or TABLE[new_row][new_col] in (2, 8):
        if TABLE[row][col] >= 6:
            brick = 1
        else:
            gas = 1
        return row, col, [gas, goal, sheep, coin, roadblock, brick], False
    code = TABLE[new_row][new_col]
    if code in (1, 7):
        goal = 1
    elif code in (3, 9):
        sheep = 1
    else:
        if code >= 6:
            brick = 1
        else:
            gas = 1
        if code in (4, 10):
            coin = 1
        if code in (5, 11):
            roadblock = 1
    return new_row, new_col, [gas, goal, sheep, coin, roadblock, brick], bool(goal or sheep)


def test_slow_twin_agrees_on_every_transition(env):
    model, vector = env.tabular_model(), BatchedEnv(DeliveryDynamics, 1, autoreset_mode="Disabled")
    compared = 0
    for row in range(10):
        for col in range(10):
            for action in range(4):
                state = 10 * row + col
                if TABLE[row][col] in (1, 7, 2, 8, 3, 9):
                    assert model.terminal[state]
                    assert model.successors[state, action].tolist() == [state]
                    assert not model.features[state, action].any()
                    continue
                new_row, new_col, phi, ends = slow_step(row, col, action)
                reward = -phi[0] + 50 * phi[1] - 50 * phi[2] + phi[3] - phi[4] - 2 * phi[5]
                vector.reset(options={"cell": (row, col)})
                obs, rewards, terminated, _, _ = vector.step([action])
                assert (obs[0], rewards[0], terminated[0]) == (10 * new_row + new_col, reward, ends)
                assert env.features(state, action, obs[0]).tolist() == phi
                compared += 1
    assert compared == 92 * 4


def test_bumping_into_the_house_right_of_bricks_pays_bricks(env):
    """The one entry in which the reward table of the published data differs (-1)."""
    assert (TABLE[6][0], TABLE[6][1]) == (6, 2)
    env.reset(options={"cell": (6, 0)})
    assert env.step(3)[:2] == (60, -2.0)
    assert "(6, 0)" in DeliveryDynamics.__doc__


def test_starts_are_the_92_cells():
    vector = BatchedEnv(DeliveryDynamics, 9200)
    obs, _ = vector.reset(seed=0)
    counts = np.bincount(obs, minlength=100)
    codes = np.array(TABLE).ravel()
    assert ((counts > 0) == ~np.isin(codes, (1, 2, 3, 7, 8, 9))).all()
    assert counts[counts > 0].min() > 60
    assert counts.max() < 140


def test_options_put_the_van_anywhere_it_can_start():
    for env in (gym.make("prefrl/Delivery-v0"), BatchedEnv(DeliveryDynamics, 3)):
        for cell in ((0, 0), [9, 9], np.array([4, 2])):
            obs, _ = env.reset(options={"cell": cell})
            assert np.all(obs == 10 * cell[0] + cell[1])


def test_truncated_after_200_steps_by_default():
    env, vector = gym.make("prefrl/Delivery-v0"), gym.make_vec("prefrl/Delivery-v0", 1)
    device = prefrl.envs.make_device("prefrl/Delivery-v0", 1)
    for face, actions in ((env, [0, 1]), (vector, [[0], [1]]), (device, [[0], [1]])):
        face.reset(options={"cell": (5, 5)})
        ends = [face.step(actions[step % 2])[2:4] for step in range(200)]
        assert not any(bool(t) or bool(c) for t, c in ends[:-1])
        assert [bool(part) for part in ends[-1]] == [False, True]


def test_the_board_is_shared_and_cannot_be_changed(env):
    for array in (BOARD, WEIGHTS):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
    model = DeliveryDynamics().tabular_model()
    model.weights[:] = 0
    env.cells[:] = 0
    assert env.cells.tolist() == TABLE
    assert env.tabular_model().weights.tolist() == WEIGHTS.tolist()


# Pictures --------------------------------------------------------


def changed_cells(frame, other):
    """Find the cells in which two frames of the board differ: where the van is, and where it was."""
    differs = (frame != other).any(-1).reshape(10, 48, 10, 48).any((1, 3))
    return {tuple(int(i) for i in cell) for cell in np.argwhere(differs)}


def test_the_van_is_drawn_where_it_is():
    env = gym.make("prefrl/Delivery-v0", render_mode="rgb_array")
    env.reset(options={"cell": (0, 0)})
    corner = env.render()
    assert corner.shape == (480, 480, 3)
    for cell in ((0, 9), (9, 0), (2, 3), (9, 9)):
        env.reset(options={"cell": cell})
        assert changed_cells(env.render(), corner) == {(0, 0), cell}
    env.reset(options={"cell": (5, 5)})
    env.step(1)
    assert changed_cells(env.render(), corner) == {(0, 0), (5, 5)}, "a house is in the way"
    env.step(2)
    assert changed_cells(env.render(), corner) == {(0, 0), (5, 4)}


def test_the_van_turns_with_the_last_action():
    env = gym.make("prefrl/Delivery-v0", render_mode="rgb_array")
    frames = set()
    for action, back in enumerate((1, 0, 3, 2)):
        env.reset(options={"cell": (5, 7)})
        fresh = env.render().tobytes()
        env.step(back)
        assert env.step(action)[0] == 57
        frames.add(env.render().tobytes())
    assert len(frames) == 4
    assert fresh in frames, "a fresh van faces right"


def test_vector_frames_show_their_own_rows():
    vector = BatchedEnv(DeliveryDynamics, 3, render_mode="rgb_array", autoreset_mode="Disabled")
    vector.reset(options={"cell": (5, 5)})
    vector.step([0, 2, 3])
    frames = vector.render()
    assert changed_cells(frames[0], frames[1]) == {(4, 5), (5, 4)}
    assert changed_cells(frames[1], frames[2]) == {(5, 4), (5, 6)}
