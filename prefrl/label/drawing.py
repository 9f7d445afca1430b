"""Pictures of segments, drawn from simulator states by an environment that is kept open.

MuJoCo draws without shadows and without multisampling, which takes a seventh of the time, and where there is
no display through EGL, or else OSMesa.
"""

from __future__ import annotations

import ctypes.util
import os
import sys
from collections.abc import Collection
from importlib import import_module
from types import TracebackType
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import load_env_creator
from numpy.typing import NDArray

import prefrl.envs  # noqa: F401  (registers its ids)
from prefrl.envs.arguments import UNSUITABLE, parse_env_args, unsuitable
from prefrl.envs.simulator_states import Simulator, picture, simulator_of

from .records import StoredSegment, StudySettings

Frame = NDArray[np.uint8]
"""[height, width, 3]"""


class NotDrawn(ValueError):
    """A segment that no clip can be made of; others may be."""


class NoDrawing(ValueError):
    """An environment that cannot be made or draws no pictures: no segment of the study can be drawn."""


class Painter:
    """Draws the pictures of a study's segments; its environment is made once, when it is first needed.

    Args:
        study: which environment, and how large pictures are.
    """

    def __init__(self, study: StudySettings) -> None:
        self.study = study
        self._env: gym.Env[Any, Any] | None = None
        self._simulator: Simulator | None = None

    def __enter__(self) -> Painter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the environment."""
        if self._env is not None:
            self._env.close()
            self._env = self._simulator = None

    def frames(self, segment: StoredSegment) -> list[Frame]:
        """Return the pictures of a segment: given ones, or l + 1 drawn from the states of l transitions.

        Without states, observations that are pictures are taken for those.

        Raises:
            NoDrawing: if the study's environment cannot be made, or draws no pictures.
            NotDrawn: if the segment has neither states nor pictures, or states of another environment.
        """
        if segment.frames is not None:
            return list(segment.frames)
        if segment.states is None:
            if (pictures := pictures_of(segment.arrays["obs"])) is not None:
                return list(pictures)
            raise NotDrawn(
                f"segment {segment.digest[:12]} has neither simulator states nor frames: "
                "there is nothing to draw it from"
            )
        env, simulator = self._started()
        actions = [None, *segment.arrays["actions"]]
        drawn = []
        for state, action in zip(segment.states, actions, strict=True):
            try:
                simulator.write(state, action)
            except ValueError as error:
                raise NotDrawn(f"segment {segment.digest[:12]} cannot be drawn: {error}") from error
            try:
                drawn.append(draw(env))
            except NoDrawing as error:  # the first picture was drawn: it is this state
                raise NotDrawn(f"segment {segment.digest[:12]}: {error}") from error
        return drawn

    def _started(self) -> tuple[gym.Env[Any, Any], Simulator]:
        if self._env is None or self._simulator is None:
            if self.study.environment is None:
                raise NoDrawing("the study names no environment to draw simulator states; give --env-id")
            self._env = make_drawing_env(self.study)
            try:
                self._simulator = simulator_of(self._env)
                self._env.reset(seed=0)
            except ValueError as error:
                raise NoDrawing(str(error)) from error
            draw(self._env)  # MuJoCo's free cameras stay where the first picture puts them
        return self._env, self._simulator


def pictures_of(obs: NDArray[Any]) -> Frame | None:
    """Return observations [T, ...] as pictures [T, height, width, 3]; None if they are none.

    Pictures are uint8 with colours last or first, or in shades of grey (one channel, or none).
    """
    if obs.dtype != np.uint8 or obs.ndim not in (3, 4):
        return None
    pictures = obs[..., None] if obs.ndim == 3 else obs
    if pictures.shape[3] not in (1, 3) and pictures.shape[1] in (1, 3):
        pictures = pictures.transpose(0, 2, 3, 1)
    if pictures.shape[3] not in (1, 3) or min(pictures.shape[1:3]) < 8:
        return None
    return np.ascontiguousarray(np.broadcast_to(pictures, (*pictures.shape[:3], 3)))


def make_drawing_env(study: StudySettings) -> gym.Env[Any, Any]:
    """Return the environment that a study's pictures are drawn by.

    Raises:
        NoDrawing: if it cannot be made, or draws no pictures.
    """
    env_id, arguments = str(study.environment), parse_env_args(study.env_args)
    try:
        mujoco = _is_mujoco(env_id)
        if mujoco:
            arguments = {"width": study.width, "height": study.height, **arguments}
        more = drawing_arguments(env_id, arguments)
        env = gym.make(env_id, disable_env_checker=True, **{**arguments, **more})
    except (gym.error.Error, ImportError, ValueError, *UNSUITABLE) as error:
        raise NoDrawing(str(unsuitable(env_id, study.env_args, error))) from error
    if mujoco:
        quality = env.unwrapped.model.vis.quality  # type: ignore[attr-defined]
        quality.shadowsize = quality.offsamples = 0  # read when the first picture is drawn
    return env


def drawing_arguments(env_id: str, given: Collection[str]) -> dict[str, str]:
    """Return what an environment is made with to draw pictures, and choose how they are drawn here.

    Args:
        env_id: which.
        given: names of arguments that it is made with anyway.

    Raises:
        NoDrawing: if MuJoCo has nothing to draw with.
    """
    if not _has_display():
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # else pygame looks for one, and complains
    arguments = {"render_mode": "rgb_array"}
    if _is_mujoco(env_id):
        choose_gl()
        if not {"camera_id", "camera_name"} & set(given):
            # Gymnasium 1.4 looks at one place by default, and what runs is out of the picture soon.
            arguments["camera_name"] = "track"
    return arguments


def draw(env: gym.Env[Any, Any]) -> Frame:
    """Return an environment's picture; NoDrawing, which says why, where it draws none."""
    try:
        return picture(env)
    except ValueError as error:
        raise NoDrawing(str(error)) from error
    except Exception as error:  # libraries for drawing have their own errors, the first of a driver's
        reason = f"{type(error).__name__}: {error}".split("\n", 1)[0]
        hint = f" (MUJOCO_GL is {os.environ['MUJOCO_GL']!r})" if "MUJOCO_GL" in os.environ else ""
        raise NoDrawing(f"{type(env.unwrapped).__name__} cannot draw here: {reason}{hint}") from error


