"""Chunks of consecutive actions out of a data set."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from prefrl.data import TransitionDataset
from prefrl.functional.draws import integers
from prefrl.nn.likelihood_policies import Actions


class ChunkBatch(NamedTuple):
    """B chunks, on the agent's device."""

    obs: Tensor
    """[B, ...] observations that they begin at."""
    chunks: Tensor
    """[B, C] their actions as the policy has them."""


def chunk_starts(dataset: TransitionDataset, horizon: int) -> Tensor:
    """Return the rows [M] of a data set that begin ``horizon`` steps of one episode.

    Raises:
        ValueError: if there are none.
    """
    count = len(dataset) - horizon + 1
    whole = torch.ones(max(0, count), dtype=torch.bool)
    for place in range(horizon - 1 if count > 0 else 0):
        whole &= dataset.has_next_action[place : place + count]
    if not bool(whole.any()):
        raise ValueError(f"horizon is {horizon}; no episode of the dataset has as many actions")
    return torch.nonzero(whole)[:, 0]


class Chunks:
    """All chunks of H consecutive actions that lie within an episode of a data set.

    What an episode has less than H actions before its end begins no chunk.

    Args:
        dataset: the data.
        horizon: H.
        actions: what the space's actions are to the policy.
        device: where they are kept.

    Raises:
        ValueError: if no episode has H actions.
    """

    def __init__(
        self, dataset: TransitionDataset, horizon: int, actions: Actions, device: torch.device
    ) -> None:
        self.starts = chunk_starts(dataset, horizon).to(device)
        self.obs = dataset.obs.to(device)
        self.raw = actions.from_env(dataset.actions.to(device)).to(torch.float32)
        self._steps = torch.arange(horizon, device=device)

    def __len__(self) -> int:
        return len(self.starts)

    def sample(self, count: int, generator: torch.Generator) -> ChunkBatch:
        """Return chunks drawn with replacement."""
        rows = self.starts[integers(generator, len(self), count, device=self.starts.device)]
        return ChunkBatch(self.obs[rows], self.raw[rows[:, None] + self._steps].flatten(1))
