"""CUDA graphs without CUDA: operations on the CPU are taken down once, and done again in the same memory.

Like a graph, a tape does nothing while it is recorded, holds plain numbers as they were then, and knows
tensors by where they are. Unlike one it notices: whoever asks for a number of a tensor, or draws, while it is
recorded, is told off.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class NotRecordableError(RuntimeError):
    """CUDA would refuse to record this."""


def tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def memory(tree: Any) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for tensor in tensors(tree)}


class Tape(TorchDispatchMode):
    """Stands for ``torch.cuda.CUDAGraph``."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[tuple[Any, Any, Any, Any]] = []
        self.before: list[tuple[Tensor, Tensor]] = []
        self.replays = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded in func.tags or torch.Tag.data_dependent_output in func.tags:
            raise NotRecordableError(f"{func} while a graph is recorded")
        written = []
        for place, argument in enumerate(func._schema.arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                given = args[place] if place < len(args) else kwargs.get(argument.name)
                written += tensors(given)
        self.before += [(tensor, tensor.clone()) for tensor in written]
        result = func(*args, **kwargs)
        if written or not memory(result) <= memory((args, kwargs)):  # views stay what they are
            self.steps.append((func, args, kwargs, result))
        return result

    @contextmanager
    def recording(self) -> Iterator[None]:
        with self:
            yield
        with torch.inference_mode():
            for tensor, value in reversed(self.before):
                tensor.copy_(value)
        self.before.clear()

    def replay(self) -> None:
        self.replays += 1
        with torch.inference_mode():
            for func, args, kwargs, result in self.steps:
                found = func(*args, **kwargs)
                for kept, new in zip(tensors(result), tensors(found), strict=True):
                    if kept.data_ptr() != new.data_ptr():
                        kept.copy_(new)


class Stream:
    def __init__(self, device: Any = None) -> None:
        self.waited = 0

    def wait_stream(self, other: Stream) -> None:
        self.waited += 1


class TapedCuda:
    """What ``prefrl.nn.update`` takes of ``torch.cuda``.

    Attributes:
        graphs: made so far.
    """

    Stream = Stream

    def __init__(self) -> None:
        self.graphs: list[Tape] = []

    def CUDAGraph(self) -> Tape:
        self.graphs.append(Tape())
        return self.graphs[-1]

    def graph(self, tape: Tape, stream: Any) -> Any:
        assert isinstance(stream, Stream)
        return tape.recording()

    def stream(self, stream: Any) -> Any:
        return nullcontext()

    def current_stream(self, device: Any) -> Stream:
        return Stream()
