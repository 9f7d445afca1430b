"""Devices, the generators on them, and the precision of products there."""

from __future__ import annotations

import os
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor


def resolve_device(device: torch.device | str) -> torch.device:
    """Return the torch device; "auto" is CUDA where present, else the CPU.

    Whatever computes asks here first, so that the process is made ready here too (:func:`keep_freed_memory`).

    Raises:
        ValueError: if torch does not know the device, this machine does not have it, or it cannot hold
            float64 tensors and a generator, which every agent needs.
    """
    keep_freed_memory()
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device is {device!r}; give 'auto', 'cpu', 'cuda' or 'cuda:N'") from error
    if resolved.type == "cuda" and (resolved.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device is {device!r}, but torch finds {torch.cuda.device_count()} CUDA devices")
    if resolved.type not in ("cpu", "cuda"):  # those can do it, and trying would start CUDA up
        try:
            torch.zeros(1, dtype=torch.float64, device=resolved)
            make_generator(resolved, 0)
        except (RuntimeError, AssertionError, ImportError, TypeError) as error:
            raise ValueError(f"device is {device!r}, which cannot hold float64 tensors and a generator here; "
                             "give 'auto', 'cpu', 'cuda' or 'cuda:N'") from error  # fmt: skip
    return resolved


@cache
def keep_freed_memory() -> None:
    """Have the C library keep what is freed for what comes next, instead of handing it back at once.

    A gradient step makes and frees the same blocks of some hundred kilobytes again and again. glibc gives
    such blocks back to the system as long as nothing larger was ever freed, and each page of theirs then
    costs a page fault when it is written anew: a fifth of the time of SAC's step at 256 x 256. One larger
    block that is freed raises both of its limits (mallopt(3), M_MMAP_THRESHOLD). No page of it is touched.
    """
    torch.empty(FREED_ONCE, dtype=torch.uint8)


FREED_ONCE = 31 << 20
"""Bytes; the largest block by which glibc still raises its limits is 32 MiB with what is around it."""


def make_generator(device: torch.device, seed: int) -> torch.Generator:
    """Return a generator on the device for an agent's own randomness.

    The seed is hashed first: an environment seeded with the same number draws unrelated noise.
    """
    generator = torch.Generator(device=device)
    return generator.manual_seed(int(np.random.SeedSequence([seed, 1]).generate_state(1, np.uint64)[0]) >> 1)


def seeded_generator(seed: int, purpose: str, index: int = 0) -> torch.Generator:
    """Return a CPU generator for one purpose.

    The seed is hashed with the purpose: generators seeded with the same number itself would draw related
    numbers wherever two purposes draw from the same distribution.

    Args:
        seed: what the user gave, not negative.
        purpose: what the numbers are for.
        index: which of several generators for the same purpose.

    Raises:
        ValueError: if the seed is negative.
    """
    if seed < 0:
        raise ValueError(f"seed is {seed}; it must not be negative")
    sequence = np.random.SeedSequence([seed, zlib.crc32(purpose.encode()), index])
    return torch.Generator().manual_seed(int(sequence.generate_state(1, np.uint64)[0]) >> 1)


def tensor_on(device: torch.device, values: Any) -> Tensor:
    """Return an array, of whatever strides, or a tensor as a tensor on a device."""
    if isinstance(values, Tensor):
        return values.to(device)
    array = np.asarray(values)
    if min(array.strides, default=0) < 0:  # a mirrored picture, say, which torch does not take
        array = array.copy()
    return torch.as_tensor(array, device=device)


def unfilled(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return zeros for what is filled as time goes by, such as a replay.

    On the CPU a page of them takes memory once it is written (``torch.zeros`` writes them all at once).
    """
    nbytes = torch.empty(shape, dtype=dtype, device="meta").nbytes  # whoever bounds what is made counts this
    if device.type != "cpu" or not nbytes:
        return torch.zeros(shape, dtype=dtype, device=device)
    try:
        return torch.from_numpy(np.zeros(nbytes, np.uint8)).view(dtype).reshape(tuple(shape))
    except MemoryError as error:
        raise RuntimeError(f"there is no memory for {nbytes} bytes: {error}") from error


def warn_beyond_memory(what: str, nbytes: int) -> None:
    """Warn of what will not fit into the memory of this machine once it is filled, where that is known."""
    if not hasattr(os, "sysconf"):
        return
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if nbytes > memory:
        warnings.warn(f"{what} takes {nbytes / 2**30:.1f} GiB once it is full; this machine has "
                      f"{memory / 2**30:.1f} GiB", stacklevel=3)  # fmt: skip


@contextmanager
def building(device: torch.device, seed: int) -> Iterator[None]:
    """Make what is made inside on the device, networks with weights that the seed alone decides.

    (Modules draw their weights from torch's global generators, which are as before afterwards.)
    """
    cuda = [device] if device.type == "cuda" else []
    with torch.device(device), torch.random.fork_rng(devices=cuda):
        torch.manual_seed(seed)
        yield


STATE_SIZES = {16, 5056}
"""Bytes of a generator's state on CUDA and on the CPU."""


def restore_generator(generator: torch.Generator, state: torch.Tensor) -> None:
    """Continue a generator from a saved state, if that is of its kind of device.

    States of generators on the CPU and on CUDA cannot be told into each other: after a change of device the
    generator stays as it was seeded, and the run is as random as before, but no longer the same.
    """
    other_device = (
        state.dtype is torch.uint8 and {state.numel(), generator.get_state().numel()} == STATE_SIZES
    )
    if not other_device:
        generator.set_state(state.cpu())


# Precision -----------------------------------------------------------------------------------------------

Precision = Literal["float32", "bf16"]
"""Of the products of a gradient step.

With bf16, weights, Adam's averages and losses stay float32: a step rounds the weights to bfloat16 (8
significant bits), runs the hidden layers and their gradients in it, and moves the float32 ones by what came
out. The last layer's outputs, which losses compare, are computed in float32.
"""

WIDE = 256
"""Width of hidden layers from which bfloat16 pays."""


def low_dtype(precision: Precision, device: torch.device, hidden: Sequence[int]) -> torch.dtype | None:
    """Return the type of the products within a gradient step, None for float32.

    Warns where the device has no fast products of bfloat16 (on the CPU: avx512_bf16 or AMX), or layers are
    narrow: it is slower then, and as inexact.

    Args:
        precision: of the settings.
        device: where the network lives.
        hidden: sizes of its hidden layers.
    """
    if precision == "float32":
        return None
    if not has_fast_bf16(device):
        warnings.warn(f"precision is 'bf16', and {device} has no fast products of bfloat16: 'float32' is "
                      "faster there", stacklevel=2)  # fmt: skip
    elif max(hidden) < WIDE:
        warnings.warn(f"precision is 'bf16' with hidden layers of {list(hidden)}; below {WIDE} 'float32' is "
                      "as fast", stacklevel=2)  # fmt: skip
    return torch.bfloat16


def has_fast_bf16(device: torch.device) -> bool:
    """Whether the device multiplies matrices of bfloat16 faster than those of float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return True  # nobody says; whoever made it for learning has it
    supported = (getattr(torch.cpu, f"_is_{name}_supported", bool) for name in ("avx512_bf16", "amx_tile"))
    return any(ask() for ask in supported)
