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
        if len(rows) == 1 and rows.device.type == "cpu":
            self._add_row(rows, mask)
            return
        weights = mask.to(torch.float64)[:, None]
        rows = rows.to(torch.float64)
        count = weights.sum()
        mean = (rows * weights).sum(0) / count.clamp(min=1.0)
        total = (self.count + count).clamp(min=1.0)
        gap = mean - self.mean
        self._squares += ((rows - mean).square() * weights).sum(0) + gap.square() * self.count * count / total
        self.mean += gap * count / total
        self.count += count

    def _add_row(self, rows: Tensor, mask: Tensor) -> None:
        """Do the same for a single row on the CPU: with seven calls of NumPy's for twenty of torch's."""
        if mask.item():
            count, mean, squares = self.count.item(), self.mean.numpy(), self._squares.numpy()
            gap, total = rows.numpy()[0] - mean, count + 1.0
            squares += gap * gap * count / total
            mean += gap / total
            self.count.fill_(total)

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


class StackedMoments:
    """Means and variances of S streams of vectors, each by itself, without waiting for the device.

    Args:
        learners: S.
        size: D.
        device: torch device.
        numeric: [D] bool, entries that are measured; None: all. Others are taken to have mean 0 and standard
            deviation 1.

    Attributes:
        mean: [S, 1, D] float64; 0 before the first rows.
        shift: [S, 1, D] float32, the mean.
        scale: [S, 1, D] float32, one over the standard deviation; 1 before the first rows.
    """

    FLOOR = 1e-8
    """Added to variances, as in SB3."""

    def __init__(self, learners: int, size: int, device: torch.device, numeric: Tensor | None = None) -> None:
        self.count = torch.zeros(learners, 1, 1, dtype=torch.float64, device=device)
        self.mean = torch.zeros(learners, 1, size, dtype=torch.float64, device=device)
        self._squares = torch.zeros_like(self.mean)
        self._numeric = torch.ones(size, dtype=torch.bool) if numeric is None else numeric
        self._numeric = self._numeric.to(device)
        self._settle()

    def _settle(self) -> None:
        known = (self.count > 0.0) & self._numeric
        variance = self._squares / self.count.clamp(min=1.0)
        self.shift = torch.where(known, self.mean, 0.0).to(torch.float32)
        self.scale = torch.where(known, (variance + self.FLOOR).rsqrt(), 1.0).to(torch.float32)

    def add(self, rows: Tensor, weights: Tensor) -> None:
        """Take in rows [S, n, D], each as often as its weight [S, n] says (Chan, Golub and LeVeque 1983)."""
        weights = weights.to(torch.float64)[..., None]
        count = weights.sum(1, keepdim=True)
        rows = rows.to(torch.float64)
        mean = (rows * weights).sum(1, keepdim=True) / count.clamp(min=1.0)
        total = (self.count + count).clamp(min=1.0)
        gap = mean - self.mean
        within = ((rows - mean).square() * weights).sum(1, keepdim=True)
        self._squares += within + gap.square() * self.count * count / total
        self.mean += gap * count / total
        self.count += count
        self._settle()

    def normalized(self, rows: Tensor, largest: float) -> Tensor:
        """Return rows [S, n, D] with mean 0 and standard deviation 1, cut at ``largest``."""
        return ((rows - self.shift) * self.scale).clamp(-largest, largest)

    def state_dict(self) -> dict[str, Tensor]:
        """Return count, mean and squares."""
        return {"count": self.count, "mean": self.mean, "squares": self._squares}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned."""
        self.count.copy_(state["count"])
        self.mean.copy_(state["mean"])
        self._squares.copy_(state["squares"])
        self._settle()
