"""Successor features against values, and the policy sets they are collected in."""

from collections.abc import Callable
from functools import cache
from typing import Any

import gymnasium as gym
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

import prefrl.envs  # noqa: F401
from prefrl.envs.grids.grid import TabularModel
from prefrl.preferences.reward_fit import RegretConfig
from prefrl.tabular import (
    PolicySet,
    TabularMDP,
    action_values,
    build_policy_set,
    optimal_policy,
    policy_evaluation,
    successor_features,
)

MakeModel = Callable[..., TabularModel]
GAMMA = 0.999
DELIVERY_ENTRIES = RegretConfig().policy_entries


def close(actual: Tensor, expected: Tensor, atol: float) -> None:
    torch.testing.assert_close(actual, expected, rtol=0.0, atol=atol)


def random_policy(mdp: TabularMDP, seed: int, *leading: int) -> Tensor:
    shape = (*leading, mdp.num_mdps, mdp.num_states, mdp.num_actions)
    policy = torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return policy / policy.sum(-1, keepdim=True)


@cache
def delivery() -> TabularMDP:
    return TabularMDP.from_env(gym.make("prefrl/Delivery-v0"))


@cache
def delivery_set() -> PolicySet:
    mdp = delivery()
    return build_policy_set(mdp, GAMMA, entries=DELIVERY_ENTRIES, exclude=mdp.weights)


# Successor features ------------------------------------------------------------------------------------


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.7, GAMMA]))
def test_any_reward_is_valued_by_the_features(random_model: MakeModel, seed: int, gamma: float) -> None:
    mdp = TabularMDP.stack([random_model(seed), random_model(seed + 1, states=4, outcomes=3, features=2)])
    policy = random_policy(mdp, seed, 3)
    psi, psi_action = successor_features(mdp, policy, gamma)
    assert psi.shape == (3, 2, 6, 3)
    assert psi_action.shape == (3, 2, 6, 3, 3)
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    rewards = mdp.linear_rewards(weights)
    value = policy_evaluation(mdp, policy, rewards, gamma)
    scale = 1.0 + value.abs().max().item()
    close((psi * weights[:, None]).sum(-1), value, 1e-11 * scale)
    quality = action_values(mdp, value, rewards, gamma)
    close((psi_action * weights[:, None, None]).sum(-1), quality, 1e-11 * scale)
    assert not psi[:, mdp.terminal].any()
    assert not psi_action[:, mdp.terminal].any()


def test_features_of_a_pair_by_hand() -> None:
    """One state that stays (feature 1) or ends (feature 2), by a policy that stays every third time."""
    one_hot = torch.eye(2, dtype=torch.float64)
    mdp = TabularMDP(
        successors=torch.tensor([[[[0], [1]], [[1], [1]]]]),
        probabilities=torch.ones(1, 2, 2, 1, dtype=torch.float64),
        features=torch.stack([one_hot, torch.zeros(2, 2)])[None, :, :, None].double(),
        terminal=torch.tensor([[False, True]]),
        valid=torch.tensor([[True, True]]),
        start=torch.tensor([[1.0, 0.0]], dtype=torch.float64),
        weights=torch.tensor([[1.0, 1.0]], dtype=torch.float64),
    )
    policy = torch.tensor([[[1 / 3, 2 / 3]] * 2], dtype=torch.float64)
    psi, psi_action = successor_features(mdp, policy, 0.5)
    # psi_1 = (1 + psi_1 / 2) / 3 = 2 / 5; psi_2 = psi_2 / 6 + 2 / 3 = 4 / 5
    close(psi[0, 0], torch.tensor([0.4, 0.8], dtype=torch.float64), 1e-15)
    close(psi_action[0, 0], torch.tensor([[1.2, 0.4], [0.0, 1.0]], dtype=torch.float64), 1e-15)


def test_features_undiscounted() -> None:
    mdp = delivery()
    uniform = torch.full((1, 100, 4), 0.25, dtype=torch.float64)
    psi, _ = successor_features(mdp, uniform, 1.0)
    value = policy_evaluation(mdp, uniform, mdp.linear_rewards(mdp.weights), 1.0)
    close(psi[0] @ mdp.weights[0], value[0], 1e-9)
    # Every episode ends once: at the goal or at a sheep.
    close((psi[0, :, 1] + psi[0, :, 2])[~mdp.terminal[0]], torch.ones(92).double(), 1e-10)


