"""Questions made of segments: which ones stand together, and which have an answer that is obvious."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from .records import MOST_ITEMS, Item, Kind, NewQuestion, StoredSegment

MOST_LISTED = 200_000
"""Groups that are listed to draw from, where most of all that there are are wanted."""


@dataclass(frozen=True, eq=False)
class Pool:
    """Segments that questions are made of.

    Raises:
        ValueError: if there is no segment, or not one return for each.
    """

    segments: Sequence[StoredSegment]
    """N, all different."""

    returns: NDArray[np.float64] | None = None
    """[N] true returns, where they are known."""

    pairs: Sequence[tuple[int, int]] = ()
    """Places of segments that belong together; empty: any two may stand in a pair."""

    def __post_init__(self) -> None:
        if not self.segments:
            raise ValueError("there are no segments to ask about")
        if self.returns is not None and self.returns.shape != (len(self.segments),):
            raise ValueError(
                f"returns have shape {self.returns.shape}; there are {len(self.segments)} segments"
            )


def make_questions(
    pool: Pool, kind: Kind, count: int, *, items: int = 2, practice: int = 0, checks: int = 0, seed: int = 0
) -> list[NewQuestion]:
    """Return questions about the segments of a pool, those whose answer is known spread among the others.

    Args:
        pool: the segments.
        kind: "pair", "ranking" or "rating".
        count: questions, without those for practice and those whose answer is known.
        items: clips of a ranking; a pair has two, a rating one.
        practice: questions for practice, besides: obvious ones as far as there are, which tell afterwards
            what was meant.
        checks: pairs whose true returns are far apart, besides.
        seed: of all draws.

    Raises:
        ValueError: if the segments do not suffice, or no returns are known that are far apart.
    """
    size = {"pair": 2, "ranking": items, "rating": 1}[kind]
    if not 1 <= size <= MOST_ITEMS:
        raise ValueError(f"items is {items}; a ranking has 2 to {MOST_ITEMS} clips")
    if checks and kind != "pair":
        raise ValueError(
            f"checks is {checks}; only pairs can be obvious, and these are questions of kind {kind!r}"
        )
    rng = np.random.default_rng([seed, 1])
    if kind == "pair" and pool.pairs:
        groups = _some_of(pool.pairs, count + practice, rng)
    else:
        groups = draw_groups(len(pool.segments), count + practice, size, rng)
    asked = [_question(pool, group, f"{kind}/{place}") for place, group in enumerate(groups[practice:])]
    known = min(practice, far_pairs(pool) - checks) if kind == "pair" and not pool.pairs else 0
    obvious = obvious_pairs(pool, checks + max(0, known), rng)
    for place, (group, answer) in enumerate(obvious[:checks]):
        # After so many others that all parts of a study have their share of them.
        where = min((place + 1) * (count // (checks + 1)) + place, len(asked))
        asked.insert(where, _question(pool, group, f"check/{place}", check_answer=answer))
    taught = [*obvious[checks:], *((group, None) for group in groups[:practice])][:practice]
    tried = [_question(pool, group, f"practice/{place}", check_answer=answer, practice=True)
             for place, (group, answer) in enumerate(taught)]  # fmt: skip
    return tried + asked


def factor_question(names: Sequence[str]) -> NewQuestion:
    """Return the question in which order factors matter.

    Raises:
        ValueError: if there are fewer than two, or too many.
    """
    if not 2 <= len(names) <= MOST_ITEMS:
        raise ValueError(f"there are {len(names)} factors; 2 to {MOST_ITEMS} can be put in order")
    return NewQuestion(tuple(Item(factor=name) for name in names), "factors")


def _question(
    pool: Pool, group: Sequence[int], key: str, *, check_answer: str | None = None, practice: bool = False
) -> NewQuestion:
    items = tuple(Item(pool.segments[place].digest) for place in group)
    return NewQuestion(items, key, check_answer=check_answer, practice=practice)


def draw_groups(number: int, count: int, size: int, rng: np.random.Generator) -> list[tuple[int, ...]]:
    """Return different groups of different segments; every segment is used before one is used again.

    Args:
        number: segments there are.
        count: groups.
        size: segments of a group.
        rng: draws.

    Raises:
        ValueError: if there are not so many groups.
    """
    possible = math.comb(number, size)
    if possible < count:
        raise ValueError(f"{count} questions of {size} are wanted; of {number} different segments {possible} "
                         "can be made")  # fmt: skip
    if possible <= MOST_LISTED and 2 * count > possible:
        return _some_of(list(combinations(range(number), size)), count, rng)
    found: dict[frozenset[int], tuple[int, ...]] = {}
    order: list[int] = []
    while len(found) < count:
        if len(order) < size:
            order = rng.permutation(number).tolist()
        group, order = tuple(order[:size]), order[size:]
        found.setdefault(frozenset(group), group)
    return list(found.values())


def _some_of(
    groups: Sequence[tuple[int, ...]], count: int, rng: np.random.Generator
) -> list[tuple[int, ...]]:
    """Return some groups, drawn without repeats, each in an order that is drawn too."""
    if len(groups) < count:
        raise ValueError(f"{count} questions are wanted; there are {len(groups)}")
    chosen = rng.permutation(len(groups))[:count]
    return [tuple(rng.permutation(groups[place]).tolist()) for place in chosen]


def far_pairs(pool: Pool) -> int:
    """Return how many pairs of segments of their own have returns that are far apart."""
    if pool.returns is None or not pool.returns.std() > 0.0:
        return 0
    half, ordered = len(pool.returns) // 2, np.sort(pool.returns)
    return int((ordered[::-1][:half] - ordered[:half] >= 2.0 * pool.returns.std()).sum())


def obvious_pairs(pool: Pool, count: int, rng: np.random.Generator) -> list[tuple[tuple[int, int], str]]:
    """Return pairs of segments whose returns are far apart, and which is better: "first" or "second".

    The worst stand against the best. Far apart are two standard deviations of all returns.

    Raises:
        ValueError: if no returns are known, or there are not so many such pairs.
    """
    if not count:
        return []
    if pool.returns is None:
        raise ValueError(f"checks is {count}; no true returns are known, so no pair is obvious")  # fmt: skip
    far = far_pairs(pool)
    if far < count:
        raise ValueError(f"checks is {count}; the true returns of {far} pairs of segments are far apart")
    order = np.argsort(pool.returns, kind="stable")
    pairs = [(int(low), int(high)) for low, high in zip(order[:count], order[::-1][:count], strict=True)]
    turned = rng.random(count) < 0.5
    return [((high, low), "first") if turn else ((low, high), "second")
            for turn, (low, high) in zip(turned, pairs, strict=True)]  # fmt: skip
