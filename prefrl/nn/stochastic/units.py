"""Layers of units that are drawn, and a multilayer perceptron whose blocks are gated by such units.

The mathematics is :mod:`prefrl.functional.stochastic_units`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from prefrl.functional.stochastic_units import (
    activity_slopes,
    bernoulli,
    noisy_rectifier,
    stochastic_times_smooth,
    straight_through,
)

UnitKind = Literal["straight_through", "straight_through_plain", "smooth", "rectifier"]
"""Straight through with the sigmoid's slope, without it, smooth and stochastic parts, noisy rectifiers."""


WORTH = 10**8
"""Rows times weights of a layer from which on skipping saves time on a CPU, at an activity of 10 %: about
1,024 inputs and units and 100 rows. The networks of most agents are far below."""


class StochasticUnits(nn.Module):
    """Units that are drawn while the module is in training mode, and else take their mean (or mode).

    Numbers are drawn by torch's global generator, whose state checkpoints keep, or come with the call.

    Args:
        kind: which units, and how gradients go through them.
        share: of "smooth", the smooth part's exponent.
        scale: of "rectifier", the standard deviation of the noise.

    Raises:
        ValueError: for another kind.
    """

    def __init__(self, kind: UnitKind = "straight_through", share: float = 0.5, scale: float = 1.0) -> None:
        super().__init__()
        if kind not in ("straight_through", "straight_through_plain", "smooth", "rectifier"):
            raise ValueError(f"kind is {kind!r}; allowed are straight_through, straight_through_plain, "
                             "smooth and rectifier")  # fmt: skip
        self.kind, self.share, self.scale = kind, share, scale

    def forward(self, activations: Tensor, noise: Tensor | None = None) -> Tensor:
        """Map activations [...] to units [...].

        Args:
            activations: [...].
            noise: [...] in training mode: uniform numbers in (0, 1), of rectifiers standard normal ones;
                None: drawn.
        """
        if not self.training:
            if self.kind == "rectifier":
                return torch.relu(activations)
            if self.kind == "smooth":
                return torch.sigmoid(activations)
            return straight_through(activations, (activations > 0.0).to(activations.dtype),
                                    keep_slope=self.kind == "straight_through")  # fmt: skip
        if self.kind == "rectifier":
            drawn = torch.randn_like(activations) if noise is None else noise
            return noisy_rectifier(activations, drawn, self.scale)
        drawn = torch.rand_like(activations) if noise is None else noise
        if self.kind == "smooth":
            return stochastic_times_smooth(activations, drawn, self.share)
        return straight_through(activations, bernoulli(activations, drawn),
                                keep_slope=self.kind == "straight_through")  # fmt: skip


class _Pulled(torch.autograd.Function):
    """Activations as they are, on whose gradient that of an activity target is added on the way back."""

    generate_vmap_rule = True

    @staticmethod
    def forward(activations: Tensor, units: Tensor, target: float, weight: float) -> Tensor:
        return activations.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        activations, units, ctx.target, ctx.weight = inputs
        ctx.save_for_backward(activations, units)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None, None]:
        activations, units = ctx.saved_tensors
        pull = activity_slopes(activations, units, ctx.target)
        return slopes[0] + ctx.weight * pull, None, None, None


