"""Weights of a model's errors by how much the value depends on a prediction (VaGraM, arXiv 2204.01464)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from prefrl.data.moments import RunningMoments
from prefrl.functional.actor_critic.model_learning import value_gradient_weights

from .mbpo_config import MBPOConfig
from .networks import SoftActorCritic

GRADIENT_ROWS = 4096
"""Rows whose value gradients are taken at once."""


def entry_weights(
    networks: SoftActorCritic, config: MBPOConfig, rows: Mapping[str, Tensor], change: Tensor
) -> Tensor:
    """Return the weights [n, D] of squared errors of changes [n, D] of the observation.

    Where changes are fitted in standard deviations, the value's gradient is in them too.

    Args:
        networks: whose values.
        config: settings.
        rows: real transitions [n, ...] by name.
        change: of their observations, in their units.
    """
    parts = []
    for some in torch.split(rows["next_obs"], GRADIENT_ROWS):
        total = config.value_gradient_total
        parts.append(networks.total_gradients(some) if total else networks.partial_gradients(some)[1])
    gradients = torch.cat(parts, 1)
    if config.standardize_targets:
        moments = RunningMoments(change.shape[1], change.device)
        moments.add(change, rows["mask"])
        gradients = gradients * moments.std(0.0)
    return value_gradient_weights(
        gradients,
        clip_quantile=config.value_gradient_quantile,
        normalize=config.value_gradient_normalize,
        floor=config.value_gradient_floor,
        rows=rows["mask"],
    )
