"""Formulas of diffusion: by hand, and with denoisers that are known exactly."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor

from prefrl.functional.actor_critic.diffusion import (
    NoiseSchedule,
    ddim_step,
    ddpm_step,
    denoising_error,
    guided,
    mixed_weights,
    noise_schedule,
    noised,
    predicted_clean,
    predicted_noise,
    renoised,
    sampling_times,
    step_spread,
)

KINDS = ["linear", "cosine"]


def levels(schedule: NoiseSchedule, time: int) -> tuple[Tensor, Tensor]:
    return schedule.alphas[time], schedule.sigmas[time]


# Schedules ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [2, 7, 1_000])
def test_schedules_go_from_clean_to_noise(kind: str, steps: int) -> None:
    alphas, sigmas = noise_schedule(kind, steps)  # type: ignore[arg-type]
    assert alphas.shape == sigmas.shape == (steps + 1,)
    assert (alphas[0], sigmas[0]) == (1.0, 0.0)
    assert torch.all(alphas[1:] < alphas[:-1])
    torch.testing.assert_close(alphas**2 + sigmas**2, torch.ones(steps + 1, dtype=torch.float64))
    assert alphas[-1] < 0.1


def test_schedules_are_those_of_the_papers() -> None:
    linear = noise_schedule("linear", 1_000)
    expected = math.sqrt((1.0 - 1e-4) * (1.0 - 1e-4 - (0.02 - 1e-4) / 999))
    assert float(linear.alphas[2]) == pytest.approx(expected, abs=1e-12)
    cosine = noise_schedule("cosine", 4)
    share = math.cos((0.5 + 0.008) / 1.008 * math.pi / 2) / math.cos(0.008 / 1.008 * math.pi / 2)
    assert float(cosine.alphas[2]) == pytest.approx(share, abs=1e-12)
    assert float((cosine.alphas[4] / cosine.alphas[3]) ** 2) == pytest.approx(1e-3)  # a beta of .999


def test_no_other_schedule_is_taken() -> None:
    with pytest.raises(ValueError, match="kind is 'square'; it must be"):
        noise_schedule("square", 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="steps is 1; it must be at least 2"):
        noise_schedule("linear", 1)


@given(st.integers(1, 200), st.data())
def test_samplers_stop_at_times_that_fall(noise_steps: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, noise_steps))
    times = sampling_times(noise_steps, count)
    assert len(times) == count + 1
    assert (times[0], times[-1]) == (noise_steps, 0)
    assert all(now > then for now, then in pairwise(times))


def test_times_are_close_where_noise_is_little() -> None:
    assert sampling_times(50, 10) == [50, 40, 32, 24, 18, 12, 8, 4, 2, 1, 0]
    assert sampling_times(4, 4) == [4, 3, 2, 1, 0]
    with pytest.raises(ValueError, match="sampling_steps is 5; it must lie in 1 to noise_steps, 4"):
        sampling_times(4, 5)


# Single formulas ---------------------------------------------------------------------------------------


def test_noise_and_clean_samples_lead_to_each_other() -> None:
    clean, noise = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 1.0])
    alpha, sigma = torch.tensor(0.8), torch.tensor(0.6)
    noisy = noised(clean, noise, alpha, sigma)
    torch.testing.assert_close(noisy, torch.tensor([1.1, -1.0]))
    torch.testing.assert_close(predicted_clean(noisy, noise, alpha, sigma), clean)
    torch.testing.assert_close(predicted_noise(noisy, clean, alpha, sigma), noise)


def test_a_ddim_step_by_hand() -> None:
    """From (alpha, sigma) = (.6, .8) to (.8, .6): spread = .6 / .8 sqrt(1 - .36 / .64) = .496078."""
    now, then = (torch.tensor(0.6), torch.tensor(0.8)), (torch.tensor(0.8), torch.tensor(0.6))
    assert float(step_spread(*now, *then, 1.0)) == pytest.approx(0.75 * math.sqrt(1 - 0.5625))
    clean, noise = torch.tensor([1.0]), torch.tensor([-1.0])
    torch.testing.assert_close(ddim_step(clean, noise, *then), torch.tensor([0.2]))
    spread = torch.tensor(0.36)
    stepped = ddim_step(clean, noise, *then, spread=spread, fresh=torch.tensor([2.0]))
    torch.testing.assert_close(stepped, torch.tensor([0.8 - 0.48 + 0.72]))


@pytest.mark.parametrize("kind", KINDS)
def test_ddpm_is_ddim_with_eta_one(kind: str) -> None:
    schedule = noise_schedule(kind, 20)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    clean, noise, fresh = torch.randn(3, 50, 2, generator=generator, dtype=torch.float64)
    for now, then in ((20, 19), (20, 5), (7, 3), (1, 0)):
        here, there = levels(schedule, now), levels(schedule, then)
        noisy = noised(clean, noise, *here)
        spread = step_spread(*here, *there, 1.0)
        ddim = ddim_step(clean, noise, *there, spread=spread, fresh=fresh)
        torch.testing.assert_close(ddpm_step(noisy, clean, fresh, *here, *there), ddim)


def test_errors_and_mixtures_of_weights_by_hand() -> None:
    error = denoising_error(torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[0.0, 4.0], [0.0, 0.5]]))
    assert error.tolist() == [5.0, 0.25]
    weights, towards, away = torch.tensor([1.0, 2.0]), torch.tensor([1.0, 0.0]), torch.tensor([0.0, -1.0])
    assert mixed_weights(weights, towards, away, 0.5, 2.0).tolist() == [1.5, 0.0]


@pytest.mark.parametrize("weight", [0.0, 1.0, 2.5])
def test_guidance_adds_the_variance_of_both(weight: float) -> None:
    positive, negative = torch.tensor([3.0]), torch.tensor([1.0])
    assert guided(positive, negative, weight).tolist() == [3.0 + 2.0 * weight]
    noise = torch.randn(2, 400_000, generator=torch.Generator().manual_seed(0))
    variance = float(guided(noise[0], noise[1], weight).var())
    assert variance == pytest.approx(2 * weight**2 + 2 * weight + 1, rel=0.02)


# With exact denoisers ----------------------------------------------------------------------------------

CENTRES = torch.tensor([-0.7, 0.1, 0.8], dtype=torch.float64)
WEIGHTS = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
SPREAD = 0.05


def expected_clean(noisy: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Return E[x_0 | x_t] [N] of a mixture of normal numbers, which is known in closed form."""
    variance = alpha**2 * SPREAD**2 + sigma**2
    away = noisy[:, None] - alpha * CENTRES
    shares = (WEIGHTS.log() - away**2 / (2 * variance)).softmax(1)
    return (shares * (CENTRES + alpha * SPREAD**2 / variance * away)).sum(1)


