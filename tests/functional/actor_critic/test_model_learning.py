"""The mathematics of learned dynamics, by hand."""

import math

import pytest
import torch

from prefrl.functional.actor_critic.model_learning import (
    gaussian_nll,
    improved,
    real_share,
    rollout_length,
    soft_clamp,
    value_gradient_weights,
)


def test_soft_clamp_holds_values_between_the_bounds() -> None:
    low, high = torch.tensor([-10.0, -1.0]), torch.tensor([0.5, 0.5])
    values = torch.linspace(-200.0, 200.0, 4001)[:, None].expand(-1, 2).clone().requires_grad_()
    held = soft_clamp(values, low, high)
    slack = torch.nn.functional.softplus(low - high)
    assert (held >= low - 1e-6).all()
    assert (held <= high + slack + 1e-6).all()
    assert float(slack[0]) == pytest.approx(math.log1p(math.exp(-10.5)))
    middle = soft_clamp(torch.full((1, 1), -5.0), torch.tensor([-10.0]), torch.tensor([0.5]))
    assert float(middle) == pytest.approx(-5.0, abs=0.02)
    inside = held[(values[:, 0] > -9) & (values[:, 0] < 0), 0]
    assert (inside.diff() > 0).all()


def test_likelihood_by_hand() -> None:
    # (3 - 1)^2 / e^2 + 2
    found = gaussian_nll(torch.tensor([3.0]), torch.tensor([2.0]), torch.tensor([1.0]))
    assert float(found) == pytest.approx(4.0 * math.exp(-2.0) + 2.0)


def test_only_a_real_improvement_counts() -> None:
    best = torch.tensor([1.0, 1.0, 1e10, 0.0, 0.0])
    current = torch.tensor([0.995, 0.98, 5.0, -1e-6, -1e-11])
    assert improved(best, current, 0.01).tolist() == [False, True, True, True, False]
    # Log likelihoods may be negative losses: 0.5 % and 5 % better, 0.5 % worse
    below = improved(torch.full((3,), -2.0), torch.tensor([-2.01, -2.1, -1.99]), 0.01)
    assert below.tolist() == [False, True, False]


@pytest.mark.parametrize(("epoch", "length"), [(0, 1), (20, 1), (85, 8), (149, 14), (150, 15), (999, 15)])
def test_rollouts_grow_as_in_the_paper(epoch: int, length: int) -> None:
    assert rollout_length((20, 150, 1, 15), epoch) == length  # 85: 1 + 65 / 130 * 14 = 8


def test_rollouts_may_stay_as_they_are() -> None:
    assert {rollout_length((20, 150, 1, 1), epoch) for epoch in range(200)} == {1}
    assert rollout_length((0, 0, 1, 5), 1) == 5


@pytest.mark.parametrize(("epoch", "share"), [
    (-1.0, 1.0), (0.0, 1.0), (0.5, 0.99125), (20.0, 0.65), (40.0, 0.3), (41.0, 0.3), (1e9, 0.3),
])  # fmt: skip
def test_the_share_of_real_transitions_goes_in_a_straight_line(epoch: float, share: float) -> None:
    assert real_share(1.0, 0.3, 40, epoch) == pytest.approx(share, abs=1e-12)


def test_the_share_of_real_transitions_may_grow_and_ends_exactly() -> None:
    assert real_share(0.0, 0.8, 4, 1.0) == pytest.approx(0.2)
    assert {real_share(1.0, 0.05, 1, epoch) for epoch in (1.0, 1.5, 7.0)} == {0.05}


def test_value_gradient_weights_by_hand() -> None:
    gradients = torch.tensor([[[3.0, 4.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]]])
    plain = value_gradient_weights(gradients, clip_quantile=None, normalize=False, floor=0.0)
    torch.testing.assert_close(plain, torch.tensor([[5.0, 8.0], [0.0, 1.0]]))  # (9 + 1) / 2, 16 / 2, ...
    normal = value_gradient_weights(gradients, clip_quantile=None, normalize=True, floor=0.1)
    torch.testing.assert_close(normal, 0.9 * plain / 3.5 + 0.1)
    assert float(normal.mean()) == pytest.approx(1.0)


def test_constant_gradients_are_plain_regression() -> None:
    weights = value_gradient_weights(
        torch.full((2, 5, 3), 7.0), clip_quantile=0.95, normalize=True, floor=0.0
    )
    torch.testing.assert_close(weights, torch.ones(5, 3))


def test_rows_between_episodes_move_no_weights() -> None:
    gradients = torch.randn(2, 50, 3)
    mask = torch.ones(60, dtype=torch.bool)
    mask[::6] = False
    padded = torch.full((2, 60, 3), 1e3)
    padded[:, mask] = gradients
    settings = {"clip_quantile": 0.9, "normalize": True, "floor": 0.1}
    found = value_gradient_weights(padded, **settings, rows=mask)
    torch.testing.assert_close(found[mask], value_gradient_weights(gradients, **settings))


def test_long_gradients_are_cut_to_the_quantile() -> None:
    lengths = torch.arange(1.0, 101.0)
    gradients = torch.stack([lengths * 0.6, lengths * 0.8], -1)[None]
    cut = value_gradient_weights(gradients, clip_quantile=0.95, normalize=False, floor=0.0)
    norms = cut.sum(-1).sqrt()
    torch.testing.assert_close(norms, lengths.clamp(max=96.0))  # 95 of 100 are shorter than 96
    torch.testing.assert_close(cut[:, 1] / cut[:, 0], torch.full((100,), (0.8 / 0.6) ** 2))
