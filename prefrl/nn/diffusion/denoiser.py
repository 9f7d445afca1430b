"""The network that predicts the noise in a sample, given a condition and how much noise there is.

Of a noisy sample x [C], a condition o [D] and a time t it is, for S learners side by side,

    h   = act(x W_x + e(o) + tau(t))          e: a network of one hidden layer, tau: likewise, of waves in t
    eps = layers(h)                           the other hidden layers, and an affine one

so that what reads the condition is asked once for all steps of a sampler, what reads the time once for all
rows, and the steps themselves are the products of the trunk alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prefrl.nn.mlp import ACTIVATIONS, StackedLinear, StackedMLP

Activation = Literal["relu", "silu"]

WAVES = 32
"""Sines and cosines of the time that tau reads."""

ROWS = 256
"""Rows that go through all steps together on the CPU: what flows then stays in the processor's cache."""


def time_waves(times: Tensor, noise_steps: int) -> Tensor:
    """Return sines and cosines of times [..., WAVES] float32.

    Their wavelengths grow from 2 pi to 20,000 pi in units of a thousandth of the whole time (Vaswani et al.
    2017, arXiv 1706.03762, section 3.5, as arXiv 2006.11239 has them for 1,000 steps).

    Args:
        times: [...] from 0 to T.
        noise_steps: T.
    """
    places = torch.arange(WAVES // 2, device=times.device, dtype=torch.float32)
    rates = torch.exp(places * (-math.log(10_000.0) / (WAVES // 2 - 1)))
    angles = (times.to(torch.float32) * (1_000.0 / noise_steps))[..., None] * rates
    return torch.cat([angles.sin(), angles.cos()], -1)


class Denoiser(nn.Module):
    """Predicts noise; see the module's text. Every parameter has the axis of S learners first.

    Args:
        learners: S.
        inputs: D, numbers of a condition.
        size: C, numbers of a sample.
        hidden: sizes of the trunk's hidden layers; the hidden layers of e and tau are as wide as the first.
        noise_steps: T.
        activation: after every hidden layer.
    """

    def __init__(
        self, learners: int, inputs: int, size: int, hidden: Sequence[int], noise_steps: int,
        activation: Activation = "silu",
    ) -> None:  # fmt: skip
        super().__init__()
        width = hidden[0]
        self.size, self.noise_steps = size, noise_steps
        self.activation: Activation = activation
        self.condition = StackedMLP(learners, inputs, (width,), width, activation)
        self.time = StackedMLP(learners, WAVES, (width,), width, activation)
        self.entry = nn.Parameter(StackedLinear(learners, size, width).weight.detach())
        self.trunk = StackedMLP(learners, width, hidden[1:], size, activation)

    def act_(self, values: Tensor) -> Tensor:
        """Apply the activation, in place."""
        return torch.relu_(values) if self.activation == "relu" else F.silu(values, inplace=True)

    def times(self) -> Tensor:
        """Return tau [S, T + 1, W] of all times."""
        every = torch.arange(self.noise_steps + 1, device=self.entry.device)
        waves = time_waves(every, self.noise_steps).expand(len(self.entry), -1, -1)
        table: Tensor = self.time(waves)
        return table

    def forward(self, x: Tensor, numbers: Tensor, times: Tensor) -> Tensor:
        """Return the noise [S, N, K, C] that is predicted in K noisy samples of each of N conditions.

        Args:
            x: [S, N, K, C].
            numbers: [S, N, D] conditions.
            times: [S, N, K] int64, from 1 to T.
        """
        learners, rows, draws, size = x.shape
        table = self.times()
        offsets = torch.arange(learners, device=x.device)[:, None, None] * table.shape[1]
        moved = F.embedding(times + offsets, table.flatten(0, 1))  # [S, N, K, W]
        moved = (moved + self.condition(numbers)[:, :, None]).view(learners, rows * draws, -1)
        entered = torch.baddbmm(moved, x.reshape(learners, rows * draws, size), self.entry)
        hidden = ACTIVATIONS[self.activation](entered)
        predicted: Tensor = self.trunk(hidden)
        return predicted.view(x.shape)

    @torch.no_grad()
    def for_steps(self, times: Sequence[int]) -> Steps:
        """Return what predicts noise at given times, with their part of the first layer worked out."""
        return Steps(self, times)


class Steps:
    """A denoiser at the times of a sampler, for rows that go through all of them.

    Args:
        network: the denoiser, whose weights must stay as they are meanwhile.
        times: of the steps.

    Attributes:
        entries: [K, S, C + 1, W] weights of x and, in the last row, tau of each step.
    """

    def __init__(self, network: Denoiser, times: Sequence[int]) -> None:
        self.network = network
        table = network.times()
        taus = torch.stack([table[:, time] for time in times])[:, :, None]
        self.entries = torch.cat([network.entry.expand(len(times), -1, -1, -1), taus], 2).unbind(0)
        self._layers = list(zip(network.trunk.weights(), network.trunk.biases(), strict=True))

    def begin(self, numbers: Tensor) -> None:
        """Read the conditions [S, n, D] of the rows to come."""
        self._encoded: Tensor = self.network.condition(numbers)
        shape = self._encoded.shape[:2]
        widths = [self._encoded.shape[2], *(weight.shape[2] for weight, _ in self._layers)]
        self._flows = [self._encoded.new_empty(*shape, width) for width in widths]

    def __call__(self, step: int, x: Tensor) -> Tensor:
        """Return the noise predicted in rows at a step, [S, n, C], which the next call overwrites.

        Args:
            step: its number, from 0.
            x: [S, n, C + 1] noisy samples, with a 1 last.
        """
        flows, act_ = self._flows, self.network.act_
        flow = act_(torch.baddbmm(self._encoded, x, self.entries[step], out=flows[0]))
        for place, (weight, bias) in enumerate(self._layers):
            last = place == len(self._layers) - 1
            flow = torch.bmm(flow, weight, out=flows[place + 1]).add_(bias)
            flow = flow if last else act_(flow)
        return flow
