"""What can be known of a policy in a small environment: its value, where it moved to."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from prefrl.agents.preferences.brain import BRAIn
from prefrl.agents.preferences.preference_optimization import PreferenceOptimization
from prefrl.agents.preferences.search_preferences import SearchPreferences
from prefrl.tabular import TabularMDP, mean_start_value, optimal_policy, policy_evaluation
from prefrl.tabular.preference_optima import population_minimiser

GAMMA = 0.999
"""Discount of values in environments that may go on for ever."""

MINIMISERS = {
    "dpo": "dpo", "dno": "dpo", "mcts": "dpo", "conservative_dpo": "conservative_dpo", "ipo": "ipo",
    "robust_dpo": "robust_dpo", "simpo": "simpo", "cpl": "cpl", "power": "power", "vpo": "vpo",
    "inpo": "inpo",
}  # fmt: skip
"""Losses whose minimiser is known, and what it is called where it is worked out. With labels as they are
given DNO is DPO within a round, and steps before two sequences part cancel in a difference of DPO's."""


def has_table(env: Any) -> bool:
    """Whether an environment knows a table of its model, and shows and takes its states and actions.

    Some that know one show something else: vectors, or what a wrapper makes of states.
    """
    spaces = env.observation_space, env.action_space
    return hasattr(getattr(env, "unwrapped", env), "tabular_model") and all(
        isinstance(space, gym.spaces.Discrete) for space in spaces
    )


def tabular_outcome(
    agent: PreferenceOptimization, env: Any, label_noise: float, *, exact: bool
) -> dict[str, Any]:
    """Return what is known exactly of the first learner's policy in an environment with a table of its model.

    Args:
        agent: has learned.
        env: the environment.
        label_noise: share of labels that was turned round.
        exact: whether the comparisons were all pairs of sequences with exact probabilities, so that the
            loss's minimiser is known too.

    Returns:
        ``value`` and ``optimal_value`` from the start, undiscounted in an environment of sequences; there
        also ``kl_to_reference``, in nats per sequence; and ``policy_error``, the largest difference of the
        probability of a sequence to that under the minimiser (None where it is not known).
    """
    task = getattr(env, "unwrapped", env)
    policy = agent.policy_table()[0]
    if not hasattr(task, "sequence_log_probs"):
        mdp = TabularMDP.from_env(env)
        rewards = mdp.linear_rewards(mdp.weights)
        values = policy_evaluation(mdp, policy[None].cpu(), rewards, GAMMA)
        best = optimal_policy(mdp, rewards, GAMMA)[0]
        value, optimal = (float(mean_start_value(mdp, each)[0]) for each in (values, best))
        return {"value": value, "optimal_value": optimal, "policy_error": None}
    assert agent.reference is not None
    base = agent.policy_table(agent.reference)[0]
    wanted = None
    if exact:
        reference = task.sequence_log_probs(base.cpu().numpy())
        wanted = minimiser(agent, task, reference, label_noise)
    return sequence_outcome(task, policy, base, wanted)


def posterior_outcome(agent: BRAIn, env: Any) -> dict[str, Any]:
    """Return the same of BRAIn's policy in a task of sequences, whose posterior is the soft optimum."""
    task = getattr(env, "unwrapped", env)
    base = agent.policy_table(agent.reference)
    optimum = task.soft_optimum(agent.config.temperature, base.cpu().numpy())
    return sequence_outcome(task, agent.policy_table(), base, optimum.log_probs)


def sequence_outcome(task: Any, policy: Tensor, reference: Tensor, wanted: Any | None) -> dict[str, Any]:
    """Return what is known exactly of a policy [S, A] in a task of sequences; see :func:`tabular_outcome`.

    Args:
        task: the environment, unwrapped.
        policy: [S, A].
        reference: [S, A].
        wanted: [P, K] log-probabilities of sequences to compare with, if they are known.
    """
    table, starts = policy.cpu().numpy(), task.tabular_model().start
    log_probs, base = (task.sequence_log_probs(each.cpu().numpy()) for each in (policy, reference))
    probs = np.exp(log_probs)
    return {
        "value": float(starts @ task.true_value(table)),
        "optimal_value": float(starts @ task.optimal_value()),
        "kl_to_reference": float((probs * np.where(probs > 0, log_probs - base, 0.0)).sum(-1).mean()),
        "policy_error": None if wanted is None else float(np.abs(probs - np.exp(wanted)).max()),
    }


def minimiser(agent: PreferenceOptimization, task: Any, base: Any, label_noise: float) -> Any | None:
    """Return the log-probabilities [P, K] of sequences at the minimum of the agent's loss over all pairs.

    None where it has none, or none that is known: a bias of the side that is not preferred (CPL), optimism
    (VPO with sign 1), more than one round, clipping, hinges and odds.
    """
    config, row = agent.config, agent.config.row
    settings = {**row.settings, **config.of_row}
    name = MINIMISERS.get(config.loss)
    several = config.round_steps is not None and config.loss in ("dno", "upo", "inpo")
    if name is None or several or settings.get("bias", 1.0) != 1.0 or settings.get("gamma", 1.0) != 1.0:
        return None
    if settings.get("sign", -1.0) == 1.0:
        return None
    beta = config.beta[0] if isinstance(config.beta, tuple) else config.beta or row.beta
    given: dict[str, Any] = {}
    if config.loss == "inpo":
        share = settings["reference_share"]
        if not share:
            return None
        beta, given = beta * share, {"eta": beta}
    for mine, theirs in (("epsilon", "epsilon"), ("margin", "margin"), ("strength", "strength")):
        if mine in settings:
            given[theirs] = settings[mine]
    found = population_minimiser(
        name, task.preference_matrix(), np.exp(base), beta, length=float(task.sequences().shape[1]),
        label_noise=label_noise, **given,
    )  # fmt: skip
    return None if found is None else torch.as_tensor(found).numpy()


def searched_outcome(agent: SearchPreferences, env: Any) -> dict[str, Any]:
    """Return what is known exactly of a policy that learned from searches.

    Returns:
        ``value`` and ``optimal_value`` from the start, discounted as in :func:`tabular_outcome` where
        episodes may go on for ever; ``policy_error``, what the policy falls short of the best;
        ``success_rate``, the probability to succeed within the time limit, where the environment knows it.
    """
    task = getattr(env, "unwrapped", env)
    found = {**tabular_outcome(agent, env, 0.0, exact=False), "success_rate": None}
    found["policy_error"] = found["optimal_value"] - found["value"]
    if hasattr(task, "success_rate"):
        limit = getattr(env.spec, "max_episode_steps", None)
        found["success_rate"] = task.success_rate(agent.policy_table()[0].cpu().numpy(), limit or 1)
    return found
