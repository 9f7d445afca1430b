"""Exact solvers: published numbers, plain twins, batches of MDPs of different size."""

from collections.abc import Callable
from functools import cache

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

import prefrl.envs  # noqa: F401
from prefrl.envs.grids.grid import TabularModel
from prefrl.tabular import (
    TabularMDP,
    action_values,
    greedy_policy,
    mean_start_value,
    optimal_policy,
    policy_evaluation,
    policy_iteration,
    value_iteration,
)

MakeModel = Callable[..., TabularModel]
GAMMA = 0.999

seeds = st.integers(0, 2**32 - 1)
sizes = st.fixed_dictionaries(
    {
        "states": st.integers(2, 8),
        "actions": st.integers(1, 4),
        "outcomes": st.integers(1, 3),
        "ends": st.integers(0, 1),
    }
)


# Plain twins -------------------------------------------------------------------------------------------


def backup(model: TabularModel, rewards: np.ndarray, value: list[float], gamma: float) -> list[list[float]]:
    """Q of one MDP, state by state; 0 in terminal states."""
    quality = []
    for s, terminal in enumerate(model.terminal):
        row = []
        for a in range(model.successors.shape[1]):
            following = 0.0
            for k, probability in enumerate(model.probabilities[s, a]):
                following += probability * value[model.successors[s, a, k]]
            row.append(0.0 if terminal else float(rewards[s, a]) + gamma * following)
        quality.append(row)
    return quality


def twin_optimal_value(model: TabularModel, rewards: np.ndarray, gamma: float) -> list[float]:
    value = [0.0] * len(model.terminal)
    for _ in range(10_000):
        new = [max(row) for row in backup(model, rewards, value, gamma)]
        if max(abs(a - b) for a, b in zip(new, value, strict=True)) <= 1e-14 * (1.0 - gamma):
            break
        value = new
    return new


def twin_policy_value(
    model: TabularModel, policy: np.ndarray, rewards: np.ndarray, gamma: float
) -> list[float]:
    value = [0.0] * len(model.terminal)
    for _ in range(10_000):
        quality = backup(model, rewards, value, gamma)
        new = [sum(p * q for p, q in zip(*row, strict=True)) for row in zip(policy, quality, strict=True)]
        if max(abs(a - b) for a, b in zip(new, value, strict=True)) <= 1e-14 * (1.0 - gamma):
            break
        value = new
    return new


def close(actual: Tensor, expected: object, atol: float) -> None:
    torch.testing.assert_close(
        actual, torch.as_tensor(expected, dtype=torch.float64), rtol=0.0, atol=atol, check_device=False
    )


