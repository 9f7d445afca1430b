"""Batches of MDPs: padding, selection, and what rewards become."""

from collections.abc import Callable
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch

import prefrl.envs
from prefrl.envs.grids.grid import TabularModel
from prefrl.tabular import TabularMDP

MakeModel = Callable[..., TabularModel]


def test_stack_pads_with_terminal_states_and_impossible_outcomes(random_model: MakeModel) -> None:
    small = random_model(0, states=4, outcomes=1, features=2)
    large = random_model(1, states=7, outcomes=3, features=5, ends=2)
    mdp = TabularMDP.stack([small, large])
    assert (mdp.num_mdps, mdp.num_states, mdp.num_actions) == (2, 7, 3)
    assert mdp.successors.shape == mdp.probabilities.shape == (2, 7, 3, 3)
    assert mdp.features.shape == (2, 7, 3, 3, 5)
    assert mdp.valid.tolist() == [[True] * 4 + [False] * 3, [True] * 7]
    assert mdp.terminal.tolist() == [[False] * 3 + [True] * 4, [False] * 5 + [True] * 2]
    np.testing.assert_array_equal(mdp.successors[0, :4, :, :1], small.successors)
    np.testing.assert_array_equal(mdp.features[0, :4, :, :1, :2], small.features)
    assert not mdp.probabilities[0, :4, :, 1:].any()
    assert not mdp.probabilities[0, 4:].any()
    assert not mdp.features[0, ..., 2:].any()
    np.testing.assert_array_equal(mdp.start[0, :4], small.start)
    assert not mdp.start[0, 4:].any()
    assert mdp.weights[0].tolist() == [*small.weights, 0.0, 0.0, 0.0]
    for field in ("successors", "probabilities", "features", "terminal", "start", "weights"):
        np.testing.assert_array_equal(getattr(mdp, field)[1], getattr(large, field))
    for field in ("probabilities", "features", "start", "weights"):
        assert getattr(mdp, field).dtype == torch.float64


def test_rewards_are_means_over_outcomes(random_model: MakeModel) -> None:
    model = random_model(3, outcomes=3)
    mdp = TabularMDP.stack([model])
    weights = np.array([1.5, -2.0, 0.25])
    expected = np.zeros((6, 3))
    for s in range(6):
        for a in range(3):
            for k in range(3):
                expected[s, a] += model.probabilities[s, a, k] * float(model.features[s, a, k] @ weights)
    given = torch.tensor(weights)
    torch.testing.assert_close(mdp.linear_rewards(given[None])[0], torch.tensor(expected), rtol=0, atol=1e-14)
    per_transition = torch.tensor(model.features @ weights)
    torch.testing.assert_close(
        mdp.expected_rewards(per_transition[None])[0], torch.tensor(expected), rtol=0, atol=1e-14
    )


def test_reward_weights_may_have_leading_axes(random_model: MakeModel) -> None:
    mdp = TabularMDP.stack([random_model(0), random_model(1, states=4)])
    weights = torch.randn(5, 4, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rewards = mdp.linear_rewards(weights)
    assert rewards.shape == (5, 4, 2, 6, 3)
    torch.testing.assert_close(rewards[3, 1], mdp.linear_rewards(weights[3, 1]))


def test_select_repeats_and_reorders(random_model: MakeModel) -> None:
    mdp = TabularMDP.stack([random_model(seed) for seed in range(3)])
    chosen = mdp.select(torch.tensor([2, 0, 2]))
    assert chosen.num_mdps == 3
    for field in TabularMDP.__dataclass_fields__:
        assert torch.equal(getattr(chosen, field), getattr(mdp, field)[[2, 0, 2]])


@pytest.mark.parametrize("face", ["scalar", "unwrapped", "vector", "device"])
def test_every_face_of_an_environment_tells_its_model(face: str) -> None:
    env = {
        "scalar": lambda: gym.make("prefrl/Delivery-v0"),
        "unwrapped": lambda: gym.make("prefrl/Delivery-v0").unwrapped,
        "vector": lambda: gym.make_vec("prefrl/Delivery-v0", num_envs=2),
        "device": lambda: prefrl.envs.make_device("prefrl/Delivery-v0", 2),
    }[face]()
    mdp = TabularMDP.from_env(env)
    assert mdp.successors.shape == (1, 100, 4, 1)
    assert mdp.weights.tolist() == [[-1.0, 50.0, -50.0, 1.0, -1.0, -2.0]]
    assert mdp.device == torch.device("cpu")


def test_other_environments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"offers no tabular_model\(\)"):
        TabularMDP.from_env(gym.make("CartPole-v1"))


def test_models_that_do_not_go_together_are_refused(random_model: MakeModel) -> None:
    with pytest.raises(ValueError, match="models is empty"):
        TabularMDP.stack([])
    with pytest.raises(ValueError, match="different numbers of actions"):
        TabularMDP.stack([random_model(0), random_model(0, actions=2)])


def test_stacking_copies(random_model: MakeModel) -> None:
    model = replace(random_model(0), weights=np.array([1.0, 2.0, 3.0]))
    mdp = TabularMDP.stack([model])
    mdp.weights.zero_()
    assert model.weights.tolist() == [1.0, 2.0, 3.0]
