"""Dynamic choice: exact recovery, likelihoods and regressions against plain ones, plans, baselines."""

import math

import numpy as np
import pytest
import torch

from prefrl.functional.choice import dynamic_choice as F
from prefrl.functional.choice.maxent_irl import empirical_transitions, maxent_rewards, soft_optimal_values
from prefrl.run.study.values.choice import CLAIMS, Task, draw_moves, greedy, temptation

H, S, A = 3, 5, 3


@pytest.mark.parametrize("value", ["policy", "logsumexp"])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_exact_choices_give_the_exact_reward(gamma: float, value: F.ValueKind) -> None:
    """D1: Q is the log-odds against the anchor, r what the Bellman equation leaves of it."""
    task = Task(3, gamma, value)
    q = F.anchored(task.behaviour.log(), 0)
    torch.testing.assert_close(q, task.q, rtol=0.0, atol=1e-12)
    rewards = F.exact_rewards(q, task.transitions, gamma, value)
    torch.testing.assert_close(rewards, task.rewards, rtol=0.0, atol=1e-10)
    other: F.ValueKind = "policy" if value == "logsumexp" else "logsumexp"
    if gamma > 0.0:
        assert (F.exact_rewards(q, task.transitions, gamma, other) - task.rewards).abs().max() > 0.1


def test_state_values_by_hand() -> None:
    q = torch.tensor([0.0, math.log(3.0)], dtype=torch.float64)
    assert float(F.state_values(q, "policy")) == pytest.approx(0.75 * math.log(3.0))
    assert float(F.state_values(q, "logsumexp")) == pytest.approx(math.log(4.0))
    with pytest.raises(ValueError, match="value is 'mean'"):
        F.state_values(q, "mean")  # type: ignore[arg-type]


def test_the_likeliest_values_of_tables() -> None:
    """Without a prior they are the log-odds of the counts; with one they are less, and finite everywhere."""
    counts = torch.tensor([[40.0, 10.0, 50.0], [1.0, 3.0, 5.0]], dtype=torch.float64)
    phi = F.indicator_features(2, 3)
    q = F.choice_values(counts, phi, 0, 0.0)
    torch.testing.assert_close(q, (counts / counts[:, :1]).log(), rtol=0.0, atol=1e-5)
    free = F.choice_values(counts, phi, None, 0.0)
    torch.testing.assert_close(free.mean(-1), torch.zeros(2, dtype=torch.float64), rtol=0.0, atol=1e-9)
    torch.testing.assert_close(torch.softmax(free, -1), torch.softmax(q, -1), rtol=0.0, atol=1e-6)
    counts[0, 2], counts[1] = 0.0, 0.0
    q = F.choice_values(counts, phi, 0, 1e-3)
    assert torch.isfinite(q).all()
    assert q[0, 2] < -4.0
    assert q[1].abs().max() < 1e-12


def test_the_gradient_vanishes_with_linear_features() -> None:
    generator = torch.Generator().manual_seed(0)
    phi = torch.randn(4, 3, 2, generator=generator, dtype=torch.float64)
    counts = torch.randint(0, 30, (6, 4, 3), generator=generator).double()
    q = F.choice_values(counts, phi, 1, 0.5)
    centred = phi - phi[:, 1:2]
    theta = torch.linalg.lstsq(centred.flatten(0, 1), q.flatten(1).mT).solution.mT
    torch.testing.assert_close(torch.einsum("sak,nk->nsa", centred, theta), q, rtol=0.0, atol=1e-9)
    gap = counts.sum(-1, keepdim=True) * torch.softmax(q, -1) - counts
    slope = torch.einsum("nsa,sak->nk", gap, centred) + 0.5 * theta
    assert slope.abs().max() < 1e-4
    alone = F.choice_values(counts[4], phi, 1, 0.5)  # a batch is its members
    torch.testing.assert_close(alone, q[4], rtol=0.0, atol=1e-9)


def test_regressions_are_plain_ridge_regressions() -> None:
    rng = np.random.default_rng(1)
    phi = torch.as_tensor(rng.normal(size=(S, A, 4)))
    pairs = rng.integers(0, (S, A), size=(50, 2))
    targets = rng.normal(size=50)
    counts, sums = torch.zeros(S, A).double(), torch.zeros(S, A).double()
    for (s, a), y in zip(pairs, targets, strict=True):
        counts[s, a] += 1.0
        sums[s, a] += y
    design = phi[pairs[:, 0], pairs[:, 1]].numpy()
    weights = np.linalg.solve(design.T @ design + 0.7 * np.eye(4), design.T @ targets)
    found = F.ridge_regression(counts, sums, phi, 0.7)
    np.testing.assert_allclose(found, phi.numpy() @ weights, atol=1e-10)
    gram = np.linalg.inv(design.T @ design + 0.7 * np.eye(4))
    expected = np.sqrt(np.einsum("sak,kl,sal->sa", phi.numpy(), gram, phi.numpy()))
    np.testing.assert_allclose(F.uncertainty(counts, phi, 0.7), expected, atol=1e-10)
    table = F.uncertainty(counts, F.indicator_features(S, A), 1.0)
    torch.testing.assert_close(table, (counts + 1.0).rsqrt(), rtol=0.0, atol=1e-12)


