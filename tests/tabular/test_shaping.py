"""Potentials change no best action; loops that only a bonus pays are named."""

import numpy as np
import pytest
import torch

from prefrl.tabular import TabularMDP, greedy_policy, optimal_policy, potential_rewards, reward_loops


def random_mdp(rng: np.random.Generator, states: int = 8, actions: int = 3) -> TabularMDP:
    chances = rng.dirichlet(np.full(states, 0.3), (states, actions))
    ends = np.arange(states) == states - 1
    return TabularMDP.from_arrays(chances, rng.normal(size=(states, actions)), terminal=ends)


def chain(true: float = 0.0) -> TabularMDP:
    """0 and 1 lead to each other (action 0, paid ``true``) or to 2, which leads to the end and pays 1."""
    chances, rewards = np.zeros((4, 2, 4)), np.zeros((4, 2))
    chances[0, 0, 1] = chances[1, 0, 0] = chances[0, 1, 2] = chances[1, 1, 2] = 1.0
    chances[2:, :, 3] = 1.0
    rewards[:2, 0], rewards[2] = true, 1.0
    return TabularMDP.from_arrays(chances, rewards, terminal=[False, False, False, True])


def bonus_of(first: float, second: float) -> torch.Tensor:
    bonus = torch.zeros(4, 2, dtype=torch.float64)
    bonus[0, 0], bonus[1, 0] = first, second
    return bonus


def test_a_potential_changes_no_best_action_in_100_random_mdps() -> None:
    rng, changed = np.random.default_rng(0), 0
    for _ in range(100):
        mdp = random_mdp(rng)
        true = mdp.linear_rewards(mdp.weights)
        potential = torch.as_tensor(3.0 * rng.normal(size=(1, 8)))
        shaping = potential_rewards(mdp, potential, 0.9)
        (_, quality, best), (_, shaped, same) = (
            optimal_policy(mdp, rewards, 0.9) for rewards in (true, true + shaping)
        )
        changed += int(((best > 0) != (same > 0))[~mdp.terminal].any())
        living = ~mdp.terminal
        expected = quality - potential[..., None]
        torch.testing.assert_close(shaped[living], expected[living], rtol=0.0, atol=1e-9)
    assert changed == 0
    assert (
        (greedy_policy(true + 3.0 * shaping.flip(1)) > 0) != (best > 0)
    ).any()  # what is no potential does


def test_a_planted_loop_is_named() -> None:
    (loop,) = reward_loops(chain(), bonus_of(0.3, -0.1))
    assert (loop.states, loop.actions) == ((0, 1), (0, 0))
    assert loop.gain == pytest.approx(0.1)
    assert loop.true_gain == pytest.approx(0.0)


def test_what_pays_no_loop_is_not_flagged() -> None:
    assert reward_loops(chain(), bonus_of(0.3, -0.3)) == []
    assert reward_loops(chain(-0.2), bonus_of(0.3, 0.05)) == []  # the way costs more
    assert reward_loops(chain(0.5), bonus_of(0.3, 0.1)) == []  # the loop is what is truly wanted
    into_the_end = torch.zeros(4, 2, dtype=torch.float64)
    into_the_end[2] = 9.0
    assert reward_loops(chain(), into_the_end) == []  # paid once


@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_potentials_and_the_trap_of_a_discount(gamma: float) -> None:
    potential = torch.rand(1, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert reward_loops(chain(), potential_rewards(chain(), potential, gamma)[0]) == []
    below = reward_loops(chain(), potential_rewards(chain(), -potential, gamma)[0])
    gain = (1.0 - gamma) * float(potential[0, :2].mean())
    assert [loop.gain for loop in below] == ([] if gamma == 1.0 else [pytest.approx(gain)])


def test_the_loop_with_the_largest_mean_is_found_among_many() -> None:
    """Against all simple cycles of small deterministic graphs, gone through one by one."""
    rng = np.random.default_rng(1)
    flagged = 0
    for _ in range(60):
        states = 5
        follow = rng.integers(states, size=(states, 2))
        bonus = rng.normal(size=(states, 2)) - 0.7
        mdp = TabularMDP.from_arrays(np.eye(states)[follow], np.zeros((states, 2)))
        best = max(_means(follow, bonus))
        found = reward_loops(mdp, torch.as_tensor(bonus))
        flagged += bool(found)
        assert bool(found) == (best > 1e-9)
        if found:
            assert found[0].gain == pytest.approx(best)
            way, done = found[0].states, found[0].actions
            assert all(
                follow[s, a] == way[(i + 1) % len(way)]
                for i, (s, a) in enumerate(zip(way, done, strict=True))
            )
    assert 5 < flagged < 55


def _means(follow: np.ndarray, bonus: np.ndarray) -> list[float]:
    """Mean bonuses of all cycles."""
    found = []

    def walk(start: int, here: int, paid: list[float], seen: set[int]) -> None:
        for action in range(follow.shape[1]):
            there = int(follow[here, action])
            total = [*paid, float(bonus[here, action])]
            if there == start:
                found.append(float(np.mean(total)))
            elif there not in seen:
                walk(start, there, total, seen | {there})

    for start in range(len(follow)):
        walk(start, start, [], {start})
    return found


def test_where_steps_are_random_what_may_leave_is_no_loop() -> None:
    chances = np.zeros((3, 2, 3))
    chances[0, 0] = [0.5, 0.5, 0.0]  # between 0 and 1
    chances[1, 0] = [0.5, 0.5, 0.0]
    chances[0, 1] = chances[1, 1] = [0.5, 0.0, 0.5]  # may end
    chances[2, :, 2] = 1.0
    mdp = TabularMDP.from_arrays(chances, np.zeros((3, 2)), terminal=[False, False, True])
    bonus = torch.zeros(3, 2, dtype=torch.float64)
    bonus[:2, 1] = 5.0
    assert reward_loops(mdp, bonus) == []
    bonus[1, 0] = 1.0
    (loop,) = reward_loops(mdp, bonus)
    assert set(loop.states) == {0, 1}
    assert loop.gain == pytest.approx(0.5)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="bonus has shape"):
        reward_loops(chain(), torch.zeros(3, 2, dtype=torch.float64))
    two = chain().select(torch.tensor([0, 0]))
    with pytest.raises(ValueError, match="mdp holds 2 MDPs"):
        reward_loops(two, torch.zeros(4, 2, dtype=torch.float64))
    with pytest.raises(ValueError, match="gamma is 2"):
        potential_rewards(chain(), torch.zeros(1, 4, dtype=torch.float64), 2.0)
