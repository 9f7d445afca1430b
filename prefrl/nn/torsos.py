"""Torsos: networks from observations to features, which a head (``prefrl.nn.heads``) reads."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from prefrl.reading.errors import one_line

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


class NatureTorso(nn.Module):
    """The network of Mnih et al. (2015, Nature 518, pages 529 to 533; Methods, "Model architecture").

    Filters without padding, 32 of 8 x 8 in steps of 4, 64 of 4 x 4 in steps of 2 and 64 of 3 x 3, then a full
    layer of 512, each with ReLU; in the paper on four pictures of 84 x 84.

    Args:
        shape: (height, width, channels) of an observation, height and width of at least 36.

    Raises:
        ValueError: if the observation is no such picture.

    Attributes:
        features: size of the output, 512.
    """

    features = 512

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        if len(shape) != 3 or min(shape[:2]) < NATURE_PIXELS or shape[2] < 1:
            raise ValueError(f"observations are {tuple(shape)}; this network takes (height, width, channels) "
                             f"of at least {NATURE_PIXELS} x {NATURE_PIXELS}")  # fmt: skip
        sizes = [*shape[:2]]
        for kernel, stride in ((8, 4), (4, 2), (3, 1)):
            sizes = [(size - kernel) // stride + 1 for size in sizes]
        self.conv1 = nn.Conv2d(shape[2], 32, 8, stride=4)
        self.conv2 = nn.Conv2d(32, 64, 4, stride=2)
        self.conv3 = nn.Conv2d(64, 64, 3)
        self.full = nn.Linear(64 * math.prod(sizes), self.features)

    def forward(self, obs: Tensor) -> Tensor:
        """Map observations [N, height, width, channels] to features [N, 512]."""
        x = obs.permute(0, 3, 1, 2)
        for conv in (self.conv1, self.conv2, self.conv3):
            x = torch.relu_(conv(x))
        return torch.relu_(self.full(x.flatten(1)))


NATURE_PIXELS = 36
"""Height and width from which on the filters of :class:`NatureTorso` have a place."""

TorsoKind = Literal["auto", "mlp", "conv", "nature"]
"""Networks for observations; see :class:`ObservationTorso`."""


class ObservationTorso(nn.Module):
    """Features of observations: of a Discrete space an indicator, of pictures in uint8 shares of 255.

    Pictures are (height, width, channels), or (channels, height, width): that where the first axis is the
    shortest.

    Args:
        space: Discrete or Box.
        hidden: layers of the mlp.
        network: "mlp", "conv" (MinAtar's small convolution), "nature" (Mnih et al. 2015), or "auto": for
            observations of three axes nature from 36 x 36 on and conv below, for others mlp.
        conv_filters: 3 x 3 filters of conv.
        conv_features: units of its full layer.
        extra: numbers that come beside an observation: the mlp's inputs, or embedded beside the features of
            other networks.
        torso: another network instead, of which a copy is taken; see :func:`given_torso`.

    Raises:
        ValueError: if the network does not take such observations.

    Attributes:
        features: size of the output.
        given: whether the network was given.
    """

    def __init__(
        self,
        space: gym.Space[Any],
        *,
        hidden: tuple[int, ...],
        network: TorsoKind = "auto",
        conv_filters: int = 16,
        conv_features: int = 128,
        extra: int = 0,
        torso: nn.Module | None = None,
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
        self.given, self._channels_first = torso is not None, False
        self.torso: nn.Module
        network = torso_kind(network, shape)
        if torso is not None:
            self.torso, features = given_torso(torso, shape)
        elif network == "mlp":
            self.torso, features = MLPTorso(math.prod(shape) + extra, hidden), hidden[-1]
        else:
            self._channels_first = _are_channels_first(shape)
            shape = (*shape[1:], shape[0]) if self._channels_first else shape
            small = network == "conv"
            self.torso = ConvTorso(shape, conv_filters, conv_features) if small else NatureTorso(shape)
            features = self.torso.features
        reads_extra = isinstance(self.torso, MLPTorso) and not self.given
        self.embedding = nn.Linear(extra, EMBEDDING) if extra and not reads_extra else None
        self.features = features + (EMBEDDING if self.embedding is not None else 0)

    def numbers(self, obs: Tensor) -> Tensor:
        """Return observations [..., *shape] as float32 numbers, of Discrete spaces [..., n] indicators."""
        if self.first_state is not None:
            obs = torch.eq((obs - self.first_state)[..., None], self.states)
        obs = obs.to(torch.float32)
        return obs / 255.0 if self.is_picture else obs

    def pictures(self, obs: Tensor) -> Tensor:
        """Return the same with the channels last, where they are first and the network is a convolution."""
        obs = self.numbers(obs)
        # In which order a step takes .8 of the time.
        return obs.movedim(-3, -1).contiguous() if self._channels_first else obs

    def forward(self, obs: Tensor, extra: Tensor | None = None) -> Tensor:
        """Map observations [N, ...], and numbers [N, extra] beside them, to features [N, F]."""
        obs = self.pictures(obs)
        if extra is None:
            features: Tensor = self.torso(obs)
            return features
        if self.embedding is None:
            return self.torso(torch.cat([obs.flatten(1), extra], 1))  # type: ignore[no-any-return]
        return torch.cat([self.torso(obs), torch.relu(self.embedding(extra))], 1)


class Numbers:
    """Observations as the numbers that a network reads: of a Discrete space an indicator, a Box flattened.

    Args:
        space: Discrete, or a Box without pictures.
        device: torch device.

    Raises:
        ValueError: for another space.

    Attributes:
        size: D.
    """

    def __init__(self, space: gym.Space[Any], device: torch.device) -> None:
        shape = tuple(space.shape or ())
        picture = isinstance(space, gym.spaces.Box) and space.dtype == np.uint8 and len(shape) == 3
        if picture or not isinstance(space, (gym.spaces.Discrete, gym.spaces.Box)):
            raise ValueError(f"observation_space is {space}; a policy with a likelihood reads "
                             "Discrete spaces and Boxes without pictures")  # fmt: skip
        self.axes = len(shape)
        self.places: Tensor | None = None
        if isinstance(space, gym.spaces.Discrete):
            self.size = int(space.n)
            self.places = torch.arange(self.size, device=device) + int(space.start)
        else:
            self.size = math.prod(shape)

    def __call__(self, obs: Tensor, dtype: torch.dtype) -> Tensor:
        """Return observations [..., *shape] as numbers [..., D]."""
        if self.places is not None:
            return torch.eq(obs[..., None], self.places).to(dtype)
        return obs.reshape(*obs.shape[: obs.ndim - self.axes], self.size).to(dtype)


def given_torso(torso: nn.Module, shape: Sequence[int]) -> tuple[nn.Module, int]:
    """Return a copy of a network that somebody made, on the device in use, and its number of features F.

    Args:
        torso: maps observations [n, ...] float32, as :meth:`ObservationTorso.numbers` has them, to features
            [n, F] float32.
        shape: of an observation.

    Raises:
        TypeError: if it is no module.
        ValueError: if it returns something else, or has parameters that do not learn or buffers that change.
    """
    if not isinstance(torso, nn.Module):
        raise TypeError(f"torso is a {type(torso).__name__}; it must be a torch.nn.Module")
    tried = torch.zeros(1, *shape)
    torso = copy.deepcopy(torso)
    if any(tensor.device != tried.device for tensor in (*torso.parameters(), *torso.buffers())):
        torso = torso.to(tried.device)
    frozen = [name for name, parameter in torso.named_parameters() if not parameter.requires_grad]
    if frozen:
        raise ValueError(f"torso has parameters without gradients, {frozen[0]} among them; here all learn: "
                         "call what must not in its forward under torch.no_grad()")  # fmt: skip
    before = {name: value.clone() for name, value in torso.named_buffers()}
    with torch.no_grad():
        features = torso(tried.expand(2, *shape))
    if not (isinstance(features, Tensor) and features.ndim == 2 and len(features) == 2
            and features.dtype is torch.float32):  # fmt: skip
        told = f"{list(features.shape)} {features.dtype}" if isinstance(features, Tensor) else type(features)
        raise ValueError(f"torso returns {told} for two observations {list(tried.shape[1:])}; it must return "
                         "float32 features [2, F]")  # fmt: skip
    for name, value in torso.named_buffers():
        if not torch.equal(value, before[name]):
            raise ValueError(f"torso changes {name} when it is called, as batch normalisation does; here "
                             "parameters alone learn: take another normalisation")  # fmt: skip
    return torso, features.shape[1]


def torso_kind(network: TorsoKind, shape: Sequence[int]) -> Literal["mlp", "conv", "nature"]:
    """Return which network reads observations of a shape; see :class:`ObservationTorso`."""
    if network != "auto":
        return network
    return "mlp" if len(shape) != 3 else "nature" if _is_large(shape) else "conv"


def _are_channels_first(shape: Sequence[int]) -> bool:
    return len(shape) == 3 and shape[0] < min(shape[1:])


def _is_large(shape: Sequence[int]) -> bool:
    pixels = shape[1:] if _are_channels_first(shape) else shape[:2]
    return min(pixels) >= NATURE_PIXELS


@contextmanager
def called_for_several(torso: nn.Module, alone: str = "") -> Iterator[None]:
    """Make a ValueError of what ``torch.vmap`` says of a torso that it cannot call for several learners.

    Args:
        torso: what was given.
        alone: of whom one learner takes it, as in ", as DQN".
    """
    try:
        yield
    except RuntimeError as error:
        raise ValueError(
            f"torso is a {type(torso).__name__}, which torch.vmap cannot call for several learners at once "
            f"({one_line(error)}); train them one by one{alone}"
        ) from error
