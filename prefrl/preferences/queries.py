"""What is asked: which of many candidate pairs are worth a label.

Each way to choose is one line of :data:`RULES`, which says what it needs to know of the candidates.

Sources: Christiano et al. 2017 (arXiv 1706.03741, disagreement); Lee et al. 2021 (B-Pref, arXiv 2111.03026,
section 3.3: uniform, disagreement, entropy); for the others see
:mod:`prefrl.functional.preferences.general_models.questions`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from prefrl.functional.preferences.general_models import questions

QueryKind = Literal[
    "uniform", "recent", "disagreement", "entropy", "bald", "variance", "d_optimal", "g_optimal",
    "expected_improvement", "knowledge_gradient",
]  # fmt: skip
"""Ways to choose among pairs of segments that an agent visits; "recent" chooses uniformly among segments of
the latest behaviour."""

PoolQueryKind = Literal[
    "uniform", "disagreement", "entropy", "bald", "variance", "d_optimal", "g_optimal",
    "expected_improvement", "knowledge_gradient",
]  # fmt: skip
"""Ways to choose among pairs of segments of a data set."""

OptionQueryKind = Literal[
    "uniform", "disagreement", "entropy", "bald", "variance", "d_optimal", "g_optimal",
    "expected_improvement", "knowledge_gradient", "active_edges",
]  # fmt: skip
"""Ways to choose among pairs of options that come again: those of a pool, and active edges."""

CONTENDERS = 32
"""Segments that may turn out to be the best, by knowledge gradient: those whose mean plus two deviations is
largest."""

PRIOR_DEVIATION = 3.0
"""Standard deviation of a pair's log-odds before anything was answered, where a belief is a normal one."""


@dataclass(frozen=True)
class Candidates:
    """N pairs that may be asked about, as a model sees them."""

    first_scores: Tensor
    """[E, N] scores of the first segments under each member."""
    second_scores: Tensor
    """[E, N] of the second ones."""
    slopes: Tensor | None = None
    """[N, P] of the log-odds that the second is preferred, in the parameters."""
    information: Tensor | None = None
    """[P, P] Fisher information of the answers that there are; None: there are none."""
    degrees: Tensor | None = None
    """[N] how often the pair's two options were asked about, together."""
    generator: torch.Generator | None = None
    """Draws where chance decides."""

    @property
    def log_odds(self) -> Tensor:
        """[E, N] that the second is preferred."""
        return self.second_scores - self.first_scores


def disagreement(first_scores: Tensor, second_scores: Tensor) -> Tensor:
    """Return the standard deviation [N] over members of P(second preferred), of scores [E, N]."""
    spread: Tensor = torch.sigmoid(second_scores - first_scores).std(0, correction=0)
    return spread


def preference_entropy(first_scores: Tensor, second_scores: Tensor) -> Tensor:
    """Return the entropy [N], in nats, of the ensemble's mean P(second preferred), of scores [E, N]."""
    return questions.binary_entropy(torch.sigmoid(second_scores - first_scores).mean(0))


def improvement(candidates: Candidates) -> Tensor:
    """Return by how much the two segments of a pair may be better than the best mean [N], added up.

    Members count as draws from a normal belief. Comparisons tell a score up to a constant; so each member's
    are measured from their mean.
    """
    mean, deviation = _utilities(candidates).mean(0), _utilities(candidates).std(0, correction=0)
    each = questions.expected_improvement(mean, deviation, mean.max())
    return each.reshape(2, -1).sum(0)


def knowledge(candidates: Candidates) -> Tensor:
    """Return how much better [N] the best segment of all is expected to be known to be after an answer.

    Members count as draws from a normal belief about all segments; an answer counts as a normal observation
    of the difference of two of them, with variance 1 / (p (1 - p)), the inverse of its Fisher information.
    """
    utilities = _utilities(candidates)
    mean = utilities.mean(0)
    promise = mean + 2.0 * utilities.std(0, correction=0)
    contenders = promise.topk(min(CONTENDERS, len(mean))).indices
    gaps = candidates.log_odds
    p = torch.sigmoid(gaps.mean(0))
    gaps = gaps - gaps.mean(0)
    moved = gaps.T @ (utilities - mean)[:, contenders] / len(gaps)  # [N, K] covariances
    variance = gaps.square().mean(0) + 1.0 / (p * (1.0 - p))
    return questions.knowledge_gradient(mean[contenders], moved / variance.sqrt()[:, None])


def _utilities(candidates: Candidates) -> Tensor:
    """Return scores [E, 2 N] of first and then second segments, each member's from its mean."""
    both = torch.cat([candidates.first_scores, candidates.second_scores], 1)
    return both - both.mean(1, keepdim=True)


