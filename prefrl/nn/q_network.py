"""Networks of action values, by their settings: a torso for the observations, a head for the loss."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prefrl.config import Bounds, Count, NonNegative, Positive, Settings, Sizes
from prefrl.functional.value_based.value_distributions import atoms, bin_centers, bin_edges, resolve_sigma

from .array_chain import ArrayChain, suits
from .conv_front import ConvFront
from .heads import CategoricalHead, Head, HLGaussHead, QuantileHead, ScalarHead, SoftmaxMeanHead, TwoHotHead
from .mlp import Chain, Record
from .torsos import ConvTorso, MLPTorso, ObservationTorso, TorsoKind

Loss = Literal["mse", "huber", "hl_gauss", "two_hot", "c51", "quantile", "mse_softmax"]
"""What is made of a target."""


@dataclass(frozen=True)
class QNetworkSettings(Settings):
    """Settings of :class:`QNetwork`."""

    loss: Loss = "hl_gauss"
    """What is made of a target: a squared error or Huber's, the cross-entropy of a distribution over bins
    (hl_gauss) or atoms (two_hot, c51), quantiles, or the squared error of a softmax's mean (mse_softmax)."""

    dueling: bool = False
    """A stream for the state's value beside that of the actions' advantages (Wang et al. 2016)."""

    network: TorsoKind = "auto"
    """mlp, MinAtar's small convolution (conv), or that of Mnih et al. 2015 (nature); auto takes nature for
    pictures from 36 x 36 on, conv for smaller ones, with the channels last or first, and else mlp."""

    hidden: Sizes = (128, 128)
    """Layers of the mlp."""

    conv_filters: Count = 16
    """3 x 3 filters of conv."""

    conv_features: Count = 128
    """Units of its full layer."""

    v_min: float = -120.0
    """Lowest value of the support (classification losses, mse_softmax)."""

    v_max: float = 120.0
    """Highest value of the support; leave 3 sigma and half a bin between it and the highest target."""

    bins: Annotated[int, Bounds(low=2)] = 101
    """Bins (hl_gauss, mse_softmax) or atoms (two_hot, c51) of the support."""

    placement: Literal["edges", "centers"] = "edges"
    """Whether v_min and v_max are edges or centres of the outer bins (hl_gauss, mse_softmax)."""

    sigma: Positive | None = None
    """Width of HL-Gauss' normal distribution, in units of value (default: by sigma_ratio)."""

    sigma_ratio: Positive | None = None
    """The same in bin widths (default: 0.75)."""

    quantiles: Count = 50
    """Quantiles of the distribution of returns (quantile)."""

    kappa: NonNegative = 1.0
    """Where the quantile Huber loss becomes linear; 0 is the plain quantile loss."""

    def check(self) -> None:
        """See :class:`Settings`."""
        super().check()
        if self.v_min >= self.v_max:
            raise ValueError(f"v_min is {self.v_min} and v_max {self.v_max}; v_min must be below v_max")
        _ = self.resolved_sigma

    @property
    def bin_width(self) -> float:
        """Width of a bin, in units of value."""
        return (self.v_max - self.v_min) / (self.bins - (self.placement == "centers"))

    @property
    def resolved_sigma(self) -> float:
        """HL-Gauss' sigma in units of value."""
        return resolve_sigma(self.bin_width, sigma=self.sigma, sigma_ratio=self.sigma_ratio)

    def make_head(self, features: int, num_actions: int) -> Head:
        """Return the head that learns by the loss."""
        size, dueling, limits = (features, num_actions), self.dueling, (self.v_min, self.v_max)
        if self.loss == "mse" or self.loss == "huber":
            return ScalarHead(*size, self.loss, dueling=dueling)
        if self.loss == "quantile":
            return QuantileHead(*size, self.quantiles, self.kappa, dueling=dueling)
        if self.loss in ("two_hot", "c51"):
            kind = TwoHotHead if self.loss == "two_hot" else CategoricalHead
            return kind(*size, atoms(*limits, self.bins), limits=limits, dueling=dueling)
        edges = bin_edges(*limits, self.bins, placement=self.placement)
        if self.loss == "hl_gauss":
            return HLGaussHead(*size, edges, self.resolved_sigma, limits=limits, dueling=dueling)
        return SoftmaxMeanHead(*size, bin_centers(edges), limits=limits, dueling=dueling)


class QRecord(NamedTuple):
    """What a pass of :class:`QChain` leaves behind."""

    pictures: Tensor | None
    """What the convolution read, if there is one."""
    layers: Record
    """Of the layers."""


