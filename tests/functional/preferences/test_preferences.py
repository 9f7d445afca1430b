"""Scores, probabilities and losses of preferences: by hand, by plain twins, and at the extremes."""

import math

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor

from prefrl.functional.preferences.preferences import (
    partial_return,
    preference_cross_entropy,
    preference_logit,
    preference_probability,
    weighted_mean,
)

seeds = st.integers(0, 2**32 - 1)
logits = st.floats(-50.0, 50.0)
labels = st.floats(-1.0, 2.0)


def double(*values: object) -> Tensor:
    return torch.tensor(values[0] if len(values) == 1 else values, dtype=torch.float64)


def close(actual: Tensor, expected: Tensor, atol: float = 1e-14, rtol: float = 0.0) -> None:
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol)


def random_segments(seed: int, *leading: int) -> tuple[Tensor, Tensor]:
    """Rewards [..., 5, 4] with NaN in the padding, and the mask [5, 4] of lengths 0 to 4."""
    generator = torch.Generator().manual_seed(seed)
    rewards = torch.randn(*leading, 5, 4, generator=generator, dtype=torch.float64)
    mask = torch.arange(4) < torch.randint(0, 5, (5, 1), generator=generator)
    return rewards.masked_fill(~mask, math.nan), mask


# Scores ------------------------------------------------------------------------------------------------


def test_partial_return_by_hand() -> None:
    rewards = double([[1.0, 2.0, 4.0], [1.0, 2.0, 4.0], [8.0, 9.0, 9.0]])
    mask = torch.tensor([[True, True, True], [True, True, False], [True, False, False]])
    assert partial_return(rewards, mask).tolist() == [7.0, 3.0, 8.0]
    assert partial_return(rewards, mask, gamma=0.5).tolist() == [0.25 + 1.0 + 4.0, 0.5 + 2.0, 8.0]
    assert partial_return(rewards, mask, gamma=0.0).tolist() == [4.0, 2.0, 8.0]


@given(seeds, st.floats(0.0, 1.0))
def test_partial_return_equals_its_plain_twin(seed: int, gamma: float) -> None:
    rewards, mask = random_segments(seed, 2)
    expected = torch.zeros(2, 5, dtype=torch.float64)
    for b in range(2):
        for i in range(5):
            for t in range(int(mask[i].sum())):
                expected[b, i] = expected[b, i] * gamma + rewards[b, i, t]
    close(partial_return(rewards, mask, gamma=gamma), expected)


def test_padding_takes_no_gradient() -> None:
    rewards, mask = random_segments(3)
    rewards.requires_grad_()
    partial_return(rewards, mask, gamma=0.9).sum().backward()
    assert rewards.grad is not None
    assert rewards.grad.isfinite().all()
    assert not rewards.grad[~mask].any()


# Probabilities -----------------------------------------------------------------------------------------


def test_probabilities_by_hand() -> None:
    logit = preference_logit(double(1.0, 0.0, 2.0), double(1.0, math.log(3.0), 0.0), 2.0)
    close(logit, double(0.0, 2.0 * math.log(3.0), -4.0))
    close(preference_probability(logit), double(0.5, 0.9, 1.0 / (1.0 + math.exp(4.0))))
    # With e = 1/4 of the answers uniform: 3/4 * 9/10 + 1/8.
    mixed = preference_probability(logit, math.log(1.0 / 3.0))
    close(mixed[:2], double(0.5, 0.8))


@given(logits, st.floats(-30.0, 30.0))
def test_uniform_mixture_equals_the_direct_formula(logit: float, uniform_logit: float) -> None:
    share = 1.0 / (1.0 + math.exp(-uniform_logit))
    chance = 1.0 / (1.0 + math.exp(-logit))
    direct = (1.0 - share) * chance + share / 2.0
    assert preference_probability(double(logit), uniform_logit).item() == pytest.approx(direct, rel=1e-12)
    for label, probability in ((1.0, direct), (0.0, 1.0 - direct)):
        entropy = preference_cross_entropy(double(logit), double(label), uniform_logit).item()
        assert math.exp(-entropy) == pytest.approx(probability, abs=1e-14)


def test_uniform_share_may_differ_between_fits() -> None:
    logit, label = torch.randn(2, 5).double(), torch.rand(5).double()
    guess = double([[-1.0], [2.0]])
    both = preference_cross_entropy(logit, label, guess)
    chances = preference_probability(logit, guess)
    for b in range(2):
        close(both[b], preference_cross_entropy(logit[b], label, guess[b].item()))
        close(chances[b], preference_probability(logit[b], guess[b].item()))


# Cross-entropy -----------------------------------------------------------------------------------------


def test_cross_entropy_by_hand() -> None:
    logit = double(0.0, math.log(3.0), math.log(3.0), math.log(3.0), 0.0)
    label = double(0.5, 1.0, 0.0, 0.5, 7.0)
    expected = [math.log(2.0), math.log(4 / 3), math.log(4.0), 0.5 * math.log(16 / 3), math.log(2.0)]
    close(preference_cross_entropy(logit, label), double(expected))


