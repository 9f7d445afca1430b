"""Tours with time windows: what is stepped is what is scored, and the truth is the best of everything."""

import itertools
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import prefrl.envs

ID = "prefrl/WindowTSP-v0"
assert prefrl.envs.REGISTRY


def made(**settings: Any) -> Any:
    return gym.make(ID, **settings).unwrapped


def by_hand(env: Any, tour: list[int]) -> tuple[float, float]:
    """A plain traveller."""
    place, clock, hard, soft, visited = env.cities, 0.0, 0, 0.0, set()
    for city in tour:
        clock += env.ways[place, city]
        soft += 1.0 - env.ways[place, city] / env.ways.max()
        hard += city not in visited and clock <= env.windows[city, 1]
        visited.add(city)
        clock, place = max(clock, env.windows[city, 0]), city
    return hard / env.cities, soft / env.cities


@pytest.mark.parametrize("seed", range(3))
def test_steps_scores_and_a_plain_traveller_agree(seed: int) -> None:
    env, rng = made(cities=6, layout_seed=seed, soft_weight=1.5), np.random.default_rng(seed)
    for _ in range(20):
        tour = rng.integers(6, size=6)
        env.reset(seed=0)
        steps = [env.step(city) for city in tour]
        parts = sum(step[4]["reward_vector"] for step in steps)
        np.testing.assert_allclose(parts, env.score(tour[None])[0], atol=1e-12)
        np.testing.assert_allclose(parts, by_hand(env, tour.tolist()), atol=1e-12)
        assert sum(step[1] for step in steps) == pytest.approx(parts[0] + 1.5 * parts[1])
        assert [step[2] for step in steps] == [False] * 5 + [True]


def test_what_is_seen() -> None:
    env = made(cities=3, width=0.0, layout_seed=2)
    tour, _ = env.best_feasible_tour()
    env.reset(seed=0)
    late = env.step(int(tour[-1]))[0]  # it opens when the others have been served
    assert late[tour[-1]] == 1.0
    assert late[3 + tour[-1]] == 1.0
    assert late[-1] == pytest.approx(env.windows[tour[-1], 0] / env.latest, abs=1e-6)  # waited
    seen = env.step(int(tour[0]))[0]
    assert seen[:3].tolist() == [{int(tour[-1]): 1.0, int(tour[0]): -1.0}.get(city, 0.0) for city in range(3)]
    assert env.step(int(tour[0]))[4]["reward_vector"].tolist() == [0.0, pytest.approx(1 / 3)]  # stays


@pytest.mark.parametrize("seed", range(5))
def test_the_truth_is_the_best_of_everything(seed: int) -> None:
    env = made(cities=4, layout_seed=seed)
    scores = {tour: by_hand(env, list(tour)) for tour in itertools.product(range(4), repeat=4)}
    assert env.optimal_value() == pytest.approx(max(hard + 2.0 * soft for hard, soft in scores.values()))
    tour, soft = env.best_feasible_tour()
    feasible = {t: s for t, (hard, s) in scores.items() if hard == 1.0}
    assert soft == pytest.approx(max(feasible.values()))
    assert feasible[tuple(tour.tolist())] == pytest.approx(soft)
    assert sorted(tour.tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"cities": 1}, "cities is 1"),
        ({"cities": 41}, "cities is 41"),
        ({"width": -1.0}, "width is -1.0"),
        ({"soft_weight": float("nan")}, "soft_weight is nan"),
        ({"layout_seed": -1}, "layout_seed is -1"),
    ],
)
def test_wrong_arguments_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        made(**settings)


def test_wrong_questions_are_refused() -> None:
    env = made(cities=8)
    with pytest.raises(ValueError, match="cities is 8; sequences of more than 7"):
        env.optimal_value()
    with pytest.raises(ValueError, match=r"sequences have shape \(1, 3\)"):
        env.score(np.zeros((1, 3), dtype=np.int64))
    with pytest.raises(ValueError, match="cities from 0 to 7"):
        env.score(np.full((1, 8), 8))
    with pytest.raises(ValueError, match="reset options"):
        env.reset(options={"city": 1})