def mixture(count: int, generator: torch.Generator) -> Tensor:
    chosen = torch.multinomial(WEIGHTS, count, replacement=True, generator=generator)
    return CENTRES[chosen] + SPREAD * torch.randn(count, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_samplers_with_the_exact_denoiser_draw_the_mixture(kind: str, eta: float) -> None:
    schedule, generator = noise_schedule(kind, 400), torch.Generator().manual_seed(0)  # type: ignore[arg-type]
    x = torch.randn(10_000, generator=generator, dtype=torch.float64)
    times = sampling_times(400, 400)
    for now, then in pairwise(times):
        here, there = levels(schedule, now), levels(schedule, then)
        clean = expected_clean(x, *here)
        fresh = torch.randn(len(x), generator=generator, dtype=torch.float64)
        if eta:
            x = ddpm_step(x, clean, fresh, *here, *there)
        else:
            x = ddim_step(clean, predicted_noise(x, clean, *here), *there)
    away, nearest = (x[:, None] - CENTRES).abs().min(1)
    shares = torch.bincount(nearest, minlength=3) / len(x)
    torch.testing.assert_close(shares, WEIGHTS.to(shares.dtype), atol=0.02, rtol=0.0)
    assert float((away < 4 * SPREAD).double().mean()) > 0.99
    assert float((x - CENTRES[nearest]).std()) == pytest.approx(SPREAD, rel=0.15)


def test_noising_further_is_noising_at_once() -> None:
    """Of the variance: (a_s / a_t)^2 s_t^2 + s_s^2 - s_t^2 a_s^2 / a_t^2 = s_s^2, and the mean likewise."""
    schedule, generator = noise_schedule("cosine", 10), torch.Generator().manual_seed(0)
    here, later = levels(schedule, 3), levels(schedule, 7)
    clean, noise, fresh = torch.randn(3, 200_000, generator=generator, dtype=torch.float64)
    further = renoised(noised(clean, noise, *here), fresh, *here, *later)
    left = further - later[0] * clean
    assert float(left.mean()) == pytest.approx(0.0, abs=0.01)
    assert float(left.std()) == pytest.approx(float(later[1]), rel=0.01)


def test_truncated_targets_have_the_same_mean() -> None:
    """E[E[x_0 | x_t] | x_s] = E[x_0 | x_s]: the tower identity (of Self-NPO's targets, arXiv 2505.11777)."""
    schedule, generator = noise_schedule("cosine", 50), torch.Generator().manual_seed(0)
    here, later = levels(schedule, 15), levels(schedule, 30)
    clean = mixture(1_000_000, generator)
    noise, fresh = torch.randn(2, len(clean), generator=generator, dtype=torch.float64)
    noisy = noised(clean, noise, *here)
    further = renoised(noisy, fresh, *here, *later)
    target = expected_clean(noisy, *here)
    bins = ((further + 2.0) / 4.0 * 20).long().clamp(0, 19)
    counts = torch.zeros(20, dtype=torch.float64).index_add_(0, bins, torch.ones_like(further))
    found, expected = (
        torch.zeros(20, dtype=torch.float64).index_add_(0, bins, values) / counts
        for values in (target, expected_clean(further, *later))
    )
    assert float((found - expected)[counts > 2_000].abs().max()) < 0.02
    assert float((target - clean).square().mean()) > 1e-3  # the targets themselves are others
