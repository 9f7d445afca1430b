"""Diagnostics of a policy that was fitted to preferences, by hand."""

import math

import pytest
import torch
from torch import Tensor

from prefrl.functional.preferences.alignment import (
    alignment,
    effective_label_noise,
    likelihood_leads,
    pair_accuracy,
)


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_alignment_by_hand() -> None:
    """Second preferred: right, in U, worse than the reference; first preferred: in U; then a tie."""
    labels = double(1.0, 0.9, 0.7, 0.0, 0.5)
    leads, reference_leads = double(2.0, -1.0, -3.0, 1.0, 5.0), double(1.0, -2.0, -2.0, 2.0, 0.0)
    found = alignment(leads, reference_leads, labels)
    assert [float(value) for value in found] == pytest.approx([0.25, 0.75, 0.5])
    found = alignment(leads, reference_leads, labels, double(1.0, 2.0, 0.0, 1.0, 9.0))
    assert [float(value) for value in found] == pytest.approx([0.25, 1.0, 0.75])


def test_the_edges_of_the_region_are_outside_of_it() -> None:
    found = alignment(double(0.0, -2.0), double(-1.0, -2.0), double(1.0, 1.0))
    assert [float(value) for value in found] == [0.0, 0.5, 0.0]


def test_alignment_of_several_learners() -> None:
    leads = torch.stack([double(1.0, 1.0), double(-1.0, 1.0)])
    found = alignment(leads, torch.zeros_like(leads), double(1.0, 0.0))
    assert found.absolute.tolist() == [0.5, 0.0]


def test_accuracy_by_hand() -> None:
    labels = double(1.0, 1.0, 0.2, 1.3, 0.5)
    leads = double(0.1, -0.1, -4.0, 0.0, 7.0)
    assert float(pair_accuracy(leads, labels)) == pytest.approx(2.5 / 4)
    assert float(pair_accuracy(leads, labels, double(3.0, 1.0, 0.0, 0.0, 5.0))) == pytest.approx(0.75)
    assert float(pair_accuracy(double(1.0), double(0.5))) == 0.0


def test_likelihood_leads_by_hand() -> None:
    log_probs = torch.tensor([[[-1.0, -2.0], [-4.0, math.nan]]], dtype=torch.float64)
    mask = ~torch.isnan(log_probs)
    assert likelihood_leads(log_probs, mask).tolist() == [-1.0]
    assert likelihood_leads(log_probs, mask, per_step=True).tolist() == [-2.5]


def test_effective_label_noise_by_hand() -> None:
    assert float(effective_label_noise(double(0.9, 0.1))) == pytest.approx(0.1)
    assert float(effective_label_noise(double(1.75, -0.75))) == pytest.approx(-0.75)
    assert float(effective_label_noise(double(0.17, 1.0), given=double(1.0, 1.0))) == pytest.approx(0.415)
    weighted = effective_label_noise(double(0.17, 1.0), given=double(1.0, 1.0), weights=double(1.0, 3.0))
    assert float(weighted) == pytest.approx(0.83 / 4)
