"""What advantages of groups promise, measured and exactly: whose gradient is the least noisy.

Exactly, where rates p of prompts are known and Beta(a, b), q = 1 - p, R has variance pq and
A = w(p) (R - p). BNPO's w = 1 / f minimises E A^2 = E pq w^2 among all densities f, those that are no Beta's
included: by Hoelder

    E pq / f^2 >= (int (pq rho)^(1/3) dp)^3,    rho the density of Beta(a, b),

with equality where f ~ (pq rho)^(1/3) ~ p^(a/3) q^(b/3). What fixes the scale there is int f = 1. At equal
length of the mean gradient it is another: with m(p) what a prompt of weight 1 adds to the mean, v(p) to the
variance,

    E v w^2 / (E m w)^2 >= 1 / E(m^2 / v),    with equality where w ~ m / v

(Cauchy and Schwarz), which does not depend on a and b, as BNPO's exponents do. Where groups know their own
rates only, :func:`group_noise` is exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from prefrl.functional.actor_critic.grouped import (
    Exponents,
    GroupedKind,
    beta_density,
    grouped_advantages,
    log_beta,
    second_moment,
)
from prefrl.run.plot import save_figure
from prefrl.run.study.claims import Claim

PROMPTS, GROUP, DRAWS = 200, 16, 2_000
"""Of the bandit, sequences of a prompt, and gradients of which the variance is taken."""

A, B = 2.0, 5.0
"""Success rates of prompts are Beta(A, B)."""

MEASURED = ("moment", "logits", "shared", "others")
SENSES = (*MEASURED, "even")
"""Senses in which a gradient may be noisy; see :func:`bandit` and :func:`exact_noise`."""

KINDS: tuple[GroupedKind, ...] = ("centred", "grpo", "bnpo")

GRPO_SCALE = np.pi / 8.0
"""What makes grpo's sqrt(p (1 - p)) a density."""


def relative_variance(gradients: Tensor) -> float:
    """Return the total variance of gradients [draws, P] over the squared length of their mean."""
    return float(gradients.var(0).sum() / gradients.mean(0).square().sum())


@cache
def bandit(seed: int) -> dict[str, float]:
    """Return noise of gradients of a bandit whose prompts have a logit each, and of what all share.

    In ``logits`` a prompt's success is a choice between two with a logit of its own; in ``shared`` a single
    parameter moves all of these logits alike; in ``others`` its score has a part besides that does not depend
    on the success. Each is the variance at equal length of the mean gradient.
    ``moment`` is E A^2 where all three divide by a density, which is what bnpo's exponents are the least of.
    """
    rng = np.random.default_rng(seed)
    rates = torch.as_tensor(rng.beta(A, B, PROMPTS))
    generator = torch.Generator().manual_seed(seed)
    shape = (DRAWS, PROMPTS, GROUP)
    rewards = (torch.rand(shape, generator=generator, dtype=torch.float64) < rates[:, None]).double()
    scores = rewards - rates[:, None]
    around = torch.randn(shape, generator=generator, dtype=torch.float64)
    found: dict[str, float] = {}
    for kind in KINDS:
        advantages = grouped_advantages(rewards, kind)
        logits = (advantages * scores).mean(-1)
        found[f"logits_{kind}"] = relative_variance(logits)
        found[f"shared_{kind}"] = relative_variance(logits.mean(1, keepdim=True))
        others = (advantages * (scores + around)).mean((1, 2))
        found[f"others_{kind}"] = relative_variance(others[:, None])
        density = GRPO_SCALE if kind == "grpo" else 1.0
        found[f"moment_{kind}"] = float((density * advantages).square().mean())
    for sense in MEASURED:
        best = min(found[f"{sense}_{kind}"] for kind in KINDS[:2])
        found[f"{sense}_ratio"] = found[f"{sense}_bnpo"] / best
    return found


def bandit_ratio(sense: str) -> Claim:
    """Return the claim in one sense."""
    words = {
        "logits": "at equal length of the mean gradient, a logit for each prompt",
        "shared": "at equal length of the mean gradient, one parameter for all prompts",
        "others": "at equal length of the mean gradient, scores mostly of other things than success",
        "moment": "E A^2 where all divide by densities",
    }
    return Claim(
        f"E1: BNPO's gradient noise is at most 1.02 times the less of GRPO's and REINFORCE's: {words[sense]}",
        lambda seed: {k: v for k, v in bandit(seed).items() if k.startswith(sense)},
        lambda n: (n[f"{sense}_ratio"] <= 1.02).all(),
    )


