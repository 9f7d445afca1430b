"""Where preference losses lead when nothing is sampled: their exact minimisers over probability vectors.

K sequences (arms) are compared, every pair with its exact label. A policy is any probability vector over
them, so that only the loss says where it goes. A pair loss is

    sum over pairs {i, j} of weight_ij [y_ij phi(m_ij - offset_ij) + y_ji phi(m_ji - offset_ij)],

m_ij = z_i - z_j, z = beta log(policy / base), y_ij the label that i is preferred to j, y_ji = 1 - y_ij. For
phi(m) = -log sigmoid(m) it is convex in z, and is minimised by Newton's method; for squares it is a linear
system. Nothing here knows how policies are trained: it is what training is held against.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

TOLERANCE = 1e-12
"""Largest norm of the gradient at a minimiser; weights of pairs sum to 1."""

MAX_MARGIN = 300.0
"""Margins beyond this belong to a loss that falls for ever: exp(-300) of a label is none."""

MAX_STEPS = 500
"""Newton steps; from even odds each lets a margin grow by log(1 + its full step) at least."""

EXACT = (
    "dpo", "conservative_dpo", "robust_dpo", "ipo", "simpo", "cpl", "power", "vpo", "constrained_po", "dno",
    "inpo", "egpo",
)  # fmt: skip
"""Losses whose minimiser is known here."""

NOT_EXACT = ("hinge", "slic", "orpo", "upo", "vpo_online")
"""Losses that have no single minimiser, or none that is known here: a hinge is flat beyond its corner, an
odds ratio and optimism are not convex, and UPO's labels are what another model makes them."""


@dataclass(frozen=True)
class _Pairs:
    """All pairs of a batch of B problems."""

    labels: Tensor
    """[B, K, K] y_ij, that i is preferred to j; the diagonal does not count."""

    weights: Tensor
    """[B, K, K] symmetric, 0 on the diagonal; those of unordered pairs sum to 1."""

    def chosen(self) -> Tensor:
        """Return how often each option is the preferred one of a pair [B, K]; sums to 1."""
        return (self.weights * self.labels).sum(-1)


