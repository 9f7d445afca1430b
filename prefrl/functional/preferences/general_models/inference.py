"""How sure one may be of a fitted preference model: information, intervals, pessimism, design.

Source: the statistical perspective on learning from preferences, arXiv 2604.02507; standard asymptotics.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from prefrl.functional.preferences.general_models.questions import greedy_d_optimal
from prefrl.functional.preferences.logistic import damped_newton

RANK_TOLERANCE = 1e-10
"""Directions of less information than this share of the largest count as never observed."""


def utilities(wins: Tensor, ridge: float) -> Tensor:
    """Return the utilities [B, K], of mean 0, that explain best how often options beat each other.

    Bradley and Terry: P(i beats j) = sigmoid(u_i - u_j); minimises the negative log-likelihood + ridge / 2
    |u|^2 by Newton's method. K x K numbers are all it works on, however many comparisons there were.

    Args:
        wins: [B, K, K] how often (a real number) the row was preferred to the column.
        ridge: not negative; 0 has a finite answer only where every option lost to some other group.
    """
    total = wins.sum((-1, -2)).clamp(min=torch.finfo(wins.dtype).tiny)
    shares = wins / total[:, None, None]
    asked = shares + shares.transpose(-1, -2)
    weight = (ridge / total)[:, None]
    # Holds the mean, which no comparison tells anything about.
    hold = torch.full_like(wins[0], 1.0 / wins.shape[-1]).fill_diagonal_(1.0 / wins.shape[-1] + 1e-14)

    def loss_at(u: Tensor) -> Tensor:
        gap = u[:, None, :] - u[:, :, None]  # of the column above the row
        entropy = (shares * softplus(gap)).sum((-1, -2))
        return entropy + 0.5 * (weight * u.square()).sum(-1)

    def newton_at(u: Tensor) -> tuple[Tensor, Tensor]:
        p = torch.sigmoid(u[:, :, None] - u[:, None, :])  # the row is preferred
        expected = asked * p
        gradient = (expected - shares).sum(-1) + weight * u
        laplacian = torch.addcmul(expected, expected, p, value=-1.0)
        curvature = hold - laplacian
        curvature.diagonal(dim1=-2, dim2=-1).add_(laplacian.sum(-1) + weight)
        return gradient, curvature

    # Where all meet all alike, log-odds of winning are near; elsewhere Newton's steps come from further.
    odds = (wins.sum(-1) + 1.0).log() - (wins.sum(-2) + 1.0).log()
    fit = damped_newton(odds, loss_at, newton_at, stretch=lambda step: step.amax(-1) - step.amin(-1))
    return fit - fit.mean(-1, keepdim=True)


def fisher_information(slopes: Tensor, log_odds: Tensor, weights: Tensor) -> Tensor:
    """Return I = sum_n w_n p_n (1 - p_n) x_n x_n' [..., P, P], the expected information of N answers.

    Args:
        slopes: [..., N, P] x, of the log-odds in the parameters; of Bradley-Terry on features their
            difference, second minus first.
        log_odds: [..., N] that the second is preferred.
        weights: [..., N] how often each pair was answered.
    """
    p = torch.sigmoid(log_odds)
    return torch.einsum("...n,...np,...nq->...pq", weights * p * (1.0 - p), slopes, slopes)


def covariance(information: Tensor) -> Tensor:
    """Return the pseudo-inverse [..., P, P] of an information matrix.

    Directions without information, such as a constant added to all utilities, have variance 0 there: use it
    for what does not depend on them, as margins.
    """
    inverse: Tensor = torch.linalg.pinv(information, rtol=RANK_TOLERANCE, hermitian=True)
    return inverse


def standard_error(slopes: Tensor, covariances: Tensor) -> Tensor:
    """Return sqrt(x' C x) [..., N] of quantities with slopes x [..., N, P] in the parameters."""
    variance = torch.einsum("...np,...pq,...nq->...n", slopes, covariances, slopes)
    return variance.clamp(min=0.0).sqrt()


def normal_quantile(level: float) -> float:
    """Return z such that a standard normal number is within -z and z with probability ``level``.

    Raises:
        ValueError: unless it lies in (0, 1).
    """
    if not 0.0 < level < 1.0:
        raise ValueError(f"level is {level}; it must lie between 0 and 1")
    return float(torch.special.ndtri(torch.tensor(0.5 + level / 2.0, dtype=torch.float64)))


def pessimistic_score(features: Tensor, weights: Tensor, information: Tensor, kappa: float) -> Tensor:
    """Return weights . phi - kappa |phi|_{I^-1} [N]: what an option is worth at least, by the data.

    Args:
        features: [N, F] phi. Only differences are observed: measure phi from an option that is known, such
            as what was done before.
        weights: [F] fitted.
        information: [F, F], see :func:`fisher_information`.
        kappa: standard errors that are taken off; negative for optimism.

    Raises:
        ValueError: for features with a part that no comparison told anything about: it may be worth anything.
    """
    inverse = covariance(information)
    observed = features @ information @ inverse
    hidden = torch.nonzero((features - observed).norm(dim=-1) > 1e-6 * features.norm(dim=-1))
    if len(hidden):
        raise ValueError(f"features[{int(hidden[0])}] lie in a direction that no comparison moves in; its "
                         "score has no lower bound")  # fmt: skip
    return features @ weights - kappa * standard_error(features, inverse)


def d_optimal_pairs(slopes: Tensor, count: int, prior: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the places [B, count] of pairs that raise log det of the information most, one after another.

    A pair x adds log(1 + w x' I^-1 x). Greedy choice of a submodular sum comes within 1 - 1/e of the best.

    Args:
        slopes: [B, N, P] of the candidates, in B pools.
        count: how many, each at most once.
        prior: [P, P] or [B, P, P] information that is there already, positive definite.
        weights: [B, N] p (1 - p) as believed; None: 1/4, of pairs nobody knows anything about.

    Raises:
        ValueError: if there are fewer candidates, or the prior is not positive definite.
    """
    pools, candidates = slopes.shape[:2]
    if not 1 <= count <= candidates:
        raise ValueError(f"count is {count}; it must lie in 1 to {candidates}, the candidates")
    prior = prior.expand(pools, *prior.shape[-2:])
    factor, failed = torch.linalg.cholesky_ex(prior)
    if bool(failed.any()):
        raise ValueError("prior is not positive definite; add a little of the identity to it")
    weights = torch.full_like(slopes[..., 0], 0.25) if weights is None else weights
    return greedy_d_optimal(slopes @ torch.cholesky_inverse(factor) @ slopes.mT, 1.0 / weights, count)