def _any(candidates: Candidates, count: int) -> Tensor:
    return torch.arange(count, device=candidates.first_scores.device)  # candidates are drawn at random


def _top(worth: Callable[[Candidates], Tensor]) -> Callable[[Candidates, int], Tensor]:
    return lambda candidates, count: worth(candidates).topk(count).indices


def _design(greedy: Callable[[Tensor, Tensor, int], Tensor]) -> Callable[[Candidates, int], Tensor]:
    def choose(candidates: Candidates, count: int) -> Tensor:
        assert candidates.slopes is not None
        slopes = candidates.slopes
        known = questions.prior_information(slopes, PRIOR_DEVIATION)
        known = known if candidates.information is None else known + candidates.information
        inverse = questions.inverse_information(known)
        p = torch.sigmoid(candidates.log_odds).mean(0).to(slopes.dtype)
        return greedy((slopes @ inverse @ slopes.T)[None], 1.0 / (p * (1.0 - p))[None], count)[0]

    return choose


def _edges(candidates: Candidates, count: int) -> Tensor:
    assert candidates.degrees is not None
    assert candidates.generator is not None
    gaps = candidates.log_odds.mean(0).abs()
    return questions.active_edges(gaps, candidates.degrees, count, candidates.generator)


@dataclass(frozen=True)
class Rule:
    """How a kind of query chooses, and what it needs."""

    needs: Literal["nothing", "scores", "members", "slopes", "degrees"]
    """Of candidates: nothing, scores, scores of two members or more, slopes too, or degrees too."""
    choose: Callable[[Candidates, int], Tensor]
    """Returns the places [count] of candidates."""


RULES: Mapping[str, Rule] = {
    "uniform": Rule("nothing", _any),
    "recent": Rule("nothing", _any),
    "disagreement": Rule("members", _top(lambda of: disagreement(of.first_scores, of.second_scores))),
    "entropy": Rule("scores", _top(lambda of: preference_entropy(of.first_scores, of.second_scores))),
    "bald": Rule("members", _top(lambda of: questions.mutual_information(of.log_odds))),
    "variance": Rule("members", _top(lambda of: of.log_odds.var(0, correction=0))),
    "d_optimal": Rule("slopes", _design(questions.greedy_d_optimal)),
    "g_optimal": Rule("slopes", _design(questions.greedy_g_optimal)),
    "expected_improvement": Rule("members", _top(improvement)),
    "knowledge_gradient": Rule("members", _top(knowledge)),
    "active_edges": Rule("degrees", _edges),
}
"""Every way to choose."""


def check_members(kind: str, members: int) -> None:
    """Raise ValueError for an ensemble of one that is to disagree."""
    if RULES[kind].needs == "members" and members == 1:
        fine = [name for name, rule in RULES.items() if rule.needs in ("nothing", "scores", "slopes")]
        raise ValueError(f"query is {kind!r}, and the reward model has one member, who agrees with itself; "
                         f"give it members, or choose another query: {', '.join(fine)}")  # fmt: skip


def choose_queries(
    kind: OptionQueryKind | Literal["recent"],
    count: int,
    first_scores: Tensor,
    second_scores: Tensor,
    *,
    slopes: Tensor | None = None,
    information: Tensor | None = None,
    degrees: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return the places [count] of the candidates to ask about.

    Args:
        kind: how.
        count: how many, at most N.
        first_scores: [E, N] scores of the candidates' first segments under each member.
        second_scores: [E, N] of their second ones.
        slopes: [N, P] of the log-odds, for optimal designs.
        information: [P, P] of what was answered already, for optimal designs; None: nothing was.
        degrees: [N] how often the pair's options were asked about, for active edges.
        generator: draws, for active edges.

    Raises:
        ValueError: if the kind is unknown, there are fewer candidates, or something is missing.
    """
    if kind not in RULES:
        raise ValueError(f"kind is {kind!r}; it must be one of {list(RULES)}")
    candidates = first_scores.shape[1]
    if count > candidates:
        raise ValueError(f"count is {count}; there are {candidates} candidates")
    needs = RULES[kind].needs
    if needs == "slopes" and slopes is None:
        raise ValueError(f"kind is {kind!r}, which needs slopes of the log-odds; give slopes")
    if needs == "degrees" and (degrees is None or generator is None):
        raise ValueError(f"kind is {kind!r}, which is about options that come again; give degrees and a "
                         f"generator, or choose one of {list(get_args(PoolQueryKind))}")  # fmt: skip
    known = Candidates(first_scores, second_scores, slopes, information, degrees, generator)
    return RULES[kind].choose(known, count)