def population_minimiser(
    name: str, preference_matrix: Tensor | ArrayLike, reference: Tensor | ArrayLike, beta: float, *,
    weights: Tensor | ArrayLike | None = None, label_noise: float = 0.0, epsilon: float = 0.0,
    margin: float = 0.0, length: float = 1.0, strength: float = 0.0, eta: float | None = None,
    current: Tensor | ArrayLike | None = None,
) -> Tensor | None:  # fmt: skip
    """Return the policy that minimises a preference loss over all pairs with exact labels.

    ================ =========================================================================================
    dpo              Rafailov et al. 2023 (arXiv 2305.18290): beta log(policy / reference) are the utilities
                     that explain the labels best by Bradley and Terry; where they do so fully, the policy is
                     the soft optimum of these utilities
    conservative_dpo the same with labels (1 - epsilon) p + epsilon (1 - p)
    robust_dpo       the same with labels (p - epsilon) / (1 - 2 epsilon) (arXiv 2403.00409)
    ipo              Azar et al. 2023 (arXiv 2310.12036): differences of log(policy / reference) nearest to
                     (p_ij - 1/2) / beta; for all pairs alike, mean_j (p_ij - 1/2) / beta
    simpo            Meng et al. 2024 (arXiv 2405.14734): beta / length log policy, with ``margin``
    cpl              Hejna et al. 2023 (arXiv 2310.13639), no bias and no discount: beta log policy
    power            weights 1 / length (arXiv 2412.09544), and ``strength`` beta / length nats of the chosen
    vpo              offline (arXiv 2405.19320): dpo, and ``strength`` beta nats of the chosen
    constrained_po   dpo with offsets ``margin`` (1 / reference_i + 1 / reference_j) (arXiv 2605.20834)
    dno              Rosset et al. 2024 (arXiv 2404.03715): labels sigmoid(r_i - r_j), r = P(. > current),
                     beta log(policy / current)
    inpo             Zhang et al. 2024 (arXiv 2407.00617), tau = beta: squares around (p - 1/2) / eta, base
                     reference^(beta / eta) current^(1 - beta / eta)
    egpo             squares around (P(i > current) - P(j > current)) / beta, base reference (arXiv
                     2503.08942)
    ================ =========================================================================================

    Args:
        name: one of :data:`EXACT` or :data:`NOT_EXACT`.
        preference_matrix: [..., K, K] probability that i is preferred to j: of the pair of i and, second, j
            the label is entry (j, i). Any real numbers of which entries (i, j) and (j, i) sum to 1.
        reference: [..., K] probabilities of the reference policy, all above 0; simpo, cpl and power do not
            look at it.
        beta: of the loss, above 0.
        weights: [..., K, K] how often pairs are compared, not negative (None: all pairs alike, once). Pairs
            sampled from a policy have the products of its probabilities.
        label_noise: probability with which labels were flipped, before the loss sees them.
        epsilon: noise that conservative and robust DPO reckon with, below 1/2.
        margin: of simpo and constrained_po.
        length: steps of every sequence, by which simpo and power divide.
        strength: of the likelihood of the chosen beside the loss, in power and vpo; not negative.
        eta: of inpo; not below beta.
        current: [..., K] probabilities of the policy that inpo, dno and egpo stand on (None: the reference).

    Returns:
        [..., K] float64 log-probabilities; None if the loss has no single minimiser for one of the matrices,
        as where labels of 0 and 1 can be met ever better, or some options are compared with no others.

    Raises:
        ValueError: naming the argument that is wrong.
    """
    if name not in EXACT + NOT_EXACT:
        raise ValueError(f"name is {name!r}; allowed are {list(EXACT + NOT_EXACT)}")
    beta, length = _positive("beta", beta), _positive("length", length)
    epsilon, flips = _within("epsilon", epsilon, 0.0, 0.5), _within("label_noise", label_noise, 0.0, 1.0)
    margin, strength = _within("margin", margin, 0.0, math.inf), _within("strength", strength, 0.0, math.inf)
    matrix = _check_matrix(preference_matrix)
    base = _check_policy("reference", reference, matrix)
    now = base if current is None else _check_policy("current", current, matrix)
    share = _check_weights(weights, matrix)
    lead, k = _common_lead(matrix, base, now, share), matrix.shape[-1]
    matrix, share = (table.expand(*lead, k, k).reshape(-1, k, k) for table in (matrix, share))
    base, now = (policy.expand(*lead, k).reshape(-1, k) for policy in (base, now))
    pairs, log_base = _Pairs(matrix + flips * (1.0 - 2.0 * matrix), share), base.log()
    found: Tensor | None = None
    if name == "inpo":
        step = _check_eta(eta, beta)
        log_base = beta / step * log_base + (1.0 - beta / step) * now.log()
        found = _squares(pairs, pairs.labels - 0.5, step)
    elif name in ("ipo", "egpo"):
        found = _squares(pairs, pairs.labels - 0.5 if name == "ipo" else _gains(pairs.labels, now), beta)
    elif name == "dno":
        log_base = now.log()
        found = _logistic(_Pairs(torch.sigmoid(_gains(pairs.labels, now)), share), beta)
    elif name in EXACT:
        if name in ("simpo", "power", "cpl"):
            log_base = torch.zeros_like(log_base)
            beta = beta if name == "cpl" else beta / length
        offsets: Tensor | float = margin if name == "simpo" else 0.0
        if name == "constrained_po":
            offsets = margin * (1.0 / base[..., :, None] + 1.0 / base[..., None, :])
        nats = strength * beta if name in ("power", "vpo") else 0.0
        seen = _Pairs(_labels(name, pairs.labels, epsilon), share)
        found = _logistic(seen, beta, offsets, nats, log_base, pairs.chosen())
    return None if found is None else torch.log_softmax(log_base + found, -1).reshape(*lead, k)


