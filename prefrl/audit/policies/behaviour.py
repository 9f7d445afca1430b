"""What a policy does: the actions that it draws where it is asked, and the episodes that it lives through."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray
from torch import Tensor

from prefrl.agents.base import Agent
from prefrl.data import map_obs, successor_obs
from prefrl.data.devices import tensor_on
from prefrl.run.collect import collect_transitions
from prefrl.run.environments import make_evaluation_env
from prefrl.run.evaluate import check_limit, rollout

MAX_STEPS = 1_000
"""Steps after which an episode is cut."""


class Episodes(NamedTuple):
    """n episodes of a policy that draws its actions."""

    returns: Tensor
    """[n] float64, undiscounted."""
    ends: Tensor | None
    """[n] int64 last observation, where observations are Discrete."""
    action_counts: Tensor | None
    """[n, A] how often each action was taken, where actions are Discrete."""


@torch.no_grad()
def acted(agent: Agent, obs: Any, *, deterministic: bool = False) -> NDArray[Any]:
    """Return the actions [n, ...] of all learners of an agent, one after the other, on the host.

    Args:
        agent: of S learners.
        obs: [n / S, ...] observations on the host, or a dict of them.
        deterministic: whether the deterministic actions are taken.
    """

    def rows(values: Any) -> Any:
        given = np.asarray(values)
        return tensor_on(agent.device, np.concatenate([given] * agent.num_learners))

    actions: NDArray[Any] = agent.act(map_obs(rows, obs), deterministic=deterministic).cpu().numpy()
    return actions


def seen_by_chance(env: gym.Env[Any, Any], count: int, seed: int) -> NDArray[Any]:
    """Return observations [count, ...] in which uniform actions had to be taken.

    Raises:
        ValueError: if the environment has spaces that uniform actions cannot be drawn from, or not be kept.
    """
    try:
        return collect_transitions(None, env, count, epsilon=1.0, seed=seed).obs.cpu().numpy()
    except TypeError as error:
        raise ValueError(f"{error}; stances of actions need them to be: look at returns") from error


def lived(agent: Agent, recipe: Any, episodes: int, seed: int, *, max_steps: int = MAX_STEPS) -> Episodes:
    """Return episodes of a run's policy in its environment, by actions that are drawn.

    Args:
        agent: of one learner or several, who have as many episodes each.
        recipe: what it was trained by.
        episodes: of each learner.
        seed: of the environment.
        max_steps: longest episode; one that is cut there counts with what it had by then, and is warned of.

    Raises:
        ValueError: if the agent reads other observations than the environment's, as those with a stock.
    """
    check_limit(max_steps)
    shown = _episode_env(recipe, episodes).single_observation_space
    if shown != agent.observation_space:
        name, reads = type(agent).__name__, agent.observation_space
        raise ValueError(f"episodes show {shown}, and {name} reads {reads}; one that reads more than its "
                         "environment shows is not looked at by episodes")  # fmt: skip
    found = [_lived(one, _episode_env(recipe, episodes), seed, max_steps) for one in agent.alone()]
    returns, ends, counts = zip(*found, strict=True)
    joined = [None if parts[0] is None else torch.cat(parts) for parts in (ends, counts)]
    return Episodes(torch.cat(returns), *joined)


def _episode_env(recipe: Any, episodes: int) -> Any:
    """Return a vector environment on the host with a row per episode of one learner."""
    if getattr(recipe, "num_learners", 1) == 1 and hasattr(recipe, "evaluation_env"):
        return recipe.evaluation_env(episodes)
    env_id, env_args = recipe.made
    return make_evaluation_env(env_id, env_args, episodes)


def _lived(agent: Agent, env: Any, seed: int, max_steps: int) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return the first episode of each row."""
    mode = AutoresetMode(env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP))
    actions_of, rows = env.single_action_space, np.arange(env.num_envs)
    kinds = int(actions_of.n) if isinstance(actions_of, gym.spaces.Discrete) else 0
    discrete = isinstance(env.single_observation_space, gym.spaces.Discrete)
    counts, ends = np.zeros((env.num_envs, max(kinds, 1))), np.zeros(env.num_envs, dtype=np.int64)

    def watch(actions: Any, obs: Any, infos: Mapping[str, Any], going: NDArray[np.bool_]) -> None:
        if kinds:
            counts[rows, actions - int(actions_of.start)] += going
        if discrete:
            np.copyto(ends, successor_obs(mode, obs, infos), where=going)

    returns, _ = rollout(agent, env, seed=seed, max_steps=max_steps, deterministic=False, watch=watch)
    return (torch.as_tensor(returns, dtype=torch.float64), torch.as_tensor(ends) if discrete else None,
            torch.as_tensor(counts) if kinds else None)  # fmt: skip
