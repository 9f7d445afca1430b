"""How far a policy of soft values is from the exact soft optimum, and how often it succeeds."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from prefrl.agents.value_based.oreo import OREO
from prefrl.functional.value_based.soft_bellman import soft_value_iteration
from prefrl.tabular import TabularMDP, action_values, mean_start_value, optimal_policy

from .policies import GAMMA, has_table

SUCCESSES = ("success", "goal")
"""Features of a model's transitions that count as success: each is met once, at an episode's end."""

MAX_STEPS = 1_000
"""Steps within which success is looked for in an environment without a limit."""


def soft_outcome(agent: OREO, env: Any) -> dict[str, Any]:
    """Return what is known exactly, where the environment knows a table of its model; else None of each.

    Args:
        agent: has learned.
        env: a scalar environment; the limit of its episodes is that of success.

    Returns:
        ``optimal_value`` of the best policy from the start (undiscounted in an environment of sequences, else
        at a discount of .999); ``policy_error``, the largest difference of a probability to that of the soft
        optimum for the agent's beta and reference, over states that are not terminal (None where going round
        in circles pays); ``success_rate`` of the deterministic policy, where there is such a thing.
    """
    found: dict[str, Any] = {"optimal_value": None, "policy_error": None}
    if not has_table(env):
        return found
    mdp, task = TabularMDP.from_env(env), env.unwrapped
    rewards = mdp.linear_rewards(mdp.weights)
    if hasattr(task, "sequence_log_probs"):
        found["optimal_value"] = float(task.tabular_model().start @ task.optimal_value())
    else:
        best = optimal_policy(mdp, rewards, GAMMA)[0]
        found["optimal_value"] = float(mean_start_value(mdp, best)[0])
    found["policy_error"] = policy_error(agent, mdp)
    names = task.tabular_model().feature_names
    wanted = [name for name in SUCCESSES if name in names]
    if wanted:
        states = torch.arange(mdp.num_states, device=agent.device)
        first = int(agent.action_space.start)
        chosen = agent.act(states, deterministic=True).cpu() - first
        policy = torch.nn.functional.one_hot(chosen, mdp.num_actions).double()
        limit = getattr(env.spec, "max_episode_steps", None) or MAX_STEPS
        found["success_rate"] = success_rate(mdp, policy, names.index(wanted[0]), limit)
    return found


def policy_error(agent: OREO, mdp: TabularMDP) -> float | None:
    """Return the largest |pi - pi*| in states that are not terminal; None where there is no soft optimum."""
    log_policy, _ = agent.tables()
    log_reference = agent.tables(agent.reference)[0].cpu()
    try:
        _, log_best = soft_value_iteration(
            mdp.successors[0], mdp.probabilities[0], mdp.linear_rewards(mdp.weights)[0], mdp.terminal[0],
            log_reference, agent.config.beta, max_sweeps=10_000,
        )  # fmt: skip
    except RuntimeError:
        return None
    return float((log_policy.cpu().exp() - log_best.exp())[~mdp.terminal[0]].abs().max())


def success_rate(mdp: TabularMDP, policy: Tensor, feature: int, steps: int) -> float:
    """Return the probability that a policy meets a feature within a number of steps, from the start.

    Args:
        mdp: one MDP, in which the feature is met once at most.
        policy: [S, A].
        feature: its column.
        steps: of an episode.
    """
    met, rate = mdp.expected_features[..., feature], torch.zeros_like(mdp.start)
    for _ in range(steps):
        rate = (policy * action_values(mdp, rate, met, 1.0)).sum(-1)
    return float(mean_start_value(mdp, rate)[0])
