"""On-device environments: the same dynamics over torch tensors, with no host copies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import array_api_compat.torch as xtorch
import numpy as np
import torch


class TorchRandom:
    """:class:`prefrl.envs.core.Random` over a ``torch.Generator`` on the device."""

    def __init__(self, generator: torch.Generator, device: torch.device, dtype: torch.dtype) -> None:
        self.generator = generator
        self.device = device
        self.dtype = dtype

    def uniform(self, *shape: int) -> torch.Tensor:
        """See :meth:`prefrl.envs.core.Random.uniform`."""
        return torch.rand(shape, generator=self.generator, device=self.device, dtype=self.dtype)

    def normal(self, *shape: int) -> torch.Tensor:
        """See :meth:`prefrl.envs.core.Random.normal`."""
        return torch.randn(shape, generator=self.generator, device=self.device, dtype=self.dtype)

    def get_state(self) -> dict[str, Any]:
        """See :meth:`prefrl.envs.core.Random.get_state`."""
        return {"generator": self.generator.get_state()}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """See :meth:`prefrl.envs.core.Random.set_state`."""
        self.generator.set_state(state["generator"].cpu())


class TorchBackend:
    """Tensors on one device.

    Args:
        device: any torch device.
        float_dtype: dtype of rewards and continuous observations.
    """

    xp: Any = xtorch
    on_device = True

    def __init__(self, device: torch.device | str, float_dtype: torch.dtype = torch.float32) -> None:
        self.device = torch.device(device)
        self.float_dtype = float_dtype

    def asarray(self, values: Any, dtype: Any = None) -> torch.Tensor:
        """See :meth:`prefrl.envs.core.Backend.asarray`."""
        return torch.as_tensor(values, dtype=dtype, device=self.device)

    def random(self, seed: int | list[int] | None) -> TorchRandom:
        """See :meth:`prefrl.envs.core.Backend.random`."""
        generator = torch.Generator(device=self.device)
        if isinstance(seed, list):  # one generator serves all rows: fold the seeds into one
            seed = int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]) % 2**63
        if seed is None:
            generator.seed()
        else:
            generator.manual_seed(seed)
        return TorchRandom(generator, self.device, self.float_dtype)
