"""What partial return cannot tell apart and regret can (Knox et al. 2022, theorems 3.1 and 3.2), exactly."""

from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from prefrl.data import Segments
from prefrl.envs.grids.grid import TabularModel
from prefrl.preferences import PartialReturn, PreferenceModel, Regret, Teacher, Valuation, valuate
from prefrl.tabular import TabularMDP, optimal_policy

Outcome = tuple[int, float, list[float]]
"""Next state, probability, features."""


def make_mdp(table: list[list[list[Outcome]]], weights: list[float]) -> TabularMDP:
    """An MDP from its outcomes per state and action; the state after the last is terminal."""
    states, actions = len(table) + 1, len(table[0])
    outcomes = max(len(entry) for row in table for entry in row)
    successors = np.full((states, actions, outcomes), states - 1)
    probabilities = np.zeros(successors.shape)
    probabilities[-1, :, 0] = 1.0
    features = np.zeros((*successors.shape, len(weights)))
    for s, row in enumerate(table):
        for a, entry in enumerate(row):
            for k, (following, probability, phi) in enumerate(entry):
                successors[s, a, k], probabilities[s, a, k] = following, probability
                features[s, a, k] = phi
    terminal = np.arange(states) == states - 1
    start = np.where(terminal, 0.0, 1.0 / len(table))
    names = tuple(f"feature {i}" for i in range(len(weights)))
    return TabularMDP.stack(
        [TabularModel(successors, probabilities, features, np.array(weights), terminal, start, names)]
    )


def all_segments(mdp: TabularMDP, length: int) -> Segments:
    """Every segment of exactly so many transitions."""
    found: list[tuple[list[int], list[int], list[Tensor]]] = []

    def extend(states: list[int], actions: list[int], features: list[Tensor]) -> None:
        if len(actions) == length:
            found.append((states, actions, features))
        elif not mdp.terminal[0, states[-1]]:
            for a, k in product(range(mdp.num_actions), range(mdp.successors.shape[-1])):
                if mdp.probabilities[0, states[-1], a, k] > 0.0:
                    following = int(mdp.successors[0, states[-1], a, k])
                    phi = mdp.features[0, states[-1], a, k]
                    extend([*states, following], [*actions, a], [*features, phi])

    for start in range(mdp.num_states):
        extend([start], [], [])
    obs, actions = (torch.tensor([row[i] for row in found]) for i in (0, 1))
    features = torch.stack([torch.stack(row[2]) for row in found])
    lengths = torch.full((len(found),), length)
    return Segments(obs, actions, lengths, mdp.terminal[0, obs[:, -1]], features)


def valued(mdp: TabularMDP, segments: Segments, weights: Tensor, gamma: float) -> Valuation:
    value, quality, _ = optimal_policy(mdp, mdp.linear_rewards(weights[None]), gamma)
    assert segments.features is not None
    return valuate(segments, segments.features @ weights, value[0], quality[0])


def policy_of(mdp: TabularMDP, weights: Tensor, gamma: float) -> Tensor:
    return optimal_policy(mdp, mdp.linear_rewards(weights[None]), gamma)[2][0]


def probabilities(model: PreferenceModel, valuation: Valuation) -> Tensor:
    """P(second preferred) for every pair of the segments."""
    n = len(valuation.mask)
    first, second = (
        Valuation(*(getattr(valuation, name)[rows] for name in Valuation.__dataclass_fields__))
        for rows in torch.cartesian_prod(torch.arange(n), torch.arange(n)).unbind(1)
    )
    return model.probability(first, second)


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# (a) Variable horizons ---------------------------------------------------------------------------------


def corridor() -> TabularMDP:
    """Two states: action 0 stays, action 1 goes on and in the end leaves. Features: a step, the exit."""
    return make_mdp(
        [
            [[(0, 1.0, [1.0, 0.0])], [(1, 1.0, [1.0, 0.0])]],
            [[(1, 1.0, [1.0, 0.0])], [(2, 1.0, [1.0, 1.0])]],
        ],
        [-1.0, 1.0],
    )


@pytest.mark.parametrize("gamma", [0.9, 0.999])
def test_a_constant_added_to_every_step(gamma: float) -> None:
    mdp, reward, shifted = corridor(), double(-1.0, 1.0), double(1.0, 1.0)
    for length in (1, 2, 3, 4):
        segments = all_segments(mdp, length)
        before, after = (valued(mdp, segments, w, gamma) for w in (reward, shifted))
        change = {
            type(model): (probabilities(model, before) - probabilities(model, after)).abs().max().item()
            for model in (PartialReturn(), Regret())
        }
        assert change[PartialReturn] < 1e-12
        assert change[Regret] > 0.1
    assert policy_of(mdp, reward, gamma)[:2].tolist() == [[0.0, 1.0], [0.0, 1.0]]  # leave
    assert policy_of(mdp, shifted, gamma)[:2].tolist()[1] == [1.0, 0.0]  # stay for ever
    assert segments.terminated.any()


