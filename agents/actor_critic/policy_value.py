"""Policy and value of an on-policy agent as networks side by side, for S learners at once.

Both kinds of them map inputs to the policy's outputs and to values, and lead a loss's gradient in these back
to their parameters: multilayer perceptrons by hand, torsos by autograd. Inputs are numbers [S, N, D] and,
where observations have one, pictures [S, N, ...].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from prefrl.data import seeded_generator
from prefrl.data.devices import building, low_dtype
from prefrl.data.observations import ObservationLayout
from prefrl.nn.flat import FlatParameters, Learners
from prefrl.nn.mlp import StackedMLP
from prefrl.nn.policies import ActionDistribution
from prefrl.nn.torsos import ObservationTorso, called_for_several, torso_kind

from .ppo_config import PPOConfig

GAIN = math.sqrt(2.0)
"""Of the orthogonal weights that layers start with, but for the last one."""

POLICY_GAIN, VALUE_GAIN = 0.01, 1.0
"""Of those of the last layer."""

AT_ONCE = 1_024
"""Observations of each learner that torsos read at once where nothing is learned: a rollout of pictures as
float32, and all that convolutions make of it, may be more than there is memory for."""


class Passed(NamedTuple):
    """What a pass leaves behind."""

    outputs: Tensor
    """[S, N, K] of the policy."""
    values: Tensor
    """[S, N]."""
    kept: Any
    """What ``backward`` needs."""


class PolicyValue(nn.Module):
    """Multilayer perceptrons of policy and value; the first axis of every parameter is that of learners.

    They start as Stable-Baselines3's: orthogonal weights, of gain sqrt(2) in hidden layers, 0.01 in the
    policy's last one and 1 in the value's, and no biases.

    Args:
        inputs: D, numbers of an observation, those of a picture among them.
        distribution: what the policy's outputs mean.
        hidden: sizes of the hidden layers of each.
        activation: after every hidden layer.
        log_std: what the free parameters of the distribution start at.
        seeds: of the learners, S.
        device: torch device.

    Attributes:
        free: [S, 1, width] the free parameters.
        vectors: [S, P] all parameters, with ``grad``.
    """

    def __init__(
        self, inputs: int, distribution: ActionDistribution, hidden: Sequence[int],
        activation: Literal["relu", "tanh"], log_std: float, seeds: Sequence[int], device: torch.device,
    ) -> None:  # fmt: skip
        super().__init__()
        learners = len(seeds)
        with building(device, 0):  # what is drawn here is drawn anew below, by the seed of each
            self.policy = StackedMLP(learners, inputs, hidden, distribution.outputs, activation)
            self.value = StackedMLP(learners, inputs, hidden, None, activation)
            self.free = nn.Parameter(torch.full((learners, 1, distribution.width), log_std))
        for learner, seed in enumerate(seeds):
            with building(device, seeded_generator(seed, "network").initial_seed()), torch.no_grad():
                for network, last in ((self.policy, POLICY_GAIN), (self.value, VALUE_GAIN)):
                    weights, gains = network.weights(), [GAIN] * len(hidden) + [last]
                    for weight, gain in zip(weights, gains, strict=True):
                        weight[learner].copy_(nn.init.orthogonal_(torch.empty(weight.shape[:0:-1]), gain).T)
        with torch.no_grad():
            for bias in [*self.policy.biases(), *self.value.biases()]:
                bias.zero_()
        self._weights = FlatParameters(self, learners)

    @property
    def vectors(self) -> nn.Parameter:
        """See the class."""
        return self._weights.vector

    def outputs(self, *inputs: Tensor) -> Tensor:
        """Return the policy's outputs [S, N, K]; no gradients."""
        return self.policy.record(_flat(*inputs)).outputs

    def values(self, *inputs: Tensor) -> Tensor:
        """Return values [S, N]; no gradients."""
        return self.value.record(_flat(*inputs)).outputs

    def record(self, *inputs: Tensor) -> Passed:
        """Return both, and what :meth:`backward` needs."""
        policy, value = (stack.record(_flat(*inputs)) for stack in (self.policy, self.value))
        return Passed(policy.outputs, value.outputs, (policy, value))

    def backward(self, passed: Passed, of_outputs: Tensor, of_values: Tensor, of_free: Tensor) -> None:
        """Put a loss's gradients into the parameters' ``grad``.

        Args:
            passed: of :meth:`record`.
            of_outputs: [S, N, K] the loss's gradient in the outputs.
            of_values: [S, N] in the values.
            of_free: [S, 1, width] in the free parameters.
        """
        policy, value = passed.kept
        self.policy.backward(policy, of_outputs)
        self.value.backward(value, of_values)
        self.free.grad.copy_(of_free)  # type: ignore[union-attr]


def _flat(vectors: Tensor, pictures: Tensor | None = None) -> Tensor:
    """Return inputs as numbers [S, N, D] alone, pictures as shares of 255."""
    if pictures is None:
        return vectors
    return torch.cat([vectors, pictures.flatten(2).to(torch.float32) / 255.0], -1)


