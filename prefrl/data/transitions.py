"""Transitions, and which rows of a vector environment's step are transitions at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor


@dataclass(frozen=True)
class Transitions:
    """One step of ``n`` environments, on the agent's device.

    ``terminations`` masks the bootstrap, ``truncations`` never does. Rows with ``mask`` False are no
    transitions (see :func:`transition_mask`) and must not be learned from.
    """

    obs: Tensor
    """[n, ...] observations the actions were chosen at."""
    actions: Tensor
    """[n, ...] actions."""
    rewards: Tensor
    """[n] rewards."""
    next_obs: Tensor
    """[n, ...] true successors: never the first observation of a new episode."""
    terminations: Tensor
    """[n] bool: the successor is terminal."""
    truncations: Tensor
    """[n] bool: the episode was cut here, though it could have gone on."""
    mask: Tensor
    """[n] bool: the row is a transition."""


def transition_mask(autoreset_mode: AutoresetMode | str, previous_done: Any) -> Any:
    """Say which rows of a step are transitions.

    With NEXT_STEP, the row after an end carries a new episode's first observation with reward 0: it is none.
    With SAME_STEP (true successor in ``infos["final_obs"]``) and DISABLED every row is one.

    Args:
        autoreset_mode: the vector environment's ``metadata["autoreset_mode"]``, or its value as a string.
        previous_done: [n] bool, rows whose previous step terminated or was truncated.

    Returns:
        [n] bool, of the same kind (numpy or torch) as ``previous_done``.

    Raises:
        ValueError: if ``autoreset_mode`` is none.
    """
    if AutoresetMode(autoreset_mode) is AutoresetMode.NEXT_STEP:
        return ~previous_done
    return previous_done | ~previous_done


def successor_obs(autoreset_mode: AutoresetMode | str, next_obs: Any, infos: Mapping[str, Any]) -> Any:
    """Return the true successors [n, ...] of a step.

    With SAME_STEP the observation of a row that ended already belongs to the next episode; its true
    successor stands in ``infos["final_obs"]`` (an array for every row in our environments, an object array
    with the ended rows filled in Gymnasium's own). With NEXT_STEP and DISABLED, and where no row ended, it is
    ``next_obs`` itself.

    Raises:
        ValueError: if ``autoreset_mode`` is none.
    """
    if AutoresetMode(autoreset_mode) is not AutoresetMode.SAME_STEP or "final_obs" not in infos:
        return next_obs
    final, ended = infos["final_obs"], infos["_final_obs"]
    if isinstance(final, Tensor):
        return torch.where(ended.reshape((-1,) + (1,) * (final.ndim - 1)), final, next_obs)
    successors = np.array(next_obs, copy=True)
    for row in np.flatnonzero(ended):
        successors[row] = final[row]
    return successors
