"""The parameters of a network as one vector."""

from __future__ import annotations

import torch
from torch import Tensor, nn


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

    @property
    def gradient(self) -> Tensor:
        """[P], filled by ``backward()``, which adds to what is there."""
        assert self.vector.grad is not None
        return self.vector.grad

    @torch.no_grad()
    def clip_gradient(self, max_norm: float) -> None:
        """Cut the gradient's Euclidean norm to ``max_norm``, as ``torch.nn.utils.clip_grad_norm_`` does."""
        gradient = self.gradient
        gradient *= (max_norm / (torch.linalg.vector_norm(gradient) + 1e-6)).clamp(max=1.0)

    @torch.no_grad()
    def follow(self, other: FlatParameters, tau: float) -> None:
        """Move the values by a share ``tau`` towards another network's of the same shape."""
        if tau == 1.0:
            self.vector.copy_(other.vector)
        else:
            self.vector.lerp_(other.vector, tau)