class TorsoPolicyValue(nn.Module):
    """Policy and value of one learner, linear in the features of a torso, or of one each.

    Our own torsos start as Stable-Baselines3's: orthogonal weights of gain sqrt(2), no biases; the last
    layers as those of :class:`PolicyValue`. A given torso starts as it is.

    Args:
        layout: of the observations. A torso reads the picture, beside whose features numbers are embedded;
            where there is none, the numbers: of a Box in its shape, of other spaces in a row.
        distribution: what the policy's outputs mean.
        config: settings.
        torso: another torso than theirs; see :func:`prefrl.nn.torsos.given_torso`.

    Raises:
        ValueError: if the torso does not take such observations.
    """

    def __init__(
        self, layout: ObservationLayout, distribution: ActionDistribution, config: PPOConfig,
        torso: nn.Module | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        space, self.embeds = read_space(layout), layout.picture is not None and layout.vector_size > 0
        self.shape = space.shape
        torsos = [
            ObservationTorso(space, hidden=config.hidden, network=config.network,
                             conv_filters=config.conv_filters, conv_features=config.conv_features,
                             extra=layout.vector_size if self.embeds else 0, torso=torso)
            for _ in range(1 if config.share_torso else 2)
        ]  # fmt: skip
        self.torsos = nn.ModuleList(torsos)
        self.policy = nn.Linear(torsos[0].features, distribution.outputs)
        self.value = nn.Linear(torsos[0].features, 1)
        self.free = nn.Parameter(torch.full((1, distribution.width), config.log_std_init))
        for each in torsos:
            _start(each if torso is None else each.embedding, GAIN)
        _start(self.policy, POLICY_GAIN)
        _start(self.value, VALUE_GAIN)

    def forward(self, vectors: Tensor, pictures: Tensor | None = None) -> Tensor:
        """Map inputs [N, ...] to the policy's outputs and the value behind them [N, K + 1]."""
        obs = vectors.reshape(len(vectors), *self.shape) if pictures is None else pictures
        extra = vectors if self.embeds else None
        features = [torso(obs, extra) for torso in self.torsos]
        return torch.cat([self.policy(features[0]), self.value(features[-1])], -1)


def _start(module: nn.Module | None, gain: float) -> None:
    """Give the layers of a module orthogonal weights and no biases."""
    for layer in [] if module is None else module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.orthogonal_(layer.weight, gain)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]


class TorsoLearners(Learners):
    """Policies and values of S learners, by autograd, with the face of :class:`PolicyValue`."""

    @property
    def free(self) -> Tensor:
        """[S, 1, width] the free parameters of the distribution."""
        return self.views()[0]["free"]

    @torch.no_grad()
    def outputs(self, *inputs: Tensor) -> Tensor:
        """Return the policy's outputs [S, N, K]; no gradients."""
        return self._in_parts(inputs)[..., :-1]

    @torch.no_grad()
    def values(self, *inputs: Tensor) -> Tensor:
        """Return values [S, N]; no gradients."""
        return self._in_parts(inputs)[..., -1]

    def _in_parts(self, inputs: Sequence[Tensor]) -> Tensor:
        parts = zip(*(torch.split(each, AT_ONCE, 1) for each in inputs), strict=True)
        return torch.cat([self(*part) for part in parts], 1)

    def record(self, *inputs: Tensor) -> Passed:
        """Return both, and what :meth:`backward` needs; also within ``torch.inference_mode``."""
        with torch.inference_mode(False), torch.enable_grad():
            both = self(*inputs)
        return Passed(both.detach()[..., :-1], both.detach()[..., -1], both)

    def backward(self, passed: Passed, of_outputs: Tensor, of_values: Tensor, of_free: Tensor) -> None:
        """See :meth:`PolicyValue.backward`."""
        assert self.vectors.grad is not None
        self.vectors.grad.zero_()
        passed.kept.backward(torch.cat([of_outputs, of_values[..., None]], -1))
        self.views()[1]["free"].copy_(of_free)


def read_space(layout: ObservationLayout) -> gym.spaces.Box:
    """Return what a torso reads of observations: their picture as the space has it, or else numbers."""
    if layout.picture_space is not None:
        return layout.picture_space
    shape = layout.space.shape if isinstance(layout.space, gym.spaces.Box) else None
    return gym.spaces.Box(-np.inf, np.inf, shape or (layout.vector_size,))


def policy_value(
    layout: ObservationLayout, distribution: ActionDistribution, config: PPOConfig, seeds: Sequence[int],
    device: torch.device, torso: nn.Module | None = None,
) -> PolicyValue | TorsoLearners:  # fmt: skip
    """Return the networks of the settings, or those with a given torso.

    Args:
        layout: of the observations.
        distribution: what the policy's outputs mean.
        config: settings.
        seeds: of the learners, S.
        device: torch device.
        torso: see :func:`prefrl.nn.torsos.given_torso`; of several learners one that ``torch.vmap`` can call.

    Raises:
        ValueError: if the network does not take such observations, or products are to be of low precision
            in another network than our multilayer perceptron.
    """
    space = read_space(layout)
    if torso is None and torso_kind(config.network, space.shape) == "mlp":
        inputs = layout.vector_size + (0 if layout.picture is None else math.prod(space.shape))
        networks = PolicyValue(inputs, distribution, config.hidden, config.activation, config.log_std_init,
                               seeds, device)  # fmt: skip
        networks.policy.low = networks.value.low = low_dtype(config.precision, device, config.hidden)
        return networks
    if config.precision != "float32":
        raise ValueError(f"precision is {config.precision!r}; it must be 'float32' unless the network is "
                         "a multilayer perceptron of our own")  # fmt: skip
    modules = []
    for seed in seeds:
        with building(device, seeded_generator(seed, "network").initial_seed()):
            modules.append(TorsoPolicyValue(layout, distribution, config, torso))
    learners = TorsoLearners(modules)
    if torso is not None and len(seeds) > 1:
        with called_for_several(torso):
            numbers = torch.zeros(len(seeds), 2, layout.vector_size, device=device)
            pictures = numbers.new_zeros(len(seeds), 2, *space.shape, dtype=torch.uint8)
            learners.outputs(*([numbers] if layout.picture is None else [numbers, pictures]))
    return learners