def test_steps_two_and_three_with_much_data() -> None:
    task = Task(0)
    moves = 1e9 * torch.einsum("hsa,sat->hsat", task.behaviour, task.transitions)
    q = F.choice_values(moves.sum(-1), task.phi, 0, 1e-3)
    rewards = F.bellman_rewards(q, moves, task.phi, 1.0, "policy", 1.0)
    torch.testing.assert_close(rewards, task.rewards, rtol=0.0, atol=1e-5)
    plan = F.pessimistic_plan(rewards, moves, task.phi, pessimism=1.0, ridge=1.0)
    torch.testing.assert_close(plan.q, F.optimal_plan(task.rewards, task.transitions), rtol=0.0, atol=1e-3)
    assert task.short(greedy(plan.q)) == pytest.approx(0.0, abs=1e-12)
    assert torch.equal(plan.actions, plan.q.argmax(-1))


def test_pessimism_takes_off_what_it_says_and_ranges_bound() -> None:
    task = Task(1)
    moves = draw_moves(task.behaviour, task.transitions, 50, np.random.default_rng(0))
    bold = F.pessimistic_plan(task.rewards, moves, task.phi, pessimism=0.0, ridge=1.0)
    careful = F.pessimistic_plan(task.rewards, moves, task.phi, pessimism=2.0, ridge=1.0)
    assert bold.penalty.abs().max() == 0.0
    torch.testing.assert_close(careful.penalty, 2.0 * (moves.sum(-1) + 1.0).rsqrt(), rtol=0.0, atol=1e-12)
    torch.testing.assert_close(careful.q[-1], bold.q[-1] - careful.penalty[-1], rtol=0.0, atol=1e-12)
    assert (careful.q <= bold.q).all()
    held = F.pessimistic_plan(
        task.rewards, moves, task.phi, pessimism=2.0, ridge=1.0, reward_range=(-0.1, 0.2)
    )
    for h in range(H):
        assert held.q[h].min() >= -0.1 * (H - h) - 1e-12
        assert held.q[h].max() <= 0.2 * (H - h) + 1e-12


def test_values_of_policies_by_enumeration() -> None:
    task = Task(2)
    value = F.policy_values(task.behaviour, task.rewards, task.transitions)
    mass = torch.full((S,), 1.0 / S, dtype=torch.float64)
    total = 0.0
    for h in range(H):
        pair = mass[:, None] * task.behaviour[h]
        total += float((pair * task.rewards[h]).sum())
        mass = torch.einsum("sa,sat->t", pair, task.transitions)
    assert float(value.mean()) == pytest.approx(total, abs=1e-12)
    assert float(F.optimal_plan(task.rewards, task.transitions)[0].amax(-1).mean()) == pytest.approx(
        task.best
    )


def test_maximum_entropy_finds_a_soft_optimal_policy() -> None:
    """Choices of such people are matched, whose reward does not change with the step."""
    generator = torch.Generator().manual_seed(0)
    rewards = torch.randn(S, A, generator=generator, dtype=torch.float64)
    transitions = torch.rand(S, A, S, generator=generator, dtype=torch.float64).softmax(-1)
    policy = torch.softmax(soft_optimal_values(rewards, transitions, H), -1)
    moves = 1e6 * torch.einsum("hsa,sat->hsat", policy, transitions)
    torch.testing.assert_close(empirical_transitions(moves), transitions, rtol=0.0, atol=1e-9)
    found = maxent_rewards(torch.stack([moves, 2.0 * moves]), F.indicator_features(S, A))
    for one in found:
        again = torch.softmax(soft_optimal_values(one, transitions, H), -1)
        torch.testing.assert_close(again, policy, rtol=0.0, atol=1e-4)
    nothing = empirical_transitions(torch.zeros(H, S, A, S, dtype=torch.float64))
    assert (nothing == 1.0 / S).all()


def test_the_gamble_of_the_study() -> None:
    """The best policy never gambles, and luck tempts a careless one."""
    found = [temptation(seed) for seed in range(4)]
    assert all(one["careful_few"] <= one["careless_few"] for one in found)
    assert sum(one["careful_few"] < one["careless_few"] for one in found) >= 3
    assert all(one["careful_many"] == one["careless_many"] == pytest.approx(0.0, abs=1e-9) for one in found)


@pytest.mark.parametrize("name", ["bounded_rationality", "myopia", "anchor"])
def test_a_few_seeds_of_the_claims(name: str) -> None:
    claim = CLAIMS[name]
    rows = [claim.measure(seed) for seed in range(2)]
    assert claim.holds({key: np.array([row[key] for row in rows]) for key in rows[0]})
