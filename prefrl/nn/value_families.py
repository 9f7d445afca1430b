"""Families of value functions J(t, x; theta) of diffusions, with the gradient of every row.

theta is one vector. Each family meets the end condition J(T, .) = h by construction, where there is a
horizon.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import combinations_with_replacement
from typing import ClassVar

import torch
from torch import Tensor

from .continuous_time.tanh_mlp import TanhMLP


class ValueFamily(ABC):
    """Value functions of time and state.

    Attributes:
        theta: [P] parameters; agents write to them.
    """

    linear: ClassVar[bool] = False
    """Whether J is affine in theta."""

    theta: Tensor

    @abstractmethod
    def gradient(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return J [n] and dJ/dtheta [n, P] at times t [n] and states x [n, d]."""

    def value(self, t: Tensor, x: Tensor) -> Tensor:
        """Return J [n]."""
        return self.gradient(t, x)[0]

    def gradient_sum(self, t: Tensor, x: Tensor, weights: Tensor) -> Tensor:
        """Return sum_i weights_i dJ/dtheta(t_i, x_i) [P] for weights [n]."""
        return weights @ self.gradient(t, x)[1]

    @abstractmethod
    def named(self, theta: Tensor) -> dict[str, Tensor]:
        """Return parameters [P] by the names of their symbols; empty where there are too many to name."""


