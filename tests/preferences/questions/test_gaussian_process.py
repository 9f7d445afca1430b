"""Gaussian processes: posteriors against formulas, pools, and a whole search."""

import math
import sys

import pytest
import torch

from prefrl.preferences.questions import GaussianProcess, choose_points, maximise

UNIT = torch.tensor([[0.0], [2.0]], dtype=torch.float64)


@pytest.fixture
def botorch():
    return pytest.importorskip("botorch", reason="the extra bayes is not installed")


def kernel(a, b, length):
    return torch.exp(-0.5 * ((a - b.T) / length).square())


def process(noise=0.04):
    inputs = torch.tensor([[0.1], [0.5], [1.3], [1.4]], dtype=torch.float64)
    values = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    return GaussianProcess(inputs, values, UNIT, length_scale=0.3, noise=noise), inputs, values


def test_the_posterior_is_that_of_the_formula(botorch):
    """mu = k' (K + noise)^-1 y, of standardised values; nothing is fitted where all is known."""
    gp, inputs, values = process()
    points = torch.tensor([[0.0], [0.9], [1.35]], dtype=torch.float64)
    mean, covariance = gp.believed(points)
    scale = values.std()
    matrix = kernel(inputs, inputs, 0.3) + 0.04 / scale**2 * torch.eye(4, dtype=torch.float64)
    gain = torch.linalg.solve(matrix, kernel(inputs, points, 0.3)).T
    wanted = values.mean() + gain @ (values - values.mean())
    torch.testing.assert_close(mean, wanted, rtol=1e-6, atol=1e-6)
    wanted = scale**2 * (kernel(points, points, 0.3) - gain @ kernel(inputs, points, 0.3))
    torch.testing.assert_close(covariance, wanted, rtol=1e-6, atol=1e-6)
    assert gp.noise_variance() == 0.04


def test_noise_that_is_not_known_is_found(botorch):
    g = torch.Generator().manual_seed(0)
    inputs = 2.0 * torch.rand(120, 1, generator=g, dtype=torch.float64)
    values = 5.0 * (3.0 * inputs[:, 0]).sin() + 0.5 * torch.randn(120, generator=g, dtype=torch.float64)
    found = GaussianProcess(inputs, values, UNIT)
    assert found.noise_variance() == pytest.approx(0.25, rel=0.4)
    points = torch.linspace(0.2, 1.8, 9, dtype=torch.float64)[:, None]
    torch.testing.assert_close(
        found.believed(points)[0], 5.0 * (3.0 * points[:, 0]).sin(), rtol=0.0, atol=0.6
    )


def test_the_largest_variance_is_farthest_from_what_was_seen(botorch):
    gp, _, _ = process()
    points = torch.linspace(0.0, 2.0, 21, dtype=torch.float64)[:, None]
    first, second = choose_points(gp, points, 2).tolist()
    assert (first, second) == (20, 9), "the end, then the middle of the gap"


def test_the_best_is_looked_for_where_it_may_be(botorch):
    """Beside the largest value rather than among small ones of which less is known."""
    inputs = torch.tensor([[0.2], [0.9], [1.6]], dtype=torch.float64)
    values = torch.tensor([-2.0, -2.0, 3.0], dtype=torch.float64)
    gp = GaussianProcess(inputs, values, UNIT, length_scale=0.3, noise=0.04)
    points = torch.tensor([[0.2], [0.4], [1.65], [1.75]], dtype=torch.float64)
    assert choose_points(gp, points, 1, query="variance").tolist() == [1]
    assert choose_points(gp, points, 2, query="expected_improvement").tolist() == [3, 2]
    assert set(choose_points(gp, points, 2, query="knowledge_gradient").tolist()) == {2, 3}


def test_knowledge_gradient_of_a_pool_against_draws(botorch):
    from prefrl.functional.preferences.general_models.questions import knowledge_gradient

    gp, _, _ = process(noise=1.0)
    points = torch.linspace(0.0, 2.0, 9, dtype=torch.float64)[:, None]
    mean, covariance = gp.believed(points)
    moved = covariance / (covariance.diagonal() + 1.0).sqrt()[:, None]
    z = torch.randn(200_000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    seen = [float((mean + z * row).amax(1).mean() - mean.max()) for row in moved]
    torch.testing.assert_close(
        knowledge_gradient(mean, moved), torch.tensor(seen).double(), rtol=0, atol=5e-3
    )
    assert choose_points(gp, points, 1, query="knowledge_gradient").item() == seen.index(max(seen))


@pytest.mark.parametrize(
    "acquisition", ["expected_improvement", "noisy_expected_improvement", "knowledge_gradient", "variance"]
)
def test_a_search_is_the_same_by_the_same_seed_and_leaves_torch_alone(botorch, acquisition):
    def objective(point):
        return -float((point - 1.3).square())

    settings = {"acquisition": acquisition, "noise": 0.0, "restarts": 1, "samples": 16, "fantasies": 2}
    torch.manual_seed(5)
    found = maximise(objective, UNIT, 6, initial=4, seed=1, **settings)
    after = torch.rand(())
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(()))
    again = maximise(objective, UNIT, 6, initial=4, seed=1, **settings)
    assert torch.equal(found.inputs, again.inputs)
    assert found.inputs.shape == (6, 1)
    assert bool(((found.inputs >= UNIT[0]) & (found.inputs <= UNIT[1])).all())
    assert found.values.tolist() == [objective(point) for point in found.inputs]
    if acquisition.endswith("improvement"):
        assert float(found.best) == pytest.approx(1.3, abs=0.1)


def test_wrong_arguments(botorch):
    gp, inputs, values = process()
    with pytest.raises(ValueError, match=r"inputs have shape \[4, 1\] and values \[3\]"):
        GaussianProcess(inputs, values[:3], UNIT)
    with pytest.raises(ValueError, match="NaN or infinity"):
        GaussianProcess(inputs, values * math.inf, UNIT)
    with pytest.raises(ValueError, match="every lowest must be below its highest"):
        GaussianProcess(inputs, values, UNIT.flip(0))
    with pytest.raises(ValueError, match="noise"):
        GaussianProcess(inputs, values, UNIT, noise=-1.0)
    with pytest.raises(ValueError, match="count is 5; the pool has 4 points"):
        choose_points(gp, inputs, 5)
    with pytest.raises(ValueError, match="query"):
        choose_points(gp, inputs, 1, query="bald")
    with pytest.raises(ValueError, match="evaluations is 3; it must be at least 2, and at least initial, 5"):
        maximise(lambda _: 0.0, UNIT, 3)
    with pytest.raises(ValueError, match="objective returned nan"):
        maximise(lambda _: math.nan, UNIT, 6)


def test_without_botorch_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "botorch", None)
    monkeypatch.setitem(sys.modules, "botorch.acquisition", None)
    with pytest.raises(ImportError, match=r"pip install 'prefrl\[bayes\]'"):
        maximise(lambda _: 0.0, UNIT, 6)
