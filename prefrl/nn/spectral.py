"""A cap on the spectral norm of every layer: what bounds a network's Lipschitz constant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .mlp import StackedMLP, product

CappedLayers = Literal["hidden", "all"]
"""Which layers are capped: those below the output layer, or every one."""

START_ITERATIONS = 30
"""Iterations before the first use, from random vectors."""

SUBSPACE = 4
"""Vectors that are iterated on together."""

SQUARINGS = 6
"""Squarings of a small matrix after which its columns are its first eigenvector."""


class SpectralMLP(StackedMLP):
    """A stack of ReLU networks whose weights are scaled so that no layer stretches by more than a cap.

    Of a layer W with largest singular value sigma the network uses

        W min(1, cap / sigma),

    so small layers are left alone (plain spectral normalisation, Miyato et al. 2018, arXiv 1802.05957,
    always divides by sigma). With ReLU the product of the layers' norms bounds the Lipschitz constant. The
    singular vectors are kept, and :meth:`iterate` brings them up to date, once per update; the gradient goes
    through sigma = v' W u at fixed u and v.

    A cap drives several singular values to it, and what is largest changes from one update to the next. A
    single vector's power iteration then lags behind by several percent, so this iterates on the span of
    :data:`SUBSPACE` vectors at once.

    Args:
        members: B.
        inputs: input size.
        hidden: sizes of the hidden layers.
        cap: largest singular value of a capped layer, positive.
        layers: which layers are capped.

    Raises:
        ValueError: for a size below 1, or a cap that is not positive.
    """

    def __init__(
        self, members: int, inputs: int, hidden: Sequence[int], *, cap: float, layers: CappedLayers = "hidden"
    ) -> None:
        super().__init__(members, inputs, hidden)
        if not cap > 0.0:
            raise ValueError(f"cap is {cap}; it must be positive")
        self.cap = cap
        self.capped = len(self.layers) - (layers == "hidden")
        """Layers that are capped, counted from the input."""
        for place, weight in enumerate(self.weights_as_learned()[: self.capped]):
            span = min(SUBSPACE, *weight.shape[1:])
            for name, shape in (("singular_in", weight.shape[1:2]), ("singular_out", weight.shape[2:]),
                                ("span", (weight.shape[2], span))):  # fmt: skip
                self.register_buffer(f"{name}_{place}", torch.randn(members, *shape, device=weight.device))
        self.iterate(START_ITERATIONS)

    def weights_as_learned(self) -> list[Tensor]:
        """Return the parameters, before they are scaled."""
        return super().weights()

    def _vectors(self, place: int) -> tuple[Tensor, Tensor]:
        """Return the singular vectors [B, in] and [B, out] of a layer."""
        return self.get_buffer(f"singular_in_{place}"), self.get_buffer(f"singular_out_{place}")

    @torch.no_grad()
    def iterate(self, steps: int = 1) -> None:
        """Bring the singular vectors up to date by steps of the block power iteration."""
        for place, weight in enumerate(self.weights_as_learned()[: self.capped]):
            span = self.get_buffer(f"span_{place}")
            for _ in range(steps):
                left = torch.linalg.qr(product(weight, span)).Q  # [B, in, k]
                right = product(weight.transpose(1, 2), left)
                span.copy_(F.normalize(right, dim=1))
            into, out = self._vectors(place)
            mixture = top_eigenvector(torch.bmm(right.transpose(1, 2), right))[..., None]
            into.copy_(torch.bmm(left, mixture)[..., 0])
            out.copy_(F.normalize(torch.bmm(right, mixture)[..., 0], dim=1))

    def norms(self) -> list[Tensor]:
        """Return the largest singular values [B] of the capped layers, as far as they are known."""
        found = []
        for place, weight in enumerate(self.weights_as_learned()[: self.capped]):
            into, out = self._vectors(place)
            found.append((torch.bmm(into[:, None], weight)[:, 0] * out).sum(1))
        return found

    def weights(self) -> list[Tensor]:
        """Return the weights [B, in, out] of each layer, capped."""
        weights = self.weights_as_learned()
        for place, sigma in enumerate(self.norms()):
            weights[place] = weights[place] * (self.cap / sigma.clamp(min=self.cap))[:, None, None]
        return weights

    @torch.no_grad()
    def pull_back(self) -> None:
        """Turn the ``grad`` that :meth:`backward` leaves in capped weights into that of the learned ones.

        With G the former, and W scaled by c / sigma, it is c / sigma (G - <G, W> v u' / sigma).
        """
        for place, sigma in enumerate(self.norms()):
            weight: Any = self.layers[place].weight
            into, out = self._vectors(place)
            scale = self.cap / sigma.clamp(min=self.cap)
            along = torch.where(sigma > self.cap, (weight.grad * weight).sum((1, 2)) / sigma, 0.0)
            weight.grad -= (along[:, None] * into)[:, :, None] * out[:, None]
            weight.grad *= scale[:, None, None]


def top_eigenvector(matrices: Tensor) -> Tensor:
    """Return first eigenvectors [B, k] of small positive matrices [B, k, k], without waiting for a device.

    (As ``torch.linalg.eigh`` does, to see whether it failed.)
    """
    for _ in range(SQUARINGS):
        matrices = matrices / matrices.diagonal(dim1=1, dim2=2).sum(1)[:, None, None].clamp(min=1e-30)
        matrices = torch.bmm(matrices, matrices)
    largest = matrices.diagonal(dim1=1, dim2=2).argmax(1)
    chosen = largest[:, None, None].expand(-1, matrices.shape[1], 1)
    return F.normalize(matrices.gather(2, chosen)[..., 0], dim=1)
