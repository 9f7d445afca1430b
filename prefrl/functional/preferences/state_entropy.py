"""Reward for being somewhere new: a nearest-neighbour estimate of the entropy of states (PEBBLE)."""

from __future__ import annotations

import torch
from torch import Tensor


def nearest_neighbour_reward(obs: Tensor, others: Tensor, k: int) -> Tensor:
    """Return log(1 + distance to the k-th nearest of others) [n].

    PEBBLE (Lee et al. 2021, arXiv 2106.05091, section 4.1) rewards log of that distance, to which the
    entropy of the visited states is proportional; the 1 keeps it finite where states repeat.

    Args:
        obs: [n, d] observations, each coordinate on its own scale.
        others: [m, d] what was visited, m at least k.
        k: which neighbour.
    """
    distances = torch.cdist(obs, others)
    return torch.log1p(distances.kthvalue(min(k, len(others)), dim=1).values)
