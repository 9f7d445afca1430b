"""MinAtar's games as Gymnasium environments, against the bare package."""

import json
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from gymnasium.utils.seeding import np_random

import prefrl.envs
from prefrl.data.files.tensor_file import read_tensor_file, write_tensor_file
from prefrl.envs.minatar import spaces

minatar = pytest.importorskip("minatar")

every_game = pytest.mark.parametrize("env_id", prefrl.envs.MINATAR_IDS)
ACTIONS = {  # the games' own action sets: 0 stay, 1 left, 2 up, 3 right, 4 down, 5 fire
    "prefrl/MinAtar-Asterix-v0": (0, 1, 2, 3, 4),
    "prefrl/MinAtar-Breakout-v0": (0, 1, 3),
    "prefrl/MinAtar-Freeway-v0": (0, 2, 4),
    "prefrl/MinAtar-Seaquest-v0": (0, 1, 2, 3, 4, 5),
    "prefrl/MinAtar-SpaceInvaders-v0": (0, 1, 3, 5),
}
CHANNELS = (4, 4, 7, 10, 6)


def play(env, actions):
    """Everything that is seen under the given actions, going on from where the environment stands."""
    seen = []
    for action in actions:
        obs, reward, terminated, truncated, _ = env.step(action)
        seen.append((obs.copy(), reward, terminated, truncated))
        if terminated or truncated:
            seen.append((env.reset()[0], 0.0, False, False))
    return seen


def assert_same(left, right):
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        np.testing.assert_array_equal(a[0], b[0])
        assert a[1:] == b[1:]


def random_actions(env_id, count, seed=0):
    return np.random.default_rng(seed).integers(len(ACTIONS[env_id]), size=count).tolist()


@every_game
def test_env_checker(env_id, recwarn):
    env = gym.make(env_id, render_mode="rgb_array")
    check_env(env.unwrapped)
    assert not [w for w in recwarn if w.category is UserWarning]
    assert env.spec.max_episode_steps == 5000
    assert env.unwrapped.actions == ACTIONS[env_id]
    assert env.action_space.n == len(ACTIONS[env_id])
    channels = CHANNELS[prefrl.envs.MINATAR_IDS.index(env_id)]
    assert env.observation_space.shape == (10, 10, channels)
    assert env.observation_space.dtype == bool
    assert spaces(env.unwrapped.game) == (env.observation_space, env.action_space)
    assert len(env.unwrapped.channels) == channels


def test_all_actions_where_asked_for():
    env = gym.make("prefrl/MinAtar-Breakout-v0", minimal_action_set=False)
    assert env.unwrapped.actions == (0, 1, 2, 3, 4, 5)
    assert env.action_space.n == 6


def test_actions_reach_the_game_under_their_own_numbers():
    env = gym.make("prefrl/MinAtar-Breakout-v0", sticky_action_prob=0.0).unwrapped
    paddle = env.channels.index("paddle")

    def column_after(action):
        env.reset(seed=0)
        return int(np.flatnonzero(env.step(action)[0][9, :, paddle])[0])

    assert [column_after(action) for action in range(3)] == [4, 3, 5]  # stay, left, right of column 4


@every_game
@pytest.mark.parametrize("ramping", [True, False])
def test_equals_the_bare_package(env_id, ramping):
    """Same random numbers, same actions, same games; the previous action is forgotten between episodes."""
    game = gym.spec(env_id).kwargs["game"]
    bare = minatar.Environment(game, sticky_action_prob=0.25, difficulty_ramping=ramping)
    bare.random = bare.env.random = np.random.RandomState(np_random(11)[0].bit_generator)
    bare.reset()
    env = gym.make(env_id, sticky_action_prob=0.25, difficulty_ramping=ramping, max_episode_steps=10**9)
    obs, _ = env.reset(seed=11)
    np.testing.assert_array_equal(obs, bare.state())
    ends, earned = 0, 0.0
    for action in random_actions(env_id, 3000):
        reward, done = bare.act(ACTIONS[env_id][action])
        obs, earned_now, terminated, truncated, _ = env.step(action)
        np.testing.assert_array_equal(obs, bare.state())
        assert (earned_now, terminated, truncated) == (reward, done, False)
        assert type(earned_now) is float
        assert type(terminated) is bool
        earned += reward
        if done:
            ends += 1
            bare.last_action = 0
            bare.reset()
            np.testing.assert_array_equal(env.reset()[0], bare.state())
    assert ends >= 1
    assert earned > 0 or game == "freeway"  # a random chicken rarely crosses the road


