"""On-device environments: the same dynamics over torch tensors, with no host copies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import array_api_compat.torch as xtorch
import numpy as np
import torch


class TorchRandom:
    """:class:`prefrl.envs.backend.Random` over a ``torch.Generator``.

    Numbers are drawn where the generator lives and moved to ``device``, which is free when it is the same.
    """

    def __init__(self, generator: torch.Generator, device: torch.device, dtype: torch.dtype) -> None:
        self.generator = generator
        self.device = device
        self.dtype = dtype

    def uniform(self, *shape: int) -> torch.Tensor:
        """See :meth:`prefrl.envs.backend.Random.uniform`."""
        generator = self.generator
        draws = torch.rand(shape, generator=generator, device=generator.device, dtype=self.dtype)
        return draws.to(self.device)

    def normal(self, *shape: int) -> torch.Tensor:
        """See :meth:`prefrl.envs.backend.Random.normal`."""
        generator = self.generator
        draws = torch.randn(shape, generator=generator, device=generator.device, dtype=self.dtype)
        return draws.to(self.device)

    def get_state(self) -> dict[str, Any]:
        """See :meth:`prefrl.envs.backend.Random.get_state`."""
        return {"generator": self.generator.get_state()}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """See :meth:`prefrl.envs.backend.Random.set_state`."""
        self.generator.set_state(state["generator"].cpu())


def _device(name: str, device: torch.device | str) -> torch.device:
    """Return a torch device, CUDA where present for "auto"; ValueError naming the argument if it is none."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"{name} is {device!r}; give 'auto', 'cpu', 'cuda' or 'cuda:N'") from error


class TorchBackend:
    """Tensors on one device.

    Args:
        device: any torch device, or "auto": CUDA where present, else the CPU.
        float_dtype: dtype of rewards and continuous observations (None: float32).
        generator_device: where random numbers are drawn (None: on ``device``). "cpu" gives every device the
            same numbers, at the price of a copy per step, and serves devices without a generator.

    Raises:
        ValueError: if torch does not know a device.
    """

    xp: Any = xtorch
    on_device = True

    def __init__(
        self,
        device: torch.device | str,
        float_dtype: torch.dtype | None = None,
        generator_device: torch.device | str | None = None,
    ) -> None:
        self.device = _device("device", device)
        self.float_dtype = float_dtype or torch.float32
        self.generator_device = (
            self.device if generator_device is None else _device("generator_device", generator_device)
        )

    def asarray(self, values: Any, dtype: Any = None) -> torch.Tensor:
        """See :meth:`prefrl.envs.backend.Backend.asarray`."""
        return torch.as_tensor(values, dtype=dtype).to(self.device)

    def random(self, seed: int | list[int] | None) -> TorchRandom:
        """See :meth:`prefrl.envs.backend.Backend.random`."""
        generator = torch.Generator(device=self.generator_device)
        if isinstance(seed, list) or (seed is not None and seed >= 2**63):
            # One generator with one 63-bit seed serves all rows: fold what is more into it.
            seed = int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]) % 2**63
        if seed is None:
            generator.seed()
        else:
            generator.manual_seed(seed)
        return TorchRandom(generator, self.device, self.float_dtype)
