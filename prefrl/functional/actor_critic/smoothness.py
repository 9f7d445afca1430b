"""How smooth a value function is, and how much of a model's error it lets through.

The value-aware model error of a state and action is e_V = |E_P V(s') - E_P^ V(s')|. By the duality of
Kantorovich and Rubinstein e_V <= Lip(V) W_1(P, P^); for deterministic dynamics f and model f^

    e_V <= Lip_loc(V) ||f(s, a) - f^(s, a)||,

with the Lipschitz constant on the segment between the two. Approximate value iteration with errors eps per
step ends within 2 gamma / (1 - gamma)^2 sup ||eps|| of the optimum, so what a model costs is bounded by its
error times the smoothness of the values: two knobs (Zheng et al. 2023, arXiv 2302.01244).

States may be given in any coordinates; distances are Euclidean in them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from prefrl.functional.draws import uniform

Value = Callable[[Tensor], Tensor]
"""A value function: states [N, D] to values [N], each row by itself, differentiable by autograd."""

ValueAndGradient = Callable[[Tensor], tuple[Tensor, Tensor]]
"""States [..., N, D] to values [..., N] and their gradients [..., N, D]."""


def with_gradient(value: Value) -> ValueAndGradient:
    """Return a function that also returns the gradient, by autograd in the states alone."""

    def both(states: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            at = states.detach().requires_grad_()
            values = value(at)
            (gradient,) = torch.autograd.grad(values.sum(), at)
        return values.detach(), gradient

    return both


@torch.no_grad()
def adversarial_states(
    function: ValueAndGradient, states: Tensor, clean: Tensor, radius: Tensor, start: Tensor, steps: int
) -> Tensor:
    """Return states in a box around others, where a value is far from what it is in the middle.

    Ascends (Q(s~) - Q(s))^2. At s itself its gradient is exactly zero, hence the random start. No step leaves
    the start as it is (uniform noise), one step goes to the corner of the box that the gradient points to
    (FGSM, Goodfellow et al. 2015, arXiv 1412.6572), several go 2.5 / steps of the radius each and are
    projected onto the box (PGD, Madry et al. 2018, arXiv 1706.06083).

    Args:
        function: values and gradients.
        states: [..., N, D] middles of the boxes.
        clean: [..., N] values there.
        radius: [D] half of the boxes' sides.
        start: [..., N, D] within (-1, 1): where the ascent starts, in radii.
        steps: how many.

    Returns:
        [..., N, D].
    """
    moved = start
    stride = 1.0 if steps == 1 else 2.5 / max(1, steps)
    for _ in range(steps):
        values, slopes = function(states + radius * moved)
        uphill = slopes.sign() * (values - clean).sign()[..., None]
        moved = uphill if steps == 1 else (moved + stride * uphill).clamp(-1.0, 1.0)
    return states + radius * moved


def gradient_norms(function: ValueAndGradient, states: Tensor) -> Tensor:
    """Return the Euclidean norms [N] of the gradients at states [N, D]."""
    norms: Tensor = torch.linalg.vector_norm(function(states)[1], dim=-1)
    return norms


@torch.no_grad()
def local_lipschitz(
    function: ValueAndGradient,
    states: Tensor,
    radius: float,
    generator: torch.Generator,
    *,
    ascents: int = 10,
    steps: int = 3,
) -> Tensor:
    """Return estimates [N] of the Lipschitz constant in boxes around states [N, D], from below.

    The largest |V(s + d) - V(s)| / ||d|| met on projected ascents of |V(s + d) - V(s)| from random starts.

    Args:
        function: values and gradients.
        states: middles of the boxes.
        radius: half of their sides.
        generator: draws the starts, on its own device.
        ascents: starts of each state.
        steps: steps of each ascent, of half a radius.
    """
    clean, _ = function(states)
    draws = uniform(generator, ascents, *states.shape, device=states.device)
    moved = 2.0 * draws.flatten(0, 1) - 1.0  # all ascents at once, [ascents N, D]
    middles, clean = states.repeat(ascents, 1), clean.repeat(ascents)
    best = torch.zeros_like(clean)
    for step in range(steps + 1):
        values, slopes = function(middles + radius * moved)
        gap = values - clean
        distance = radius * torch.linalg.vector_norm(moved, dim=-1)
        best = torch.maximum(best, gap.abs() / distance.clamp(min=1e-12))
        if step < steps:
            moved = (moved + 0.5 * slopes.sign() * gap.sign()[:, None]).clamp(-1.0, 1.0)
    return best.view(ascents, -1).amax(0)


def segment_lipschitz(function: ValueAndGradient, start: Tensor, end: Tensor, points: int = 16) -> Tensor:
    """Return the largest norm [N] of a value's gradient on the segments between states [N, D].

    Looks at some points, evenly spread.
    By the mean value theorem |V(end) - V(start)| is at most the supremum of the slope times the distance.
    """
    places = (torch.arange(points, dtype=start.dtype, device=start.device) + 0.5) / points
    _, slopes = function(torch.lerp(start, end, places[:, None, None]).flatten(0, 1))
    norms: Tensor = torch.linalg.vector_norm(slopes, dim=-1)
    return norms.view(points, -1).amax(0)


def global_bounds(weights: Sequence[Tensor]) -> Tensor:
    """Return log10 of the product of the layers' spectral norms [B], for weights [B, in, out] of each layer.

    With activations that are 1-Lipschitz, as ReLU is, it bounds the Lipschitz constant.
    """
    norms = [torch.linalg.matrix_norm(weight, ord=2) for weight in weights]
    return torch.stack(norms).log10().sum(0)
