"""Where the arrays of an environment live, and where its randomness comes from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

import array_api_compat
import array_api_compat.numpy as xnp
import numpy as np
from numpy.typing import NDArray

Array = Any
"""An array of the backend's namespace: ``numpy.ndarray`` or ``torch.Tensor``."""

State = dict[str, Array]
"""Environment state: named arrays, each with leading axis ``[n]``."""

Noise = dict[str, Array]
"""All randomness of one reset or one step: named arrays, each with leading axis ``[n]``."""


Function = TypeVar("Function", bound=Callable[..., Any])


class Random(Protocol):
    """A source of noise; the only thing in an environment that has hidden state."""

    def uniform(self, *shape: int) -> Array:
        """Return draws from the uniform distribution on [0, 1), of this shape, in the backend's float."""

    def normal(self, *shape: int) -> Array:
        """Return draws from the standard normal distribution, of this shape, in the backend's float."""

    def get_state(self) -> dict[str, Any]:
        """Return the generator's state as plain numbers, strings and tensors."""

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continue from a state that :meth:`get_state` returned."""


class Backend(Protocol):
    """Where the arrays of an environment live."""

    xp: Any
    """The array-API namespace (``array_api_compat.numpy`` or ``array_api_compat.torch``)."""

    device: Any
    """What the namespace's functions take as ``device=`` to make new arrays there."""

    float_dtype: Any
    """dtype of rewards and of continuous observations."""

    on_device: bool
    """True where looking at a value would wait for the device, so that control flow must not do it."""

    def asarray(self, values: Any, dtype: Any = None) -> Array:
        """Convert values to an array of this backend, on its device."""

    def mark(self, mask: Array, places: Array) -> None:
        """Write True into a mask [m] at whole numbers [k], some of which may be the same."""

    def compiled(self, function: Function) -> Function:
        """Return a pure function of arrays, compiled where the backend was asked to compile."""

    def random(self, seed: int | list[int] | None) -> Random:
        """Return a freshly seeded source of noise (seeded by the system when ``seed`` is None)."""


class NumpyRandom:
    """:class:`Random` over a ``numpy.random.Generator``."""

    def __init__(self, generator: np.random.Generator) -> None:
        self.generator = generator

    def uniform(self, *shape: int) -> NDArray[np.float64]:
        """See :meth:`Random.uniform`."""
        return self.generator.random(shape)

    def normal(self, *shape: int) -> NDArray[np.float64]:
        """See :meth:`Random.normal`."""
        return self.generator.standard_normal(shape)

    def get_state(self) -> dict[str, Any]:
        """See :meth:`Random.get_state`."""
        return dict(self.generator.bit_generator.state)

    def set_state(self, state: Mapping[str, Any]) -> None:
        """See :meth:`Random.set_state`."""
        self.generator.bit_generator.state = dict(state)


class NumpyBackend:
    """Arrays in host memory, in float64."""

    xp: Any = xnp
    device = "cpu"
    float_dtype: Any = np.float64
    on_device = False

    def asarray(self, values: Any, dtype: Any = None) -> NDArray[Any]:
        """See :meth:`Backend.asarray`."""
        return np.asarray(values, dtype=dtype)

    def mark(self, mask: NDArray[np.bool_], places: NDArray[np.integer[Any]]) -> None:
        """See :meth:`Backend.mark`."""
        mask[places] = True

    def compiled(self, function: Function) -> Function:
        """See :meth:`Backend.compiled`: NumPy has no compiler."""
        return function

    def random(self, seed: int | list[int] | None) -> NumpyRandom:
        """See :meth:`Backend.random`."""
        return NumpyRandom(np.random.default_rng(seed))


def select(mask: Array, yes: Array | int, no: Array) -> Array:
    """Return ``yes`` where the mask holds, else ``no``: whole numbers of one dtype, by their bits.

    On the CPU torch's ``where`` takes 3 to 5 ns a number whatever the dtype, this .2 ns for bytes.
    """
    return no ^ ((no ^ yes) * mask)


def state_rows(*states: State) -> Array:
    """Return states of prefrl's own dynamics as rows, float64 [n, S, D], in the arrays' own library.

    Args:
        states: S of them, arrays [n, ...] by name; whole numbers up to 2^53 survive.
    """
    parts = [state[name] for state in states for name in sorted(state)]
    xp, count = array_api_compat.array_namespace(parts[0]), parts[0].shape[0]
    flat = [part if part.ndim == 2 else part.reshape((count, -1)) for part in parts]
    if len({part.dtype for part in flat}) > 1:
        flat = [xp.astype(part, xp.float64) for part in flat]
    return xp.astype(xp.concat(flat, axis=1), xp.float64).reshape((count, len(states), -1))
