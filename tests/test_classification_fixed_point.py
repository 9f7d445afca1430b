"""Dynamic programming with classification losses finds the optimal values of a random MDP.

With a table of logits and expected updates nothing is left but the labels, so that their fixed point can be
compared with what ordinary value iteration finds.
"""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from prefrl.functional.value_based.value_distributions import (
    atoms,
    bin_centers,
    bin_edges,
    categorical_projection,
    cross_entropy,
    expected_value,
    hl_gauss_probs,
    resolve_sigma,
    two_hot_probs,
)

GAMMA = 0.9
STATES, ACTIONS, PLACES = 20, 3, 51
LOSSES = ["hl_gauss", "two_hot", "c51"]


@dataclass
class MDP:
    """Transitions [S, A, S], rewards [S, A, S], continues [S] (0: the episode is over there)."""

    transitions: Tensor
    rewards: Tensor
    continues: Tensor

    def targets(self, q: Tensor) -> Tensor:
        """r + gamma max_a Q [S, A, S] of every transition."""
        return self.rewards + GAMMA * self.continues * q.amax(-1)

    def optimal(self) -> Tensor:
        """Q* [S, A], by value iteration."""
        q = torch.zeros(STATES, ACTIONS, dtype=torch.float64)
        for _ in range(400):
            q = (self.transitions * self.targets(q)).sum(-1)
        return q


def random_mdp(seed: int, *, deterministic: bool = False) -> MDP:
    """State 0 ends the episode; every reward is one of -2 .. 2."""
    rng = np.random.default_rng(seed)
    transitions = rng.dirichlet(np.full(STATES, 0.2), size=(STATES, ACTIONS))
    if deterministic:
        transitions = np.eye(STATES)[transitions.argmax(-1)]
    rewards = rng.integers(-2, 3, size=(STATES, ACTIONS, STATES))
    continues = np.ones(STATES)
    continues[0] = 0.0
    return MDP(*(torch.tensor(a, dtype=torch.float64) for a in (transitions, rewards, continues)))


@dataclass
class Label:
    """Labels of one kind on a range, and the places they are decoded with."""

    kind: str
    v_min: float
    v_max: float

    def __post_init__(self) -> None:
        self.edges = bin_edges(self.v_min, self.v_max, PLACES, dtype=torch.float64)
        self.width = (self.v_max - self.v_min) / PLACES
        self.places = atoms(self.v_min, self.v_max, PLACES, dtype=torch.float64)
        if self.kind == "hl_gauss":
            self.places = bin_centers(self.edges)

    def expected(self, mdp: MDP, probs: Tensor) -> Tensor:
        """The label [S, A, m] of every pair: the mean over next states, of distributions [S, A, m] there."""
        q = probs @ self.places
        if self.kind == "c51":
            greedy = probs[torch.arange(STATES), q.argmax(-1)]
            moved = mdp.rewards[..., None] + GAMMA * (mdp.continues[:, None] * self.places)
            labels = categorical_projection(greedy.expand_as(moved), moved, self.places)
        elif self.kind == "two_hot":
            labels = two_hot_probs(mdp.targets(q), self.places)
        else:
            labels = hl_gauss_probs(mdp.targets(q), self.edges, resolve_sigma(self.width), clamp=True)
        return torch.einsum("sax,saxm->sam", mdp.transitions, labels)


def fixed_point(mdp: MDP, label: Label) -> Tensor:
    """Distributions [S, A, m] after 400 updates, each to the average label, which minimises the loss."""
    probs = torch.full((STATES, ACTIONS, PLACES), 1.0 / PLACES, dtype=torch.float64)
    for _ in range(400):
        probs = label.expected(mdp, probs)
    return probs


def padded(mdp: MDP, kind: str) -> Label:
    """Everything a return can be, and three bins more on both sides."""
    limit = mdp.rewards.abs().max().item() / (1.0 - GAMMA) * PLACES / (PLACES - 6)
    return Label(kind, -limit, limit)


def allowed(label: Label) -> float:
    """The error that is granted to a label, in units of value."""
    return 0.1 * label.width if label.kind == "hl_gauss" else 2e-3 * (label.v_max - label.v_min)


@pytest.mark.parametrize("seed", [107, 276, 70])
@pytest.mark.parametrize("kind", LOSSES)
def test_the_fixed_point_is_the_optimal_value(kind: str, seed: int) -> None:
    mdp = random_mdp(seed)
    label, optimal = padded(mdp, kind), mdp.optimal()
    probs = fixed_point(mdp, label)
    # Nothing pulls the logits away from there.
    logits = probs.clamp(min=1e-300).log().requires_grad_()
    (gradient,) = torch.autograd.grad(cross_entropy(logits, label.expected(mdp, probs)).sum(), logits)
    assert gradient.abs().max() < 1e-12
    q = expected_value(logits.detach(), label.places)
    assert (q - optimal).abs().max() <= allowed(label)
    # Which is generous: Two-Hot and C51 keep means, and HL-Gauss is off by aliasing, (width / pi) exp(-2 (.75
    # pi)^2) = 5e-6 widths, 1 / (1 - gamma) times at most.
    limit = 5e-5 * label.width if kind == "hl_gauss" else 1e-10
    assert (q - optimal).abs().max() <= limit
    assert torch.equal(q.argmax(-1), optimal.argmax(-1))


@pytest.mark.parametrize("kind", LOSSES)
def test_a_support_that_ends_at_the_largest_value_is_too_small(kind: str) -> None:
    """Returns spread above their mean: whatever the label, what lies above the end is lost."""
    mdp = random_mdp(107)
    optimal = mdp.optimal()
    narrow = Label(kind, padded(mdp, kind).v_min, optimal.max().item())
    q = fixed_point(mdp, narrow) @ narrow.places
    assert (q - optimal).abs().max() > 0.3 * narrow.width


@pytest.mark.parametrize("kind", LOSSES)
def test_hl_gauss_alone_needs_room_beyond_the_largest_target(kind: str) -> None:
    """Without chance no target lies above the largest value; but HL-Gauss pulls in what lies at the end."""
    mdp = random_mdp(202, deterministic=True)
    optimal = mdp.optimal()
    narrow = Label(kind, padded(mdp, kind).v_min, optimal.max().item())
    error = (fixed_point(mdp, narrow) @ narrow.places - optimal).abs().max()
    assert error > 0.3 * narrow.width if kind == "hl_gauss" else error <= allowed(narrow)
