"""Where values do not exist, where actions tie, how good a policy is, and what solvers refuse."""

import math
from collections.abc import Callable
from functools import cache

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor

import prefrl.envs  # noqa: F401
from prefrl.envs.grids.grid import TabularModel
from prefrl.tabular import (
    TabularMDP,
    greedy_policy,
    optimal_policy,
    policy_evaluation,
    policy_iteration,
    scaled_return,
    value_iteration,
)

MakeModel = Callable[..., TabularModel]
GAMMA = 0.999

seeds = st.integers(0, 2**32 - 1)


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
