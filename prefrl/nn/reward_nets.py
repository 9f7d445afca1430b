"""Reward networks: E members that read the same transitions, as one chain of batched products."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .mlp import StackedMLP

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
    """

    def __init__(
        self,
        members: int,
        inputs: int,
        hidden: Sequence[int],
        picture: Sequence[int] | None = None,
        filters: int = 16,
    ) -> None:
        super().__init__()
        self.members = members
        self.torso = None if picture is None else StackedConv(members, picture, filters)
        features = 0 if self.torso is None else self.torso.features
        self.mlp = StackedMLP(members, inputs + features, hidden)
        self._rows = max(1, IN_CACHE // max(1, *hidden))

    def forward(self, vectors: Tensor, pictures: Tensor | None = None) -> Tensor:
        """Map vectors [N, D], and pictures [N, height, width, channels] in uint8, to rewards [E, N]."""
        rows = len(vectors) if vectors.device.type != "cpu" else self._rows
        if len(vectors) <= rows:
            return self._rewards(vectors, pictures)
        parts = torch.split(vectors, rows)
        pieces = [None] * len(parts) if pictures is None else torch.split(pictures, rows)
        return torch.cat([self._rewards(*part) for part in zip(parts, pieces, strict=True)], 1)

    def _rewards(self, vectors: Tensor, pictures: Tensor | None) -> Tensor:
        x = vectors.expand(self.members, -1, -1)
        if self.torso is not None and pictures is not None:
            x = torch.cat([x, self.torso(pictures)], -1)
        rewards: Tensor = self.mlp(x)
        return rewards
