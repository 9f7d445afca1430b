"""How good a trained agent is: by episodes, and exactly where the environment's model is known."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray

from prefrl.agents.base import Agent
from prefrl.data import map_obs
from prefrl.data.devices import tensor_on
from prefrl.envs.core.vector import BatchedEnv
from prefrl.functional.statistics import bootstrap_interval, interquartile_mean

from .stepping import OneRow, Policy

Floats = NDArray[np.float64]


Watch = Callable[[Any, Any, Mapping[str, Any], NDArray[np.bool_]], None]
"""Looks at a step: its actions, the observations and infos after it, and which rows [n] count."""

MAX_STEPS = 10_000
"""Steps after which an episode of an evaluation is cut, unless told otherwise: it may never end."""


def evaluate(
    agent: Agent, env: gym.Env[Any, Any], *, episodes: int, seed: int, max_steps: int = MAX_STEPS
) -> dict[str, Any]:
    """Return undiscounted return and length of the deterministic policy, over episodes one after the other.

    Args:
        agent: the agent.
        env: a scalar environment; it is seeded.
        episodes: number of episodes.
        seed: seeds the environment; with several learners, anew and differently for each.
        max_steps: longest episode; one that is cut there counts with what it had by then, and is warned of.

    Returns:
        ``mean_return``, ``std_return``, ``mean_length``, ``episodes``; of several learners, each of which has
        so many episodes, what :func:`evaluate_rows` returns.

    Raises:
        ValueError: if ``episodes`` or ``max_steps`` is not positive.
    """
    if episodes < 1:
        raise ValueError(f"episodes is {episodes}; it must be at least 1")
    check_limit(max_steps)
    seeds = _seeds_of_learners(seed, agent.num_learners)
    found = [
        _one_by_one(each, env, episodes, own, max_steps)
        for each, own in zip(agent.alone(), seeds, strict=True)
    ]
    returns, lengths = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return _summary(returns, lengths, agent.num_learners)


def _one_by_one(
    agent: Agent, env: gym.Env[Any, Any], episodes: int, seed: int, max_steps: int
) -> tuple[Floats, Floats]:
    """Return returns and lengths [episodes] of a single learner."""
    rows, state, start = OneRow(env), None, np.ones(1, dtype=bool)
    obs, _ = rows.reset(seed=int(seed))
    returns, lengths = np.zeros(episodes), np.zeros(episodes)
    for episode in range(episodes):
        ended = False
        while not ended and lengths[episode] < max_steps:
            actions, state = agent.predict(obs, state=state, episode_start=start, deterministic=True)
            obs, rewards, terminations, truncations, _ = rows.step(actions)
            returns[episode] += rewards[0]
            lengths[episode] += 1
            start = terminations | truncations
            ended = bool(start[0])
        if not ended:
            warn_of_cut(env, max_steps)
            obs, _ = rows.reset()
            start = np.ones(1, dtype=bool)
    return returns, lengths


def _seeds_of_learners(seed: int, learners: int) -> list[int]:
    """Return what seeds the episodes of each learner: that of a single one first, then others.

    The chance of episodes that learners shared would be in the mean of all, and in no interval over them.
    """
    others = [np.random.SeedSequence([seed, learner]) for learner in range(1, learners)]
    return [int(seed), *(int(each.generate_state(1)[0]) for each in others)]


def _summary(returns: Floats, lengths: Floats, learners: int) -> dict[str, Any]:
    summary = {
        "mean_return": float(returns.mean()),
        "std_return": float(returns.std()),
        "mean_length": float(lengths.mean()),
        "episodes": len(returns),
    }
    if learners == 1:
        return summary
    of_each = returns.reshape(learners, -1).mean(1)
    return {
        **summary,
        "learners": of_each.tolist(),
        "interquartile_mean": float(interquartile_mean(of_each)),
        "interval": [float(bound) for bound in bootstrap_interval(of_each)],
    }


def columns(found: Mapping[str, Any]) -> dict[str, float]:
    """Return what of an evaluation is logged, by its column: of several learners, what each achieved too."""
    names = {"mean_return": "eval/mean_reward", "mean_length": "eval/mean_ep_length",
             "objective": "eval/objective", "interquartile_mean": "eval/interquartile_mean"}  # fmt: skip
    row = {column: found[name] for name, column in names.items() if name in found}
    if "learners" in found:
        row["eval/interval_low"], row["eval/interval_high"] = found["interval"]
        row |= {f"eval/mean_reward/{learner}": value for learner, value in enumerate(found["learners"])}
    return row


@dataclass(frozen=True)
class Evaluation:
    """Evaluates the deterministic policy during a run, all episodes at once; leaves no trace in the run."""

    env: gym.vector.VectorEnv[Any, Any, Any]
    """One row per episode, on the host; not the one that is learned in."""

    every: int
    """Timesteps between two evaluations; there is one at the end too."""

    seed: int
    """Seeds the episodes, together with the number of the evaluation."""

    def run(self, agent: Agent, index: int) -> dict[str, Any]:
        """Return the results of the evaluation number ``index``; see :func:`evaluate_rows`."""
        return evaluate_rows(agent, self.env, seed=self.seed_of(index))

    def seed_of(self, index: int) -> int:
        """Return what seeds the evaluation number ``index``."""
        return int(np.random.SeedSequence([self.seed, 2, index]).generate_state(1)[0])


def evaluate_rows(
    agent: Agent, env: gym.vector.VectorEnv[Any, Any, Any], *, seed: int, max_steps: int = MAX_STEPS
) -> dict[str, Any]:
    """Return undiscounted return and length of the deterministic policy, one episode per row.

    Args:
        agent: the agent; of several learners each has a block of as many rows.
        env: a vector environment on the host; it is seeded.
        seed: seeds the environment; where that takes a seed for each row, differently for each learner.
        max_steps: longest episode; one that is cut there counts with what it had by then, and is warned of.

    Returns:
        ``mean_return``, ``std_return``, ``mean_length``, ``episodes`` (of all learners together); of several
        learners also ``learners``, their mean returns, with the ``interquartile_mean`` of those and a
        bootstrap ``interval``.

    Raises:
        ValueError: if ``max_steps`` is not positive, or the rows are no multiple of the learners.
    """
    learners = agent.num_learners
    if learners == 1:
        return _summary(*rollout(agent, env, seed=seed, max_steps=max_steps), learners)
    if env.num_envs % learners:
        raise ValueError(f"env has {env.num_envs} rows; they must be a multiple of the {learners} learners")
    seeds = [
        first + row for first in _seeds_of_learners(seed, learners) for row in range(env.num_envs // learners)
    ]
    row_by_row = isinstance(env.unwrapped, (SyncVectorEnv, AsyncVectorEnv, BatchedEnv))
    found = rollout(agent, env, seed=seeds if row_by_row else seed, max_steps=max_steps)
    return _summary(*found, learners)


def rollout(
    policy: Policy | None,
    env: gym.vector.VectorEnv[Any, Any, Any],
    *,
    seed: int | list[int],
    options: dict[str, Any] | None = None,
    gamma: float = 1.0,
    max_steps: int = MAX_STEPS,
    deterministic: bool = True,
    watch: Watch | None = None,
) -> tuple[Floats, Floats]:
    """Return the returns [n] and lengths [n] of the first episode of each row.

    Args:
        policy: an agent or other policy; None: uniform actions.
        env: a vector environment on the host; it is seeded.
        seed: seeds the environment, all of it or row by row, and uniform actions.
        options: what the environment is reset with.
        gamma: discount of the returns.
        max_steps: longest episode; one that is cut there counts with what it had by then, and is warned of.
        deterministic: whether the policy's deterministic actions are taken, or drawn ones.
        watch: called after every step.

    Raises:
        ValueError: if ``max_steps`` is not positive.
    """
    check_limit(max_steps)
    mode = AutoresetMode(env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP))
    obs, _ = env.reset(seed=seed, options=options)  # type: ignore[arg-type]
    if policy is None:
        env.action_space.seed(seed[0] if isinstance(seed, list) else int(seed))
    returns, lengths = np.zeros(env.num_envs), np.zeros(env.num_envs)
    going, weight, steps = np.ones(env.num_envs, dtype=bool), 1.0, 0
    ended, state, recurrent = ~going, None, isinstance(policy, Agent) and policy.keeps_state
    while going.any() and steps < max_steps:  # rows that ended go on into episodes that do not count
        if mode is AutoresetMode.DISABLED and ended.any():
            obs, _ = env.reset(options={"reset_mask": ended})
        if recurrent:
            assert isinstance(policy, Agent)
            actions, state = policy.predict(obs, state, ended, deterministic=deterministic)
        else:
            actions = env.action_space.sample() if policy is None else _actions(policy, obs, deterministic)
        obs, rewards, terminations, truncations, infos = env.step(actions)
        if watch is not None:
            watch(actions, obs, infos, going)
        returns += weight * rewards * going
        lengths += going
        weight, steps = weight * gamma, steps + 1
        ended = terminations | truncations
        going &= ~ended
    if going.any():
        warn_of_cut(env, max_steps)
    return returns, lengths


def _actions(policy: Policy, obs: Any, deterministic: bool) -> Any:
    """Return actions for observations on the host, on the host."""
    with torch.no_grad():
        seen = map_obs(partial(tensor_on, policy.device), obs)
        return policy.act(seen, deterministic=deterministic).cpu().numpy()


def check_limit(max_steps: int) -> None:
    """Raise ValueError unless a limit of steps is positive."""
    if max_steps < 1:
        raise ValueError(f"max_steps is {max_steps}; it must be at least 1")


def warn_of_cut(env: Any, max_steps: int) -> None:
    """Warn that an episode was cut.

    There are environments that a policy can stay in for ever, as before a wall in a maze without a time
    limit.
    """
    spec = getattr(env, "spec", None)
    name = "the environment" if spec is None else spec.id
    warnings.warn(
        f"an episode of an evaluation in {name} was cut after {max_steps:,} steps (max_steps): it may never "
        "end, and counts with what it had by then; give the environment a time limit, as in "
        "gymnasium.make(..., max_episode_steps=500), or --env.max_episode_steps 500",
        stacklevel=3,
    )


def scaled_return(agent: Agent, env: gym.Env[Any, Any], gamma: float = 0.999) -> float | None:
    """Return (J - J_uniform) / (J_optimal - J_uniform) of the deterministic policy, computed exactly.

    J is the mean true value over the start distribution (Knox et al. 2022, arXiv 2206.02231): 1 is optimal,
    0 as good as uniform actions.

    Args:
        agent: an agent with Discrete observations and actions.
        env: its environment.
        gamma: discount of the values.

    Returns:
        The scaled return; None where the environment has no ``tabular_model``, or every policy is as good.
    """
    if not hasattr(env.unwrapped, "tabular_model"):
        return None
    model = env.unwrapped.tabular_model()
    num_states, num_actions, _ = model.successors.shape
    with torch.no_grad():
        greedy = agent.act(torch.arange(num_states, device=agent.device), deterministic=True).cpu().numpy()
    uniform = np.full((num_states, num_actions), 1.0 / num_actions)
    achieved = model.start @ model.true_value(np.eye(num_actions)[greedy], gamma)
    worst = model.start @ model.true_value(uniform, gamma)
    best = model.start @ model.optimal_value(gamma)
    return float((achieved - worst) / (best - worst)) if best - worst > 1e-9 else None
