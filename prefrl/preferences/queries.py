"""What is asked: which of many candidate pairs are worth a label.

Sources: Christiano et al. 2017 (arXiv 1706.03741, disagreement); Lee et al. 2021 (B-Pref, arXiv 2111.03026,
section 3.3: uniform, disagreement, entropy).
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

QueryKind = Literal["uniform", "disagreement", "entropy", "recent"]
"""Ways to choose; "recent" chooses uniformly among segments of the latest behaviour."""


def disagreement(first_scores: Tensor, second_scores: Tensor) -> Tensor:
    """Return the standard deviation [N] over members of P(second preferred), of scores [E, N]."""
    spread: Tensor = torch.sigmoid(second_scores - first_scores).std(0, correction=0)
    return spread


def preference_entropy(first_scores: Tensor, second_scores: Tensor) -> Tensor:
    """Return the entropy [N], in nats, of the ensemble's mean P(second preferred), of scores [E, N]."""
    probability = torch.sigmoid(second_scores - first_scores).mean(0)
    entropy: Tensor = torch.special.entr(probability) + torch.special.entr(1.0 - probability)
    return entropy


def choose_queries(kind: QueryKind, count: int, first_scores: Tensor, second_scores: Tensor) -> Tensor:
    """Return the places [count] of the candidates to ask about.

    Args:
        kind: how.
        count: how many, at most N.
        first_scores: [E, N] scores of the candidates' first segments under each member.
        second_scores: [E, N] of their second ones.

    Raises:
        ValueError: if the kind is unknown, or there are fewer candidates.
    """
    candidates = first_scores.shape[1]
    if count > candidates:
        raise ValueError(f"count is {count}; there are {candidates} candidates")
    if kind in ("uniform", "recent"):
        return torch.arange(count, device=first_scores.device)  # candidates are drawn at random
    if kind == "disagreement":
        score = disagreement(first_scores, second_scores)
    elif kind == "entropy":
        score = preference_entropy(first_scores, second_scores)
    else:
        raise ValueError(f"kind is {kind!r}; it must be one of {list(get_args(QueryKind))}")
    return score.topk(count).indices
