"""Random numbers by counting: S streams side by side, each a function of its seed alone.

Many learners that train as one draw their numbers together, and each must draw what it would draw on its own,
whoever its neighbours are. Number j of draw k of a stream is

    mix(mix(key + (k + 1) G) + (j + 1) G)

with G = 2^64 / golden ratio and ``mix`` the finaliser of SplitMix64 (Steele, Lea and Flood 2014, OOPSLA,
"Fast splittable pseudorandom number generators"): the same on every device, without a state there.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


def _signed(value: int) -> int:
    """Return a number below 2^64 as the int64 of the same bits."""
    return value - (1 << 64) if value >> 63 else value


GOLDEN = _signed(0x9E3779B97F4A7C15)
MULTIPLIERS = _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB)


def _shifted(bits: Tensor, by: int) -> Tensor:
    """Return int64 bits moved to the right, with zeros from the left."""
    return (bits >> by) & ((1 << (64 - by)) - 1)


def mix(bits: Tensor) -> Tensor:
    """Return int64 numbers [...] scrambled: a bijection of 64 bits, in which every bit depends on all."""
    bits = (bits ^ _shifted(bits, 30)) * MULTIPLIERS[0]
    bits = (bits ^ _shifted(bits, 27)) * MULTIPLIERS[1]
    return bits ^ _shifted(bits, 31)


class Streams:
    """S streams of random numbers; every draw has a row for each.

    Args:
        seeds: of the streams.
        purpose: what the numbers are for: others with the same seeds are unrelated.
        device: where they are made.

    Attributes:
        count: draws so far, on the host; with the seeds it is all the state there is.
    """

    def __init__(self, seeds: Sequence[int], purpose: str, device: torch.device) -> None:
        tag = zlib.crc32(purpose.encode())
        keys = [int(np.random.SeedSequence([seed, tag]).generate_state(1, np.uint64)[0]) for seed in seeds]
        self.keys = torch.stack([torch.full((), _signed(key), device=device) for key in keys])
        self.count = 0

    def bits(self, *shape: int) -> Tensor:
        """Return int64 numbers [S, *shape] of 64 random bits."""
        self.count += 1
        places = torch.arange(1, math.prod(shape) + 1, device=self.keys.device) * GOLDEN
        draw = mix(self.keys + _signed(self.count * (GOLDEN % (1 << 64)) % (1 << 64)))
        return mix(draw[:, None] + places).view(len(self.keys), *shape)

    def uniform(self, *shape: int) -> Tensor:
        """Return float32 numbers [S, *shape], uniform in (0, 1): odd multiples of 2^-24."""
        return (_shifted(self.bits(*shape), 41).to(torch.float32) + 0.5) * 2.0**-23

    def normal(self, *shape: int) -> Tensor:
        """Return standard normal float32 numbers [S, *shape] (Box and Muller 1958)."""
        radius, angle = self.uniform(2, *shape).unbind(1)
        return (-2.0 * radius.log()).sqrt() * (2.0 * math.pi * angle).cos()

    def gumbel(self, *shape: int) -> Tensor:
        """Return standard Gumbel float32 numbers [S, *shape]: the argmax of logits with them is a draw."""
        return -(-self.uniform(*shape).log()).log()

    def integers(self, high: int, *shape: int) -> Tensor:
        """Return int64 numbers [S, *shape], uniform from 0 to ``high`` - 1 (to one part in 2^63 / high)."""
        return _shifted(self.bits(*shape), 1) % high

    def halves(self, *shape: int) -> Tensor:
        """Return int64 numbers [S, *shape], uniform from 0 to 2^31 - 1."""
        return _shifted(self.bits(*shape), 33)

    def permutations(self, count: int) -> Tensor:
        """Return the numbers from 0 to ``count`` - 1 in random order, int64 [S, count]."""
        keys = self.bits(count)
        if keys.device.type == "cpu":  # several times as fast as torch's
            return torch.from_numpy(np.argsort(keys.numpy(), axis=1))
        return keys.argsort(1)

    def state_dict(self) -> dict[str, Any]:
        """Return the keys and the count."""
        return {"keys": self.keys, "count": self.count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned."""
        self.keys.copy_(state["keys"])
        self.count = int(state["count"])


class Ahead:
    """What streams give for one number of rows, made for many steps at once.

    Args:
        streams: for this alone.
        make: called with them and a number of rows r, returns [S, r, ...].
    """

    NUMBERS = 1 << 15
    """Rows of a block, about."""

    def __init__(self, streams: Streams, make: Callable[[Streams, int], Tensor]) -> None:
        self.streams, self.make = streams, make
        self._rows = self._used = 0
        self._start = streams.count
        self._block: Sequence[Tensor] = ()

    def _begin(self, rows: int) -> None:
        self._start, self._rows, self._used = self.streams.count, rows, 0
        # The number of learners must not count: each draws what it would draw alone.
        steps = max(1, self.NUMBERS // (rows * 16))
        made = self.make(self.streams, steps * rows)
        self._block = made.view(len(made), steps, rows, *made.shape[2:]).unbind(1)

    def next(self, rows: int) -> Tensor:
        """Return the next step's [S, rows, ...]; for another number of rows a new block begins."""
        if self._used == len(self._block) or rows != self._rows:
            self._begin(rows)
        self._used += 1
        return self._block[self._used - 1]

    def state_dict(self) -> dict[str, Any]:
        """Return the streams' state at the beginning of the block, and how much of it was used."""
        return {**self.streams.state_dict(), "count": self._start, "rows": self._rows, "used": self._used}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned."""
        self.streams.load_state_dict(state)
        self._start, self._rows, self._used, self._block = self.streams.count, 0, 0, ()
        if state["used"]:
            self._begin(int(state["rows"]))
            self._used = int(state["used"])
            if not 0 < self._used <= len(self._block):
                raise ValueError(f"used is {self._used}; a block has {len(self._block)} steps")
