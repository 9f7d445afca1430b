"""Values as distributions: labels of classification losses, projections, decoders, losses.

A value is written as a distribution over m places on the real line and read back as its mean. Four ways to
make a distribution out of a target return y:

* HL-Gauss (Imani and White 2018; Farebrother et al. 2024, arXiv 2403.03950, section 3.1 and appendix A): the
  mass that a normal distribution around y gives to each of m bins, within the support.
* Two-Hot (the same, equation 3.2): y is shared between the two atoms beside it, so that the mean is y. The
  equation as printed gives each atom the distance to itself, the farther one more; the weights here are the
  other way round, the only ones that keep the mean.
* C51 (Bellemare et al. 2017, arXiv 1707.06887, algorithm 1): every atom of the next state's distribution is
  moved by the Bellman operator and shared out in the same way. The triangular kernel of equation 3.4 of the
  former paper swaps its two indices as printed; here the sum runs over the moved atoms.
* Quantile regression (Dabney et al. 2018, arXiv 1710.10044): m quantiles in place of fixed places.

Every function is pure, takes any leading batch axes, none included, with the places on the last axis, works
on the device of its tensors without waiting for it, and in float32 where it is handed a half-precision
tensor, under autocast too.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import huber_loss

DEFAULT_SIGMA_RATIO = 0.75
"""sigma in bin widths (Farebrother et al. 2024, appendix B): the narrowest label that is exact, see there."""


def _wide(values: Tensor) -> Tensor:
    """Return half-precision values in float32, others as they are."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def _check_range(v_min: float, v_max: float) -> None:
    if not (math.isfinite(v_min) and math.isfinite(v_max) and v_min < v_max):
        raise ValueError(f"v_min is {v_min} and v_max {v_max}; they must be finite, v_min below v_max")


def _check_places(name: str, places: Tensor, least: int) -> None:
    if places.ndim != 1 or places.shape[0] < least:
        raise ValueError(f"{name} has shape {tuple(places.shape)}; it must have one axis of at least {least}")


# Supports ----------------------------------------------------------------------------------------------


def bin_edges(
    v_min: float, v_max: float, bins: int, *, placement: Literal["edges", "centers"] = "edges",
    dtype: torch.dtype | None = None, device: torch.device | str | None = None,
) -> Tensor:  # fmt: skip
    """Return the edges of ``bins`` bins of equal width, for HL-Gauss.

    Args:
        v_min: lowest value.
        v_max: highest value.
        bins: how many bins, m.
        placement: what v_min and v_max are. "edges", as in the paper: the outer edges; the width is
            (v_max - v_min) / m, and nothing decodes to a value nearer than half a bin to them. "centers": the
            centres of the outer bins, which are C51's atoms; the width is (v_max - v_min) / (m - 1).
        dtype: of the result; torch's default if None.
        device: of the result; torch's default if None.

    Returns:
        [m + 1], rising.

    Raises:
        ValueError: if the range is empty or not finite, there are too few bins, or the placement is unknown.
    """
    _check_range(v_min, v_max)
    if placement not in ("edges", "centers"):
        raise ValueError(f"placement is {placement!r}; it must be 'edges' or 'centers'")
    if bins < 2:
        raise ValueError(f"bins is {bins}; it must be at least 2")
    margin = 0.5 * (v_max - v_min) / (bins - 1) if placement == "centers" else 0.0
    return torch.linspace(v_min - margin, v_max + margin, bins + 1, dtype=dtype, device=device)


def bin_centers(edges: Tensor) -> Tensor:
    """Return the centres [m] of the bins with edges [m + 1]: what HL-Gauss decodes with."""
    _check_places("edges", edges, 2)
    return 0.5 * (edges[:-1] + edges[1:])


