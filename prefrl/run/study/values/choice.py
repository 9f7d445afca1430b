"""What dynamic choice promises, measured: rates, bounded rationality, pessimism, myopia and anchors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

import prefrl.envs
from prefrl.functional.choice.dynamic_choice import (
    ValueKind,
    anchored,
    bellman_rewards,
    choice_values,
    indicator_features,
    optimal_plan,
    pessimistic_plan,
    policy_values,
)
from prefrl.functional.choice.maxent_irl import empirical_transitions, maxent_rewards
from prefrl.run.plot import save_figure
from prefrl.run.study.claims import Claim

assert prefrl.envs.REGISTRY

CHOICE_RIDGE = 1e-3
SIZES = (1_000, 10_000, 100_000, 1_000_000)
"""Numbers of choices of the rate."""

TEMPTATIONS = 20
"""States in which an action tempts that people hardly ever take."""


def draw_moves(policy: Tensor, transitions: Tensor, episodes: int, rng: np.random.Generator) -> Tensor:
    """Return how often each state followed each pair [H, S, A, S] in episodes that start evenly.

    Args:
        policy: [H, S, A].
        transitions: [S, A, S].
        episodes: how many.
        rng: of the draws.
    """
    horizon, states, actions = policy.shape
    moves = np.zeros((horizon, states, actions, states))
    here = rng.multinomial(episodes, np.full(states, 1.0 / states))
    for h in range(horizon):
        chosen = rng.multinomial(here, policy[h].numpy())  # [S, A]
        moves[h] = rng.multinomial(chosen, transitions.numpy())
        here = moves[h].sum((0, 1)).astype(np.int64)
    return torch.as_tensor(moves)


class Task:
    """A registered task with its tables as tensors."""

    def __init__(self, seed: int, gamma: float = 1.0, value: ValueKind = "policy") -> None:
        task = gym.make("prefrl/DynamicChoice-v0", layout_seed=seed, gamma=gamma, value=value).unwrapped
        tables = ("behaviour", "choice_values", "rewards", "transitions")
        self.behaviour, self.q, self.rewards, self.transitions = (
            torch.as_tensor(getattr(task, name)()) for name in tables
        )
        self.reward_range = task.reward_range()  # type: ignore[attr-defined]
        self.best = float(task.optimal_value().mean())  # type: ignore[attr-defined]
        self.phi = indicator_features(*self.q.shape[1:])

    def moves(self, choices: int, rng: np.random.Generator) -> Tensor:
        """Return counts of so many choices."""
        return draw_moves(self.behaviour, self.transitions, choices // len(self.q), rng)

    def short(self, policy: Tensor) -> float:
        """Return what a policy [H, S, A] falls short of the best."""
        return self.best - float(policy_values(policy, self.rewards, self.transitions).mean())


def greedy(q: Tensor) -> Tensor:
    """Return the greedy policy [H, S, A] of values."""
    return torch.nn.functional.one_hot(q.argmax(-1), q.shape[-1]).to(q.dtype)


def rmse(found: Tensor, true: Tensor) -> float:
    """Return the root of the mean squared error."""
    return float((found - true).square().mean().sqrt())


def fitted(
    moves: Tensor, phi: Tensor, gamma: float = 1.0, value: ValueKind = "policy", anchor: int | None = 0
) -> tuple[Tensor, Tensor]:
    """Return Q and r of counts."""
    q = choice_values(moves.sum(-1), phi, anchor, CHOICE_RIDGE)
    return q, bellman_rewards(q, moves, phi, gamma, value, 1.0)


def rates(seed: int) -> dict[str, float]:
    """Slopes of the errors of Q and r against the number of choices, on logarithmic scales (D2)."""
    task, rng = Task(seed), np.random.default_rng(seed)
    errors = [
        [rmse(q, task.q), rmse(rewards, task.rewards)]
        for q, rewards in (fitted(task.moves(n, rng), task.phi) for n in SIZES)
    ]
    slopes = np.polyfit(np.log(SIZES), np.log(errors), 1)[0]
    found = {"q_slope": float(slopes[0]), "reward_slope": float(slopes[1])}
    for size, (q, reward) in zip(SIZES, errors, strict=True):
        found |= {f"q_rmse_{size}": q, f"reward_rmse_{size}": reward}
    return found


def plans(seed: int) -> dict[str, float]:
    """What plans and people fall short of the best after 10,000 choices (D3, baselines)."""
    task, rng = Task(seed), np.random.default_rng(seed)
    moves = task.moves(10_000, rng)
    q, rewards = fitted(moves, task.phi)

    def short(beta: float, given: Tensor) -> float:
        bounds = task.reward_range
        plan = pessimistic_plan(given, moves, task.phi, pessimism=beta, ridge=1.0, reward_range=bounds)
        return task.short(greedy(plan.q))

    irl = maxent_rewards(moves, task.phi).expand_as(q)
    return {
        "dcppo": short(1.0, rewards), "beta_0": short(0.0, rewards), "people": task.short(task.behaviour),
        "cloning": task.short(torch.softmax(q, -1)), "likeliest_choice": task.short(greedy(q)),
        "maxent_irl": task.short(greedy(optimal_plan(irl, empirical_transitions(moves)))),
        "true_reward": short(1.0, task.rewards),
    }  # fmt: skip


def temptation(seed: int) -> dict[str, float]:
    """Pessimism where an action that was seen 0 to 3 times may look good by luck (D4).

    In each of 20 states people may stay (paid nothing, then 1 for sure) or gamble: it costs 4,
    so that myopic people hardly ever do, and leads with probability 1/4 to a state that pays 8, else to one
    that pays nothing. The best policy never gambles (-4 + 2 < 1).
    """
    rng, states = np.random.default_rng(seed), TEMPTATIONS + 2
    prize, nothing = TEMPTATIONS, TEMPTATIONS + 1
    transitions, rewards = torch.zeros(states, 2, states).double(), torch.zeros(2, states, 2).double()
    transitions[:, 0] = torch.eye(states)
    transitions[:TEMPTATIONS, 1, prize], transitions[:TEMPTATIONS, 1, nothing] = 0.25, 0.75
    transitions[prize, 1, prize] = transitions[nothing, 1, nothing] = 1.0
    rewards[0, :, 1] = -4.0
    rewards[1, :TEMPTATIONS] = 1.0
    rewards[1, prize] = 8.0
    # People are myopic (gamma 0), so that Q is r; in a state all actions of the last step are worth the same,
    # which choices do not tell, and the reward of the last step is known.
    behaviour, phi = torch.softmax(rewards, -1), indicator_features(states, 2)
    found: dict[str, float] = {}
    for name, episodes in (("few", 2_000), ("many", 2_000_000)):
        moves = draw_moves(behaviour, transitions, episodes, rng)
        fit = fitted(moves, phi, gamma=0.0)[1]
        fit[1] = rewards[1]
        best = float(optimal_plan(rewards, transitions)[0].amax(-1)[:TEMPTATIONS].mean())
        for label, beta in (("careful", 4.0), ("careless", 0.0)):
            plan = pessimistic_plan(fit, moves, phi, pessimism=beta, ridge=1.0)
            value = policy_values(greedy(plan.q), rewards, transitions)[:TEMPTATIONS].mean()
            found[f"{label}_{name}"] = best - float(value)
        if name == "few":
            found["gambles_seen"] = float(moves[0, :TEMPTATIONS, 1].sum() / TEMPTATIONS)
    return found


def myopia(seed: int) -> dict[str, float]:
    """Errors of the reward with the right gamma, and with the wrong ones (D5)."""
    found = {}
    for true in (0.0, 0.5, 1.0):
        task, rng = Task(seed, gamma=true), np.random.default_rng(seed)
        moves = task.moves(1_000_000, rng)
        errors = {gamma: rmse(fitted(moves, task.phi, gamma)[1], task.rewards) for gamma in (0.0, 0.5, 1.0)}
        right = errors.pop(true)
        found[f"right_{true:g}"] = right
        found[f"wrong_over_right_{true:g}"] = min(errors.values()) / right
    return found


def anchors(seed: int) -> dict[str, float]:
    """Without a known action: the same choices, another reward (D6); and the bound."""
    task, rng = Task(seed), np.random.default_rng(seed)
    moves = task.moves(100_000, rng)
    q, rewards = fitted(moves, task.phi)
    free_q, free_rewards = fitted(moves, task.phi, anchor=None)
    plan = pessimistic_plan(rewards, moves, task.phi, pessimism=8.0, ridge=1.0)
    policy, best = greedy(plan.q), greedy(optimal_plan(task.rewards, task.transitions))
    bound = 2.0 * float(policy_values(best, plan.penalty, task.transitions).mean())
    return {
        "choices_moved": float((torch.softmax(q, -1) - torch.softmax(free_q, -1)).abs().max()),
        "values_moved": float((q - anchored(free_q, 0)).abs().max()),
        "rewards_moved": rmse(rewards, free_rewards), "suboptimality": task.short(policy), "bound": bound,
    }  # fmt: skip


CLAIMS: Mapping[str, Claim] = {
    "rates": Claim(
        "D2: errors of Q and r fall with slopes in [-.6, -.4], 1,000 to a million choices (mean over seeds)",
        rates,
        lambda n: all(-0.6 <= n[key].mean() <= -0.4 for key in ("q_slope", "reward_slope")),
    ),
    "bounded_rationality": Claim(
        "D3: the plan is better than the people in at least 95 % of tasks after 10,000 choices",
        plans,
        lambda n: (n["dcppo"] < n["people"]).mean() >= 0.95,
    ),
    "pessimism": Claim(
        "D4: beta 4 is better than beta 0 where luck tempts, on average and strictly in 70 % of draws, and "
        "equal (1e-6) with much data",
        temptation,
        lambda n: (
            n["careful_few"].mean() <= n["careless_few"].mean()
            and (n["careful_few"] < n["careless_few"] - 1e-9).mean() >= 0.7
            and abs(n["careful_many"] - n["careless_many"]).max() <= 1e-6
        ),
    ),
    "myopia": Claim(
        "D5: with the right gamma the error of r is below .1, with a wrong one above three times that",
        myopia,
        lambda n: all(
            n[f"right_{g}"].max() < 0.1 and n[f"wrong_over_right_{g}"].min() > 3.0 for g in ("0", "0.5", "1")
        ),
    ),
    "anchor": Claim(
        "D6: without an anchor choices are the same (1e-4) and rewards are not; suboptimality is below "
        "2 E sum Gamma at beta 8",
        anchors,
        lambda n: (
            n["choices_moved"].max() <= 1e-4
            and n["rewards_moved"].min() > 0.1
            and (n["suboptimality"] <= n["bound"]).all()
        ),
    ),
}
"""Claims of dynamic choice by name."""

DRAWN = ("rates", "bounded_rationality", "pessimism")
"""Claims that the figure shows."""

PLANS = {"people": "people", "cloning": "behaviour cloning", "maxent_irl": "maximum entropy IRL",
         "likeliest_choice": "likeliest choice", "beta_0": "plan, no pessimism", "dcppo": "plan",
         "true_reward": "plan, true reward"}  # fmt: skip
"""Policies in the figure."""


def draw_choices(found: Mapping[str, Any], path: Path) -> None:
    """Draw errors against choices, what policies fall short of the best, and what pessimism saves.

    Args:
        found: what was measured, by claim, of :data:`DRAWN` at least.
        path: of the PNG.
    """
    rate, plan, luck = (found[name]["numbers"] for name in DRAWN)
    figure = Figure(figsize=(13.0, 3.8), layout="constrained")
    errors, short, saved = figure.subplots(1, 3)
    _draw_errors(errors, rate)
    for place, name in enumerate(PLANS):
        short.plot(plan[name], np.full(len(plan[name]), place), "|", color="C0", markersize=12.0, alpha=0.5)
        short.plot(np.median(plan[name]), place, "o", color="black", markersize=5.0)
    short.set(title="after 10,000 choices, each task", xlabel="return short of the best",
              yticks=range(len(PLANS)), yticklabels=list(PLANS.values()))  # fmt: skip
    worst = max(*luck["careless_few"], *luck["careful_few"])
    saved.plot([0.0, worst], [0.0, worst], color="0.6", linewidth=1.0)
    both = np.round([luck["careless_few"], luck["careful_few"]], 9)
    places, counts = np.unique(both, axis=1, return_counts=True)
    saved.scatter(*places, s=12.0 * counts, color="C2", alpha=0.7)
    saved.set(title="where luck tempts, areas: draws", xlabel="return short of the best, no pessimism",
              ylabel="return short of the best, pessimism")  # fmt: skip
    save_figure(figure, path)


def _draw_errors(axes: Axes, rate: Mapping[str, Any]) -> None:
    """Draw errors of Q and r against choices, with the slope that was asked."""
    for place, (name, label) in enumerate((("q_rmse", "Q"), ("reward_rmse", "r"))):
        curves = np.array([rate[f"{name}_{size}"] for size in SIZES])
        axes.plot(SIZES, curves, color=f"C{place}", linewidth=0.6, alpha=0.3)
        axes.plot(SIZES, np.exp(np.log(curves).mean(-1)), color=f"C{place}", linewidth=2.0, label=label)
    guide = np.array([SIZES[0], SIZES[-1]])
    axes.plot(guide, 5.0 / np.sqrt(guide), color="0.4", linestyle="--", label="slope -1/2")
    axes.set(title="errors, each task", xscale="log", yscale="log", xlabel="choices",
             ylabel="root mean squared error")  # fmt: skip
    axes.legend()
