"""Exact solvers: published numbers, plain twins, batches of different size, cycles, errors."""

import math
from collections.abc import Callable
from functools import cache

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import prefrl.envs  # noqa: F401
from prefrl.envs.grid import TabularModel
from prefrl.tabular import (
    TabularMDP,
    action_values,
    greedy_policy,
    mean_start_value,
    optimal_policy,
    policy_evaluation,
    policy_iteration,
    scaled_return,
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


# Cycles ------------------------------------------------------------------------------------------------


def cycle(length: int, pays: float) -> TabularMDP:
    """A ring with an exit at every state: action 0 goes round, and pays at state 0; action 1 ends."""
    states = length + 1
    successors = np.zeros((states, 2, 1), dtype=np.int64)
    successors[:length, 0, 0] = (np.arange(length) + 1) % length
    successors[:length, 1, 0] = successors[length] = length
    features = np.zeros((states, 2, 1, 1))
    features[0, 0, 0, 0] = pays
    start = np.append(np.full(length, 1.0 / length), 0.0)
    terminal = np.arange(states) == length
    return TabularMDP.stack(
        [TabularModel(successors, np.ones(successors.shape), features, np.ones(1), terminal, start, ("pay",))]
    )


def test_cycles_that_pay_have_a_closed_form() -> None:
    mdp = cycle(4, 3.0)
    rewards = mdp.linear_rewards(mdp.weights)
    for gamma in (0.9, GAMMA):
        expected = [3.0 * gamma ** ((4 - s) % 4) / (1.0 - gamma**4) for s in range(4)]
        for solve in (value_iteration, policy_iteration):
            close(solve(mdp, rewards, gamma)[0], [*expected, 0.0], 1e-8)
    gamma = 1.0 - 1e-6  # value iteration would need some 30 million sweeps
    expected = [3.0 * gamma ** ((4 - s) % 4) / (1.0 - gamma**4) for s in range(4)]
    close(policy_iteration(mdp, rewards, gamma)[0] / 1e6, torch.tensor([*expected, 0.0]).double() / 1e6, 1e-8)


def test_a_cycle_that_pays_has_no_undiscounted_value() -> None:
    mdp = cycle(3, 1.0)
    with pytest.raises(RuntimeError, match=r"did not settle in 500 sweeps at gamma 1\.0"):
        value_iteration(mdp, mdp.linear_rewards(mdp.weights), 1.0, max_sweeps=500)
    costly = mdp.linear_rewards(-mdp.weights)
    assert value_iteration(mdp, costly, 1.0).tolist() == [[0.0] * 4]  # it ends at once instead


def test_sweeps_run_out() -> None:
    mdp = cycle(3, 1.0)
    rewards = mdp.linear_rewards(mdp.weights)
    with pytest.raises(RuntimeError, match=r"value iteration did not settle in 32 sweeps at gamma 0\.999"):
        value_iteration(mdp, rewards, GAMMA, max_sweeps=32)
    policy = torch.tensor([1.0, 0.0], dtype=torch.float64).expand_as(rewards)
    with pytest.raises(RuntimeError, match=r"policy evaluation did not settle in 32 sweeps at gamma 0\.999"):
        policy_evaluation(mdp, policy, rewards, GAMMA, method="iterate", max_sweeps=32)
    far = delivery()
    with pytest.raises(
        RuntimeError, match=r"policy iteration did not settle in 2 iterations at gamma 0\.999"
    ):
        policy_iteration(far, far.linear_rewards(far.weights), GAMMA, max_iterations=2)


def test_settling_at_the_last_sweep_is_settling() -> None:
    mdp = cycle(3, 1.0)
    rewards = mdp.linear_rewards(mdp.weights)
    close(value_iteration(mdp, rewards, 0.0, max_sweeps=2), [[1.0, 0.0, 0.0, 0.0]], 0.0)
    policy = torch.tensor([1.0, 0.0], dtype=torch.float64).expand_as(rewards)
    value = policy_evaluation(mdp, policy, rewards, 0.0, method="iterate", max_sweeps=2)
    close(value, [[1.0, 0.0, 0.0, 0.0]], 0.0)


@given(seeds, st.integers(2, 7), st.integers(1, 4))
def test_a_policy_that_never_ends_has_no_undiscounted_value(
    random_model: MakeModel, seed: int, states: int, actions: int
) -> None:
    """Also where rounding hides that the system is singular."""
    mdp = TabularMDP.stack([random_model(seed, states=states, actions=actions, outcomes=3, ends=0)])
    rewards, policy = mdp.linear_rewards(mdp.weights), random_policy(mdp, seed)
    with pytest.raises(ValueError, match=r"a policy never ends from some state, so its sum at gamma 1\.0"):
        policy_evaluation(mdp, policy, rewards, 1.0)


def test_one_never_ending_policy_among_many_is_found() -> None:
    mdp = cycle(3, 1.0)
    rewards = mdp.linear_rewards(mdp.weights)
    policies = torch.tensor([[0.5, 0.5], [1.0, 0.0]], dtype=torch.float64)[:, None, None].expand(2, 1, 4, 2)
    with pytest.raises(ValueError, match="never ends"):
        policy_evaluation(mdp, policies, rewards, 1.0)
    assert policy_evaluation(mdp, policies[:1], rewards, 1.0).isfinite().all()
    assert policy_evaluation(mdp, policies, rewards, GAMMA).isfinite().all()


# Greedy policies and scaled returns ----------------------------------------------------------------------


def test_greedy_is_uniform_among_ties() -> None:
    quality = torch.tensor([[1.0, 3.0, 3.0, 3.0 - 1e-13], [2.0, 1.0, 0.0, -1.0], [0.0, 0.0, 0.0, 0.0]])
    third = 1.0 / 3.0
    close(
        greedy_policy(quality.double()), [[0.0, third, third, third], [1.0, 0.0, 0.0, 0.0], [0.25] * 4], 1e-15
    )


def test_ties_are_relative_to_the_largest_value_of_the_table() -> None:
    quality = torch.tensor([[[0.0, 1e-7]], [[0.0, 1e-7]]], dtype=torch.float64)
    wide = torch.cat([quality, torch.tensor([[[0.0, 0.0]], [[1000.0, 0.0]]], dtype=torch.float64)], 1)
    assert greedy_policy(wide)[:, 0].tolist() == [[0.0, 1.0], [0.5, 0.5]]  # 1e-9 * 1000 >= 1e-7
    assert greedy_policy(quality, tolerance=1e-6)[0, 0].tolist() == [0.5, 0.5]


def test_a_tie_of_paths_is_found_in_the_values() -> None:
    mdp = delivery()
    _, quality, policy = optimal_policy(mdp, mdp.linear_rewards(mdp.weights), GAMMA)
    spread = quality.amax(-1, keepdim=True) - quality
    assert torch.equal(policy > 0, spread < 1e-6)
    assert ((policy > 0).sum(-1) > 1).sum() > 20  # apart from the terminal cells
    assert not ((spread > 1e-10) & (spread < 1e-5)).any()  # so that no tolerance in between matters


def test_scaled_return_is_one_for_optimal_and_zero_for_uniform_policies() -> None:
    mdp = TabularMDP.stack([delivery_model(), *grid_models()])
    rewards = mdp.linear_rewards(mdp.weights)
    best = optimal_policy(mdp, rewards, GAMMA)[2]
    worst = optimal_policy(mdp, -rewards, GAMMA)[2]
    uniform = torch.full_like(rewards, 0.25)
    scaled = scaled_return(mdp, torch.stack([best, uniform, worst]), GAMMA)
    assert scaled.shape == (3, 7)
    close(scaled[0], torch.ones(7), 1e-9)
    close(scaled[1], torch.zeros(7), 1e-9)
    assert (scaled[2] < 0.0).all()


def delivery_model() -> TabularModel:
    return gym.make("prefrl/Delivery-v0").unwrapped.tabular_model()  # type: ignore[attr-defined, no-any-return]


def test_scaled_return_by_hand() -> None:
    mdp = cycle(2, 4.0)  # optimal: 4 / (1 - 1/4) = 16/3 and half of it
    policy = torch.tensor([[[0.0, 1.0]] * 3], dtype=torch.float64)  # ends at once, worth 0
    # Uniform: V0 = (4 + V1 / 2) / 2, V1 = V0 / 4: V0 = 32 / 15
    best, worst = (16 / 3) * 0.75, (32 / 15) * 0.625
    assert scaled_return(mdp, policy, 0.5).item() == pytest.approx((0.0 - worst) / (best - worst))


# Errors ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gamma", [-0.1, 1.1, math.nan, math.inf])
def test_gamma_outside_its_range_is_refused(random_model: MakeModel, gamma: float) -> None:
    mdp = TabularMDP.stack([random_model(0)])
    rewards = mdp.linear_rewards(mdp.weights)
    for solve in (value_iteration, policy_iteration, optimal_policy):
        with pytest.raises(ValueError, match=f"gamma is {gamma}; it must lie in"):
            solve(mdp, rewards, gamma)
    for method in (policy_evaluation, lambda m, p, r, g: scaled_return(m, p, g)):
        with pytest.raises(ValueError, match=f"gamma is {gamma}; it must lie in"):
            method(mdp, torch.full_like(rewards, 1 / 3), rewards, gamma)


def test_policy_iteration_refuses_gamma_one(random_model: MakeModel) -> None:
    mdp = TabularMDP.stack([random_model(0)])
    with pytest.raises(ValueError, match=r"gamma is 1; .*value_iteration takes 1"):
        policy_iteration(mdp, mdp.linear_rewards(mdp.weights), 1.0)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda r: r[:, :-1], r"rewards has shape \(1, 5, 3\); it must end in \[M, S, A\] = \[1, 6, 3\]"),
        (lambda r: r[0], r"rewards has shape \(6, 3\)"),
        (lambda r: r.expand(2, -1, -1), r"rewards has shape \(2, 6, 3\)"),
        (lambda r: torch.where(r == r.max(), math.nan, r), "rewards holds NaN or infinity"),
        (lambda r: torch.where(r == r.max(), math.inf, r), "rewards holds NaN or infinity"),
        (lambda r: r.float(), r"rewards has dtype torch.float32; it must be torch.float64"),
    ],
)
def test_wrong_rewards_are_refused(
    random_model: MakeModel, spoil: Callable[[Tensor], Tensor], message: str
) -> None:
    mdp = TabularMDP.stack([random_model(0)])
    rewards = spoil(mdp.linear_rewards(mdp.weights))
    for solve in (value_iteration, policy_iteration):
        with pytest.raises(ValueError, match=message):
            solve(mdp, rewards, 0.9)
    with pytest.raises(ValueError, match=message):
        policy_evaluation(mdp, random_policy(mdp, 0), rewards, 0.9)