def atoms(
    v_min: float, v_max: float, count: int, *, dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:  # fmt: skip
    """Return ``count`` evenly spaced atoms [m] from v_min to v_max, both included, for Two-Hot and C51.

    Raises:
        ValueError: if the range is empty or not finite, or there are fewer than 2 atoms.
    """
    _check_range(v_min, v_max)
    if count < 2:
        raise ValueError(f"count is {count}; it must be at least 2")
    return torch.linspace(v_min, v_max, count, dtype=dtype, device=device)


def resolve_sigma(bin_width: float, *, sigma: float | None = None, sigma_ratio: float | None = None) -> float:
    """Return HL-Gauss' sigma in units of value, from itself or from its ratio to the width of a bin.

    With a ratio below 0.5 the decoded mean is off by up to (width / pi) exp(-2 pi^2 ratio^2). When the number
    of bins grows, it is sigma, not the ratio, that should stay (Farebrother et al. 2024, section 5.1).

    Args:
        bin_width: in units of value.
        sigma: in units of value.
        sigma_ratio: in bin widths; 0.75 if neither is given.

    Raises:
        ValueError: if both are given, or one is not positive and finite.
    """
    if sigma is not None and sigma_ratio is not None:
        raise ValueError(f"sigma is {sigma} and sigma_ratio {sigma_ratio}; only one of them may be given")
    ratio = DEFAULT_SIGMA_RATIO if sigma_ratio is None else sigma_ratio
    values = {"bin_width": bin_width, "sigma_ratio": ratio, "sigma": 1.0 if sigma is None else sigma}
    for name, value in values.items():
        if not (math.isfinite(value) and value > 0.0):
            raise ValueError(f"{name} is {value}; it must be positive and finite")
    return ratio * bin_width if sigma is None else float(sigma)


# Labels ------------------------------------------------------------------------------------------------


def hl_gauss_log_probs(targets: Tensor, edges: Tensor, sigma: float) -> Tensor:
    """Return log p_i of HL-Gauss, finite and exact however far a target lies outside the support.

    p_i is proportional to Phi((e_{i+1} - y) / sigma) - Phi((e_i - y) / sigma) (Farebrother et al. 2024,
    appendix A). Taken as it stands, the difference is 0 in float32 for every bin, and so their sum, from 5.5
    sigma outside on. Here the bins above y are reflected, Phi(b) - Phi(a) = Phi(-a) - Phi(-b), so that every
    tail is a small number, and held as a logarithm. With d the distance (in sigma) of an edge from y or, for
    y outside, from the end next to y, and r that of y from this end,

        log 2 Phi(-d - r) = log erfcx((d + r) / sqrt 2) - (d^2 + 2 d r) / 2 - r^2 / 2,

    and the last term, the only one to lose digits, is the same for all edges and falls to the normalisation.

    Args:
        targets: [...] finite values y.
        edges: [m + 1], rising.
        sigma: in units of value, positive.

    Returns:
        [..., m].
    """
    _check_places("edges", edges, 3)
    targets, edges = _wide(targets), _wide(edges)
    inside = targets.clamp(edges[0], edges[-1])
    beyond = ((targets - inside).abs() / sigma)[..., None]
    offset = (edges - inside[..., None]) / sigma
    distance = offset.abs()
    tail = torch.special.erfcx((distance + beyond) * math.sqrt(0.5)).log()
    tail = tail - 0.5 * distance * (distance + 2.0 * beyond)
    left, right = tail[..., :-1], tail[..., 1:]
    near, far = torch.maximum(left, right), torch.minimum(left, right)
    log_mass = near + torch.log(-torch.expm1(far - near))
    # The bin that y lies in is what both tails leave over.
    around = (offset[..., :-1] < 0) & (offset[..., 1:] > 0)
    log_mass = torch.where(around, torch.log(2.0 - left.exp() - right.exp()), log_mass)
    return torch.log_softmax(log_mass, -1)


def hl_gauss_probs(targets: Tensor, edges: Tensor, sigma: float, *, clamp: bool = False) -> Tensor:
    """Return HL-Gauss labels: the mass of N(y, sigma^2) in each bin, within the support.

    Args:
        targets: [...] finite values y.
        edges: [m + 1], rising.
        sigma: in units of value, positive.
        clamp: move targets outside the support to its end first. There the plain difference of error
            functions is exact to rounding, and several times cheaper than the logarithms that targets
            outside need. The labels of targets inside are the same.

    Returns:
        [..., m], rows summing to 1. Their mean over the bins' centres is y, up to (width / pi)
        exp(-2 pi^2 rho^2) with rho = sigma / width, for y well inside (rho = 0.75: 3 bins); nearer to an end
        it is pulled inside (rho = 0.75: by 0.16 bin at a bin from the end, by 0.69 bin at the end itself).
    """
    if not clamp:
        return hl_gauss_log_probs(targets, edges, sigma).exp()
    _check_places("edges", edges, 3)
    targets, edges = _wide(targets), _wide(edges)
    offset = edges - targets.clamp(edges[0], edges[-1])[..., None]
    # In place: this is every update's work, and the time goes into calls and memory more than arithmetic.
    mass = offset.mul_(math.sqrt(0.5) / sigma).erf_().diff(dim=-1)
    return mass.div_(mass.sum(-1, keepdim=True))


def _position(locations: Tensor, atoms: Tensor) -> Tensor:
    """Return locations [...] clipped to the atoms' range, in spacings from the first: 0 .. m - 1."""
    last = atoms.shape[0] - 1
    return ((locations - atoms[0]) * (last / (atoms[-1] - atoms[0]))).clamp_(0.0, last)


def two_hot_probs(targets: Tensor, atoms: Tensor) -> Tensor:
    """Return Two-Hot labels: y shared between the atoms beside it, the nearer one getting more.

    For z_i <= y <= z_{i+1} the shares are (z_{i+1} - y) / width and (y - z_i) / width: the triangular kernel
    max(0, 1 - |y - z_i| / width).

    Args:
        targets: [...] values; those outside the atoms count as the outer atom.
        atoms: [m], rising and evenly spaced.

    Returns:
        [..., m], rows summing to 1 with mean y.
    """
    _check_places("atoms", atoms, 2)
    position = _position(_wide(targets), _wide(atoms))[..., None]
    # Counting in spacings, y's distances to the atoms beside it are exact, and the shares add up to 1.
    index = torch.arange(atoms.shape[0], dtype=position.dtype, device=position.device)
    return (1.0 - (position - index).abs_()).clamp_(min=0.0)


def categorical_projection(probs: Tensor, locations: Tensor, atoms: Tensor) -> Tensor:
    """Return the distribution on the atoms nearest to that with mass ``probs`` at ``locations`` (C51).

    Every location is clipped to the atoms' range and its mass shared between the atoms beside it as by
    :func:`two_hot_probs`, which keeps the mean of what was not clipped (Bellemare et al. 2017, algorithm 1).
    Nearest is meant in the Cramer distance (Rowland et al. 2018, arXiv 1802.08163, proposition 1).

    Args:
        probs: [..., n] masses.
        locations: [..., n] their places: r + gamma (1 - termination) z.
        atoms: [m], rising and evenly spaced.

    Returns:
        [..., m].

    Raises:
        ValueError: if probs and locations differ in shape.
    """
    _check_places("atoms", atoms, 2)
    if probs.shape != locations.shape:
        raise ValueError(f"probs {tuple(probs.shape)} and locations {tuple(locations.shape)} must have "
                         "the same shape")  # fmt: skip
    probs, position = _wide(probs), _position(_wide(locations), _wide(atoms))
    # The last atom counts as above the one before it: then an atom above always exists, and a location on an
    # atom gives that atom all and a neighbour 0; floor and ceil would both be the atom and lose or double it.
    below = position.floor().clamp_(max=atoms.shape[0] - 2)
    above_mass = probs * position.sub_(below)
    index = below.long().clamp_(0, atoms.shape[0] - 2)
    projected = probs.new_zeros(*probs.shape[:-1], atoms.shape[0])
    projected.scatter_add_(-1, index, probs - above_mass)
    return projected.scatter_add_(-1, index + 1, above_mass)


BISECTIONS = 60
"""Halvings of the bracket in :func:`flattest_log_probs`: past float64's last digit."""

STEEPEST = 20.0
"""Bound on the slope of log-probabilities per spacing there."""


def flattest_log_probs(support: Tensor, value: float = 0.0) -> Tensor:
    """Return log p [m] of the flattest distribution on the support that decodes to ``value``.

    Equal logits decode to the middle of the support, which for a one-sided support is wildly optimistic. A
    narrow label at the value would be the wrong cure: its log-probabilities fall with the square of the
    distance, to -2,000 some fifty bins away, and a network would take ages to climb back. The distribution
    of largest entropy with the given mean is p_i proportional to exp(t z_i): with the value in the middle it
    is uniform, and else its logarithm falls no faster than a straight line.

    Args:
        support: [m] atoms or centres of bins, rising.
        value: in units of value. One outside the support, or nearer to its end than half the average spacing,
            is moved there: at the end itself all other places would have probability 0.

    Returns:
        [m], normalised; on the device and in the type of the support.

    Raises:
        ValueError: if the support is not one axis of at least 2 places.
    """
    if support.ndim != 1 or support.shape[0] < 2:
        raise ValueError(f"support has shape {tuple(support.shape)}; it must have one axis of at least 2")
    last = support.shape[0] - 1
    place = (support - support[0]) * (last / (support[-1] - support[0]))  # 0 .. m - 1
    wanted = ((value - support[0]) * (last / (support[-1] - support[0]))).clamp(0.5, last - 0.5)
    # For a long even support t is log 3 at half a spacing from the end, and smaller elsewhere.
    # The mean rises with t, so that halving finds it, and nothing has to be read on the host.
    low, high = torch.full_like(wanted, -STEEPEST), torch.full_like(wanted, STEEPEST)
    for _ in range(BISECTIONS):
        middle = 0.5 * (low + high)
        below = expected_value(middle * place, place) < wanted
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return torch.log_softmax(0.5 * (low + high) * place, -1)


# Losses and decoders -----------------------------------------------------------------------------------


def quantile_huber_loss(quantiles: Tensor, targets: Tensor, *, kappa: float = 1.0) -> Tensor:
    """Return sum_i mean_j |tau_i - 1{u_ij < 0}| L_kappa(u_ij) / kappa, with u_ij = target_j - quantile_i.

    L_kappa is the Huber loss and tau_i = (i + 1/2) / N the middle of the i-th of N equal shares of
    probability (Dabney et al. 2018, equations 9 and 10). The division by kappa is that of the same authors'
    next paper (arXiv 1806.06923) and makes kappa = 0, the quantile regression loss itself, the limit.

    Args:
        quantiles: [..., N] estimates.
        targets: [..., M] samples or quantiles of the target distribution, the same leading axes.
        kappa: where the loss turns from squared to linear, in units of value; not negative.

    Returns:
        [...].

    Raises:
        ValueError: if kappa is negative or not finite.
    """
    if not (math.isfinite(kappa) and kappa >= 0.0):
        raise ValueError(f"kappa is {kappa}; it must be finite and not negative")
    estimate, target, weights = _all_pairs(quantiles, targets, kappa)
    if kappa > 0.0:
        size = huber_loss(estimate, target, reduction="none", delta=kappa)
    else:
        size = (target - estimate).abs()
    return (weights * size).sum((-2, -1))


def quantile_huber_slopes(quantiles: Tensor, targets: Tensor, *, kappa: float = 1.0) -> Tensor:
    """Return the gradient [..., N] of :func:`quantile_huber_loss` in the quantiles."""
    estimate, target, weights = _all_pairs(quantiles, targets, kappa)
    off = estimate - target
    slopes = weights * (off.clamp(-kappa, kappa) if kappa > 0.0 else off.sign())
    return slopes.sum(-1)


def _all_pairs(quantiles: Tensor, targets: Tensor, kappa: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return quantile i, target j and the weight of their loss, each [..., N, M]."""
    quantiles, targets = _wide(quantiles), _wide(targets)
    count, samples = quantiles.shape[-1], targets.shape[-1]
    estimate = quantiles[..., None].expand(*quantiles.shape, samples)
    target = targets[..., None, :].expand_as(estimate)
    taus = (torch.arange(count, dtype=quantiles.dtype, device=quantiles.device)[:, None] + 0.5) / count
    return estimate, target, torch.where(target < estimate, 1.0 - taus, taus) / (samples * (kappa or 1.0))


def expected_value(logits: Tensor, support: Tensor) -> Tensor:
    """Return the decoded value sum_i softmax(logits)_i z_i.

    Args:
        logits: [..., m].
        support: [m] atoms, or centres of bins.

    Returns:
        [...].
    """
    return (torch.softmax(_wide(logits), -1) * support).sum(-1)


def cross_entropy(logits: Tensor, probs: Tensor) -> Tensor:
    """Return -sum_i p_i log softmax(logits)_i, with the classes on the last axis.

    Its minimum over the logits is the entropy of p, not 0: subtract :func:`entropy` for the divergence.

    Args:
        logits: [..., m].
        probs: [..., m] labels.

    Returns:
        [...].
    """
    return -(probs * torch.log_softmax(_wide(logits), -1)).sum(-1)


def entropy(probs: Tensor) -> Tensor:
    """Return -sum_i p_i log p_i [...] of distributions [..., m], in nats; 0 log 0 is 0."""
    terms: Tensor = torch.special.entr(_wide(probs))
    return terms.sum(-1)
