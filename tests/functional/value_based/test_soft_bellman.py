"""Soft values: numbers by hand, the tree's own optimum, residuals that vanish there, where gradients go."""

import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor

import prefrl.envs
from prefrl.functional.value_based import soft_bellman as F
from prefrl.tabular import TabularMDP

assert prefrl.envs.REGISTRY
EVEN = math.log(0.5)


def optimum(mdp: TabularMDP, log_reference: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    return F.soft_value_iteration(
        mdp.successors[0], mdp.probabilities[0], mdp.linear_rewards(mdp.weights)[0], mdp.terminal[0],
        log_reference, beta, tolerance=1e-15,
    )  # fmt: skip


def test_a_backup_by_hand() -> None:
    q = torch.tensor([0.0, 2.0 * math.log(3.0)], dtype=torch.float64)
    value, log_policy = F.soft_backup(q, torch.full((2,), EVEN, dtype=torch.float64), 2.0)
    assert value.item() == pytest.approx(2.0 * math.log(2.0), abs=1e-15)
    assert log_policy.exp().tolist() == pytest.approx([0.25, 0.75], abs=1e-15)
    never = torch.tensor([0.0, -math.inf], dtype=torch.float64)
    assert F.soft_backup(q, never, 2.0)[1].exp().tolist() == [1.0, 0.0]


@pytest.mark.parametrize("beta", [0.03, 1.0])
def test_the_optimum_of_a_tree_and_its_residuals(beta: float) -> None:
    task = gym.make("prefrl/TokenTree-v0", layout_seed=3).unwrapped
    mdp = TabularMDP.from_env(task)
    reference = torch.softmax(torch.randn(mdp.num_states, 3, dtype=torch.float64), -1)
    values, log_policy = optimum(mdp, reference.log(), beta)
    known = task.soft_optimum(beta, reference.numpy())  # type: ignore[attr-defined]
    assert abs(values.numpy() - known.values).max() < 1e-13
    assert abs(log_policy.exp().numpy() - known.policy)[~mdp.terminal[0].numpy()].max() < 1e-13
    obs = torch.as_tensor(task.sequence_observations())  # type: ignore[attr-defined]
    here, actions = obs[..., :-1], torch.as_tensor(task.sequences()).expand(2, -1, -1)  # type: ignore[attr-defined]
    rewards = mdp.linear_rewards(mdp.weights)[0][here, actions]
    ratios = (log_policy - reference.log())[here, actions]
    returns = F.to_go(rewards)
    for residuals in (
        F.value_residuals(values[here], returns, ratios, beta),
        *(F.policy_residuals(values[here], returns, ratios, beta, chunk) for chunk in (1, 2, None)),
        F.one_step_residuals(values[here], rewards, values[obs[..., 1:]], ratios, beta),
    ):
        assert residuals.abs().max() < 1e-14
    # Another policy's are not 0.
    assert F.value_residuals(values[here], returns, 0.9 * ratios, beta).abs().max() > 0.01


def test_residuals_are_sums_written_out() -> None:
    values, returns, ratios = torch.randn(3, 4, 5, dtype=torch.float64)
    found = F.value_residuals(values, returns, ratios, 0.3)
    for row in range(4):
        for t in range(5):
            expected = values[row, t] - returns[row, t] + 0.3 * sum(ratios[row, i] for i in range(t, 5))
            assert found[row, t].item() == pytest.approx(float(expected), abs=1e-12)
    for chunk in (1, 2, 5, 7, None):
        again = F.policy_residuals(values, returns, ratios, 0.3, chunk)
        torch.testing.assert_close(again, found, rtol=0.0, atol=1e-12)


@pytest.mark.parametrize(("chunk", "last"), [(1, 1), (2, 2), (3, 3), (None, 5), (9, 5)])
def test_only_a_chunk_s_own_log_ratios_have_gradients(chunk: int | None, last: int) -> None:
    values, returns, ratios = torch.randn(3, 5, dtype=torch.float64)
    values.requires_grad_(), ratios.requires_grad_()
    F.policy_residuals(values, returns, ratios, 0.5, chunk)[0].backward()  # type: ignore[no-untyped-call]
    assert values.grad is None
    assert ratios.grad is not None
    assert ratios.grad.tolist() == pytest.approx([0.5] * last + [0.0] * (5 - last), abs=1e-15)
    ratios.grad = None
    F.value_residuals(values, returns, ratios, 0.5)[0].backward()  # type: ignore[no-untyped-call]
    assert ratios.grad is None
    assert values.grad is not None
    assert values.grad.tolist() == [1.0, 0.0, 0.0, 0.0, 0.0]


def chance_mdp() -> TabularMDP:
    """Two steps of two actions; the first leads to state 1 or 2 by chance, the second ends."""
    transitions = np.zeros((4, 2, 4))
    transitions[0, :, 1:3] = [[0.5, 0.5], [0.25, 0.75]]
    transitions[1:, :, 3] = 1.0
    rewards = [[0.0, 0.3], [1.0, 0.0], [-1.0, 0.5], [0.0, 0.0]]
    return TabularMDP.from_arrays(transitions, rewards, [1.0, 0.0, 0.0, 0.0], [False, False, False, True])


def mean_gradient(kind: str, mdp: TabularMDP, beta: float) -> float:
    """The largest entry of the policy loss' gradient at the soft optimum, in the mean over all paths."""
    even = torch.full((4, 2), EVEN, dtype=torch.float64)
    values, log_policy = optimum(mdp, even, beta)
    rewards = mdp.linear_rewards(mdp.weights)[0]
    logits, loss = log_policy.clone().requires_grad_(), torch.zeros((), dtype=torch.float64)
    for first in range(2):
        for place in range(2):
            chance = mdp.probabilities[0, 0, first, place]
            state = int(mdp.successors[0, 0, first, place])
            for second in range(2):
                ratios = (torch.log_softmax(logits, -1) - even)[[0, state], [first, second]]
                paid, here = torch.stack([rewards[0, first], rewards[state, second]]), values[[0, state]]
                if kind == "one_step":
                    after = torch.stack([values[state], values[3]])
                    residuals = F.one_step_residuals(here, paid, after, ratios, beta)
                else:
                    chunk = None if kind == "response" else 1
                    residuals = F.policy_residuals(here, F.to_go(paid), ratios, beta, chunk)
                residuals = residuals[:1] if kind == "response" else residuals
                loss = loss + 0.25 * chance * residuals.square().sum()
    (slope,) = torch.autograd.grad(loss, logits)
    return float(slope.abs().max())


def test_random_transitions_bias_what_learns_several_steps_at_once() -> None:
    mdp = chance_mdp()
    assert mean_gradient("one_step", mdp, 0.5) < 1e-15
    # With gradients of a single step the mean is right too, though no path's residual is 0.
    assert mean_gradient("trajectory", mdp, 0.5) < 1e-15
    assert mean_gradient("response", mdp, 0.5) > 0.01


def test_circles_and_betas() -> None:
    mdp = TabularMDP.from_arrays([[[0.5, 0.5], [1.0, 0.0]], [[0.0, 1.0]] * 2], [[1.0, 1.0], [0.0, 0.0]],
                                 [1.0, 0.0], [False, True])  # fmt: skip
    parts = (mdp.successors[0], mdp.probabilities[0], mdp.linear_rewards(mdp.weights)[0], mdp.terminal[0])
    even = torch.full((2, 2), EVEN, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="is there a circle that pays"):
        F.soft_value_iteration(*parts, even, 1.0, max_sweeps=200)
    with pytest.raises(ValueError, match=r"beta is 0\.0; it must be finite and above 0"):
        F.soft_value_iteration(*parts, even, 0.0)
