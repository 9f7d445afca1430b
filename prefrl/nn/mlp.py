"""Stacks of multilayer perceptrons: B networks of one shape as one chain of batched products."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
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
    """B multilayer perceptrons with ReLU, each [in] -> scalar, or [in] -> [out].

    Args:
        members: B.
        inputs: input size.
        hidden: sizes of the hidden layers.
        outputs: output size; if None, a scalar without an axis of its own.

    Raises:
        ValueError: for a size below 1.
    """

    def __init__(self, members: int, inputs: int, hidden: Sequence[int], outputs: int | None = None) -> None:
        super().__init__()
        last = 1 if outputs is None else outputs
        if min(members, inputs, *hidden, last) < 1:
            raise ValueError(f"members {members}, inputs {inputs}, hidden {list(hidden)} and outputs {last} "
                             "must be at least 1")  # fmt: skip
        self.scalar = outputs is None
        sizes = [inputs, *hidden, last]
        self.layers = nn.ModuleList(StackedLinear(members, a, b) for a, b in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        """Map inputs [B, N, in] to outputs [B, N], or [B, N, out]."""
        for layer in self.layers[:-1]:
            x = torch.relu_(layer(x))  # in place: what the layer returned is needed by nobody else
        last = self.layers[-1]
        assert isinstance(last, StackedLinear)
        if not self.scalar:
            output: Tensor = last(x)
            return output
        # A product with a single column is slow where it is batched, and no faster than this where it is not.
        if len(last.weight) == 1:
            return (torch.mv(x[0], last.weight[0, :, 0]) + last.bias[0, 0])[None]
        summed: Tensor = (x * last.weight.transpose(1, 2)).sum(-1)
        return summed + last.bias[..., 0]