class LinearFamily(ValueFamily):
    """J = J_0 + theta . phi."""

    linear = True

    @abstractmethod
    def features(self, t: Tensor, x: Tensor) -> Tensor:
        """Return phi [n, P]."""

    def known(self, t: Tensor, x: Tensor) -> Tensor | None:
        """Return J_0 [n]; by default there is none."""
        return None

    def gradient(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`ValueFamily`."""
        phi, known = self.features(t, x), self.known(t, x)
        return (phi @ self.theta if known is None else known + phi @ self.theta), phi


class TauSquared(LinearFamily):
    """J = x^2 + theta tau^2, tau = T - t, which does not hold the value x^2 + tau."""

    def __init__(self, T: float, device: torch.device, dtype: torch.dtype) -> None:
        self.T = T
        self.theta = torch.zeros(1, device=device, dtype=dtype)

    def features(self, t: Tensor, x: Tensor) -> Tensor:
        """See :class:`LinearFamily`."""
        return (self.T - t).square()[:, None]

    def known(self, t: Tensor, x: Tensor) -> Tensor:
        """See :class:`LinearFamily`."""
        return x[:, 0].square()

    def named(self, theta: Tensor) -> dict[str, Tensor]:
        """See :class:`ValueFamily`."""
        return {"theta": theta[0]}


class TauX(TauSquared):
    """J = x^2 + tau + theta tau x, tau = T - t, which holds the value at theta = 0."""

    def features(self, t: Tensor, x: Tensor) -> Tensor:
        """See :class:`LinearFamily`."""
        return ((self.T - t) * x[:, 0])[:, None]

    def known(self, t: Tensor, x: Tensor) -> Tensor:
        """See :class:`LinearFamily`."""
        return x[:, 0].square() + (self.T - t)


class Quadratic(LinearFamily):
    """J = c0 + c1 . x + sum_{i <= j} c2_ij x_i x_j, without end; or J = k0 + k1 . x + 1/2 x'k2 x.

    Args:
        dim: d.
        symbol: "c", or "k" for the form with 1/2.
        constant: whether there is a c0; with average rewards there is none.
        device: where theta lives.
        dtype: of theta.
    """

    def __init__(
        self, dim: int, symbol: str, constant: bool, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.dim, self.symbol, self.constant = dim, symbol, constant
        rows, columns = zip(*combinations_with_replacement(range(dim), 2), strict=True)
        self._rows, self._columns = rows, columns
        self._scale = torch.ones(len(rows), device=device, dtype=dtype)
        for entry, (i, j) in enumerate(zip(rows, columns, strict=True)):
            if i == j and symbol == "k":
                self._scale[entry] = 0.5
        self.theta = torch.zeros(int(constant) + dim + len(rows), device=device, dtype=dtype)

    def features(self, t: Tensor, x: Tensor) -> Tensor:
        """See :class:`LinearFamily`."""
        if self.dim == 1:
            second = x * x
        else:  # column by column: an index tensor would have to be moved to the device
            pairs = zip(self._rows, self._columns, strict=True)
            second = torch.stack([x[:, i] * x[:, j] for i, j in pairs], 1)
        parts = [x, second * self._scale]
        return torch.cat([torch.ones_like(x[:, :1]), *parts] if self.constant else parts, 1)

    def named(self, theta: Tensor) -> dict[str, Tensor]:
        """See :class:`ValueFamily`: numbers for d = 1, else a vector and a symmetric matrix."""
        symbol, d = self.symbol, self.dim
        level = {f"{symbol}0": theta[0]} if self.constant else {}
        rest = theta[int(self.constant) :]
        if d == 1:
            return {**level, f"{symbol}1": rest[0], f"{symbol}2": rest[1]}
        matrix = theta.new_zeros(d, d)
        for entry, i, j in zip(rest[d:], self._rows, self._columns, strict=True):
            matrix[i, j] = entry
            matrix[j, i] = entry
        return {**level, f"{symbol}1": rest[:d], f"{symbol}2": matrix}


class MeanVarianceValue(ValueFamily):
    """J = -(x - w)^2 e^{-theta3 tau} - theta2 (t^2 - T^2) - theta1 (t - T) + (w - z)^2, tau = T - t.

    Args:
        T: horizon.
        z: wealth to reach on average.
        w: [] the multiplier, which may change.
    """

    def __init__(self, T: float, z: float, w: Tensor) -> None:
        self.T, self.z, self.w = T, z, w
        self.theta = torch.zeros(3, device=w.device, dtype=w.dtype)

    def gradient(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`ValueFamily`."""
        tau, theta = self.T - t, self.theta
        cost = (x[:, 0] - self.w).square() * torch.exp(-theta[2] * tau)
        features = torch.stack([tau, self.T**2 - t.square(), tau * cost], 1)
        value = features[:, 0] * theta[0] + features[:, 1] * theta[1] - cost + (self.w - self.z).square()
        return value, features

    def named(self, theta: Tensor) -> dict[str, Tensor]:
        """See :class:`ValueFamily`."""
        return {f"theta{i + 1}": theta[i] for i in range(3)}


class ImpliedVolatility(ValueFamily):
    """J = the Black-Scholes price of a call with volatility theta; its gradient is vega.

    Args:
        b: riskless rate.
        K: strike.
        T: expiry.
        start: first theta, positive.
        device: where theta lives.
        dtype: of theta.
    """

    LEAST = 1e-3
    """Volatility below which the price is that of this one."""

    def __init__(
        self, b: float, K: float, T: float, start: float, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.b, self.K, self.T = b, K, T
        self.theta = torch.full((1,), start, device=device, dtype=dtype)

    def gradient(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`ValueFamily`."""
        s, tau = x[:, 0].clamp(min=1e-12), (self.T - t).clamp(min=1e-12)
        spread = self.theta.clamp(min=self.LEAST) * tau.sqrt()
        d1 = (torch.log(s / self.K) + self.b * tau) / spread + spread / 2.0
        price = s * torch.special.ndtr(d1) - self.K * torch.exp(-self.b * tau) * torch.special.ndtr(
            d1 - spread
        )
        vega = s * tau.sqrt() * torch.exp(-d1.square() / 2.0) * 0.3989422804014327
        return price, vega[:, None]

    def named(self, theta: Tensor) -> dict[str, Tensor]:
        """See :class:`ValueFamily`."""
        return {"theta": theta[0]}


class NeuralValue(ValueFamily):
    """J = h(x) + tau net(t, x), tau = T - t; without a horizon J = net(x).

    Args:
        dim: d.
        hidden: sizes of the hidden layers, tanh.
        T: horizon; None: none.
        terminal: h, [n] of states [n, d].
        generator: draws the first weights.
        device: where theta lives.
        dtype: of theta.
    """

    def __init__(
        self,
        dim: int,
        hidden: Sequence[int],
        T: float | None,
        terminal: Callable[[Tensor], Tensor],
        generator: torch.Generator,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.T, self.terminal = T, terminal
        self.network = TanhMLP(dim + (T is not None), hidden, 1)
        self.theta = self.network.initial(generator, device, dtype)

    def gradient(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`ValueFamily`."""
        inputs, scale = self._inputs(t, x)
        return self.value(t, x), self.network.gradients(self.theta, inputs, scale)

    def value(self, t: Tensor, x: Tensor) -> Tensor:
        """See :class:`ValueFamily`."""
        inputs, scale = self._inputs(t, x)
        value = (self.network(self.theta, inputs) * scale)[:, 0]
        return value if self.T is None else value + self.terminal(x)

    def gradient_sum(self, t: Tensor, x: Tensor, weights: Tensor) -> Tensor:
        """See :class:`ValueFamily`."""
        inputs, scale = self._inputs(t, x)
        return self.network.gradient_sum(self.theta, inputs, scale * weights[:, None])

    def _inputs(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the network sees [n, in], and what its output is multiplied with [n, 1]."""
        if self.T is None:
            return x, torch.ones_like(x[:, :1])
        return torch.cat([t[:, None], x], 1), (self.T - t)[:, None]

    def named(self, theta: Tensor) -> dict[str, Tensor]:
        """See :class:`ValueFamily`: nothing."""
        return {}