def test_segments_of_different_length_would_tell_the_constant() -> None:
    mdp = corridor()
    short, long = all_segments(mdp, 1), all_segments(mdp, 2)
    chances = []
    for weights in (double(-1.0, 1.0), double(1.0, 1.0)):
        one, two = (valued(mdp, segments, weights, 0.9) for segments in (short[:1], long[:1]))
        padded = Valuation(*(torch.nn.functional.pad(getattr(one, name), (0, 1))
                             for name in Valuation.__dataclass_fields__))  # fmt: skip
        chances.append(PartialReturn().probability(padded, two).item())
    assert chances == pytest.approx([1.0 / (1.0 + np.e), np.e / (1.0 + np.e)])


# (b) Single transitions --------------------------------------------------------------------------------


def test_segments_of_one_transition_are_blind_to_the_discount() -> None:
    """Action 0 ends with 1 at once; action 1 goes to a state that ends with 3."""
    mdp = make_mdp([[[(2, 1.0, [1.0])], [(1, 1.0, [0.0])]], [[(2, 1.0, [3.0])], [(2, 1.0, [3.0])]]], [1.0])
    weights, segments = double(1.0), all_segments(mdp, 1)
    hasty, patient = (valued(mdp, segments, weights, gamma) for gamma in (0.1, 0.99))
    assert torch.equal(probabilities(PartialReturn(), hasty), probabilities(PartialReturn(), patient))
    assert policy_of(mdp, weights, 0.1)[0].tolist() == [1.0, 0.0]
    assert policy_of(mdp, weights, 0.99)[0].tolist() == [0.0, 1.0]
    # Regret of the hasty action 0 and of the patient action 1 are 0; the others' are what they give away.
    assert Regret().score(hasty).tolist() == pytest.approx([0.0, 0.3 - 1.0, 0.0, 0.0])
    assert Regret().score(patient).tolist() == pytest.approx([1.0 - 2.97, 0.0, 0.0, 0.0])
    assert (probabilities(Regret(), hasty) - probabilities(Regret(), patient)).abs().max() > 0.3


# (c) Lotteries without noise ---------------------------------------------------------------------------


def test_noiseless_labels_order_outcomes_but_not_lotteries() -> None:
    """Action 0 is safe and worth 0; action 1 loses 10 or wins 1, or 100, evenly. Features: win, loss."""
    mdp = make_mdp([[[(1, 1.0, [0.0, 0.0])], [(1, 0.5, [1.0, 0.0]), (1, 0.5, [0.0, 1.0])]]], [1.0, -10.0])
    segments = all_segments(mdp, 1)
    assert segments.actions[:, 0].tolist() == [0, 1, 1]
    n = len(segments)
    rows, columns = torch.cartesian_prod(torch.arange(n), torch.arange(n)).unbind(1)
    labels: dict[type[PreferenceModel], list[list[float]]] = {PartialReturn: [], Regret: []}
    policies = []
    for win in (1.0, 100.0):
        weights = double(win, -10.0)
        v = valued(mdp, segments, weights, 0.999)
        first, second = (
            Valuation(*(getattr(v, name)[index] for name in Valuation.__dataclass_fields__))
            for index in (rows, columns)
        )
        for model in (PartialReturn(), Regret()):
            labels[type(model)].append(Teacher(model).label(first, second)[0].tolist())
        policies.append(policy_of(mdp, weights, 0.999)[0].tolist())
    assert policies == [[1.0, 0.0], [0.0, 1.0]]
    assert labels[PartialReturn][0] == labels[PartialReturn][1]
    # Rows: safe, won, lost against safe, won, lost. What came of the risk does not matter to regret.
    assert labels[PartialReturn][0] == [0.5, 1.0, 0.0, 0.0, 0.5, 0.0, 1.0, 1.0, 0.5]
    assert labels[Regret][0] == [0.5, 0.0, 0.0, 1.0, 0.5, 0.5, 1.0, 0.5, 0.5]
    assert labels[Regret][1] == [0.5, 1.0, 1.0, 0.0, 0.5, 0.5, 0.0, 0.5, 0.5]
