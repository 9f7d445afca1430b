"""Keys in order: which tuples are larger, and which actions are best."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

TOLERANCE = 1e-12
"""Keys that differ by less are equal; of equally good actions the first is taken."""


def exceeds(keys: Sequence[Tensor], others: Sequence[Tensor], tolerance: float = TOLERANCE) -> Tensor:
    """Return [...] where J keys, [...] each, are better than others, compared in order."""
    better = torch.zeros_like(keys[0], dtype=torch.bool)
    equal = torch.ones_like(better)
    for key, other in zip(keys, others, strict=True):
        gap = key - other
        better = better | (equal & (gap > tolerance))
        equal = equal & (gap.abs() <= tolerance)
    return better


def best_actions(keys: Tensor, tolerance: float = TOLERANCE) -> Tensor:
    """Return the first action [...] of those with the best keys [..., A, J], which are compared in order."""
    # Action by action: reductions over an axis as short as this one cost several times as much.
    chosen = torch.zeros_like(keys[..., 0, 0], dtype=torch.int64)
    held = keys[..., 0, :].unbind(-1)
    for action in range(1, keys.shape[-2]):
        rivals = keys[..., action, :].unbind(-1)
        better = exceeds(rivals, held, tolerance)
        chosen = torch.where(better, action, chosen)
        held = tuple(torch.where(better, r, b) for r, b in zip(rivals, held, strict=True))
    return chosen
