"""What a preference is taken to mean: scores of segments, probabilities, losses.

Sources: Knox et al. 2022 (arXiv 2206.02231) for partial return and regret; Lee et al. 2021 (B-Pref,
arXiv 2111.03026) for the discounted return of a myopic teacher. Every function is pure and takes any leading
batch axes; segments have axes ``[..., L]`` with a mask of real transitions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def partial_return(rewards: Tensor, mask: Tensor, *, gamma: float = 1.0) -> Tensor:
    """Return sum_t gamma^(n-1-t) r_t of segments of n transitions.

    With ``gamma`` below 1 the last transition counts most, as for B-Pref's myopic teacher; preference models
    use 1.

    Args:
        rewards: [..., L].
        mask: [..., L] bool, True for transitions; they come first.
        gamma: weight of a step earlier in the segment against the next.

    Returns:
        [...].
    """
    rewards = torch.where(mask, rewards, 0.0)
    if gamma == 1.0:
        return rewards.sum(-1)
    remaining = mask.sum(-1, keepdim=True) - 1 - torch.arange(mask.shape[-1], device=mask.device)
    return (rewards * gamma ** remaining.clamp(min=0).to(rewards.dtype)).sum(-1)


def preference_logit(first_score: Tensor, second_score: Tensor, scale: float | Tensor = 1.0) -> Tensor:
    """Return the log-odds that the second segment is preferred; scale is 1 / temperature."""
    return scale * (second_score - first_score)


def preference_probability(logit: Tensor, uniform_logit: float | Tensor | None = None) -> Tensor:
    """Return P(second preferred), optionally mixed with uniform responses.

    With e = logistic(uniform_logit), the mixture is (1 - e) logistic(logit) + e / 2.
    """
    if uniform_logit is None:
        return torch.sigmoid(logit)
    share = torch.sigmoid(torch.as_tensor(uniform_logit, dtype=logit.dtype, device=logit.device))
    return (1.0 - share) * torch.sigmoid(logit) + 0.5 * share


def preference_cross_entropy(
    logit: Tensor, labels: Tensor, uniform_logit: float | Tensor | None = None
) -> Tensor:
    """Return -(label log P(second) + (1 - label) log P(first)) per comparison.

    Computed from the log-odds, so that no probability is clamped; labels may be any real number.

    Args:
        logit: [...] log-odds that the second segment is preferred.
        labels: [...] probability that the second segment is preferred; leading axes of the log-odds may be
            missing, for labels that all of them share.
        uniform_logit: see :func:`preference_probability`.

    Returns:
        [...].

    Raises:
        ValueError: if the labels' axes are not the last ones of the log-odds: [n, 1] labels beside [n]
            log-odds would be every label for every comparison.
    """
    if labels.shape != logit.shape[logit.ndim - labels.ndim :] or labels.ndim > logit.ndim:
        raise ValueError(f"labels have shape {list(labels.shape)} and the log-odds {list(logit.shape)}; give "
                         "one label for each comparison")  # fmt: skip
    if uniform_logit is None:
        # -logsigmoid(-z) is softplus(z); torch's own softplus drops exp(-z) once z exceeds 20.
        return -logsigmoid(-logit) - labels * logit
    # log[(1 - e) sigmoid(z) + e / 2] = logsumexp(log(1 - e) + log sigmoid(z), log e - log 2)
    c = torch.as_tensor(uniform_logit, dtype=logit.dtype, device=logit.device)
    log_guess = logsigmoid(c) - math.log(2.0)
    log_second = torch.logaddexp(logsigmoid(-c) + logsigmoid(logit), log_guess)
    log_first = torch.logaddexp(logsigmoid(-c) + logsigmoid(-logit), log_guess)
    return -(labels * log_second + (1.0 - labels) * log_first)


def preference_slopes(
    logit: Tensor, labels: Tensor, uniform_logit: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Return the derivatives of :func:`preference_cross_entropy` in both log-odds.

    Without uniform responses that is P(second) - label. With them, let s be the probability that an answer
    was not one of them: log P(second) has the slopes s P(first) in the log-odds before the mixture, and
    1 - e - s in ``uniform_logit``; log P(first) likewise, with another s and the first sign turned.

    Args:
        logit: [...] log-odds that the second segment is preferred.
        labels: [...] as there.
        uniform_logit: [...] as there, of shapes that broadcast.

    Returns:
        [...] in ``logit``, and [...] in ``uniform_logit`` for each comparison, if that is given.
    """
    if uniform_logit is None:
        return torch.sigmoid(logit) - labels, None
    sincere, log_guess = logsigmoid(-uniform_logit), logsigmoid(uniform_logit) - math.log(2.0)
    second, first = (
        torch.exp(wanted - torch.logaddexp(wanted, log_guess))
        for wanted in (sincere + logsigmoid(logit), sincere + logsigmoid(-logit))
    )
    chosen, other = labels * second, (1.0 - labels) * first
    slopes = other * torch.sigmoid(logit) - chosen * torch.sigmoid(-logit)
    return slopes, chosen + other - torch.exp(sincere)


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Return sum(w v) / sum(w) over the last axis; 0 where all weights are 0."""
    total = weights.sum(-1)
    return (weights * values).sum(-1) / torch.where(total == 0, 1.0, total)
