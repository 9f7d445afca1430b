"""Environments as recipes and command lines name them: an id and arguments NAME=VALUE."""

from __future__ import annotations

import ast
import json
from typing import Any

import gymnasium as gym
import torch
from gymnasium.vector import AutoresetMode

import prefrl.envs
from prefrl.data.devices import resolve_device
from prefrl.envs.wrappers import GroupedStarts

UNSUITABLE = (TypeError, RuntimeError, ArithmeticError, MemoryError)
"""What environments raise for arguments that they do not check; of numbers too large, the last two."""

PYTHON_VALUES = {"True": True, "False": False, "None": None}
"""What people write who think of Python, where JSON has true, false and null."""


def parse_env_args(arguments: tuple[str, ...]) -> dict[str, Any]:
    """Return ``("layout_seed=3", "stochastic=true")`` as a dict.

    Values are JSON, or Python's numbers and lists (``.5``, ``(1, 2)``), or else strings.

    Raises:
        ValueError: if an argument is not of the form NAME=VALUE.
    """
    parsed: dict[str, Any] = {}
    for argument in arguments:
        name, equals, text = argument.partition("=")
        if not equals or not name.isidentifier():
            raise ValueError(f"env_args has {argument!r}; each must be NAME=VALUE, as in layout_seed=3")
        try:
            parsed[name] = PYTHON_VALUES[text] if text in PYTHON_VALUES else json.loads(text)
        except (ValueError, RecursionError):
            try:
                parsed[name] = ast.literal_eval(text)
            except (ValueError, SyntaxError, RecursionError, MemoryError):  # the last two: nested too deeply
                parsed[name] = text
    return parsed


def make_scalar_env(env_id: str, env_args: tuple[str, ...]) -> gym.Env[Any, Any]:
    """Return ``gym.make(env_id, **env_args)``; ValueError if the arguments are not the environment's."""
    try:
        return gym.make(env_id, **parse_env_args(env_args))
    except UNSUITABLE as error:
        raise _unsuitable(env_id, env_args, error) from error


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
        raise _unsuitable(env_id, env_args, error) from error


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
            raise _unsuitable(env_id, env_args, error) from error
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
        raise _unsuitable(env_id, env_args, error) from error


def _unsuitable(env_id: str, env_args: tuple[str, ...], error: Exception) -> ValueError:
    reason = str(error).split("\n", 1)[0] or type(error).__name__
    problem = f"env_args {list(env_args)} do not suit {env_id}" if env_args else f"{env_id} cannot be made"
    return ValueError(f"{problem}: {reason}")
