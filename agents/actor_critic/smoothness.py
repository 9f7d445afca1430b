"""How smooth the critics of a policy are, and how much of a model's error their values feel.

Measured in standardised coordinates (each entry of an observation over its standard deviation), on
V(s) = min_i Q_i(s, tanh(mu(s))) (Zheng et al. 2023, arXiv 2302.01244; the estimators are this library's, see
``prefrl.functional.actor_critic.smoothness``). A critic that has learned nothing is smooth, so look at what
is divided by the value scale, the standard deviation of V over the states.
"""

from __future__ import annotations

import torch
from torch import Tensor

from prefrl.functional.actor_critic.smoothness import (
    ValueAndGradient,
    global_bounds,
    gradient_norms,
    local_lipschitz,
    segment_lipschitz,
    with_gradient,
)

from .networks import STD_FLOOR, SoftActorCritic


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
