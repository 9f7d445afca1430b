"""Adam's step on a loss of a network, eager or compiled; and steps as CUDA graphs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, cuda, nn
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


WARM = 3
"""Calls before a step is recorded, in which libraries make what they need at first."""


def check_cuda_graph(wanted: bool, device: torch.device) -> None:
    """Raise ValueError for a setting ``cuda_graph`` that the device cannot follow."""
    if wanted and device.type != "cuda":
        raise ValueError(f"cuda_graph is True and device '{device}'; it must be False unless that is CUDA")


class GraphedStep:
    """A function of tensors whose kernels CUDA records once, and starts all together from then on.

    A small gradient step is some hundred kernels, and what takes time is to start them one by one. The first
    :data:`WARM` calls with inputs of some shapes run as they are; the next one is recorded, for which the
    host waits for the device, and played back. Later ones copy their inputs to where those of the recording
    were. (torch's notes on CUDA semantics, "CUDA Graphs".)

    Args:
        function: of tensors; returns a dict or a tuple of tensors. It must not wait for the device, nor draw
            random numbers. What it reads and writes besides (weights, Adam's averages, a replay) must stay
            where it is, and numbers that are no tensors are as they were when it was recorded: call
            :meth:`forget` when they are not.
        device: CUDA.
    """

    def __init__(self, function: Callable[..., Any], device: torch.device) -> None:
        check_cuda_graph(True, device)
        self._function, self._device = function, device
        self._stream: Any = None
        self.forget()

    def forget(self) -> None:
        """Record anew."""
        self._calls: dict[Any, int] = {}
        self._recorded: dict[Any, tuple[list[Tensor], Any, Any]] = {}

    def __call__(self, *inputs: Tensor) -> Any:
        """Call the function; what is returned is the caller's."""
        shapes = tuple((given.shape, given.dtype) for given in inputs)
        if shapes not in self._recorded:
            self._calls[shapes] = self._calls.get(shapes, 0) + 1
            if self._calls[shapes] <= WARM:
                return self._run(inputs)
            self._recorded[shapes] = self._record(inputs)
        kept, graph, outputs = self._recorded[shapes]
        torch._foreach_copy_(kept, list(inputs))
        graph.replay()
        if isinstance(outputs, dict):
            return {name: value.clone() for name, value in outputs.items()}
        return tuple(value.clone() for value in outputs)

    def _run(self, inputs: Sequence[Tensor]) -> Any:
        """Call it on the stream that it will be recorded on."""
        self._stream = self._stream or cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        outside = cuda.current_stream(self._device)
        self._stream.wait_stream(outside)
        with cuda.stream(self._stream):
            found = self._function(*inputs)
        outside.wait_stream(self._stream)
        return found

    def _record(self, inputs: Sequence[Tensor]) -> tuple[list[Tensor], Any, Any]:
        """Return buffers of inputs, the graph of a call on them, and where it puts what it returns."""
        kept = [given.clone(memory_format=torch.contiguous_format) for given in inputs]
        graph = cuda.CUDAGraph()
        with cuda.graph(graph, stream=self._stream):
            outputs = self._function(*kept)
        return kept, graph, outputs