class GatedMLP(nn.Module):
    """A multilayer perceptron with ReLU, of each of whose layers a part is switched on by each observation.

    A layer's units are blocks of as many; a linear gate of the layer's input switches each block on or off:

        y = relu(W x + v) * h,    h = 1 where a > 0, else 0,    a = G x + g,

    and gradients go straight through h. Along the way back the gradient of weight (mean of h - activity)^2
    is added, so that whatever loss the features serve, the share of blocks that are on comes to the target.
    It needs no place in the loss, and any agent that takes a ``torso`` takes this one.

    Args:
        inputs: numbers of a flattened observation.
        hidden: sizes of the layers, multiples of ``blocks``; the last one is the number of features.
        blocks: of each layer.
        activity: share of blocks that shall be on, in (0, 1).
        weight: of the target; 100 is ours, for losses of the order of 1. With less, more blocks stay on.
        draws: switch blocks on with probability sigmoid(a) in training mode, instead of where a > 0. (Not
            for PPO, whose second look at an action must be the first's; nor for several learners.)
        skip: where no gradient is asked for, on the CPU, compute only what is on, if there is so much to
            compute that it saves time (see :data:`WORTH`). Of one learner only.

    Raises:
        ValueError: if there is no layer, a size is no multiple of the blocks, or a number out of range.

    Attributes:
        features: size of the output.
    """

    def __init__(
        self, inputs: int, hidden: Sequence[int] = (256,), blocks: int = 32, *, activity: float = 0.1,
        weight: float = 100.0, draws: bool = False, skip: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        if not hidden or inputs < 1 or blocks < 1 or any(size < 1 or size % blocks for size in hidden):
            raise ValueError(f"hidden is {list(hidden)} for {inputs} inputs; give at least one layer, of "
                             f"sizes that are multiples of blocks, {blocks}")  # fmt: skip
        if not 0.0 < activity < 1.0 or weight < 0.0:
            raise ValueError(f"activity is {activity} and weight {weight}; activity must lie in (0, 1), and "
                             "weight not be negative")  # fmt: skip
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise((inputs, *hidden)))
        self.gates = nn.ModuleList(nn.Linear(a, blocks) for a in (inputs, *hidden[:-1]))
        self.blocks, self.activity, self.weight = blocks, activity, weight
        self.draws, self.skip, self.features = draws, skip, hidden[-1]

    def forward(self, obs: Tensor) -> Tensor:
        """Map observations [N, ...] to features [N, F].

        Gradients go through blocks that are off too, so that nothing is skipped where something is learned.
        """
        x = obs.flatten(1)
        learns = torch.is_grad_enabled()
        skips = self.skip and not learns and x.device.type == "cpu"
        for layer, gate in zip(self.layers, self.gates, strict=True):
            a = gate(x)
            on = self._on(a)
            if skips and len(x) * layer.weight.numel() >= WORTH:  # type: ignore[operator]
                x = _only_what_is_on(layer, x, on)  # type: ignore[arg-type]
                continue
            gates = on
            if learns:
                pulled = _Pulled.apply(a, on, self.activity, self.weight)  # type: ignore[no-untyped-call]
                gates = straight_through(pulled, on)
            x = self._gated(layer(x), gates)
        return x

    def _gated(self, x: Tensor, gates: Tensor) -> Tensor:
        """Return relu(x) [N, F], each block times its gate [N, blocks]."""
        return (torch.relu(x).view(len(x), self.blocks, -1) * gates[..., None]).flatten(1)

    def _on(self, activations: Tensor) -> Tensor:
        """Return which blocks are on, 1 or 0."""
        if self.draws and self.training:
            return bernoulli(activations, torch.rand_like(activations))
        return (activations.detach() > 0.0).to(activations.dtype)

    @torch.no_grad()
    def activities(self, obs: Tensor) -> Tensor:
        """Return the share of blocks of each layer [layers] that observations [N, ...] switch on."""
        x, found = obs.flatten(1), []
        for layer, gate in zip(self.layers, self.gates, strict=True):
            on = self._on(gate(x))
            found.append(on.mean())
            x = self._gated(layer(x), on)
        return torch.stack(found)


def _only_what_is_on(layer: nn.Linear, x: Tensor, on: Tensor) -> Tensor:
    """Return relu(W x + v) [N, F] of the blocks that are on [N, blocks], 0 elsewhere."""
    blocks = on.shape[1]
    weights, biases = layer.weight.view(blocks, -1, x.shape[1]), layer.bias.view(blocks, -1)
    found = x.new_zeros(len(x), blocks, weights.shape[1])
    for block in range(blocks):
        rows = on[:, block].nonzero()[:, 0]
        if len(rows):
            found[rows, block] = torch.relu(torch.addmm(biases[block], x[rows], weights[block].T))
    return found.flatten(1)
