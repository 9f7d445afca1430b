"""Constrained preference optimisation (arXiv 2605.20834): DPO under a reference that prefers the worse."""

import math

import pytest
import torch
from torch import Tensor

from prefrl.functional.preferences.alignment import alignment
from prefrl.functional.preferences.pair_loss import pair_loss, pair_slopes


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_dpo_is_a_soft_hinge_about_the_reference() -> None:
    """0 <= loss / beta - max(0, delta_ref - delta) <= log 2 / beta, equal to it at delta = delta_ref."""
    beta = 0.8
    delta, delta_ref = torch.cartesian_prod(*[torch.linspace(-6.0, 6.0, 25, dtype=torch.float64)] * 2).T
    policy, reference = (torch.stack([-x, torch.zeros_like(x)], -1)[..., None] for x in (delta, delta_ref))
    mask = torch.ones(len(delta), 2, 1, dtype=torch.bool)
    gap = pair_loss("dpo", policy, mask, torch.ones(len(delta)), reference=reference, beta=beta) / beta
    gap = gap - (delta_ref - delta).clamp(min=0.0)
    assert gap.min() >= 0.0
    assert gap.max() <= math.log(2.0) / beta + 1e-15
    assert gap[delta == delta_ref].min() == pytest.approx(math.log(2.0) / beta, abs=1e-14)


def two_responses(delta: float) -> Tensor:
    """Log-likelihoods [1, 2, 1] of two responses, the second ahead by delta."""
    return torch.log_softmax(double(0.0, delta), 0)[None, :, None]


def lead_of(
    row: str, policy: Tensor, reference: Tensor, beta: float, settings: dict[str, float | str]
) -> float:
    """The lead m of a logistic loss -log sigmoid(m), read off the loss."""
    mask = torch.ones(1, 2, 1, dtype=torch.bool)
    loss = pair_loss(row, policy, mask, double(1.0), reference=reference, beta=beta, settings=settings)
    return -math.log(math.expm1(float(loss)))


@pytest.mark.parametrize("gap", [-0.5, 0.4, 1.0])
@pytest.mark.parametrize("delta_ref", [-1.0, 0.0, 0.7])
@pytest.mark.parametrize("multiplier", [0.0, 0.01])
def test_leads_are_rewards_where_the_constrained_objective_is_stationary(
    gap: float, delta_ref: float, multiplier: float
) -> None:
    """Where E r - beta KL + gamma delta is stationary, r(w) - r(l) = beta h - gamma (1 / pi(w) + 1 / pi(l)).

    Located by bisection on the derivative by delta, which finds the local maximum.
    """
    beta, ref = 0.9, two_responses(delta_ref).flatten()

    def slope(delta: float) -> float:
        at = torch.tensor(delta, dtype=torch.float64, requires_grad=True)
        policy = torch.log_softmax(torch.stack([torch.zeros_like(at), at]), 0)
        kl = (policy.exp() * (policy - ref)).sum()
        (found,) = torch.autograd.grad(policy.exp()[1] * gap - beta * kl + multiplier * at, at)
        return float(found)

    low, high = -4.0, delta_ref + gap / beta + 0.6
    assert slope(low) > 0.0 > slope(high)
    for _ in range(100):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if slope(middle) > 0.0 else (low, middle)
    policy = two_responses(low)
    # The loss puts the reference's probabilities for the policy's; so the term is read off at pi_ref = pi.
    own = lead_of("constrained_po", policy, policy, beta, {"form": "inverse", "multiplier": multiplier})
    assert lead_of("dpo", policy, two_responses(delta_ref), beta, {}) + own == pytest.approx(gap, abs=1e-8)


