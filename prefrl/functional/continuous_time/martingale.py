"""Policy evaluation in continuous time by martingales (Jia and Zhou 2022, JMLR 23(154):1-55).

J is the value function iff J(T, .) = h and M_t = e^{-beta t} J(t, X_t) + int_0^t e^{-beta s} r_s ds is a
martingale, that is iff E int xi_t dM_t = 0 for every test process xi that looks at the past only. In discrete
time its increment, up to the factor e^{-beta t} that xi may absorb, is the temporal difference

    delta_k = J(t_{k+1}, X_{k+1}) - J(t_k, X_k) + (r_k - beta J(t_k, X_k)) dt                     (increments)

With an average reward V in the place of discounting, r_k - V stands for r_k. Time is the first axis: paths of
K steps have values [K + 1, ...] and reward rates [K, ...]; an entropy that is to count is part of the rate.
In the last row of values stands h(X_T) where there is a horizon.

delta is noise of order sqrt(dt) around a mean of order dt: sums of xi delta have a limit as dt -> 0 and step
sizes on them are per unit of time, but sums of delta^2 tend to the quadratic variation of M, which says how
rough J is along a path and not how wrong (:func:`mean_square_td_error`).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


def increments(
    values: Tensor, reward_rates: Tensor, dt: float, beta: float = 0.0, average_reward: Tensor | float = 0.0
) -> Tensor:
    """Return temporal differences delta [K, ...] of values [K + 1, ...] and reward rates [K, ...]."""
    now = values[:-1]
    return values[1:] - now + (reward_rates - average_reward - beta * now) * dt


def discounted_increments(values: Tensor, reward_rates: Tensor, dt: float, beta: float = 0.0) -> Tensor:
    """Return dM_k = e^{-beta t_{k+1}} J_{k+1} - e^{-beta t_k} J_k + e^{-beta t_k} r_k dt, [K, ...]."""
    factor = _discounts(values, dt, beta)
    return factor[1:] * values[1:] - factor[:-1] * (values[:-1] - reward_rates * dt)


def _discounts(like: Tensor, dt: float, beta: float) -> Tensor:
    """Return e^{-beta t_k}, [K + 1, 1, ...]."""
    k = torch.arange(len(like), dtype=like.dtype, device=like.device)
    return torch.exp(-beta * dt * k).view(-1, *(1,) * (like.ndim - 1))


def martingale_loss(
    values: Tensor, reward_rates: Tensor, dt: float, beta: float = 0.0, *, weight: float = 1.0
) -> Tensor:
    """Return 1/2 sum_k e^{2 (1 - weight) beta t_k} (M_K - M_k)^2 dt of each path [...].

    The regression of J on what a path earns from t on; its minimiser is the best approximation of the true
    J in L2. Differentiate it with ``values[-1]`` fixed: there h stands, or an estimate of what comes after.

    Args:
        values: [K + 1, ...].
        reward_rates: [K, ...].
        dt: time between two steps.
        beta: discount rate.
        weight: 1 compares values as seen from time 0, as the paper does; 0 as seen from t, where errors late
            in a path count as much as early ones.
    """
    steps = discounted_increments(values, reward_rates, dt, beta)
    to_come = steps.flip(0).cumsum(0).flip(0)
    scale = _discounts(values, dt, -(1.0 - weight) * beta)[:-1]
    return 0.5 * (scale * to_come).square().sum(0) * dt


def mean_square_td_error(values: Tensor, reward_rates: Tensor, dt: float, beta: float = 0.0) -> Tensor:
    """Return 1/(2 dt) sum_k delta_k^2 of each path [...]: the WRONG objective, for comparison.

    dt times it tends to half the quadratic variation of M, 1/2 int |sigma' dJ/dx|^2 dt: its minimiser is the
    smoothest J that meets the end condition, not the value function, unless nothing is random.
    """
    return increments(values, reward_rates, dt, beta).square().sum(0) / (2.0 * dt)


def trace_step(trace: Tensor, gradients: Tensor, lam: float, dt: float) -> Tensor:
    """Return xi_k = lam^dt xi_{k-1} + dJ_k dt, the test process of CTD(lam); lam is per unit of time.

    For lam = 0 it is the gradient itself, without dt, as in CTD(0) (the
    recursion is that of JMLR 23(275), footnote 5).
    """
    return gradients if lam == 0.0 else lam**dt * trace + gradients * dt


def traces(gradients: Tensor, lam: float, dt: float) -> Tensor:
    """Return test processes xi [K, ..., P] of gradients dJ/dtheta [K, ..., P] at the starts of steps."""
    trace = torch.zeros_like(gradients[0])
    result = []
    for gradient in gradients:
        trace = trace_step(trace, gradient, lam, dt)
        result.append(trace)
    return torch.stack(result)


def orthogonality(tests: Tensor, deltas: Tensor) -> Tensor:
    """Return E sum_k xi_k delta_k [P] of tests [K, n, P] and increments [K, n]; it is 0 at the solution.

    It is also the direction of CTD: theta += alpha times it.
    """
    return deltas.reshape(-1) @ tests.reshape(-1, tests.shape[-1]) / deltas.shape[1]


class LinearSystem(NamedTuple):
    """Moments of the equation A theta = c, which least squares and other methods solve."""

    A: Tensor
    """[P, P] E int xi (beta phi dt - dphi)'."""
    c: Tensor
    """[P] E int xi (r dt + dJ_0 - beta J_0 dt), J_0 the part of J that does not depend on theta."""

    def solve(self, ridge: float = 1e-8) -> Tensor:
        """Return theta [P], with ``ridge`` times the mean of A's diagonal added to it; does not wait."""
        damping = ridge * self.A.diagonal().abs().mean()
        eye = torch.eye(len(self.c), dtype=self.A.dtype, device=self.A.device)
        solution: Tensor = torch.linalg.solve_ex(self.A + damping * eye, self.c)[0]
        return solution


