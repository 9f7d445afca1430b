"""What a pair loss, its slopes and its diagnostics are made of: likelihoods that count, leads, labels.

The formula stands in :mod:`prefrl.functional.preferences.pair_loss`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from .pair_rows import PairLoss, PairSettings, Setting, pair_loss_row


class PairParts(NamedTuple):
    """What the loss, its slopes and its diagnostics are made of; c is the side, [..., 2]."""

    row: PairLoss
    settings: PairSettings
    counts: Tensor
    """[..., N, 2, L] what each step counts in U_c."""
    likelihoods: Tensor
    """[..., N, 2] U_c."""
    base: Tensor | None
    """[..., N, 2] R_c, or None."""
    scores: Tensor
    """[..., N, 2] s_c."""
    leads: Tensor
    """[..., N, 2] m_c."""
    sides: Tensor
    """[..., N, 2] how much each side is preferred, by the labels as the row replaces them."""
    chosen: Tensor
    """[..., N, 2] the same by the labels as they are."""
    calibration: Tensor
    """[..., N, 2] shares in the calibration distribution."""
    rationales: Tensor | None = None
    """[..., N] log-likelihoods of the rationales, or None."""


def assemble(
    row: PairLoss | str, log_probs: Tensor, mask: Tensor, labels: Tensor, *, reference: Tensor | None,
    opponents: Tensor | None, offsets: Tensor | None, starts: Tensor | None, calibration: Tensor | None,
    rationales: Tensor | None, beta: float | Tensor | None, settings: Mapping[str, Setting] | None,
    whole: bool = True,
) -> PairParts:  # fmt: skip
    """Check the arguments and compute the parts; without ``whole``, extras of the loss may be missing."""
    choice = pair_loss_row(row)
    values = choice.resolve(beta, settings)
    if log_probs.ndim < 3 or log_probs.shape[-2] != 2:
        raise ValueError(f"log_probs have shape {list(log_probs.shape)}; they must be [..., N, 2, L]")
    _check_given("reference", reference, choice.needs_reference, takes=True)
    _check_given("opponents", opponents, choice.needs_opponents)
    _check_given("starts", starts, choice.suffix)
    _check_given("calibration", calibration, False, takes="log_ratio" in choice.regularisers)
    _check_given("rationales", rationales, whole and "rationale" in choice.regularisers)

    if rationales is not None:
        rationales = per_pair("rationales", rationales, log_probs)
    pairs = log_probs.shape[:-2]
    _check_axes("mask", mask, log_probs.shape, 3)
    if starts is not None:
        _check_axes("starts", starts, pairs, 1)
        mask = mask & (torch.arange(log_probs.shape[-1], device=mask.device) >= starts[..., None, None])
    counts = _counts(choice, mask, values, log_probs.dtype)
    likelihoods = _likelihoods(log_probs, mask, counts)
    base = _reference_likelihoods(choice, reference, opponents, log_probs, mask, counts, values)
    ratios = likelihoods if base is None or choice.reference == "margin" else likelihoods - base
    scores = scale_of(choice, values) * _score(choice, ratios, mask)
    labels = per_pair("labels", labels, log_probs)
    chosen = both_sides(labels)
    if calibration is not None:
        _check_axes("calibration", calibration, (*pairs, 2), 2)
    leads = scores - bias(choice, values) * scores.flip(-1)
    if offsets is not None:
        given = per_pair("offsets", offsets, log_probs)
        leads = leads - torch.stack([-given, given], -1)
    margins = _margins(choice, base, values)
    return PairParts(
        choice, values, counts, likelihoods, base, scores, leads if margins is None else leads - margins,
        both_sides(replaced_labels(choice, labels, values)), chosen,
        chosen if calibration is None else calibration.to(log_probs.dtype), rationales,
    )  # fmt: skip


def _counts(row: PairLoss, mask: Tensor, settings: PairSettings, dtype: torch.dtype) -> Tensor:
    """Return what each step counts [..., N, 2, L]; 0 in the padding."""
    counts = mask.to(dtype)
    if row.likelihood == "mean":
        return counts / counts.sum(-1, keepdim=True).clamp(min=1.0)
    if row.likelihood == "discounted":
        gamma = settings.per_side("gamma")
        gamma = gamma[..., None] if isinstance(gamma, Tensor) else gamma
        return counts * gamma ** torch.arange(mask.shape[-1], dtype=dtype, device=mask.device)
    return counts


def _likelihoods(log_probs: Tensor, mask: Tensor, counts: Tensor) -> Tensor:
    """Return U_c [..., N, 2]; padding is put out of the way first, since 0 times NaN is NaN."""
    return (torch.where(mask, log_probs, 0.0) * counts).sum(-1)


def _reference_likelihoods(
    row: PairLoss, reference: Tensor | None, opponents: Tensor | None, log_probs: Tensor, mask: Tensor,
    counts: Tensor, settings: PairSettings,
) -> Tensor | None:  # fmt: skip
    """Return R_c [..., N, 2] of the reference, or of reference and opponents in their shares."""
    if not row.needs_reference or reference is None:
        return None
    _check_axes("reference", reference, log_probs.shape, 3)
    of_reference = _likelihoods(reference, mask, counts)
    if opponents is None:
        return of_reference
    share = settings.per_side("reference_share")
    _check_axes("opponents", opponents, log_probs.shape, 3)
    of_opponents = _likelihoods(opponents, mask, counts)
    return share * of_reference + (1.0 - share) * of_opponents


def _score(row: PairLoss, ratios: Tensor, mask: Tensor) -> Tensor:
    """Return what is scaled by beta [..., N, 2]."""
    if row.score == "odds":
        # log(1 - exp(x)) in two ways, each exact where the other one loses digits.
        near_one = ratios > -math.log(2.0)
        close = torch.log(-torch.expm1(torch.where(near_one, ratios, -1.0)))
        far = torch.log1p(-torch.exp(torch.where(near_one, -1.0, ratios)))
        return ratios - torch.where(near_one, close, far)
    if row.score == "likelihood_and_weight":
        return ratios + 1.0 / mask.sum(-1).clamp(min=1).to(ratios.dtype)
    return ratios


def scale_of(row: PairLoss, settings: PairSettings) -> float | Tensor:
    """Return beta, or 1 for the square link, whose target beta sets."""
    return 1.0 if row.link == "square" else settings.per_side("beta")


def bias(row: PairLoss, settings: PairSettings) -> float | Tensor:
    """Return how much the other side counts in a side's lead."""
    return settings.per_side("bias") if "bias" in row.settings else 1.0


