"""Transitions, and which rows of a vector environment's step are transitions at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
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

    obs: Any
    """[n, ...] observations the actions were chosen at; of a Dict space a dict of such tensors."""
    actions: Tensor
    """[n, ...] actions."""
    rewards: Tensor
    """[n] rewards."""
    next_obs: Any
    """[n, ...] true successors: never the first observation of a new episode."""
    terminations: Tensor
    """[n] bool: the successor is terminal."""
    truncations: Tensor
    """[n] bool: the episode was cut here, though it could have gone on."""
    mask: Tensor
    """[n] bool: the row is a transition."""
    infos: Mapping[str, Tensor] = field(default_factory=dict)
    """[n, ...] what the environment reported of the step, of what the agent asks for (``info_keys``)."""


def map_obs(function: Callable[[Any], Any], obs: Any) -> Any:
    """Apply a function to observations, or to each array of a dict of them."""
    return (
        {name: function(values) for name, values in obs.items()} if isinstance(obs, dict) else function(obs)
    )


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
    """Return the true successors [n, ...] of a step, or a dict of them.

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
    if not isinstance(next_obs, dict):
        return _merged(next_obs, final, ended)
    if not isinstance(final, dict):  # Gymnasium's own: an object array, with a dict for each row that ended
        final = {name: {row: final[row][name] for row in np.flatnonzero(ended)} for name in next_obs}
    return {name: _merged(values, final[name], ended) for name, values in next_obs.items()}


def _merged(values: Any, final: Any, ended: Any) -> Any:
    """Return values [n, ...], those of ``final`` where a row ended."""
    if isinstance(final, Tensor):
        return torch.where(ended.reshape((-1,) + (1,) * (final.ndim - 1)), final, values)
    merged = np.array(values, copy=True)
    for row in np.flatnonzero(ended):
        merged[row] = final[row]
    return merged


def step_infos(keys: tuple[str, ...], infos: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a step's infos say under some keys, for rows that ended what they said at the end.

    Args:
        keys: which.
        infos: what ``step`` returned; with SAME_STEP its ``final_info`` holds what rows said that ended.

    Raises:
        ValueError: if a key is missing.
    """
    found = {}
    final, ended = infos.get("final_info", {}), infos.get("_final_info")
    for key in keys:
        if key not in infos and key not in final:
            raise ValueError(f"the environment's info has no {key!r}; it has {sorted(infos)}")
        if key not in final:
            found[key] = infos[key]
        elif key not in infos:
            found[key] = final[key]
        else:
            found[key] = _merged(infos[key], final[key], ended)
    return found
