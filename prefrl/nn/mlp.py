"""Stacks of multilayer perceptrons: B networks of one shape as one chain of batched products."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import numpy as np
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

    Attributes:
        low: type of what flows in steps by hand (see ``prefrl.data.devices.Precision``);
            None: that of the inputs.
    """

    low: torch.dtype | None = None

    def __init__(
        self,
        members: int,
        inputs: int,
        hidden: Sequence[int],
        outputs: int | None = None,
        activation: Literal["relu", "tanh", "silu"] = "relu",
    ) -> None:
        super().__init__()
        last = 1 if outputs is None else outputs
        if min(members, inputs, *hidden, last) < 1:
            raise ValueError(f"members {members}, inputs {inputs}, hidden {list(hidden)} and outputs {last} "
                             "must be at least 1")  # fmt: skip
        self.members, self.scalar = members, outputs is None
        self.activation: Literal["relu", "tanh", "silu"] = activation
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
        return self._head(self._through(x, hidden), weight, bias)

    def last_hidden(self, x: Tensor) -> Tensor:
        """Map inputs [B, N, in] to the last hidden layer [B, N, H]: the outputs' slopes in its weights."""
        return self._through(x, list(zip(self.weights(), self.biases(), strict=True))[:-1])

    def _through(self, x: Tensor, hidden: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        for weight, bias in hidden:
            x = ACTIVATIONS[self.activation](torch.baddbmm(bias, x, weight))
        return x

    def _head(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        if not self.scalar:
            return torch.baddbmm(bias, x, weight)
        # A product with a single column is slow where it is batched, and no faster than this where it is not.
        if len(weight) == 1:
            return (torch.mv(x[0], weight[0, :, 0]) + bias[0, 0])[None]
        summed: Tensor = (x * weight.transpose(1, 2)).sum(-1)
        return summed + bias[..., 0]

    # The same by hand, for updates that are short of time --------------------------------------------------

    @torch.no_grad()
    def record(self, x: Tensor) -> Record:
        """Run :meth:`forward` on [B, N, in], and keep what :meth:`backward` needs.

        Raises:
            ValueError: if the activation is SiLU.
        """
        weights, low = self.weights(), None
        if self.low is not None:
            low = [weight.to(self.low) for weight in weights]
        record = record_layers(x, weights, self.biases(), self.activation, low)
        return record._replace(outputs=record.outputs[..., 0]) if self.scalar else record

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
        layers: list[Any] = list(self.layers) if parameters else []
        gradients = [(layer.weight.grad, layer.bias.grad) for layer in layers]
        back = slopes[..., None] if self.scalar else slopes
        return pull_layers(record, back, gradients, self.activation, add=add, inputs=inputs)

    def input_gradient(self, x: Tensor, inputs: slice = slice(None)) -> tuple[Tensor, Tensor]:
        """Return the outputs [B, N] of a scalar stack, and their gradients [B, N, entries] in the inputs."""
        record = self.record(x)
        slopes = self.backward(record, torch.ones_like(record.outputs), parameters=False, inputs=inputs)
        assert slopes is not None
        return record.outputs, slopes


def joined(stacks: Sequence[StackedMLP]) -> StackedMLP:
    """Return stacks of one shape as a single one; of one stack itself."""
    first, members = stacks[0], sum(stack.members for stack in stacks)
    if len(stacks) == 1:
        return first
    weights = first.weights()
    inputs, *hidden = [weight.shape[1] for weight in weights]
    outputs = None if first.scalar else weights[-1].shape[2]
    with torch.device(weights[0].device):
        whole = StackedMLP(members, inputs, hidden, outputs, first.activation)
    states = [stack.state_dict() for stack in stacks]
    whole.load_state_dict({name: torch.cat([state[name] for state in states]) for name in states[0]})
    return whole


def tanh_(x: Tensor) -> Tensor:
    """Replace numbers by their tanh; on the CPU by NumPy's, which takes a tenth of the time of torch's."""
    if x.device.type != "cpu" or x.dtype is torch.bfloat16 or torch.compiler.is_exporting():
        return x.tanh_()
    np.tanh(x.numpy(), out=x.numpy())
    return x


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu_,  # in place: what the layer returned is needed by nobody else
    "tanh": torch.tanh,
    "silu": F.silu,
}
"""What comes after a hidden layer, for autograd."""


class Chain:
    """Tensors of a stack of networks, looked up once, for steps that are short of time.

    Args:
        weights: [B, in, out] of each layer.
        biases: [B, 1, out].
        gradients: where those of both are put, by layer; empty: nowhere.
        activation: relu or tanh.
        low: type of what flows through the layers, see
            :data:`prefrl.data.devices.Precision`; None: that of the inputs.
    """

    def __init__(
        self, weights: list[Tensor], biases: list[Tensor], gradients: Sequence[tuple[Tensor, Tensor]],
        activation: str = "relu", low: torch.dtype | None = None,
    ) -> None:  # fmt: skip
        self.weights, self.biases, self.gradients = weights, biases, gradients
        self.activation, self.low = activation, low
        self._low_weights: list[Tensor] | None = None

    @classmethod
    def of(cls, stack: StackedMLP, low: torch.dtype | None = None) -> Chain:
        """Return that of a stack, whose parameters and gradients must keep the memory that they have now."""
        layers: list[Any] = list(stack.layers)
        return cls(
            [layer.weight.detach() for layer in layers], [layer.bias.detach() for layer in layers],
            [(layer.weight.grad, layer.bias.grad) for layer in layers], stack.activation, low,
        )  # fmt: skip

    @classmethod
    def named(cls, values: Mapping[str, Tensor], slopes: Mapping[str, Tensor] | None = None) -> Chain:
        """Return that of parameters, and their gradients, under the names that :class:`StackedMLP` has."""

        def paired(named: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
            tensors = list(named.values())  # weight, bias, weight, ...
            return list(zip(tensors[::2], tensors[1::2], strict=True))

        weights, biases = zip(*paired(values), strict=True)
        return cls(list(weights), list(biases), [] if slopes is None else paired(slopes))

    def cast(self) -> Chain:
        """Return the same with weights of low precision worked out, for as long as the weights stay."""
        if self.low is None or self._low_weights is not None:
            return self
        chain = copy(self)
        chain._low_weights = [weight.to(self.low) for weight in self.weights]
        return chain

    def record(self, x: Tensor) -> Record:
        """Map [B, N, in] to [B, N, out], also where that is 1, and keep what :meth:`pull` needs."""
        return record_layers(x, self.weights, self.biases, self.activation, self.cast()._low_weights)

    def pull(
        self, record: Record, slopes: Tensor, *, add: bool = False, inputs: slice | None = None
    ) -> Tensor | None:
        """Put the gradients of sum(slopes [B, N, out] * outputs) where the stack's gradients are.

        Returns:
            [B, N, entries] those in entries of the inputs, if wanted.
        """
        return pull_layers(record, slopes, self.gradients, self.activation, add=add, inputs=inputs)

    def pull_inputs(self, record: Record, slopes: Tensor, inputs: slice) -> Tensor:
        """Return those in entries of the inputs, [B, N, entries]."""
        back = pull_layers(record, slopes, (), self.activation, inputs=inputs)
        assert back is not None
        return back


class Record(NamedTuple):
    """What a pass through a stack leaves behind."""

    flows: list[Tensor]
    """[B, N, in] what entered each layer."""
    weights: list[Tensor]
    """[B, in, out] of each layer, as they were used."""
    outputs: Tensor
    """[B, N], or [B, N, out]."""


def record_layers(
    x: Tensor, weights: list[Tensor], biases: list[Tensor], activation: str,
    low: list[Tensor] | None = None,
) -> Record:  # fmt: skip
    """Run affine maps on [B, N, in], with an activation between them, and keep what flowed.

    Args:
        x: inputs.
        weights: [B, in, out] of each layer.
        biases: [B, 1, out].
        activation: relu or tanh.
        low: the weights in the type of what flows, see ``prefrl.data.devices.Precision``; None:
            that of the inputs, which the outputs have all the same.

    Raises:
        ValueError: for another activation.
    """
    if activation not in ("relu", "tanh"):
        raise ValueError(f"activation is {activation!r}; record and backward are for relu and tanh")
    activate, used = torch.relu_ if activation == "relu" else tanh_, weights if low is None else low
    inner = biases[:-1] if low is None else [bias.to(used[0].dtype) for bias in biases[:-1]]
    flows = [of_type(x, used[0].dtype)]
    for weight, bias in zip(used[:-1], inner, strict=True):
        flows.append(activate(torch.baddbmm(bias, flows[-1], weight)))
    return Record(flows, used, product(of_type(flows[-1], x.dtype), weights[-1], biases[-1]))


def of_type(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Return values in a type; a call of ``to`` that changes nothing is not free."""
    return values if values.dtype is dtype else values.to(dtype)


def pull_layers(
    record: Record, back: Tensor, gradients: Sequence[tuple[Tensor, Tensor]], activation: str, *,
    add: bool = False, inputs: slice | None = None,
) -> Tensor | None:  # fmt: skip
    """Lead a loss's gradient in the outputs of :func:`record_layers` back through the layers.

    Args:
        record: of the pass.
        back: [B, N, out].
        gradients: where those of weights [B, in, out] and biases [B, 1, out] are put; empty: not wanted.
        activation: as there.
        add: add them to what is there.
        inputs: entries of the inputs whose gradients are wanted.

    Returns:
        [B, N, entries] the gradients in the inputs, if wanted.
    """
    flows, weights, back = record.flows, record.weights, of_type(back, record.flows[0].dtype)
    for place in range(len(weights) - 1, -1, -1):
        if gradients:
            gather(*gradients[place], flows[place], back, add=add)
        if place:
            transposed = weights[place].transpose(1, 2)
            back = back * transposed if back.shape[2] == 1 else torch.bmm(back, transposed)
            if activation == "relu":
                torch.ops.aten.threshold_backward.grad_input(back, flows[place], 0.0, grad_input=back)
            else:
                torch.ops.aten.tanh_backward.grad_input(back, flows[place], grad_input=back)
    if inputs is None:
        return None
    return of_type(product(back, weights[0][:, inputs].transpose(1, 2)), record.outputs.dtype)


NARROW = 16
"""Columns below which products have forms of their own."""

MANY_ROWS = 1024
"""Rows from which a product with few columns is made wider: that costs nothing where few columns are fast
(Intel), and where they are several times slower (AMD Zen 4, 4,096 rows) it is back at the usual rate."""

IN_CACHE = 1 << 18
"""Numbers up to which a batched product with one column is faster as multiply and sum."""


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x [B, N, in] times weight [B, in, out], and bias [B, 1, out] added."""
    columns = weight.shape[2]
    if torch.compiler.is_exporting():  # the forms below are for some numbers of rows, a program is for all
        return torch.bmm(x, weight) if bias is None else torch.baddbmm(bias, x, weight)
    if columns == 1 and x.shape[0] > 1 and x.numel() <= IN_CACHE:
        summed = (x * weight.transpose(1, 2)).sum(2, keepdim=True)
        return summed if bias is None else summed.add_(bias)
    if columns < NARROW and x.shape[1] >= MANY_ROWS:
        missing = (0, NARROW - columns)
        wide = None if bias is None else F.pad(bias, missing)
        return product(x, F.pad(weight, missing), wide)[..., :columns]
    return torch.bmm(x, weight) if bias is None else torch.baddbmm(bias, x, weight)


def gathered(x: Tensor, back: Tensor) -> Tensor:
    """Return x [B, in, N] times back [B, N, out], N the longest, by its transpose where out is small.

    (Which is 3 to 7 times as fast then.)
    """
    if back.shape[2] < NARROW:
        return torch.bmm(back.transpose(1, 2), x.transpose(1, 2)).transpose(1, 2)
    return torch.bmm(x, back)


def gather(weight: Tensor, bias: Tensor, flow: Tensor, back: Tensor, *, add: bool) -> None:
    """Put a layer's gradients, for inputs [B, N, in] and slopes [B, N, out], into tensors, or add them."""
    if add:
        weight.add_(gathered(flow.transpose(1, 2), back))
        bias.add_(back.sum(1, keepdim=True))
        return
    same = flow.dtype is weight.dtype
    if same and back.shape[2] >= NARROW and weight.stride(2) == 1:  # rows may be those of a larger matrix
        torch.bmm(flow.transpose(1, 2), back, out=weight)
    elif weight.stride(1) == 1:  # as torch.nn.Linear has it, which suits narrow ones too
        transposed = torch.bmm(back.transpose(1, 2), flow, out=weight.mT if same else None)
        if not same:
            weight.mT.copy_(transposed)
    else:
        weight.copy_(gathered(flow.transpose(1, 2), back))
    torch.sum(back, 1, keepdim=True, dtype=bias.dtype, out=bias)
