"""Gaussian policies pi(a | t, x; phi) of diffusions, with the score of every row.

phi is one vector. The score d log pi / d phi is what policy gradients and q-learning move along.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from .tanh_mlp import TanhMLP

LOG_TWO_PI = math.log(2.0 * math.pi)


class GaussianPolicy(ABC):
    """Independent normal actions [n, m] given time and state.

    Attributes:
        phi: [P] parameters; agents write to them.
    """

    phi: Tensor

    @abstractmethod
    def distribution(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return means and log-variances, each [n, m], at times t [n] and states x [n, d]."""

    @abstractmethod
    def chain(self, t: Tensor, x: Tensor, d_mean: Tensor, d_log_variance: Tensor) -> Tensor:
        """Return gradients [n, P] in phi, from those in means and log-variances, each [n, m]."""

    def sample(self, t: Tensor, x: Tensor, z: Tensor) -> Tensor:
        """Return actions [n, m] for standard normal z [n, m]."""
        mean, log_variance = self.distribution(t, x)
        return mean + torch.exp(0.5 * log_variance) * z

    def score(self, t: Tensor, x: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Return log pi(a | t, x) [n] and its gradient [n, P]."""
        mean, log_variance = self.distribution(t, x)
        precision = torch.exp(-log_variance)
        error = actions - mean
        squares = error.square() * precision
        log_prob = -0.5 * (squares + log_variance + LOG_TWO_PI).sum(-1)
        return log_prob, self.chain(t, x, error * precision, 0.5 * (squares - 1.0))

    def entropy(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the entropy [n] and its gradient [n, P]."""
        mean, log_variance = self.distribution(t, x)
        entropy = 0.5 * (log_variance + LOG_TWO_PI + 1.0).sum(-1)
        return entropy, self.chain(t, x, torch.zeros_like(mean), torch.full_like(log_variance, 0.5))

    @abstractmethod
    def named(self, phi: Tensor) -> dict[str, Tensor]:
        """Return parameters [P] by the names of their symbols; empty where there are too many to name."""


class AffineGaussian(GaussianPolicy):
    """a ~ N(phi1 x + phi2, diag e^{phi3}), phi1 [m, d], phi2 and phi3 [m]."""

    def __init__(self, dim: int, action_dim: int, device: torch.device, dtype: torch.dtype) -> None:
        self.dim, self.action_dim = dim, action_dim
        self.phi = torch.zeros(action_dim * (dim + 2), device=device, dtype=dtype)

    def _parts(self, phi: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        d, m = self.dim, self.action_dim
        return phi[: m * d].view(m, d), phi[m * d : m * d + m], phi[m * d + m :]

    def distribution(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`GaussianPolicy`."""
        phi1, phi2, phi3 = self._parts(self.phi)
        mean = torch.addmm(phi2, x, phi1.T)
        return mean, phi3.expand_as(mean)

    def chain(self, t: Tensor, x: Tensor, d_mean: Tensor, d_log_variance: Tensor) -> Tensor:
        """See :class:`GaussianPolicy`."""
        return torch.cat([(d_mean[:, :, None] * x[:, None, :]).flatten(1), d_mean, d_log_variance], 1)

    def named(self, phi: Tensor) -> dict[str, Tensor]:
        """See :class:`GaussianPolicy`: numbers for d = m = 1."""
        phi1, phi2, phi3 = self._parts(phi)
        if self.dim == self.action_dim == 1:
            return {"phi1": phi1[0, 0], "phi2": phi2[0], "phi3": phi3[0]}
        return {"phi1": phi1, "phi2": phi2, "phi3": phi3}


class MeanVarianceGaussian(GaussianPolicy):
    """a ~ N(-phi1 (x - w), e^{phi2 + phi3 (T - t)}).

    Args:
        T: horizon.
        w: [] the multiplier, which may change.
    """

    def __init__(self, T: float, w: Tensor) -> None:
        self.T, self.w = T, w
        self.phi = torch.zeros(3, device=w.device, dtype=w.dtype)

    def distribution(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`GaussianPolicy`."""
        return -self.phi[0] * (x - self.w), (self.phi[1] + self.phi[2] * (self.T - t))[:, None]

    def chain(self, t: Tensor, x: Tensor, d_mean: Tensor, d_log_variance: Tensor) -> Tensor:
        """See :class:`GaussianPolicy`."""
        tau = (self.T - t)[:, None]
        return torch.cat([-d_mean * (x - self.w), d_log_variance, d_log_variance * tau], 1)

    def named(self, phi: Tensor) -> dict[str, Tensor]:
        """See :class:`GaussianPolicy`."""
        return {f"phi{i + 1}": phi[i] for i in range(3)}


class NeuralGaussian(GaussianPolicy):
    """Means and log-variances by a tanh network of (t, x), or of x without a horizon.

    Args:
        dim: d.
        action_dim: m.
        hidden: sizes of the hidden layers.
        timed: whether the network sees the time.
        generator: draws the first weights.
        device: where phi lives.
        dtype: of phi.
    """

    SPREAD = 5.0
    """Log-variances lie within this of 0."""

    def __init__(
        self,
        dim: int,
        action_dim: int,
        hidden: Sequence[int],
        timed: bool,
        generator: torch.Generator,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.timed, self.action_dim = timed, action_dim
        self.network = TanhMLP(dim + timed, hidden, 2 * action_dim)
        self.phi = self.network.initial(generator, device, dtype)

    def _outputs(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        inputs = torch.cat([t[:, None], x], 1) if self.timed else x
        mean, raw = self.network(self.phi, inputs).chunk(2, 1)
        return inputs, mean, torch.tanh(raw / self.SPREAD)

    def distribution(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`GaussianPolicy`."""
        _, mean, squashed = self._outputs(t, x)
        return mean, self.SPREAD * squashed

    def chain(self, t: Tensor, x: Tensor, d_mean: Tensor, d_log_variance: Tensor) -> Tensor:
        """See :class:`GaussianPolicy`."""
        inputs, _, squashed = self._outputs(t, x)
        weights = torch.cat([d_mean, d_log_variance * (1.0 - squashed.square())], 1)
        return self.network.gradients(self.phi, inputs, weights)

    def named(self, phi: Tensor) -> dict[str, Tensor]:
        """See :class:`GaussianPolicy`: nothing."""
        return {}
