"""One dynamics, three faces: scalar, vector and on-device environments from the same pure functions.

An environment of prefrl is written once, as a :class:`Dynamics`: pure, batched functions over an array
namespace, with all randomness of a step entering as arrays. :class:`ScalarEnv` turns it into a
``gymnasium.Env``, :class:`BatchedEnv` into a ``gymnasium.vector.VectorEnv``; with a torch backend (see
``prefrl.envs.core.device``) the latter keeps everything on the device.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from .backend import Array, Backend, Noise, NumpyBackend, Random, State


class Dynamics(ABC):
    """Batched pure dynamics: no hidden randomness, no Python loop over environments.

    Every array has leading axis ``[n]``. A step of the world is
    ``step(state, actions, step_noise(rng, n))``; the same noise gives the same trajectory whatever the
    backend. In the spirit of ``gymnasium.experimental.functional.FuncEnv``, batched.
    """

    single_observation_space: gym.Space[Any]
    single_action_space: gym.Space[Any]

    endless: bool = False
    """Whether :meth:`step` never terminates; rows without a limit then need no starts drawn for them."""

    def __init__(self, backend: Backend | None = None) -> None:
        self.backend: Backend = backend if backend is not None else NumpyBackend()

    @property
    def xp(self) -> Any:
        """The backend's array namespace (no attribute, since modules can be neither copied nor pickled)."""
        return self.backend.xp

    @abstractmethod
    def reset_noise(self, rng: Random, n: int) -> Noise:
        """Draw the randomness of ``n`` episode starts."""

    @abstractmethod
    def step_noise(self, rng: Random, n: int) -> Noise:
        """Draw the randomness of one step of ``n`` environments."""

    @abstractmethod
    def initial(self, noise: Noise, options: Mapping[str, Any] | None = None) -> State:
        """Return start states; ``options`` are those of ``reset`` (unknown ones raise ValueError)."""

    @abstractmethod
    def observe(self, state: State) -> Any:
        """Return observations ``[n, ...]`` of the single observation space, in memory of their own.

        They are one array, or for a Dict space a dict of arrays. Callers may write into what they get, so it
        must not be an array of the state.
        """

    @abstractmethod
    def step(self, state: State, actions: Array, noise: Noise) -> tuple[State, Array, Array]:
        """Return ``(next_state, rewards [n], terminated [n])``; nothing given is written to."""

    def info(self, state: State) -> dict[str, Array]:
        """Return what faces report in ``info``: arrays [n, ...], zeros at a start; by default nothing.

        It belongs to the step that led to ``state``, which must remember it.
        """
        return {}

    def observation(self, *columns: Array) -> Array:
        """Return arrays ``[n]`` side by side as observations ``[n, len(columns)]``, for :meth:`observe`.

        Their dtype is the observation space's on the host, where Gymnasium's checks ask for it, and the
        backend's float on a device.
        """
        stacked = self.xp.stack(
            columns
        ).T  # variable by variable in memory, as Gymnasium's own vectors have it
        if self.backend.on_device:
            return stacked
        return stacked.astype(self.single_observation_space.dtype, copy=False)

    def draw(self, state: State, index: int, last_action: Any) -> NDArray[np.uint8]:
        """Return the picture ``[height, width, 3]`` of row ``index``; optional."""
        raise gym.error.UnsupportedMode(f"{type(self).__name__} has no picture")
