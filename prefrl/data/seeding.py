"""Random streams: one seed, and an unrelated generator for every purpose."""

from __future__ import annotations

import zlib

import numpy as np
import torch


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
    return torch.Generator().manual_seed(int(sequence.generate_state(1, np.uint64)[0] >> 1))