@given(st.floats(-15.0, 15.0), labels)
def test_cross_entropy_equals_its_plain_twin_for_any_label(logit: float, label: float) -> None:
    second = 1.0 / (1.0 + math.exp(-logit))
    direct = -(label * math.log(second) + (1.0 - label) * math.log(1.0 - second))
    actual = preference_cross_entropy(double(logit), double(label)).item()
    assert actual == pytest.approx(direct, rel=1e-9, abs=1e-9)


@given(logits, labels, st.sampled_from([None, -3.0, 0.0, 2.0]))
def test_swapping_the_segments_changes_nothing(logit: float, label: float, guess: float | None) -> None:
    z, y = double(logit), double(label)
    swapped = preference_cross_entropy(-z, 1.0 - y, guess)
    close(preference_cross_entropy(z, y, guess), swapped, atol=1e-13, rtol=1e-13)
    close(preference_probability(z, guess) + preference_probability(-z, guess), double(1.0), atol=1e-15)


@pytest.mark.parametrize("guess", [None, -800.0, -3.0, 800.0])
@pytest.mark.parametrize("size", [25.0, 800.0, 1e6, 1e300])
def test_extreme_log_odds_stay_finite_and_exact(size: float, guess: float | None) -> None:
    logit = double(size, size, -size, -size).requires_grad_()
    label = double(1.0, 0.0, 1.0, 0.0)
    entropy = preference_cross_entropy(logit, label, guess)
    entropy.sum().backward()
    assert logit.grad is not None
    assert entropy.isfinite().all()
    assert logit.grad.isfinite().all()
    if guess is None:
        tail = math.exp(-size)
        # softplus(z) - z cancels: exact to the last place of z.
        close(entropy.detach(), double(tail, size + tail, size + tail, tail), atol=2e-16 * size)
        close(logit.grad, double(-tail, 1.0 - tail, tail - 1.0, tail), atol=4e-16)
    elif guess == -3.0:
        # Nobody is surer than the guessing lets him be: -log(e / 2) at most.
        ceiling = -math.log(0.5 / (1.0 + math.exp(3.0)))
        assert (entropy <= ceiling + 1e-12).all()
        assert entropy[1].item() == pytest.approx(ceiling, rel=1e-9)


@pytest.mark.parametrize("guess", [None, "learned"])
def test_gradients_in_float64(guess: str | None) -> None:
    generator = torch.Generator().manual_seed(0)
    logit = (3.0 * torch.randn(2, 6, generator=generator, dtype=torch.float64)).requires_grad_()
    label = torch.tensor([0.0, 1.0, 0.5, 0.3, -0.2, 1.4], dtype=torch.float64)
    if guess is None:
        assert torch.autograd.gradcheck(lambda z: preference_cross_entropy(z, label), logit)
        assert torch.autograd.gradgradcheck(lambda z: preference_cross_entropy(z, label), logit)
    else:
        share = double([[-2.0], [0.5]]).requires_grad_()
        both = (logit, share)
        assert torch.autograd.gradcheck(lambda z, c: preference_cross_entropy(z, label, c), both)
        assert torch.autograd.gradcheck(preference_probability, both)


def test_partial_return_has_gradients_in_float64() -> None:
    mask = torch.tensor([[True, True, False], [True, True, True]])
    rewards = torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rewards.requires_grad_()
    assert torch.autograd.gradcheck(lambda r: partial_return(r, mask, gamma=0.7), rewards)


def test_single_precision_stays_single() -> None:
    logit, label = torch.randn(4), torch.rand(4)
    assert preference_cross_entropy(logit, label, -2.0).dtype == torch.float32
    assert preference_probability(logit, -2.0).dtype == torch.float32
    assert partial_return(torch.randn(2, 3), torch.ones(2, 3) > 0, gamma=0.5).dtype == torch.float32


# Weighted means ----------------------------------------------------------------------------------------


def test_weighted_mean_by_hand() -> None:
    values = double([[1.0, 5.0, 9.0], [2.0, 4.0, 6.0], [1.0, 1.0, 1.0]])
    weights = double([[1.0, 3.0, 0.0], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    assert weighted_mean(values, weights).tolist() == [4.0, 4.0, 0.0]


@pytest.mark.parametrize("labels", [(3, 1), (1,), (2,), (1, 3), (2, 3)])
def test_labels_are_not_broadcast(labels: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"^labels have shape \{list(labels)} and the log-odds \[3\]"):
        preference_cross_entropy(torch.zeros(3), torch.zeros(labels))


def test_labels_may_be_shared_by_leading_axes() -> None:
    logit, labels = torch.randn(4, 2, 3), torch.rand(2, 3)
    shared = preference_cross_entropy(logit, labels)
    torch.testing.assert_close(shared, preference_cross_entropy(logit, labels.expand(4, 2, 3)))
