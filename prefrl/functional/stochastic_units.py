"""Gradients through units that are drawn: binary ones and noisy rectifiers.

(Bengio, Leonard and Courville 2013, arXiv 1308.3432.) A unit h is 1 with probability sigmoid(a), else 0, and
a loss L depends on it. What to take for d E L / d a:

- REINFORCE: (h - sigmoid(a)) (L - c), right on the average for every c that h does not change, and of the
  least variance for c = E[(h - sigmoid(a))^2 L] / E[(h - sigmoid(a))^2] (:func:`optimal_baseline`). Of a
  single unit both outcomes say the same then, and it is exact.
- straight-through: d L / d h as if it were d L / d a, times the sigmoid's slope or not. With the slope it is
  right on the average where L is linear in h, and else it is not.
- smooth and stochastic: h = b p^s with b drawn with probability p^(1 - s), so that E h = p; the gradient
  goes through the smooth factor. With s = 1/2 it is the paper's, as far as we know it. Where L is linear
  this is s times the gradient, which is why ``rescale`` divides by s.
- noisy rectifier: h = max(0, a + noise), by whose own slope the gradient goes.

The paper's text was not at hand: formulas are derived here, and the exponent is a parameter.
"""

from __future__ import annotations

import torch
from torch import Tensor


def bernoulli(activations: Tensor, uniform: Tensor) -> Tensor:
    """Return units h [...], 1 where a uniform number is below sigmoid(a), else 0; no gradients."""
    return (uniform < torch.sigmoid(activations.detach())).to(activations.dtype)


def optimal_baseline(activations: Tensor, units: Tensor, losses: Tensor) -> Tensor:
    """Return c = E[(h - sigmoid(a))^2 L] / E[(h - sigmoid(a))^2] of each unit, over draws.

    Taken over the draws that it is subtracted from, it makes their estimate lean by about one part in N.

    Args:
        activations: [N, ...] or [...] a.
        units: [N, ...] h.
        losses: [N] L, or [N, ...].

    Returns:
        [...]; 0 where nothing varies.
    """
    squares = (units - torch.sigmoid(activations)).square()
    weighted = (squares * _like(losses, units)).mean(0)
    spread = squares.mean(0)
    return torch.where(spread > 0.0, weighted / torch.where(spread > 0.0, spread, 1.0), 0.0)


def exact_baseline(activations: Tensor, loss_off: Tensor, loss_on: Tensor) -> Tensor:
    """Return the same of one unit whose two losses are known: sigmoid(a) L(0) + (1 - sigmoid(a)) L(1)."""
    on = torch.sigmoid(activations)
    return on * loss_off + (1.0 - on) * loss_on


def reinforce(activations: Tensor, units: Tensor, losses: Tensor, baseline: Tensor | float = 0.0) -> Tensor:
    """Return estimates (h - sigmoid(a)) (L - c) [N, ...] of d E L / d a.

    Args:
        activations: [N, ...] or [...] a.
        units: [N, ...] h.
        losses: [N] L, or [N, ...].
        baseline: [...] c.
    """
    return (units - torch.sigmoid(activations)) * (_like(losses, units) - baseline)


def straight_through(activations: Tensor, units: Tensor, *, keep_slope: bool = True) -> Tensor:
    """Return units [...] as they are, with the gradient of sigmoid(a), or of a itself.

    Args:
        activations: [...] a.
        units: [...] h.
        keep_slope: whether the sigmoid's slope is a factor of the gradient.
    """
    smooth = torch.sigmoid(activations) if keep_slope else activations
    return units.detach() + (smooth - smooth.detach())


def stochastic_times_smooth(
    activations: Tensor, uniform: Tensor, share: float = 0.5, *, rescale: bool = False
) -> Tensor:
    """Return units b p^share [...], with p = sigmoid(a) and b drawn with probability p^(1 - share).

    Args:
        activations: [...] a.
        uniform: [...] numbers in (0, 1).
        share: s in (0, 1], the smooth part's; with 1 nothing is drawn.
        rescale: divide the gradient by s.

    Raises:
        ValueError: for another share.
    """
    if not 0.0 < share <= 1.0:
        raise ValueError(f"share is {share}; it must lie in (0, 1]")
    log_on = torch.nn.functional.logsigmoid(activations)
    drawn = uniform < ((1.0 - share) * log_on.detach()).exp()
    smooth = (share * log_on).exp()
    if rescale:
        smooth = smooth.detach() + (smooth - smooth.detach()) / share
    return torch.where(drawn, smooth, 0.0)


def noisy_rectifier(activations: Tensor, noise: Tensor, scale: float | Tensor = 1.0) -> Tensor:
    """Return max(0, a + scale * noise) [...], for standard normal noise."""
    return torch.relu(activations + scale * noise)


def activity_slopes(activations: Tensor, units: Tensor, target: float) -> Tensor:
    """Return the gradient in a [N, K] of (mean of h - target)^2, straight through with the sigmoid's slope.

    Args:
        activations: [N, K] a.
        units: [N, K] h.
        target: share of units that shall be 1.
    """
    on = torch.sigmoid(activations)
    return 2.0 * (units.mean() - target) * on * (1.0 - on) / units.numel()


def _like(losses: Tensor, units: Tensor) -> Tensor:
    """Return losses [N] or [N, ...] with as many axes as units [N, ...]."""
    return losses.reshape(losses.shape + (1,) * (units.ndim - losses.ndim))
