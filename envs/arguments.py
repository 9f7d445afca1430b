"""Environments as recipes and command lines name them: an id and arguments NAME=VALUE."""

from __future__ import annotations

import ast
import json
from typing import Any

import gymnasium as gym

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
        raise unsuitable(env_id, env_args, error) from error


def unsuitable(env_id: str, env_args: tuple[str, ...], error: Exception) -> ValueError:
    """Return the error that says in one sentence that an environment cannot be made so."""
    reason = str(error).split("\n", 1)[0] or type(error).__name__
    problem = f"env_args {list(env_args)} do not suit {env_id}" if env_args else f"{env_id} cannot be made"
    return ValueError(f"{problem}: {reason}")