def test_rewards_whose_sum_overflows_are_fine() -> None:
    mdp = cycle(3, 1e308)
    rewards = mdp.linear_rewards(mdp.weights)
    rewards[0, :3, 1] = 1e308
    assert torch.isinf(rewards.sum())
    assert value_iteration(mdp, rewards, 0.0).max() == 1e308


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p: p[..., :-1], "policy has shape"),
        (lambda p: torch.full_like(p, math.nan), "policy holds NaN or infinity"),
        (lambda p: 2.0 * p, "policy must hold probabilities"),
        (lambda p: torch.tensor([1.5, -0.5, 0.0]).double().expand_as(p), "policy must hold probabilities"),
    ],
)
def test_wrong_policies_are_refused(
    random_model: MakeModel, spoil: Callable[[Tensor], Tensor], message: str
) -> None:
    mdp = TabularMDP.stack([random_model(0)])
    policy = spoil(random_policy(mdp, 0))
    for method in ("solve", "iterate"):
        with pytest.raises(ValueError, match=message):
            policy_evaluation(mdp, policy, mdp.linear_rewards(mdp.weights), 0.9, method=method)


def test_an_unknown_method_is_refused(random_model: MakeModel) -> None:
    mdp = TabularMDP.stack([random_model(0)])
    with pytest.raises(ValueError, match="method is 'guess'; it must be 'solve' or 'iterate'"):
        policy_evaluation(mdp, random_policy(mdp, 0), mdp.linear_rewards(mdp.weights), 0.9, method="guess")
