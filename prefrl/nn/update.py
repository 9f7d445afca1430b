"""Adam's step on a loss of a network, eager or compiled."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad

from .compiling import CompiledMethod
from .flat import FlatParameters, adam_state, adam_step_, clip_factor, fused_adam_step_

Network = Callable[..., Tensor]
"""A network, or a function that stands for it with other parameters."""


class AdamUpdate:
    """Gradient steps on a loss, with the gradient's norm cut.

    Args:
        network: what is learned; its parameters become views of one vector, see ``prefrl.nn.flat``.
        loss: called with the network, or a function that stands for it, and the inputs of a step; returns a
            scalar loss and a dict of detached metrics. Of its object it reads only settings and modules.
        lr: step size.
        eps: Adam's epsilon.
        max_grad_norm: the gradient's norm is cut to this; infinity: it is not.
        compile: compile the step, the loss included, at the first call, for inputs of the shapes met there.
        weight_decays: L2 weights of parameters by name, added to their gradients; the others have none.

    Raises:
        ValueError: if a step with weight decays is to be compiled.

    Attributes:
        weights: the parameters.
        optimizer: Adam.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: Callable[..., tuple[Tensor, dict[str, Tensor]]],
        *,
        lr: float,
        eps: float,
        max_grad_norm: float,
        compile: bool = False,
        weight_decays: Mapping[str, float] | None = None,
    ) -> None:
        if compile and weight_decays:
            raise ValueError("weight_decays are for steps that are not compiled")
        self.network, self.loss, self.max_grad_norm, self.compile = network, loss, max_grad_norm, compile
        self.weights = FlatParameters(network)
        self.optimizer = torch.optim.Adam([self.weights.vector], lr=lr, eps=eps, fused=True)
        self._decayed = self.weights.spans(weight_decays or {})
        self._compiled: CompiledMethod | None = None

    def step(self, *inputs: Any) -> dict[str, Tensor]:
        """Take one step; return the loss's metrics."""
        if self.compile:
            return self._compiled_step(*inputs)
        gradient = self.weights.gradient.zero_()
        loss, metrics = self.loss(self.network, *inputs)
        loss.backward()  # type: ignore[no-untyped-call]
        if self.max_grad_norm < math.inf:
            gradient.mul_(clip_factor(gradient, self.max_grad_norm))
        fused_adam_step_(self.optimizer, self.weights.vector, self._decayed)
        return metrics

    def _compiled_step(self, *inputs: Any) -> dict[str, Tensor]:
        self._compiled = self._compiled or CompiledMethod(self._functional)
        vector = self.weights.vector
        lr = torch.full((), self.optimizer.param_groups[0]["lr"], device=vector.device)
        metrics: dict[str, Tensor] = self._compiled(
            vector.detach(), adam_state(self.optimizer, vector), lr, *inputs
        )
        return metrics

    def load_optimizer(self, state: Mapping[str, Any]) -> None:
        """Go on with Adam's state of another update, as a copy: each then moves its own moments."""
        self.optimizer.load_state_dict(copy.deepcopy(dict(state)))

    def forget_compiled(self) -> None:
        """Compile anew at the next step: what the loss reads is another object from now on."""
        self._compiled = None

    def _functional(
        self, vector: Tensor, adam: dict[str, Tensor], lr: Tensor, *inputs: Any
    ) -> dict[str, Tensor]:
        """Do the same as a function of tensors."""

        def loss(vector: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            named = self.weights.named(vector)
            return self.loss(lambda *args: functional_call(self.network, named, args), *inputs)

        gradient, metrics = grad(loss, has_aux=True)(vector)
        if self.max_grad_norm < math.inf:
            gradient = gradient * clip_factor(gradient, self.max_grad_norm)
        group = self.optimizer.param_groups[0]
        adam_step_(vector, gradient, adam, lr=lr, betas=group["betas"], eps=group["eps"])
        return dict(metrics)
