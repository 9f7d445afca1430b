"""What advantages of groups promise, measured: whose gradient is the least noisy, and in which sense."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np
import torch
from torch import Tensor

from prefrl.functional.actor_critic.grouped import GroupedKind, grouped_advantages
from prefrl.run.study.claims import Claim

PROMPTS, GROUP, DRAWS = 200, 16, 2_000
"""Of the bandit, sequences of a prompt, and gradients of which the variance is taken."""

A, B = 2.0, 5.0
"""Success rates of prompts are Beta(A, B)."""

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
    for sense in ("logits", "shared", "others", "moment"):
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


CLAIMS: Mapping[str, Claim] = {
    f"bnpo_{sense}": bandit_ratio(sense) for sense in ("logits", "shared", "others", "moment")
}
"""Claims of grouped advantages by name."""