def _is_mujoco(env_id: str) -> bool:
    """Say whether an id is one of Gymnasium's MuJoCo environments, before anything of MuJoCo is loaded."""
    module, _, name = env_id.rpartition(":")
    if module:
        import_module(module)
    entry = gym.spec(name).entry_point
    creator = load_env_creator(entry) if isinstance(entry, str) else entry
    return any(base.__name__ == "MujocoEnv" for base in getattr(creator, "__mro__", ()))


def _has_display() -> bool:
    """Say whether windows could be opened; systems other than Linux need no telling."""
    return sys.platform != "linux" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


def choose_gl() -> None:
    """Choose how MuJoCo draws in this process where it is not said and there is no display: EGL, or OSMesa.

    It has to be known before MuJoCo's drawing is first used.

    Raises:
        NoDrawing: if neither is there.
    """
    if "MUJOCO_GL" in os.environ or _has_display():
        return
    for library, name in (("EGL", "egl"), ("OSMesa", "osmesa")):
        if ctypes.util.find_library(library) is not None:
            os.environ["MUJOCO_GL"] = name
            return
    raise NoDrawing("there is no display, and neither EGL nor OSMesa to draw without one: install libegl1 or "
                    "libosmesa6, or set MUJOCO_GL")  # fmt: skip


def render_segment(study: StudySettings, segment: StoredSegment) -> list[Frame]:
    """Return the pictures of one segment, drawn by an environment made for it; see :meth:`Painter.frames`."""
    with Painter(study) as painter:
        return painter.frames(segment)
