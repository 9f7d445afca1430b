"""One dynamics, three faces: scalar, vector and on-device environments from the same pure functions.

An environment of prefrl is one class, a :class:`Dynamics`: pure, batched functions over an array namespace,
with all randomness of a step entering as arrays, and what is known of the environment besides. ``ScalarEnv``
makes a ``gymnasium.Env`` of it, ``BatchedEnv`` a ``gymnasium.vector.VectorEnv``; with a torch backend (see
``prefrl.envs.core.device``) the latter keeps everything on the device. Both have its public attributes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from .backend import Array, Backend, Noise, NumpyBackend, Random, State


class Episodes(NamedTuple):
    """The episodes that a face runs; see :func:`of_episodes`."""

    state: State | None
    """Where they stand; None before the first reset."""

    start_rng: dict[str, Any] | None
    """State of the generator before the last reset of all rows; None after one of some rows."""

    num_envs: int | None
    """Number of rows; None for the scalar face."""

    restarts: bool
    """Whether rows that ended restart by themselves."""

    max_episode_steps: int | None
    """Steps after which the face truncates; None: it does not."""


Method = TypeVar("Method", bound=Callable[..., Any])


def of_episodes(method: Method) -> Method:
    """Mark a method whose first argument is :class:`Episodes`: a face calls it with its own."""
    method.of_episodes = True  # type: ignore[attr-defined]
    return method


class Dynamics(ABC):
    """Batched pure dynamics: no hidden randomness, no Python loop over environments.

    The docstring of an environment's class is its page, in Gymnasium's form. What can be known of it (values,
    models, features) are public methods, in NumPy whatever the backend; every face has them too.

    Every array has leading axis ``[n]``. A step of the world is
    ``step(state, actions, step_noise(rng, n))``; the same noise gives the same trajectory whatever the
    backend. In the spirit of ``gymnasium.experimental.functional.FuncEnv``, batched.
    """

    single_observation_space: gym.Space[Any]
    single_action_space: gym.Space[Any]

    endless: bool = False
    """Whether :meth:`step` never terminates; rows without a limit then need no starts drawn for them."""

    foretells: bool = False
    """Whether methods :func:`of_episodes` read ``start_rng``, which faces then keep."""

    render_fps: int = 8
    """Pictures per second."""

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

    @property
    def has_picture(self) -> bool:
        """Whether there is a :meth:`draw`."""
        return type(self).draw is not Dynamics.draw

    def draw(self, state: State, index: int, last_action: Any) -> NDArray[np.uint8]:
        """Return the picture ``[height, width, 3]`` of row ``index``; optional."""
        raise gym.error.UnsupportedMode(f"{type(self).__name__} has no picture")
