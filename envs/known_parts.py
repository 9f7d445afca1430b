"""What is known of an environment without learning it: when an episode ends, and sometimes the reward.

A learned model of an environment predicts observations; that an episode ends where the torso of a robot falls
is a function of them, which is written here for the environments that model-based agents are used on. All
functions take arrays of numpy or torch, a row per step. Rules and bounds are those of the environment that is
given (``healthy_z_range`` and so on), positions in the observation those of its ``observation_structure``.

>>> import gymnasium as gym
>>> known_parts_of(gym.make("Pendulum-v1")).reward is not None
True
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import array_api_compat
import gymnasium as gym
from gymnasium.wrappers import (
    Autoreset,
    OrderEnforcing,
    PassiveEnvChecker,
    RecordEpisodeStatistics,
    RecordVideo,
    TimeLimit,
)
from gymnasium.wrappers.vector import RecordEpisodeStatistics as RecordVectorStatistics

from prefrl.envs.core.backend import Array
from prefrl.envs.core.face import Face
from prefrl.envs.core.scalar import ScalarEnv
from prefrl.envs.core.vector import BatchedEnv
from prefrl.envs.wrappers.distractors import Distractors

REWARDING = (gym.ActionWrapper, gym.RewardWrapper)
VECTOR_REWARDING = (gym.vector.VectorActionWrapper, gym.vector.VectorRewardWrapper)
"""Wrappers with which the reward is another function."""

TRANSPARENT = (PassiveEnvChecker, OrderEnforcing, TimeLimit, RecordEpisodeStatistics, RecordVideo, Autoreset,
               Distractors, *REWARDING)  # fmt: skip
"""Wrappers that leave the task's observations where they are, and the ends of episodes as they are."""

UNREAD = {"reset", "reset_model", "initial", "reset_noise", "render", "draw", "close", "metadata"}
"""What a class may change of its parent without another rule for terminations and rewards."""


@dataclass(frozen=True)
class KnownParts:
    """What need not be learned."""

    termination: Callable[[Array], Array]
    """Next observations [n, D] to bool [n]: the episode ends there."""

    reward: Callable[[Array, Array, Array], Array] | None = None
    """Observations [n, D], actions [n, A] in the environment's units and next observations to rewards [n]."""

    project: Callable[[Array], Array] | None = None
    """Predicted next observations [n, D] to the closest possible ones."""


def _never(next_obs: Array) -> Array:
    return next_obs[:, 0] > math.inf


def _finite(obs: Array) -> Array:
    xp = array_api_compat.array_namespace(obs)
    return xp.all(xp.isfinite(obs), axis=1)


def _within(values: Array, bounds: tuple[float, float]) -> Array:
    return (values > bounds[0]) & (values < bounds[1])


class _Layout:
    """Where the joints of a MuJoCo environment are in its observations.

    Raises:
        ValueError: if the environment does not tell.
    """

    def __init__(self, env: Any, skippable: int) -> None:
        structure = getattr(env, "observation_structure", None)
        if not structure or structure.get("skipped_qpos") not in (0, skippable):
            raise ValueError(f"the layout of {type(env).__name__}'s observations is unknown: its observation_"
                             f"structure is {structure}; give termination=")  # fmt: skip
        self.skipped = int(structure["skipped_qpos"])
        self.state = int(structure["qpos"]) + int(structure["qvel"])
        """Positions and velocities at the start of an observation."""

    def position(self, joint: int) -> int:
        """Return where the position of a joint is."""
        return joint - self.skipped


def _hopper(env: Any) -> KnownParts:
    layout = _Layout(env, 1)
    z, angle = layout.position(1), layout.position(2)

    def unhealthy(next_obs: Array) -> Array:
        xp = array_api_compat.array_namespace(next_obs)
        state = next_obs[:, angle : layout.state]
        healthy = _finite(next_obs) & xp.all(_within(state, env._healthy_state_range), axis=1)
        healthy = healthy & _within(next_obs[:, z], env._healthy_z_range)
        return ~(healthy & _within(next_obs[:, angle], env._healthy_angle_range))

    return KnownParts(unhealthy if env._terminate_when_unhealthy else _never)


