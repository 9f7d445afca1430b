"""Torsos: networks from observations to features, which a head (``prefrl.nn.heads``) reads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

EMBEDDING = 32
"""Units that numbers beside a picture are embedded in."""


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


class ObservationTorso(nn.Module):
    """Features of observations: of a Discrete space an indicator, of pictures in uint8 shares of 255.

    Args:
        space: Discrete or Box.
        hidden: layers of the mlp.
        network: "mlp", "conv" (MinAtar's small convolution), or "auto": conv for (height, width, channels).
        conv_filters: 3 x 3 filters of the convolution.
        conv_features: units of its full layer.
        extra: numbers that come beside an observation: the mlp's inputs, or embedded beside a picture's
            features.

    Raises:
        ValueError: if the network does not take such observations.

    Attributes:
        features: size of the output.
    """

    def __init__(
        self,
        space: gym.Space[Any],
        *,
        hidden: tuple[int, ...],
        network: Literal["auto", "mlp", "conv"] = "auto",
        conv_filters: int = 16,
        conv_features: int = 128,
        extra: int = 0,
    ) -> None:
        super().__init__()
        shape = space.shape or ()
        self.first_state: int | None = None
        self.is_picture = space.dtype == np.uint8 and len(shape) == 3
        if isinstance(space, gym.spaces.Discrete):
            self.first_state, shape = int(space.start), (int(space.n),)
            self.states: Tensor
            self.register_buffer("states", torch.arange(shape[0]), persistent=False)
        elif not isinstance(space, gym.spaces.Box) or not shape:
            raise ValueError(f"observation_space is {space}; a Q-network takes Discrete and Box spaces")
        if network == "auto" and len(shape) == 3 and shape[0] < shape[2]:
            raise ValueError(f"observations are {shape}, with the channels first as it seems; transpose them "
                             "to (height, width, channels), or choose network 'conv' or 'mlp'")  # fmt: skip
        self.torso: MLPTorso | ConvTorso
        self.embedding: nn.Linear | None = None
        if network == "conv" or (network == "auto" and len(shape) == 3):
            self.torso = ConvTorso(shape, conv_filters, conv_features)
            self.embedding = nn.Linear(extra, EMBEDDING) if extra else None
        else:
            self.torso = MLPTorso(math.prod(shape) + extra, hidden)
        self.features = self.torso.features + (EMBEDDING if self.embedding is not None else 0)

    def forward(self, obs: Tensor, extra: Tensor | None = None) -> Tensor:
        """Map observations [N, ...], and numbers [N, extra] beside them, to features [N, F]."""
        if self.first_state is not None:
            obs = torch.eq((obs - self.first_state)[:, None], self.states)
        obs = obs.to(torch.float32)
        if self.is_picture:
            obs = obs / 255.0
        if extra is None:
            features: Tensor = self.torso(obs)
            return features
        if self.embedding is None:
            return self.torso(torch.cat([obs.flatten(1), extra], 1))  # type: ignore[no-any-return]
        return torch.cat([self.torso(obs), torch.relu(self.embedding(extra))], 1)
