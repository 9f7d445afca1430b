"""What an answer would teach: information about a model, and improvement of the best that is known.

All criteria are of N candidates at once, in float64 or float32, and wait for no device. Log-odds are those
that the second of a pair is preferred.

Sources: mutual information of an answer and the model (BALD), Houlsby et al. 2011 (arXiv 1112.5745); D- and
G-optimal design, Kiefer and Wolfowitz 1960, here chosen one after another; active edges, utility engineering
(arXiv 2502.08640); expected improvement and knowledge gradient, Frazier's tutorial (arXiv 1807.02811).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

CELLS = 1 << 22
"""Numbers that the knowledge gradient works on at once."""


# Information --------------------------------------------------------------------------------------------


def binary_entropy(probability: Tensor) -> Tensor:
    """Return the entropy [...], in nats, of answers with these probabilities."""
    entropy: Tensor = torch.special.entr(probability) + torch.special.entr(1.0 - probability)
    return entropy


def mutual_information(log_odds: Tensor) -> Tensor:
    """Return the information [N], in nats, of an answer about which member is right (BALD).

    H(mean of p) - mean of H(p): what the members do not know together less what each does not know by itself.
    It is 0 where they agree, even that it is a toss-up, and at most log 2.

    Args:
        log_odds: [E, N] of each member, all as likely to be right.
    """
    p = torch.sigmoid(log_odds)
    return (binary_entropy(p.mean(0)) - binary_entropy(p).mean(0)).clamp(min=0.0)


def prior_information(slopes: Tensor, deviation: float) -> Tensor:
    """Return the information [..., P, P] of a normal prior that the unit of the slopes does not matter to.

    It is a multiple of the identity, by which the candidates' log-odds x . w have the mean variance
    ``deviation`` squared.

    Args:
        slopes: [..., N, P] x of the candidates.
        deviation: positive.
    """
    size = slopes.square().sum(-1).mean(-1).clamp(min=torch.finfo(slopes.dtype).tiny) / deviation**2
    return size[..., None, None] * torch.eye(slopes.shape[-1], dtype=slopes.dtype, device=slopes.device)


def inverse_information(information: Tensor) -> Tensor:
    """Return the inverse [..., P, P] of a positive definite matrix, without waiting for the device."""
    factor, _ = torch.linalg.cholesky_ex(information)  # cholesky would ask whether it succeeded
    return torch.cholesky_inverse(factor)


def greedy_d_optimal(covariance: Tensor, noise: Tensor, count: int) -> Tensor:
    """Return the places [B, count] of what adds most information, one after another.

    An answer adds log(1 + v / noise) to log det of the information, v the variance of what is asked about.

    Args:
        covariance: [B, N, N] of the candidates as believed, X I^-1 X' of slopes X.
        noise: [B, N] variance of an answer, 1 / (p (1 - p)) of a comparison.
        count: how many, each at most once; at most N.
    """
    return _greedy(covariance, noise, count, lambda variance, *_: variance / noise)


def greedy_g_optimal(covariance: Tensor, noise: Tensor, count: int) -> Tensor:
    """Return the places [B, count] of what lowers the worst variance most, one after another.

    An answer about n lowers the variance of m to v_m - c_mn^2 / (v_n + noise_n), with c their covariance. The
    next is the one after whose answer the largest variance of all candidates is least. (Sequential; Fedorov's
    exchange would take some back too.) Arguments are those of :func:`greedy_d_optimal`.
    """

    def worth(variance: Tensor, covariance: Tensor, scale: Tensor) -> Tensor:
        after = variance[:, :, None] - scale[:, None, :] * covariance.square()  # of m, once n is answered
        return -after.amax(1)

    return _greedy(covariance, noise, count, worth)


def greedy_max_variance(covariance: Tensor, noise: Tensor, count: int) -> Tensor:
    """Return the places [B, count] of the largest variance, one after another (kriging).

    Where a Gaussian process is least sure, given that the places before will be looked at. Variances do not
    depend on what is seen there, so the design is known beforehand; without noise it is the pivoted Cholesky
    decomposition. Arguments are those of :func:`greedy_d_optimal`; noise may be 0.
    """
    return _greedy(covariance, noise, count, lambda variance, *_: variance)


def _greedy(
    covariance: Tensor, noise: Tensor, count: int, worth: Callable[[Tensor, Tensor, Tensor], Tensor]
) -> Tensor:
    """Return the places [B, count] of most worth; covariances take in each answer before the next choice."""
    open_, chosen = torch.ones_like(noise, dtype=torch.bool), []
    smallest = torch.finfo(covariance.dtype).tiny
    for _ in range(count):
        variance = covariance.diagonal(dim1=1, dim2=2)
        scale = 1.0 / (variance + noise).clamp(min=smallest)
        place = worth(variance, covariance, scale).where(open_, -torch.inf).argmax(-1)[:, None]
        row = covariance.gather(2, place[:, None].expand(-1, covariance.shape[1], 1))[..., 0]
        factor = scale.gather(1, place)[..., None]
        covariance = covariance - factor * row[:, :, None] * row[:, None, :]
        open_ = open_.scatter(1, place, False)
        chosen.append(place[:, 0])
    return torch.stack(chosen, -1)


# Active edges -------------------------------------------------------------------------------------------


def edge_budget(num_options: int) -> int:
    """Return 2 N log2 N, the edges that arXiv 2502.08640 asks about, and at most all N (N - 1) / 2."""
    wanted = int(2 * num_options * math.log2(max(1, num_options)))
    return min(wanted, num_options * (num_options - 1) // 2)


def ring_edges(num_options: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return first and second options of a 2-regular graph: one circle through all, in random order.

    Of two options it is a single edge.
    """
    order = torch.randperm(num_options, generator=generator, device=generator.device)
    count = num_options if num_options > 2 else num_options - 1
    return order[:count], order.roll(-1)[:count]