def mirror_descent_step(
    preference_matrix: Tensor | ArrayLike, reference: Tensor | ArrayLike, current: Tensor | ArrayLike,
    beta: float, eta: float,
) -> Tensor:  # fmt: skip
    """Return log of pi ~ reference^(beta / eta) current^(1 - beta / eta) exp(P(. > current) / eta) [..., K].

    The step of online mirror descent on the game that beta regularises towards the reference, which INPO's
    loss (Zhang et al. 2024, arXiv 2407.00617) has as its minimiser when pairs are drawn from ``current``.

    Args:
        preference_matrix: [..., K, K] probability that i is preferred to j.
        reference: [..., K] probabilities.
        current: [..., K] probabilities of the policy to step from.
        beta: strength of the regulariser, above 0.
        eta: 1 / step size; not below beta.

    Raises:
        ValueError: naming the argument that is wrong.
    """
    beta, matrix = _positive("beta", beta), _check_matrix(preference_matrix)
    eta = _check_eta(eta, beta)
    base, now = _check_policy("reference", reference, matrix), _check_policy("current", current, matrix)
    wins = (matrix @ now[..., None])[..., 0]
    return torch.log_softmax(beta / eta * base.log() + (1.0 - beta / eta) * now.log() + wins / eta, -1)


def _labels(name: str, labels: Tensor, epsilon: float) -> Tensor:
    """Return what a loss makes of labels [B, K, K]."""
    if name == "conservative_dpo":
        return labels + epsilon * (1.0 - 2.0 * labels)
    if name == "robust_dpo":
        cleaned = (labels - epsilon) / (1.0 - 2.0 * epsilon)
        # What noise made of a certain label is to be certain again, and not a rounding away from it.
        whole = cleaned.round()
        return torch.where((cleaned - whole).abs() < 1e-14, whole, cleaned)
    return labels


def _gains(labels: Tensor, now: Tensor) -> Tensor:
    """Return P(i > now) - P(j > now) [B, K, K] of policies ``now`` [B, K]."""
    wins = (labels @ now[..., None])[..., 0]
    return wins[..., :, None] - wins[..., None, :]


def _squares(pairs: _Pairs, targets: Tensor, beta: float) -> Tensor | None:
    """Return u [B, K] of mean 0 whose differences are nearest to targets over beta; None if not unique."""
    if not _connected(pairs.weights > 0.0):
        return None
    return _solve_laplacian(pairs.weights, (pairs.weights * targets).sum(-1) / beta)


def _logistic(
    pairs: _Pairs, beta: float, offsets: Tensor | float = 0.0, nats: float = 0.0,
    log_base: Tensor | None = None, chosen: Tensor | None = None,
) -> Tensor | None:  # fmt: skip
    """Return log(policy / base) [B, K] that minimises a logistic loss; None if one has no minimiser.

    Beside the loss may stand ``nats`` times the negative log-likelihood of the chosen. Steps are Newton's
    times log(1 + d) / d, where d bounds by how much a full step moves any margin: the third derivatives of
    these losses are bounded by the second ones times d, and so each step lowers the loss (Sun and Tran-Dinh
    2019, Mathematical Programming 178, generalised self-concordance of order 2).
    """
    y, w = pairs.labels, pairs.weights
    shared = chosen if nats > 0.0 else None
    offset = torch.as_tensor(offsets, dtype=torch.float64, device=y.device)
    within = bool(((y >= 0.0) & (y <= 1.0) | (w == 0.0)).all())
    if not _has_minimiser(pairs, shared, within=within, straight=not bool(offset.any())):
        return None
    z = torch.zeros(y.shape[:-1], dtype=torch.float64, device=y.device)
    stiffness = 1.0 if shared is None else max(1.0, 1.0 / beta)
    for _ in range(MAX_STEPS):
        m = z[..., :, None] - z[..., None, :]
        won, lost = torch.sigmoid(offset - m), torch.sigmoid(offset + m)
        gradient = (w * (y.mT * lost - y * won)).sum(-1)
        curvature = w * (y * won * torch.sigmoid(m - offset) + y.mT * lost * torch.sigmoid(-m - offset))
        if shared is not None:
            assert log_base is not None
            policy = torch.softmax(log_base + z / beta, -1)
            gradient = gradient + nats / beta * (policy - shared)
            curvature = curvature + nats / beta**2 * policy[..., :, None] * policy[..., None, :]
        step = _solve_laplacian(curvature, gradient)
        if step is None:
            return None
        far = stiffness * (step.amax(-1) - step.amin(-1))
        done = (gradient.norm(dim=-1) < TOLERANCE) & (far < 1e-6)
        if bool(done.all()):
            return (z - step) / beta if within or _is_curved(curvature) else None
        damping = torch.where(far > 0.0, far.log1p() / far.clamp(min=1e-300), 1.0)
        z = z - damping[..., None] * step
        if not bool((z.abs() < MAX_MARGIN).all()):  # NaN as well
            return None
    return None


