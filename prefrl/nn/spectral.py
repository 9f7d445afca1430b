"""A cap on the spectral norm of every layer: what bounds a network's Lipschitz constant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .mlp import StackedMLP, gathered

CappedLayers = Literal["hidden", "all"]
"""Which layers are capped: those below the output layer, or every one."""

START_ITERATIONS = 30
"""Iterations before the first use, from random vectors."""

SUBSPACE = 6
"""Vectors that are iterated on together."""

SQUARINGS = 5
"""Squarings of a small matrix after which its columns are its first eigenvector, or close to it."""


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
        shapes = [weight.shape[1:] for weight in self.weights_as_learned()[: self.capped]]
        device = self.weights_as_learned()[0].device
        for place, (size, out) in enumerate(shapes):
            span = min(SUBSPACE, size, out)
            for name, shape in (("left", (size,)), ("right", (out,)), ("span", (out, span)),
                                ("scale", (1, 1)), ("pull", (size, 1))):  # fmt: skip
                self.register_buffer(f"{name}_{place}", torch.randn(members, *shape, device=device))
        self.iterate(START_ITERATIONS)

    def weights_as_learned(self) -> list[Tensor]:
        """Return the parameters, before they are scaled."""
        return super().weights()

    def _kept(self, name: str) -> list[Tensor]:
        """Return what is kept of each capped layer under a name."""
        return [self.get_buffer(f"{name}_{place}") for place in range(self.capped)]

    @torch.no_grad()
    def iterate(self, steps: int = 1) -> None:
        """Bring singular vectors and scales up to date by steps of the block power iteration."""
        weights, spans = self.weights_as_learned()[: self.capped], self._kept("span")
        for _ in range(steps):
            lefts = [torch.linalg.qr(gathered(*both)).Q for both in zip(weights, spans, strict=True)]
            rights = [gathered(w.transpose(1, 2), left) for w, left in zip(weights, lefts, strict=True)]
            for span, right in zip(spans, rights, strict=True):
                span.copy_(F.normalize(right, dim=1))
        grams = [torch.bmm(right.transpose(1, 2), right) for right in rights]
        widest = max(gram.shape[2] for gram in grams)
        padded = [F.pad(gram, (0, widest - gram.shape[2]) * 2) for gram in grams]
        mixtures = top_eigenvector(torch.cat(padded)).view(self.capped, self.members, widest, 1)
        for place, mixture in enumerate(mixtures.unbind(0)):
            chosen = mixture[:, : spans[place].shape[2]]
            left, right = torch.bmm(lefts[place], chosen), torch.bmm(rights[place], chosen)[..., 0]
            sigma = torch.linalg.vector_norm(right, dim=1, keepdim=True).clamp(min=1e-30)
            self.get_buffer(f"left_{place}").copy_(left[..., 0])
            torch.div(right, sigma, out=self.get_buffer(f"right_{place}"))
            torch.div(self.cap, sigma.clamp(min=self.cap)[..., None], out=self.get_buffer(f"scale_{place}"))
            torch.mul(left, ((sigma > self.cap) / sigma)[..., None], out=self.get_buffer(f"pull_{place}"))

    def norms(self) -> list[Tensor]:
        """Return the largest singular values [B] of the capped layers as they are now, with a gradient."""
        parts = zip(self._kept("left"), self.weights_as_learned(), self._kept("right"), strict=False)
        return [(torch.bmm(left[:, None], weight)[:, 0] * right).sum(1) for left, weight, right in parts]

    def weights(self) -> list[Tensor]:
        """Return the weights [B, in, out] of each layer, capped."""
        weights = self.weights_as_learned()
        for place, sigma in enumerate(self.norms()):
            weights[place] = weights[place] * (self.cap / sigma.clamp(min=self.cap))[:, None, None]
        return weights

    @torch.no_grad()
    def show(self, other: StackedMLP) -> None:
        """Write capped weights, as of the last :meth:`iterate`, and biases to a stack without caps."""
        mine, theirs = self.weights_as_learned(), other.weights()
        for place, scale in enumerate(self._kept("scale")):
            torch.mul(mine[place], scale, out=theirs[place])
        torch._foreach_copy_(
            [*theirs[self.capped :], *other.biases()], [*mine[self.capped :], *self.biases()]
        )

    @torch.no_grad()
    def pull_back(self) -> None:
        """Turn the ``grad`` that :meth:`backward` leaves in capped weights into that of the learned ones.

        With G the former, and W scaled by c / sigma, it is c / sigma (G - <G, W> v u' / sigma). Norms are
        those of the last :meth:`iterate`.
        """
        parts = zip(self._kept("pull"), self._kept("right"), self._kept("scale"), strict=True)
        for place, (pull, right, scale) in enumerate(parts):
            weight: Any = self.layers[place].weight
            along = torch.linalg.vecdot(weight.grad.flatten(1), weight.flatten(1))
            weight.grad.addcmul_(along[:, None, None] * pull, right[:, None], value=-1.0).mul_(scale)


def top_eigenvector(matrices: Tensor) -> Tensor:
    """Return first eigenvectors [B, k] of small positive matrices [B, k, k], without waiting for a device.

    (As ``torch.linalg.eigh`` does, to see whether it failed.)
    """
    # With trace 1 the first eigenvalue is at least 1 / k: no power here falls out of float32's range.
    matrices = matrices / matrices.diagonal(dim1=1, dim2=2).sum(1)[:, None, None].clamp(min=1e-30)
    for _ in range(SQUARINGS):
        matrices = torch.bmm(matrices, matrices)
    largest = matrices.diagonal(dim1=1, dim2=2).argmax(1)
    chosen = largest[:, None, None].expand(-1, matrices.shape[1], 1)
    column = matrices.gather(2, chosen)[..., 0]
    return F.normalize(column / column.abs().amax(1, keepdim=True).clamp(min=1e-30), dim=1)
