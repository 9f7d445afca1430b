"""Torsos: networks from observations to features, which a head (``prefrl.nn.heads``) reads."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


class MLPTorso(nn.Module):
    """A multilayer perceptron with ReLU after every layer.

    Args:
        inputs: size of a flattened observation.
        hidden: sizes of the layers; the last one is the number of features.

    Raises:
        ValueError: if there is no layer, or a size below 1.

    Attributes:
        features: size of the output.
    """

    def __init__(self, inputs: int, hidden: Sequence[int]) -> None:
        super().__init__()
        if not hidden or min(inputs, *hidden) < 1:
            raise ValueError(f"hidden is {list(hidden)} for {inputs} inputs; give at least one layer, of "
                             "sizes of at least 1")  # fmt: skip
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise((inputs, *hidden)))
        self.features = hidden[-1]

    def forward(self, obs: Tensor) -> Tensor:
        """Map observations [N, ...] to features [N, F]."""
        x = obs.flatten(1)
        for layer in self.layers:
            x = torch.relu_(layer(x))  # in place: what the layer returned is needed by nobody else
        return x


class ConvTorso(nn.Module):
    """The small network of MinAtar (Young and Tian 2019, arXiv 1903.03176, section 3).

    One layer of 3 x 3 filters without padding, then one full layer, each with ReLU; in the paper 16 filters
    and 128 units on pictures of 10 x 10.

    Args:
        shape: (height, width, channels) of an observation, height and width of at least 3.
        filters: 3 x 3 filters.
        features: units of the full layer, and size of the output.

    Raises:
        ValueError: if the observation is no such picture, or a size is below 1.
    """

    def __init__(self, shape: Sequence[int], filters: int = 16, features: int = 128) -> None:
        super().__init__()
        if len(shape) != 3 or min(shape[:2]) < 3 or shape[2] < 1:
            raise ValueError(f"observations are {tuple(shape)}; this network takes (height, width, channels) "
                             "of at least 3 x 3")  # fmt: skip
        if min(filters, features) < 1:
            raise ValueError(f"filters is {filters} and features {features}; they must be at least 1")
        height, width, channels = shape
        self.conv = nn.Conv2d(channels, filters, 3)
        self.full = nn.Linear(filters * (height - 2) * (width - 2), features)
        self.features = features

    def forward(self, obs: Tensor) -> Tensor:
        """Map observations [N, height, width, channels] to features [N, F]."""
        x = torch.relu_(self.conv(obs.permute(0, 3, 1, 2)))
        return torch.relu_(self.full(x.flatten(1)))