# Exactly ------------------------------------------------------------------------------------------------


def weighted_moment(power: int, weights: int, exponents: Exponents, a: Tensor, b: Tensor) -> Tensor:
    """Return E (pq)^power / f^weights over p ~ Beta(a, b), f the Beta density of exponents; it may be inf."""
    first, second = (
        given + power - weights * (exponent - 1.0) for given, exponent in zip((a, b), exponents, strict=True)
    )
    finite = (first > 0.0) & (second > 0.0)
    one = torch.ones_like(first)
    left = log_beta(torch.where(finite, first, one), torch.where(finite, second, one))
    return torch.where(finite, (weights * log_beta(*exponents) + left - log_beta(a, b)).exp(), torch.inf)


def exact_noise(sense: str, exponents: Exponents, a: Tensor, b: Tensor) -> Tensor:
    """Return what :func:`bandit` measures, per prompt and sequence, where rates are known and Beta(a, b).

    A prompt's logit has the score R - p, so that m = pq and v = pq (1 - 4 pq); in ``others`` something
    of variance 1 is added to it. ``even`` has a mean gradient of the same length for every prompt, m = 1, and
    v = pq: scores that do not depend on the success.
    """

    def of(power: int, weights: int = 2) -> Tensor:
        return weighted_moment(power, weights, exponents, a, b)

    own = of(1) - 4.0 * of(2)
    if sense == "moment":
        return second_moment(exponents, a, b)
    if sense == "even":
        return of(1) / of(0, 1).square()
    if sense == "logits":
        return own / of(2)
    return (own + (of(1) if sense == "others" else 0.0)) / of(1, 1).square()


def group_noise(sense: str, exponents: Exponents, a: Tensor, b: Tensor, group: int = GROUP) -> Tensor:
    """Return the same in groups whose own rate k / G takes the place of p, as :func:`bandit` has it.

    A prompt's gradient is h(k) = w x (1 - x) at x = k / G, k is beta-binomial, and two groups of the same
    prompt have k + k' successes of 2 G. Exponents are given, and not fitted to the groups themselves.
    """
    k = torch.arange(group + 1, dtype=torch.float64)
    inside, rates = (k > 0) & (k < group), k / group
    spread = rates * (1.0 - rates)
    weights = torch.where(inside, 1.0 / beta_density(rates, exponents), 0.0)
    ways = -log_beta(k + 1.0, group - k + 1.0) - np.log(group + 1.0)
    one = (ways + log_beta(a + k, b + group - k) - log_beta(a, b)).exp()
    both = k[:, None] + k
    two = (ways[:, None] + ways + log_beta(a + both, b + 2.0 * group - both) - log_beta(a, b)).exp()
    h = weights * spread
    squares: Tensor = h @ two @ h  # of a prompt's mean gradient
    variance: Tensor = one @ h.square() - squares
    moment: Tensor = one @ (weights.square() * spread)
    if sense == "moment":
        return moment
    if sense == "logits":
        return variance / squares
    added = moment / group if sense == "others" else torch.zeros_like(moment)
    noise: Tensor = (variance + added) / (one @ h).square()
    return noise


def known(kind: GroupedKind, a: Tensor, b: Tensor) -> Exponents:
    """Return the exponents of a kind where rates are Beta(a, b)."""
    if kind == "bnpo":
        return Exponents(1.0 + a / 3.0, 1.0 + b / 3.0)
    return Exponents(*(torch.full_like(a, 1.0 if kind == "centred" else 1.5) for _ in range(2)))


def exact_ratio(sense: str, a: Tensor, b: Tensor, *, groups: bool = False) -> Tensor:
    """Return bnpo's exact noise over the less of grpo's and REINFORCE's.

    With ``groups`` of :data:`GROUP` bnpo's exponents are those that the groups' own rates come to, which are
    spread more widely than p: they are smaller.
    """
    noise = {kind: (group_noise if groups else exact_noise)(sense, known(kind, a, b), a, b) for kind in KINDS}
    if groups:
        mean, spread = a / (a + b), a * b / (a + b).square() / (a + b + 1.0)
        seen = spread + (mean * (1.0 - mean) - spread) / GROUP
        size = mean * (1.0 - mean) / seen - 1.0
        fitted = known("bnpo", size * mean, size * (1.0 - mean))
        noise["bnpo"] = group_noise(sense, fitted, a, b)
    return noise["bnpo"] / torch.minimum(noise["centred"], noise["grpo"])