def _walker(env: Any) -> KnownParts:
    layout = _Layout(env, 1)
    z, angle = layout.position(1), layout.position(2)

    def unhealthy(next_obs: Array) -> Array:
        healthy = _within(next_obs[:, z], env._healthy_z_range) & _finite(next_obs)
        return ~(healthy & _within(next_obs[:, angle], env._healthy_angle_range))

    return KnownParts(unhealthy if env._terminate_when_unhealthy else _never)


def _ant(env: Any) -> KnownParts:
    z = _Layout(env, 2).position(2)

    def unhealthy(next_obs: Array) -> Array:
        low, high = env._healthy_z_range
        return ~(_finite(next_obs) & (next_obs[:, z] >= low) & (next_obs[:, z] <= high))

    return KnownParts(unhealthy if env._terminate_when_unhealthy else _never)


def _humanoid(env: Any) -> KnownParts:
    z = _Layout(env, 2).position(2)

    def unhealthy(next_obs: Array) -> Array:
        return ~(_within(next_obs[:, z], env._healthy_z_range) & _finite(next_obs))

    return KnownParts(unhealthy if env._terminate_when_unhealthy else _never)


def _inverted_pendulum(env: Any) -> KnownParts:
    structure = getattr(env, "observation_structure", None)
    if not structure or int(structure["qpos"]) != 2:
        raise ValueError(f"the layout of {type(env).__name__}'s observations is unknown: its observation_"
                         f"structure is {structure}; give termination=")  # fmt: skip

    def fallen(next_obs: Array) -> Array:
        xp = array_api_compat.array_namespace(next_obs)
        return ~(_finite(next_obs) & (xp.abs(next_obs[:, 1]) <= 0.2))

    def reward(obs: Array, actions: Array, next_obs: Array) -> Array:
        xp = array_api_compat.array_namespace(next_obs)
        return xp.astype(~fallen(next_obs), next_obs.dtype)

    return KnownParts(fallen, reward)


def _endless(env: Any) -> KnownParts:
    return KnownParts(_never)


def _pendulum(env: Any) -> KnownParts:
    def reward(obs: Array, actions: Array, next_obs: Array) -> Array:
        xp = array_api_compat.array_namespace(obs)
        angle, torque = xp.atan2(obs[:, 1], obs[:, 0]), xp.clip(actions[:, 0], -2.0, 2.0)
        return -(angle**2 + 0.1 * obs[:, 2] ** 2 + 0.001 * torque**2)

    def project(next_obs: Array) -> Array:
        xp = array_api_compat.array_namespace(next_obs)
        norm = xp.sqrt(next_obs[:, 0] ** 2 + next_obs[:, 1] ** 2)
        norm = xp.where(norm > 1e-6, norm, xp.ones_like(norm))[:, None]
        speed = xp.clip(next_obs[:, 2:3], -8.0, 8.0)
        return xp.concat([next_obs[:, :2] / norm, speed, next_obs[:, 3:]], axis=1)

    return KnownParts(_never, reward, project)


def _double_pendulum(env: Any) -> KnownParts:
    def fallen(next_obs: Array) -> Array:  # the tip, 0.6 (cos a + cos(a + b)), is not above 1
        sines, cosines = next_obs[:, 1:3], next_obs[:, 3:5]
        both = cosines[:, 0] * cosines[:, 1] - sines[:, 0] * sines[:, 1]
        return ~((0.6 * (cosines[:, 0] + both) > 1.0) & _finite(next_obs))

    return KnownParts(fallen)


def _mountain_car(env: Any) -> KnownParts:
    place, speed = getattr(env, "goal_position", 0.45), getattr(env, "goal_velocity", 0.0)

    def at_goal(next_obs: Array) -> Array:
        return (next_obs[:, 0] >= place) & (next_obs[:, 1] >= speed)

    def reward(obs: Array, actions: Array, next_obs: Array) -> Array:
        xp = array_api_compat.array_namespace(next_obs)
        return 100.0 * xp.astype(at_goal(next_obs), next_obs.dtype) - 0.1 * actions[:, 0] ** 2

    return KnownParts(at_goal, reward)


_MUJOCO = "gymnasium.envs.mujoco."

