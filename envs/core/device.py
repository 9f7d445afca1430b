"""On-device environments: the same dynamics over torch tensors, with no host copies."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from itertools import repeat
from pathlib import Path
from typing import Any, cast

import array_api_compat.torch as xtorch
import numpy as np
import torch

from .backend import Function


class TorchRandom:
    """:class:`prefrl.envs.core.backend.Random` over a ``torch.Generator``.

    Numbers are drawn where the generator lives and moved to ``device``, which is free when it is the same.
    """

    def __init__(self, generator: torch.Generator, device: torch.device, dtype: torch.dtype) -> None:
        self.generator = generator
        self.device = device
        self.dtype = dtype

    def uniform(self, *shape: int) -> torch.Tensor:
        """See :meth:`prefrl.envs.core.backend.Random.uniform`."""
        generator = self.generator
        draws = torch.rand(shape, generator=generator, device=generator.device, dtype=self.dtype)
        return draws.to(self.device)

    def normal(self, *shape: int) -> torch.Tensor:
        """See :meth:`prefrl.envs.core.backend.Random.normal`."""
        generator = self.generator
        draws = torch.randn(shape, generator=generator, device=generator.device, dtype=self.dtype)
        return draws.to(self.device)

    def get_state(self) -> dict[str, Any]:
        """See :meth:`prefrl.envs.core.backend.Random.get_state`."""
        return {"generator": self.generator.get_state()}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """See :meth:`prefrl.envs.core.backend.Random.set_state`."""
        self.generator.set_state(state["generator"].cpu())


def _device(name: str, device: torch.device | str) -> torch.device:
    """Return a torch device, CUDA where present for "auto"; ValueError naming the argument if it is none."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"{name} is {device!r}; give 'auto', 'cpu', 'cuda' or 'cuda:N'") from error


def _leaves(tree: Any) -> list[torch.Tensor]:
    """Return the tensors in nested tuples and dictionaries, in order; None stands for no tensor."""
    found: list[torch.Tensor] = []
    for part in tree.values() if isinstance(tree, dict) else tree:
        if isinstance(part, torch.Tensor):
            found.append(part)
        elif part is not None:
            found += _leaves(part)
    return found


def _like(tree: Any, leaves: Iterator[torch.Tensor]) -> Any:
    """Return nested tuples and dictionaries like ``tree``, with the next ones of ``leaves`` in them."""
    parts = [
        next(leaves) if isinstance(part, torch.Tensor) else None if part is None else _like(part, leaves)
        for part in (tree.values() if isinstance(tree, dict) else tree)
    ]
    if isinstance(tree, dict):
        return dict(zip(tree, parts, strict=True))
    return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)


class _Flat(torch.nn.Module):
    """A function as ``torch.export`` takes it best: flat tensors in, flat tensors out."""

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        super().__init__()
        self.function, self.args = function, args

    def forward(self, *leaves: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(_leaves(self.function(*_like(self.args, iter(leaves)))))


class _Compiled:
    """A pure function of nested tensors, compiled at its first call for the shapes it meets there.

    Ahead of time, since what ``torch.compile`` checks before every call costs more than such a step itself.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self._program: Any = None
        self._result: Any = None

    def __call__(self, *args: Any) -> Any:
        # The program takes for granted that they lie in memory as at the first call.
        leaves = [leaf.contiguous() for leaf in _leaves(args)]
        if self._program is None:
            self._compile(args, leaves)
        return _like(self._result, iter(self._program(leaves)))

    def _compile(self, args: tuple[Any, ...], leaves: list[torch.Tensor]) -> None:
        exported = torch.export.export(_Flat(self.function, args), tuple(leaves), strict=False)
        self._result = _like(self.function(*args), repeat(torch.empty(0)))  # its structure is what counts
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / "step.pt2")
            torch._inductor.aoti_compile_and_package(exported, package_path=path)
            # Past the model's own call, whose handling of nested arguments takes longer than the step.
            self._program = torch._inductor.aoti_load_package(path).loader.boxed_run

    def __getstate__(self) -> dict[str, Any]:
        """Leave the program out: a copy compiles its own."""
        return {"function": self.function, "_program": None, "_result": None}


class TorchBackend:
    """Tensors on one device.

    Args:
        device: any torch device, or "auto": CUDA where present, else the CPU.
        float_dtype: dtype of rewards and continuous observations (None: float32).
        generator_device: where random numbers are drawn (None: on ``device``). "cpu" gives every device the
            same numbers, at the price of a copy per step, and serves devices without a generator.
        compile: compile environments' steps ahead of time (``torch.export``, AOTInductor), which fuses their
            operations. The first step of each environment then takes about half a minute; on the CPU it needs
            a C++ compiler. What was set by then stays so (limit, autoreset mode, parameters of the world), no
            gradient flows through, and rounding may differ from uncompiled steps in the last bits.

    Raises:
        ValueError: if torch does not know a device, or ``compile`` is neither True nor False.
    """

    xp: Any = xtorch
    on_device = True

    def __init__(
        self,
        device: torch.device | str,
        float_dtype: torch.dtype | None = None,
        generator_device: torch.device | str | None = None,
        compile: bool = False,
    ) -> None:
        if not isinstance(compile, bool):
            raise ValueError(f"compile is {compile!r}; it must be True or False")
        self.compile = compile
        self.device = _device("device", device)
        self.float_dtype = float_dtype or torch.float32
        self.generator_device = (
            self.device if generator_device is None else _device("generator_device", generator_device)
        )

    def asarray(self, values: Any, dtype: Any = None) -> torch.Tensor:
        """See :meth:`prefrl.envs.core.backend.Backend.asarray`."""
        return torch.as_tensor(values, dtype=dtype).to(self.device)

    def mark(self, mask: torch.Tensor, places: torch.Tensor) -> None:
        """See :meth:`prefrl.envs.core.backend.Backend.mark`; half the time of writing by an index."""
        mask.index_fill_(0, places, True)

    def compiled(self, function: Function) -> Function:
        """See :meth:`prefrl.envs.core.backend.Backend.compiled`."""
        return cast(Function, _Compiled(function)) if self.compile else function

    def random(self, seed: int | list[int] | None) -> TorchRandom:
        """See :meth:`prefrl.envs.core.backend.Backend.random`."""
        generator = torch.Generator(device=self.generator_device)
        if isinstance(seed, list) or (seed is not None and seed >= 2**63):
            # One generator with one 63-bit seed serves all rows: fold what is more into it.
            seed = int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]) % 2**63
        if seed is None:
            generator.seed()
        else:
            generator.manual_seed(seed)
        return TorchRandom(generator, self.device, self.float_dtype)


def simulation(
    device: torch.device | str, float_dtype: torch.dtype | None, generator: torch.Generator | None, seed: int
) -> tuple[TorchBackend, TorchRandom, AbstractContextManager[Any]]:
    """Return where paths are simulated, what is random about them, and a context without gradients.

    Args:
        device: torch device, or "auto".
        float_dtype: torch float type; None: float64.
        generator: source of the randomness, which may live on the host; None: a new one on the device.
        seed: seeds that.
    """
    backend = TorchBackend(device, float_dtype or torch.float64)
    rng = backend.random(seed)
    if generator is not None:
        rng = TorchRandom(generator, backend.device, backend.float_dtype)
    return backend, rng, torch.no_grad()
