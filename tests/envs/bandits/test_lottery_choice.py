"""Choices between two lotteries: what is drawn, and what is known of it."""

import gymnasium as gym
import numpy as np
import pytest

import prefrl.envs

ENV = "prefrl/LotteryChoice-v0"


def test_lotteries_are_distributions_some_nearly_certain_some_not():
    env = gym.make_vec(ENV, 2_000, prizes=4)
    obs, _ = env.reset(seed=0)
    chances = obs.reshape(-1, 2, 4)
    np.testing.assert_allclose(chances.sum(-1), 1.0, atol=1e-5)
    assert (chances >= 0.0).all()
    largest = chances.max(-1)
    assert (largest > 0.95).mean() > 0.05
    assert (largest < 0.5).mean() > 0.05
    np.testing.assert_allclose(chances.mean((0, 1)), 0.25, atol=0.02)  # no prize is special


def test_the_chosen_lottery_pays_what_is_expected_of_it():
    """20,000 choices of each side in one pair of lotteries: the mean within 4 standard errors."""
    env = prefrl.envs.make_device(ENV, 20_000, prizes=3, layout_seed=2, autoreset_mode="Disabled")
    env.reset(seed=0)
    state = env.state_dict()
    state["state"]["chances"][:] = state["state"]["chances"][:1].clone()
    seen = []
    for side in (0, 1):
        env.load_state_dict(state)
        obs = state["state"]["chances"].reshape(-1, 6)
        rewards, terminated = env.step(np.full(20_000, side))[1:3]
        assert bool(terminated.all())
        expected = env.expected_rewards(obs[:1].numpy())[0, side]
        error = float(rewards.std()) / 20_000**0.5
        assert abs(float(rewards.mean()) - expected) < 4.0 * error
        seen.append(expected)
    assert seen[0] != seen[1]


def test_what_is_refused():
    with pytest.raises(ValueError, match="prizes is 1; it must be from 2 to 32"):
        gym.make(ENV, prizes=1)
    env = gym.make(ENV, prizes=3)
    with pytest.raises(ValueError, match=r"it must be \[n, 6\]"):
        env.unwrapped.expected_rewards(np.zeros((2, 5)))
    with pytest.raises(ValueError, match="prize"):
        env.reset(options={"prize": 1})
    np.testing.assert_array_equal(
        env.unwrapped.prize_values(), gym.make(ENV, prizes=3).unwrapped.prize_values()
    )
    assert (
        env.unwrapped.prize_values() != gym.make(ENV, prizes=3, layout_seed=1).unwrapped.prize_values()
    ).any()
