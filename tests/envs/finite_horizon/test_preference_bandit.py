"""The bandit of preferences: rewards, matrices that no rewards explain, circles."""

import itertools

import gymnasium as gym
import numpy as np
import pytest
import torch

import prefrl.envs
from prefrl.envs.finite_horizon.preference_bandit import PreferenceBanditDynamics, draw_preferences
from prefrl.functional.preferences.games import exploitability, minimax_winner


def test_golden_layouts():
    """The same seed gives the same arms, on every machine and in every version."""
    rewards = PreferenceBanditDynamics(1, 4, 3).sequence_returns()[0] * 256
    assert rewards.tolist() == GOLDEN_REWARDS
    general, circle = (draw_preferences(3, 1, 3, kind)[0] * 256 for kind in ("general", "intransitive"))
    assert general.tolist() == GOLDEN_GENERAL
    assert circle.tolist() == GOLDEN_CIRCLE


GOLDEN_REWARDS = [-425, -329, -270, -327]
GOLDEN_GENERAL = [[128, 22, 46], [234, 128, 205], [210, 51, 128]]
GOLDEN_CIRCLE = [[128, 139, 17], [117, 128, 230], [239, 26, 128]]


def test_an_episode_by_hand():
    env = gym.make("prefrl/PreferenceBandit-v0", contexts=3, arms=4)
    assert env.reset(options={"context": 2})[0] == 10
    obs, reward, terminated, truncated, info = env.step(3)
    assert (obs, terminated, truncated, info) == (14, True, False, {})
    assert reward == env.unwrapped.sequence_returns()[2, 3]
    assert {env.reset(seed=seed)[0] for seed in range(30)} == {0, 5, 10}
    with pytest.raises(ValueError, match="context is 3; it must be a whole number from 0 to 2"):
        env.reset(options={"context": 3})


@pytest.mark.parametrize("kind", ["bradley_terry", "general", "intransitive"])
@pytest.mark.parametrize("arms", [3, 4, 7])
def test_preferences_are_probabilities_of_both_sides(kind, arms):
    for seed in range(5):
        matrix = PreferenceBanditDynamics(4, arms, seed, kind).preference_matrix()
        assert matrix.shape == (4, arms, arms)
        np.testing.assert_allclose(matrix + matrix.swapaxes(1, 2), 1.0, rtol=0.0, atol=1e-15)
        assert ((matrix > 0.0) & (matrix < 1.0)).all()
        assert (matrix[:, range(arms), range(arms)] == 0.5).all()


def test_by_default_rewards_explain_preferences():
    env = PreferenceBanditDynamics(3, 6, 8)
    returns, matrix = env.sequence_returns(), env.preference_matrix()
    assert np.abs(returns).max() <= 2.0
    assert np.abs(returns).max() > 1.0
    log_odds = np.log(matrix / matrix.swapaxes(1, 2))
    np.testing.assert_allclose(log_odds, returns[:, :, None] - returns[:, None, :], rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("kind", ["general", "intransitive"])
def test_without_rewards_an_arm_pays_its_mean_win(kind):
    env = PreferenceBanditDynamics(3, 5, 1, kind)
    matrix = env.preference_matrix()
    for context, arm in np.ndindex(3, 5):
        mean_win = sum(matrix[context, arm, j] - 0.5 for j in range(5)) / 5
        assert env.sequence_returns()[context, arm] == pytest.approx(mean_win, abs=1e-15)


def consistent(matrix):
    """Whether log-odds add up along every triangle, as those of rewards do."""
    odds = np.log(matrix / matrix.T)
    return all(
        abs(odds[i, j] + odds[j, k] + odds[k, i]) < 1e-9
        for i, j, k in itertools.combinations(range(len(matrix)), 3)
    )


def test_what_no_rewards_explain():
    assert consistent(PreferenceBanditDynamics(1, 4).preference_matrix()[0])
    for kind in ("general", "intransitive"):
        for seed in range(5):
            assert not consistent(PreferenceBanditDynamics(1, 4, seed, kind).preference_matrix()[0])
    first, second = np.triu_indices(5, 1)
    drawn = draw_preferences(0, 400, 5, "general")[:, first, second]
    assert drawn.mean() == pytest.approx(0.5, abs=0.02)
    assert drawn.std() == pytest.approx(1.0 / np.sqrt(12.0), abs=0.01)


@pytest.mark.parametrize("arms", [3, 4, 5, 6])
def test_arms_on_a_circle(arms):
    """Each arm beats the next ones and is beaten by the ones before: the best answer is always another."""
    matrix = draw_preferences(7, 50, arms, "intransitive")
    for i, j in itertools.permutations(range(arms), 2):
        ahead = (j - i) % arms
        if 2 * ahead == arms:
            assert (matrix[:, i, j] == 0.5).all()
        else:
            assert ((matrix[:, i, j] > 0.5) == (2 * ahead < arms)).all()
    for one in matrix[:5]:
        game = torch.as_tensor(2.0 * one - 1.0)
        winner = minimax_winner(game)
        assert float(exploitability(game, winner)) < 1e-9
        assert float(winner.max()) < 0.999  # it mixes
        assert (exploitability(game, torch.eye(arms).double()) > 0.0).all()


def test_what_is_handed_out_belongs_to_the_caller():
    env = PreferenceBanditDynamics()
    env.preference_matrix()[...] = 0.0
    env.tabular_model().successors[...] = 0
    assert (env.preference_matrix() > 0.0).all()
    assert env.step({"state": np.array([0])}, np.array([4]), {})[0]["state"].tolist() == [5]
    assert env.tabular_model().successors[0, 4, 0] == 5


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"arms": 1}, "arms is 1; it must be at least 2"),
        ({"contexts": 0}, "contexts is 0"),
        ({"preferences": "circular"}, "preferences is 'circular'; allowed are .*'intransitive'"),
        ({"preferences": ["general"]}, r"preferences is \['general'\]; allowed are"),
        ({"preferences": "intransitive", "arms": 2}, "arms is 2; .* at least 3"),
        ({"arms": 2**19, "contexts": 1}, "more than 67108864 pairs"),
        ({"arms": 2**21, "contexts": 1}, "arms 2097152, .* more than 1048576 states"),
        ({"layout_seed": -3}, "layout_seed is -3"),
    ],
)
def test_wrong_arguments_are_named(kwargs, message):
    for maker in (gym.make, gym.make_vec, lambda i, **k: prefrl.envs.make_device(i, 2, **k)):
        with pytest.raises(ValueError, match=message):
            maker("prefrl/PreferenceBandit-v0", **kwargs)
