"""Chunks of actions out of comparisons and demonstrations, as diffusion policies learn from them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from prefrl.agents.actor_critic.diffusion.chunks import ChunkBatch, Chunks
from prefrl.agents.base import Agent
from prefrl.agents.preferences.compared_segments import check_preferences
from prefrl.agents.shared import check_dataset
from prefrl.data import Preferences, TransitionDataset
from prefrl.nn.diffusion.policy import DenoisingPolicy


class ComparedChunks(NamedTuple):
    """N comparisons, cut into c chunks a side from their first steps on."""

    obs: Tensor
    """[N, 2, c, ...] observations that chunks begin at."""
    chunks: Tensor
    """[N, 2, c, C] actions as the policy has them."""
    mask: Tensor
    """[N, 2, c] bool: whether the whole chunk lies within its segment."""
    labels: Tensor
    """[N] float32."""
    weights: Tensor
    """[N] float32, of mean 1."""
    offsets: Tensor
    """[N] float32."""

    def rows(self, index: Tensor) -> ComparedChunks:
        """Return some of them."""
        return ComparedChunks(*(values[index] for values in self))


def compared_chunks(agent: Agent, policy: DenoisingPolicy, preferences: Preferences) -> ComparedChunks:
    """Return comparisons as a policy reads them, on its device.

    Raises:
        TypeError: if they are none.
        ValueError: if they are of other spaces, or no segment is as long as the policy's horizon.
    """
    check_preferences(preferences, agent.observation_space, agent.action_space)
    horizon, device = policy.horizon, agent.device
    longest = max(preferences.first.max_length, preferences.second.max_length)
    whole = longest // horizon * horizon
    sides = [side.padded(longest).to(device) for side in (preferences.first, preferences.second)]
    obs = torch.stack([side.obs[:, :whole:horizon] for side in sides], 1)
    acted = torch.stack([side.actions[:, :whole] for side in sides], 1)
    mask = torch.stack([side.mask[:, horizon - 1 : whole : horizon] for side in sides], 1)
    if not bool(mask.any()):
        raise ValueError(f"horizon is {horizon}; no segment of the preferences has as many actions")
    raw = policy.actions.from_env(acted.flatten(0, 2)).to(torch.float32)
    chunks = torch.where(mask[..., None], raw.view(*mask.shape, -1), 0.0)  # padding need not be actions
    labels, weights, offsets = (
        values.to(device, torch.float32)
        for values in (preferences.labels, preferences.weights, preferences.margins)
    )
    return ComparedChunks(obs, chunks, mask, labels, weights / weights.mean(), offsets)


def preferred_chunks(agent: Agent, policy: DenoisingPolicy, preferences: Preferences) -> ChunkBatch:
    """Return the chunks [M] of the preferred sides of comparisons; those without one, or weight, have none.

    Raises:
        TypeError: if they are none.
        ValueError: as :func:`compared_chunks`, or if no side is preferred.
    """
    compared = compared_chunks(agent, policy, preferences)
    second = (compared.labels > 0.5).to(torch.int64)
    pairs = torch.arange(len(second), device=second.device)
    counts = (compared.labels != 0.5) & (compared.weights > 0)
    mask = compared.mask[pairs, second] & counts[:, None]
    if not bool(mask.any()):
        raise ValueError("preferences have no preferred side: every label is 0.5, or its weight 0")
    return ChunkBatch(compared.obs[pairs, second][mask], compared.chunks[pairs, second][mask])


def demonstrated_chunks(agent: Agent, policy: DenoisingPolicy, dataset: TransitionDataset) -> ChunkBatch:
    """Return all chunks [M] of demonstrations.

    Raises:
        TypeError: if they are none.
        ValueError: if they are of other spaces, or no episode is as long as the policy's horizon.
    """
    check_dataset(agent, dataset)
    found = Chunks(dataset, policy.horizon, policy.actions, agent.device)
    steps = torch.arange(policy.horizon, device=agent.device)
    return ChunkBatch(found.obs[found.starts], found.raw[found.starts[:, None] + steps].flatten(1))
