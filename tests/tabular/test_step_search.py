"""The search by an environment's own steps: it is the search of its table, it plays, and it refuses."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import prefrl.envs
from prefrl.tabular import DeterministicModel, SearchTrees, step_search, tree_search

assert prefrl.envs.REGISTRY


def starts(env: Any, count: int, seed: int = 0) -> dict[str, Any]:
    dynamics = env.unwrapped.dynamics
    return dict(dynamics.initial(dynamics.reset_noise(dynamics.backend.random(seed), count)))


@pytest.mark.parametrize(("env_id", "depth"), [("prefrl/SparseGrid-v0", 9), ("prefrl/TokenTree-v0", 3)])
def test_it_is_the_search_of_the_table(env_id: str, depth: int) -> None:
    """Terminal states, limits of depth, priors and values of observations included."""
    env = gym.make(env_id, layout_seed=2)
    model, rng = DeterministicModel.from_env(env), np.random.default_rng(0)
    states, count = model.successors.shape
    priors, values = rng.random((states, count)), rng.standard_normal(states)
    about: dict[str, Any] = {"simulations": 60, "exploration": 0.8, "gamma": 0.9, "max_depth": depth}
    roots = starts(env, 7)

    def asked(obs: np.ndarray) -> np.ndarray:
        assert not model.terminal[obs].any(), "nobody acts after an end"
        return priors[obs]

    found = step_search(env, roots, priors=asked, values=lambda obs: values[obs], **about)
    here = env.unwrapped.dynamics.observe(roots)
    expected = tree_search(
        model, torch.as_tensor(here), torch.as_tensor(priors), values=torch.as_tensor(values), **about
    )
    assert torch.equal(found.trees.visits, expected.visits)
    assert torch.equal(found.trees.children, expected.children)
    made = expected.states >= 0
    torch.testing.assert_close(found.trees.q[made], expected.q[made], atol=1e-12, rtol=0.0)
    rows = found.trees.states[made].numpy()
    seen = env.unwrapped.dynamics.observe({name: each[rows] for name, each in found.states.items()})
    assert seen.tolist() == expected.states[made].tolist()


def fallen(simulations: int) -> int:
    """Return the step in which the first of four poles falls; 100: none did."""
    env = gym.make("prefrl/CartPole-v0")
    dynamics, state = env.unwrapped.dynamics, starts(env, 4)  # type: ignore[attr-defined]
    for step in range(100):
        found = step_search(
            env, state, values=lambda obs: 100.0 * (1.0 - np.abs(obs[:, 2]) / 0.21), exploration=10.0,
            simulations=simulations, gamma=0.99, max_depth=20,
        )  # fmt: skip
        actions = found.trees.visits[:, 0].argmax(1).numpy()
        state, _, ended = dynamics.step(state, actions, {})
        if ended.any():
            return step
    return 100


def test_it_balances_a_pole_by_its_angle_alone() -> None:
    """What a push does to the angle shows two steps later: only who looks ahead can go by it."""
    assert fallen(1) < 20
    assert fallen(12) == 100


def test_networks_are_asked_for_observations() -> None:
    torch.manual_seed(0)
    net = torch.nn.Linear(4, 2)
    env = gym.make("prefrl/CartPole-v0")

    def priors(obs: np.ndarray) -> torch.Tensor:
        return net(torch.as_tensor(obs, dtype=torch.float32)).softmax(-1)

    found = step_search(env, starts(env, 3), priors=priors, simulations=1, max_depth=5)
    obs = env.unwrapped.dynamics.observe(starts(env, 3))  # type: ignore[attr-defined]
    assert found.trees.visits[:, 0].argmax(1).tolist() == priors(obs).argmax(1).tolist()
    assert isinstance(found.trees, SearchTrees)


def test_refusals() -> None:
    grid, good = gym.make("prefrl/SparseGrid-v0"), {"simulations": 2, "max_depth": 2}
    for env, message in (
        (gym.make("CartPole-v1"), r"needs an environment of prefrl\.envs in NumPy"),
        (gym.make("prefrl/Pendulum-v0"), "actions are Box"),
        (gym.make("prefrl/RandomGrid-v0", stochastic=True), "steps draw outcome"),
    ):
        with pytest.raises(ValueError, match=message):
            step_search(env, {"state": np.zeros(1, np.int64)}, **good)
    shifted = gym.make("prefrl/SparseGrid-v0").unwrapped
    shifted.dynamics.single_action_space = gym.spaces.Discrete(4, start=1)  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="needs Discrete ones, from 0 on"):
        step_search(shifted, starts(grid, 1), **good)
    roots = starts(grid, 2)
    for settings, message in (
        ({"simulations": 0}, "simulations is 0"),
        ({"priors": lambda obs: np.ones(len(obs))}, r"priors of 2 observations have shape \[2\]"),
        ({"values": lambda obs: np.full(len(obs), np.nan)}, "values of 8 observations .* finite"),
    ):
        with pytest.raises(ValueError, match=message):
            step_search(grid, roots, **{**good, **settings})
    with pytest.raises(ValueError, match="all must be"):
        step_search(grid, {"state": np.zeros(0, np.int64)}, **good)
