"""A tanh network whose parameters are one vector, with the gradient of every row by itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from prefrl.functional.draws import uniform


class TanhMLP:
    """Shape of a multilayer perceptron with tanh, [in] -> [out]; its parameters are given with every call.

    Eligibility traces need the gradient of each row, which ``backward()`` sums away. For a plain network it
    is a product of what flows forward and what flows back, row by row.

    Args:
        inputs: input size.
        hidden: sizes of the hidden layers.
        outputs: output size.

    Raises:
        ValueError: for a size below 1.
    """

    def __init__(self, inputs: int, hidden: Sequence[int], outputs: int) -> None:
        if min(inputs, *hidden, outputs) < 1:
            raise ValueError(
                f"inputs {inputs}, hidden {list(hidden)} and outputs {outputs} must be at least 1"
            )
        sizes = [inputs, *hidden, outputs]
        self.shapes = [shape for a, b in pairwise(sizes) for shape in ((a, b), (b,))]
        self.num_parameters = sum(math.prod(shape) for shape in self.shapes)

    def initial(self, generator: torch.Generator, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Return parameters [P]: uniform within 1 / sqrt(fan-in), the last layer 0."""
        parts = []
        for weight, bias in zip(self.shapes[::2], self.shapes[1::2], strict=True):
            size = math.prod(weight) + math.prod(bias)
            draws = uniform(generator, size, device=device, dtype=dtype)
            parts.append((2.0 * draws - 1.0) / math.sqrt(weight[0]))
        parts[-1] = torch.zeros_like(parts[-1])
        return torch.cat(parts)

    def _layers(self, parameters: Tensor) -> list[tuple[Tensor, Tensor]]:
        pieces = torch.split(parameters, [math.prod(shape) for shape in self.shapes])
        shaped = [piece.view(shape) for piece, shape in zip(pieces, self.shapes, strict=True)]
        return list(zip(shaped[::2], shaped[1::2], strict=True))

    def _forward(self, layers: list[tuple[Tensor, Tensor]], inputs: Tensor) -> list[Tensor]:
        """Return what enters each layer, and the output last."""
        flow = [inputs]
        for index, (weight, bias) in enumerate(layers):
            x = torch.addmm(bias, flow[-1], weight)
            flow.append(x if index == len(layers) - 1 else torch.tanh(x))
        return flow

    def __call__(self, parameters: Tensor, inputs: Tensor) -> Tensor:
        """Map inputs [n, in] to outputs [n, out] with parameters [P]."""
        return self._forward(self._layers(parameters), inputs)[-1]

    def gradients(self, parameters: Tensor, inputs: Tensor, weights: Tensor) -> Tensor:
        """Return d(weights . output)/d(parameters) of every row, [n, P], for output weights [n, out]."""
        parts = [
            part
            for flow, back in self._backward(parameters, inputs, weights)
            for part in ((flow[:, :, None] * back[:, None, :]).flatten(1), back)
        ]
        return torch.cat(parts, 1)

    def gradient_sum(self, parameters: Tensor, inputs: Tensor, weights: Tensor) -> Tensor:
        """Return the sum [P] of :meth:`gradients` over the rows, at the price of ``backward()``."""
        parts = [
            part
            for flow, back in self._backward(parameters, inputs, weights)
            for part in ((flow.T @ back).flatten(), back.sum(0))
        ]
        return torch.cat(parts)

    def _backward(self, parameters: Tensor, inputs: Tensor, weights: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return for each layer what enters it, [n, a], and the gradient in what leaves it, [n, b]."""
        layers = self._layers(parameters)
        flow = self._forward(layers, inputs)
        found: list[tuple[Tensor, Tensor]] = []
        back = weights
        for index in range(len(layers) - 1, -1, -1):
            found.insert(0, (flow[index], back))
            if index:
                back = (back @ layers[index][0].T) * (1.0 - flow[index].square())
        return found