def _is_curved(links: Tensor) -> bool:
    """Return whether a loss of these second derivatives, weights of pairs summing to 1, is curved all round.

    Where it falls for ever towards a limit, slopes vanish in rounding only where the curvature has too.
    """
    links = links - torch.diag_embed(links.diagonal(dim1=-2, dim2=-1))
    curvatures = torch.linalg.eigvalsh(torch.diag_embed(links.sum(-1)) - links)
    return bool((curvatures[..., 1] > 1e-10).all())  # the lowest is that of adding a constant


def _solve_laplacian(links: Tensor, right: Tensor) -> Tensor | None:
    """Return x [B, K] of mean 0 with sum_j links_ij (x_i - x_j) = right_i; None if that is no equation.

    Args:
        links: [B, K, K] symmetric; the diagonal does not count.
        right: [B, K] of sum 0.
    """
    links = links - torch.diag_embed(links.diagonal(dim1=-2, dim2=-1))
    degree = links.sum(-1)
    # Whatever is added in the direction of ones changes no answer of mean 0.
    ground = degree.mean(-1)[..., None, None] / links.shape[-1]
    solved, wrong = torch.linalg.solve_ex(torch.diag_embed(degree) - links + ground, right[..., None])
    if bool((wrong != 0).any()):
        return None
    x: Tensor = solved[..., 0]
    return x - x.mean(-1, keepdim=True)


def _has_minimiser(pairs: _Pairs, chosen: Tensor | None, *, within: bool, straight: bool) -> bool:
    """Return whether every logistic loss of a batch can have a minimiser.

    For labels from 0 to 1 it has one if and only if, from each option, each other is reached by going from
    those that lose to those that win at times (Ford 1957, American Mathematical Monthly 64); with the
    likelihood of the chosen beside it, if every option is chosen at times. Labels beyond that (not
    ``within``) are left to the search, which settles on no curved place where a loss falls for ever; with
    offsets (not ``straight``) the loss is not convex then.
    """
    if not within and not straight:
        return False
    if within and chosen is not None and bool((chosen > 0.0).all()):
        return True
    if not _connected(pairs.weights > 0.0):
        return False
    return not within or _connected((pairs.labels > 0.0) & (pairs.weights > 0.0))


def _connected(edges: Tensor) -> bool:
    """Return whether each option leads to each other along edges [B, K, K]."""
    k = edges.shape[-1]
    identity = torch.eye(k, dtype=torch.float64, device=edges.device)
    reached = (edges.double() + identity > 0.0).double()
    for _ in range(max(1, k.bit_length())):
        reached = (reached @ reached > 0.0).double()
    return bool((reached > 0.0).all())


