"""What a model-based agent is told of its environment, how its model's errors are weighted, and diagnostics.

Smoothness is measured in standardised coordinates (each entry of an observation over its standard deviation),
on V(s) = min_i Q_i(s, tanh(mu(s))) (Zheng et al. 2023, arXiv 2302.01244; the estimators are this library's,
see ``prefrl.functional.actor_critic.smoothness``). A critic that has learned nothing is smooth, so look at
what is divided by the value scale, the standard deviation of V over the states.
"""

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
from prefrl.functional.actor_critic.smoothness import (
    ValueAndGradient,
    global_bounds,
    gradient_norms,
    local_lipschitz,
    segment_lipschitz,
    with_gradient,
)

from .mbpo_config import MBPOConfig
from .networks import STD_FLOOR, SoftActorCritic


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


def value_in_deviations(networks: SoftActorCritic) -> tuple[ValueAndGradient, Tensor]:
    """Return V and its gradient as a function of observations over their deviations, and those [D]."""
    deviations = networks.moments.std(STD_FLOOR)
    return with_gradient(lambda standardized: networks.value(standardized * deviations)), deviations


def smoothness(
    networks: SoftActorCritic, states: Tensor, *, radius: float, generator: torch.Generator
) -> dict[str, Tensor]:
    """Return how smooth the critics are at states [N, D], as scalars.

    - ``gradient_mean``, ``gradient_p95``: of ||dV/ds||, the policy's answer to the state included
    - ``partial_mean``, ``partial_p95``: of ||dQ_i/ds|| at fixed actions, over both critics
    - ``local_mean``, ``local_p95``: of the local Lipschitz constant in boxes of half side ``radius``
    - ``local_normalized``: ``local_mean`` over the value scale
    - ``value_scale``: standard deviation of V
    - ``global_log10``: log10 of the product of the layers' spectral norms, of the larger critic

    Args:
        networks: actor and critics.
        states: in their units.
        radius: in standard deviations.
        generator: draws the starts of the ascents, on its own device.
    """
    function, deviations = value_in_deviations(networks)
    at = states / deviations
    values, _ = function(at)
    scale = values.std(correction=0)
    local = local_lipschitz(function, at, radius, generator)
    partial = torch.linalg.vector_norm(networks.partial_gradients(states)[1] * deviations, dim=-1).flatten()
    found = {"value_scale": scale, "local_normalized": local.mean() / scale.clamp(min=1e-12)}
    for name, norms in (("gradient", gradient_norms(function, at)), ("partial", partial), ("local", local)):
        found[f"{name}_mean"], found[f"{name}_p95"] = norms.mean(), high(norms)
    found["global_log10"] = global_bounds(networks.critic_weights()).amax()
    return {f"smoothness/{name}": value for name, value in found.items()}


def high(values: Tensor) -> Tensor:
    """Return the 95th percentile [] of values [N]."""
    return values.sort().values[min(len(values) - 1, int(0.95 * len(values)))]


def value_aware_error(
    networks: SoftActorCritic, next_obs: Tensor, predicted: Tensor, mask: Tensor
) -> dict[str, Tensor]:
    """Return what a model's errors mean to the values, for states [N, D] and their predictions, as scalars.

    Rows where ``mask`` [N] is False are no transitions, and do not count.

    - ``value_aware_error``: mean |V(f(s, a)) - V(s')|
    - ``rmse``: of the predictions, in standard deviations
    - ``bound_holds``: share of rows where |V(f) - V(s')| is at most the Lipschitz constant on the segment
      between the two times its length
    """
    function, deviations = value_in_deviations(networks)
    truth, guess = next_obs / deviations, predicted / deviations
    gaps = (function(guess)[0] - function(truth)[0]).abs()
    distances = torch.linalg.vector_norm(guess - truth, dim=-1)
    bound = segment_lipschitz(function, truth, guess) * distances
    slack = 1e-4 * (1.0 + function(truth)[0].abs())  # what float32 rounds
    weights = mask.to(gaps.dtype) / mask.sum().clamp(min=1)
    return {
        "model/value_aware_error": gaps @ weights,
        "model/rmse": ((guess - truth).square().mean(-1) @ weights).sqrt(),
        "model/bound_holds": (gaps <= bound + slack).to(gaps.dtype) @ weights,
    }
