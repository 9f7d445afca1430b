"""The parameters of a network as one vector, or those of many networks as one matrix."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call


class FlatParameters:
    """All parameters of a module in one vector, of which they become views; their gradients likewise.

    A small network's update spends more on calling operations than on computing them. On one vector the
    optimiser, the cut of the gradient's norm, the reset of the gradient and the update of a target network
    are one operation each. The module works as before; its parameters must stay these views, so do not move
    it with ``.to()`` or set gradients to None (``load_state_dict`` copies in place and is fine).

    Args:
        module: parameters of one dtype on one device.
        learners: S, if the first axis of every parameter is that of S learners: each then has a row of the
            vector, [S, P], and the parameters are views across the rows.

    Raises:
        ValueError: if there are none, or they differ in dtype or device.

    Attributes:
        vector: [P] the values, a parameter for an optimiser; its ``grad`` [P] is filled by ``backward()``.
    """

    def __init__(self, module: nn.Module, learners: int | None = None) -> None:
        parameters = list(module.parameters())
        kinds = {(parameter.dtype, parameter.device) for parameter in parameters}
        if len(kinds) != 1:
            raise ValueError(f"the parameters of {type(module).__name__} are of kinds {kinds}; they must be "
                             "of one dtype, on one device")  # fmt: skip
        rows = () if learners is None else (learners,)
        values = torch.cat([parameter.detach().reshape(*rows, -1) for parameter in parameters], -1)
        gradient = torch.zeros_like(values)
        self.vector = nn.Parameter(values)
        self.vector.grad = gradient
        self._shapes = {name: parameter.shape for name, parameter in module.named_parameters()}
        slopes = self.named(gradient)
        for name, value in self.named(values).items():
            parameter = module.get_parameter(name)
            parameter.data, parameter.grad = value, slopes[name]

    def named(self, vector: Tensor) -> dict[str, Tensor]:
        """Return what a vector [P] holds for each parameter, as views, under the module's names for them."""
        learners = vector.shape[0] if vector.ndim == 2 else 1
        pieces = torch.split(vector, [shape.numel() // learners for shape in self._shapes.values()], -1)
        return {
            name: piece.view(shape) for piece, (name, shape) in zip(pieces, self._shapes.items(), strict=True)
        }

    def stacked(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return values and gradients of a single learner's parameters by name, [1, ...], as views."""
        values, slopes = self.named(self.vector.detach()), self.named(self.gradient)
        return {name: value[None] for name, value in values.items()}, {
            name: value[None] for name, value in slopes.items()
        }

    def spans(self, values: Mapping[str, float]) -> list[tuple[slice, float]]:
        """Return spans that cover the vector, each with its parameters' number in ``values``, or 0."""
        found: list[tuple[slice, float]] = []
        start = 0
        for name, shape in self._shapes.items():
            stop, value = start + shape.numel(), values.get(name, 0.0)
            if found and found[-1][1] == value:
                found[-1] = slice(found[-1][0].start, stop), value
            else:
                found.append((slice(start, stop), value))
            start = stop
        return found

    @property
    def gradient(self) -> Tensor:
        """[P], filled by ``backward()``, which adds to what is there."""
        assert self.vector.grad is not None
        return self.vector.grad

    @contextmanager
    def holding(self, vector: Tensor) -> Iterator[None]:
        """Have the module say what it says with other values [P], in a ``with`` block, and no gradients."""
        kept = self.vector.detach().clone()
        try:
            with torch.no_grad():
                self.vector.copy_(vector)
                yield
        finally:
            self.vector.detach().copy_(kept)

    @torch.no_grad()
    def follow(self, other: FlatParameters, tau: float) -> None:
        """Move the values by a share ``tau`` towards another network's of the same shape."""
        if tau == 1.0:
            self.vector.copy_(other.vector)
        else:
            self.vector.lerp_(other.vector, tau)


class Learners:
    """S modules of one shape.

    Args:
        modules: with parameters on one device, which become views of one matrix; see
            :class:`prefrl.nn.flat.FlatParameters`.

    Attributes:
        modules: the modules; their parameters are views of rows of :attr:`vectors`.
        vectors: [S, P] the parameters, with ``grad``.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self.modules = list(modules)
        rows = [torch.cat([p.detach().flatten() for p in module.parameters()]) for module in self.modules]
        self.vectors = nn.Parameter(torch.stack(rows))
        self.vectors.grad = torch.zeros_like(self.vectors)
        self._shapes = {name: p.shape for name, p in self.modules[0].named_parameters()}
        values, slopes = self.views()
        for learner, module in enumerate(self.modules):
            for name, parameter in module.named_parameters():
                parameter.data, parameter.grad = values[name][learner], slopes[name][learner]

    def named(self, vectors: Tensor) -> dict[str, Tensor]:
        """Return what vectors [S, P] hold for each parameter, as views [S, ...], under its name."""
        pieces = torch.split(vectors, [shape.numel() for shape in self._shapes.values()], 1)
        return {
            name: piece.view(len(vectors), *shape)
            for piece, (name, shape) in zip(pieces, self._shapes.items(), strict=True)
        }

    def views(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return values and gradients of the parameters by name, [S, ...], as views."""
        assert self.vectors.grad is not None
        return self.named(self.vectors.detach()), self.named(self.vectors.grad)

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Map inputs [S, N, ...] to outputs [S, N, ...], each learner's by its own module; by autograd.

        (Of one learner without ``torch.vmap``, which cannot call every module.)
        """
        module = self.modules[0]
        if len(self.modules) == 1:
            alone: Tensor = module(*(rows[0] for rows in inputs))
            return alone[None]

        def of_one(parameters: dict[str, Tensor], *rows: Tensor) -> Tensor:
            return functional_call(module, parameters, rows)  # type: ignore[no-any-return]

        outputs: Tensor = torch.vmap(of_one)(self.named(self.vectors), *inputs)
        return outputs

    def follow(self, other: Learners, tau: float) -> None:
        """Move the parameters by a share ``tau`` towards those of others."""
        with torch.no_grad():
            self.vectors.lerp_(other.vectors, tau)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the parameters [S, ...] by name."""
        return self.named(self.vectors.detach())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned.

        Raises:
            ValueError: for other names or shapes.
        """
        own = self.state_dict()
        for name, value in own.items():
            if name not in state or state[name].shape != value.shape:
                raise ValueError(f"there is no {name} of shape {tuple(value.shape)} for these learners")
            value.copy_(state[name])


def clip_factor(gradient: Tensor, max_norm: float) -> Tensor:
    """Return what a gradient [P] is multiplied with to cut its Euclidean norm to ``max_norm``, at most 1.

    (As ``torch.nn.utils.clip_grad_norm_`` does.)
    """
    norm: Tensor = torch.linalg.vector_norm(gradient)
    return (max_norm / (norm + 1e-6)).clamp(max=1.0)


def cut_(gradient: Tensor, max_norm: float) -> None:
    """Cut the Euclidean norm of a gradient [P] to ``max_norm``, in place; see :func:`clip_factor`."""
    norm: Tensor = torch.linalg.vector_norm(gradient)
    if gradient.device.type == "cpu" and norm.item() + 1e-6 <= max_norm:
        return  # as it is most of the time; elsewhere, asking would wait for the device
    gradient.mul_((max_norm / (norm + 1e-6)).clamp(max=1.0))