def test_the_constrained_objective_has_no_maximum() -> None:
    """For gamma above 0, E r - beta KL + gamma delta grows for ever: KL stays below -log pi_ref(w)."""
    beta, multiplier, ref = 1.0, 0.1, two_responses(-3.0).flatten()
    values = []
    for delta in (1e2, 1e3, 1e4):
        policy = torch.log_softmax(double(0.0, delta), 0)
        kl = (policy.exp() * (policy - ref)).sum()
        assert kl <= -ref[1] + 1e-12
        values.append(float(policy.exp()[1] * 1.0 - beta * kl + multiplier * delta))
    assert values[1] - values[0] == pytest.approx(multiplier * 900.0, rel=1e-6)
    assert values[2] - values[1] == pytest.approx(multiplier * 9000.0, rel=1e-6)


def test_the_push_out_of_the_wrong_order() -> None:
    """delta_ref = -3, beta 2.5, at delta = 0: 1.25 by the clip, 2.5 sigmoid(-7.5) = 0.0014 by DPO."""
    both = {"reference": two_responses(-3.0), "beta": 2.5}
    mask = torch.ones(1, 2, 1, dtype=torch.bool)
    pushes = [float(-pair_slopes(row, two_responses(0.0), mask, double(1.0), **both)[0, 1, 0])
              for row in ("constrained_po", "dpo")]  # fmt: skip
    assert pushes[0] == pytest.approx(1.25, abs=1e-12)
    assert pushes[1] == pytest.approx(2.5 / (1.0 + math.exp(7.5)), abs=1e-12)


def test_a_bad_reference_holds_dpo_back_but_not_the_constrained_loss() -> None:
    """200 contexts, delta_ref = -3, rewards 1 to 2 apart, exact labels, 400 steps of either loss, beta 1."""
    gaps = torch.linspace(1.0, 2.0, 200, dtype=torch.float64)
    labels, mask = torch.sigmoid(gaps), torch.ones(200, 2, 1, dtype=torch.bool)
    reference = two_responses(-3.0).expand(200, 2, 1)
    shares = {}
    for row in ("dpo", "constrained_po"):
        logits = reference.clone()
        losses = []
        for _ in range(400):
            policy = torch.log_softmax(logits, 1)
            slopes = pair_slopes(row, policy, mask, labels, reference=reference, beta=1.0)
            losses.append(pair_loss(row, policy, mask, labels, reference=reference, beta=1.0))
            # Slopes of both sides sum to 0 where only their difference counts, so logits move alike.
            assert slopes.sum(1).abs().max() < 1e-12
            logits = logits - slopes
        assert (losses[-1] < losses[0]).all()
        leads = (torch.log_softmax(logits, 1)[:, 1] - torch.log_softmax(logits, 1)[:, 0])[:, 0]
        shares[row] = alignment(leads, torch.full_like(leads, -3.0), labels)
    assert shares["constrained_po"].absolute >= 0.9
    assert shares["constrained_po"].undesired <= 0.05
    assert shares["dpo"].absolute <= 0.5
    assert shares["dpo"].relative == 1.0
    assert shares["dpo"].undesired >= 0.5


@pytest.mark.parametrize(("p", "right"), [(0.6, False), (0.8, True)])
def test_the_clip_asks_more_than_a_majority_where_the_reference_is_wrong(p: float, right: bool) -> None:
    """delta_ref = -3, beta 1: p sigmoid(-delta) = (1 - p) sigmoid(delta + 3), so 60 % do not turn the order.

    The margin of the side that the reference prefers is not clipped; published pairs have one label, p = 1.
    """
    low, high = -10.0, 10.0
    for _ in range(100):
        middle = 0.5 * (low + high)
        falls = p / (1.0 + math.exp(middle)) > (1.0 - p) / (1.0 + math.exp(-middle - 3.0))
        low, high = (middle, high) if falls else (low, middle)
    slopes, beside = (
        pair_slopes("constrained_po", two_responses(delta), torch.ones(1, 2, 1, dtype=torch.bool), double(p),
                    reference=two_responses(-3.0), beta=1.0)[0, 1, 0]
        for delta in (low, low + 0.1)
    )  # fmt: skip
    assert abs(float(slopes)) < 1e-12
    assert float(beside) > 1e-3
    assert (low > 0.0) == right
