"""Cloning as the choice of an implicit reward, by one divergence or another: OUR RECONSTRUCTION.

The paper with arXiv number 2507.00018 says that plain cloning, from a reference policy, is distribution
matching in total variation with a KL term that is constant in the policy, and that other f-divergences keep
that term. Its exact losses were not to be found: what follows was derived by us from that frame, and is not
the paper's equation. With h = beta log pi(a|s) / pi_ref(a|s) of an action of the data, the implicit reward,
a value V, and f* the convex conjugate of the divergence's f,

    loss = E f*(-h - V) + V,

V being 0 or the one at which the loss is least:

================  ====================  =================================================================
total variation   t                     -E h whatever V: plain cloning, whose h grows for ever
chi square        t + t^2 / 4           V = 0: -E h + E h^2 / 4, least at h = 2; V best: -E h + Var(h) / 4
Hellinger         t / (1 - t), t < 1    -E[(h + V) / (1 + h + V)] + V, for h + V above -1
================  ====================  =================================================================

(f = |x - 1| / 2, whose conjugate is t only where |t| is at most 1/2; (x - 1)^2; (sqrt(x) - 1)^2.) Beyond
t = .9 Hellinger's conjugate goes on along its tangent, of slope 100, so that an action which the policy has
come to avoid has a loss that is a number: our choice too.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Divergence = Literal["total_variation", "chi_square", "hellinger"]
"""By what the policy's distribution is matched with the data's."""

HELLINGER_LIMIT = 0.9
"""Where the tangent begins."""

HALVINGS = 60
"""Of the interval in which Hellinger's value is sought: as many as the digits of float64."""


def conjugate(t: Tensor, divergence: Divergence) -> Tensor:
    """Return f*(t) [...], elementwise; see the module's text."""
    if divergence == "total_variation":
        return t
    if divergence == "chi_square":
        return t + 0.25 * t.square()
    inside = t.clamp(max=HELLINGER_LIMIT)
    return inside / (1.0 - inside) + (t - inside) / (1.0 - HELLINGER_LIMIT) ** 2


def best_value(h: Tensor, divergence: Divergence) -> Tensor:
    """Return the V [] at which mean f*(-h - V) + V is least over implicit rewards [n].

    Of chi square it is -mean h. Of Hellinger's it is where the mean of the conjugate's slope is 1, between
    -max h and -min h, found by halving. Of the total variation every V is as good; 0 is returned.
    """
    if divergence == "total_variation":
        return torch.zeros_like(h.sum())
    if divergence == "chi_square":
        return -h.mean()
    low, high = -h.max(), -h.min()
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        slope = (1.0 - (-h - middle).clamp(max=HELLINGER_LIMIT)).pow(-2.0).mean()
        low, high = torch.where(slope > 1.0, middle, low), torch.where(slope > 1.0, high, middle)
    return 0.5 * (low + high)


def divergence_loss(h: Tensor, divergence: Divergence, *, optimal_value: bool = True) -> Tensor:
    """Return the loss [] of implicit rewards [n] of actions of the data: a reconstruction, see above.

    Args:
        h: [n] beta log pi(a|s) / pi_ref(a|s).
        divergence: which one.
        optimal_value: whether V is the best for these n, or 0. It is held fixed in the gradient, which is
            the same: where V is best, the loss has no slope in it.
    """
    value = best_value(h.detach(), divergence) if optimal_value else torch.zeros_like(h.detach().sum())
    return conjugate(-h - value, divergence).mean() + value
