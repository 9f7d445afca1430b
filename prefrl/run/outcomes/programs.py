"""What an agent that writes programs made of what it started from: exact rates of success, and re-ranking."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from prefrl.agents.value_based.b_coder import BCoder, Successors
from prefrl.data import Segments
from prefrl.nn.likelihood_policies import DiscretePolicy

CANDIDATES = 8
"""Programs of which re-ranking takes one."""

GROUPS = 64
"""Such choices after each prompt."""

RERANKED: Mapping[str, Successors] = {
    "rerank_success_rate": "value", "inverse_rerank_success_rate": "policy"
}  # fmt: skip
"""By which recovered reward; see :meth:`BCoder.recovered_returns`."""

Floats = NDArray[np.float64]


@torch.no_grad()
def policy_table(policy: DiscretePolicy, task: Any, device: torch.device, *, greedy: bool = False) -> Floats:
    """Return a policy's probabilities [S, A], or those of its likeliest words; even where all is decided.

    Args:
        policy: of one learner.
        task: the environment of programs, unwrapped.
        device: where the policy is.
        greedy: whether only the likeliest word is taken.
    """
    states, words = task.decision_states(), int(task.action_space.n)
    obs = torch.as_tensor(task.observations(states)).to(device)
    logits = torch.cat([policy.logits(part[None])[0] for part in torch.split(obs, 8_192)]).double()
    chances = torch.nn.functional.one_hot(logits.argmax(-1), words) if greedy else torch.softmax(logits, -1)
    table = np.full((len(task.optimal_value()), words), 1.0 / words)
    table[states] = chances.cpu().numpy()
    return table


def program_segments(task: Any, prompts: Any, nodes: Any) -> Segments:
    """Return complete programs as segments, padded.

    Args:
        task: the environment, unwrapped.
        prompts: [M].
        nodes: [M] of the programs.
    """
    written = task.written(prompts, nodes)
    lengths = torch.as_tensor(written.lengths)
    actions = torch.as_tensor(written.actions)
    inside = torch.arange(actions.shape[1]) < lengths[:, None]
    return Segments(torch.as_tensor(written.obs), torch.where(inside, actions, 0), lengths,
                    torch.ones_like(lengths, dtype=torch.bool))  # fmt: skip


def success_rates(agent: BCoder, task: Any) -> dict[str, float]:
    """Return the exact probabilities of success, greedy and drawn, of the policy and of the one before.

    Args:
        agent: the agent.
        task: the environment of programs, unwrapped.
    """
    found = {}
    for name, policy in (("", agent.network.policy), ("pretrained_", agent.pretrained)):
        for kind, greedy in (("", True), ("sampled_", False)):
            table = policy_table(policy, task, agent.device, greedy=greedy)
            found[f"{name}{kind}success_rate"] = float(task.success_rate(table).mean())
    return found


def reranked(agent: BCoder, task: Any, policy: DiscretePolicy, seed: int) -> dict[str, float]:
    """Return how often the best of some candidates by the recovered reward passes, and a random one.

    Candidates are drawn from a policy, :data:`CANDIDATES` at a time, :data:`GROUPS` times after each prompt.
    A random one is right as often as candidates are on average; none is better than any right one.

    Args:
        agent: whose recovered reward ranks.
        task: the environment of programs, unwrapped.
        policy: what the candidates come from.
        seed: of the candidates.
    """
    prompts = np.repeat(np.arange(task.num_prompts), GROUPS * CANDIDATES)
    nodes = task.policy_programs(policy_table(policy, task, agent.device), prompts, seed)
    candidates = program_segments(task, prompts, nodes)
    right = (task.passed()[prompts, nodes] == 1.0).reshape(-1, CANDIDATES)
    found = {}
    for name, successors in RERANKED.items():
        scores = agent.recovered_returns(candidates, successors).cpu().numpy()
        best = scores.reshape(-1, CANDIDATES).argmax(-1)
        found[name] = float(right[np.arange(len(right)), best].mean())
    return {
        **found,
        "random_success_rate": float(right.mean()),
        "any_success_rate": float(right.any(-1).mean()),
    }


def exact_outcome(agent: BCoder, task: Any) -> dict[str, float | None]:
    """Return the best value over starts, and what the greedy policy falls short of it.

    Args:
        agent: the agent.
        task: its environment, unwrapped.

    Returns:
        ``optimal_value``, None where nobody knows it; ``policy_error``, None unless states are observed as
        numbers too.
    """
    if not (hasattr(task, "optimal_value") and hasattr(task, "tabular_model")):
        return {"optimal_value": None, "policy_error": None}
    start, best = task.tabular_model().start, task.optimal_value()
    error = None
    if isinstance(agent.observation_space, gym.spaces.Discrete):
        states = torch.split(torch.arange(len(best), device=agent.device), 1_024)
        taken = torch.cat([agent.act(part, deterministic=True) for part in states]).cpu()
        policy = torch.nn.functional.one_hot(taken, int(task.action_space.n)).double()
        error = float(start @ (best - task.true_value(policy.numpy())))
    return {"optimal_value": float(start @ best), "policy_error": error}


def program_outcome(agent: BCoder, env: Any, seed: int) -> dict[str, Any]:
    """Return rates of success before and after learning, and of re-ranking candidates of both policies.

    They are None in an environment that has no programs. With them comes what :func:`exact_outcome` says.
    """
    task = getattr(env, "unwrapped", env)
    exact = exact_outcome(agent, task)
    if not hasattr(task, "policy_programs"):
        kinds = [f"{kind}_success_rate" for kind in ("sampled", "random", "any")]
        rates = ["success_rate", *kinds, *RERANKED]
        return {
            **exact,
            **dict.fromkeys([f"{which}{rate}" for which in ("", "pretrained_") for rate in rates]),
        }
    own = reranked(agent, task, agent.network.policy, seed)
    before = reranked(agent, task, agent.pretrained, seed)
    before = {f"pretrained_{name}": number for name, number in before.items()}
    return {**exact, **success_rates(agent, task), **own, **before}
