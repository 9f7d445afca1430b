"""Mean and standard deviation of a stream of vectors, on the device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class RunningMoments:
    """Mean and standard deviation of all rows so far, one pass, without waiting for the device.

    Args:
        size: D.
        device: torch device.

    Attributes:
        mean: [D] float64.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        self.count = torch.zeros((), dtype=torch.float64, device=device)
        self.mean = torch.zeros(size, dtype=torch.float64, device=device)
        self._squares = torch.zeros(size, dtype=torch.float64, device=device)
        """[D] sums of squared deviations from the mean."""

    def add(self, rows: Tensor, mask: Tensor) -> None:
        """Take in rows [n, D] where ``mask`` [n] is True (Chan, Golub and LeVeque 1983)."""
        weights = mask.to(torch.float64)[:, None]
        rows = rows.to(torch.float64)
        count = weights.sum()
        mean = (rows * weights).sum(0) / count.clamp(min=1.0)
        total = (self.count + count).clamp(min=1.0)
        gap = mean - self.mean
        self._squares += ((rows - mean).square() * weights).sum(0) + gap.square() * self.count * count / total
        self.mean += gap * count / total
        self.count += count

    def std(self, floor: float) -> Tensor:
        """Return standard deviations [D] float32, at least ``floor``; 1 before there are two rows."""
        std = (self._squares / self.count.clamp(min=1.0)).sqrt().clamp(min=floor)
        return torch.where(self.count > 1.0, std, torch.ones_like(std)).to(torch.float32)

    def state_dict(self) -> dict[str, Tensor]:
        """Return count, mean and squares."""
        return {"count": self.count, "mean": self.mean, "squares": self._squares}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned."""
        self.count.copy_(state["count"])
        self.mean.copy_(state["mean"])
        self._squares.copy_(state["squares"])
