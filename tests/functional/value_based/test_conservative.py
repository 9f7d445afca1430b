"""The conservative Bellman operator, its inverse, and Q-values that start as a policy."""

import numpy as np
import pytest
import torch
from torch import Tensor

from prefrl.functional.value_based import conservative as F


def random_mdp(seed: int, states: int = 6, actions: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Rewards [S, A], transitions [S, A, S], some of them ends, and a policy [S, A]."""
    rng = np.random.default_rng(seed)
    transitions = rng.dirichlet(np.full(states, 0.5), (states, actions))
    transitions[rng.random((states, actions)) < 0.2] = 0.0
    rewards, policy = rng.normal(size=(states, actions)), rng.dirichlet(np.ones(actions), states)
    return torch.as_tensor(rewards), torch.as_tensor(transitions), torch.as_tensor(policy)


@pytest.mark.parametrize("seed", range(50))
@pytest.mark.parametrize("gamma", [0.9, 0.999])
def test_it_contracts_and_can_be_inverted(seed: int, gamma: float) -> None:
    rewards, transitions, policy = random_mdp(seed)
    first, second = torch.randn(2, *rewards.shape, generator=torch.manual_seed(seed)).double()
    one, other = (F.conservative_backup(q, rewards, transitions, policy, gamma) for q in (first, second))
    ratio = (one - other).abs().max() / (first - second).abs().max()
    assert ratio <= gamma + 1e-9
    # For the reward that is recovered from any Q, that Q is the fixed point; and the reverse.
    recovered = F.recovered_reward_table(first, transitions, policy, gamma)
    again = F.conservative_backup(first, recovered, transitions, policy, gamma)
    assert (again - first).abs().max() <= 1e-9


def fixed_point(rewards: Tensor, transitions: Tensor, policy: Tensor, gamma: float) -> Tensor:
    """Q = r + gamma P Q(., argmax q) as a linear system in the values of the greedy actions."""
    states = torch.arange(len(rewards))
    greedy = policy.argmax(-1)
    moves, pays = transitions[states, greedy], rewards[states, greedy]
    values = torch.linalg.solve(torch.eye(len(states)).double() - gamma * moves, pays)
    return rewards + gamma * transitions @ values


@pytest.mark.parametrize("seed", range(10))
def test_its_fixed_point_is_the_value_of_the_frozen_policy(seed: int) -> None:
    rewards, transitions, policy = random_mdp(seed)
    q = torch.zeros_like(rewards)
    for _ in range(400):
        q = F.conservative_backup(q, rewards, transitions, policy, 0.9)
    expected = fixed_point(rewards, transitions, policy, 0.9)
    torch.testing.assert_close(q, expected, rtol=0.0, atol=1e-9)
    recovered = F.recovered_reward_table(q, transitions, policy, 0.9)
    torch.testing.assert_close(recovered, rewards, rtol=0.0, atol=1e-9)


def test_targets_by_hand() -> None:
    next_q = torch.tensor([[1.0, 5.0], [3.0, 0.5]])
    frozen = torch.tensor([[2.0, 1.0], [-1.0, 0.0]])  # its likeliest actions are the first and the second
    rewards, discounts = torch.tensor([0.5, 1.0]), torch.tensor([0.9, 0.5])
    assert F.greedy_values(next_q, frozen).tolist() == [1.0, 0.5]
    found = F.conservative_targets(rewards, discounts, next_q, frozen)
    torch.testing.assert_close(found, torch.tensor([1.4, 1.25]))
    torch.testing.assert_close(F.optimal_targets(rewards, discounts, next_q), torch.tensor([5.0, 2.5]))
    cut = F.optimal_targets(rewards, discounts, next_q, max_value=2.0)
    torch.testing.assert_close(cut, torch.tensor([2.3, 2.0]))
    cut = F.conservative_targets(rewards, discounts, next_q, frozen, max_value=0.75)
    torch.testing.assert_close(cut, torch.tensor([1.175, 1.25]))
    recovered = F.recovered_rewards(torch.tensor([1.4, 1.25]), discounts, next_q, frozen)
    torch.testing.assert_close(recovered, rewards)
    over = F.recovered_rewards(torch.tensor([1.4, 1.25]), torch.zeros(2), next_q, frozen)
    torch.testing.assert_close(over, torch.tensor([1.4, 1.25]))  # nothing comes after an end


@pytest.mark.parametrize("alpha", [0.1, 1.0, 3.0])
def test_dueling_q_starts_as_the_policy(alpha: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits, values = torch.randn(500, 7, generator=generator).double() * 4.0, torch.randn(500).double()
    q = F.dueling_q(logits, values, alpha)
    assert bool((q.argmax(-1) == logits.argmax(-1)).all())  # 100 % agreement
    torch.testing.assert_close(torch.softmax(q / alpha, -1), torch.softmax(logits, -1))
    torch.testing.assert_close(q.amax(-1), values)
    assert bool((F.advantages(logits, alpha) <= 0.0).all())


def test_a_masked_mean_of_nothing_is_nothing() -> None:
    values = torch.tensor([1.0, 2.0, 6.0])
    assert float(F.masked_mean(values, torch.tensor([1.0, 0.0, 1.0]))) == 3.5
    assert float(F.masked_mean(values, torch.zeros(3))) == 0.0