@every_game
def test_seeds(env_id):
    env, twin = gym.make(env_id), gym.make(env_id)
    actions = random_actions(env_id, 600)
    runs = []
    for e, seed in ((env, 5), (twin, 5), (twin, 6)):
        start, _ = e.reset(seed=seed)
        runs.append([(start, 0.0, False, False), *play(e, actions)])
    assert_same(runs[0], runs[1])
    assert any(not np.array_equal(a[0], b[0]) for a, b in zip(runs[0], runs[2], strict=False))


def test_a_reset_without_seed_goes_on_from_the_stream():
    env = gym.make("prefrl/MinAtar-Freeway-v0")
    first, _ = env.reset(seed=5)
    starts = [play(env, [0] * 30)[-1][0]]
    for _ in range(3):
        env.reset()
        starts.append(play(env, [0] * 30)[-1][0])
    assert len({s.tobytes() for s in starts}) == 4
    np.testing.assert_array_equal(env.reset(seed=5)[0], first)


def test_sticky_actions_have_their_probability():
    """The paddle alternates left and right; where one was repeated it goes on the same way."""
    env = gym.make("prefrl/MinAtar-Breakout-v0", sticky_action_prob=0.3, minimal_action_set=False).unwrapped
    env.reset(seed=0)
    paddle, repeats, count = env.channels.index("paddle"), 0, 0
    column, previous = 4, 0
    for t in range(20_000):
        action = 1 + 2 * (t % 2)  # 1 left, 3 right
        obs, _, terminated, _, _ = env.step(action)
        new = int(np.flatnonzero(obs[9, :, paddle])[0])
        if previous and 0 < column < 9:
            moved = 1 if new < column else 3
            # whether the action given was replaced is only seen where the previous one differed
            if previous != action:
                repeats += moved == previous
                count += 1
            previous = moved
        elif 0 < column < 9:
            previous = 1 if new < column else 3 if new > column else 0
        else:
            previous = 0
        column = new
        if terminated:
            env.reset()
            column, previous = 4, 0
    assert count > 5000
    assert repeats / count == pytest.approx(0.3, abs=4 * np.sqrt(0.21 / count))


@pytest.mark.parametrize(("probability", "column"), [(0.0, 3), (1.0, 4)])
def test_an_episode_starts_with_stay_as_its_previous_action(probability, column):
    env = gym.make("prefrl/MinAtar-Breakout-v0", sticky_action_prob=probability).unwrapped
    paddle = env.channels.index("paddle")
    env.reset(seed=0)
    env._package.last_action = 3  # as an episode that ended going right leaves it
    env.reset()
    assert np.flatnonzero(env.step(1)[0][9, :, paddle]) == [column]


@every_game
@pytest.mark.parametrize("through_a_file", [False, True])
def test_a_state_continues_bit_equal(env_id, through_a_file, tmp_path):
    env, other = gym.make(env_id).unwrapped, gym.make(env_id).unwrapped
    env.reset(seed=1)
    play(env, random_actions(env_id, 437))
    state = env.state_dict()
    if through_a_file:
        write_tensor_file(tmp_path / "state.pt", state)
        state = read_tensor_file(tmp_path / "state.pt", "state")
    expected = play(env, random_actions(env_id, 800, seed=1))
    for e in (other, env):
        e.load_state_dict(state)  # twice: playing on must not have changed what was saved
        assert_same(play(e, random_actions(env_id, 800, seed=1)), expected)


def test_a_state_of_numbers_and_arrays_only():
    for env_id in prefrl.envs.MINATAR_IDS:
        env = gym.make(env_id).unwrapped
        env.reset(seed=1)
        play(env, random_actions(env_id, 100))
        json.dumps(env.state_dict(), default=lambda x: x.tolist())