def random_policy(mdp: TabularMDP, seed: int, *leading: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (*leading, mdp.num_mdps, mdp.num_states, mdp.num_actions)
    policy = torch.rand(shape, generator=generator, dtype=torch.float64)
    policy[torch.rand(shape, generator=generator) < 0.3] = 0.0
    policy[..., 0] += 0.01
    return policy / policy.sum(-1, keepdim=True)


@cache
def delivery() -> TabularMDP:
    return TabularMDP.from_env(gym.make("prefrl/Delivery-v0"))


@cache
def grid_models() -> tuple[TabularModel, ...]:
    """Grids of different size, two of them with lotteries (K = 2 and a seventh feature)."""
    plain = [gym.make("prefrl/RandomGrid-v0", layout_seed=seed) for seed in (0, 1, 2, 4)]
    lotteries = [gym.make("prefrl/RandomGrid-v0", layout_seed=seed, stochastic=True) for seed in (1, 2)]
    return tuple(env.unwrapped.tabular_model() for env in (plain + lotteries))


# Numbers known -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("solve", [value_iteration, policy_iteration])
def test_golden_return_of_the_optimal_policy(solve: Callable[..., Tensor]) -> None:
    mdp = delivery()
    value = solve(mdp, mdp.linear_rewards(mdp.weights), GAMMA)
    assert mean_start_value(mdp, value).item() == pytest.approx(41.20794768831405, abs=1e-9)


@pytest.mark.parametrize("method", ["solve", "iterate"])
@pytest.mark.parametrize(("gamma", "expected"), [(GAMMA, -71.25738281279433), (1.0, -73.92457929)])
def test_golden_return_of_the_uniform_policy(method: str, gamma: float, expected: float) -> None:
    mdp = delivery()
    rewards = mdp.linear_rewards(mdp.weights)
    value = policy_evaluation(mdp, torch.full_like(rewards, 0.25), rewards, gamma, method=method)
    digits = 1e-9 if gamma < 1.0 else 5e-9  # the second is published with eight decimals
    assert mean_start_value(mdp, value).item() == pytest.approx(expected, abs=digits)


def test_golden_undiscounted_values() -> None:
    mdp = delivery()
    value = value_iteration(mdp, mdp.linear_rewards(mdp.weights), 1.0)[0].reshape(10, 10)
    golden = {
        (0, 0): 34, (1, 4): 36, (2, 7): 41, (5, 5): 43, (6, 9): 48, (8, 8): 50, (9, 9): 50, (9, 0): 41
    }  # fmt: skip
    for cell, expected in golden.items():
        assert value[cell].item() == pytest.approx(expected, abs=1e-9)


def test_a_small_mdp_by_hand() -> None:
    """State 0 may stay for 1 or move to 1 for 0; state 1 pays 8 and ends, half the time, or goes back."""
    model = TabularModel(
        successors=np.array([[[0, 0], [1, 1]], [[2, 0], [2, 0]], [[2, 2], [2, 2]]]),
        probabilities=np.array([[[1.0, 0.0], [1.0, 0.0]], [[0.5, 0.5], [1.0, 0.0]], [[1.0, 0.0]] * 2]),
        features=np.array(
            [[[[1.0], [9.0]], [[0.0], [9.0]]], [[[8.0], [8.0]], [[4.0], [9.0]]], [[[0.0], [0.0]]] * 2]
        ),
        weights=np.array([1.0]),
        terminal=np.array([False, False, True]),
        start=np.array([0.25, 0.75, 0.0]),
        feature_names=("pay",),
    )
    mdp = TabularMDP.stack([model])
    rewards = mdp.linear_rewards(mdp.weights)
    assert rewards.tolist() == [[[1.0, 0.0], [8.0, 4.0], [0.0, 0.0]]]
    # V0 = max(1 + V0 / 2, V1 / 2), V1 = 8 + (V0 / 2) / 2: staying is worth 2, moving x = 4 + x / 8 = 32 / 7
    value, quality, policy = optimal_policy(mdp, rewards, 0.5)
    close(value, [[32 / 7, 64 / 7, 0.0]], 1e-12)
    close(quality, [[[23 / 7, 32 / 7], [64 / 7, 4.0], [0.0, 0.0]]], 1e-12)
    assert policy.tolist() == [[[0.0, 1.0], [1.0, 0.0], [0.5, 0.5]]]
    assert mean_start_value(mdp, value).item() == pytest.approx(8.0)
    # Uniform: V0 = (1 + V0 / 2 + V1 / 2) / 2, V1 = (8 + V0 / 4 + 4) / 2
    uniform = policy_evaluation(mdp, torch.full_like(rewards, 0.5), rewards, 0.5)
    close(uniform, [[64 / 23, 146 / 23, 0.0]], 1e-12)


def test_gamma_zero_looks_one_step_ahead(random_model: MakeModel) -> None:
    mdp = TabularMDP.stack([random_model(5)])
    rewards = mdp.linear_rewards(mdp.weights)
    best = rewards.amax(-1).masked_fill(mdp.terminal, 0.0)
    assert torch.equal(value_iteration(mdp, rewards, 0.0), best)
    assert torch.equal(policy_iteration(mdp, rewards, 0.0), best)
    policy = random_policy(mdp, 0)
    mean = (policy * rewards).sum(-1).masked_fill(mdp.terminal, 0.0)
    for method in ("solve", "iterate"):
        close(policy_evaluation(mdp, policy, rewards, 0.0, method=method), mean, 1e-14)


# Twins and agreement -----------------------------------------------------------------------------------


@given(seeds, sizes, st.sampled_from([0.0, 0.3, 0.9]))
def test_planning_equals_its_plain_twin(
    random_model: MakeModel, seed: int, size: dict[str, int], gamma: float
) -> None:
    model = random_model(seed, **size)
    mdp = TabularMDP.stack([model])
    rewards = mdp.linear_rewards(mdp.weights)
    twin = twin_optimal_value(model, rewards[0].numpy(), gamma)
    close(value_iteration(mdp, rewards, gamma)[0], twin, 1e-9)
    value, quality, policy = optimal_policy(mdp, rewards, gamma)
    close(value[0], twin, 1e-9)
    close(quality[0], backup(model, rewards[0].numpy(), twin, gamma), 1e-9)
    for s, row in enumerate(backup(model, rewards[0].numpy(), twin, gamma)):
        best = [q > max(row) - 1e-8 for q in row]
        close(policy[0, s], [b / sum(best) for b in best], 0.0)


@given(seeds, sizes, st.sampled_from([0.0, 0.3, 0.9]))
def test_policy_evaluation_equals_its_plain_twin(
    random_model: MakeModel, seed: int, size: dict[str, int], gamma: float
) -> None:
    model = random_model(seed, **size)
    mdp = TabularMDP.stack([model])
    rewards = mdp.linear_rewards(mdp.weights)
    policy = random_policy(mdp, seed)
    twin = twin_policy_value(model, policy[0].numpy(), rewards[0].numpy(), gamma)
    close(policy_evaluation(mdp, policy, rewards, gamma)[0], twin, 1e-10)
    close(policy_evaluation(mdp, policy, rewards, gamma, method="iterate")[0], twin, 1e-10)


def test_value_iteration_equals_policy_iteration_near_gamma_one(random_model: MakeModel) -> None:
    models = [random_model(s, states=2 + s % 7, outcomes=1 + s % 3, ends=s % 2) for s in range(60)]
    mdp = TabularMDP.stack(models)
    rewards = mdp.linear_rewards(mdp.weights)
    value = policy_iteration(mdp, rewards, GAMMA)
    scale = max(1.0, value.abs().max().item())
    close(value_iteration(mdp, rewards, GAMMA), value, 1e-9 * scale)
    # The optimality equation itself, and the greedy policy's own value.
    quality = action_values(mdp, value, rewards, GAMMA)
    close(quality.amax(-1).masked_fill(mdp.terminal, 0.0), value, 1e-11 * scale)
    close(policy_evaluation(mdp, greedy_policy(quality), rewards, GAMMA), value, 1e-6 * scale)


@pytest.mark.parametrize("gamma", [1 - 1e-5, 1 - 1e-7, 1 - 1e-9])
def test_policy_iteration_settles_however_near_gamma_is_to_one(random_model: MakeModel, gamma: float) -> None:
    mdp = TabularMDP.stack([random_model(seed, states=8, ends=seed % 2) for seed in range(40)])
    rewards = mdp.linear_rewards(mdp.weights)
    value = policy_iteration(mdp, rewards, gamma)
    scale = value.abs().amax(-1, keepdim=True).clamp(min=1.0)
    quality = action_values(mdp, value, rewards, gamma)
    residual = (quality.amax(-1).masked_fill(mdp.terminal, 0.0) - value) / scale
    assert residual.abs().max() < 1e-9


@given(seeds, sizes)
def test_undiscounted_values_of_policies_that_end(
    random_model: MakeModel, seed: int, size: dict[str, int]
) -> None:
    """Every action ends the episode with probability 1/4: gamma 1 there is gamma 3/4 without the end."""
    inner = random_model(seed, **{**size, "ends": 0})
    states, actions, outcomes = inner.successors.shape
    successors = np.concatenate([inner.successors, np.full((states, actions, 1), states)], 2)
    probabilities = np.concatenate([0.75 * inner.probabilities, np.full((states, actions, 1), 0.25)], 2)
    features = np.concatenate([inner.features / 0.75, np.zeros((states, actions, 1, 3))], 2)
    end = np.full((1, actions, outcomes + 1), states)
    outer = TabularModel(
        np.concatenate([successors, end]),
        np.concatenate([probabilities, np.eye(outcomes + 1)[np.zeros((1, actions), dtype=int)]]),
        np.concatenate([features, np.zeros((1, *features.shape[1:]))]),
        inner.weights,
        np.arange(states + 1) == states,
        np.append(inner.start, 0.0),
        inner.feature_names,
    )
    short, long = TabularMDP.stack([inner]), TabularMDP.stack([outer])
    rewards, long_rewards = short.linear_rewards(short.weights), long.linear_rewards(long.weights)
    close(value_iteration(long, long_rewards, 1.0)[:, :-1], value_iteration(short, rewards, 0.75), 1e-9)
    policy = random_policy(short, seed)
    extended = torch.cat([policy, policy[:, :1]], 1)
    expected = policy_evaluation(short, policy, rewards, 0.75)
    for method in ("solve", "iterate"):
        value = policy_evaluation(long, extended, long_rewards, 1.0, method=method)
        close(value[:, :-1], expected, 1e-9)


@given(seeds, sizes)
def test_no_policy_is_better_than_the_optimal_value(
    random_model: MakeModel, seed: int, size: dict[str, int]
) -> None:
    mdp = TabularMDP.stack([random_model(seed, **size)])
    rewards = mdp.linear_rewards(mdp.weights)
    best = policy_iteration(mdp, rewards, 0.95)
    value = policy_evaluation(mdp, random_policy(mdp, seed, 5), rewards, 0.95)
    assert (value <= best + 1e-9).all()


# Batches -----------------------------------------------------------------------------------------------


def test_a_batch_of_grids_of_different_size_equals_one_at_a_time_and_the_environments() -> None:
    models = grid_models()
    mdp = TabularMDP.stack(models)
    assert len({model.successors.shape[0] for model in models}) > 3
    rewards, policy = mdp.linear_rewards(mdp.weights), random_policy(mdp, 0)
    swept = value_iteration(mdp, rewards, GAMMA)
    planned, quality, greedy = optimal_policy(mdp, rewards, GAMMA)
    valued = policy_evaluation(mdp, policy, rewards, GAMMA)
    iterated = policy_evaluation(mdp, policy, rewards, 0.9, method="iterate")
    for m, model in enumerate(models):
        s = len(model.terminal)
        alone = TabularMDP.stack([model])
        reward, mine = alone.linear_rewards(alone.weights), policy[m : m + 1, :s]
        close(swept[m, :s], value_iteration(alone, reward, GAMMA)[0], 1e-9)
        close(planned[m, :s], policy_iteration(alone, reward, GAMMA)[0], 1e-9)
        close(valued[m, :s], policy_evaluation(alone, mine, reward, GAMMA)[0], 1e-9)
        close(greedy[m, :s], optimal_policy(alone, reward, GAMMA)[2][0], 0.0)
        # The environments' own solvers share no code with these.
        close(swept[m, :s], model.optimal_value(GAMMA), 1e-8)
        close(valued[m, :s], model.true_value(mine[0].numpy(), GAMMA), 1e-9)
        twin = twin_policy_value(model, mine[0].numpy(), reward[0].numpy(), 0.9)
        close(iterated[m, :s], twin, 1e-9)
        for table in (swept, planned, valued, iterated, quality.amax(-1)):
            assert not table[m, s:].any()


@settings(max_examples=30)
@given(st.lists(st.tuples(seeds, sizes), min_size=2, max_size=4), st.sampled_from([0.5, 0.9]))
def test_a_batch_of_random_mdps_equals_one_at_a_time(
    random_model: MakeModel, specifications: list[tuple[int, dict[str, int]]], gamma: float
) -> None:
    models = [random_model(seed, **{**size, "actions": 2}) for seed, size in specifications]
    mdp = TabularMDP.stack(models)
    rewards, policy = mdp.linear_rewards(mdp.weights), random_policy(mdp, 1)
    batch = [
        value_iteration(mdp, rewards, gamma),
        policy_iteration(mdp, rewards, gamma),
        policy_evaluation(mdp, policy, rewards, gamma),
    ]
    for m, model in enumerate(models):
        s, alone = len(model.terminal), TabularMDP.stack([model])
        reward = alone.linear_rewards(alone.weights)
        single = [
            value_iteration(alone, reward, gamma),
            policy_iteration(alone, reward, gamma),
            policy_evaluation(alone, policy[m : m + 1, :s], reward, gamma),
        ]
        for one, all_of_them in zip(single, batch, strict=True):
            close(all_of_them[m, :s], one[0], 1e-9)
            assert not all_of_them[m, s:].any()


def test_leading_axes_are_problems_of_their_own(random_model: MakeModel) -> None:
    mdp = TabularMDP.stack([random_model(0), random_model(1, states=4, outcomes=1)])
    weights = torch.randn(2, 3, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rewards, policy = mdp.linear_rewards(weights), random_policy(mdp, 2, 2, 3)
    swept, planned = (solve(mdp, rewards, 0.9) for solve in (value_iteration, policy_iteration))
    valued = policy_evaluation(mdp, policy, rewards, 0.9)
    assert swept.shape == planned.shape == valued.shape == (2, 3, 2, 6)
    for i in range(2):
        for j in range(3):
            close(swept[i, j], value_iteration(mdp, rewards[i, j], 0.9), 1e-10)
            close(planned[i, j], policy_iteration(mdp, rewards[i, j], 0.9), 1e-10)
            close(valued[i, j], policy_evaluation(mdp, policy[i, j], rewards[i, j], 0.9), 1e-10)
    # One reward for many policies, and one policy for many rewards.
    for method in ("solve", "iterate"):
        shared = policy_evaluation(mdp, policy, rewards[0, 0], 0.9, method=method)
        close(shared[1, 2], policy_evaluation(mdp, policy[1, 2], rewards[0, 0], 0.9), 1e-9)
        fixed = policy_evaluation(mdp, policy[0, 0], rewards, 0.9, method=method)
        close(fixed[1, 2], policy_evaluation(mdp, policy[0, 0], rewards[1, 2], 0.9), 1e-9)


def test_large_batches_are_solved_in_pieces(monkeypatch: pytest.MonkeyPatch, random_model: MakeModel) -> None:
    mdp = TabularMDP.stack([random_model(seed) for seed in range(3)])
    weights = torch.randn(5, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rewards, policy = mdp.linear_rewards(weights), random_policy(mdp, 2, 5)
    whole = policy_evaluation(mdp, policy, rewards, 0.9), policy_iteration(mdp, rewards, 0.9)
    monkeypatch.setattr("prefrl.tabular.solvers.MAX_SOLVE_ELEMENTS", 2 * 3 * 6 * 6)
    close(policy_evaluation(mdp, policy, rewards, 0.9), whole[0], 1e-12)
    close(policy_iteration(mdp, rewards, 0.9), whole[1], 1e-12)


def test_what_terminal_states_hold_does_not_matter(random_model: MakeModel) -> None:
    mdp = TabularMDP.stack([random_model(0, states=5), random_model(1, states=7, ends=3)])
    rewards, policy = mdp.linear_rewards(mdp.weights), random_policy(mdp, 0)
    soiled = torch.where(mdp.terminal[..., None], 1e3, rewards)
    empty = torch.where(mdp.terminal[..., None], 0.0, policy)
    for gamma in (0.0, 0.9):
        expected = value_iteration(mdp, rewards, gamma)
        assert torch.equal(value_iteration(mdp, soiled, gamma), expected)
        close(policy_iteration(mdp, soiled, gamma), expected, 1e-9)
        value = policy_evaluation(mdp, policy, rewards, gamma)
        close(policy_evaluation(mdp, empty, soiled, gamma), value, 1e-12)
        close(policy_evaluation(mdp, empty, soiled, gamma, method="iterate"), value, 1e-9)
    values = torch.where(mdp.terminal, 1e3, expected)
    close(action_values(mdp, values, soiled, 0.9), action_values(mdp, expected, rewards, 0.9), 0.0)
