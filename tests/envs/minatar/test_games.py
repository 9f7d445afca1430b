"""MinAtar's games: spaces, sticky actions, pictures, arguments. What happens in them: test_package.py."""

import subprocess
import sys
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import prefrl.envs
from prefrl.envs.core.backend import NumpyRandom
from prefrl.envs.minatar.breakout import BreakoutDynamics

every_game = pytest.mark.parametrize("env_id", prefrl.envs.MINATAR_IDS)
ACTIONS = {  # the games' own action sets: 0 stay, 1 left, 2 up, 3 right, 4 down, 5 fire
    "prefrl/MinAtar-Asterix-v0": (0, 1, 2, 3, 4),
    "prefrl/MinAtar-Breakout-v0": (0, 1, 3),
    "prefrl/MinAtar-Freeway-v0": (0, 2, 4),
    "prefrl/MinAtar-Seaquest-v0": (0, 1, 2, 3, 4, 5),
    "prefrl/MinAtar-SpaceInvaders-v0": (0, 1, 3, 5),
}
CHANNELS = (4, 4, 7, 10, 6)


def breakout(**arguments: Any) -> Any:
    return gym.make("prefrl/MinAtar-Breakout-v0", **arguments)


def paddle(obs: Any) -> int:
    """The column of Breakout's paddle."""
    return int(np.flatnonzero(obs[9, :, BreakoutDynamics.channels.index("paddle")])[0])


@every_game
def test_spaces_and_limit(env_id: str) -> None:
    env: Any = gym.make(env_id)
    assert env.spec.max_episode_steps == 5000
    assert env.unwrapped.actions == ACTIONS[env_id]
    assert env.action_space.n == len(ACTIONS[env_id])
    channels = CHANNELS[prefrl.envs.MINATAR_IDS.index(env_id)]
    assert env.observation_space.shape == (10, 10, channels)
    assert env.observation_space.dtype == bool
    assert len(env.unwrapped.channels) == channels


def test_all_actions_where_asked_for() -> None:
    env = breakout(minimal_action_set=False)
    assert env.unwrapped.actions == (0, 1, 2, 3, 4, 5)
    assert env.action_space.n == 6


def test_actions_reach_the_game_under_their_own_numbers() -> None:
    env = breakout(sticky_action_prob=0.0)

    def column_after(action: int) -> int:
        env.reset(seed=0)
        return paddle(env.step(action)[0])

    assert [column_after(action) for action in range(3)] == [4, 3, 5]  # stay, left, right of column 4


def test_sticky_actions_have_their_probability() -> None:
    """Stay and right in turn from the left edge: the paddle moves unless the action before was repeated."""
    rows = 20_000
    dynamics = BreakoutDynamics(sticky_action_prob=0.3)
    rng = NumpyRandom(np.random.default_rng(0))
    state = dynamics.initial(dynamics.reset_noise(rng, rows))
    state, _, _ = dynamics.step(state, np.zeros(rows, int), dynamics.step_noise(rng, rows))
    after, _, _ = dynamics.step(state, np.full(rows, 2), dynamics.step_noise(rng, rows))
    repeated = (after["paddle"] == 4).mean()
    assert repeated == pytest.approx(0.3, abs=4 * np.sqrt(0.21 / rows))
    # What was repeated is the previous action now: with it repeated for sure, whoever moved moves again.
    certain = BreakoutDynamics(sticky_action_prob=1.0)
    more, _, _ = certain.step(after, np.zeros(rows, int), dynamics.step_noise(rng, rows))
    np.testing.assert_array_equal(more["paddle"] - after["paddle"], after["paddle"] - 4)


@pytest.mark.parametrize(("probability", "column"), [(0.0, 3), (1.0, 4)])
def test_an_episode_starts_with_stay_as_its_previous_action(probability: float, column: int) -> None:
    env = breakout(sticky_action_prob=probability)
    env.reset(seed=0)
    env.unwrapped._state["last_action"][:] = 3  # as an episode that ended going right leaves it
    env.reset()
    assert paddle(env.step(1)[0]) == column


@every_game
def test_whatever_is_there_is_seen_in_the_picture(env_id: str) -> None:
    env = gym.make(env_id, render_mode="rgb_array", sticky_action_prob=0.0)
    env.reset(seed=0)
    seen = set()
    for action in np.random.default_rng(0).integers(len(ACTIONS[env_id]), size=60).tolist():
        obs, _, terminated, _, _ = env.step(action)
        frame: Any = env.render()
        assert frame.shape == (320, 320, 3)
        assert frame.dtype == np.uint8
        centres = frame[16::32, 16::32]
        empty = centres[~obs.any(-1)]
        assert (empty == empty[0]).all()
        assert (centres[obs.any(-1)] != empty[0]).any(-1).all()
        seen.add(frame.tobytes())
        if terminated:
            env.reset()
    assert len(seen) > 5


def test_the_paddle_is_drawn_where_it_is() -> None:
    env = breakout(render_mode="rgb_array", sticky_action_prob=0.0)
    env.reset(seed=0)
    frames = [env.render()]
    env.step(1)
    frames.append(env.render())
    for frame, column in zip(frames, (4, 3), strict=True):
        bottom = frame[9 * 32 + 16, 16::32]
        assert np.flatnonzero((bottom != bottom[0]).any(-1)).tolist() == [column]


@pytest.mark.parametrize("probability", [1.5, -0.1, float("nan")])
def test_wrong_arguments(probability: float) -> None:
    with pytest.raises(ValueError, match=f"sticky_action_prob is {probability}"):
        breakout(sticky_action_prob=probability)


def test_options_of_a_reset_are_refused() -> None:
    with pytest.raises(ValueError, match="lives"):
        breakout().reset(options={"lives": 3})


@every_game
def test_no_package_is_needed(env_id: str) -> None:
    code = f"""
import sys
sys.modules["minatar"] = None
import gymnasium as gym, prefrl.envs
env = gym.make({env_id!r}, render_mode="rgb_array")
env.reset(seed=0)
print(env.render().shape)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "(320, 320, 3)\n"
