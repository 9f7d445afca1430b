"""A hidden item: answers, Bayes' rule, and the value of asking by a plain recursion."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import prefrl.envs

ID = "prefrl/TwentyQuestions-v0"
SMALL = {"items": 5, "features": 3, "questions": 2, "error": 0.1, "cost": 0.02}
assert prefrl.envs.REGISTRY


def made(**settings: Any) -> Any:
    return gym.make(ID, **settings).unwrapped


def chances(env: Any, known: dict[int, float]) -> list[float]:
    """Chances of items and answers together."""
    found = []
    for item, prior in enumerate(env.prior()):
        for feature, answer in known.items():
            agrees = (answer > 0) == bool(env.item_features()[item, feature])
            prior *= 1.0 - env.error if agrees else env.error
        found.append(prior)
    return found


def value(env: Any, known: dict[int, float], left: int) -> float:
    """Value of the best way on, times the chance of what is known."""
    weights = chances(env, known)
    options = [max(weights)]
    if left:
        for feature in set(range(env.num_features)) - set(known):
            both = (value(env, {**known, feature: answer}, left - 1) for answer in (-1.0, 1.0))
            options.append(sum(both) - env.cost * sum(weights))
    return max(options)


@pytest.mark.parametrize("seed", range(4))
def test_values_are_those_of_a_plain_recursion(seed: int) -> None:
    env = made(layout_seed=seed, **SMALL)
    assert env.optimal_value() == pytest.approx(value(env, {}, 2), abs=1e-12)
    obs = np.array([[0.0, 1.0, 0.0, 0.5]])
    found, total = env.action_values(obs)[0], sum(chances(env, {1: 1.0}))
    np.testing.assert_allclose(found[3:], np.array(chances(env, {1: 1.0})) / total)
    np.testing.assert_allclose(env.posterior(obs)[0], found[3:])
    asked = sum(value(env, {1: 1.0, 0: answer}, 0) for answer in (-1.0, 1.0)) / total - env.cost
    assert found[0] == pytest.approx(asked)
    assert found[1] == pytest.approx(found[3:].max() - env.cost)  # what is known already
    none_left = env.action_values(np.array([[0.0, 1.0, 1.0, 1.0]]))[0]
    np.testing.assert_allclose(none_left[:3], -env.cost)


def test_the_best_way_earns_what_it_is_worth() -> None:
    settings = {"items": 12, "features": 6, "questions": 3, "error": 0.05, "cost": 0.01, "layout_seed": 3}
    env, rows = made(**settings), gym.make_vec(ID, num_envs=20_000, autoreset_mode="Disabled", **settings)
    obs, _ = rows.reset(seed=0)
    earned, going = np.zeros(20_000), np.ones(20_000, dtype=bool)
    while going.any():
        dynamics, state = rows.unwrapped.dynamics, rows.unwrapped._state
        actions = env.action_values(obs).argmax(-1)
        state, rewards, ended = dynamics.step(state, actions, {})
        rows.unwrapped._state, obs = state, dynamics.observe(state)
        earned += rewards * going
        going &= ~ended
    assert earned.mean() == pytest.approx(env.optimal_value(), abs=4 * earned.std() / np.sqrt(20_000))


def test_answers_guesses_and_what_is_told() -> None:
    env = made(items=6, features=4, questions=2, cost=0.25)
    for item in range(6):
        obs, info = env.reset(seed=0, options={"item": item})
        assert obs.tolist() == [0.0] * 5
        assert info == {"item": item, "correct": 0}
        obs, reward, ended, _, _ = env.step(2)
        assert obs.tolist() == [0.0, 0.0, 1.0 if env.item_features()[item, 2] else -1.0, 0.0, 0.5]
        assert (reward, ended) == (-0.25, False)
        assert env.step(2)[0][-1] == 1.0  # asked again
        _, reward, ended, _, info = env.step(4 + item)
        assert (reward, ended, info) == (1.0, True, {"item": item, "correct": 1})
        env.reset(options={"item": item})
        _, reward, ended, _, info = env.step(4 + (item + 1) % 6)
        assert (reward, ended, info["correct"]) == (0.0, True, 0)
    env.reset(seed=0)
    for _ in range(2):
        assert not env.step(0)[2]
    obs, reward, ended, _, _ = env.step(1)  # no question is left
    assert (obs[1], reward, ended) == (0.0, -0.25, True)


def test_items_and_wrong_answers_are_as_frequent_as_told() -> None:
    env = gym.make_vec(ID, num_envs=40_000, error=0.2)
    _, infos = env.reset(seed=0)
    drawn = np.bincount(infos["item"], minlength=16) / 40_000
    assert np.abs(drawn - env.unwrapped.prior()).max() < 0.01
    obs = env.step(np.full(40_000, 3))[0]
    wrong = (obs[:, 3] > 0) != env.unwrapped.item_features()[infos["item"], 3]
    assert wrong.mean() == pytest.approx(0.2, abs=0.01)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"items": 1}, "items is 1"),
        ({"items": 9, "features": 3}, "items is 9; with 3 features it must be from 2 to 8"),
        ({"features": 17}, "features is 17"),
        ({"questions": 0}, "questions is 0"),
        ({"error": 0.5}, "error is 0.5"),
        ({"cost": -1.0}, "cost is -1.0"),
    ],
)
def test_wrong_arguments_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        made(**settings)


def test_wrong_questions_are_refused() -> None:
    env = made()
    with pytest.raises(ValueError, match=r"obs has shape \(8,\)"):
        env.posterior(np.zeros(8))
    with pytest.raises(ValueError, match="answers that no item gives"):
        made(items=2, features=3).posterior(
            [[*(1.0 - 2.0 * made(items=2, features=3).item_features()[0]), 0.0],
             [*(1.0 - 2.0 * made(items=2, features=3).item_features()[1]), 0.0]])  # fmt: skip
    with pytest.raises(ValueError, match="features is 10"):
        made(features=10).optimal_value()
    with pytest.raises(ValueError, match="item is 16"):
        env.reset(options={"item": 16})