def exact(seed: int) -> dict[str, float]:
    """Exact ratios, rates Beta(a, b) with a and b drawn from [1, 6]; and E A^2 over the least there is."""
    a, b = torch.as_tensor(np.random.default_rng(seed).uniform(1.0, 6.0, 2))
    least = (3.0 * log_beta(1.0 + a / 3.0, 1.0 + b / 3.0) - log_beta(a, b)).exp()
    moment = second_moment(known("bnpo", a, b), a, b)
    ratios = {f"{sense}_ratio": float(exact_ratio(sense, a, b)) for sense in SENSES}
    return {"a": float(a), "b": float(b), **ratios, "moment_over_least": float(moment / least)}


CLAIMS: Mapping[str, Claim] = {
    **{f"bnpo_{sense}": bandit_ratio(sense) for sense in MEASURED},
    "bnpo_exact": Claim(
        "E1 exactly, rates known and Beta(a, b): BNPO's E A^2 is the least among all densities (to 1e-9), "
        "and so at most GRPO's and REINFORCE's",
        exact,
        lambda n: abs(n["moment_over_least"] - 1.0).max() < 1e-9 and n["moment_ratio"].max() <= 1.0 + 1e-9,
    ),
}
"""Claims of grouped advantages by name."""

WORDS = {"moment": "E A², densities", "logits": "a logit each", "shared": "one for all",
         "others": "mostly other things", "even": "all rates alike"}  # fmt: skip
"""Senses in the figure."""


def draw_noise(found: Mapping[str, Any], path: Path) -> None:
    """Draw exact noise against the size of the exponents, and measured ratios beside the exact ones.

    Args:
        found: what was measured, by claim, of all in :data:`CLAIMS`.
        path: of the PNG.
    """
    figure = Figure(figsize=(10.0, 4.0), layout="constrained")
    curves, ratios = figure.subplots(1, 2)
    a, b = torch.tensor(A).double(), torch.tensor(B).double()
    _draw_exact(curves, a, b)
    for place, sense in enumerate(SENSES):
        if sense in MEASURED:
            seen = found[f"bnpo_{sense}"]["numbers"][f"{sense}_ratio"]
            ratios.plot(seen, np.full(len(seen), place), "|", color=f"C{place}", markersize=14.0, alpha=0.6)
            ratios.plot(float(exact_ratio(sense, a, b, groups=True)), place, "kD", markersize=5.0)
        ratios.plot(float(exact_ratio(sense, a, b)), place, "kD", markersize=6.0, fillstyle="none")
    ratios.axvline(1.02, color="0.4", linestyle="--")
    ratios.set(title="BNPO over the better of GRPO and REINFORCE", yticks=range(len(SENSES)),
               yticklabels=[WORDS[sense] for sense in SENSES],
               xlabel=f"ratio of noise\n| seeds; exact: ◆ groups of {GROUP}, ◇ known rates")  # fmt: skip
    ratios.margins(y=0.15)
    ratios.invert_yaxis()
    save_figure(figure, path)


def _draw_exact(axes: Axes, a: Tensor, b: Tensor) -> None:
    """Draw noise over REINFORCE's for exponents from (1, 1) on towards and beyond bnpo's."""
    sizes = torch.linspace(0.0, 1.4, 57, dtype=torch.float64)
    along = Exponents(1.0 + sizes * a / 3.0, 1.0 + sizes * b / 3.0)
    for place, sense in enumerate(SENSES):
        noise = exact_noise(sense, along, a.expand_as(sizes), b.expand_as(sizes))
        axes.plot(sizes, noise / noise[0], color=f"C{place}", label=WORDS[sense])
    axes.axvline(1.0, color="0.4", linestyle="--")
    axes.set(title=f"exact, rates Beta({A:g}, {B:g})", ylim=(0.0, 2.5), ylabel="noise over REINFORCE's",
             xlabel="exponents (1 + t a/3, 1 + t b/3), t: 0 REINFORCE, 1 BNPO")  # fmt: skip
    axes.legend()