def _check_matrix(preference_matrix: Tensor | ArrayLike) -> Tensor:
    matrix = torch.as_tensor(preference_matrix, dtype=torch.float64)
    if matrix.ndim < 2 or matrix.shape[-1] != matrix.shape[-2] or matrix.shape[-1] < 2:
        raise ValueError(
            f"preference_matrix has shape {list(matrix.shape)}; it must be [..., K, K], K at least 2"
        )
    if not bool(torch.isfinite(matrix).all()):
        raise ValueError("preference_matrix holds NaN or infinity")
    apart = ~torch.eye(matrix.shape[-1], dtype=torch.bool, device=matrix.device)
    if not bool((((matrix + matrix.mT - 1.0).abs() < 1e-9) | ~apart).all()):
        raise ValueError("preference_matrix must hold probabilities of both sides: entries (i, j) and (j, i) "
                         "sum to 1")  # fmt: skip
    # What is compared with itself ties.
    return torch.where(apart, matrix, 0.5)


def _check_policy(name: str, policy: Tensor | ArrayLike, matrix: Tensor) -> Tensor:
    table = torch.as_tensor(policy, dtype=torch.float64).to(matrix.device)
    if table.ndim < 1 or table.shape[-1] != matrix.shape[-1]:
        raise ValueError(f"{name} has shape {list(table.shape)}; it must end in [K] = [{matrix.shape[-1]}]")
    total = table.sum(-1, keepdim=True)
    if not bool((table > 0.0).all()) or not bool(((total - 1.0).abs() < 1e-6).all()):
        raise ValueError(f"{name} must hold probabilities: all above 0, and summing to 1")
    return table / total  # float32 will do


def _check_weights(weights: Tensor | ArrayLike | None, matrix: Tensor) -> Tensor:
    """Return weights [..., K, K] of both orders of a pair together, summing to 1 over pairs."""
    k = matrix.shape[-1]
    apart = 1.0 - torch.eye(k, dtype=torch.float64, device=matrix.device)
    if weights is None:
        return 2.0 * apart / (k * (k - 1))
    table = torch.as_tensor(weights, dtype=torch.float64).to(matrix.device)
    if table.ndim < 2 or table.shape[-2:] != (k, k):
        raise ValueError(f"weights have shape {list(table.shape)}; they must end in [K, K] = [{k}, {k}]")
    both = (table + table.mT) * apart
    total = both.sum((-2, -1), keepdim=True)
    if not bool(((table >= 0.0) & torch.isfinite(table)).all()) or not bool((total > 0.0).all()):
        raise ValueError("weights must be finite and not negative, and not all 0 off the diagonal")
    return 2.0 * both / total


def _common_lead(matrix: Tensor, base: Tensor, now: Tensor, share: Tensor) -> tuple[int, ...]:
    """Return the leading axes of all together; ValueError if they do not go together."""
    leads = {"preference_matrix": matrix.shape[:-2], "reference": base.shape[:-1], "current": now.shape[:-1],
             "weights": share.shape[:-2]}  # fmt: skip
    try:
        return tuple(np.broadcast_shapes(*(tuple(lead) for lead in leads.values())))
    except ValueError:
        shown = ", ".join(f"{name} {list(lead)}" for name, lead in leads.items())
        raise ValueError(f"leading axes do not go together: {shown}") from None


def _check_eta(eta: float | None, beta: float) -> float:
    if eta is None or not math.isfinite(eta) or eta < beta:
        raise ValueError(f"eta is {eta!r}; it must be a number not below beta, {beta}")
    return float(eta)


def _positive(name: str, value: float) -> float:
    if not (math.isfinite(value) and value > 0.0):
        raise ValueError(f"{name} is {value!r}; it must be finite and above 0")
    return float(value)


def _within(name: str, value: float, low: float, high: float) -> float:
    """Return a number in [low, high); ValueError otherwise."""
    if not low <= value < high:
        raise ValueError(f"{name} is {value!r}; it must lie in [{low:g}, {high:g})")
    return float(value)
