"""Closed forms of linear-quadratic control with noise that grows with state and action.

    dX = (A X + B a) dt + sum_j (C_j X + D_j a + s_j) dW_j
    r = -(1/2 x'Mx + a'Rx + 1/2 a'Na + P'x + Q'a)

A linear Gaussian policy N(f1 x + f2, v) has the value J(x) = 1/2 x'k2 x + k1'x + k0 (or, for beta = 0, an
average reward V in the place of k0), and the best one follows from a Riccati equation (Jia and Zhou 2022,
JMLR 23(275); matrices as in Yong and Zhou, "Stochastic controls", 1999).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prefrl.envs.core.backend import Array

Floats = NDArray[np.float64]

NEWTON_STEPS, CONTINUATION_STEPS = 100, 200
"""Most policy improvements, and most reductions of the discount rate on the way to a first stable policy."""

SEARCHES = ((1e-6, 0.1), (1e-6, 0.02), (1e-9, 0.02), (1e-3, 0.02))
"""Costs of actions, against 1 of states, and shares of the rate, in searches for a first stable policy."""

MARGIN = 1e-9
"""A closed loop must be stable by this much."""


class LinearPolicy:
    """Actions a ~ N(f1 x + f2, v) at state x.

    Args:
        f1: [m, d], or a number for m = d = 1.
        f2: [m], or a number for m = 1.
        v: [m, m] covariance, positive semidefinite; or [m] variances, or a number for m = 1.

    Raises:
        ValueError: for shapes that do not fit, or a v that is no covariance.
    """

    def __init__(self, f1: Any, f2: Any, v: Any = 0.0) -> None:
        self.f1: Floats = np.atleast_2d(np.asarray(f1, dtype=np.float64))
        m = len(self.f1)
        self.f2: Floats = np.atleast_1d(np.asarray(f2, dtype=np.float64))
        v = np.asarray(v, dtype=np.float64)
        self.v: Floats = v if v.ndim == 2 else np.diag(np.atleast_1d(v))
        if self.f2.shape != (m,) or self.v.shape != (m, m):
            raise ValueError(f"f1 has shape {self.f1.shape}, f2 {self.f2.shape} and v {self.v.shape}; they "
                             "must be [m, d], [m] and [m, m]")  # fmt: skip
        if not all(np.isfinite(part).all() for part in (self.f1, self.f2, self.v)):
            raise ValueError(f"f1, f2 and v are {f1}, {f2} and {v}; they must be finite")
        values, vectors = np.linalg.eigh((self.v + self.v.T) / 2.0)
        if not np.allclose(self.v, self.v.T) or values[0] < -1e-12:
            raise ValueError(f"v is {v}; a covariance is symmetric and positive semidefinite")
        self.root: Floats = vectors * np.sqrt(values.clip(min=0.0))
        """[m, m] with root root' = v."""
        self._placed: dict[Any, Any] = {}

    def __call__(self, t: Any, x: Array, z: Array) -> Array:
        """Return actions [n, m] at states x [n, d] for standard normal z [n, m]."""
        f1, f2, root = self._like(x)
        return x @ f1.T + f2 + z @ root.T

    def _like(self, x: Array) -> tuple[Array, Array, Array]:
        """Return f1, f2 and the root of v as arrays of the kind of x."""
        own = (self.f1, self.f2, self.root)
        if not hasattr(x, "new_tensor"):
            return own
        place = (x.dtype, x.device)
        if place not in self._placed:
            # a single number is made on the device: copied, it counts as a look at a value under fake tensors
            self._placed[place] = tuple(
                x.new_tensor(values) if values.size > 1 else x.new_full(values.shape, float(values.flat[0]))
                for values in own
            )
        found: tuple[Array, Array, Array] = self._placed[place]
        return found

    def entropy(self, t: Any) -> float:
        """Return the entropy, 1/2 log det(2 pi e v), the same at all times; -inf for a singular v."""
        sign, logdet = np.linalg.slogdet(2.0 * math.pi * math.e * self.v)
        return 0.5 * float(logdet) if sign > 0.0 else -math.inf


@dataclass(frozen=True)
class LinearQuadraticValue:
    """J(x) = 1/2 x'k2 x + k1'x + k0; for beta = 0 V is the average reward and k0 is 0."""

    k2: Floats
    """[d, d] symmetric."""
    k1: Floats
    """[d]."""
    k0: float
    V: float | None
    """Average reward; None for beta > 0."""

    def __call__(self, x: Floats) -> Floats:
        """Return J [...] of states [..., d]."""
        return np.asarray(0.5 * np.einsum("...i,ij,...j->...", x, self.k2, x) + x @ self.k1 + self.k0)


