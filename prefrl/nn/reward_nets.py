"""Reward networks: E members that read the same transitions, as one chain of batched products."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from .mlp import Chain, Record, StackedMLP

SMALLEST_PICTURE = 6
"""Pictures are halved by another convolution as long as they are at least this high and wide."""


IN_CACHE = 204_800
"""Numbers in a layer's output, per member, that stay in a processor's cache until they are used again. More
rows than that are taken in parts there, which makes fits of wide networks up to a quarter faster."""


class StackedConv(nn.Module):
    """E convolutional torsos for pictures: 3 x 3 filters with stride 2 and ReLU, twice as many at each layer.

    The members are groups of one convolution.

    Args:
        members: E.
        shape: (height, width, channels) of a picture.
        filters: filters of the first layer, for each member.

    Attributes:
        features: size of the output.
    """

    def __init__(self, members: int, shape: Sequence[int], filters: int) -> None:
        super().__init__()
        height, width, channels = shape
        self.members = members
        self.layers = nn.ModuleList()
        while min(height, width) >= SMALLEST_PICTURE or not self.layers:
            convolution = nn.Conv2d(members * channels, members * filters, 3, stride=2, padding=1,
                                    groups=members)  # fmt: skip
            self.layers.append(convolution)
            height, width, channels, filters = (height + 1) // 2, (width + 1) // 2, filters, 2 * filters
        self.features = height * width * channels

    def forward(self, pictures: Tensor) -> Tensor:
        """Map pictures [N, height, width, channels] in uint8 to features [E, N, F]."""
        x = pictures.permute(0, 3, 1, 2).to(torch.float32).div(255.0)
        x = x.repeat(1, self.members, 1, 1)
        for layer in self.layers:
            x = torch.relu(layer(x))
        return x.reshape(len(x), self.members, -1).transpose(0, 1)


class RewardNetwork(nn.Module):
    """E reward functions of a vector, or of a vector and a picture.

    Args:
        members: E.
        inputs: size of the vector.
        hidden: sizes of the hidden layers.
        picture: (height, width, channels) of the picture; None: there is none.
        filters: filters of the first convolution.
        outputs: numbers that each function gives, on an axis of their own; None: one reward, without.
    """

    def __init__(
        self,
        members: int,
        inputs: int,
        hidden: Sequence[int],
        picture: Sequence[int] | None = None,
        filters: int = 16,
        outputs: int | None = None,
    ) -> None:
        super().__init__()
        self.members = members
        self.torso = None if picture is None else StackedConv(members, picture, filters)
        features = 0 if self.torso is None else self.torso.features
        self.mlp = StackedMLP(members, inputs + features, hidden, outputs)
        self._rows = max(1, IN_CACHE // max(1, *hidden))

    def forward(self, vectors: Tensor, pictures: Tensor | None = None) -> Tensor:
        """Map vectors [N, D], and pictures [N, height, width, channels] in uint8, to rewards [E, N].

        With ``outputs`` they are [E, N, outputs].
        """
        return self._in_parts(self.mlp, vectors, pictures)

    def last_hidden(self, vectors: Tensor, pictures: Tensor | None = None) -> Tensor:
        """Map the same to the last hidden layers [E, N, H], the rewards' slopes in their last weights."""
        return self._in_parts(self.mlp.last_hidden, vectors, pictures)

    def _in_parts(
        self, of: Callable[[Tensor], Tensor], vectors: Tensor, pictures: Tensor | None
    ) -> Tensor:  # fmt: skip
        parts = self.parts(vectors)
        if len(parts) == 1:
            return of(self._read(vectors, pictures))
        pieces = [None] * len(parts) if pictures is None else torch.split(pictures, self._rows)
        return torch.cat([of(self._read(*part)) for part in zip(parts, pieces, strict=True)], 1)

    def parts(self, vectors: Tensor) -> Sequence[Tensor]:
        """Return rows [N, ...] in the parts that are taken at once."""
        if vectors.device.type != "cpu" or len(vectors) <= self._rows:
            return [vectors]
        return torch.split(vectors, self._rows)

    def _read(self, vectors: Tensor, pictures: Tensor | None) -> Tensor:
        x = vectors.expand(self.members, -1, -1)
        if self.torso is not None and pictures is not None:
            x = torch.cat([x, self.torso(pictures)], -1)
        return x


class RewardChain:
    """What a :class:`RewardNetwork` of vectors does, and its gradients, without autograd.

    Args:
        network: whose parameters and gradients must keep the memory that they have now.
        low: type of what flows through the layers, see :data:`prefrl.data.devices.Precision`; None: theirs.

    Raises:
        ValueError: if the network reads a picture.
    """

    def __init__(self, network: RewardNetwork, low: torch.dtype | None = None) -> None:
        if network.torso is not None:
            raise ValueError("the reward network reads a picture; this is for multilayer perceptrons alone")
        self.network, self.chain = network, Chain.of(network.mlp, low)

    def record(self, vectors: Tensor) -> tuple[list[Record], Tensor]:
        """Return what a pass of vectors [N, D] leaves behind, part by part, and the rewards [E, N]."""
        chain, members = self.chain.cast(), self.network.members
        records = [chain.record(part.expand(members, -1, -1)) for part in self.network.parts(vectors)]
        outputs = [record.outputs for record in records]
        return records, (outputs[0] if len(outputs) == 1 else torch.cat(outputs, 1))[..., 0]

    def pull(self, records: list[Record], slopes: Tensor) -> None:
        """Put the gradients of sum(slopes [E, N] * rewards) where the network's gradients are."""
        sizes = [record.outputs.shape[1] for record in records]
        for place, part in enumerate(torch.split(slopes[..., None], sizes, 1)):
            self.chain.pull(records[place], part, add=place > 0)
