"""What general preference models can express and how sure they are of it, on planted preferences.

Each claim is measured over seeds that nothing was chosen on: docs/preferences/preference_models.md has what
was asked and what was seen. The same command goes on with a study that was stopped.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

import torch
from scipy.stats import spearmanr
from torch import Tensor

from prefrl.cli import execute
from prefrl.functional.preferences.general_models.inference import d_optimal_pairs
from prefrl.preferences.general_models import (
    GPM,
    PAL,
    BradleyTerry,
    BradleyTerryConfig,
    Comparisons,
    GPMConfig,
    PALConfig,
    Thurstone,
)
from prefrl.run.flags import parse
from prefrl.run.study.claims import Claim, ClaimStudy


def generator(seed: int) -> torch.Generator:
    """Generator of draws."""
    return torch.Generator().manual_seed(seed)


def normal(g: torch.Generator, *shape: int) -> Tensor:
    """Standard normal numbers."""
    return torch.randn(*shape, generator=g, dtype=torch.float64)


def answers(chances: Tensor, g: torch.Generator) -> Tensor:
    """Labels 0 or 1, drawn."""
    return (torch.rand(chances.shape, generator=g, dtype=torch.float64) < chances).double()


def random_pairs(count: int, options: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Places of two different options each."""
    first = torch.randint(options, (count,), generator=g)
    return first, (first + torch.randint(1, options, (count,), generator=g)) % options


# C1: circles --------------------------------------------------------------------------------------------


def circle(options: int, dominator: bool, g: torch.Generator) -> Comparisons:
    """Each option beats the next one round; one more may beat all; each pair 20 to 100 times."""
    k = options + dominator
    wins = torch.zeros(k, k, dtype=torch.float64)
    for i in range(options):
        wins[i, (i + 1) % options] = torch.randint(20, 101, (), generator=g)
    if dominator:
        wins[options, :options] = torch.randint(20, 101, (options,), generator=g).double()
    return Comparisons.from_wins(wins)


def share_of_pairs(model: GPM | BradleyTerry, pairs: Comparisons) -> float:
    """Share of pairs whose winner the model names."""
    model.fit(pairs)
    return float(((model.margins(pairs) > 0) == (pairs.labels > 0.5)).double().mean())


def circles(seed: int) -> dict[str, float]:
    """Shares of pairs right, of a circle of three, and of one with an option that beats all of it."""
    g = generator(seed)
    three, four = circle(3, False, g), circle(3, True, g)
    free = {k: GPMConfig(blocks=k, normalise=False, temperature=1.0) for k in (1, 2)}
    return {
        "three_bradley_terry": share_of_pairs(BradleyTerry(), three),
        "three_gpm_1": share_of_pairs(GPM(GPMConfig(blocks=1), seed=seed), three),
        "four_bradley_terry": share_of_pairs(BradleyTerry(), four),
        "four_gpm_1": share_of_pairs(GPM(GPMConfig(blocks=1), seed=seed), four),
        "four_gpm_1_free": share_of_pairs(GPM(free[1], seed=seed), four),
        "four_gpm_2": share_of_pairs(GPM(GPMConfig(blocks=2), seed=seed), four),
        "four_gpm_2_free": share_of_pairs(GPM(free[2], seed=seed), four),
    }


def skew(seed: int) -> dict[str, float]:
    """Largest error of the margins of a random antisymmetric 6 x 6 matrix, and by one block less."""
    drawn = normal(generator(seed), 6, 6)
    first, second = torch.triu_indices(6, 6, 1)
    margins = (drawn - drawn.T)[first, second]
    pairs, errors = Comparisons(first, second, torch.sigmoid(margins), 6), {}
    for blocks in (2, 3):
        model = GPM(GPMConfig(blocks=blocks, normalise=False, temperature=1.0, ridge=0.0), seed=seed)
        model.fit(pairs)
        errors[f"blocks_{blocks}"] = float((model.margins(pairs) - margins).abs().max())
    return errors


# C2: groups of people -----------------------------------------------------------------------------------


def groups(
    seed: int, form: Literal["A", "B"] = "A", table: bool = False, users: int = 60, per_user: int = 60
) -> dict[str, float]:
    """Accuracy on pairs that were not asked, of 60 users in three groups, and of 60 new ones by 10 pairs.

    40 options, normal in the plane; ideals at distance 1.5 (form A) or in directions (form B), 120 degrees
    apart; answers are logistic in 10 times the difference of distances (of cosines).
    """
    g = generator(seed)
    options = normal(g, 40, 2)
    angles = 2.0 * math.pi * (torch.arange(3, dtype=torch.float64) / 3.0 + torch.rand((), generator=g))
    ideals = 1.5 * torch.stack([angles.cos(), angles.sin()], 1)

    def asked(count: int, noise: bool) -> Comparisons:
        who = torch.arange(users).repeat_interleave(count)
        sides = random_pairs(len(who), 40, g)
        ideal = ideals[who % 3]
        if form == "A":
            worth = [-(options[side] - ideal).norm(dim=1) for side in sides]
        else:
            worth = [torch.cosine_similarity(options[side], ideal) for side in sides]
        margin = 10.0 * (worth[1] - worth[0])
        labels = answers(torch.sigmoid(margin), g) if noise else (margin > 0).double()
        return Comparisons(*sides, labels, 40, users=who, num_users=users,
                           features=None if table else options)  # fmt: skip

    seen, unseen = asked(per_user, True), asked(60, False)
    single = BradleyTerry()
    single.fit(seen)
    model = PAL(PALConfig(form=form), seed=seed)
    model.fit(seen)
    found = {"pal": float(model.accuracy(unseen)), "bradley_terry": float(single.accuracy(unseen))}
    new = model.add_users(asked(10, True))
    of_new = replace(unseen, users=new[unseen.user], num_users=2 * users)
    return {**found, "new": float(model.accuracy(of_new))}


# C3: random utilities -----------------------------------------------------------------------------------


def random_utility(seed: int, options: int = 20, draws: int = 10, noise: float = 1.0) -> dict[str, float]:
    """Rank correlation with planted utilities, from 10 draws at each of 2 N log2 N pairs chosen at random.

    Utilities are standard normal, and so are the logarithms of their deviations over ``noise``, times 1/2.
    """
    g = generator(seed)
    means, deviations = normal(g, options), noise * (0.5 * normal(g, options)).exp()
    first, second = torch.triu_indices(options, options, 1)
    kept = torch.randperm(len(first), generator=g)[: int(2 * options * math.log2(options))]
    first, second = first[kept], second[kept]
    z = (means[second] - means[first]) / (deviations[first].square() + deviations[second].square()).sqrt()
    won = answers(torch.special.ndtr(z).expand(draws, -1), g).mean(0)
    pairs = Comparisons(first, second, won, options, torch.full_like(won, draws))
    found = {"pairs": float(len(kept))}
    for model in (Thurstone(), BradleyTerry()):
        model.fit(pairs)
        found[model.name] = float(spearmanr(model.score(torch.arange(options)), means).statistic)
    return found


# C4: how sure -------------------------------------------------------------------------------------------


def coverage(seed: int, repetitions: int = 300, rows: int = 200) -> dict[str, float]:
    """Share of Wald's 95 % intervals that hold the truth, over weights of 3 features and 300 repetitions."""
    g = generator(seed)
    truth, held, lower = torch.tensor([1.0, -0.5, 0.25], dtype=torch.float64), [], []
    for _ in range(repetitions):
        features = normal(g, 2 * rows, 3)
        first = torch.arange(rows)
        labels = answers(torch.sigmoid((features[rows:] - features[:rows]) @ truth), g)
        pairs = Comparisons(first, first + rows, labels, 2 * rows, features=features)
        model = BradleyTerry(BradleyTerryConfig(ridge=0.0))
        model.fit(pairs)
        low, high = model.intervals(pairs)
        held.append(((low < truth) & (truth < high)).double().mean())
        options = normal(g, 10, 3)
        lower.append((model.pessimistic(options, pairs, 1.96) < options @ truth).double().mean())
    return {"wald": float(torch.stack(held).mean()), "pessimistic": float(torch.stack(lower).mean())}


def design(
    seed: int, pools: int = 20, candidates: int = 300, count: int = 30, size: int = 6
) -> dict[str, float]:
    """Gain in log det of 30 of 300 pairs over a random choice, and worst variances, over 20 pools.

    Differences are standard normal; the prior is the identity over 100.
    """
    g = generator(seed)
    slopes = normal(g, pools, candidates, size)
    prior = 0.01 * torch.eye(size, dtype=torch.float64)
    chosen = d_optimal_pairs(slopes, count, prior)
    random = torch.arange(count).expand(pools, -1)

    def reached(places: Tensor) -> tuple[Tensor, Tensor]:
        x = slopes[torch.arange(pools)[:, None], places]
        information = prior + 0.25 * x.transpose(1, 2) @ x
        variance = torch.einsum("bnp,bpq,bnq->bn", slopes, information.inverse(), slopes)
        return torch.logdet(information), variance.amax(1)

    (ours, our_worst), (theirs, their_worst) = reached(chosen), reached(random)
    ratio = our_worst / their_worst
    return {"gain_min": float((ours - theirs).min()), "gain_mean": float((ours - theirs).mean()),
            "variance_ratio_max": float(ratio.max())}  # fmt: skip


CLAIMS: Mapping[str, Claim] = {
    "circles": Claim(
        "three in a circle: GPM 1, Bradley-Terry 2/3 at most; with one that beats all: 5/6 by one block, "
        "if embeddings are free, and no more if not, 1 by two",
        circles,
        lambda of: (of["three_gpm_1"].min() == 1.0 and of["three_bradley_terry"].max() < 0.67
                    and of["four_gpm_1"].max() < 0.84
                    and of["four_gpm_1_free"].min() > 0.83 and of["four_gpm_1_free"].max() < 0.84
                    and min(of["four_gpm_2"].min(), of["four_gpm_2_free"].min()) == 1.0),
    ),
    "skew": Claim(
        "any 6 x 6 matrix by three blocks to 1e-3",
        skew,
        lambda of: of["blocks_3"].max() <= 1e-3,
    ),
    **{
        f"groups_{form}{'_table' if table else ''}": Claim(
            f"form {form}: .9 of unseen pairs, a single Bradley-Terry .75 at most, new users .85 by 10 pairs",
            partial(groups, form=form, table=table),
            lambda of: (of["pal"].min() >= 0.9 and of["bradley_terry"].max() <= 0.75
                        and of["new"].min() >= 0.85),
        )
        for form in ("A", "B")
        for table in (False, True)
    },
    "random_utility": Claim(
        "Spearman's correlation .95 in every seed",
        random_utility,
        lambda of: of["thurstone"].min() >= 0.95,
    ),
    "random_utility_half": Claim(
        "the same, deviations half as large",
        partial(random_utility, noise=0.5),
        lambda of: of["thurstone"].min() >= 0.95,
    ),
    "pessimism": Claim(
        "utilities lie above the pessimistic ones, at 1.96 standard errors, in .96 to .99",
        coverage,
        lambda of: of["pessimistic"].min() >= 0.96 and of["pessimistic"].max() <= 0.99,
    ),
    "coverage": Claim(
        "Wald's 95 % intervals hold the truth in .92 to .97",
        coverage,
        lambda of: of["wald"].min() >= 0.92 and of["wald"].max() <= 0.97,
    ),
    "design": Claim(
        "3 nats in every pool",
        design,
        lambda of: of["gain_min"].min() >= 3.0,
    ),
    "design_variance": Claim(
        "the worst variance is at most .45 of that of a random choice, in every pool",
        design,
        lambda of: of["variance_ratio_max"].max() <= 0.45,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class PreferenceModelStudy(ClaimStudy):
    """What general preference models can express and how sure they are of it."""

    known: ClassVar[Mapping[str, Claim]] = CLAIMS

    out: Path = Path("runs/preference_models")
    """Run folder: new, empty, or of the same study."""


if __name__ == "__main__":
    sys.exit(execute(lambda: parse(PreferenceModelStudy, description=__doc__)))
