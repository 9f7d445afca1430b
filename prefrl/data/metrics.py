"""Means of what updates report, without waiting for the device."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

OF_NOTHING = ("reward_model/accuracy", "train/explained_variance")
"""Metrics that may be NaN, and are left out then: the share of none, how well a constant is explained."""


class Metrics:
    """Running means of what ``update()`` returns, summed where the metrics live, without waiting for them."""

    def __init__(self) -> None:
        # One vector per set of names: adding it up costs two calls, however many names there are.
        self._sums: dict[tuple[str, ...], Tensor] = {}
        self._counts: dict[tuple[str, ...], int] = {}

    def add(self, metrics: Mapping[str, Tensor]) -> None:
        """Take in the scalars of one update."""
        if not metrics:
            return
        names = tuple(metrics)
        values = torch.stack(list(metrics.values())).detach()
        if names in self._sums:
            self._sums[names] += values
            self._counts[names] += 1
        else:
            self._sums[names], self._counts[names] = values.to(torch.float64), 1

    def means(self) -> dict[str, float]:
        """Fetch the means since :meth:`clear`, in one transfer."""
        if not self._sums:
            return {}
        sums: dict[str, float] = {}
        counts: dict[str, int] = {}
        values = iter(torch.cat(list(self._sums.values())).tolist())
        for names, count in self._counts.items():
            for name in names:
                sums[name] = sums.get(name, 0.0) + next(values)
                counts[name] = counts.get(name, 0) + count
        means = {name: value / counts[name] for name, value in sums.items()}
        return {name: value for name, value in means.items() if name not in OF_NOTHING or value == value}

    def clear(self) -> None:
        """Forget everything."""
        self._sums, self._counts = {}, {}

    def state_dict(self) -> dict[str, Any]:
        """Return sums and counts by name, or by names with commas between them."""
        return {
            "sums": {",".join(names): value for names, value in self._sums.items()},
            "counts": {",".join(names): count for names, count in self._counts.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Continue from what :meth:`state_dict` returned; older ones hold a scalar per name."""
        self._sums = {tuple(names.split(",")): value.to(device).reshape(-1)
                      for names, value in state["sums"].items()}  # fmt: skip
        self._counts = {tuple(names.split(",")): int(count) for names, count in state["counts"].items()}


def mean_of(metrics: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean of each metric over those gradient steps that report it."""
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    for step in metrics:
        for name, value in step.items():
            sums[name] = sums[name] + value if name in sums else value
            counts[name] = counts.get(name, 0) + 1
    return {name: value / counts[name] if counts[name] > 1 else value for name, value in sums.items()}
