"""Distractors beside observations."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import prefrl.envs
from prefrl.envs import Distractors


def episode(env: gym.Env[Any, Any], seed: int, steps: int = 30) -> np.ndarray[Any, Any]:
    env.action_space.seed(seed)
    found = [env.reset(seed=seed)[0]]
    found += [env.step(env.action_space.sample())[0] for _ in range(steps)]
    return np.array(found)


def make(**settings: Any) -> gym.Env[Any, Any]:
    return gym.make("prefrl/Distracted-v0", **{"env_id": "Pendulum-v1", "distractors": 5, **settings})


def test_the_task_is_as_it_was() -> None:
    plain, beside = gym.make("Pendulum-v1"), make()
    np.testing.assert_array_equal(episode(beside, 3)[:, :3], episode(plain, 3))
    assert beside.observation_space.shape == (8,)
    assert beside.action_space == plain.action_space
    check_env(beside, skip_render_check=True)


def test_dynamics_by_hand() -> None:
    env = Distractors(gym.make("Pendulum-v1"), 2)
    env.linear = np.array([[2.0, 0.0], [1.0, 1.0]])
    env.waves = np.array([[1.0, 0.0], [0.0, 3.0]])
    z = env.moved(np.array([0.5, -1.0]))  # A z = (1, -.5)
    np.testing.assert_allclose(z, [1.0 + 0.1 * np.sin(1.0), -0.5 + 0.1 * np.sin(-1.5)])
    jumped = env.moved(np.array([11.0, 0.0]))  # 22 jumps, 11 does not
    assert jumped[0] == env.fixed[0]
    assert jumped[1] == pytest.approx(11.0 + 0.1 * np.sin(33.0))


def test_distractors_move_and_stay_in_the_space() -> None:
    seen = episode(make(distractors=15), 0, 200)
    assert np.abs(seen[:, 3:]).max() <= 20.0
    assert np.abs(seen[:, 3:]).max() > 5.0
    assert (np.abs(np.diff(seen[:, 3:], axis=0)).max(0) > 1e-3).all()
    assert np.abs(seen[0, 3:]).max() < 0.5


def test_training_and_evaluation_share_the_dynamics() -> None:
    first, second = make(), make()
    assert not np.array_equal(episode(first, 0)[0, 3:], episode(second, 1)[0, 3:])  # other starts
    np.testing.assert_array_equal(episode(first, 7), episode(second, 7))
    other = make(distractor_seed=1)
    assert not np.allclose(episode(other, 7)[1:, 3:], episode(first, 7)[1:, 3:])


def test_arguments_of_the_environment_pass_through() -> None:
    env = gym.make("prefrl/Distracted-v0", env_id="Hopper-v5", distractors=2,
                   exclude_current_positions_from_observation=False)  # fmt: skip
    assert env.observation_space.shape == (14,)
    rows = gym.make_vec("prefrl/Distracted-v0", 3, env_id="Pendulum-v1", distractors=4)
    assert rows.reset(seed=0)[0].shape == (3, 7)
    assert prefrl.envs.Distractors is Distractors


def test_refuses_what_it_cannot_stand_beside() -> None:
    with pytest.raises(ValueError, match="go beside a Box of vectors"):
        Distractors(gym.make("Blackjack-v1"))
    with pytest.raises(ValueError, match="distractors is 0"):
        Distractors(gym.make("Pendulum-v1"), 0)
