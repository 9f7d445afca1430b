"""Other labels, weights and margins for comparisons: what label models compute.

Comparisons are of a first and a second segment; a label is the probability that the SECOND is preferred, a
real number that is never clamped. Sources stand at each function; what is not the paper's own equation says
so.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

# Labels that are wrong at times -------------------------------------------------------------------------


def robust_labels(labels: Tensor, epsilon: float | Tensor) -> Tensor:
    """Return labels (y - e) / (1 - 2 e), whose mean over flips with probability e is the true label.

    A loss that is linear in the label is then unbiased for the loss of clean labels. Labels of 0 and 1 become
    -e / (1 - 2 e) and (1 - e) / (1 - 2 e), outside [0, 1]; a tie stays one.

    Source: Chowdhury et al. 2024 (robust DPO, arXiv 2403.00409), its corrected loss written as a label.

    Args:
        labels: [...] of which a share ``epsilon`` is turned round.
        epsilon: probability that a label is turned round, below 1/2.
    """
    return (labels - epsilon) / (1.0 - 2.0 * epsilon)


def smooth_labels(labels: Tensor, share: float | Tensor) -> Tensor:
    """Return (1 - share) y + share (1 - y): labels turned round with this probability (conservative DPO)."""
    return labels + share * (1.0 - 2.0 * labels)


def dynamic_labels(labels: Tensor, logits: Tensor, rate: float) -> Tensor:
    """Return labels moved towards what is believed: y + rate (sigmoid(m) - y), without a gradient.

    A label stands still where it is sigmoid(m); its pair then has no gradient.

    Source: POWER-DL (arXiv 2412.09544), from memory.

    Args:
        labels: [...].
        logits: [...] log-odds that the second segment is preferred, as the present model believes.
        rate: share of the way, in [0, 1].
    """
    return labels + rate * (torch.sigmoid(logits.detach()) - labels)


# Ensembles ----------------------------------------------------------------------------------------------


def preferred_sign(labels: Tensor) -> Tensor:
    """Return 1 where the second segment is preferred, -1 where the first is, 0 for a tie."""
    return (labels - 0.5).sign()


def preference_strength(margins: Tensor, labels: Tensor) -> Tensor:
    """Return the mean over an ensemble of r(preferred) - r(other) [N]; 0 for a tie.

    Below 0 the ensemble votes against the label.

    Source: Secrets of RLHF, part II (arXiv 2401.06080).

    Args:
        margins: [K, N] score of the second segment minus that of the first, under each of K models.
        labels: [N].
    """
    return preferred_sign(labels) * margins.mean(0)


def weakest(strength: Tensor, share: float, among: Tensor) -> Tensor:
    """Return [N] bool: the ``share`` of the rows in ``among`` with the least strength, rounded down.

    Args:
        strength: [N].
        share: in [0, 1].
        among: [N] bool, the rows that count.
    """
    rank = torch.where(among, strength, torch.inf).argsort(stable=True).argsort()
    return among & (rank < (share * among.sum() + 1e-9).floor())


def bald(probabilities: Tensor) -> Tensor:
    """Return H(mean_t p_t) - mean_t H(p_t) [N], in nats: what the models do not agree on.

    Between 0 (all say the same) and log 2 (half say 0, half 1).

    Source: Houlsby et al. 2011 (arXiv 1112.5745); over dropout passes in UPO (arXiv 2409.11212).

    Args:
        probabilities: [T, N] P(second preferred), of T models or passes.
    """
    mean = probabilities.mean(0)
    # Averaging T equal numbers may end a last bit away: no information is no less than none.
    return (_entropy(mean) - _entropy(probabilities).mean(0)).clamp(min=0.0)


def _entropy(p: Tensor) -> Tensor:
    entropy: Tensor = torch.special.entr(p) + torch.special.entr(1.0 - p)
    return entropy


def sampling_shares(information: Tensor, exponent: float = 1.0) -> Tensor:
    """Return P_j = (1 - B_j)^exponent / sum_k (1 - B_k)^exponent [N].

    UPO prints a factor in the place of the exponent, which would cancel.

    Args:
        information: [N] of :func:`bald`.
        exponent: how much certain pairs are favoured; 0: not at all.
    """
    mass = (1.0 - information) ** exponent
    return mass / mass.sum(-1, keepdim=True)


def uncertain_share(information: Tensor) -> Tensor:
    """Return a = B / (2 log 2) [N]: how much a label is smoothed, from 0 where models agree to 1/2.

    UPO prints a = 1 / (P + 1) for the sampling share P, which lies in [1/2, 1] and so turns labels round;
    this is the repair, not the paper's equation.
    """
    return information / (2.0 * math.log(2.0))


# Scores without a reward model --------------------------------------------------------------------------


def density_ratio(strong: Tensor, weak: Tensor, mask: Tensor) -> Tensor:
    """Return sum_t [log strong(a_t | s_t) - log weak(a_t | s_t)] [...] of segments.

    Where both are optimal for one reward, KL-regularised towards one reference by b_s < b_w, it is (1 / b_s -
    1 / b_w) reward + c(first state).

    Source: CDR (arXiv 2411.02481), from what its code says of itself; the identity is derived here.

    Args:
        strong: [..., L] log-likelihood of each action under the better policy.
        weak: [..., L] under the worse one.
        mask: [..., L] bool, True for transitions.
    """
    # Padding may be impossible under both: infinity minus infinity.
    return torch.where(mask, strong - weak, 0.0).sum(-1)


def anchor_distribution(scores: Tensor, temperature: float) -> Tensor:
    """Return q = softmax(s / temperature) [..., N] over candidates scored beside one anchor.

    A reconstruction in the spirit of PU distillation (arXiv 2601.20687), not its equation; so is
    :func:`anchor_advantages`.
    """
    return torch.softmax(scores / temperature, -1)


def anchor_advantages(distribution: Tensor) -> Tensor:
    """Return (q - 1 / N) / std(q) [..., N] of a distribution over candidates; 0 where it is uniform."""
    centred = distribution - 1.0 / distribution.shape[-1]
    spread = centred.square().mean(-1, keepdim=True).sqrt()
    # Rounding alone makes a uniform distribution differ from 1 / N.
    flat = spread <= 4.0 * torch.finfo(spread.dtype).eps
    return torch.where(flat, 0.0, centred / torch.where(flat, 1.0, spread))


# Contexts -----------------------------------------------------------------------------------------------


def context_logit(
    first: Tensor, second: Tensor, first_log_partition: Tensor | float, second_log_partition: Tensor | float
) -> Tensor:
    """Return r(x', y) - r(x, y) [...], of one response in two contexts, from a policy given the context.

    With r(x, y) = b log pi(y | x) / ref(y | x) + b log Z(x), the partition function cancels between responses
    and not between contexts: leaving it out is an approximation.

    Source: MAPL (arXiv 2505.12845) for preferences over contexts; the partition is derived here.

    Args:
        first: [...] b log-ratio of the response in the first context, x.
        second: [...] in the second one, x'.
        first_log_partition: b log Z(x).
        second_log_partition: b log Z(x').
    """
    return (second + second_log_partition) - (first + first_log_partition)


def gap_logit(first_gap: Tensor, second_gap: Tensor) -> Tensor:
    """Return the log-odds [...] that the second context sets two responses further apart.

    A gap is r(x, preferred) - r(x, other). The objective between samples is a reconstruction, not the
    paper's.
    """
    return second_gap - first_gap


# Reasons ------------------------------------------------------------------------------------------------


def rationale_log_likelihood(contributions: Tensor, labels: Tensor, rationale: Tensor) -> Tensor:
    """Return log P(what decided) [N], a softmax over what each factor or step speaks for what was preferred.

    An adaptation of rationales in text (arXiv 2407.14477) to named factors.

    Args:
        contributions: [N, F] what each factor adds to the log-odds that the second segment is preferred.
        labels: [N].
        rationale: [N] int64 which factor decided.
    """
    speaks = preferred_sign(labels)[:, None] * contributions
    return torch.log_softmax(speaks, -1).gather(-1, rationale[:, None])[:, 0]


def rationale_penalty(log_likelihood: Tensor, scale: float, *, squashed: bool = False) -> Tensor:
    """Return what a loss adds for rationales: -scale log p, or -log sigmoid(scale log p) where squashed.

    Source: the authors' code of arXiv 2407.14477; squashed with DPO (scale about 1e-3), plain with ORPO.
    """
    return -logsigmoid(scale * log_likelihood) if squashed else -scale * log_likelihood
