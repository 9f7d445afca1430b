"""A ring of imagined transitions, on the device, of which the host knows neither place nor number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from prefrl.functional.draws import uniform

from .devices import unfilled


class ModelBuffer:
    """The latest transitions that a model made up, as the rows of one matrix.

    How many of the rows that are added count is known to the device alone (those whose episode goes on), so
    position and number are tensors: neither :meth:`add` nor :meth:`sample` waits.

    Args:
        capacity: rows to keep.
        width: numbers in a row.
        device: torch device.

    Raises:
        ValueError: if the capacity is below 1.
    """

    def __init__(self, capacity: int, width: int, device: torch.device) -> None:
        if capacity < 1:
            raise ValueError(f"capacity is {capacity}; it must be at least 1")
        self.capacity = capacity
        # One row more: what does not count is written there.
        self.storage = unfilled((capacity + 1, width), torch.float32, device)
        self.position = torch.zeros((), dtype=torch.int64, device=device)
        """[] where the next row goes."""
        self.filled = torch.zeros((), dtype=torch.int64, device=device)
        """[] rows that there are."""

    def add(self, rows: Tensor, counts: Tensor) -> None:
        """Take in those of the rows [N, width] for which ``counts`` [N] is True; the oldest make room.

        Raises:
            ValueError: if there are more rows than fit.
        """
        if len(rows) > self.capacity:
            raise ValueError(f"{len(rows)} rows are added to a buffer of {self.capacity}")
        rank = counts.cumsum(0)
        places = (self.position + rank - 1) % self.capacity
        self.storage[torch.where(counts, places, self.capacity)] = rows
        added = rank[-1]
        self.position = (self.position + added) % self.capacity
        self.filled = (self.filled + added).clamp(max=self.capacity)

    def resize(self, capacity: int) -> None:
        """Change the capacity; the newest rows stay.

        Raises:
            ValueError: if the capacity is below 1.
        """
        if capacity == self.capacity:
            return
        other = ModelBuffer(capacity, self.storage.shape[1], self.storage.device)
        kept = self.filled.clamp(max=capacity)
        place = torch.arange(capacity, device=self.storage.device)
        source = (self.position - kept + place) % self.capacity  # the oldest of those that stay comes first
        rows = self.storage[torch.where(place < kept, source, self.capacity)]
        other.storage[:capacity] = torch.where((place < kept)[:, None], rows, torch.zeros_like(rows))
        self.storage, self.capacity = other.storage, capacity
        self.filled, self.position = kept, kept % capacity

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw rows [count, width] uniformly, with replacement; the generator draws on its own device.

        From an empty buffer come rows of zeros.
        """
        draws = uniform(generator, count, device=self.storage.device, dtype=torch.float64)
        places = (draws * self.filled).long()
        return self.storage.index_select(0, torch.minimum(places, (self.filled - 1).clamp(min=0)))

    def state_dict(self) -> dict[str, Any]:
        """Return everything a bit-equal continuation needs."""
        return {"storage": self.storage, "position": self.position, "filled": self.filled}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned, with its capacity.

        Raises:
            ValueError: if its rows are of another width.
        """
        width = self.storage.shape[1]
        if state["storage"].shape[1] != width:
            raise ValueError(f"rows have {state['storage'].shape[1]} numbers; this buffer's have {width}")
        device = self.storage.device
        self.storage = state["storage"].to(device, copy=True)  # which is written in place
        self.capacity = len(self.storage) - 1
        self.position, self.filled = state["position"].to(device), state["filled"].to(device)
