"""Devices and the generators on them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def resolve_device(device: torch.device | str) -> torch.device:
    """Return the torch device; "auto" is CUDA where present, else the CPU.

    Raises:
        ValueError: if torch does not know the device, this machine does not have it, or it cannot hold
            float64 tensors and a generator, which every agent needs.
    """
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


def make_generator(device: torch.device, seed: int) -> torch.Generator:
    """Return a generator on the device for an agent's own randomness.

    The seed is hashed first: an environment seeded with the same number draws unrelated noise.
    """
    generator = torch.Generator(device=device)
    return generator.manual_seed(int(np.random.SeedSequence([seed, 1]).generate_state(1, np.uint64)[0] >> 1))


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
