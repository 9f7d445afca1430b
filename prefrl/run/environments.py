"""The environments of runs: to train in, to evaluate in; see :mod:`prefrl.envs.arguments` for their names."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import torch
from gymnasium.vector import AutoresetMode

import prefrl.envs
from prefrl.data.devices import resolve_device
from prefrl.envs.arguments import UNSUITABLE, make_scalar_env, parse_env_args, unsuitable
from prefrl.envs.wrappers import GroupedStarts

__all__ = [
    "make_evaluation_env",
    "make_rollout_env",
    "make_scalar_env",
    "make_training_env",
    "parse_env_args",
]


def make_training_env(
    env_id: str,
    env_args: tuple[str, ...],
    num_envs: int,
    device: str,
    float_dtype: torch.dtype | None = None,
    num_streams: int | None = None,
) -> Any:
    """Return ``num_envs`` environments: prefrl's own on the device, others on the host.

    Args:
        env_id: which.
        env_args: their arguments.
        num_envs: how many.
        device: where prefrl's own live.
        float_dtype: float type of prefrl's own; None: float32.
        num_streams: blocks of rows of prefrl's own whose noise is theirs alone; None: that of all is drawn
            together. (Others have a generator in every row.)

    Raises:
        ValueError: if the arguments are not the environment's.
    """
    args = parse_env_args(env_args)
    try:
        if num_envs == 1 and prefrl.envs.bare_id(env_id) not in prefrl.envs.REGISTRY:
            return gym.make(env_id, **args)
        if prefrl.envs.bare_id(env_id) in prefrl.envs.REGISTRY:
            return prefrl.envs.make_device(
                env_id,
                num_envs,
                device=resolve_device(device),
                float_dtype=float_dtype,
                num_streams=num_streams,
                **args,
            )
        return gym.make_vec(env_id, num_envs, **args)
    except UNSUITABLE as error:
        raise unsuitable(env_id, env_args, error) from error


def make_rollout_env(
    env_id: str, env_args: tuple[str, ...], num_envs: int, device: str, num_streams: int | None = None,
    group_size: int | None = None,
) -> Any:  # fmt: skip
    """Return ``num_envs`` environments whose rows start anew in the step that ended them.

    prefrl's own are on the device, others on the host; see :func:`make_training_env` for ``num_streams``.
    With a ``group_size`` rows start anew together instead; see :class:`prefrl.envs.wrappers.GroupedStarts`.
    Raises ValueError if the arguments are not the environment's.
    """
    own = prefrl.envs.bare_id(env_id) in prefrl.envs.REGISTRY
    mode = AutoresetMode.SAME_STEP if group_size is None else AutoresetMode.DISABLED
    if own and group_size is not None:
        env_args = (*env_args, f"autoreset_mode={mode.value}")
    if (num_envs == 1 and group_size is None) or own:
        env = make_training_env(env_id, env_args, num_envs, device, num_streams=num_streams)
    else:
        try:
            env = gym.make_vec(env_id, num_envs, vectorization_mode="sync",
                               vector_kwargs={"autoreset_mode": mode},
                               **parse_env_args(env_args))  # fmt: skip
        except UNSUITABLE as error:
            raise unsuitable(env_id, env_args, error) from error
    return env if group_size is None else GroupedStarts(env, group_size)


def make_evaluation_env(
    env_id: str, env_args: tuple[str, ...], episodes: int, num_streams: int | None = None
) -> Any:
    """Return a vector environment on the host with a row per episode.

    See :func:`make_training_env` for ``num_streams``.

    Raises:
        ValueError: if the arguments are not the environment's.
    """
    try:
        own = prefrl.envs.bare_id(env_id) in prefrl.envs.REGISTRY
        args = parse_env_args(env_args)
        if own and num_streams is not None:
            args["num_streams"] = num_streams
        return gym.make_vec(env_id, episodes, **args)
    except UNSUITABLE as error:
        raise unsuitable(env_id, env_args, error) from error
