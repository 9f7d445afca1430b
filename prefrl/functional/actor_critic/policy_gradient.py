"""Advantages along trajectories, and the surrogate that proximal policy optimisation climbs."""

from __future__ import annotations

import torch
from torch import Tensor


def generalized_advantages(
    rewards: Tensor, values: Tensor, next_values: Tensor, terminations: Tensor, truncations: Tensor,
    gamma: float | Tensor, gae_lambda: float,
) -> Tensor:  # fmt: skip
    """Return generalised advantage estimates (Schulman et al. 2016, arXiv 1506.02438, equation 16).

        delta_t = r_t + gamma (1 - terminal) V(s_{t+1}) - V(s_t),
        A_t = delta_t + gamma lambda (1 - ended) A_{t+1}

    A time limit ends the sum and keeps the bootstrap: V(s_{t+1}) is that of the true successor. After the
    last row nothing is known, and the sum ends there too.

    Args:
        rewards: [T, n].
        values: [T, n] of the observations.
        next_values: [T, n] of the observations that followed, before any restart.
        terminations: [T, n] bool.
        truncations: [T, n] bool; also True where the record is cut.
        gamma: discount per step, or one per column [n].
        gae_lambda: in [0, 1].

    Returns:
        [T, n].
    """
    advantages = rewards + gamma * (next_values * ~terminations) - values
    decay = (gamma * gae_lambda) * ~(terminations | truncations)
    rows, decays = advantages.unbind(0), decay.unbind(0)
    for t in range(len(rows) - 2, -1, -1):
        rows[t].addcmul_(decays[t], rows[t + 1])
    return advantages


def clipped_surrogate(ratio: Tensor, advantages: Tensor, clip_range: float | Tensor) -> tuple[Tensor, Tensor]:
    """Return min(rho A, clip(rho, 1 - eps, 1 + eps) A), and where it still moves with rho.

    (Schulman et al. 2017, arXiv 1707.06347, equation 7; its gradient in log pi is rho A there, else 0.)

    Args:
        ratio: [...] rho = pi(a | s) / pi_old(a | s).
        advantages: [...] A.
        clip_range: eps, a number or [].

    Returns:
        [...] the objective, to be raised, and [...] bool.
    """
    plain = ratio * advantages
    clipped = ratio.clamp(1.0 - clip_range, 1.0 + clip_range) * advantages  # type: ignore[arg-type]
    return torch.minimum(plain, clipped), plain <= clipped


def squared_errors(
    values: Tensor, returns: Tensor, old_values: Tensor, clip_range: float | None
) -> tuple[Tensor, Tensor]:
    """Return (V - R)^2 and its gradient in V.

    With a clip range it is V_old + clip(V - V_old, -c, c) whose error is squared, as in Stable-Baselines3;
    the gradient is then 0 beyond it.

    Args:
        values: [...] V.
        returns: [...] R.
        old_values: [...] V_old, of before the gradient steps.
        clip_range: c; None: no clipping.
    """
    if clip_range is None:
        errors = values - returns
        return errors.square(), 2.0 * errors
    moved = values - old_values
    errors = old_values + moved.clamp(-clip_range, clip_range) - returns
    return errors.square(), 2.0 * errors * (moved.abs() <= clip_range)


def discounted_sums(rewards: Tensor, ended: Tensor, before: Tensor, gamma: float | Tensor) -> Tensor:
    """Return G_t = r_t + gamma G_{t-1}, over rewards since the episode's start.

    Args:
        rewards: [T, n].
        ended: [T, n] bool; G starts anew after such a row.
        before: [n] G of the row before the first; 0 at a start.
        gamma: discount per step, or one per column [n].

    Returns:
        [T, n].
    """
    sums, decay = rewards.clone(), gamma * ~ended
    rows, decays = sums.unbind(0), decay.unbind(0)
    rows[0].add_(gamma * before)
    for t in range(1, len(rows)):
        rows[t].addcmul_(decays[t - 1], rows[t - 1])
    return sums


def standardized(values: Tensor, weights: Tensor, eps: float = 1e-8) -> Tensor:
    """Return values [..., n] with mean 0 and standard deviation 1 under weights [..., n] that sum to 1.

    ``eps`` is added to the standard deviation.
    """
    centred = values - (values * weights).sum(-1, keepdim=True)
    return centred / ((centred.square() * weights).sum(-1, keepdim=True).sqrt() + eps)


def explained_variance(predictions: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Return 1 - Var(y - f) / Var(y) [...] of predictions f and targets y, both [..., n].

    1 is perfect, 0 as good as a constant, NaN where y does not vary.

    Args:
        predictions: f.
        targets: y.
        weights: [..., n].
    """
    shares = weights / weights.sum(-1, keepdim=True)

    def variance(values: Tensor) -> Tensor:
        centred = values - (values * shares).sum(-1, keepdim=True)
        return (centred.square() * shares).sum(-1)

    spread = variance(targets)
    return torch.where(spread > 0.0, 1.0 - variance(targets - predictions) / spread, torch.nan)
