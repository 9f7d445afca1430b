"""A method compiled by ``torch.compile``, for small updates."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any

import torch


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
