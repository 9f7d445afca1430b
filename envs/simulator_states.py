"""States of simulators as rows of numbers: read while an agent acts, set again later to draw a picture.

A state is far smaller than its picture: 150 bytes for a cheetah. So whoever may want to see an episode keeps
``info["simulator_state"]`` (``prefrl.envs.wrappers.SimulatorStates``) and draws what is asked for.

Known are Gymnasium's MuJoCo and classic control environments and prefrl's own. Others have no state that
could be set: Box2D's bodies, for one, carry contacts that nobody can read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, cast

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from .core.backend import state_rows
from .core.scalar import ScalarEnv

Floats = NDArray[np.float64]

KNOWN = "Gymnasium's MuJoCo and classic control environments, and prefrl's own"
"""What this works for, as messages say it."""

_CLASSIC = {"AcrobotEnv": 4, "CartPoleEnv": 4, "Continuous_MountainCarEnv": 2, "MountainCarEnv": 2}
"""Classes of Gymnasium's classic control whose ``state`` is all there is to them, and its size."""


class Simulator(Protocol):
    """What one environment's state is, and how it is set."""

    def read(self) -> Floats:
        """Return the state [D]."""

    def write(self, state: Floats, last_action: Any) -> None:
        """Go to a state [D], after an action that pictures may show (None: after none)."""


class _MuJoCo:
    """Time, positions, velocities, activations and mocap bodies: what a picture and a step depend on."""

    def __init__(self, env: Any) -> None:
        import mujoco

        kinds = mujoco.mjtState
        parts = (kinds.mjSTATE_FULLPHYSICS, kinds.mjSTATE_MOCAP_POS, kinds.mjSTATE_MOCAP_QUAT)
        self.parts = sum(int(part) for part in parts)
        self.mujoco, self.env = mujoco, env
        self.size = int(mujoco.mj_stateSize(env.model, self.parts))

    def read(self) -> Floats:
        state = np.empty(self.size)
        self.mujoco.mj_getState(self.env.model, self.env.data, state, self.parts)
        return state

    def write(self, state: Floats, last_action: Any) -> None:
        model, data = self.env.model, self.env.data
        self.mujoco.mj_setState(model, data, _of_size(state, self.size, self.env), self.parts)
        self.mujoco.mj_forward(model, data)  # places of bodies follow from the state only now


class _ClassicControl:
    """Gymnasium's classic control, whose state is an attribute."""

    def __init__(self, env: Any) -> None:
        self.env, self.size = env, _CLASSIC[type(env).__name__]

    def read(self) -> Floats:
        return np.array(_started(self.env.state, self.env), dtype=np.float64)

    def write(self, state: Floats, last_action: Any) -> None:
        self.env.state = _of_size(state, self.size, self.env).copy()


class _Pendulum:
    """Gymnasium's pendulum: angle, speed, whether there was a torque, and it, which the picture shows."""

    def __init__(self, env: Any) -> None:
        self.env = env

    def read(self) -> Floats:
        angle, speed = _started(self.env.state, self.env)
        torque = getattr(self.env, "last_u", None)
        return np.array([angle, speed, torque is not None, torque or 0.0], dtype=np.float64)

    def write(self, state: Floats, last_action: Any) -> None:
        angle, speed, pushed, torque = _of_size(state, 4, self.env)
        self.env.state = np.array([angle, speed])
        self.env.last_u = torque if pushed else None


class _Own:
    """An environment of prefrl: the arrays of its dynamics, by name, one after the other."""

    def __init__(self, env: ScalarEnv) -> None:
        self.env = env
        dynamics = env.dynamics
        like = dynamics.initial(dynamics.reset_noise(dynamics.backend.random(0), 1))
        self.like: dict[str, NDArray[Any]] = {name: like[name] for name in sorted(like)}

    def read(self) -> Floats:
        return cast(Floats, state_rows(_started(self.env._state, self.env))[0, 0])

    def write(self, state: Floats, last_action: Any) -> None:
        rest = _of_size(state, sum(part.size for part in self.like.values()), self.env)
        found = {}
        for name, part in self.like.items():
            found[name] = rest[: part.size].reshape(part.shape).astype(part.dtype)
            rest = rest[part.size :]
        self.env._state, self.env._last_action = found, last_action


