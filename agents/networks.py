"""Torsos for observation spaces: what value networks of several agents begin with."""

from __future__ import annotations

import math
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from prefrl.nn.torsos import ConvTorso, MLPTorso

EMBEDDING = 32
"""Units that numbers beside a picture are embedded in."""


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
