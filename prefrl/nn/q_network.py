"""Networks of action values, by their settings: a torso for the observations, a head for the loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from torch import Tensor, nn

from prefrl.config import Bounds, Count, NonNegative, Positive, Settings, Sizes
from prefrl.functional.value_based.value_distributions import atoms, bin_centers, bin_edges, resolve_sigma

from .heads import CategoricalHead, Head, HLGaussHead, QuantileHead, ScalarHead, SoftmaxMeanHead, TwoHotHead
from .torsos import ObservationTorso

Loss = Literal["mse", "huber", "hl_gauss", "two_hot", "c51", "quantile", "mse_softmax"]
"""What is made of a target; see the top of ``agents/value_based/dqn.py``."""


@dataclass(frozen=True)
class QNetworkSettings(Settings):
    """Settings of :class:`QNetwork`."""

    loss: Loss = "hl_gauss"
    """What is made of a target; see the top of ``agents/value_based/dqn.py``."""

    dueling: bool = False
    """A stream for the state's value beside that of the actions' advantages (Wang et al. 2016)."""

    network: Literal["auto", "mlp", "conv"] = "auto"
    """mlp, or MinAtar's small convolution; auto takes that for observations (height, width, channels)."""

    hidden: Sizes = (128, 128)
    """Layers of the mlp."""

    conv_filters: Count = 16
    """3 x 3 filters of the convolution."""

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


class QNetwork(nn.Module):
    """Torso and head of the settings.

    Args:
        observation_space: Discrete or Box.
        num_actions: A.
        settings: which torso, and which head.

    Raises:
        ValueError: if the torso does not take such observations.
    """

    def __init__(self, observation_space: Any, num_actions: int, settings: QNetworkSettings) -> None:
        super().__init__()
        self.torso = ObservationTorso(
            observation_space,
            hidden=settings.hidden,
            network=settings.network,
            conv_filters=settings.conv_filters,
            conv_features=settings.conv_features,
        )
        self.head = settings.make_head(self.torso.features, num_actions)

    def forward(self, obs: Tensor) -> Tensor:
        """Map observations [N, ...] to outputs [N, A] or [N, A, m], which the head reads as values."""
        outputs: Tensor = self.head(self.torso(obs))
        return outputs
