"""Stacks of multilayer perceptrons: B networks of one shape as one chain of batched products."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class StackedLinear(nn.Module):
    """B affine maps [in] -> [out]; weights [B, in, out], initialised like ``torch.nn.Linear``."""

    def __init__(self, members: int, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = 1.0 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(members, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(members, 1, outputs).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, N, in] to [B, N, out]."""
        return torch.baddbmm(self.bias, x, self.weight)


class StackedMLP(nn.Module):
    """B multilayer perceptrons, each [in] -> scalar, or [in] -> [out].

    Args:
        members: B.
        inputs: input size.
        hidden: sizes of the hidden layers.
        outputs: output size; if None, a scalar without an axis of its own.
        activation: after every hidden layer.

    Raises:
        ValueError: for a size below 1.
    """

    def __init__(
        self,
        members: int,
        inputs: int,
        hidden: Sequence[int],
        outputs: int | None = None,
        activation: Literal["relu", "silu"] = "relu",
    ) -> None:
        super().__init__()
        last = 1 if outputs is None else outputs
        if min(members, inputs, *hidden, last) < 1:
            raise ValueError(f"members {members}, inputs {inputs}, hidden {list(hidden)} and outputs {last} "
                             "must be at least 1")  # fmt: skip
        self.members, self.scalar, self.activation = members, outputs is None, activation
        sizes = [inputs, *hidden, last]
        self.layers = nn.ModuleList(StackedLinear(members, a, b) for a, b in pairwise(sizes))

    def weights(self) -> list[Tensor]:
        """Return the weights [B, in, out] of each layer, as :meth:`forward` uses them."""
        return [layer.weight for layer in self.layers]  # type: ignore[misc]

    def biases(self) -> list[Tensor]:
        """Return the biases [B, 1, out] of each layer."""
        return [layer.bias for layer in self.layers]  # type: ignore[misc]

    def forward(self, x: Tensor) -> Tensor:
        """Map inputs [B, N, in] to outputs [B, N], or [B, N, out]."""
        *hidden, (weight, bias) = zip(self.weights(), self.biases(), strict=True)
        for inner_weight, inner_bias in hidden:
            x = torch.baddbmm(inner_bias, x, inner_weight)
            # ReLU in place: what the layer returned is needed by nobody else (SiLU's gradient needs it)
            x = torch.relu_(x) if self.activation == "relu" else F.silu(x)
        return self._head(x, weight, bias)

    def _head(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        if not self.scalar:
            return torch.baddbmm(bias, x, weight)
        # A product with a single column is slow where it is batched, and no faster than this where it is not.
        if len(weight) == 1:
            return (torch.mv(x[0], weight[0, :, 0]) + bias[0, 0])[None]
        summed: Tensor = (x * weight.transpose(1, 2)).sum(-1)
        return summed + bias[..., 0]

    # The same by hand, for updates that are short of time: autograd's record costs a sixth of SAC's --------

    @torch.no_grad()
    def record(self, x: Tensor) -> Record:
        """Run :meth:`forward` on [B, N, in], and keep what :meth:`backward` needs.

        Raises:
            ValueError: if the activation is not ReLU.
        """
        if self.activation != "relu":
            raise ValueError(f"activation is {self.activation!r}; record and backward are for relu")
        weights, biases = self.weights(), self.biases()
        flows = [x]
        for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
            flows.append(torch.relu_(torch.baddbmm(bias, flows[-1], weight)))
        outputs = product(flows[-1], weights[-1]) + biases[-1]
        return Record(flows, weights, outputs[..., 0] if self.scalar else outputs)

    @torch.no_grad()
    def backward(
        self,
        record: Record,
        slopes: Tensor,
        *,
        parameters: bool = True,
        add: bool = False,
        inputs: slice | None = None,
    ) -> Tensor | None:
        """Put the gradients of sum(slopes * outputs) into the weights' and biases' ``grad``.

        ``grad`` of a weight is in the weight as it was used (:meth:`weights`).

        Args:
            record: of the pass.
            slopes: [B, N], or [B, N, out]: the loss's gradient in the outputs.
            parameters: whether the parameters' gradients are wanted.
            add: add to their ``grad`` instead of replacing it.
            inputs: entries of the inputs whose gradients are wanted.

        Returns:
            [B, N, entries] the gradients in the inputs, if wanted.
        """
        layers: list[Any] = list(self.layers)
        flows, weights, last = record.flows, record.weights, len(self.layers) - 1
        back = slopes[..., None] if self.scalar else slopes
        for place in range(last, -1, -1):
            if parameters:
                _gather(layers[place], flows[place], back, add=add)
            if place:
                if place == last and self.scalar:
                    back = back * weights[place].transpose(1, 2)
                else:
                    back = torch.bmm(back, weights[place].transpose(1, 2))
                torch.ops.aten.threshold_backward.grad_input(back, flows[place], 0.0, grad_input=back)
        return None if inputs is None else product(back, weights[0][:, inputs].transpose(1, 2))

    def input_gradient(self, x: Tensor, inputs: slice = slice(None)) -> tuple[Tensor, Tensor]:
        """Return the outputs [B, N] of a scalar stack, and their gradients [B, N, entries] in the inputs."""
        record = self.record(x)
        slopes = self.backward(record, torch.ones_like(record.outputs), parameters=False, inputs=inputs)
        assert slopes is not None
        return record.outputs, slopes


class Record(NamedTuple):
    """What a pass through a stack leaves behind."""

    flows: list[Tensor]
    """[B, N, in] what entered each layer."""
    weights: list[Tensor]
    """[B, in, out] of each layer, as they were used."""
    outputs: Tensor
    """[B, N], or [B, N, out]."""


NARROW = 16
"""Columns below which a product is several times as fast if it is computed as its transpose."""


def product(x: Tensor, weight: Tensor) -> Tensor:
    """Return x [B, N, in] times weight [B, in, out]."""
    if weight.shape[2] < NARROW:
        return torch.bmm(weight.transpose(1, 2), x.transpose(1, 2)).transpose(1, 2)
    return torch.bmm(x, weight)


def _gather(layer: Any, flow: Tensor, back: Tensor, *, add: bool) -> None:
    """Put a layer's gradients for inputs [B, N, in] and slopes [B, N, out] into its ``grad``, or add them."""
    weight, bias = layer.weight.grad, layer.bias.grad
    if back.shape[2] < NARROW:
        found = product(flow.transpose(1, 2), back)
        weight.add_(found) if add else weight.copy_(found)
    elif add:
        weight.baddbmm_(flow.transpose(1, 2), back)
    else:
        torch.bmm(flow.transpose(1, 2), back, out=weight)
    if add:
        bias.add_(back.sum(1, keepdim=True))
    else:
        torch.sum(back, 1, keepdim=True, out=bias)