class QChain:
    """Forward and backward by hand of S Q-networks of one shape: our perceptrons and small convolutions.

    Args:
        network: one of them, whose settings all have.
        values: [S, ...] the parameters by name.
        slopes: [S, ...] where their gradients are put.
        low: type of what flows through the layers; see :data:`prefrl.data.devices.Precision`.

    Raises:
        ValueError: if the torso is another.

    Attributes:
        learners: S.
        front: the convolution before the layers, if there is one.
        arrays: the layers for NumPy, where one network on the CPU says one number per action; else None.
    """

    def __init__(
        self, network: QNetwork, values: Mapping[str, Tensor], slopes: Mapping[str, Tensor],
        low: torch.dtype | None = None,
    ) -> None:  # fmt: skip
        torso = network.torso.torso
        if not network.has_chain:
            raise ValueError(f"the torso is a {type(torso).__name__}; it must be our multilayer perceptron "
                             "or small convolution")  # fmt: skip
        self.pictures, self.head = network.torso.pictures, network.head
        self.front: ConvFront | None = None
        layers = ["full"]
        if isinstance(torso, ConvTorso):
            weight, bias = "torso.torso.conv.weight", "torso.torso.conv.bias"
            both = values[weight].detach(), values[bias].detach()
            self.front = ConvFront(*both, (slopes[weight], slopes[bias]))
        elif isinstance(torso, MLPTorso):
            layers = [f"layers.{place}" for place in range(len(torso.layers))]
        names = [f"torso.torso.{layer}" for layer in layers] + ["head.output"]
        self._first = [
            (values[f"{name}.weight"].detach()[0], values[f"{name}.bias"].detach()[0]) for name in names
        ]
        self.chain = Chain(
            [values[f"{name}.weight"].detach().transpose(1, 2) for name in names],
            [values[f"{name}.bias"].detach()[:, None] for name in names],
            [(slopes[f"{name}.weight"].transpose(1, 2), slopes[f"{name}.bias"][:, None]) for name in names],
            low=low,
        )
        self.learners = len(self.chain.weights[0])
        plain = isinstance(self.head, ScalarHead) and not self.head.dueling and self.front is None
        self.arrays = ArrayChain(self.chain) if plain and suits(self.chain) else None

    def cast(self) -> QChain:
        """See :meth:`Chain.cast`."""
        chain = copy(self)
        chain.chain = self.chain.cast()
        return chain

    def inputs(self, obs: Tensor) -> Tensor:
        """Return what :meth:`record` reads of observations [S, N, ...]."""
        numbers = self.pictures(obs)
        return numbers.flatten(2) if self.front is None else self.front.pictures(numbers)

    def outputs(self, obs: Tensor) -> Tensor:
        """Return the first network's outputs [n, A] or [n, A, m] for observations [n, ...]; no gradients.

        It is the network's own pass, less what modules cost: half of the time for a single row.
        """
        x, (*inner, (weight, bias)) = self.pictures(obs), self._first
        if self.front is not None:
            x = torch.relu_(F.conv2d(x.permute(0, 3, 1, 2), self.front.weight[0], self.front.bias[0]))
        if obs.shape[0] == 1:  # a product with a vector is quicker than one with a matrix of one row
            x = x.reshape(-1)
            for inner_weight, inner_bias in inner:
                x = torch.relu_(torch.addmv(inner_bias, inner_weight, x))
            return self.head.read(torch.addmv(bias, weight, x)[None])
        x = x.flatten(1)
        for inner_weight, inner_bias in inner:
            x = torch.relu_(F.linear(x, inner_weight, inner_bias))
        return self.head.read(F.linear(x, weight, bias))

    def record(self, inputs: Tensor) -> tuple[QRecord, Tensor]:
        """Return what a pass of :meth:`inputs` leaves behind, and the outputs [S, N, A] or [S, N, A, m]."""
        pictures = None if self.front is None else inputs
        record = self.chain.record(inputs if self.front is None else self.front.features(inputs))
        return QRecord(pictures, record), self.head.read(record.outputs)

    def pull(self, record: QRecord, of_outputs: Tensor, *, add: bool = False) -> None:
        """Put the gradients of a loss in the parameters where they belong, given that in the outputs.

        Args:
            record: of the pass.
            of_outputs: the gradient in its outputs.
            add: add them to what is there.
        """
        pictures, layers = record
        wanted = None if self.front is None else slice(None)
        back = self.chain.pull(layers, self.head.pulled(of_outputs), add=add, inputs=wanted)
        if self.front is not None:
            assert back is not None
            assert pictures is not None
            self.front.pull(pictures, layers.flows[0].to(back.dtype), back, add=add)


class QNetwork(nn.Module):
    """Torso and head of the settings.

    Args:
        observation_space: Discrete or Box.
        num_actions: A.
        settings: which torso, and which head.
        torso: another torso than theirs; see :func:`prefrl.nn.torsos.given_torso`.

    Raises:
        ValueError: if the torso does not take such observations.

    Attributes:
        has_chain: whether :class:`QChain` works by hand what it computes.
    """

    def __init__(
        self, observation_space: Any, num_actions: int, settings: QNetworkSettings,
        torso: nn.Module | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.torso = ObservationTorso(
            observation_space,
            hidden=settings.hidden,
            network=settings.network,
            conv_filters=settings.conv_filters,
            conv_features=settings.conv_features,
            torso=torso,
        )
        self.head = settings.make_head(self.torso.features, num_actions)
        self.has_chain = isinstance(self.torso.torso, (MLPTorso, ConvTorso)) and not self.torso.given

    def forward(self, obs: Tensor) -> Tensor:
        """Map observations [N, ...] to outputs [N, A] or [N, A, m], which the head reads as values."""
        outputs: Tensor = self.head(self.torso(obs))
        return outputs