def _margins(row: PairLoss, reference: Tensor | None, settings: PairSettings) -> float | Tensor | None:
    """Return what each side must lead by when it is preferred [..., N, 2]."""
    if row.margin == "none":
        return None
    if row.margin == "fixed":
        return settings.per_side("margin")
    assert reference is not None
    beta, lead, form = settings.per_side("beta"), reference - reference.flip(-1), settings.form("form")
    if form == "clip":
        # Where the reference leads wrongly, the clip asks of the one side less and of the other no less: the
        # leads are no longer opposites, and with labels between 0 and 1 the optimum is not their log-odds.
        return beta * lead.clamp(min=0.0)
    if form == "cpo":
        sharpness = settings.per_side("sharpness")
        gap = sharpness * (settings.per_side("target") - lead)
        return beta * lead + beta / settings.per_side("alpha") * -logsigmoid(-gap) / sharpness
    inverse = torch.exp(-reference).clamp(max=settings.per_side("inverse_limit"))
    return beta * lead + settings.per_side("multiplier") * (inverse + inverse.flip(-1))


def link_cost(row: PairLoss, leads: Tensor, settings: PairSettings) -> Tensor:
    """Return what leads cost [..., N, 2]."""
    if row.link == "logistic":
        return -logsigmoid(leads)
    if row.link == "hinge":
        return torch.relu(-leads)
    return (leads - 0.5 / settings.per_side("beta")).square()


def link_slope(row: PairLoss, leads: Tensor, settings: PairSettings) -> Tensor:
    """Return the derivative of :func:`link_cost`."""
    if row.link == "logistic":
        return -torch.sigmoid(-leads)
    if row.link == "hinge":
        return -(leads < 0).to(leads.dtype)
    return 2.0 * (leads - 0.5 / settings.per_side("beta"))


def replaced_labels(row: PairLoss, labels: Tensor, settings: PairSettings) -> Tensor:
    """Return the labels as the row replaces them [..., N]."""
    if row.labels == "given":
        return labels
    epsilon = settings.number("epsilon")
    if row.labels == "smoothed":
        return labels + epsilon * (1.0 - 2.0 * labels)
    return (labels - epsilon) / (1.0 - 2.0 * epsilon)


# Shapes ------------------------------------------------------------------------------------------------


def both_sides(labels: Tensor) -> Tensor:
    """Return how much the first and the second are preferred [..., 2]: 1 - y and y."""
    return torch.stack([1.0 - labels, labels], -1)


def _check_given(name: str, value: Tensor | None, needed: bool, *, takes: bool = False) -> None:
    if value is None and needed:
        raise ValueError(f"{name} is missing; this loss needs it")
    if value is not None and not (needed or takes):
        raise ValueError(f"{name} was given; this loss does not take it")


def _check_axes(name: str, value: Tensor, shape: Sequence[int], num_axes: int) -> None:
    """Raise ValueError unless a tensor's axes are the last ones of a shape, at least ``num_axes``."""
    wanted = list(shape)
    if not (
        num_axes <= value.ndim <= len(wanted) and list(value.shape) == wanted[len(wanted) - value.ndim :]
    ):
        raise ValueError(f"{name} has shape {list(value.shape)}; it must be {wanted}; axes before the last "
                         f"{num_axes} may be missing")  # fmt: skip


def per_pair(name: str, value: Tensor, log_probs: Tensor) -> Tensor:
    """Return what is given for each pair [..., N] in the dtype of the likelihoods."""
    _check_axes(name, value, log_probs.shape[:-2], 1)
    return value.to(log_probs.dtype)
