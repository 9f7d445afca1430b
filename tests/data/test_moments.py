"""Running moments against those of all rows at once."""

import numpy as np
import pytest
import torch

from prefrl.data.moments import RunningMoments, StackedMoments

CPU = torch.device("cpu")


@pytest.mark.parametrize("count", [1, 4])
def test_moments_are_those_of_all_rows(count: int) -> None:
    generator = torch.Generator().manual_seed(0)
    moments, seen = RunningMoments(3, torch.device("cpu")), []
    assert moments.std(0.1).tolist() == [1.0, 1.0, 1.0]
    for _ in range(50):
        rows = 1e3 + torch.randn(count, 3, generator=generator) * torch.tensor([1.0, 10.0, 0.0])
        mask = torch.rand(count, generator=generator) < 0.7
        moments.add(torch.where(mask[:, None], rows, torch.full_like(rows, 1e9)), mask)
        seen.append(rows[mask])
    every = torch.cat(seen).double()
    torch.testing.assert_close(moments.mean, every.mean(0))
    expected = every.std(0, correction=0).clamp(min=1e-3).float()
    torch.testing.assert_close(moments.std(1e-3), expected, rtol=1e-5, atol=1e-6)
    other = RunningMoments(3, torch.device("cpu"))
    other.load_state_dict(moments.state_dict())
    assert torch.equal(other.std(1e-3), moments.std(1e-3))


def numpys(rows: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of rows [n, D], each as often as it weighs."""
    repeated = np.repeat(rows, weights.astype(int), axis=0)
    return repeated.mean(0), repeated.var(0)


def test_moments_of_several_streams_are_numpys() -> None:
    rng, moments = np.random.default_rng(0), StackedMoments(3, 2, CPU)
    rows, weights = [], []
    for _ in range(20):
        rows.append(1e3 * np.arange(1, 4)[:, None, None] + rng.normal(size=(3, 4, 2)) * [1.0, 10.0])
        weights.append(rng.integers(0, 3, (3, 4)))
        weights[-1][2] *= len(rows) > 10  # the third begins later
        hidden = np.where(weights[-1][..., None] > 0, rows[-1], 1e9)
        moments.add(torch.as_tensor(hidden), torch.as_tensor(weights[-1]))
    for learner in range(3):
        mean, variance = numpys(np.concatenate([each[learner] for each in rows]),
                                np.concatenate([each[learner] for each in weights]))  # fmt: skip
        np.testing.assert_allclose(moments.mean[learner, 0], mean, rtol=1e-12)
        np.testing.assert_allclose(moments.shift[learner, 0], mean, rtol=1e-6)
        np.testing.assert_allclose(moments.scale[learner, 0], variance**-0.5, rtol=1e-6)
    given = torch.as_tensor(rows[-1], dtype=torch.float32)
    expected = ((given - moments.shift) * moments.scale).clamp(-1.0, 1.0)
    torch.testing.assert_close(moments.normalized(given, 1.0), expected)
    assert (expected.abs() == 1.0).any()


def test_before_the_first_rows_nothing_changes() -> None:
    moments, rows = StackedMoments(2, 3, CPU), torch.randn(2, 4, 3)
    assert torch.equal(moments.normalized(rows, 10.0), rows)
    moments.add(rows, torch.tensor([[1.0] * 4, [0.0] * 4]))
    assert torch.equal(moments.normalized(rows, 10.0)[1], rows[1])
    assert not torch.equal(moments.normalized(rows, 10.0)[0], rows[0])


def test_what_does_not_vary_stays_finite() -> None:
    moments = StackedMoments(1, 1, CPU)
    moments.add(torch.full((1, 9, 1), 7.0), torch.ones(1, 9))
    assert moments.normalized(torch.tensor([[[7.0], [7.5]]]), 10.0)[0, :, 0].tolist() == [0.0, 10.0]


def test_indicators_are_left_as_they_are() -> None:
    moments = StackedMoments(2, 2, CPU, torch.tensor([True, False]))
    rows = 5.0 + torch.randn(2, 50, 2)
    moments.add(rows, torch.ones(2, 50))
    found = moments.normalized(rows, 100.0)
    assert torch.equal(found[..., 1], rows[..., 1])
    torch.testing.assert_close(found[..., 0].mean(1), torch.zeros(2), atol=1e-5, rtol=0)


def test_moments_of_several_streams_go_on() -> None:
    first, other = StackedMoments(2, 3, CPU), StackedMoments(2, 3, CPU)
    rows, weights = torch.randn(2, 5, 3), torch.ones(2, 5)
    first.add(rows, weights)
    other.add(rows * 3.0, weights)
    other.load_state_dict(first.state_dict())
    assert torch.equal(other.normalized(rows, 9.0), first.normalized(rows, 9.0))
    for each in (first, other):
        each.add(rows + 1.0, weights)
    assert torch.equal(other.scale, first.scale)
    assert torch.equal(other.mean, first.mean)
