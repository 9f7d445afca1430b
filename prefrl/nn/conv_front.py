"""The convolution before a chain of layers, forward and backward by hand, for S networks of one shape."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


class ConvFront:
    """S layers of filters without padding, and ReLU; learners are groups of one convolution.

    Args:
        weight: [S, filters, channels, k, k].
        bias: [S, filters].
        gradients: where those of both are put.
    """

    def __init__(self, weight: Tensor, bias: Tensor, gradients: tuple[Tensor, Tensor]) -> None:
        self.weight, self.bias, self.gradients = weight, bias, gradients

    def pictures(self, obs: Tensor) -> Tensor:
        """Return pictures [S, N, height, width, channels] as the convolution reads them."""
        obs = obs.permute(1, 0, 4, 2, 3)
        return obs.reshape(obs.shape[0], -1, *obs.shape[3:])

    def features(self, pictures: Tensor) -> Tensor:
        """Return [S, N, features] of what :meth:`pictures` returned."""
        learners = len(self.weight)
        found = F.conv2d(pictures, self.weight.flatten(0, 1), self.bias.flatten(), groups=learners).relu_()
        return found.reshape(len(pictures), learners, -1).transpose(0, 1)

    def pull(self, pictures: Tensor, features: Tensor, slopes: Tensor, *, add: bool) -> None:
        """Put the gradients of sum(slopes * features), both [S, N, features], where they belong.

        Args:
            pictures: what the convolution read.
            features: what came of it.
            slopes: the loss's gradient in them.
            add: add to what is there.
        """
        learners, filters, _, size, _ = self.weight.shape
        back = torch.ops.aten.threshold_backward(slopes, features, 0.0).transpose(0, 1)
        height, width = (length - size + 1 for length in pictures.shape[2:])
        back = back.reshape(len(pictures), learners * filters, height, width)
        weight = self.weight.flatten(0, 1)
        _, of_weight, of_bias = torch.ops.aten.convolution_backward(
            back, pictures, weight, [len(weight)], [1, 1], [0, 0], [1, 1], False, [0, 0], learners,
            [False, True, True],
        )  # fmt: skip
        for place, found in zip(self.gradients, (of_weight, of_bias), strict=True):
            place.add_(found.view_as(place)) if add else place.copy_(found.view_as(place))
