"""The parameters of a network as one vector, and Adam's step on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adam import adam


class FlatParameters:
    """All parameters of a module in one vector, of which they become views; their gradients likewise.

    A small network's update spends more on calling operations than on computing them. On one vector the
    optimiser, the cut of the gradient's norm, the reset of the gradient and the update of a target network
    are one operation each. The module works as before; its parameters must stay these views, so do not move
    it with ``.to()`` or set gradients to None (``load_state_dict`` copies in place and is fine).

    Args:
        module: parameters of one dtype on one device.

    Raises:
        ValueError: if there are none, or they differ in dtype or device.

    Attributes:
        vector: [P] the values, a parameter for an optimiser; its ``grad`` [P] is filled by ``backward()``.
    """

    def __init__(self, module: nn.Module) -> None:
        parameters = list(module.parameters())
        kinds = {(parameter.dtype, parameter.device) for parameter in parameters}
        if len(kinds) != 1:
            raise ValueError(f"the parameters of {type(module).__name__} are of kinds {kinds}; they must be "
                             "of one dtype, on one device")  # fmt: skip
        values = torch.cat([parameter.detach().flatten() for parameter in parameters])
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
        pieces = torch.split(vector, [shape.numel() for shape in self._shapes.values()])
        return {
            name: piece.view(shape) for piece, (name, shape) in zip(pieces, self._shapes.items(), strict=True)
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

    @torch.no_grad()
    def follow(self, other: FlatParameters, tau: float) -> None:
        """Move the values by a share ``tau`` towards another network's of the same shape."""
        if tau == 1.0:
            self.vector.copy_(other.vector)
        else:
            self.vector.lerp_(other.vector, tau)


def clip_factor(gradient: Tensor, max_norm: float) -> Tensor:
    """Return what a gradient [P] is multiplied with to cut its Euclidean norm to ``max_norm``, at most 1.

    (As ``torch.nn.utils.clip_grad_norm_`` does.)
    """
    norm: Tensor = torch.linalg.vector_norm(gradient)
    return (max_norm / (norm + 1e-6)).clamp(max=1.0)


def adam_state(optimizer: torch.optim.Adam, vector: Tensor) -> dict[str, Tensor]:
    """Return Adam's state of a parameter [P], the one it starts with before its first step.

    The optimiser itself makes it in the first step only, which is too late for a compiled function of it.
    """
    state: dict[str, Tensor] = optimizer.state[vector]
    if not state:
        state["step"] = torch.zeros((), device=vector.device)
        state["exp_avg"], state["exp_avg_sq"] = (torch.zeros_like(vector.detach()) for _ in range(2))
    return state


@torch.no_grad()
def fused_adam_step_(
    optimizer: torch.optim.Adam, vector: Tensor, decays: Sequence[tuple[Any, float]] = ((..., 0.0),)
) -> None:
    """Take the step that ``optimizer.step()`` would for its only parameter [P], without what is around it.

    (Hooks, and a search of the parameters for kinds of devices and numbers: a third of the time of a step.)

    Args:
        optimizer: Adam.
        vector: [P], or [], with a gradient.
        decays: L2 weights of parts of the vector, which cover it.
    """
    assert vector.grad is not None
    state, group = adam_state(optimizer, vector), optimizer.param_groups[0]
    state["step"] += 1.0
    means, squares, (beta1, beta2) = state["exp_avg"], state["exp_avg_sq"], group["betas"]
    for place, decay in decays:
        torch._fused_adam_(
            [vector[place]], [vector.grad[place]], [means[place]], [squares[place]], [], [state["step"]],
            lr=group["lr"], beta1=beta1, beta2=beta2, weight_decay=decay, eps=group["eps"], amsgrad=False,
            maximize=False,
        )  # fmt: skip


def adam_step_(
    vector: Tensor, gradient: Tensor, state: dict[str, Tensor], *, lr: Tensor, betas: tuple[float, float],
    eps: float,
) -> None:  # fmt: skip
    """Take in place the step that ``torch.optim.Adam`` would, as a function that ``torch.compile`` can fuse.

    Where it is not compiled it waits for the device.

    Args:
        vector: [P] values.
        gradient: [P].
        state: of :func:`adam_state`.
        lr: step size, []; a tensor, so that another one needs no other function.
        betas: decay of the averages of gradients and of their squares.
        eps: added to the root of the latter.
    """
    lr = lr.clamp(min=1e-20)  # which torch divides by here
    adam([vector], [gradient], [state["exp_avg"]], [state["exp_avg_sq"]], [], [state["step"]],
         foreach=False, capturable=torch.compiler.is_compiling(), amsgrad=False, beta1=betas[0],
         beta2=betas[1], lr=lr, weight_decay=0.0, eps=eps, maximize=False)  # fmt: skip