def clstd(
    features: Tensor,
    reward_rates: Tensor,
    dt: float,
    beta: float = 0.0,
    *,
    lam: float = 0.0,
    known: Tensor | None = None,
    ergodic: bool = False,
    ridge: float = 1e-8,
) -> Tensor:
    """Return theta [P] of J = J_0 + theta . phi for which E int xi dM = 0 on the paths given.

    Args:
        features: phi [K + 1, n, P].
        reward_rates: [K, n].
        dt: time between two steps.
        beta: discount rate.
        lam: of the test process, per unit of time; 0: xi = phi.
        known: J_0 [K + 1, n], the part without parameters; None: none.
        ergodic: solve for the average reward V as well, with the test process 1; it is the last of the P + 1
            numbers returned.
        ridge: see :class:`LinearSystem`.
    """
    tests, rewards = traces(features[:-1], lam, dt), reward_rates * dt
    if known is not None:
        rewards = rewards + known[1:] - (1.0 + beta * dt) * known[:-1]
    change = (1.0 + beta * dt) * features[:-1] - features[1:]
    if ergodic:
        tests = torch.cat([tests, torch.ones_like(tests[..., :1])], -1)
        change = torch.cat([change, torch.full_like(change[..., :1], dt)], -1)
    n = reward_rates.shape[1]
    A = torch.einsum("knp,knq->pq", tests, change) / n
    c = torch.einsum("knp,kn->p", tests, rewards) / n
    return LinearSystem(A, c).solve(ridge)


class GradientTD(NamedTuple):
    """Directions of a two-timescale step on 1/2 |E int xi dM|^2: theta += a d_theta, u += b d_u."""

    d_theta: Tensor
    """[P]."""
    d_u: Tensor
    """[P] of the auxiliary weights."""


def gtd2_step(
    u: Tensor,
    tests: Tensor,
    deltas: Tensor,
    features: Tensor,
    next_features: Tensor,
    dt: float,
    beta: float = 0.0,
) -> GradientTD:
    """Return the step of GTD2 for a J linear in theta, means over n rows (JMLR 23(275), section 3.1).

    u estimates W E int xi dM for W = (E int xi xi' dt)^{-1}; then -d(delta)/d(theta) (xi . u) descends.

    Args:
        u: [P] auxiliary weights.
        tests: [n, P] xi.
        deltas: [n].
        features: [n, P] phi.
        next_features: [n, P] phi', 0 where the path ends.
        dt: time between two steps.
        beta: discount rate.
    """
    n = len(tests)
    projection = tests @ u
    slope = next_features - (1.0 + beta * dt) * features
    return GradientTD(-(projection @ slope) / n, (deltas - projection * dt) @ tests / n)


def tdc_step(
    u: Tensor,
    tests: Tensor,
    deltas: Tensor,
    features: Tensor,
    next_features: Tensor,
    dt: float,
    beta: float = 0.0,
) -> GradientTD:
    """Return the step of TDC, CTD(lam) with a correction; arguments as for :func:`gtd2_step`.

    With u settled, E xi xi' dt u = E xi delta, so that -E d(delta)/d(theta) xi'u = E xi delta - E (d(delta)/
    d(theta) + xi dt) (xi . u): the mean direction of GTD2, with a part that does not wait for u. The usual
    form has w = u dt in the place of u, and then the mean direction is of order dt^2.
    """
    n = len(tests)
    projection = tests @ u
    slope = next_features - (1.0 + beta * dt) * features + tests * dt
    direction = (deltas @ tests - projection @ slope) / n
    return GradientTD(direction, (deltas - projection * dt) @ tests / n)
