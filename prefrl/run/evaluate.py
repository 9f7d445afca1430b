"""How good a trained agent is: by episodes, and exactly where the environment's model is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from prefrl.agents.base import Agent
from prefrl.data import map_obs


def evaluate(agent: Agent, env: gym.Env[Any, Any], *, episodes: int, seed: int) -> dict[str, float]:
    """Return undiscounted return and length of the deterministic policy, by SB3's ``evaluate_policy``.

    Args:
        agent: the agent.
        env: a scalar environment; it is seeded.
        episodes: number of episodes.
        seed: seeds the environment.

    Returns:
        ``mean_return``, ``std_return``, ``mean_length``, ``episodes``.

    Raises:
        ValueError: if ``episodes`` is not positive.
    """
    if episodes < 1:
        raise ValueError(f"episodes is {episodes}; it must be at least 1")
    rows = DummyVecEnv([lambda: Monitor(env)])
    rows.seed(seed)
    returns, lengths = evaluate_policy(agent, rows, n_eval_episodes=episodes, return_episode_rewards=True)
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


def evaluate_rows(agent: Agent, env: gym.vector.VectorEnv[Any, Any, Any], *, seed: int) -> dict[str, float]:
    """Return undiscounted return and length of the deterministic policy, one episode per row.

    Args:
        agent: the agent.
        env: a vector environment on the host; it is seeded.
        seed: seeds the environment.

    Returns:
        ``mean_return``, ``std_return``, ``mean_length``, ``episodes``.
    """
    obs, _ = env.reset(seed=seed)
    returns, lengths = np.zeros(env.num_envs), np.zeros(env.num_envs)
    going = np.ones(env.num_envs, dtype=bool)
    while going.any():  # rows that ended go on into episodes that do not count
        with torch.no_grad():
            seen = map_obs(lambda values: torch.as_tensor(values, device=agent.device), obs)
            actions = agent.act(seen, deterministic=True)
        obs, rewards, terminations, truncations, _ = env.step(actions.cpu().numpy())
        returns += rewards * going
        lengths += going
        going &= ~(terminations | truncations)
    return {
        "mean_return": float(returns.mean()),
        "std_return": float(returns.std()),
        "mean_length": float(lengths.mean()),
        "episodes": env.num_envs,
    }


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
