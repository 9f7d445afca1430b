"""Random numbers, drawn where their generator lives and used on another device, such as a GPU."""

from __future__ import annotations

import torch
from torch import Tensor


def uniform(
    generator: torch.Generator, *shape: int, device: torch.device, dtype: torch.dtype | None = None
) -> Tensor:
    """Return numbers uniform in [0, 1) of a shape."""
    return torch.rand(shape, generator=generator, device=generator.device, dtype=dtype).to(device)


def normal(generator: torch.Generator, *shape: int, device: torch.device) -> Tensor:
    """Return standard normal numbers of a shape."""
    return torch.randn(shape, generator=generator, device=generator.device).to(device)


def integers(generator: torch.Generator, high: int, *shape: int, device: torch.device) -> Tensor:
    """Return whole numbers, uniform from 0 to ``high`` - 1, of a shape."""
    return torch.randint(high, shape, generator=generator, device=generator.device).to(device)


def permutation(generator: torch.Generator, count: int, *, device: torch.device) -> Tensor:
    """Return the numbers from 0 to ``count`` - 1 in random order."""
    return torch.randperm(count, generator=generator, device=generator.device).to(device)
