"""Steps of mirror descent over dual prices (Balseiro, Lu, Mirrokni 2023, Operations Research 71(1), eq. 2).

With a subgradient g of the dual at mu and a reference function h with Bregman divergence V_h the next prices
are

    mu+ = argmin_{mu' >= 0} <g, mu'> + V_h(mu', mu) / eta

which each function below gives in closed form for one h. All take arrays [..., m] of numpy or torch: a
service that decides one request at a time needs NumPy's speed on small arrays.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = TypeVar("Array", Tensor, NDArray[np.float64])


def unit_free_steps(squares: Array, reference: str) -> Array:
    """Return step sizes for prices in units of reward per budget, y = rho mu / f, as AdaGrad has them.

    With S_j the sum of (g_j / rho_j)^2 so far: 1 / (5 sqrt(m (1 + S_j))), ``scaled_euclidean`` one for all of
    1 / (5 sqrt(1 + sum_j S_j)); ``entropy`` 1 / (2 sqrt(1 + S_j)), ``projected_entropy`` 1 / (2 sqrt(1 +
    max_j S_j)). Nothing here has a unit (McMahan, Streeter 2010; Duchi, Hazan, Singer 2011). At the optimum y
    sums to at most 1, with f the mean of the most that requests could pay: rho . mu* <= D(mu*) <= D(0) = f
    for the dual D of one request. The 1 beside S_j stands for a gradient of the size of rho before the first;
    1 / 5 and 1 / 2 are ours, tuned on the environments of ``prefrl.envs.allocation``.

    Args:
        squares: sums S_j [..., m].
        reference: name of the reference function.

    Returns:
        [..., m], or [..., 1].
    """
    if reference == "euclidean":
        steps: Array = 0.2 / (squares.shape[-1] * (1.0 + squares)) ** 0.5
    elif reference == "scaled_euclidean":
        steps = 0.2 / (1.0 + _total(squares)) ** 0.5
    else:
        steps = 0.5 / (1.0 + (squares if reference == "entropy" else _maximum(squares))) ** 0.5
    return steps


def euclidean_step(mu: Array, gradient: Array, step_size: float) -> Array:
    """Return max(mu - eta g, 0), for h = sum_j mu_j^2 / 2: projected subgradient descent.

    Args:
        mu: prices [..., m].
        gradient: subgradient g [..., m].
        step_size: eta.
    """
    return _positive(mu - step_size * gradient)


def scaled_euclidean_step(mu: Array, gradient: Array, step_size: float, rho: Array) -> Array:
    """Return max(mu - eta g / rho^2, 0), for h = sum_j (rho_j mu_j)^2 / 2.

    Args:
        mu: prices [..., m].
        gradient: subgradient g [..., m].
        step_size: eta.
        rho: budget per request [m].
    """
    return _positive(mu - step_size * (gradient / (rho * rho)))


def entropy_step(mu: Array, gradient: Array, step_size: float) -> Array:
    """Return mu exp(-eta g), for h = sum_j mu_j log mu_j: multiplicative weights; prices stay positive.

    Args:
        mu: positive prices [..., m].
        gradient: subgradient g [..., m].
        step_size: eta.
    """
    return mu * _exp(-step_size * gradient)


def projected_entropy_step(
    mu: Array, gradient: Array, step_size: float, rho: Array, reward_bound: float
) -> Array:
    """Return y / rho with y = rho mu exp(-eta g / rho), scaled down to sum to at most f-bar.

    The step for h = sum_j y_j log y_j with y = rho mu, over {mu >= 0: sum_j y_j <= f-bar}, which holds the
    optimal prices: rho . mu* <= D(mu*) <= D(0) <= f-bar for the dual D of one request.

    Args:
        mu: positive prices [..., m].
        gradient: subgradient g [..., m].
        step_size: eta.
        rho: budget per request [m].
        reward_bound: f-bar.
    """
    exponent = -step_size * (gradient / rho)
    top = _maximum(exponent)  # taken out, so that nothing overflows
    y = rho * mu * _exp(exponent - top)
    return y * _smaller(_exp(top), reward_bound / _total(y)) / rho


def fairness_projection(mu: Tensor, weight: float, rho: Tensor) -> Tensor:
    """Return the point nearest to mu with sum_j rho_j max(-mu_j, 0) <= weight.

    With the regulariser r(a) = weight min_j a_j / rho_j (max-min fairness of consumption; Balseiro, Lu,
    Mirrokni 2021, arXiv 2007.00514) prices may be negative: sup_{a <= rho} r(a) + mu . a is finite, and
    attained at a = rho, exactly for mu in this set. The negative parts become max(-mu_j - theta rho_j, 0),
    with theta from sorting, as in the projection on a simplex (Held, Wolfe, Crowder 1974).

    Args:
        mu: points [..., m].
        weight: bound, not negative.
        rho: positive weights [..., m].
    """
    negative = (-mu).clamp(min=0.0)
    order = (negative / rho).argsort(-1, descending=True)
    weights = rho.expand_as(mu).gather(-1, order)
    parts = (weights * negative.gather(-1, order)).cumsum(-1)
    theta = ((parts - weight) / weights.square().cumsum(-1)).amax(-1, keepdim=True).clamp(min=0.0)
    return torch.where(mu < 0.0, -(negative - theta * rho).clamp(min=0.0), mu)


def _positive(values: Array) -> Array:
    return values.clamp_min(0.0) if isinstance(values, Tensor) else np.maximum(values, 0.0)


def _exp(values: Array) -> Array:
    return values.exp() if isinstance(values, Tensor) else np.exp(values)


def _maximum(values: Array) -> Array:
    """Return the largest along the last axis, kept as one of length 1."""
    if isinstance(values, Tensor):
        return values.amax(-1, keepdim=True)
    return np.asarray(np.maximum.reduce(values, -1, keepdims=True))


def _total(values: Array) -> Array:
    """Return the sum along the last axis, kept as one of length 1."""
    if isinstance(values, Tensor):
        return values.sum(-1, keepdim=True)
    return np.asarray(np.add.reduce(values, -1, keepdims=True))


def _smaller(left: Array, right: Array) -> Array:
    return left.minimum(right) if isinstance(left, Tensor) else np.minimum(left, right)


def horizon_window_rates(budget: float, earliest: int, latest: int) -> NDArray[np.float64]:
    """Return target rates [latest] for a horizon that may end anywhere from ``earliest`` to ``latest``.

    rate_t = kappa budget / max(t, earliest), with kappa such that they sum to the budget: about
    1 / (1 + log(latest / earliest)). Target rates that change with time are an idea of Balseiro, Kroer and
    Kumar ("Online resource allocation under horizon uncertainty", arXiv 2206.13606); this sequence is ours.
    Whatever the horizon T, the fluid value of these rates is at least kappa times that of spending evenly
    until T: at every t <= T the rate is at least kappa budget / T, and the value of a request is concave in
    its rate, and 0 at 0.

    Raises:
        ValueError: unless 1 <= earliest <= latest.
    """
    if not 1 <= earliest <= latest:
        raise ValueError(f"earliest is {earliest} and latest {latest}; 1 <= earliest <= latest must hold")
    shape = 1.0 / np.maximum(np.arange(1, latest + 1), earliest)
    return np.asarray(budget * shape / shape.sum())