def test_wrong_arguments_are_refused(random_model: MakeModel) -> None:
    mdp = TabularMDP.stack([random_model(0, ends=0)])
    policy = random_policy(mdp, 0)
    with pytest.raises(ValueError, match=r"gamma is 1\.5"):
        successor_features(mdp, policy, 1.5)
    with pytest.raises(ValueError, match="policy has shape"):
        successor_features(mdp, policy[..., :1], 0.9)
    with pytest.raises(ValueError, match="policy must hold probabilities"):
        successor_features(mdp, policy * 0.9, 0.9)
    with pytest.raises(ValueError, match="a policy never ends from some state"):
        successor_features(mdp, policy, 1.0)


# Policy sets -------------------------------------------------------------------------------------------


def distances(psi: Tensor) -> Tensor:
    """Largest difference [P, P] between the members of one set."""
    flat = psi.flatten(1)
    return (flat[:, None] - flat[None]).abs().amax(-1)


def test_the_members_of_the_delivery_set_are_distinct() -> None:
    policies = delivery_set()
    size = policies.sizes[0]
    assert policies.psi.shape == (1, size, 100, 6)
    assert policies.psi_action.shape == (1, size, 100, 4, 6)
    assert 50 <= size <= 120  # the published one has 69
    apart = distances(policies.psi[0]) + 1e9 * torch.eye(size)
    assert apart.min() > 1e-5


def test_the_truly_optimal_policy_stays_outside() -> None:
    mdp = delivery()
    _, _, policy = optimal_policy(mdp, mdp.linear_rewards(mdp.weights), GAMMA)
    best, _ = successor_features(mdp, policy, GAMMA)
    assert (delivery_set().psi[0] - best).abs().flatten(1).amax(1).min() > 1e-5
    # These entries draw the true weights once in 6^6; from their own alone they are drawn at once.
    entries = (-1.0, 50.0)
    weights = torch.tensor([[-1.0, 50.0, -1.0, -1.0, -1.0, -1.0]], dtype=torch.float64)
    _, _, policy = optimal_policy(mdp, mdp.linear_rewards(weights), GAMMA)
    best, _ = successor_features(mdp, policy, GAMMA)
    with_it = build_policy_set(mdp, GAMMA, entries=entries)
    without = build_policy_set(mdp, GAMMA, entries=entries, exclude=weights)
    assert (with_it.psi[0] - best).abs().flatten(1).amax(1).min() < 1e-9
    assert (without.psi[0] - best).abs().flatten(1).amax(1).min() > 1e-5
    assert without.sizes[0] == with_it.sizes[0] - 1


def test_action_features_belong_to_the_same_policies() -> None:
    mdp, policies = delivery(), delivery_set()
    following = policies.psi[0][:, mdp.successors[0, :, :, 0]]  # [P, S, A, F]
    expected = (mdp.features[0, :, :, 0] + GAMMA * following) * ~mdp.terminal[0, :, None, None]
    close(policies.psi_action[0], expected, 1e-9)


def test_members_are_optimal_for_some_reward_of_the_entries() -> None:
    """With two features and two entries there are four rewards to draw: all their policies are found."""
    mdp = TabularMDP.from_env(gym.make("prefrl/RandomGrid-v0", layout_seed=12))
    entries = (-1.0, 2.0)
    policies = build_policy_set(mdp, 0.9, entries=entries, max_duplicates=1000)
    rewards = torch.cartesian_prod(*[torch.tensor(entries, dtype=torch.float64)] * 6)[:, None]
    _, _, planned = optimal_policy(mdp, mdp.linear_rewards(rewards), 0.9)
    every = successor_features(mdp, planned, 0.9)[0][:, 0]
    gap = (policies.psi[0][:, None] - every[None]).abs().flatten(2).amax(-1)  # [P, 64]
    assert (gap.min(1).values < 1e-9).all()
    assert (gap.min(0).values < 1e-9).all()


