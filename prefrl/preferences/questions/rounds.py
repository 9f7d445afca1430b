"""Questions about a pool of pairs in rounds: choose some by what is believed, ask, believe anew.

A belief says what the answers so far tell about the pairs that are left; :func:`ask_in_rounds` does the rest.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple, get_args

import torch
from torch import Tensor

from prefrl.config import Count, Natural, Positive, Settings, checked
from prefrl.data import Preferences, Segments, seeded_generator
from prefrl.functional.preferences.general_models.inference import fisher_information
from prefrl.functional.preferences.general_models.questions import prior_information, ring_edges
from prefrl.functional.preferences.logistic import logistic_regression
from prefrl.preferences.queries import (
    PRIOR_DEVIATION,
    RULES,
    Candidates,
    OptionQueryKind,
    PoolQueryKind,
    Rule,
    check_members,
)
from prefrl.preferences.reward_model import RewardModel

CONSIDERED = 20_000
"""Pairs that are left of which a round's questions are chosen, drawn anew where there are more."""

CONSIDERED_BY_DESIGN = 500
"""The same of optimal designs, which work on a matrix of all covariances."""

MAX_OPTIONS = 2_000
"""Options that have a utility of their own each."""

Answer = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Returns labels [n] and weights [n] of the pairs at places [n]; those that are skipped have weight 0."""


class Asked(NamedTuple):
    """What was asked and answered, in order."""

    places: Tensor
    """[n] of pairs of the pool."""
    labels: Tensor
    """[n] probability, or share of answers, that the second is preferred."""
    weights: Tensor
    """[n] 0 where nothing was answered."""


@dataclass(frozen=True)
class Rounds(Settings):
    """How pairs are selected from a pool."""

    query: OptionQueryKind = "uniform"
    """How questions are chosen; "active_edges" only where options come again."""

    candidates: Count = 10
    """Pairs to choose each question from."""

    rounds: Count = 8
    """Times that some are chosen, by what the answers of the rounds before tell; the first are random."""

    def pool(self, num_pairs: int, most: int | None = None) -> int:
        """Return how many pairs to draw as candidates, and no more than there are."""
        wanted = num_pairs if self.query == "uniform" else num_pairs * self.candidates
        return wanted if most is None or num_pairs > most else min(wanted, most)

    @property
    def metadata(self) -> dict[str, str]:
        """What comparisons that were chosen say of it."""
        return {} if self.query == "uniform" else {"query": self.query}

    def check_pool(self) -> None:
        """Raise ValueError for a way to choose that goes with options that come again."""
        if self.query not in get_args(PoolQueryKind):
            raise ValueError(f"query is {self.query!r}, which counts how often an option was asked about; "
                             "segments drawn at random do not come again: choose one of "
                             f"{', '.join(get_args(PoolQueryKind))}")  # fmt: skip


class Belief(ABC):
    """What is believed of N pairs."""

    num_pairs: int

    @abstractmethod
    def fit(self, asked: Asked) -> None:
        """Take in all answers so far."""

    @abstractmethod
    def candidates(self, places: Tensor, rule: Rule) -> Candidates:
        """Return what a rule needs to know of the pairs at places [n]."""


class SegmentBelief(Belief):
    """A reward model's belief about pairs of segments, fitted on with every round's answers.

    Args:
        model: the reward model.
        first: N segments.
        second: what each is compared with.
    """

    def __init__(self, model: RewardModel, first: Segments, second: Segments) -> None:
        self.model, self.num_pairs = model, len(first)
        # features that this model does not read would have to fit it
        sides = (
            (first, second) if model.num_features else (replace(s, features=None) for s in (first, second))
        )
        self._first, self._second = sides
        self._answers: Preferences | None = None

    def fit(self, asked: Asked) -> None:
        """See :meth:`Belief.fit`."""
        told = asked.weights > 0
        places = asked.places[told]
        answers = Preferences.from_labels(self._first[places], self._second[places], asked.labels[told])
        self._answers = replace(answers, weights=asked.weights[told]).to(self.model.device)
        self.model.fit(self._answers)

    def candidates(self, places: Tensor, rule: Rule) -> Candidates:
        """See :meth:`Belief.candidates`."""
        first, second = (side[places].to(self.model.device) for side in (self._first, self._second))
        slopes = information = None
        if rule.needs == "slopes":
            slopes = self.model.slopes(second) - self.model.slopes(first)
            information = None if self._answers is None else self.model.information(self._answers)
        return Candidates(self.model.scores(first), self.model.scores(second), slopes, information)


class LinearBelief(Belief):
    """A belief about utilities that are linear in features: Bradley and Terry's, with a normal prior.

    The posterior is taken as normal about its mode, with the inverse of the information (Laplace); members
    are draws from it, each with its mirror image, so that their mean is the mode.

    Args:
        features: [K, F] float64 of the options; unit vectors for a utility of its own for each.
        first: [N] int64 places of the pairs' first options.
        second: [N] of their second ones.
        deviation: of a pair's log-odds before anything was answered, on the average.
        draws: pairs of members.
        seed: of the draws.
    """

    def __init__(
        self, features: Tensor, first: Tensor, second: Tensor, *, deviation: float = PRIOR_DEVIATION,
        draws: int = 32, seed: int = 0,
    ) -> None:  # fmt: skip
        self._features, self._first, self._second = features, first, second
        self._deviation = checked(Positive, deviation, "deviation")
        self.num_pairs, count = len(first), checked(Count, draws, "draws")
        self._generator = seeded_generator(seed, "belief")
        self._draws = torch.randn(features.shape[1], count, generator=self._generator, dtype=torch.float64)
        self._degrees = torch.zeros(len(features), dtype=torch.int64)
        some = torch.arange(self.num_pairs)[:CONSIDERED]
        self._prior = prior_information(self.slopes(some), deviation)
        self._mode, self._information = features.new_zeros(features.shape[1]), torch.zeros_like(self._prior)

    def slopes(self, places: Tensor) -> Tensor:
        """Return the log-odds' slopes in the utilities' parameters [n, F]."""
        return self._features[self._second[places]] - self._features[self._first[places]]

    def fit(self, asked: Asked) -> None:
        """See :meth:`Belief.fit`."""
        slopes = self.slopes(asked.places)
        ridge = float(self._prior[0, 0] / asked.weights.sum())  # against the mean of the losses
        labels, weights = asked.labels[None].double(), asked.weights[None].double()
        self._mode = logistic_regression(slopes[None], labels, weights, ridge=ridge)[0]
        self._information = fisher_information(slopes, slopes @ self._mode, weights[0])
        ends = torch.cat([self._first[asked.places], self._second[asked.places]])
        self._degrees = ends.bincount(minlength=len(self._features))

    def candidates(self, places: Tensor, rule: Rule) -> Candidates:
        """See :meth:`Belief.candidates`."""
        factor = torch.linalg.cholesky(self._information + self._prior)
        away = torch.linalg.solve_triangular(factor.T, self._draws, upper=True)
        parameters = self._mode[:, None] + torch.cat([away, -away], 1)
        first, second = self._first[places], self._second[places]
        scores = [(self._features[side] @ parameters).T for side in (first, second)]
        degrees = self._degrees[first] + self._degrees[second]
        slopes = self.slopes(places) if rule.needs == "slopes" else None
        return Candidates(scores[0], scores[1], slopes, self._information, degrees, self._generator)


def ask_in_rounds(
    belief: Belief, count: int, answer: Answer, *, query: OptionQueryKind = "disagreement", rounds: int = 8,
    start: Tensor | None = None, seed: int = 0,
) -> Asked:  # fmt: skip
    """Ask about ``count`` pairs of a pool, each once, and return the answers.

    Args:
        belief: what is believed of the pairs; it is fitted between rounds.
        count: questions in all, those that are skipped included.
        answer: who is asked.
        query: how questions are chosen.
        rounds: of about as many questions each; the first are random, unless given.
        start: [n] places of the first round's questions.
        seed: of what is drawn.

    Raises:
        ValueError: for a bad argument, or if the pool is too small.
    """
    checked(OptionQueryKind, query, "query")
    checked(Count, count, "count"), checked(Count, rounds, "rounds")
    if count > belief.num_pairs:
        raise ValueError(f"count is {count}; the pool has {belief.num_pairs} pairs")
    rule, draws = RULES[query], seeded_generator(checked(Natural, seed, "seed"), "rounds")
    left = torch.ones(belief.num_pairs, dtype=torch.bool)
    asked = Asked(torch.zeros(0, dtype=torch.int64), *torch.zeros(2, 0, dtype=torch.float64))
    for number in range(rounds):
        size = -(-(count - len(asked.places)) // (rounds - number))
        if size < 1:
            break
        if number == 0 and start is not None:
            chosen = start[:count]
        else:
            places = torch.nonzero(left)[:, 0]
            places = places[torch.randperm(len(places), generator=draws)]
            told = rule.needs != "nothing" and bool((asked.weights > 0).any())
            chosen = _choose(belief, rule, places, size) if told else places[:size]
        left[chosen] = False
        labels, weights = answer(chosen)
        pairs = zip(asked, (chosen, labels.double(), weights.double()), strict=True)
        asked = Asked(*(torch.cat([before, now]) for before, now in pairs))
        if rule.needs != "nothing" and bool((asked.weights > 0).any()) and len(asked.places) < count:
            belief.fit(asked)
    return asked


def _choose(belief: Belief, rule: Rule, places: Tensor, size: int) -> Tensor:
    """Return ``size`` of the pairs that are left, in random order, or all."""
    limit = CONSIDERED_BY_DESIGN if rule.needs == "slopes" else CONSIDERED
    places = places[: max(size, limit)]
    return places[rule.choose(belief.candidates(places, rule), size).cpu()]


def rounds_of_segments(
    rounds: Rounds, model: RewardModel, first: Segments, second: Segments, count: int, answer: Answer, *,
    seed: int = 0,
) -> Asked:  # fmt: skip
    """Return :func:`ask_in_rounds` about pairs of segments, by a reward model.

    Raises:
        ValueError: also for a way to choose that this model, or pairs of segments, cannot serve.
    """
    rounds.check_pool()
    check_members(rounds.query, model.config.members)
    belief = SegmentBelief(model, first, second)
    return ask_in_rounds(belief, count, answer, query=rounds.query, rounds=rounds.rounds, seed=seed)


def ask_options(
    num_options: int, count: int, answer: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], rounds: Rounds,
    *, groups: int = 1, seed: int = 0,
) -> tuple[Tensor, Tensor, Asked]:  # fmt: skip
    """Ask about ``count`` different pairs of K options that come again, by a utility for each of them.

    Active edges begin with a circle through all options, whatever the number of rounds (arXiv 2502.08640).

    Args:
        num_options: K.
        count: questions; there are K (K - 1) / 2 in each group.
        answer: returns labels [n] and weights [n] of first and second options [n].
        rounds: how they are chosen.
        groups: of K options each, of which only those of one group are compared; option k of group g is
            g K + k.
        seed: of what is drawn.

    Returns:
        First and second options [n], and what was answered; its places count pairs of the pool.

    Raises:
        ValueError: for a bad argument, or if there are fewer pairs, or more than 2,000 options.
    """
    if checked(Count, num_options, "num_options") * checked(Count, groups, "groups") > MAX_OPTIONS:
        raise ValueError(f"there are {num_options * groups} options; questions are chosen about at most "
                         f"{MAX_OPTIONS}")  # fmt: skip
    draws = seeded_generator(checked(Natural, seed, "seed"), "options")
    one, other = torch.triu_indices(num_options, num_options, 1)
    offsets = num_options * torch.arange(groups)[:, None]
    pairs = torch.stack([(side + offsets).flatten() for side in (one, other)])
    turned = torch.rand(pairs.shape[1], generator=draws) < 0.5
    first, second = torch.where(turned, pairs.flip(0), pairs)
    belief = LinearBelief(torch.eye(groups * num_options, dtype=torch.float64), first, second, seed=seed)
    start = None
    if rounds.query == "active_edges" and num_options > 1:
        ends = [torch.stack(ring_edges(num_options, draws)).sort(0).values for _ in range(groups)]
        low, high = torch.stack(ends, 1)  # [groups, edges]
        place = low * num_options - low * (low + 1) // 2 + high - low - 1
        start = (place + len(one) * torch.arange(groups)[:, None]).flatten()

    def of_places(places: Tensor) -> tuple[Tensor, Tensor]:
        return answer(first[places], second[places])

    asked = ask_in_rounds(belief, count, of_places, query=rounds.query, rounds=rounds.rounds, start=start,
                          seed=seed)  # fmt: skip
    return first[asked.places], second[asked.places], asked
