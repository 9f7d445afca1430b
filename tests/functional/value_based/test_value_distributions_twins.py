"""Two-Hot, C51's projection and the quantile loss against slow twins in plain Python, and by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor

from prefrl.functional.value_based.value_distributions import (
    atoms,
    categorical_projection,
    entropy,
    quantile_huber_loss,
    two_hot_probs,
)

DELTA = 0.4
ATOMS = atoms(-10.0, 10.0, 51, dtype=torch.float64)
Z = ATOMS.tolist()


def double(values: object) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64)


def close(actual: Tensor, expected: Tensor, atol: float) -> None:
    torch.testing.assert_close(actual, expected, rtol=0.0, atol=atol)


def random_distribution(seed: int, count: int = 51) -> list[float]:
    weights = np.random.default_rng(seed).exponential(size=count) ** 3
    return list(weights / weights.sum())


# Slow twins --------------------------------------------------------------------------------------------


def two_hot_twin(y: float, places: list[float]) -> list[float]:
    """Walk to the interval that holds y."""
    y = min(max(y, places[0]), places[-1])
    label = [0.0] * len(places)
    for i in range(len(places) - 1):
        if places[i] <= y <= places[i + 1]:
            label[i] = (places[i + 1] - y) / (places[i + 1] - places[i])
            label[i + 1] = (y - places[i]) / (places[i + 1] - places[i])
            break
    return label


def projection_twin(probs: list[float], locations: list[float], places: list[float]) -> list[float]:
    """Every location against every atom, by the triangular kernel."""
    spacing = (places[-1] - places[0]) / (len(places) - 1)
    result = []
    for atom in places:
        mass = 0.0
        for p, location in zip(probs, locations, strict=True):
            clipped = min(max(location, places[0]), places[-1])
            mass += p * max(0.0, 1.0 - abs(clipped - atom) / spacing)
        result.append(mass)
    return result


def quantile_twin(quantiles: list[float], targets: list[float], kappa: float) -> float:
    """One pair at a time."""
    total = 0.0
    for i, theta in enumerate(quantiles):
        tau = (2 * i + 1) / (2 * len(quantiles))
        for target in targets:
            u = target - theta
            if kappa == 0.0:
                size = abs(u)
            elif abs(u) <= kappa:
                size = u * u / (2.0 * kappa)
            else:
                size = abs(u) - kappa / 2.0
            total += (1.0 - tau if u < 0.0 else tau) * size / len(targets)
    return total


# Two-Hot -----------------------------------------------------------------------------------------------


def test_two_hot_by_hand() -> None:
    places = atoms(0.0, 4.0, 5)
    label = two_hot_probs(torch.tensor([1.25, 3.0, 0.0, 4.0, -7.0, 9.0]), places)
    expected = [[0, 0.75, 0.25, 0, 0], [0, 0, 0, 1, 0], [1, 0, 0, 0, 0],
                [0, 0, 0, 0, 1], [1, 0, 0, 0, 0], [0, 0, 0, 0, 1]]  # fmt: skip
    assert torch.equal(label, torch.tensor(expected, dtype=torch.float32))


@given(st.floats(-15.0, 15.0) | st.sampled_from(Z), st.integers(2, 60))
def test_two_hot_agrees_with_its_twin(y: float, count: int) -> None:
    places = atoms(-10.0, 10.0, count, dtype=torch.float64)
    label = two_hot_probs(double(y), places)
    close(label, double(two_hot_twin(y, places.tolist())), 1e-11)
    assert label.sum().item() == pytest.approx(1.0, abs=1e-14)
    assert (label > 0.0).sum() <= 2
    # The clamped target comes back as the mean.
    assert (label @ places).item() == pytest.approx(min(max(y, -10.0), 10.0), abs=1e-12)


def test_two_hot_in_single_precision() -> None:
    places = atoms(-10.0, 10.0, 51)
    targets = torch.cat([torch.linspace(-12.0, 12.0, 5001), places])
    labels = two_hot_probs(targets, places)
    assert torch.equal(labels.sum(-1), torch.ones(len(targets)))
    assert (labels >= 0.0).all()
    close(labels.double() @ places.double(), targets.clamp(-10.0, 10.0).double(), 3e-6)


# C51 ---------------------------------------------------------------------------------------------------


def test_projection_by_hand() -> None:
    places = atoms(0.0, 4.0, 5)
    probs = torch.tensor([0.5, 0.25, 0.25])
    # Half lands on an atom, a quarter between two, and a quarter past the end.
    projected = categorical_projection(probs, torch.tensor([1.0, 2.5, 6.0]), places)
    assert torch.equal(projected, torch.tensor([0.0, 0.5, 0.125, 0.125, 0.25]))


REWARDS = [0.0, DELTA, -DELTA, 10.0, -10.0, 0.1234, -7.77, 3 * DELTA, 25.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 0.99])
@pytest.mark.parametrize("reward", REWARDS)
def test_projection_agrees_with_its_twin(reward: float, gamma: float, dtype: torch.dtype) -> None:
    """Rewards and discounts that hit atoms exactly, both ends included, and ordinary ones."""
    distributions = [random_distribution(seed) for seed in range(3)]
    distributions += [[1.0 if i == j else 0.0 for i in range(51)] for j in (0, 17, 25, 50)]
    locations = [reward + gamma * z for z in Z]
    expected = double([projection_twin(distribution, locations, Z) for distribution in distributions])
    probs = torch.tensor(distributions, dtype=dtype)
    moved = torch.tensor(locations, dtype=dtype).expand(len(distributions), -1)
    places = atoms(-10.0, 10.0, 51, dtype=dtype)
    projected = categorical_projection(probs, moved, places)
    assert projected.dtype == dtype
    # Single precision: the places themselves are rounded, to 1e-6 of 0.4 between two.
    close(projected.double(), expected, 1e-12 if dtype == torch.float64 else 5e-6)
    close(
        projected.sum(-1),
        torch.ones(len(distributions), dtype=dtype),
        1e-12 if dtype == torch.float64 else 1e-6,
    )
    if max(map(abs, locations)) <= 10.0:  # nothing is clipped
        mean = reward + gamma * (double(distributions) @ ATOMS)
        close(projected.double() @ ATOMS, mean, 1e-12 if dtype == torch.float64 else 1e-5)


@pytest.mark.parametrize("reward", REWARDS)
def test_a_terminal_transition_is_the_two_hot_label_of_its_reward(reward: float) -> None:
    continues = 0.0
    moved = (reward + 0.99 * continues * ATOMS).expand(2, -1)
    projected = categorical_projection(double([random_distribution(0), random_distribution(1)]), moved, ATOMS)
    close(projected, two_hot_probs(double(reward), ATOMS).expand(2, -1), 1e-12)


@given(st.integers(0, 50), st.floats(-12.0, 12.0), st.floats(0.0, 1.0))
def test_a_next_distribution_of_one_atom_is_projected_to_a_two_hot_label(
    j: int, reward: float, gamma: float
) -> None:
    distribution = torch.zeros(51, dtype=torch.float64)
    distribution[j] = 1.0
    projected = categorical_projection(distribution, reward + gamma * ATOMS, ATOMS)
    close(projected, two_hot_probs(double(reward + gamma * Z[j]), ATOMS), 1e-12)


def test_moving_by_whole_spacings_moves_the_distribution() -> None:
    """On whole places floor and ceil are the same, where a careless projection loses or doubles mass."""
    places = atoms(0.0, 50.0, 51)  # exact in float32
    distribution = torch.tensor(random_distribution(3), dtype=torch.float32)
    for shift in (0, 1, 7, 50, -1, -50):
        projected = categorical_projection(distribution, places + shift, places)
        expected = torch.zeros(51)
        for j in range(51):
            expected[min(max(j + shift, 0), 50)] += distribution[j]
        close(projected, expected, 1e-7)
    assert torch.equal(categorical_projection(distribution, places, places), distribution)


@given(st.integers(0, 2**32 - 1), st.integers(2, 40), st.integers(1, 40))
def test_projection_of_any_distribution(seed: int, count: int, masses: int) -> None:
    """The places of the mass need be neither evenly spaced nor in order, nor as many as the atoms."""
    rng = np.random.default_rng(seed)
    places = atoms(-3.0, 2.0, count, dtype=torch.float64)
    probs, locations = random_distribution(seed, masses), list(rng.normal(size=masses) * 2.0)
    projected = categorical_projection(double(probs), double(locations), places)
    close(projected, double(projection_twin(probs, locations, places.tolist())), 1e-12)
    assert (projected >= 0.0).all()
    assert projected.sum().item() == pytest.approx(1.0, abs=1e-12)
    shuffled = rng.permutation(masses)
    again = categorical_projection(double(probs)[shuffled], double(locations)[shuffled], places)
    close(again, projected, 1e-13)
    assert entropy(projected) <= math.log(count) + 1e-12


# Quantile regression -----------------------------------------------------------------------------------


def test_quantile_loss_by_hand() -> None:
    quantiles, targets = torch.tensor([0.0, 2.0]), torch.tensor([1.0, 4.0])
    # tau = 1/4, 3/4. Errors of the first quantile: 1, 4; of the second: -1, 2.
    pinball = 0.25 * (1.0 + 4.0) / 2.0 + (0.25 * 1.0 + 0.75 * 2.0) / 2.0
    assert quantile_huber_loss(quantiles, targets, kappa=0.0).item() == pytest.approx(pinball)
    huber = 0.25 * (0.5 + 3.5) / 2.0 + (0.25 * 0.5 + 0.75 * 1.5) / 2.0
    assert quantile_huber_loss(quantiles, targets).item() == pytest.approx(huber)


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 9), st.sampled_from([0.0, 0.1, 1.0, 3.0]))
def test_quantile_loss_agrees_with_its_twin(seed: int, count: int, samples: int, kappa: float) -> None:
    rng = np.random.default_rng(seed)
    quantiles, targets = 2.0 * rng.normal(size=count), 2.0 * rng.normal(size=samples)
    targets[0] = quantiles[0]  # an error of exactly 0
    loss = quantile_huber_loss(double(quantiles), double(targets), kappa=kappa)
    assert loss.item() == pytest.approx(quantile_twin(list(quantiles), list(targets), kappa), abs=1e-12)


def test_a_small_kappa_tends_to_the_quantile_regression_loss() -> None:
    generator = torch.Generator().manual_seed(0)
    quantiles, targets = torch.randn(2, 5, 7, generator=generator, dtype=torch.float64)
    close(quantile_huber_loss(quantiles, targets, kappa=1e-9),
          quantile_huber_loss(quantiles, targets, kappa=0.0), 1e-8)  # fmt: skip


def test_the_minimum_is_at_the_quantiles() -> None:
    """With 101 even samples on [0, 1] the quantiles at 1/10, 3/10, ... are those numbers."""
    targets = torch.linspace(0.0, 1.0, 101, dtype=torch.float64)
    quantiles = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([quantiles], lr=0.02)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.99)
    for _ in range(600):
        optimizer.zero_grad()
        quantile_huber_loss(quantiles, targets, kappa=0.0).backward()
        optimizer.step()
        schedule.step()
    close(quantiles.detach(), double([0.1, 0.3, 0.5, 0.7, 0.9]), 0.011)
