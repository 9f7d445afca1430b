"""A stack of affine maps, forward and backward in NumPy on the memory of tensors: for small steps on the CPU.

What a small step takes is not its arithmetic but its calls, and one of NumPy's takes a third of the time of
one of torch's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .mlp import Chain

Array = NDArray[Any]

ALONE = 64**3
"""Multiplications of a product up to which OpenBLAS, which NumPy calls, stays on one thread, whatever it is
set to. Larger ones are torch's: how many threads they may take is set there, and the call counts for less."""


class ArrayChain:
    """What :class:`Chain` does, for one learner.

    Args:
        chain: a stack of one network with ReLUs, whose tensors are on the CPU; their memory is used.

    Raises:
        ValueError: for another one.
    """

    def __init__(self, chain: Chain) -> None:
        if not suits(chain):
            raise ValueError("this is for one float32 network with ReLUs on the CPU")
        self._weights = [weight[0] for weight in chain.weights]
        self.weights: list[Array] = [weight.numpy() for weight in self._weights]
        self.biases: list[Array] = [bias[0, 0].numpy() for bias in chain.biases]
        self._gradients = [weight[0].mT for weight, _ in chain.gradients]
        self.gradients: list[tuple[Array, Array]] = [
            (weight.numpy(), bias[0, 0].numpy())
            for weight, (_, bias) in zip(self._gradients, chain.gradients, strict=True)
        ]
        """[out, in] and [out] of each layer."""

    def record(self, x: Array) -> list[Array]:
        """Map [N, in] to [N, out]; return what entered each layer, and the outputs."""
        flows, last = [x], len(self.weights) - 1
        for place, bias in enumerate(self.biases):
            y = product(flows[-1], self.weights[place], self._weights[place])
            y += bias
            if place < last:
                np.maximum(y, 0.0, out=y)
            flows.append(y)
        return flows

    def pull(self, flows: list[Array], slopes: Array) -> None:
        """Put the gradients of sum(slopes [N, out] * outputs) where those of the chain are."""
        for place in range(len(self.weights) - 1, -1, -1):
            x, (weight, bias) = flows[place], self.gradients[place]
            if x.size * slopes.shape[1] <= ALONE:
                np.matmul(slopes.T, x, out=weight)
            else:
                torch.mm(torch.from_numpy(slopes).T, torch.from_numpy(x), out=self._gradients[place])
            np.add.reduce(slopes, 0, out=bias)
            if place:
                slopes = product(slopes, self.weights[place].T, self._weights[place].T)
                slopes *= x > 0.0


def suits(chain: Chain) -> bool:
    """Whether an :class:`ArrayChain` can do what a chain does."""
    weight = chain.weights[0]
    alone = len(weight) == 1 and chain.activation == "relu" and chain.low is None
    return alone and weight.device.type == "cpu" and weight.dtype is torch.float32


def product(x: Array, weight: Array, same: torch.Tensor) -> Array:
    """Return x [N, in] times weight [in, out], which is given as a tensor too."""
    if x.size * weight.shape[1] <= ALONE:
        return np.matmul(x, weight)  # type: ignore[no-any-return]
    return torch.mm(torch.from_numpy(x), same).numpy()