def simulator_of(env: gym.Env[Any, Any]) -> Simulator:
    """Return how the state of an environment is read and set.

    Args:
        env: a scalar environment, in any wrappers: the innermost is what counts.

    Raises:
        ValueError: if it is of none of the kinds that are known.
    """
    inner: Any = env.unwrapped
    if isinstance(inner, ScalarEnv):
        return _Own(inner)
    name, place = type(inner).__name__, type(inner).__module__
    if place.startswith("gymnasium.envs.classic_control."):
        if name == "PendulumEnv":
            return _Pendulum(inner)
        if name in _CLASSIC:
            return _ClassicControl(inner)
    if _is_mujoco(getattr(inner, "model", None)):
        return _MuJoCo(inner)
    title = env.spec.id if env.spec is not None else name
    raise ValueError(f"{title} has no simulator state that could be set; those that have one are {KNOWN}")


def simulator_state(env: gym.Env[Any, Any]) -> Floats:
    """Return the state of a scalar environment, float64 [D].

    Raises:
        ValueError: if the environment has none that could be set.
        gymnasium.error.ResetNeeded: before its first reset.
    """
    return simulator_of(env).read()


def set_simulator_state(env: gym.Env[Any, Any], state: Floats, last_action: Any = None) -> None:
    """Bring a scalar environment to a state.

    The wrappers' own memory (time limits, stocks) stays as it is, so this is for pictures rather than for
    going on.

    Args:
        env: the environment.
        state: float64 [D], of an environment like it.
        last_action: the action that led there, which some pictures show; None: none.

    Raises:
        ValueError: if the environment has no state that could be set, or of another size.
    """
    simulator_of(env).write(np.asarray(state, dtype=np.float64), last_action)


def frame_of_state(env: gym.Env[Any, Any], state: Floats, last_action: Any = None) -> NDArray[np.uint8]:
    """Return the picture uint8 [height, width, 3] of a state, which the environment is left in.

    Args:
        env: made with ``render_mode="rgb_array"``.
        state: float64 [D].
        last_action: as in :func:`set_simulator_state`.

    Raises:
        ValueError: as :func:`set_simulator_state` does, and if the environment draws no pictures.
    """
    set_simulator_state(env, state, last_action)
    return picture(env)


def picture(env: gym.Env[Any, Any]) -> NDArray[np.uint8]:
    """Return what a scalar environment shows, uint8 [height, width, 3]; ValueError if that is no picture."""
    if env.unwrapped.render_mode != "rgb_array":
        raise ValueError(f"render_mode is {env.unwrapped.render_mode!r}; it must be 'rgb_array'")
    inner: Any = env.unwrapped
    viewer = getattr(getattr(inner, "mujoco_renderer", None), "viewer", None)
    if viewer is not None:  # Gymnasium draws into whatever was drawn into last, another environment's perhaps
        viewer.make_context_current()
    frame = inner.render()  # without the wrappers, which ask for a reset
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise ValueError(f"the environment's picture is {_told(frame)}; it must be uint8 [height, width, 3]")
    return frame


def _is_mujoco(model: Any) -> bool:
    """Say whether something is a model of MuJoCo's own bindings, without importing them."""
    return type(model).__name__ == "MjModel" and type(model).__module__.split(".")[0] == "mujoco"


def _of_size(state: Floats, size: int, env: Any) -> Floats:
    if state.shape != (size,):
        raise ValueError(f"state has shape {state.shape}; that of {type(env).__name__} must be ({size},)")
    return state


def _started(state: Any, env: Any) -> Any:
    if state is None:
        raise gym.error.ResetNeeded(f"call reset() of {type(env).__name__} before its state is read")
    return state


def _told(frame: Any) -> str:
    if isinstance(frame, np.ndarray):
        return f"{frame.dtype} {list(frame.shape)}"
    return f"a list of {len(frame)}" if isinstance(frame, Sequence) else repr(frame)