def test_a_state_of_another_game_is_refused():
    breakout = gym.make("prefrl/MinAtar-Breakout-v0").unwrapped
    breakout.reset(seed=0)
    asterix = gym.make("prefrl/MinAtar-Asterix-v0").unwrapped
    with pytest.raises(ValueError, match="asterix has"):
        asterix.load_state_dict(breakout.state_dict())
    state = breakout.state_dict()
    state["game"]["brick_map"] = np.zeros((3, 3))
    with pytest.raises(ValueError, match="brick_map"):
        breakout.load_state_dict(state)


@every_game
def test_picture(env_id):
    env = gym.make(env_id, render_mode="rgb_array", sticky_action_prob=0.0)
    env.reset(seed=0)
    seen = set()
    for action in random_actions(env_id, 60):
        obs, _, terminated, _, _ = env.step(action)
        frame = env.render()
        assert frame.shape == (320, 320, 3)
        assert frame.dtype == np.uint8
        centres = frame[16::32, 16::32]
        empty = centres[~obs.any(-1)]
        assert (empty == empty[0]).all()
        assert (centres[obs.any(-1)] != empty[0]).any(-1).all()  # whatever is there is seen
        seen.add(frame.tobytes())
        if terminated:
            env.reset()
    assert len(seen) > 5


def test_the_paddle_is_drawn_where_it_is():
    env = gym.make("prefrl/MinAtar-Breakout-v0", render_mode="rgb_array", sticky_action_prob=0.0)
    env.reset(seed=0)
    frames = [env.render()]
    env.step(1)
    frames.append(env.render())
    for frame, column in zip(frames, (4, 3), strict=True):
        bottom = frame[9 * 32 + 16, 16::32]
        assert np.flatnonzero((bottom != bottom[0]).any(-1)).tolist() == [column]


def test_rows_of_a_vector_environment():
    envs = gym.make_vec("prefrl/MinAtar-Breakout-v0", num_envs=3, vectorization_mode="sync")
    obs, _ = envs.reset(seed=0)
    assert obs.shape == (3, 10, 10, 4)
    assert obs.dtype == bool
    one = gym.make("prefrl/MinAtar-Breakout-v0")
    one.reset(seed=1)  # row 1's seed
    for _ in range(5):  # a lost ball takes six
        obs, *_ = envs.step(np.array([0, 1, 2]))
        np.testing.assert_array_equal(obs[1], one.step(1)[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sticky_action_prob": 1.5}, "sticky_action_prob is 1.5"),
        ({"sticky_action_prob": float("nan")}, "sticky_action_prob is nan"),
        ({"game": "pong"}, "game is 'pong'; allowed are"),
        ({"render_mode": "ansi"}, "render_mode is 'ansi'"),
    ],
)
def test_wrong_arguments(arguments, message):
    from prefrl.envs.minatar import MinAtarEnv

    with pytest.raises(ValueError, match=message):
        MinAtarEnv(**{"game": "breakout", **arguments})


def test_wrong_use():
    env = gym.make("prefrl/MinAtar-Breakout-v0").unwrapped
    for call in (lambda: env.step(0), env.state_dict):
        with pytest.raises(ResetNeeded, match="reset"):
            call()
    with pytest.raises(ValueError, match="lives"):
        env.reset(options={"lives": 3})
    env.reset(seed=0)
    for action in (3, -1, 0.5):
        with pytest.raises(ValueError, match="action must lie in Discrete"):
            env.step(action)
    with pytest.warns(UserWarning, match="render_mode"):
        assert env.render() is None


def test_without_the_package(tmp_path):
    code = """
import sys
sys.modules["minatar"] = None
import gymnasium as gym, prefrl.envs
try:
    gym.make("prefrl/MinAtar-Breakout-v0")
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert 'pip install ".[minatar]"' in done.stdout, done.stderr


def test_importing_the_environments_does_not_import_the_package(tmp_path):
    code = "import sys, prefrl.envs, prefrl.envs.minatar; print('minatar' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr
