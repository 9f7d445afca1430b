"""What speaks for circles and for groups of users, each against what noise alone would give."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from prefrl.data.devices import seeded_generator
from prefrl.functional.preferences.general_models.agreement import permuted, user_scores
from prefrl.functional.preferences.general_models.lapses import LapseRate, lapse_rate
from prefrl.functional.preferences.general_models.triads import circles, compared_triads, drawn_wins
from prefrl.preferences.general_models import Comparisons

from .held_out import Candidate, folds_of, held_out, pair_of, told

LEVEL = 0.01
"""Chance of finding circles, or that users differ, where there is nothing but noise."""

MOST_TRIADS = 100_000
"""Triads that are looked at; where there are more, as many are drawn."""

MOST_DIRECTIONS = 64
"""Directions in which answers of users are compared; where there are more parameters, random ones."""

TRIALS = 20
"""Answers that are planted to see whether a test would notice."""

AT_ONCE = 1 << 23
"""Numbers of one array."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """M pairs of options, with all answers to each, whoever gave them."""

    first: Tensor
    """[M] int64 the option with the smaller place."""
    second: Tensor
    """[M] int64 the other one."""
    wins: Tensor
    """[M] answers for the second."""
    counts: Tensor
    """[M] answers."""
    ties: Tensor
    """[M] answers that were ties."""
    chances: Tensor
    """[M] that the second is preferred, by the best model with one reward."""

    @classmethod
    def of(cls, comparisons: Comparisons, scalar: Candidate) -> Pairs:
        """Return the pairs of comparisons, with the chances by a model fitted to all of them."""
        whole = told(comparisons, scalar)
        merged = whole.merged()
        model = scalar.make()
        model.fit(whole)
        ties = comparisons.counts * (comparisons.labels == 0.5)
        pair = pair_of(comparisons)[0]
        tied = torch.zeros(len(merged), dtype=torch.float64).index_add_(0, pair, ties)
        chances = torch.sigmoid(model.margins(merged))
        # Of decided answers: a tie is half a win for either, and says nothing of how sure the others are.
        decided = (merged.counts - tied).clamp(min=1e-9)
        chances = ((merged.counts * chances - 0.5 * tied) / decided).clamp(0.0, 1.0)
        return cls(merged.first, merged.second, merged.counts * merged.labels, merged.counts, tied, chances)

    @property
    def clarity(self) -> float:
        """How often an answer agrees with the reward, on average, by the model itself."""
        return float(
            (self.counts * torch.maximum(self.chances, 1.0 - self.chances)).sum() / self.counts.sum()
        )


class Circles(NamedTuple):
    """Circles of three that were seen, and those that noise would give."""

    triads: int
    """Triads with a direction."""
    cyclic: int
    """How many of them go round."""
    rate: float
    """Their share."""
    expected: float
    """The mean share in answers drawn from the best model with one reward."""
    interval: tuple[float, float]
    """The central 95 % of it."""
    p_value: float
    """How often noise gives as large a share."""
    clearest: float
    """Deviance of the least clear pair of the clearest circle."""
    clearest_p_value: float
    """How often noise gives a circle as clear."""
    power: float
    """How often a circle as clear as the other answers would be found, if there were one."""
    null: Tensor
    """[copies] shares that noise gave."""

    @property
    def p(self) -> float:
        """P-value of both tests together (Bonferroni)."""
        return min(1.0, 2.0 * min(self.p_value, self.clearest_p_value))


def find_circles(pairs: Pairs, copies: int, seed: int) -> Circles | None:
    """Return what is seen of circles of three; None if no three were all compared without a tie.

    Args:
        pairs: all answers.
        copies: sets of answers of the parametric bootstrap.
        seed: of draws.
    """
    generator = seeded_generator(seed, "audit circles")
    triads = compared_triads(pairs.first, pairs.second, MOST_TRIADS, generator)
    if len(triads) == 0:
        return None
    cyclic, directed, clearest = circles(pairs.wins[None], pairs.counts, triads)
    if not int(directed):
        return None
    rates, null_clearest = _drawn_circles(pairs, pairs.chances, triads, copies, generator)
    rate = float(cyclic) / float(directed)
    ends = rates.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64))
    return Circles(
        int(directed), int(cyclic), rate, float(rates.mean()), (float(ends[0]), float(ends[1])),
        p_value(rates, rate), float(clearest), p_value(null_clearest, float(clearest)),
        _power(pairs, triads, generator), rates,
    )  # fmt: skip


def p_value(null: Tensor, seen: float) -> float:
    """Return how often noise gives as much, the observation itself counted: never 0."""
    return (1.0 + float((null >= seen - 1e-12).sum())) / (1.0 + len(null))


def _drawn_circles(
    pairs: Pairs, chances: Tensor, triads: Tensor, copies: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return shares of cyclic triads and the clearest circles [copies] of answers drawn with chances [M]."""
    rates, clearest, size = [], [], max(1, AT_ONCE // len(chances))
    for start in range(0, copies, size):
        wins = drawn_wins(chances, pairs.counts, pairs.ties, min(size, copies - start), generator)
        cyclic, directed, clear = circles(wins, pairs.counts, triads)
        rates.append(cyclic / directed.clamp(min=1).double())
        clearest.append(clear)
    return torch.cat(rates), torch.cat(clearest)


def _power(pairs: Pairs, triads: Tensor, generator: torch.Generator) -> float:
    """Return the share of planted circles of three that are found.

    Three options that were all compared are made to go round, as clearly as the reward explains the other
    answers; noise is then what three equally good ones give.
    """
    found, clarity = [], pairs.clarity
    for triad in triads[torch.randint(len(triads), (TRIALS,), generator=generator)]:
        planted, even = pairs.chances.clone(), pairs.chances.clone()
        planted[triad] = torch.tensor([clarity, clarity, 1.0 - clarity], dtype=torch.float64)
        even[triad] = 0.5
        null = _drawn_circles(pairs, even, triads, 300, generator)
        seen = _drawn_circles(pairs, planted, triads, 20, generator)
        limits = [part.quantile(1.0 - LEVEL / 2.0) for part in null]
        hits = (seen[0] > limits[0]) | (seen[1] > limits[1])
        found.append(hits.double().mean())
    return float(torch.stack(found).mean())


class Heterogeneity(NamedTuple):
    """Whether users differ."""

    p_value: float
    """How often users would differ as much, if answers to the same question were exchanged among them."""
    power: float
    """How often two halves of the users with opposite rewards would be found."""


def find_differences(
    comparisons: Comparisons, scalar: Candidate, chances: Tensor, copies: int, seed: int
) -> Heterogeneity | None:
    """Return whether users differ; None if no question was answered by two of them.

    Answers to the same question are exchanged among users, which changes nothing if all want the same,
    whether or not that is a reward.

    Args:
        comparisons: all answers.
        scalar: the model whose parameters say in what users may differ.
        chances: [M] of each pair, by the best model with one reward.
        copies: permutations.
        seed: of draws.
    """
    pair, labels = pair_of(comparisons)
    asked = torch.unique(torch.stack([pair, comparisons.user]), dim=1)[0].bincount(minlength=len(chances))
    if comparisons.num_users < 2 or not bool((asked > 1).any()):
        return None
    generator = seeded_generator(seed, "audit users")
    slopes = _slopes(comparisons, generator)
    users, count = comparisons.user, comparisons.num_users

    def p_of(answers: Tensor, copies: int) -> float:
        usual = torch.zeros(len(asked), dtype=torch.float64).index_add_(0, pair, answers * comparisons.counts)
        total = torch.zeros(len(asked), dtype=torch.float64).index_add_(0, pair, comparisons.counts)
        residuals = (answers - (usual / total)[pair]) * comparisons.counts
        seen, null = user_scores(slopes, residuals[None], users, count), []
        size = max(1, AT_ONCE // max(len(residuals), count * slopes.shape[1]))
        for start in range(0, copies, size):
            orders = permuted(pair, min(size, copies - start), generator)
            null.append(user_scores(slopes, residuals[orders], users, count))
        return p_value(torch.cat(null), float(seen))

    needed = round(1.0 / LEVEL) - 1
    noticed = 0
    for _ in range(TRIALS):
        side = torch.randperm(count, generator=generator)[users] % 2 == 0
        wanted = torch.where(side, chances[pair], 1.0 - chances[pair])
        noticed += p_of(torch.bernoulli(wanted, generator=generator), needed) <= LEVEL
    return Heterogeneity(p_of(labels, copies), noticed / TRIALS)


def _slopes(comparisons: Comparisons, generator: torch.Generator) -> Tensor:
    """Return the derivatives [N, P] of margins, larger option minus smaller, in utilities or weights."""
    low = torch.minimum(comparisons.first, comparisons.second)
    high = torch.maximum(comparisons.first, comparisons.second)
    features = comparisons.features
    wide = comparisons.num_options if features is None else features.shape[1]
    if features is None:
        features = torch.eye(wide, dtype=torch.float64) if wide <= MOST_DIRECTIONS else None
    if wide > MOST_DIRECTIONS:
        turn = torch.randn(wide, MOST_DIRECTIONS, generator=generator, dtype=torch.float64)
        features = turn if features is None else features @ turn
    assert features is not None  # one of the three
    return features[high] - features[low]


def find_noise(pairs: Pairs, comparisons: Comparisons, most: int = 2_000_000) -> LapseRate | None:
    """Return the rate of turned answers; None where no pair was asked twice, or there is too much to fit."""
    if not bool((pairs.counts > 1.0).any()):
        return None
    features = comparisons.features
    if features is None:
        if len(pairs.first) * comparisons.num_options > most:
            return None
        features = torch.eye(comparisons.num_options, dtype=torch.float64)
    slopes = features[pairs.second] - features[pairs.first]
    return lapse_rate(slopes, pairs.wins / pairs.counts, pairs.counts)


def find_planted_circle(
    comparisons: Comparisons, models: dict[str, Candidate], pairs: Pairs, folds: int, seed: int, level: float
) -> float:
    """Return how often GPM would be found to predict better, if features went round: of three trials.

    Where no three options were all compared, that is what is left. The same pairs are answered anew, by a
    rotation in two random directions of the features, as clearly as the reward explains the answers.

    Args:
        comparisons: the answers, options with features.
        models: Bradley and Terry's, and the general ones.
        pairs: all answers.
        folds: of the cross-validation.
        seed: of draws.
        level: standard errors that count.
    """
    generator = seeded_generator(seed, "audit planted circles")
    features = comparisons.features
    if features is None or features.shape[1] < 2:
        raise ValueError("a circle needs two features at least")
    found = 0
    for _ in range(3):
        turn = torch.linalg.qr(torch.randn(features.shape[1], 2, generator=generator, dtype=torch.float64))[0]
        at = features @ turn
        first, second = at[comparisons.first], at[comparisons.second]
        odds = second[:, 0] * first[:, 1] - second[:, 1] * first[:, 0]
        odds = odds * _scale(odds, pairs.clarity)
        answers = torch.bernoulli(torch.sigmoid(odds), generator=generator)
        planted = replace(comparisons, labels=answers)
        seen = held_out(planted, models, folds_of(planted, folds, generator))
        scalar = min((seen[name] for name in models if models[name].kind == "scalar"),
                     key=lambda each: each.log_loss)  # fmt: skip
        gains = [seen[name].ahead_of(scalar) for name in models if models[name].kind == "general"]
        found += any(gain > level * error for gain, error in gains)
    return found / 3.0


def _scale(odds: Tensor, clarity: float) -> float:
    """Return what log-odds are to be multiplied by, so that answers are as clear, by bisection."""
    low, high = 0.0, 1e6
    for _ in range(80):
        middle = 0.5 * (low + high)
        if float(torch.sigmoid((middle * odds).abs()).mean()) < clarity:
            low = middle
        else:
            high = middle
    return high
