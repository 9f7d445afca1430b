"""The network that predicts the noise in a sample, given a condition and how much noise there is.

Of a noisy sample x [C], a condition o [D] and a time t it is, for S learners side by side,

    h_1     = act(x W_1 * (1 + g_1(t)) + tau(t) + e(o))
    h_{i+1} = act(h_i W_{i+1} * (1 + g_{i+1}(t)) + b_{i+1}),    eps = h_n W + b,

e and (tau, g) being networks of one hidden layer. What reads the condition is asked once for all steps of a
sampler, what reads the time once for all rows, and the factors g go into the weights of a step: the steps
themselves are the products of the trunk alone. (The noise in a sample near a clean one grows as 1 / sigma_t
times what it is away from that, a product that sums of functions of x and t learn badly: without g the
error left after 2,500 steps on a ring of eight narrow modes was .037 above the least that is possible, with
g_1 .009, with both .001.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prefrl.nn.mlp import ACTIVATIONS, StackedLinear, StackedMLP, gather

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
        hidden: sizes of the trunk's hidden layers; the hidden layers of e and (tau, g) are as wide as the
            first.
        noise_steps: T.
        activation: after every hidden layer.
    """

    def __init__(
        self, learners: int, inputs: int, size: int, hidden: Sequence[int], noise_steps: int,
        activation: Activation = "relu",
    ) -> None:  # fmt: skip
        super().__init__()
        width = hidden[0]
        self.hidden, self.noise_steps = tuple(hidden), noise_steps
        self.activation: Activation = activation
        self.condition = StackedMLP(learners, inputs, (width,), width, activation)
        self.time = StackedMLP(learners, WAVES, (width,), width + sum(hidden), activation)
        self.entry = nn.Parameter(StackedLinear(learners, size, width).weight.detach())
        self.trunk = StackedMLP(learners, width, hidden[1:], size, activation)

    def of_times(self, times: Tensor) -> tuple[Tensor, ...]:
        """Return 1 + g of every hidden layer [S, G, size], and tau [S, G, W], at times [S, G]."""
        return self._split(self.time(time_waves(times, self.noise_steps)))

    def _split(self, said: Tensor) -> tuple[Tensor, ...]:
        *gains, tau = torch.split(said, [*self.hidden, self.hidden[0]], -1)
        return *(1.0 + gain for gain in gains), tau

    def _entry(self, gain: Tensor, tau: Tensor) -> Tensor:
        """Return the first layer's weights at times [S G, C + 1, W], tau in their last row."""
        return torch.cat([self.entry[:, None] * gain[:, :, None], tau[:, :, None]], 2).flatten(0, 1)

    def forward(self, x: Tensor, numbers: Tensor, times: Tensor) -> Tensor:
        """Return the noise [S, G, R, C] that is predicted in R noisy samples at each of G times.

        Args:
            x: [S, G, R, C] samples.
            numbers: [S, G, R, D] conditions; or [S, 1, R, D], the same at all times.
            times: [S, G] from 1 to T.
        """
        learners, groups, rows, _ = x.shape
        act = ACTIVATIONS[self.activation]
        gain, *gains, tau = self.of_times(times)
        read = self.condition(numbers.flatten(1, 2)).view(learners, -1, rows, self.hidden[0])
        read = read.expand(-1, groups, -1, -1).flatten(0, 1)
        flow = act(torch.baddbmm(read, _with_ones(x), self._entry(gain, tau))).view(
            learners, groups * rows, -1
        )
        *inner, (weight, bias) = zip(self.trunk.weights(), self.trunk.biases(), strict=True)
        for gain, (inner_weight, inner_bias) in zip(gains, inner, strict=True):
            entered = torch.bmm(flow, inner_weight).view(learners, groups, rows, -1)
            flow = act(torch.addcmul(inner_bias[:, None], entered, gain[:, :, None])).flatten(1, 2)
        return torch.baddbmm(bias, flow, weight).view(x.shape)

    @torch.no_grad()
    def pull_errors(self, x: Tensor, numbers: Tensor, times: Tensor, noise: Tensor) -> Tensor:
        """Put the gradients of the mean error into the parameters' ``grad``; return the errors [S, G R].

        The same as autograd of :meth:`forward`, for ReLU. Whole steps by autograd take 1.15 times as long 256
        wide with 256 rows, 1.25 times 64 wide with 64; 1.05 to 1.11 times 256 wide with 1,024 rows.

        Args:
            x: [S, G, R, C] samples.
            numbers: [S, G, R, D] conditions.
            times: [S, G] from 1 to T.
            noise: [S, G R, C] what should be predicted.
        """
        learners, groups, rows, _ = x.shape
        shape = learners, groups, rows, -1
        read = self.condition.record(numbers.flatten(1, 2))
        said = self.time.record(time_waves(times, self.noise_steps))
        gain, *gains, tau = self._split(said.outputs)
        ones, layers = _with_ones(x), [*self.trunk.layers]
        *inner, last = zip(self.trunk.weights(), self.trunk.biases(), strict=True)
        entered = read.outputs.view(*ones.shape[:2], -1).baddbmm_(ones, self._entry(gain, tau))
        flows, products = [entered.relu_().view(learners, groups * rows, -1)], []
        for of_time, (weight, bias) in zip(gains, inner, strict=True):
            products.append(torch.bmm(flows[-1], weight).view(shape))
            flow = torch.addcmul(bias[:, None], products[-1], of_time[:, :, None])
            flows.append(flow.relu_().flatten(1, 2))
        back = torch.baddbmm(last[1], flows[-1], last[0]).sub_(noise)
        errors = back.square().sum(-1)

        back.mul_(2.0 / (groups * rows))
        gather(layers[-1].weight.grad, layers[-1].bias.grad, flows[-1], back, add=False)
        back = torch.bmm(back, last[0].mT)
        of_gains: list[Tensor] = []
        for layer, flow, after, product, of_time in zip(
            layers[-2::-1], flows[-2::-1], flows[:0:-1], products[::-1], gains[::-1], strict=True
        ):
            torch.ops.aten.threshold_backward.grad_input(back, after, 0.0, grad_input=back)
            torch.sum(back, 1, keepdim=True, out=layer.bias.grad)
            grouped = back.view(shape)
            of_gains.insert(0, product.mul_(grouped).sum(2))
            grouped.mul_(of_time[:, :, None])
            torch.bmm(flow.mT, back, out=layer.weight.grad)
            back = torch.bmm(back, layer.weight.mT)
        torch.ops.aten.threshold_backward.grad_input(back, flows[0], 0.0, grad_input=back)
        of_entry = torch.bmm(ones.mT, back.view(*ones.shape[:2], -1)).view(*shape[:2], ones.shape[2], -1)
        of_x, of_tau = of_entry[:, :, :-1], of_entry[:, :, -1]
        torch.sum(of_x * gain[:, :, None], 1, out=self.entry.grad)
        of_first = (of_x * self.entry[:, None]).sum(2)
        self.time.backward(said, torch.cat([of_first, *of_gains, of_tau], -1))
        self.condition.backward(read, back)
        return errors

    @torch.no_grad()
    def for_steps(self, times: Sequence[int]) -> Steps:
        """Return what predicts noise at given times."""
        return Steps(self, times)


