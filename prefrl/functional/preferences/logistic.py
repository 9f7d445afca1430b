"""Logistic regression without intercept, many fits at once, by Newton's method."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .preferences import preference_cross_entropy, weighted_mean


def logistic_regression(
    inputs: Tensor, labels: Tensor, weights: Tensor, *, ridge: float = 0.0, max_iterations: int = 200,
    tolerance: float = 1e-13,
) -> Tensor:  # fmt: skip
    """Minimise mean cross-entropy + ridge / 2 |w|^2 of logistic(inputs . w) for B independent fits.

    Damped Newton steps: a step that does not lower a fit's loss is halved. Without ridge the minimum of
    separable data lies at infinity and directions the inputs never move in are undetermined; a small ridge
    picks, in the limit, the widest margin and 0.

    Args:
        inputs: [B, N, k].
        labels: [B, N] real numbers (0.5 is a tie).
        weights: [B, N] not negative; 0 for padding.
        ridge: strength of the penalty.
        max_iterations: Newton steps at most.
        tolerance: a fit is done when a Newton step promises to lower its loss by no more than this.

    Returns:
        [B, k].

    Raises:
        ValueError: if the shapes do not fit or ridge is negative.
    """
    if inputs.ndim != 3 or inputs.shape[:2] != labels.shape or labels.shape != weights.shape:
        raise ValueError(f"inputs {tuple(inputs.shape)}, labels {tuple(labels.shape)} and weights "
                         f"{tuple(weights.shape)} must be [B, N, k], [B, N] and [B, N]")  # fmt: skip
    if not ridge >= 0:
        raise ValueError(f"ridge is {ridge}; it must not be negative")
    share = weights / weights.sum(-1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)
    identity = torch.eye(inputs.shape[-1], dtype=inputs.dtype, device=inputs.device)
    # Keeps the Newton system regular where the data leave a direction undetermined.
    size = (share[..., None] * inputs.square()).sum((1, 2))
    jitter = (1e-14 * size).clamp(min=torch.finfo(inputs.dtype).tiny)[:, None, None] * identity

    def loss_at(w: Tensor) -> Tensor:
        logit = torch.einsum("bnk,bk->bn", inputs, w)
        entropy = weighted_mean(preference_cross_entropy(logit, labels), share)
        return entropy + 0.5 * ridge * w.square().sum(-1)

    def newton_at(w: Tensor) -> tuple[Tensor, Tensor]:
        p = torch.sigmoid(torch.einsum("bnk,bk->bn", inputs, w))
        gradient = torch.einsum("bn,bnk->bk", share * (p - labels), inputs) + ridge * w
        curvature = torch.einsum("bn,bnk,bnl->bkl", share * p * (1.0 - p), inputs, inputs)
        return gradient, curvature + ridge * identity + jitter

    start = inputs.new_zeros(inputs.shape[0], inputs.shape[-1])
    return damped_newton(start, loss_at, newton_at, max_iterations=max_iterations, tolerance=tolerance)


SURE_STRETCH = 1.5
"""A full Newton step of a logistic likelihood that moves no log-odds by more than t changes it by at most
(psi(t) / 2 - 1) of the squared decrement, psi(t) = 2 (e^t - t - 1) / t^2 (Bach 2010, self-concordance of the
logistic loss): psi(1.5) is 1.76, so that it lowers the loss, whatever else; psi is 2 at 1.79."""


def damped_newton(
    start: Tensor, loss_at: Callable[[Tensor], Tensor],
    newton_at: Callable[[Tensor], tuple[Tensor, Tensor]], *, max_iterations: int = 200,
    tolerance: float = 1e-13, stretch: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:  # fmt: skip
    """Minimise B convex functions by Newton steps; one that does not lower a fit's loss is halved.

    Args:
        start: [B, k].
        loss_at: returns the losses [B] there.
        newton_at: returns gradients [B, k] and regular matrices of second derivatives [B, k, k].
        max_iterations: Newton steps at most.
        tolerance: a fit is done when a Newton step promises to lower its loss by no more than this.
        stretch: of logistic likelihoods, the most [B] by which steps [B, k] move a log-odds: short steps
            are sure to lower the loss (see :data:`SURE_STRETCH`), which saves looking at it.

    Returns:
        [B, k].
    """
    fit: Tensor = start
    loss: Tensor | None = None
    for _ in range(max_iterations):
        gradient, curvature = newton_at(fit)
        factor, wrong = torch.linalg.cholesky_ex(curvature)
        step = torch.cholesky_solve(gradient[..., None], factor)[..., 0]
        if bool(wrong.any()):  # curved all round but for rounding
            step = torch.linalg.solve(curvature, gradient[..., None])[..., 0]
        decrement = 0.5 * (gradient * step).sum(-1)  # what a full step promises to gain
        if not bool((decrement > tolerance).any()):
            # The last step gains nothing that a loss can tell, but so near it squares the distance that is
            # left, and it has been paid for.
            return torch.where(step.isfinite().all(-1, keepdim=True), fit - step, fit)
        step = torch.where((decrement > tolerance)[:, None], step, 0.0)
        if stretch is not None and bool((stretch(step) <= SURE_STRETCH).all()):
            fit, loss = fit - step, None
            continue
        loss = loss_at(fit) if loss is None else loss
        length = torch.ones_like(loss)
        for _ in range(40):
            candidate = fit - length[:, None] * step
            lower = loss_at(candidate)
            worse = ~(lower <= loss)  # NaN is no improvement
            if not bool(worse.any()):
                break
            length = torch.where(worse, 0.5 * length, length)
        fit = torch.where(worse[:, None], fit, candidate)
        loss = torch.where(worse, loss, lower)
    return fit