KNOWN: dict[str, Callable[[Any], KnownParts]] = {
    f"{_MUJOCO}hopper_v5:HopperEnv": _hopper,
    f"{_MUJOCO}walker2d_v5:Walker2dEnv": _walker,
    f"{_MUJOCO}ant_v5:AntEnv": _ant,
    f"{_MUJOCO}humanoid_v5:HumanoidEnv": _humanoid,
    f"{_MUJOCO}inverted_pendulum_v5:InvertedPendulumEnv": _inverted_pendulum,
    f"{_MUJOCO}inverted_double_pendulum_v5:InvertedDoublePendulumEnv": _double_pendulum,
    f"{_MUJOCO}half_cheetah_v5:HalfCheetahEnv": _endless,
    f"{_MUJOCO}swimmer_v5:SwimmerEnv": _endless,
    f"{_MUJOCO}pusher_v5:PusherEnv": _endless,
    f"{_MUJOCO}reacher_v5:ReacherEnv": _endless,
    "gymnasium.envs.classic_control.pendulum:PendulumEnv": _pendulum,
    "prefrl.envs.classic_control.pendulum:PendulumDynamics": _pendulum,
    "gymnasium.envs.classic_control.continuous_mountain_car:Continuous_MountainCarEnv": _mountain_car,
    "prefrl.envs.classic_control.mountain_car:MountainCarContinuousDynamics": _mountain_car,
}
"""What is known, by module and class of the environment below all wrappers, or of its dynamics."""


def known_parts_of(env: Any) -> KnownParts:
    """Return what is known of an environment; where a wrapper changes actions or rewards, not the reward.

    Raises:
        ValueError: if it is not in :data:`KNOWN` or a class of its own that changes more than
            :data:`UNREAD`, a wrapper may have changed its observations, or it does not tell how they are
            laid out.
    """
    inner, changed = env, False
    while isinstance(inner, gym.vector.VectorWrapper):
        changed = changed or isinstance(inner, VECTOR_REWARDING)
        _check_wrapper(inner, (*VECTOR_REWARDING, RecordVectorStatistics))
        inner = inner.env
    rows = getattr(inner, "envs", None)
    inner = rows[0] if rows else inner
    while isinstance(inner, gym.Wrapper):
        changed = changed or isinstance(inner, REWARDING)
        _check_wrapper(inner, TRANSPARENT)
        inner = inner.env
    task = inner.unwrapped
    kinds = type(task).__mro__
    if isinstance(task, Face):
        place = kinds.index(ScalarEnv if isinstance(task, ScalarEnv) else BatchedEnv)
        _check_class(kinds[0], kinds[:place], kinds[place])
        task = task.dynamics
        kinds = type(task).__mro__
    for place, kind in enumerate(kinds):
        known = KNOWN.get(f"{kind.__module__}:{kind.__qualname__}")
        if known is not None:
            _check_class(kinds[0], kinds[:place], kind)
            parts = known(task)
            return replace(parts, reward=None) if changed else parts
    names = ", ".join(sorted({_title(name) for name in KNOWN}))
    raise ValueError(f"it is not known when an episode of {kinds[0].__module__}.{kinds[0].__qualname__} "
                     f"ends; known are {names}: give termination=")  # fmt: skip


def _check_wrapper(wrapper: Any, allowed: tuple[type, ...]) -> None:
    if not isinstance(wrapper, allowed):
        raise ValueError(f"{type(wrapper).__name__} may have changed what the table of terminations reads in "
                         "observations; give termination=")  # fmt: skip


def _check_class(given: type, between: tuple[type, ...], known: type) -> None:
    """Refuse a class that changes methods of the one that is known."""
    changed = {name for kind in between for name in vars(kind) if hasattr(known, name)}
    changed = {name for name in changed if not name.startswith(("__", "_abc_"))} - UNREAD
    if changed:
        names = ", ".join(sorted(changed))
        raise ValueError(f"{given.__qualname__} changes {names} of {known.__qualname__}, so that it is not "
                         "known when its episodes end; give termination=")  # fmt: skip


def _title(name: str) -> str:
    """Return an environment's name, with its version where the module tells."""
    module, _, kind = name.partition(":")
    version = re.search(r"_(v\d+)$", module)
    return kind.removesuffix("Env").removesuffix("Dynamics") + (f"-{version[1]}" if version else "")