def test_on_delivery_the_set_comes_nearer_to_the_optimal_value_than_any_member() -> None:
    mdp = delivery()
    value = optimal_policy(mdp, mdp.linear_rewards(mdp.weights), GAMMA)[0][0]
    reached = delivery_set().psi[0] @ mdp.weights[0]  # [P, S]
    assert (reached <= value + 1e-9).all()
    members = ((value - reached) * mdp.start[0]).sum(-1)
    together = ((value - reached.amax(0)) * mdp.start[0]).sum()
    assert 1e-6 < together < members.min() - 1e-3
    assert members.min() < 0.5


def test_seeds() -> None:
    mdp = TabularMDP.from_env(gym.make("prefrl/RandomGrid-v0", layout_seed=1))
    settings: dict[str, Any] = {"entries": DELIVERY_ENTRIES, "max_policies": 12}
    first, same, other = (build_policy_set(mdp, 0.9, seed=seed, **settings) for seed in (3, 3, 4))
    assert torch.equal(first.psi, same.psi)
    assert torch.equal(first.psi_action, same.psi_action)
    assert not torch.equal(first.psi, other.psi)


def test_short_sets_are_padded_with_their_first_member() -> None:
    grids = [gym.make("prefrl/RandomGrid-v0", layout_seed=seed).unwrapped.tabular_model() for seed in (12, 1)]
    mdp = TabularMDP.stack(grids)
    settings: dict[str, Any] = {"entries": DELIVERY_ENTRIES, "max_duplicates": 60}
    both = build_policy_set(mdp, 0.9, **settings, seed=7)
    assert both.sizes[0] != both.sizes[1]
    assert both.psi.shape[1] == max(both.sizes)
    for m, (model, size) in enumerate(zip(grids, both.sizes, strict=True)):
        states = len(model.terminal)
        alone = build_policy_set(TabularMDP.stack([model]), 0.9, **settings, seed=7)
        assert alone.sizes == (size,)
        close(both.psi[m, :size, :states], alone.psi[0], 1e-9)
        close(both.psi_action[m, :size, :states], alone.psi_action[0], 1e-9)
        assert not both.psi[m, :, states:].any()
        for extra in range(size, both.psi.shape[1]):
            assert torch.equal(both.psi[m, extra], both.psi[m, 0])
            assert torch.equal(both.psi_action[m, extra], both.psi_action[m, 0])


def test_limits_end_the_search() -> None:
    mdp = TabularMDP.from_env(gym.make("prefrl/RandomGrid-v0", layout_seed=1))
    settings: dict[str, Any] = {"entries": DELIVERY_ENTRIES, "seed": 2}
    large = build_policy_set(mdp, 0.9, max_duplicates=30, **settings)
    small = build_policy_set(mdp, 0.9, max_duplicates=30, max_policies=5, **settings)
    assert small.sizes == (5,)
    assert torch.equal(small.psi, large.psi[:, :5])
    impatient = build_policy_set(mdp, 0.9, max_duplicates=1, **settings)
    assert impatient.sizes[0] < large.sizes[0]
    assert torch.equal(impatient.psi, large.psi[:, : impatient.sizes[0]])
    one = build_policy_set(mdp, 0.9, entries=(-1.0,), max_duplicates=5)
    assert one.sizes == (1,)


@pytest.mark.parametrize("limit", [{"entries": ()}, {"max_duplicates": 0}, {"max_policies": 0}])
def test_wrong_limits_are_refused(random_model: MakeModel, limit: dict[str, Any]) -> None:
    mdp = TabularMDP.stack([random_model(0)])
    with pytest.raises(ValueError, match="entries must not be empty; max_duplicates and max_policies"):
        build_policy_set(mdp, 0.9, **{"entries": (1.0, -1.0), **limit})


def test_a_set_with_nothing_left_is_refused(random_model: MakeModel) -> None:
    mdp = TabularMDP.stack([random_model(0)])
    with pytest.raises(ValueError, match="no policy is left in the set"):
        build_policy_set(mdp, 0.9, entries=(1.0,), exclude=torch.ones(1, 3, dtype=torch.float64))
