"""How good a trained agent is: by episodes, and exactly where the environment's model is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from prefrl.agents.base import Agent
from prefrl.data import map_obs

from .stepping import Policy

Floats = NDArray[np.float64]


MAX_STEPS = 50_000
"""Steps after which an episode is taken to be one that never ends, unless told otherwise."""


def evaluate(
    agent: Agent, env: gym.Env[Any, Any], *, episodes: int, seed: int, max_steps: int = MAX_STEPS
) -> dict[str, float]:
    """Return undiscounted return and length of the deterministic policy, by SB3's ``evaluate_policy``.

    Args:
        agent: the agent.
        env: a scalar environment; it is seeded.
        episodes: number of episodes.
        seed: seeds the environment.
        max_steps: longest episode.

    Returns:
        ``mean_return``, ``std_return``, ``mean_length``, ``episodes``.

    Raises:
        ValueError: if ``episodes`` is not positive, or an episode is not over after ``max_steps`` steps.
    """
    if episodes < 1:
        raise ValueError(f"episodes is {episodes}; it must be at least 1")
    rows = DummyVecEnv([lambda: Monitor(env)])
    rows.seed(seed)

    def watch(local: dict[str, Any], _: Any) -> None:
        refuse_endless(env, int(local["current_lengths"].max()) - 1, max_steps)  # this step is done

    returns, lengths = evaluate_policy(
        agent, rows, n_eval_episodes=episodes, return_episode_rewards=True, callback=watch
    )
    return {
        "mean_return": float(np.mean(returns)),
        "std_return": float(np.std(returns)),
        "mean_length": float(np.mean(lengths)),
        "episodes": episodes,
    }


@dataclass(frozen=True)
class Evaluation:
    """Evaluates the deterministic policy during a run, all episodes at once; leaves no trace in the run."""

    env: gym.vector.VectorEnv[Any, Any, Any]
    """One row per episode, on the host; not the one that is learned in."""

    every: int
    """Timesteps between two evaluations; there is one at the end too."""

    seed: int
    """Seeds the episodes, together with the number of the evaluation."""

    def run(self, agent: Agent, index: int) -> dict[str, float]:
        """Return the results of the evaluation number ``index``; see :func:`evaluate_rows`."""
        seed = int(np.random.SeedSequence([self.seed, 2, index]).generate_state(1)[0])
        return evaluate_rows(agent, self.env, seed=seed)


def evaluate_rows(
    agent: Agent, env: gym.vector.VectorEnv[Any, Any, Any], *, seed: int, max_steps: int = MAX_STEPS
) -> dict[str, float]:
    """Return undiscounted return and length of the deterministic policy, one episode per row.

    Args:
        agent: the agent.
        env: a vector environment on the host; it is seeded.
        seed: seeds the environment.
        max_steps: longest episode.

    Returns:
        ``mean_return``, ``std_return``, ``mean_length``, ``episodes``.

    Raises:
        ValueError: if an episode is not over after ``max_steps`` steps.
    """
    returns, lengths = rollout(agent, env, seed=seed, max_steps=max_steps)
    return {
        "mean_return": float(returns.mean()),
        "std_return": float(returns.std()),
        "mean_length": float(lengths.mean()),
        "episodes": env.num_envs,
    }


def rollout(
    policy: Policy | None,
    env: gym.vector.VectorEnv[Any, Any, Any],
    *,
    seed: int,
    options: dict[str, Any] | None = None,
    gamma: float = 1.0,
    max_steps: int = MAX_STEPS,
) -> tuple[Floats, Floats]:
    """Return the returns [n] and lengths [n] of the first episode of each row.

    Args:
        policy: an agent or other policy, whose deterministic actions are taken; None: uniform actions.
        env: a vector environment on the host; it is seeded.
        seed: seeds the environment, and uniform actions.
        options: what the environment is reset with.
        gamma: discount of the returns.
        max_steps: longest episode.

    Raises:
        ValueError: if an episode is not over after ``max_steps`` steps.
    """
    obs, _ = env.reset(seed=seed, options=options)
    if policy is None:
        env.action_space.seed(seed)
    returns, lengths = np.zeros(env.num_envs), np.zeros(env.num_envs)
    going, weight, steps = np.ones(env.num_envs, dtype=bool), 1.0, 0
    while going.any():  # rows that ended go on into episodes that do not count
        refuse_endless(env, steps, max_steps)
        actions = env.action_space.sample() if policy is None else _actions(policy, obs)
        obs, rewards, terminations, truncations, _ = env.step(actions)
        returns += weight * rewards * going
        lengths += going
        weight, steps = weight * gamma, steps + 1
        going &= ~(terminations | truncations)
    return returns, lengths


def _actions(policy: Policy, obs: Any) -> Any:
    """Return deterministic actions for observations on the host, on the host."""
    with torch.no_grad():
        seen = map_obs(lambda values: torch.as_tensor(values, device=policy.device), obs)
        return policy.act(seen, deterministic=True).cpu().numpy()


def refuse_endless(env: Any, steps: int, max_steps: int) -> None:
    """Raise ValueError for an episode that is not over after ``max_steps`` steps.

    There are environments that a policy can stay in for ever, as before a wall in a maze without a time
    limit; a mean over episodes that are cut somewhere would be no mean return.
    """
    if steps < max_steps:
        return
    spec = getattr(env, "spec", None)
    name = "the environment" if spec is None else spec.id
    raise ValueError(f"an episode in {name} is not over after {max_steps:,} steps, and may never end: give "
                     "the environment a time limit (--env.max_episode_steps 500), or a larger "
                     "max_steps")  # fmt: skip


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
