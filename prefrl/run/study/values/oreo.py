"""What OREO promises, measured: exact residuals, the soft optimum, failures that teach, values that guide."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import torch
from torch import Tensor

import prefrl.envs
from prefrl.agents.value_based.oreo import OREO, OREOConfig
from prefrl.agents.value_based.whole_episodes import whole_episodes
from prefrl.data import TransitionDataset
from prefrl.functional.value_based.soft_bellman import (
    one_step_residuals,
    policy_residuals,
    soft_value_iteration,
    to_go,
    value_residuals,
)
from prefrl.run.collect import collect_episodes
from prefrl.run.outcomes.soft_values import policy_error, success_rate
from prefrl.run.study.claims import Claim
from prefrl.tabular import TabularMDP, value_iteration

assert prefrl.envs.REGISTRY

TREE, BOARD = "prefrl/TokenTree-v0", "prefrl/Delivery-v0"
BOARD_STEPS = 20
"""Steps of an episode on the board, in which a tenth of random episodes reach the goal."""


def learned(env: Any, data: TransitionDataset, steps: int, seed: int, **settings: Any) -> OREO:
    """Return an agent after so many gradient steps."""
    agent = OREO(env, OREOConfig(**settings), data, device="cpu", seed=seed)
    for _ in range(steps):
        agent.update()
    return agent


def greedy(table: Tensor) -> Tensor:
    """Return the policy [S, A] that takes what is largest in a table [S, A], evenly what is equally large."""
    largest = (table == table.amax(-1, keepdim=True)).to(table.dtype)
    return largest / largest.sum(-1, keepdim=True)


def residuals(seed: int) -> dict[str, float]:
    """Largest residuals at the soft optimum of a random tree and of the board, by form."""
    found = dict.fromkeys(("trajectory", "step", "response", "one_step"), 0.0)
    for env, beta in ((gym.make(TREE, layout_seed=seed), 0.03), (gym.make(BOARD), 1.0)):
        mdp = TabularMDP.from_env(env)
        rewards = mdp.linear_rewards(mdp.weights)[0]
        even = torch.full_like(rewards, 1.0 / mdp.num_actions).log()
        values, log_policy = soft_value_iteration(
            mdp.successors[0],
            mdp.probabilities[0],
            rewards,
            mdp.terminal[0],
            even,
            beta,
            tolerance=1e-15,
        )
        rows = gym.make_vec(env.spec.id, 200, **env.spec.kwargs)  # type: ignore[union-attr]
        data = whole_episodes(collect_episodes(None, rows, seed=seed), env.action_space)
        here, end = values[data.obs[:, :-1]], torch.where(data.cut, values[data.obs[:, -1]], 0.0)
        ratios = torch.where(data.mask, (log_policy - even)[data.obs[:, :-1], data.actions], 0.0)
        returns = to_go(data.rewards.double()) + end[:, None]
        after = values[data.obs[:, 1:]]
        each = {
            "trajectory": value_residuals(here, returns, ratios, beta),
            "step": policy_residuals(here, returns, ratios, beta, 2),
            "response": policy_residuals(here, returns, ratios, beta, None),
            "one_step": one_step_residuals(here, data.rewards.double(), after, ratios, beta),
        }
        for form, numbers in each.items():
            found[form] = max(found[form], float(numbers[data.mask].abs().max()))
    return found


def optima(seed: int) -> dict[str, float]:
    """Max |pi - pi*| from 2,000 random episodes of a tree of 3^4 sequences, by form and kappa."""
    env = gym.make(TREE, layout_seed=seed)
    data = collect_episodes(None, gym.make_vec(TREE, 2_000, layout_seed=seed), seed=seed)
    mdp, found = TabularMDP.from_env(env), {}
    for form in ("trajectory", "step", "response", "one_step"):
        steps = 1_500 if form == "response" else 600  # which learns from one residual of an episode
        agent = learned(env, data, steps, seed, form=form, kappa=0.0)
        found[form] = policy_error(agent, mdp) or 0.0
    agent = learned(env, data, 600, seed)
    found["kappa_.01"] = policy_error(agent, mdp) or 0.0
    task: Any = env.unwrapped
    policy, start = agent.tables()[0].exp().numpy(), task.tabular_model().start
    found["kappa_.01_value_short"] = float(start @ (task.optimal_value() - task.true_value(policy)))
    return found


def cloned(data: TransitionDataset, mdp: TabularMDP, chosen: Tensor) -> Tensor:
    """Return the likeliest policy [S, A] of transitions [N], even where none of them was."""
    pair = (data.obs * mdp.num_actions + data.actions)[chosen]
    counts = pair.bincount(minlength=mdp.num_states * mdp.num_actions).view(mdp.num_states, -1).double()
    seen = counts.sum(-1, keepdim=True)
    return torch.where(seen > 0.0, counts / seen.clamp(min=1.0), 1.0 / mdp.num_actions)


def planned(data: TransitionDataset, mdp: TabularMDP) -> Tensor:
    """Return the greedy policy [S, A] of the data's own model, in which what was not done is not there.

    What Q-learning on the data comes to in tables.
    """
    seen = torch.zeros(mdp.num_states, mdp.num_actions, dtype=torch.bool)
    seen[data.obs, data.actions] = True
    rewards = torch.where(seen, mdp.linear_rewards(mdp.weights)[0], -1e3)
    return greedy(rewards + 0.999 * _next(mdp, value_iteration(mdp, rewards[None], 0.999)[0]))


def _next(mdp: TabularMDP, values: Tensor) -> Tensor:
    """Return the values [S, A] of where actions lead, on a deterministic board."""
    return values.masked_fill(mdp.terminal[0], 0.0)[mdp.successors[0, :, :, 0]]


def successes(seed: int) -> dict[str, float]:
    """Shares of starts from which the goal is reached in 20 steps, from 500 and from 100 random episodes."""
    env = gym.make(BOARD, max_episode_steps=BOARD_STEPS)
    mdp, found = TabularMDP.from_env(env), {}
    goal = env.unwrapped.tabular_model().feature_names.index("goal")  # type: ignore[attr-defined]
    for episodes in (500, 100):
        rows = gym.make_vec(BOARD, episodes, max_episode_steps=BOARD_STEPS)
        data = collect_episodes(None, rows, seed=seed)
        last = torch.nonzero(~data.has_next_action)[:, 0]
        good = data.rewards[last] == mdp.weights[0, goal]
        clones = cloned(data, mdp, good[torch.searchsorted(last, torch.arange(len(data)))])
        agent = learned(env, data, 800, seed, beta=1.0, kappa=0.0, learning_rate=0.5)
        policy = agent.tables()[0].exp()
        each = {
            "oreo": greedy(policy),
            "oreo_drawn": policy,
            "cloning": greedy(clones),
            "cloning_drawn": clones,
            "q_learning": planned(data, mdp),
        }
        found[f"data_{episodes}"] = float(good.double().mean())
        found |= {
            f"{name}_{episodes}": success_rate(mdp, table, goal, BOARD_STEPS) for name, table in each.items()
        }
    return found


def beams(seed: int) -> dict[str, float]:
    """Returns, less the best, of greedy actions and of beams of 4 in a tree of 3^6.

    After little data, or few gradient steps. Beams look to the end, or two steps ahead (short). The search
    knows the rewards on its way; ``no_values`` searches by these alone.
    """
    given: dict[str, Any] = {"depth": 6, "layout_seed": seed}
    env = gym.make(TREE, **given)
    task: Any = env.unwrapped
    start, best = task.tabular_model().start, task.optimal_value()
    found: dict[str, float] = {}
    kinds = {"greedy": (1, 1, True), "beam": (4, 6, True), "beam_no_values": (4, 6, False),
             "short_beam": (4, 2, True), "short_beam_no_values": (4, 2, False)}  # fmt: skip
    for name, episodes, steps in (("few_data", 200, 600), ("few_steps", 2_000, 20)):
        data = collect_episodes(None, gym.make_vec(TREE, episodes, **given), seed=seed)
        agent = learned(env, data, steps, seed)
        for kind, (width, depth, valued) in kinds.items():
            searching = OREO(env, OREOConfig(beam=width, beam_depth=depth), device="cpu", seed=seed)
            searching.load_state_dict(agent.state_dict())
            if not valued:
                searching.network.table.data.zero_()
            chosen = searching.act(torch.arange(len(start)), deterministic=True)
            policy = torch.nn.functional.one_hot(chosen, 3).double().numpy()
            found[f"{name}_{kind}"] = float(start @ (task.true_value(policy) - best))
    return found


CLAIMS: Mapping[str, Claim] = {
    "oreo_residual": Claim(
        "residuals of every form are below 1e-10 at the soft optimum, on trees and on the board",
        residuals,
        lambda n: all(each.max() < 1e-10 for each in n.values()),
    ),
    "oreo_optimum": Claim(
        "max |pi - pi*| < .02 in every form, beta .03 and kappa 0, from random episodes of the 3^4 tree",
        optima,
        lambda n: all(n[form].max() < 0.02 for form in ("trajectory", "step", "response", "one_step")),
    ),
    "oreo_success": Claim(
        "success at least 10 points above cloning the episodes that succeed, of which there are a tenth "
        "(greedy and drawn actions, 500 episodes, every seed)",
        successes,
        lambda n: (
            (n["oreo_500"] - n["cloning_500"]).min() >= 0.1
            and (n["oreo_drawn_500"] - n["cloning_drawn_500"]).min() >= 0.1
        ),
    ),
    "oreo_beam": Claim(
        "a beam of 4 is no worse on average than greedy actions, to the end and two steps deep (return less "
        "the best)",
        beams,
        lambda n: all(
            n[f"{name}_{kind}"].mean() >= n[f"{name}_greedy"].mean()
            for name in ("few_data", "few_steps")
            for kind in ("beam", "short_beam")
        ),
    ),
}
"""Claims of OREO by name."""