@dataclass(frozen=True)
class LinearQuadraticOptimum:
    """The best entropy-regularised policy, and its value with the entropy counted."""

    policy: LinearPolicy
    value: LinearQuadraticValue
    average_reward: float | None
    """Average reward of the policy without its entropy, beta = 0; None for beta > 0."""
    best_average_reward: float | None
    """Average reward of the policy's mean, which is the best there is; None for beta > 0."""


@dataclass(frozen=True)
class LinearQuadratic:
    """The coefficients, as arrays.

    A, M [d, d], B [d, m], C [w, d, d], D [w, d, m], s [w, d], N [m, m],
    R [m, d], P [d], Q [m], M and N symmetric, and the discount rate beta >= 0.
    """

    A: Floats
    B: Floats
    C: Floats
    D: Floats
    s: Floats
    M: Floats
    N: Floats
    R: Floats
    P: Floats
    Q: Floats
    beta: float

    def generator(self, f1: Floats, beta: float) -> Floats:
        """Return the matrix [d d, d d] of k2 -> F'k2 + k2 F + sum_j G_j'k2 G_j - beta k2 under feedback f1.

        F = A + B f1, G_j = C_j + D_j f1. The discounted second moment is finite iff all its eigenvalues have
        negative real parts.
        """
        F, G = self.A + self.B @ f1, self.C + self.D @ f1
        eye = np.eye(len(F))
        matrix = np.kron(F.T, eye) + np.kron(eye, F.T) - beta * np.kron(eye, eye)
        return np.asarray(matrix + sum(np.kron(g.T, g.T) for g in G))

    def least_beta(self, f1: Floats) -> float:
        """Return the rate that beta must exceed for feedback f1: 2 F + sum_j G_j^2 for d = 1."""
        return float(np.linalg.eigvals(self.generator(f1, 0.0)).real.max())

    def quadratic(self, f1: Floats) -> Floats:
        """Return k2 [d, d] of feedback f1."""
        cost = self.M + f1.T @ self.R + self.R.T @ f1 + f1.T @ self.N @ f1
        k2 = np.linalg.solve(self.generator(f1, self.beta), cost.reshape(-1)).reshape(cost.shape)
        return np.asarray((k2 + k2.T) / 2.0)

    def value(self, policy: LinearPolicy, temperature: float = 0.0) -> LinearQuadraticValue:
        """Return the value of a policy; its entropy counts with ``temperature``.

        Raises:
            ValueError: if the policy does not fit, or its discounted second moment is infinite.
        """
        f1, f2, v = policy.f1, policy.f2, policy.v
        if f1.shape != self.R.shape:
            raise ValueError(f"policy has f1 of shape {f1.shape}; this problem takes {self.R.shape}")
        least = self.least_beta(f1)
        if not self.beta > least + MARGIN * max(1.0, abs(least)):
            raise ValueError(f"beta is {self.beta:g}; it must exceed 2A + 2B f1 + (C + D f1)^2 = {least:g} "
                             "under this policy (in matrices: the growth of second moments), or its value is "
                             "infinite")  # fmt: skip
        k2 = self.quadratic(f1)
        F, G, u = self.A + self.B @ f1, self.C + self.D @ f1, self.D @ f2 + self.s
        eye = np.eye(len(F))
        linear = self.R.T @ f2 + f1.T @ self.N @ f2 + self.P + f1.T @ self.Q - k2 @ self.B @ f2
        linear = linear - np.einsum("jab,ac,jc->b", G, k2, u)
        k1 = np.linalg.solve(F.T - self.beta * eye, linear)
        level = k1 @ self.B @ f2 + 0.5 * np.einsum("ja,ab,jb->", u, k2, u) - 0.5 * f2 @ self.N @ f2
        spread = self.N - np.einsum("jam,ab,jbk->mk", self.D, k2, self.D)
        level = float(level - self.Q @ f2 - 0.5 * np.trace(spread @ v))
        if temperature > 0.0:
            if policy.entropy(0.0) == -math.inf:
                raise ValueError(f"v is {v}; a policy without randomness in some direction has no entropy: "
                                 "count none, temperature 0")  # fmt: skip
            level += temperature * policy.entropy(0.0)
        if self.beta == 0.0:
            return LinearQuadraticValue(k2, k1, 0.0, level)
        return LinearQuadraticValue(k2, k1, level / self.beta, None)

    def improved(self, k2: Floats) -> tuple[Floats, Floats]:
        """Return the best feedback [m, d] against k2, and S = N - sum_j D_j'k2 D_j [m, m].

        Raises:
            ValueError: if S is not positive definite: the cost of large actions has no lower bound.
        """
        S = self.N - np.einsum("jam,ab,jbk->mk", self.D, k2, self.D)
        if np.linalg.eigvalsh(S)[0] <= 0.0:
            raise ValueError(f"N - D'k2 D = {S.tolist()} is not positive definite: large actions pay, "
                             "and there is no best policy")  # fmt: skip
        slope = self.B.T @ k2 + np.einsum("jam,ab,jbc->mc", self.D, k2, self.C) - self.R
        return np.linalg.solve(S, slope), S

    def optimum(self, temperature: float = 0.0) -> LinearQuadraticOptimum:
        """Return the best policy, its covariance temperature S^{-1}, by policy iteration.

        (k2 B + k2 D.. - R)'S^{-1}(..) + A'k2 + k2 A + sum_j C_j'k2 C_j - beta k2 - M = 0 has one solution
        whose policy is stable; Newton's method on it, which is policy iteration, converges quadratically
        from any stable policy (Kleinman 1968).

        Raises:
            ValueError: if there is no best policy: none is stable, or N - D'k2 D is not positive definite.
        """
        f1 = self.stable_feedback()
        for _ in range(NEWTON_STEPS):
            k2 = self.quadratic(f1)
            better, S = self.improved(k2)
            change = float(np.abs(better - f1).max())
            f1 = better
            if not self.beta > self.least_beta(f1) + MARGIN:
                raise ValueError(self._unstable())
            if change <= 1e-13 * max(1.0, float(np.abs(f1).max())):
                break
        else:
            raise ValueError(
                "the Riccati equation has no stabilising root: policy iteration does not converge"
            )
        k2 = self.quadratic(f1)
        _, S = self.improved(k2)
        F, G = self.A + self.B @ f1, self.C + self.D @ f1
        constant = self.P + f1.T @ self.Q - np.einsum("jab,ac,jc->b", G, k2, self.s)
        k1 = np.linalg.solve(F.T - self.beta * np.eye(len(F)), constant)
        slope = self.B.T @ k1 + np.einsum("jam,ab,jb->m", self.D, k2, self.s) - self.Q
        f2 = np.linalg.solve(S, slope)
        policy = LinearPolicy(f1, f2, temperature * np.linalg.inv(S))
        plain = self.value(policy).V
        best = self.value(LinearPolicy(f1, f2, np.zeros_like(S))).V
        return LinearQuadraticOptimum(policy, self.value(policy, temperature), plain, best)

    def _unstable(self) -> str:
        return (f"no linear policy was found that keeps the second moments from growing faster than "
                f"beta = {self.beta:g}: the Riccati equation has no stabilising root")  # fmt: skip

    def stable_feedback(self) -> Floats:
        """Return a feedback [m, d] that is stable at rate beta.

        With a high enough rate doing nothing is stable. The best policy at one rate, where actions cost
        next to nothing, is stable at a somewhat lower one, and so on down to beta, if there is a way.

        Raises:
            ValueError: if none is found.
        """
        for cheap, share in SEARCHES:
            found = self._continued(cheap, share)
            if found is not None:
                return found
        if self.R.shape == (1, 1):  # then the most stable one is known
            cross, square = float(self.B.sum() + (self.C * self.D).sum()), float((self.D**2).sum())
            slope = float(self.beta - self.least_beta(np.zeros((1, 1))))
            best = -cross / square if square else (slope - 1.0) / (2.0 * cross) if cross else 0.0
            f1 = np.full((1, 1), best)
            if self.beta > self.least_beta(f1) + MARGIN * max(1.0, abs(best)):
                return f1
        raise ValueError(self._unstable())

    def _continued(self, cheap: float, share: float) -> Floats | None:
        """Return a stable feedback by continuation in the rate; None if it comes to a halt above beta."""
        d, m = self.B.shape
        zero = np.zeros_like
        unit = replace(self, s=zero(self.s), M=np.eye(d), N=cheap * np.eye(m), R=zero(self.R), P=zero(self.P),
                       Q=zero(self.Q))  # fmt: skip
        f1 = zero(self.R)
        least = self.least_beta(f1)
        for _ in range(CONTINUATION_STEPS):
            if self.beta > least + MARGIN * max(1.0, abs(least)):
                return f1
            at_rate = replace(unit, beta=least + share * max(1.0, abs(least)))
            for _ in range(20):
                f1, _ = at_rate.improved(at_rate.quadratic(f1))
            before, least = least, self.least_beta(f1)
            if not least < before - 1e-10 * max(1.0, abs(before)):
                return None
        return None
