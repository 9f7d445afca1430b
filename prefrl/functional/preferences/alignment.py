"""Looking at a policy that was fitted to preferences: does it put first what is preferred, and by itself?

A loss against a reference asks that the policy prefer the better segment by more than the reference does; a
policy may do so and still prefer the worse one (arXiv 2605.20834). So there are two alignments.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .preferences import weighted_mean


class Alignment(NamedTuple):
    """Shares of pairs, weighted [...]; pairs labelled 0.5 do not count."""

    absolute: Tensor
    """Where the policy itself prefers what is preferred: delta > 0."""
    relative: Tensor
    """Where it does so more than the reference: h = delta - delta_ref > 0."""
    undesired: Tensor
    """In the region U: delta_ref < delta < 0, so the loss has fallen and the worse one is still preferred."""


def alignment(
    leads: Tensor, reference_leads: Tensor, labels: Tensor, weights: Tensor | None = None
) -> Alignment:
    """Return absolute and relative alignment (arXiv 2605.20834).

    Args:
        leads: [..., N] log-likelihood of the second segment less that of the first, of the policy.
        reference_leads: [..., N] the same of the reference.
        labels: [..., N] probability that the second is preferred.
        weights: [..., N] of the pairs, not negative.
    """
    sides = torch.sign(labels - 0.5)
    shares = _shares(labels, weights)
    delta, delta_ref = sides * leads, sides * reference_leads
    flags = (delta > 0, delta > delta_ref, (delta_ref < delta) & (delta < 0))
    return Alignment(*(weighted_mean(flag.to(leads.dtype), shares.to(leads.dtype)) for flag in flags))


def likelihood_leads(log_probs: Tensor, mask: Tensor, *, per_step: bool = False) -> Tensor:
    """Return by how much the second segment is the likelier one [..., N], for :func:`alignment`.

    Args:
        log_probs: [..., N, 2, L] log-likelihood of each action, the first segment before the second; what
            stands in the padding does not matter.
        mask: [..., N, 2, L] bool, True for transitions.
        per_step: take the mean over the steps instead of their sum.
    """
    likelihoods = torch.where(mask, log_probs, 0.0).sum(-1)
    if per_step:
        likelihoods = likelihoods / mask.sum(-1).clamp(min=1)
    return likelihoods[..., 1] - likelihoods[..., 0]


def pair_accuracy(leads: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the share of pairs [...] whose lead has the label's sign; a lead of 0 is half right.

    Args:
        leads: [..., N] how far the second is put before the first: implicit margins, or log-likelihoods.
        labels: [..., N] probability that the second is preferred; pairs labelled 0.5 do not count.
        weights: [..., N] of the pairs, not negative.
    """
    right = 0.5 + 0.5 * torch.sign(leads) * torch.sign(labels - 0.5).to(leads.dtype)
    return weighted_mean(right, _shares(labels, weights).to(leads.dtype))


def effective_label_noise(
    labels: Tensor, given: Tensor | None = None, weights: Tensor | None = None
) -> Tensor:
    """Return the mean share [...] of the labels that stands against what was answered.

    For a label y made of an answer g it is g (1 - y) + (1 - g) y: epsilon for smoothing, 1 for a flip,
    negative for labels that are corrected for flips.

    Args:
        labels: [..., N] as the loss uses them.
        given: [..., N] as they were answered, 0 or 1; the nearer of the two if None.
        weights: [..., N] of the pairs, not negative.
    """
    given = (labels > 0.5).to(labels.dtype) if given is None else given.to(labels.dtype)
    against = given * (1.0 - labels) + (1.0 - given) * labels
    return weighted_mean(against, torch.ones_like(labels) if weights is None else weights.to(labels.dtype))


def _shares(labels: Tensor, weights: Tensor | None) -> Tensor:
    """Return the weights, 0 where the label is a tie."""
    decided = labels != 0.5
    return decided.to(labels.dtype) if weights is None else weights * decided
