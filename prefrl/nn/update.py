"""Adam's step on a loss of a network, eager or compiled."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad

from .adam import Adam, adam_step_
from .flat import FlatParameters, clip_factor, cut_

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
        decays = self.weights.spans(weight_decays or {})
        self.optimizer = Adam([self.weights.vector], lr=lr, eps=eps, decays=decays)
        self._compiled: CompiledMethod | None = None

    def step(self, *inputs: Any) -> dict[str, Tensor]:
        """Take one step; return the loss's metrics."""
        if self.compile:
            return self._compiled_step(*inputs)
        self.weights.gradient.zero_()
        loss, metrics = self.loss(self.network, *inputs)
        loss.backward()  # type: ignore[no-untyped-call]
        self.descend()
        return metrics

    @torch.no_grad()
    def descend(self) -> None:
        """Take Adam's step down the gradient that is there, cut."""
        if self.max_grad_norm < math.inf:
            cut_(self.weights.gradient, self.max_grad_norm)
        self.optimizer.step()

    def _compiled_step(self, *inputs: Any) -> dict[str, Tensor]:
        self._compiled = self._compiled or CompiledMethod(self._functional)
        vector = self.weights.vector
        lr = torch.full((), self.optimizer.lr, device=vector.device)
        metrics: dict[str, Tensor] = self._compiled(vector.detach(), self.optimizer.states[0], lr, *inputs)
        return metrics

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
        adam_step_(vector, gradient, adam, lr=lr, betas=self.optimizer.betas, eps=self.optimizer.eps)
        return dict(metrics)


class CompiledMethod:
    """A method of one object as one compiled function.

    ``torch.compile`` keeps what it compiled with the function's code, which all objects of a class share:
    eight forms at most, and every call looks for the one that is meant. So this compiles a copy. And before
    every call torch checks whether everything that the function reads is as it was, which takes a tenth of a
    small update. Here it does so in the first call only.

    Args:
        method: a bound method of tensors, or dicts of tensors, that are alike in shape and kind in every
            call. Of the object it reads only settings and modules, which must stay as they are; make another
            one of these when they do not.
    """

    def __init__(self, method: Callable[..., Any]) -> None:
        assert isinstance(method, MethodType)
        function = method.__func__
        assert isinstance(function, FunctionType)
        copy = FunctionType(
            function.__code__.replace(), function.__globals__, function.__name__, function.__defaults__,
            function.__closure__,
        )  # fmt: skip
        self._compiled = torch.compile(MethodType(copy, method.__self__), fullgraph=True, dynamic=False)
        self._fits = False

    def __call__(self, *args: Any) -> Any:
        """Call it, with tensors like those of the first call."""
        with torch.compiler.set_stance(skip_guard_eval_unsafe=self._fits):
            result = self._compiled(*args)
        self._fits = True
        return result
