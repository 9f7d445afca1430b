"""One loss for policies from preferences: what each method asks of the likelihoods of two segments.

For a pair of segments, the first (0) and the second (1), let U_c be what counts of the policy's
log-likelihood of side c, and R_c the same of the reference (0 without one). With s_c = beta (U_c - R_c),

    m_1 = s_1 - bias s_0 - offset - margin_1,        m_0 = s_0 - bias s_1 + offset - margin_0,
    loss = weight [ y l(m_1) + (1 - y) l(m_0) + regulariser ],

where the label y is the probability that the second is preferred, any real number. Where bias is 1 and there
is no margin, m_0 is -m_1, the form in which most methods are printed. A margin is what the preferred side
must lead by, whichever it is; it does not turn its sign with the pair, as an offset does, and so there are
two leads, not one and its negative. To exchange the segments, with 1 - y for y and -offset for offset, leaves
every loss as it was.

The rows and their sources stand in :mod:`prefrl.functional.preferences.pair_rows`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from .pair_parts import (
    PairParts,
    assemble,
    bias,
    both_sides,
    link_cost,
    link_slope,
    per_pair,
    replaced_labels,
    scale_of,
)
from .pair_rows import PAIR_LOSSES, PairLoss, Setting, pair_loss_row

__all__ = [
    "PAIR_LOSSES",
    "PairLoss",
    "chosen_nll",
    "effective_labels",
    "expected_log_ratio",
    "first_differing_step",
    "pair_leads",
    "pair_loss",
    "pair_slopes",
    "visit_noise",
    "weighted_entropy",
]


def pair_loss(
    row: PairLoss | str, log_probs: Tensor, mask: Tensor, labels: Tensor, *, reference: Tensor | None = None,
    opponents: Tensor | None = None, weights: Tensor | None = None, offsets: Tensor | None = None,
    starts: Tensor | None = None, calibration: Tensor | None = None, rationales: Tensor | None = None,
    beta: float | Tensor | None = None, settings: Mapping[str, Setting] | None = None,
) -> Tensor:  # fmt: skip
    """Return the loss of each pair; see the module's text for the formula.

    Leading axes are seeds, or settings given as tensors [..., 1], or both. Everything but the policy may lack
    them and is shared then.

    Args:
        row: a row of ``PAIR_LOSSES``, by name or itself.
        log_probs: [..., N, 2, L] the policy's log-likelihood of each action, the first segment before the
            second. What stands in the padding does not matter.
        mask: [..., N, 2, L] bool, True for transitions.
        labels: [..., N] probability that the second is preferred; any real number.
        reference: [..., N, 2, L] the reference's log-likelihoods; not looked at by rows that have none.
        opponents: [..., N, 2, L] log-likelihoods of the policy of this round, or a mixture of several of them
            (sum_j lambda_j log pi_j), for rows that are measured against those as well.
        weights: [..., N] of the pairs, of the whole loss: a pair of weight 0 is as though it was not there.
        offsets: [..., N] what the second must lead by; the first by its negative.
        starts: [..., N] int64 first step that counts, for rows with a suffix; see
            :func:`first_differing_step`.
        calibration: [..., N, 2] shares of the segments in the calibration distribution, for rows with that
            regulariser; by default, those of the chosen: (1 - y, y).
        rationales: [..., N] log-likelihood of what was named as the reason, for rows that ask for it.
        beta: see the row; its default if None. A number, or a tensor that broadcasts against [..., N].
        settings: the row's further settings by name; its defaults for those left out.

    Returns:
        [..., N], of the dtype of ``log_probs``.

    Raises:
        ValueError: if shapes do not fit, the row needs what was not given or does not take what was, or a
            setting is not allowed.
    """
    parts = assemble(row, log_probs, mask, labels, reference=reference, opponents=opponents,
                      offsets=offsets, starts=starts, calibration=calibration, rationales=rationales,
                      beta=beta, settings=settings)  # fmt: skip
    costs = (parts.sides * link_cost(parts.row, parts.leads, parts.settings)).sum(-1)
    if "pair_weight" in parts.row.settings:
        costs = costs * parts.settings.number("pair_weight")
    losses = costs + _regulariser(parts)
    return losses if weights is None else losses * per_pair("weights", weights, log_probs)


def pair_slopes(
    row: PairLoss | str, log_probs: Tensor, mask: Tensor, labels: Tensor, *, reference: Tensor | None = None,
    opponents: Tensor | None = None, weights: Tensor | None = None, offsets: Tensor | None = None,
    starts: Tensor | None = None, calibration: Tensor | None = None, rationales: Tensor | None = None,
    beta: float | Tensor | None = None, settings: Mapping[str, Setting] | None = None,
) -> Tensor:  # fmt: skip
    """Return the derivative of each pair's loss by each of its log-likelihoods, in closed form.

    Arguments and errors are those of :func:`pair_loss`; a network's gradient is that of
    ``(pair_slopes(...) * log_probs).sum()`` with the slopes held fixed. The term of a rationale depends on
    the rationale's likelihood only and has no part in it. At the corner of a hinge the slope is 0.

    Returns:
        [..., N, 2, L], 0 in the padding.
    """
    parts = assemble(row, log_probs, mask, labels, reference=reference, opponents=opponents,
                      offsets=offsets, starts=starts, calibration=calibration, rationales=rationales,
                      beta=beta, settings=settings)  # fmt: skip
    choice, values = parts.row, parts.settings
    by_lead = parts.sides * link_slope(choice, parts.leads, values)
    by_score = by_lead - bias(choice, values) * by_lead.flip(-1)
    if "pair_weight" in choice.settings:
        by_score = by_score * values.per_side("pair_weight")
    by_likelihood = by_score * scale_of(choice, values)
    if choice.score == "odds":
        by_likelihood = by_likelihood / -torch.expm1(parts.likelihoods)
    if "nll" in choice.regularisers:
        by_likelihood = by_likelihood - values.per_side("nll_weight") * parts.chosen
    if "entropy" in choice.regularisers:
        by_likelihood = by_likelihood - values.per_side("strength") * values.per_side("beta") * parts.chosen
    if "log_ratio" in choice.regularisers:
        strength = values.per_side("sign") * values.per_side("strength") * values.per_side("beta")
        by_likelihood = by_likelihood + strength * parts.calibration
    if weights is not None:
        by_likelihood = by_likelihood * per_pair("weights", weights, log_probs)[..., None]
    return by_likelihood[..., None] * parts.counts


def pair_leads(
    row: PairLoss | str, log_probs: Tensor, mask: Tensor, *, reference: Tensor | None = None,
    opponents: Tensor | None = None, starts: Tensor | None = None, beta: float | Tensor | None = None,
    settings: Mapping[str, Setting] | None = None,
) -> Tensor:  # fmt: skip
    """Return the implicit margins s_1 - s_0 [..., N]: how far the policy puts the second before the first.

    They are what the row takes for a difference of rewards, before bias, offsets and margins, and the pair is
    ordered rightly where they have the label's sign. Arguments and errors are those of :func:`pair_loss`.
    """
    labels = log_probs.new_zeros(log_probs.shape[-3:-2])
    scores = assemble(row, log_probs, mask, labels, reference=reference, opponents=opponents, starts=starts,
                      beta=beta, settings=settings, offsets=None, calibration=None,
                      rationales=None, whole=False).scores  # fmt: skip
    return scores[..., 1] - scores[..., 0]


def effective_labels(
    row: PairLoss | str, labels: Tensor, settings: Mapping[str, Setting] | None = None
) -> Tensor:
    """Return the labels [..., N] that a row puts in place of labels [..., N].

    Smoothed ones are y + epsilon (1 - 2 y); those corrected for flips (y - epsilon) / (1 - 2 epsilon), whose
    mean over the flips is the label before it was flipped, and which lie outside [0, 1].
    """
    choice = pair_loss_row(row)
    return replaced_labels(choice, labels, choice.resolve(None, settings))


def _regulariser(parts: PairParts) -> float | Tensor:
    """Return what is added to each pair's loss [..., N]."""
    row, values = parts.row, parts.settings
    added: float | Tensor = 0.0
    if "nll" in row.regularisers:
        added = added + values.number("nll_weight") * chosen_nll(parts.likelihoods, parts.chosen[..., 1])
    if "entropy" in row.regularisers:
        # U_c, a mean over the steps, carries the weights 1 / length already.
        ones = torch.ones_like(parts.likelihoods)
        term = weighted_entropy(parts.likelihoods, ones, parts.chosen)
        added = added + values.number("strength") * values.number("beta") * term
    if "log_ratio" in row.regularisers:
        base = torch.zeros_like(parts.likelihoods) if parts.base is None else parts.base
        term = expected_log_ratio(parts.likelihoods, base, parts.calibration)
        added = added + values.number("sign") * values.number("strength") * values.number("beta") * term
    if "rationale" in row.regularisers and parts.rationales is not None:
        scaled = values.number("rationale_weight") * parts.rationales
        added = added - (logsigmoid(scaled) if values.form("rationale_form") == "logistic" else scaled)
    return added


