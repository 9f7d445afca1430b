"""What a model-based agent is told of its environment, and how its model's errors are weighted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from prefrl.agents.base import Spaces
from prefrl.data.moments import RunningMoments
from prefrl.envs.known_parts import KnownParts, known_parts_of
from prefrl.functional.actor_critic.model_learning import value_gradient_weights

from .mbpo_config import MBPOConfig
from .networks import SoftActorCritic


def known_parts(
    env: Any,
    termination: Callable[[Tensor], Tensor] | None,
    reward: Callable[[Tensor, Tensor, Tensor], Tensor] | None,
    *,
    use_reward: bool,
    obs: Tensor,
    actions: Tensor,
) -> KnownParts | None:
    """Return what is known of an environment; None if there is no environment.

    Args:
        env: the environment, or :class:`prefrl.agents.base.Spaces`.
        termination: given in place of what the environment tells; None: nothing is given.
        reward: likewise.
        use_reward: whether the reward is to be known.
        obs: [2, D] observations to try the functions on.
        actions: [2, A] actions, in the environment's units.

    Raises:
        ValueError: if it is not known where episodes end, or what the reward is where that is to be used, or
            a function is given that is not, or that returns something else.
    """
    if termination is None and isinstance(env, Spaces):
        return None
    try:
        known = known_parts_of(env)
    except (ValueError, AttributeError):  # Spaces have nothing to look at
        if termination is None:
            raise
        known = KnownParts(termination)
    if reward is not None and not use_reward:
        raise ValueError(
            "reward= is given, but the setting reward is 'learned'; it must be 'known' to use it"
        )
    if termination is not None:
        _check("termination", termination, (obs,), torch.bool)
        known = replace(known, termination=termination)
    if reward is not None:
        _check("reward", reward, (obs, actions, obs), torch.float32)
        known = replace(known, reward=reward)
    if use_reward and known.reward is None:
        raise ValueError("reward is 'known', but nobody knows it; give reward=, or learn it")
    return known


def _check(name: str, function: Callable[..., Any], inputs: tuple[Tensor, ...], kind: torch.dtype) -> None:
    """Try a function on two rows."""
    found = function(*inputs)
    if not isinstance(found, Tensor) or found.shape != (2,) or found.dtype != kind:
        what = f"{found.dtype} {list(found.shape)}" if isinstance(found, Tensor) else type(found)
        raise ValueError(f"{name} returned {what} for observations {list(inputs[0].shape)}; it must return a "
                         f"tensor of {kind} [2]")  # fmt: skip


GRADIENT_ROWS = 4096
"""Rows whose value gradients are taken at once."""


def entry_weights(
    networks: SoftActorCritic, config: MBPOConfig, rows: Mapping[str, Tensor], change: Tensor
) -> Tensor:
    """Return the weights [n, D] of squared errors of changes [n, D] of the observation.

    They say how much the value depends on a prediction (VaGraM, arXiv 2204.01464).

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
