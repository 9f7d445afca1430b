"""The batched search: a tree worked out by hand, a plain twin on random models, limits, refusals."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

import prefrl.envs
from prefrl.run.study.plain_search import Node, PlainSearch
from prefrl.tabular import DeterministicModel, SearchTrees, tree_search
from prefrl.tabular.tree_search.search import Engine

assert prefrl.envs.REGISTRY


def hand_made() -> DeterministicModel:
    """A root that leads to a node (0) or ends (.5); in the node, 1 or nothing."""
    successors = [[1, 2], [3, 4], [2, 2], [3, 3], [4, 4]]
    rewards = [[0.0, 0.5], [1.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]
    return DeterministicModel.of_tables(
        successors, rewards, [False, False, True, True, True], [1.0, 0, 0, 0, 0]
    )


@pytest.mark.parametrize("engine", ["numpy", "torch"])
def test_a_tree_by_hand(engine: Engine) -> None:
    priors = torch.full((5, 2), 0.5, dtype=torch.float64)
    priors[0] = torch.tensor([0.61, 0.39])
    # 1: .61 < .5 + .39. 2: .61 sqrt 2 > .5 + .39 sqrt 2 / 2, V = (1 + 0) / 2. 3: the node, its first edge,
    # V = (1 + 0) / 2. 4: the same, .5 + .61 2 / 3 > .5 + .39 2 / 2, V = (2 + 0) / 3.
    seen = [([0, 1], [0, 0.5]), ([1, 1], [0.5, 0.5]), ([2, 1], [0.5, 0.5]), ([3, 1], [2 / 3, 0.5])]
    for simulations, (visits, q) in enumerate(seen, 1):
        trees = tree_search(hand_made(), torch.tensor([0, 0]), priors, simulations=simulations, max_depth=9,
                            engine=engine)  # fmt: skip
        assert trees.visits[:, 0].tolist() == [visits, visits]
        torch.testing.assert_close(trees.q[1, 0], torch.tensor(q, dtype=torch.float64))
    assert trees.children[0, 0].tolist() == [2, -1]
    assert trees.visits[0, 2].tolist() == [2, 0]
    assert trees.states[0].tolist() == [0, -1, 1, -1, -1]
    assert float(trees.values[0, 0]) == pytest.approx((3 * 2 / 3 + 0.5) / 4)


def same(node: Node, trees: SearchTrees, tree: int, row: int) -> None:
    assert node.state == int(trees.states[tree, row])
    assert node.visits == trees.visits[tree, row].long().tolist()
    np.testing.assert_allclose(node.q, trees.q[tree, row].numpy(), atol=1e-12)
    for child, place in zip(node.children, trees.children[tree, row].tolist(), strict=True):
        assert (child is None) == (place < 0)
        if child is not None:
            same(child, trees, tree, place)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000), states=st.integers(2, 9), count=st.integers(1, 5),
    simulations=st.integers(1, 40), depth=st.integers(1, 6), exploration=st.sampled_from([0.0, 0.7, 3.0]),
    gamma=st.sampled_from([0.0, 0.9, 1.0]), engine=st.sampled_from(["numpy", "torch"]),
)  # fmt: skip
def test_it_is_its_plain_twin(
    seed: int,
    states: int,
    count: int,
    simulations: int,
    depth: int,
    exploration: float,
    gamma: float,
    engine: Engine,
) -> None:
    rng = np.random.default_rng(seed)
    model = DeterministicModel.of_tables(
        rng.integers(0, states, (states, count)), rng.normal(size=(states, count)),
        rng.random(states) < 0.2, np.full(states, 1.0 / states),
    )  # fmt: skip
    priors, values = torch.as_tensor(rng.random((states, count))), torch.as_tensor(rng.normal(size=states))
    roots = torch.arange(states)[~model.terminal]
    if not len(roots):
        return
    about = {"exploration": exploration, "gamma": gamma, "max_depth": depth}
    trees = tree_search(model, roots, priors, values=values, simulations=simulations, engine=engine, **about)
    plain = PlainSearch.of(model, priors.tolist(), values.tolist(), **about)
    for tree, root in enumerate(roots.tolist()):
        same(plain.search(root, simulations), trees, tree, 0)
    assert (trees.visits[:, 0].sum(1) == simulations).all()


def test_steps_of_two_actions() -> None:
    model = hand_made().in_steps_of(2, 0.5)
    assert model.actions.tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert model.successors[0].tolist() == [3, 4, 2, 2]
    assert model.rewards[0].tolist() == [0.5, 0.0, 0.5, 0.5]
    assert model.after_the_end[0].tolist() == [[False, False]] * 2 + [[False, True]] * 2
    found = model.log_probs(torch.full((5, 2), 0.5, dtype=torch.float64))
    assert found[0].isnan().sum(1).tolist() == [0, 0, 1, 1]
    with pytest.raises(ValueError, match="step_length is 13; 2 actions make 8192"):
        hand_made().in_steps_of(13)


def test_refusals() -> None:
    model, priors, root = hand_made(), torch.ones(5, 2), torch.tensor([0])
    good: dict[str, Any] = {"simulations": 1, "max_depth": 1}
    for wrong, message in (
        ({"values": torch.ones(4)}, r"values has shape \[4\]; it must be \[5\]"),
        ({"simulations": 0}, "simulations is 0"),
        ({"max_depth": 0}, "max_depth is 0"),
        ({"engine": "jax"}, "engine is 'jax'; it must be one of auto, torch, numpy"),
        ({"exploration": -1.0}, "exploration is -1.0; it must be a finite number, not negative"),
        ({"gamma": 1.5}, "gamma is 1.5; it must be from 0 to 1"),
        ({"priors": priors * torch.nan}, "priors hold NaN or infinity"),
        ({"priors": -priors}, "priors go down to -1.0"),
        ({"rewards": priors / 0.0}, "rewards hold NaN or infinity"),
        ({"values": torch.full((5,), torch.nan)}, "values hold NaN or infinity"),
        ({"roots": torch.tensor([0, -1])}, "roots lie in -1 to 0; states are 0 to 4"),
        ({"roots": torch.tensor([5])}, "roots lie in 5 to 5; states are 0 to 4"),
        ({"roots": torch.tensor([0.0])}, r"roots is torch.float32 \[1\]; it must be int64"),
        ({"roots": root[:0]}, r"roots is torch.int64 \[0\]"),
    ):
        with pytest.raises(ValueError, match=message):
            tree_search(model, **{"roots": root, "priors": priors, **good, **wrong})
    unseen = torch.where(model.terminal, torch.nan, 0.0)  # what is said of endings is not looked at
    tree_search(model, root, priors, values=unseen, **good)
    with pytest.raises(ValueError, match="has several successors; a search needs a deterministic"):
        DeterministicModel.from_env(gym.make("prefrl/RandomGrid-v0", stochastic=True))
    with pytest.raises(ValueError, match="successors lie in 0 to 2; states are 0 to 1"):
        DeterministicModel.of_tables([[0], [2]], [[0.0], [0.0]], [False, False], [1.0, 0.0])
    with pytest.raises(ValueError, match=r"terminal is torch.int64; it must be torch.bool"):
        DeterministicModel.of_tables([[0], [1]], [[0.0], [0.0]], [0, 1], [1.0, 0.0])
    with pytest.raises(ValueError, match="start hold NaN"):
        DeterministicModel.of_tables([[0], [1]], [[0.0], [0.0]], [False, False], [1.0, torch.nan])
    with pytest.raises(ValueError, match="there must be states and actions"):
        DeterministicModel.of_tables(torch.zeros(0, 2).long(), torch.zeros(0, 2), torch.zeros(0).bool(), [])
