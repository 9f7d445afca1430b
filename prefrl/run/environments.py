"""What the recipes share: their environments, and the agent of a finished run."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium as gym
import torch
from gymnasium.vector import AutoresetMode

import prefrl.envs
from prefrl.agents.base import Agent, read_agent_file, taking_over
from prefrl.data.devices import resolve_device
from prefrl.run.folder import RunFolder

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
        except ValueError:
            try:
                parsed[name] = ast.literal_eval(text)
            except (ValueError, SyntaxError):
                parsed[name] = text
    return parsed


def make_scalar_env(env_id: str, env_args: tuple[str, ...]) -> gym.Env[Any, Any]:
    """Return ``gym.make(env_id, **env_args)``; ValueError if the arguments are not the environment's."""
    try:
        return gym.make(env_id, **parse_env_args(env_args))
    except (TypeError, RuntimeError) as error:
        raise _unsuitable(env_id, env_args, error) from error


def make_training_env(
    env_id: str,
    env_args: tuple[str, ...],
    num_envs: int,
    device: str,
    float_dtype: torch.dtype | None = None,
) -> Any:
    """Return ``num_envs`` environments: prefrl's own on the device, others on the host.

    Args:
        env_id: which.
        env_args: their arguments.
        num_envs: how many.
        device: where prefrl's own live.
        float_dtype: float type of prefrl's own; None: float32.

    Raises:
        ValueError: if the arguments are not the environment's.
    """
    args = parse_env_args(env_args)
    try:
        if num_envs == 1 and prefrl.envs.bare_id(env_id) not in prefrl.envs.REGISTRY:
            return gym.make(env_id, **args)
        if prefrl.envs.bare_id(env_id) in prefrl.envs.REGISTRY:
            return prefrl.envs.make_device(
                env_id, num_envs, device=resolve_device(device), float_dtype=float_dtype, **args
            )
        return gym.make_vec(env_id, num_envs, **args)
    except (TypeError, RuntimeError) as error:
        raise _unsuitable(env_id, env_args, error) from error


def make_rollout_env(env_id: str, env_args: tuple[str, ...], num_envs: int, device: str) -> Any:
    """Return ``num_envs`` environments whose rows start anew in the step that ended them.

    prefrl's own are on the device, others on the host. Raises ValueError if the arguments are not the
    environment's.
    """
    if num_envs == 1 or prefrl.envs.bare_id(env_id) in prefrl.envs.REGISTRY:
        return make_training_env(env_id, env_args, num_envs, device)
    try:
        return gym.make_vec(env_id, num_envs, vectorization_mode="sync",
                            vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP},
                            **parse_env_args(env_args))  # fmt: skip
    except (TypeError, RuntimeError) as error:
        raise _unsuitable(env_id, env_args, error) from error


def make_evaluation_env(env_id: str, env_args: tuple[str, ...], episodes: int) -> Any:
    """Return a vector environment on the host with a row per episode.

    Raises:
        ValueError: if the arguments are not the environment's.
    """
    try:
        return gym.make_vec(env_id, episodes, **parse_env_args(env_args))
    except (TypeError, RuntimeError) as error:
        raise _unsuitable(env_id, env_args, error) from error


def _unsuitable(env_id: str, env_args: tuple[str, ...], error: Exception) -> ValueError:
    reason = str(error).split("\n", 1)[0]
    problem = f"env_args {list(env_args)} do not suit {env_id}" if env_args else f"{env_id} cannot be made"
    return ValueError(f"{problem}: {reason}")


@contextmanager
def small_networks() -> Iterator[None]:
    """Settle torch for small networks on the CPU: one thread, and denormal numbers are 0.

    More threads make small products slower; Adam's moments of idle weights become denormal numbers, which
    processors are slow with.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(threads)


def restore(agent: Agent, folder: RunFolder) -> None:
    """Put an agent in the state of a run's checkpoint or, where that was deleted, of its ``agent.pt``.

    Raises:
        FileNotFoundError: if there is neither yet.
        ValueError: if it is damaged, or another agent's.
    """
    checkpoint, saved = folder.load_checkpoint(), folder.path / "agent.pt"
    if checkpoint is None and saved.exists():
        header, state = read_agent_file(saved)
        with taking_over(saved, f"state of this run's {type(agent).__name__}"):
            agent.num_timesteps = header["num_timesteps"]
            agent.load_state_dict(state)
        return
    if checkpoint is None:
        raise FileNotFoundError(f"{folder.path} holds no checkpoint yet; run `prefrl resume {folder.path}`")
    with taking_over(folder.checkpoint_path, f"state of this run's {type(agent).__name__}"):
        agent.num_timesteps = int(checkpoint["num_timesteps"])
        agent.load_state_dict(checkpoint["agent"])