# What is added -----------------------------------------------------------------------------------------


def chosen_nll(log_likelihoods: Tensor, labels: Tensor) -> Tensor:
    """Return -[ y U_1 + (1 - y) U_0 ] [...]: the chosen's negative log-likelihood, by shares of the label.

    Args:
        log_likelihoods: [..., 2] of the first and the second segment.
        labels: [...] probability that the second is preferred.
    """
    return -(both_sides(labels) * log_likelihoods).sum(-1)


def expected_log_ratio(log_likelihoods: Tensor, reference: Tensor, shares: Tensor | None = None) -> Tensor:
    """Return E[log pi(y) - log pi_ref(y)] [...] over y from a calibration distribution.

    For pi proportional to pi_ref exp(r / beta), with rewards of mean 0 under that distribution, -beta times
    it is the optimal value max_pi E_pi r - beta KL(pi, pi_ref) (VPO, arXiv 2405.19320).

    Args:
        log_likelihoods: [..., M] of M segments.
        reference: [..., M] the reference's.
        shares: [..., M] of the segments, 1 in all; a sample is given as it is, without shares.
    """
    ratios = log_likelihoods - reference
    return ratios.mean(-1) if shares is None else (shares * ratios).sum(-1)


def weighted_entropy(log_likelihoods: Tensor, importance: Tensor, shares: Tensor | None = None) -> Tensor:
    """Return -sum_y p(y) w(y) log pi(y) [...] (POWER, arXiv 2412.09544).

    With the policy's own probabilities as p it is the weighted entropy H_w(pi), with shares of the chosen,
    the term that POWER's loss adds. An option of probability 0 adds nothing.

    Args:
        log_likelihoods: [..., M] log pi.
        importance: [..., M] w, not negative.
        shares: [..., M] p; the policy's own probabilities if None.
    """
    shares = log_likelihoods.exp() if shares is None else shares
    return -(shares * importance * torch.where(shares == 0, 0.0, log_likelihoods)).sum(-1)


# Which steps and labels search makes -------------------------------------------------------------------


def first_differing_step(first: Tensor, second: Tensor) -> Tensor:
    """Return where two segments part [...], int64: the first step at which their actions differ; L if none.

    Args:
        first: [..., L] discrete actions of the first segment, or any number that tells steps apart.
        second: [..., L] of the second.
    """
    differs = first != second
    return torch.where(differs.any(-1), differs.to(torch.int8).argmax(-1), first.shape[-1])


def visit_noise(best_visits: Tensor, worst_visits: Tensor) -> Tensor:
    """Return min(1 - c, 1/2) [...] with c = best / (best + worst), how doubtful a search's pair is.

    Source: MCTS-DPO, arXiv 2405.00451, where the best sibling counts as visited once at least in the
    denominator.
    """
    best, worst = best_visits.to(torch.float64), worst_visits.to(torch.float64)
    return (1.0 - best / (best.clamp(min=1.0) + worst)).clamp(max=0.5)
