"""Actions under several objectives: dominance, approval, choices and abstention, by hand and by search."""

import pytest
import torch
from hypothesis import given, settings, strategies as st

from prefrl.functional.preferences import uncertain_objectives as F

EVEN = torch.tensor([0.5, 0.5], dtype=torch.float64)
VALUES = torch.tensor([[[3.0, 2.0, 2.0, 0.0]], [[0.0, 2.0, 1.0, 2.5]]], dtype=torch.float64)
"""Two members, one state: 0 is best for the first, 3 for the second, 1 a compromise that beats 2."""


def test_by_hand() -> None:
    allowed = F.undominated(VALUES)
    assert allowed.tolist() == [[True, True, False, True]]
    assert F.approval(VALUES, EVEN, 0.0).tolist() == [[0.5, 0.0, 0.0, 0.5]]
    assert F.approval(VALUES, EVEN, 0.5).tolist() == [[0.5, 0.5, 0.0, 0.5]]
    assert F.approval(VALUES, EVEN, 1.0).tolist() == [[0.5, 1.0, 0.5, 0.5]]
    # advantages: 0, -1, -1, -3 and -2.5, -.5, -1.5, 0
    assert F.preferred(VALUES, allowed, EVEN, "mean", 0.0).tolist() == [1]
    assert F.preferred(VALUES, allowed, EVEN, "worst", 0.0).tolist() == [1]
    assert F.preferred(VALUES, allowed, EVEN, "approval", 0.0).tolist() == [0]  # of 0 and 3 the larger mean
    lopsided = torch.tensor([0.1, 0.9], dtype=torch.float64)
    assert F.preferred(VALUES, allowed, lopsided, "mean", 0.0).tolist() == [3]
    assert F.preferred(VALUES, allowed, lopsided, "approval", 0.0).tolist() == [3]
    for agreement, tolerance, unsure in ((0.5, 0.0, False), (0.6, 0.0, True), (1.0, 1.0, False)):
        assert F.abstains(VALUES, EVEN, agreement, tolerance).tolist() == [unsure]


def test_an_action_that_is_equal_to_all_is_not_dominated() -> None:
    assert F.undominated(torch.ones(3, 2, 4)).all()


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 10_000),
    st.integers(1, 4),
    st.integers(1, 5),
    st.sampled_from(["mean", "worst", "approval"]),
)
def test_what_is_chosen_is_never_dominated(seed: int, members: int, actions: int, choice: F.Choice) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(-2, 3, (members, 30, actions), generator=generator).double()
    weights = torch.rand(members, generator=generator, dtype=torch.float64) + 0.01
    weights /= weights.sum()
    allowed = F.undominated(values)
    chosen = F.preferred(values, allowed, weights, choice, 0.0)
    assert allowed.any(-1).all()
    for state, action in enumerate(chosen.tolist()):
        mine = values[:, state, action]
        for other in range(actions):
            theirs = values[:, state, other]
            assert not (bool((theirs >= mine).all()) and bool((theirs > mine).any()))


def test_refusals() -> None:
    with pytest.raises(ValueError, match="choice is 'best'; it must be 'mean', 'worst' or 'approval'"):
        F.preferred(VALUES, F.undominated(VALUES), EVEN, "best", 0.0)  # type: ignore[arg-type]
