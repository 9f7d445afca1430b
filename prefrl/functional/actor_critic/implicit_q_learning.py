"""Formulas of implicit Q-learning (Kostrikov, Nair and Levine 2021, arXiv 2110.06169)."""

from __future__ import annotations

import math

from torch import Tensor


def expectile_loss(errors: Tensor, expectile: float) -> Tensor:
    """Return |tau - 1(u < 0)| u^2 of errors u = target - prediction (arXiv 2110.06169, section 4.1).

    The prediction that makes its mean least is the targets' expectile: their mean at tau = 1/2, and ever
    closer to the largest of them as tau comes to 1.

    Args:
        errors: [...] u.
        expectile: tau, in (0, 1).

    Returns:
        [...].

    Raises:
        ValueError: if ``expectile`` lies outside.
    """
    if not 0.0 < expectile < 1.0:
        raise ValueError(f"expectile is {expectile}; it must lie in (0, 1)")
    below = (errors < 0.0).to(errors.dtype)
    return (expectile - below).abs() * errors.square()


def advantage_weights(advantages: Tensor, temperature: float, largest: float) -> Tensor:
    """Return min(exp(beta A), largest) (arXiv 2110.06169, equation 7, cut as in the released code).

    The exponent is what is cut, so that no advantage is too large.

    Args:
        advantages: [...] A = Q(s, a) - V(s).
        temperature: beta, not negative; at 0 all weigh alike, which is behaviour cloning.
        largest: above 0.

    Returns:
        [...].

    Raises:
        ValueError: if ``temperature`` is negative, or ``largest`` is not positive.
    """
    if not temperature >= 0.0:
        raise ValueError(f"temperature is {temperature}; it must not be negative")
    if not largest > 0.0:
        raise ValueError(f"largest is {largest}; it must be above 0")
    return (temperature * advantages).clamp(max=math.log(largest)).exp()