def _with_ones(x: Tensor) -> Tensor:
    """Return samples [S, G, R, C] with a 1 behind each, [S G, R, C + 1]."""
    return torch.cat([x, torch.ones_like(x[..., :1])], -1).flatten(0, 1)


class Steps:
    """A denoiser at the times of a sampler, for rows that go through all of them.

    Args:
        network: the denoiser, whose weights must stay as they are meanwhile.
        times: of the K steps.

    Attributes:
        weights: of each step, of each layer [S, in, out]; in the first with tau in a last row.
    """

    def __init__(self, network: Denoiser, times: Sequence[int]) -> None:
        self.network = network
        *inner, last = network.trunk.weights()
        self._biases = network.trunk.biases()
        asked = torch.stack([torch.full((), time, device=last.device) for time in times])
        gains_of_all = [each.unsqueeze(2).unbind(1) for each in network.of_times(asked.expand(len(last), -1))]
        self.weights: list[list[Tensor]] = []
        for gain, *gains, tau in zip(*gains_of_all, strict=True):
            entry = torch.cat([network.entry * gain, tau], 1)
            scaled = [weight * of for weight, of in zip(inner, gains, strict=True)]
            self.weights.append([entry, *scaled, last])

    def begin(self, numbers: Tensor) -> None:
        """Read the conditions [S, n, D] of the rows to come."""
        self._read: Tensor = self.network.condition(numbers)
        rows = self._read.shape[:2]
        self._flows = [self._read.new_empty(*rows, weight.shape[2]) for weight in self.weights[0]]

    def __call__(self, step: int, x: Tensor) -> Tensor:
        """Return the noise predicted in rows at a step, [S, n, C], which the next call overwrites.

        Args:
            step: its number, from 0.
            x: [S, n, C + 1] noisy samples, with a 1 last.
        """
        entry, *weights = self.weights[step]
        flow = torch.baddbmm(self._read, x, entry, out=self._flows[0])
        for weight, bias, out in zip(weights, self._biases, self._flows[1:], strict=True):
            torch.relu_(flow) if self.network.activation == "relu" else F.silu(flow, inplace=True)
            flow = torch.bmm(flow, weight, out=out).add_(bias)
        return flow