def active_edges(
    gaps: Tensor, degrees: Tensor, count: int, generator: torch.Generator, *, close: float = 0.1,
    rare: float = 0.2,
) -> Tensor:  # fmt: skip
    """Return the places [count] of pairs that are nearly tied and of options seldom asked about.

    They are drawn evenly among the pairs that are both in the share ``close`` of the smallest gaps and in the
    share ``rare`` of the smallest degrees, ties of degrees in random order. Where these are too few, both
    shares are doubled until they are enough (what the published code does then is not known).

    Args:
        gaps: [N] absolute differences of utilities.
        degrees: [N] how many edges the pair's two options have by now, together.
        count: at most N.
        generator: draws, on its own device.
        close: P of the source, 10 %.
        rare: Q of the source, 20 %.
    """
    total = len(gaps)
    draws = torch.rand(2, total, generator=generator, device=generator.device).to(gaps.device)
    shuffled = draws[0].argsort()
    by_degree = torch.empty_like(shuffled)
    by_degree[shuffled[degrees[shuffled].argsort(stable=True)]] = torch.arange(total, device=gaps.device)
    by_gap = gaps.argsort().argsort()
    # The doubling at which a pair is in both shares; those of the first ones come first, in random order.
    shares = torch.maximum((by_gap + 1) / (close * total), (by_degree + 1) / (rare * total))
    doublings = shares.clamp(min=1.0).log2().ceil()
    return (doublings + draws[1] * 0.5).argsort()[:count]


# The best -----------------------------------------------------------------------------------------------


def expected_improvement(mean: Tensor, deviation: Tensor, best: Tensor | float) -> Tensor:
    """Return E max(X - best, 0) [...] of normal X: gap Phi(gap / s) + s phi(gap / s), gap = mean - best.

    With noise, ``best`` is the largest posterior mean of what was looked at. (Gaussian processes over a
    domain, and candidates in batches: BoTorch's.)

    Args:
        mean: [...] of the candidates.
        deviation: [...] standard deviations, not negative; 0 gives max(gap, 0).
        best: value to improve on.
    """
    gap = mean - best
    z = gap / deviation.clamp(min=torch.finfo(mean.dtype).tiny)
    return torch.where(
        deviation > 0, gap * torch.special.ndtr(z) + deviation * _density(z), gap.clamp(min=0.0)
    )


def knowledge_gradient(means: Tensor, slopes: Tensor) -> Tensor:
    """Return E max_k (a_k + b_k Z) - max_k a_k [N] for standard normal Z, exactly.

    What an observation is expected to raise the best of K posterior means by. The maximum is piecewise linear
    in Z; line k is on top between its crossings with flatter and with steeper ones. Over all options it is
    the knowledge gradient; over those looked at and the candidate, expected improvement under noise.

    Args:
        means: [K] or [N, K] a, the posterior means.
        slopes: [N, K] b, how far they move for one standard deviation of candidate n's observation.
    """
    means = means.expand_as(slopes)
    size = max(1, CELLS // max(1, slopes.shape[1] ** 2))
    pieces = [
        _envelope(a, b)
        for a, b in zip(torch.split(means, size), torch.split(slopes, size), strict=True)
    ]  # fmt: skip
    return torch.cat(pieces) if pieces else means.new_zeros(0)


def _envelope(a: Tensor, b: Tensor) -> Tensor:
    """Return :func:`knowledge_gradient` [N] of lines a + b z [N, K], all crossings at once."""
    top = a.amax(1, keepdim=True)
    a = a - top  # small numbers, and the result is the expectation itself
    rise, fall = b[:, :, None] - b[:, None, :], a[:, None, :] - a[:, :, None]  # of k above j, of j above k
    crossing = fall / torch.where(rise == 0, 1.0, rise)
    low = crossing.where(rise > 0, -torch.inf).amax(2)
    high = crossing.where(rise < 0, torch.inf).amin(2)
    # Of parallel lines the highest counts, of equal ones the first.
    place = torch.arange(a.shape[1], device=a.device)
    hidden = (rise == 0) & ((fall > 0) | ((fall == 0) & (place[:, None] > place)))
    seen = (low < high) & ~hidden.any(2)
    part = a * (torch.special.ndtr(high) - torch.special.ndtr(low)) + b * (_density(low) - _density(high))
    gain: Tensor = part.where(seen, 0.0).sum(1).clamp(min=0.0)
    return gain


def _density(z: Tensor) -> Tensor:
    """Standard normal density [...]."""
    density: Tensor = torch.exp(-0.5 * z.square()) / math.sqrt(2.0 * math.pi)
    return density
