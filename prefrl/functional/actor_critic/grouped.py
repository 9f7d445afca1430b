"""Advantages of groups: episodes from one start are measured against each other, without a value function.

With rewards R of a group's G episodes, p their mean and s their standard deviation,

    centred:  A = R - p                          (REINFORCE with a baseline)
    grpo:     A = (R - p) / s                    (Shao et al. 2024, arXiv 2402.03300)
    bnpo:     A = (R - p) / f(p; alpha, beta)    (arXiv 2506.02864)

where f is the density of a Beta distribution and bnpo's R is 0 or 1. With exponents (1, 1) it is centred;
with (3/2, 3/2) f = (8 / pi) sqrt(p (1 - p)), so that it is grpo but for a factor. Its own exponents follow
from success rates that are Beta(a, b) over prompts, whose a and b are fitted to their mean and variance:

    alpha = 1 + a / 3,    beta = 1 + b / 3.

They are the minimiser of E A^2 (see :func:`second_moment`) among densities f. That is not to say that they
give the least variance for a given length of the mean gradient: this is a matter of the score functions too.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

GroupedKind = Literal["centred", "grpo", "bnpo"]
"""How a group's rewards become advantages; see the module's text."""

LonelyRule = Literal["refuse", "plain"]
"""What becomes of groups of one, which have nobody to be measured against: an error, or A = R as it is."""

LARGEST = 1e6
"""What 1 / f is cut at, as in the authors' code."""

SMALLEST = 1e-6
"""Standard deviation below which grpo divides by this instead: rewards that are equal but for rounding."""


class Exponents(NamedTuple):
    """Those of bnpo's Beta density."""

    alpha: Tensor
    """[...] at least 1."""
    beta: Tensor
    """[...] likewise."""


def log_beta(a: Tensor, b: Tensor) -> Tensor:
    """Return the logarithm of Euler's beta function."""
    return torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)


def beta_density(rates: Tensor, exponents: Exponents) -> Tensor:
    """Return f(p; alpha, beta) of rates in [0, 1]; of (1, 1) it is 1 at both ends too."""
    alpha, beta = exponents
    powers = torch.special.xlogy(alpha - 1.0, rates) + torch.special.xlog1py(beta - 1.0, -rates)
    density: Tensor = (powers - log_beta(alpha, beta)).exp()
    return density


def fitted_exponents(rates: Tensor, counted: Tensor | None = None, eps: float = 1e-8) -> Exponents:
    """Return bnpo's exponents for success rates [..., Q] of prompts.

    With mu and v the mean and the unbiased variance of the rates, a = (mu (1 - mu) / v - 1) mu and b likewise
    with 1 - mu. Where nothing can be fitted (fewer than two prompts, v of at most ``eps``, mu of 0 or 1) the
    exponents are (1, 1); none is below 1.

    Args:
        rates: [..., Q].
        counted: [..., Q] bool, which prompts count; None: all.
        eps: see above.

    Returns:
        [...] each.
    """
    shares = torch.ones_like(rates) if counted is None else counted.to(rates.dtype)
    count = shares.sum(-1)
    mean = (rates * shares).sum(-1) / count.clamp(min=1.0)
    spread = ((rates - mean[..., None]).square() * shares).sum(-1) / (count - 1.0).clamp(min=1.0)
    fits = (count > 1.0) & (spread > eps) & (mean > 0.0) & (mean < 1.0)
    size = mean * (1.0 - mean) / torch.where(fits, spread, 1.0) - 1.0  # a + b
    return Exponents(
        *(torch.where(fits, 1.0 + size * part / 3.0, 1.0).clamp(min=1.0) for part in (mean, 1.0 - mean))
    )


def grouped_advantages(
    rewards: Tensor, kind: GroupedKind, *, counted: Tensor | None = None, exponents: Exponents | None = None,
    lonely: LonelyRule = "refuse",
) -> Tensor:  # fmt: skip
    """Return the advantages of rewards [..., Q, G] of Q groups.

    Of several rewards that count alike, give each an entry of a leading axis and take the mean over it: each
    has exponents of its own then, as in the decomposition of arXiv 2506.02864.

    Args:
        rewards: [..., Q, G]; for bnpo 0 or 1.
        kind: see the module's text.
        counted: [..., Q] bool, which groups' rates bnpo's exponents are fitted to; None: all.
        exponents: [...] each, bnpo's; None: fitted.
        lonely: what becomes of groups of one.

    Returns:
        [..., Q, G].

    Raises:
        ValueError: for another kind, or groups of one where they are refused.
    """
    if kind not in ("centred", "grpo", "bnpo"):
        raise ValueError(f"kind is {kind!r}; it must be 'centred', 'grpo' or 'bnpo'")
    if rewards.shape[-1] < 2:
        if lonely == "plain":
            return rewards.clone()
        raise ValueError(f"rewards have shape {list(rewards.shape)}; the last axis must be of groups of at "
                         "least 2, or lonely 'plain'")  # fmt: skip
    means = rewards.mean(-1, keepdim=True)
    centred = rewards - means
    if kind == "centred":
        return centred
    if kind == "grpo":
        return centred / centred.square().mean(-1, keepdim=True).sqrt().clamp(min=SMALLEST)
    rates = means[..., 0]
    if exponents is None:
        exponents = fitted_exponents(rates, counted)
    density = beta_density(rates, Exponents(*(part[..., None] for part in exponents)))
    return centred * (1.0 / density).clamp(max=LARGEST)[..., None]


def second_moment(exponents: Exponents, a: Tensor, b: Tensor) -> Tensor:
    """Return E A^2 of bnpo where success rates are Beta(a, b) and R is 1 at those rates.

        B(alpha, beta)^2 B(a + 3 - 2 alpha, b + 3 - 2 beta) / B(a, b),

    infinite unless alpha < (a + 3) / 2 and beta < (b + 3) / 2; least at 1 + a / 3 and 1 + b / 3. (A
    gradient's second moment is as many times this, where score functions do not depend on the success.)

    Args:
        exponents: [...] each.
        a: [...] of the rates' distribution.
        b: [...] likewise.
    """
    alpha, beta = exponents
    first, second = a + 3.0 - 2.0 * alpha, b + 3.0 - 2.0 * beta
    finite = (first > 0.0) & (second > 0.0)
    left = log_beta(first.clamp(min=SMALLEST), second.clamp(min=SMALLEST))
    return torch.where(finite, (2.0 * log_beta(alpha, beta) + left - log_beta(a, b)).exp(), torch.inf)
